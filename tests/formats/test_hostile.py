"""Broken and hostile files, a sample of each kind; `python tests/support/hostile.py` runs all of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hostile import Child, Subject, assault
from hostile_subjects import SUBJECTS

import gru_xp


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits are those of Linux")
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_a_clear_error_or_a_correct_result(subject: Subject, tmp_path: Path) -> None:
    outcome = assault(subject, tmp_path)
    assert not outcome.failures, "\n".join(outcome.failures)
    assert outcome.refused > 0 and outcome.read > 0
    assert outcome.refused < outcome.files


PATCH = """
from gru_xp import files
read = files.contents
def contents(path):
    if path.stem == "bad":
       {}
    return read(path)
files.contents = contents
"""
READERS = {
    "dies": "import os; os.kill(os.getpid(), 11)",
    "is silent": "import time; time.sleep(999)",
    "takes memory": "bytearray(2**30)",
    "hides that it was given none": "try: bytearray(2**30)\nexcept MemoryError: raise ValueError",
    "runs a command": "import os; os.system('true')",
    "hides that it runs a command": "import os\ntry: os.system('true')\nexcept BaseException: pass",
    "reads the secret": "open(path.parent.parent / 'secret').close()",
    "writes elsewhere": "open(path.parent.parent / 'other', 'w').close()",
    "raises something else": "raise KeyError('x')",
}


@pytest.mark.parametrize("what", READERS)
def test_the_harness_sees_a_reader_that(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").touch()
    (tmp_path / "files").mkdir()
    good, bad = tmp_path / "files/good.safetensors", tmp_path / "files/bad.safetensors"
    gru_xp.GRU(2, 3).save(good)
    bad.write_bytes(good.read_bytes())
    first = PATCH.format(READERS[what].replace("\n", "\n       "))
    with Child(tmp_path / "files", 2**28, first) as child:
        assert "failure" not in child.read(good)
        with monkeypatch.context() as patch:
            if what == "is silent":  # the others may take as long as a reader that is started on a busy machine takes
                patch.setattr("hostile.SECONDS", 1)
            assert "failure" in child.read(bad)
        assert "failure" not in child.read(good)
