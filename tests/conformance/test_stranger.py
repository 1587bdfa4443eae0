"""The guide in backends/README.md is followed to the letter: its package, in an environment of its own, passes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```\w+ (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(*command: object, cwd: Path) -> str:
    """What the command prints; it has to succeed."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def files() -> dict[str, str]:
    """The files that the guide shows, by name."""
    return dict(BLOCK.findall((ROOT / "backends" / "README.md").read_text(encoding="utf-8")))


def test_the_package_is_under_40_lines() -> None:
    shown = files()
    assert set(shown) == {"pyproject.toml", "my_mlx.py"}
    assert sum(len(text.splitlines()) for text in shown.values()) < 40


def test_the_package_passes_in_an_environment_of_its_own(tmp_path: Path) -> None:
    stranger, venv = tmp_path / "my-mlx", tmp_path / "venv"
    stranger.mkdir()
    for name, text in files().items():
        (stranger / name).write_text(text, encoding="utf-8")
    run(sys.executable, "-m", "venv", venv, cwd=tmp_path)
    python = venv / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-m", "pip", "install", "-q", f"{ROOT}[conformance]", stranger, cwd=tmp_path)

    found = run(python, "-c", "from gru_xp.discovery import load; print(type(load('mlx')).__module__)", cwd=tmp_path)
    assert found.strip() == "my_mlx"  # and not the one that comes with gru_xp
    run(python, "-m", "gru_xp_conformance", "mlx", "--json", "mlx.json", cwd=tmp_path)
    result = json.loads((tmp_path / "mlx.json").read_text())
    assert result["passed"]
    assert {outcome["backend"] for outcome in result["outcomes"]} == {"mlx"}
    assert {outcome["dtype"] for outcome in result["outcomes"]} == {"float16", "bfloat16", "float32"}
