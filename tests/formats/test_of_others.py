"""A format that another package brings: found, asked and named like our own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gru_xp
from gru_xp import errors, files

PACKAGE = """
from gru_xp import files

class Turned(files.Format):
    name, title, suffixes = "turned", "ours, backwards (.turned)", (".turned",)

    def read(self, path):
        other = path.with_suffix(".safetensors")
        other.write_bytes(path.read_bytes()[::-1])
        return files.contents(other)

turned = Turned()
"""


def test_a_format_of_another_package_is_found(tmp_path: Path) -> None:
    info = tmp_path / "turned-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: turned\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[gru_xp.formats]\nturned = turned:turned\n")
    (tmp_path / "turned.py").write_text(PACKAGE)
    gru_xp.GRU(3, 4, seed=0).save(tmp_path / "m.safetensors")
    (tmp_path / "m.turned").write_bytes((tmp_path / "m.safetensors").read_bytes()[::-1])
    settings = os.environ | {"PYTHONPATH": str(tmp_path)}
    for arguments, words in (
        (("inspect", "m.turned"), "m.turned (turned)"),
        (("convert", "m.turned", "out.npz"), "exact: all of it"),
        (("convert", "m.safetensors", "out.turned"), "error: out.turned: turned cannot be written to files"),
    ):
        command = [sys.executable, "-c", "from gru_xp.cli import app; app()", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)
        assert words in done.stdout + done.stderr, done.stderr


def test_methods_that_a_format_lacks_refuse() -> None:
    nothing = files.Format()
    nothing.name = "nothing"
    path = Path("m.nothing")
    for call in (lambda: nothing.read(path), lambda: nothing.adopt(path)):
        with pytest.raises(errors.ConversionError, match="nothing"):
            call()
    assert not nothing.recognises(path, b"") and not nothing.adopts(path)
