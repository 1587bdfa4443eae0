"""Whatever the entries of native code are called with, a call ends in an error of ours or in the right numbers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from gru_xp import CellParams, errors
from gru_xp.interfaces import Options
from gru_xp_cpu import numpy_layer
from gru_xp_cpu.calling.stream import Stream

CALLS = Path(__file__).parents[1] / "support" / "hostile_calls.py"


@pytest.mark.parametrize("library", ["numpy", "torch", "xla"])
def test_calls_with_wrong_arrays_and_records(library: str) -> None:
    """In a process of their own, because what reads behind an array may die of it."""
    if library == "torch":
        pytest.importorskip("torch")
    command = [sys.executable, "-X", "faulthandler", str(CALLS), library, "0", "0", "400"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    *_, last = done.stdout.splitlines() or [""]
    assert done.returncode == 0, f"call {last} of seed 0: {done.stderr[-3000:]}"
    endings = eval(last)
    assert min(endings["right"], endings["refused"]) > 80


class Liar(np.ndarray):
    """An array that says that it has no step, or single precision."""

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return 0, 2, 3

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        return np.dtype("f4")


@pytest.mark.parametrize(("shape", "dtype"), [((50, 2, 3), "f4"), ((1, 2, 3), "f4"), ((0, 2, 3), "f8")])
def test_a_layer_does_not_believe_a_subclass(shape: tuple[int, ...], dtype: Any) -> None:
    """Not even where everything else fits what the array really is."""
    h0, w = np.ones((2, 4), dtype), CellParams(np.ones((12, 3), dtype), np.ones((12, 4), dtype))
    x = np.ones(shape, dtype)
    _, _, tape = numpy_layer.forward(x, h0, w, Options(save="all"))
    numpy_layer.backward(tape, None, h0)  # as the plain array it is right
    liar = x.view(Liar)
    message = re.escape(
        f"Liar that says (0, 2, 3) of float32 and is {shape} of {np.dtype(dtype)}; pass numpy.asarray(x)"
    )
    for save in (None, "states", "all"):
        with pytest.raises(errors.ShapeError, match=f"^x: .*{message}"):
            numpy_layer.forward(liar, h0, w, Options(save=save))
    with pytest.raises(errors.ShapeError, match=rf"^tape\.x: .*{message}"):
        numpy_layer.backward(tape._replace(x=liar), None, h0)


@pytest.mark.parametrize("shape", [(3, 17, 1), (1, 17), (17,)])
def test_a_stream_does_not_believe_a_subclass(shape: tuple[int, ...]) -> None:
    """These would be broadcast, or fail as NumPy does."""

    class Liar(np.ndarray):
        @property
        def shape(self) -> tuple[int, ...]:  # type: ignore[override]
            return 3, 17

    stream = Stream(((CellParams(np.ones((12, 17)), np.ones((12, 4))),),), 3)
    with pytest.raises(errors.ShapeError, match=r"x: expected \(N, I\) = \(3, 17\), got"):
        stream.step(np.ones(shape).view(Liar))


@pytest.mark.parametrize("change", ["W_hh", "dtype", "result", "numbers"])
def test_xla_gives_other_buffers(change: str) -> None:
    """Whoever calls `ffi_call` names the shapes and the integers; XLA itself compares neither."""
    jax = pytest.importorskip("jax")
    from gru_xp_cpu.calling.xla import call
    from gru_xp_cpu.passes.fields import STEP
    from gru_xp_jax.cpu import _target

    names = ["x", "h0", *CellParams._fields[:2], "y", "h_n"]
    shapes = [(5, 2, 3), (2, 4), (12, 3), (12, 4)]
    numbers = call("forward", "float32", (5, 2, 3, 4), (0, 5, 0, STEP), names)
    results = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((5, 2, 4), (2, 4))]
    arrays = [jax.numpy.ones(shape, "float32") for shape in shapes]
    y, h_n = jax.ffi.ffi_call(_target("forward", "float32"), results)(*arrays, numbers=numbers)
    np.testing.assert_array_equal(y[-1], h_n)
    if change == "W_hh":
        arrays[3] = arrays[3][:3]
    elif change == "dtype":
        arrays[0] = arrays[0].astype("bfloat16")
    elif change == "result":
        results[0] = jax.ShapeDtypeStruct((1, 2, 4), "float32")
    else:
        numbers = numbers[:-1]
    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID_ARGUMENT: gru_xp: the buffers of this custom call"):
        jax.ffi.ffi_call(_target("forward", "float32"), results)(*arrays, numbers=numbers)
