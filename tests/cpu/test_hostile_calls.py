"""Whatever the entries of native code are called with, a call ends in an error of ours or in the right numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from gru_xp import CellParams, errors
from gru_xp_cpu.calling.stream import Stream

CALLS = Path(__file__).parents[1] / "support" / "hostile_calls.py"


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_calls_with_wrong_arrays_and_records(library: str) -> None:
    """In a process of their own, because what reads behind an array may die of it."""
    pytest.importorskip(library)
    command = [sys.executable, "-X", "faulthandler", str(CALLS), library, "0", "0", "400"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    *_, last = done.stdout.splitlines() or [""]
    assert done.returncode == 0, f"call {last} of seed 0: {done.stderr[-3000:]}"
    endings = eval(last)
    assert min(endings["right"], endings["refused"]) > 80


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
