"""The README does what it says: every block of code in it runs, in the order in which it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
DEMO, TEST, SITE = (text.strip() for language, text in BLOCKS if language == "bash" and "pip install" in text)


def test_every_block_says_what_it_is() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "bash", "text"}


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python in one namespace, shell in the same folder; those that install are for `.ci/run`."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "readme"}
    for language, text in BLOCKS:
        if language == "python":
            exec(compile(text, "README.md", "exec"), names)
        elif language == "bash" and "pip install" not in text:
            shell(text, tmp_path)
    assert (tmp_path / "y.npy").exists() and (tmp_path / "small_gru.py").exists()


def test_the_demo_prints_what_the_page_shows(tmp_path: Path) -> None:
    """Its last table: the headings, and the row of NumPy with the accuracy and an error of rounding."""
    said = shell(f"COLUMNS=80 gru-xp demo --out {tmp_path}", tmp_path)
    (shown,) = (text for language, text in BLOCKS if language == "text")
    headings = [{*re.findall(r"\w+", " ".join(re.findall("┃.*┃", text)))} for text in (shown, said)]
    assert headings[0] == headings[1]
    rows = [re.search(r"│ numpy .*│", text) for text in (shown, said)]
    cells = [[cell.strip() for cell in row[0].strip("│").split("│")] for row in rows if row is not None]
    assert len(cells) == 2 and cells[0][:4] == cells[1][:4]
    assert all(float(row[4]) < 2e-6 for row in cells)


def shell(text: str, folder: Path) -> str:
    """Run it with this environment's `python` and `gru-xp`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ci_runs_the_test_command() -> None:
    assert TEST == "python -m pip install -e '.[test]' && python -m pytest -n auto --dist worksteal"
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace("install -q ", "install ")
    install, tests = TEST.split(" && ")
    assert script.index(install) < script.index(tests)
    install, site = SITE.split(" && ")
    assert script.index(install.removeprefix("python")) < script.index("-W --keep-going -b html docs")
    assert site == "python -m sphinx -W -b html docs build/site"


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_support_table_has_its_place() -> None:
    assert README.count("<!-- support:begin -->") == README.count("<!-- support:end -->") == 1
