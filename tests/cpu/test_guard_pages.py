"""Kernels touch no byte beside an array: each lies flush against a page that kills who touches it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("llvmlite")
pytest.importorskip("typer")  # of the conformance suite

from as_xla import called_as_by_xla
from subprocesses import run_file

from gru_xp.interfaces import Options
from gru_xp.params import CellParams
from gru_xp_conformance.guard import Side, guarded
from gru_xp_cpu import numpy_layer
from gru_xp_cpu.passes.fields import ARRAYS, GATES, STATES, STEP

SIZES = [(1, 1, 1, 1), (3, 2, 5, 7), (4, 9, 17, 33), (1, 3, 8, 16), (5, 40, 3, 48)]
SIDES: tuple[Side, ...] = ("before", "behind")


def assert_xla_is_numpy(side: Side, dtype: str) -> None:
    rng = np.random.default_rng(0)
    for T, N, I, H in SIZES:
        shapes = {
            "x": (T, N, I),
            "h0": (N, H),
            "W_ih": (3 * H, I),
            "W_hh": (3 * H, H),
            "b_ih": (3 * H,),
            "b_hh": (3 * H,),
        }
        arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
        valid = rng.random((T, N)) < 0.7
        dy, dh_n = rng.standard_normal((T, N, H)).astype(dtype), rng.standard_normal((N, H)).astype(dtype)
        w = CellParams(*(arrays[name] for name in CellParams._fields))
        options = Options(valid=valid, save="all")
        y, h_n, tape = numpy_layer.forward(arrays["x"], arrays["h0"], w, options)
        dx, dh0, dw = numpy_layer.backward(tape, dy, dh_n)
        with guarded(side):
            given = {name: np.array(a) for name, a in (*arrays.items(), ("valid", valid))}
            made = {"y": np.empty_like(y), "h_n": np.empty_like(h_n), "x_clean": np.empty_like(arrays["x"])}
            made |= {name: np.empty_like(y) for name in ("h_prev", "r", "z", "n", "u")}
        assert not called_as_by_xla("forward", (T, N, I, H), (0, T, 0, STEP + STATES + GATES), given, made)
        for name, want in (("y", y), ("h_n", h_n), *zip(tape._fields[1:6], tape[1:6], strict=True)):
            np.testing.assert_array_equal(made[name], want, err_msg=name)
        saved = dict(zip(tape._fields[:6], tape[:6], strict=True))
        with guarded(side):
            given = {name: np.array(a) for name, a in (*saved.items(), *dict(zip(w._fields, w, strict=True)).items())}
            given |= {"dy": np.array(dy), "dh_n": np.array(dh_n), "valid": np.array(valid)}
            gradients = dict(zip(("dx", "dh0", "dW_ih", "dW_hh", "db_ih", "db_hh"), (dx, dh0, *dw), strict=True))
            made = {name: np.empty_like(a) for name, a in gradients.items()}
        assert not called_as_by_xla("backward", (T, N, I, H), (0, T, 0, H, N * H), given, made)
        for name, want in gradients.items():
            np.testing.assert_array_equal(made[name], want, err_msg=name)
    assert {"x", "y"} < set(ARRAYS["forward"])


def widths() -> list[int]:
    from gru_xp_cpu.emit.target import widths

    return list(widths())


@pytest.mark.skipif(sys.platform == "win32", reason="guard pages are made with mmap and mprotect")
@pytest.mark.parametrize("width", widths())
@pytest.mark.parametrize("side", SIDES)
def test_the_custom_call_of_xla(side: Side, width: int) -> None:
    """On buffers of ours, because XLA copies what it is given."""
    run_file(__file__, side, GRU_XP_CPU_WIDTH=str(width), GRU_XP_NUM_THREADS="2")


OUTSIDE = """
import sys
import numpy as np
from gru_xp_conformance.guard import guarded
with guarded(sys.argv[1]):
    kept = np.arange(12, dtype=np.float32).reshape(3, 4)
start, end = kept.ctypes.data, kept.ctypes.data + kept.nbytes
import ctypes
print(kept.sum(), flush=True)
if len(sys.argv) > 2:
    ctypes.string_at(start - 1 if sys.argv[1] == "before" else end, 1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="guard pages are made with mmap and mprotect")
@pytest.mark.parametrize("side", SIDES)
def test_one_byte_too_many_is_death(side: Side) -> None:
    for more, killed in (([], False), (["touch"], True)):
        done = subprocess.run([sys.executable, "-c", OUTSIDE, side, *more], capture_output=True, text=True, check=False)
        assert done.stdout == "66.0\n" and (done.returncode < 0) == killed, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="guard pages are made with mmap and mprotect")
def test_the_conformance_suite_with_guard_pages() -> None:
    """The quick subset here; .ci/full runs all of it, on both sides, at each width."""
    for row, side, status in (("numpy:cpu cpu", "behind", 0), ("torch:cpu cpu", "before", 0), ("numpy", "above", 2)):
        if row.startswith("torch"):
            pytest.importorskip("torch")
        command = [sys.executable, "-m", "gru_xp_conformance", row, "--quick", "--guard-pages", side]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr[-3000:]


if __name__ == "__main__":
    for dtype in ("float32", "float64"):
        assert_xla_is_numpy(sys.argv[1], dtype)  # type: ignore[arg-type]
