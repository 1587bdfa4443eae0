"""Whatever the entries of native code are called with, a call ends in an error of ours or in the right numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("llvmlite")

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
