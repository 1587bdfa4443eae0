"""Environment variables for a while, and what a report has to say of the machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import gru_xp
from gru_xp.discovery import load

__all__ = ["describe", "variables"]

#: variables that change numbers or who computes them
VARIABLES = (
    "GRU_XP_REQUIRE",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_PLATFORMS",
    "XLA_FLAGS",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUPY_TF32",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


@contextmanager
def variables(**values: str | None) -> Iterator[None]:
    """Environment variables for a while; None takes one away."""
    before = {name: os.environ.get(name) for name in values}

    def put(settings: dict[str, str | None]) -> None:
        for name, value in settings.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    put(values)
    try:
        yield
    finally:
        put(before)


def describe(names: Iterable[str]) -> dict[str, Any]:
    """Versions, processor, devices, driver, precision modes, commit: names and values, all of them text."""
    names = tuple(dict.fromkeys(["numpy", *names]))
    modes = {name: load(name).modes() for name in names}
    return {
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "gru_xp": gru_xp.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "driver": driver(),
        "versions": {name: version_of(name) for name in ("array_api_compat", *names)},
        "devices": {name: ", ".join(load(name).devices()) for name in names},
        "modes": {name: told for name, told in modes.items() if told},
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def version_of(module: str) -> str:
    """The version of the distribution that a root module comes from."""
    try:
        return version(packages_distributions().get(module, [module])[0])
    except PackageNotFoundError:
        return "unknown"


def processor() -> str:
    """The processor's name as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def driver() -> str:
    """The NVIDIA cards and their driver, if there are any."""
    return _told("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").replace("\n", "; ") or "none"


def commit() -> str:
    """The commit of the checkout that the suite stands in, with a + where files differ from it."""
    here = Path(__file__).parent
    found = _told("git", "-C", str(here), "rev-parse", "--short=12", "HEAD")
    if not found:
        return "not a checkout"
    return found + ("+" if _told("git", "-C", str(here), "status", "--porcelain", "--untracked-files=no") else "")


def _told(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
