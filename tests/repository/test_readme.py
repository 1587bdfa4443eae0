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
DEMO, TEST = (text.strip() for language, text in BLOCKS if language == "bash" and "pip install" in text)


def test_every_block_says_what_it_is() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "bash"}


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Python in one namespace, shell in the same folder; the two that install are for `.ci/run`."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "readme"}
    for language, text in BLOCKS:
        if language == "python" and text.startswith("# app.py"):
            (tmp_path / "app.py").write_text(text)
        elif language == "python":
            exec(compile(text, "README.md", "exec"), names)
        elif text.strip() not in (DEMO, TEST):
            said = shell(text, tmp_path)
            if "app.py" in text:
                assert said.strip() == "computed by torch:cpu, came back as <class 'numpy.ndarray'>"
    assert (tmp_path / "y.npy").exists() and (tmp_path / "h_n.npy").exists()
    promised = re.search(r"print\(error\)  # (.*)", README)
    assert promised is not None and promised[1] in capsys.readouterr().out


def shell(text: str, folder: Path) -> str:
    """Run it with this environment's `python` and `gru-xp`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_training_by_hand_learns() -> None:
    block = next(text for language, text in BLOCKS if "d_read" in text)
    names: dict[str, Any] = {}
    exec("import numpy as np, gru_xp\nrng = np.random.default_rng(0)\n" + block, names)
    assert names["loss"] < 0.2 * float((names["x"].mean(axis=0) ** 2).mean())


def test_ci_runs_the_test_command() -> None:
    assert TEST == "python -m pip install -e '.[test]' && python -m pytest -n auto --dist worksteal"
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace("install -q ", "install ")
    install, tests = TEST.split(" && ")
    assert script.index(install) < script.index(tests)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_support_table_has_its_place() -> None:
    assert README.count("<!-- support:begin -->") == README.count("<!-- support:end -->") == 1
