"""Processes in which no machine code can be made or run: the plain path computes, and `explain` says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("llvmlite")

EVERYTHING = """
import numpy as np, gru_xp
rng = np.random.default_rng(0)
x, h0, *w = (rng.standard_normal(s) for s in ((5, 2, 3), (1, 2, 4), (12, 3), (12, 4), (12,), (12,)))
params = ((gru_xp.CellParams(*w),),)
y, h_n, tape = gru_xp.gru_forward(x, params, h0)
grads = gru_xp.gru_backward(tape, y)
model = gru_xp.GRU.from_params(params)
step, _ = model.step(x[0], h0)
np.testing.assert_allclose(model(x, h0)[0], y)
np.testing.assert_allclose(step, y[0])
print(repr([float((a * a).sum()) for a in (y, h_n, grads.x, grads.h0, *grads.params[0][0])]))
print(gru_xp.explain(x, params))
"""


def run(preparation: str, **variables: str) -> tuple[list[float], str]:
    """The results' sums of squares, and the explanation."""
    done = subprocess.run(
        [sys.executable, "-c", preparation + EVERYTHING],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    sums, _, explanation = done.stdout.partition("\n")
    return eval(sums), explanation


def assert_plain(preparation: str, reason: str, **variables: str) -> None:
    expected, explanation = run("")
    assert explanation.startswith("kernel cpu")
    got, explanation = run(preparation, **variables)
    assert not explanation.startswith("kernel cpu")
    assert f"not cpu (layer): {reason}" in explanation
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.skipif(sys.platform != "linux", reason="a flag of Linux's")
def test_memory_that_may_not_become_executable() -> None:
    """As under systemd's MemoryDenyWriteExecute: where the code was run nevertheless, the process died."""
    can = subprocess.run([sys.executable, "-c", f"{DENY}\nassert not denied"], check=False, stderr=subprocess.DEVNULL)
    if can.returncode:
        pytest.skip("this Linux is older than 6.3")
    assert_plain(DENY, "memory may not become executable in this process")


DENY = """
import ctypes
denied = ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE
"""


def test_a_library_that_is_there_and_cannot_be_loaded(tmp_path: Path) -> None:
    """As one for another C library, or one that a program was packed without."""
    (tmp_path / "llvmlite").mkdir()
    (tmp_path / "llvmlite" / "__init__.py").write_text("__version__ = '0'\n")
    (tmp_path / "llvmlite" / "binding.py").write_text("raise OSError('Could not find/load shared object file')\n")
    reason = "llvmlite cannot be loaded (OSError: Could not find/load shared object file)"
    assert_plain("", reason, PYTHONPATH=str(tmp_path))


def test_a_layout_of_python_that_is_not_known() -> None:
    """As on 32 bits, where a word is never the integer of 64 bits that is looked for."""
    assert_plain("import ctypes; ctypes.c_int64 = ctypes.c_int32\n", "how Python's tuples lie in memory is not known")


def test_another_implementation_of_python() -> None:
    """Whose objects are nowhere that could be read."""
    preparation = "import sys, gru_xp; sys.implementation.name = 'pypy'\n"
    assert_plain(preparation, "how pypy keeps its objects is not known")


def test_without_the_library() -> None:
    assert_plain("import sys; sys.modules['llvmlite'] = None\n", "llvmlite is not installed")
