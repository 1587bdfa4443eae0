"""Programs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def run_file(file: str, *arguments: str, **variables: str) -> None:
    """Run a test module as a script with these variables; it may import what is beside this file."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), **variables}
    subprocess.run([sys.executable, "-X", "faulthandler", file, *arguments], check=True, timeout=120, env=environment)


def on_two_devices(code: str) -> list[str]:
    """What a JAX program prints that has two devices."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()
