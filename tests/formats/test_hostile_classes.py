"""Reading a hostile file takes no more time than reading a good one of its size takes, some times over, and ends.

Seen are ratios of up to 19; the bound leaves room for a busy machine. An index of 8,000 files took 77 times as long
when its reader went through all arrays for each file.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import MEMORY, SECONDS, Child, Subject
from hostile_classes import CROOKED, NAMED, PREFIXES
from hostile_subjects import SUBJECTS

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits are those of Linux")
RATIO = 40
SUFFIXES = {container: named.suffix for container, named in NAMED.items()} | {"keras": ".keras"}
LIKE = {"keras": "hdf5"}  # whose good file says how long reading may take


Reader = tuple[str, Child, float]


@pytest.fixture(scope="module", params=list(SUFFIXES))
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A process with limits, and how long it takes to read a good file, whose names are as long."""
    container = request.param
    folder = tmp_path_factory.mktemp("hostile") / "files"
    folder.mkdir()
    named = NAMED[LIKE.get(container, container)]
    good = named(folder / f"good{named.suffix}", "a")
    with Child(folder, MEMORY) as child:
        answers = [child.read(good) for _ in range(4)]
        assert all("failure" not in answer for answer in answers), answers
        yield container, child, min(answer["seconds"] for answer in answers[1:])


def assert_bounded(answer: dict[str, Any], good: float) -> None:
    assert "failure" not in answer, answer
    assert answer["seconds"] < RATIO * good


@pytest.mark.parametrize("prefix", PREFIXES)
def test_names_take_no_longer_than_plain_ones(prefix: str, reader: Reader) -> None:
    container, child, good = reader
    if container in NAMED:
        path = NAMED[container](child.folder / f"names{SUFFIXES[container]}", PREFIXES[prefix])
        assert_bounded(child.read(path), good)


def test_crooked_containers_take_no_longer_than_good_ones(reader: Reader) -> None:
    container, child, good = reader
    for what, made in CROOKED.get(container, {}).items():
        path = child.folder / f"crooked{SUFFIXES[container]}"
        path.write_bytes(made(path))
        answer = child.read(path)
        assert "failure" not in answer, (what, answer)
        assert answer["seconds"] < RATIO * good, what


def test_a_pipe_is_refused_and_not_waited_for(reader: Reader) -> None:
    container, child, _ = reader
    path = child.folder / f"pipe{SUFFIXES[container]}"
    os.mkfifo(path)
    assert "expected a file, got a pipe or a device" in child.read(path)["words"]


INTERRUPTED = ("safetensors", "onnx", "keras", "npz", "torch", "torch.jit", "rtneural", "checkpoint", "index")
PROGRAM = """
import signal, sys
from gru_xp import errors, files
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background would ignore
files.contents(sys.argv[1])
print("reading", flush=True)
while True:
    try:
        files.contents(sys.argv[1])
    except errors.GRUError:
        pass
"""


@pytest.mark.parametrize("subject", [each for each in SUBJECTS if each.name in INTERRUPTED], ids=lambda each: each.name)
def test_an_interrupt_ends_reading(subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / f"m{subject.suffix}"
    subject.good(path)
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline() == b"reading\n"
        process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert said.strip().endswith(b"KeyboardInterrupt")
