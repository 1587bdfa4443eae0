"""CuPy's backend where there is neither CuPy nor a GPU: over a stand-in, in a process where that is CuPy."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import cuda_on_host
import pytest

SUPPORT = Path(cuda_on_host.__file__).parent


@pytest.mark.skipif(cuda_on_host.MISSING is not None, reason=str(cuda_on_host.MISSING))
def test_the_backend_and_its_gates_over_a_stand_in() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (SUPPORT / "cuda_stand_in", SUPPORT)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SUPPORT / "cuda_cupy_cases.py")]
    done = subprocess.run(command, cwd=SUPPORT.parents[1], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_cupy_has_what_is_asked_of_it() -> None:
    """The stand-in cannot tell."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed here; its stand-in is tested")
    for name in ("Device", "Stream", "get_current_stream", "runtime"):
        assert hasattr(cupy.cuda, name)
    for name in ("getDeviceCount", "CUDARuntimeError", "is_hip", "runtimeGetVersion", "driverGetVersion"):
        assert hasattr(cupy.cuda.runtime, name)
    for name in ("record", "wait_event"):
        assert hasattr(cupy.cuda.Stream, name)
    for name in ("data", "device", "copy", "__dlpack__", "__dlpack_device__"):
        assert hasattr(cupy.ndarray, name)
    for name, parameter in (("array", "blocking"), ("asnumpy", "order"), ("empty", "dtype"), ("asarray", "dtype")):
        assert parameter in inspect.signature(getattr(cupy, name)).parameters
    assert callable(cupy.from_dlpack) and callable(cupy.ascontiguousarray)
