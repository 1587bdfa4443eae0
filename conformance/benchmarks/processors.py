"""On what a benchmark was run, and the place of its results: a file for each kind of processor."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gru_xp_conformance.environment import commit, processor

__all__ = ["PACKAGES", "RESULTS", "kind_of_processor", "measured_on", "result_file", "write_result"]

PACKAGES = ("numpy", "torch", "jax", "onnxruntime", "openvino", "llvmlite")
RESULTS = Path(__file__).parent.parent / "results"


def kind_of_processor() -> str:
    """A name for a file, by the vendor's numbers: names are often missing or wrong in virtual machines.

    Family and model of x86, implementer and part of ARM: "intel-6-207", "amd-26-2", "arm-0x41-0xd40".
    """
    cpuinfo, found = Path("/proc/cpuinfo"), dict[str, str]()
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    vendor = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}.get(found.get("vendor_id", ""))
    if vendor:
        return f"{vendor}-{found['cpu family']}-{found['model']}"
    if "CPU implementer" in found:
        return f"arm-{found['CPU implementer']}-{found['CPU part']}"
    return re.sub("[^a-z0-9]+", "-", processor().lower()).strip("-")


def result_file(benchmark: str) -> Path:
    """Where the results of this machine's processor belong."""
    return RESULTS / benchmark / f"{kind_of_processor()}.json"


def write_result(path: Path, found: Any) -> None:
    """Keep what was measured; the folder is made at the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def caches() -> list[str]:
    """The caches of the first core, the nearest first; empty where the system does not say."""
    folders = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    sizes = []
    for folder in folders:
        with contextlib.suppress(OSError):
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                sizes.append(f"L{level} {size}")
    return sizes


def measured_on() -> dict[str, Any]:
    """The machine, the versions, the commit and the date."""
    cpuinfo = Path("/proc/cpuinfo")
    words = cpuinfo.read_text().split() if cpuinfo.exists() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {
        "kind": kind_of_processor(),
        "processor": processor(),
        "vectors": next((name for name in ("avx512f", "avx2", "asimd") if name in words), "?"),
        "caches": caches(),
        "cores": cores,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
