"""Broken and hostile model files: each is read to a clear error or a correct result, in bounded time and memory.

    python tests/support/hostile.py [subject ...]  all: every 1 % cut off, 2,000 flips, 2,000 bursts, every attack

Subjects stand in `hostile_subjects.py`. A child process reads the files one after the other, under a limit of memory
and watched by an audit hook; a child that dies, stays silent or breaks a rule is a failure that names the file, which
is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SECONDS = 20  # for one file
MEMORY = 256 * 2**20  # more than what reading the good file takes
FULL, SAMPLE = (100, 2000), (20, 60)  # cuts; flips and bursts


@dataclass(frozen=True)
class Subject:
    """A format, a good file of it, and files that somebody made to do harm.

    A subclass writes the good file, small so that most of its bytes are structure, and the attacks, each of which has
    to end in a `GRUError`. Nothing may write outside `folder` or read `folder.parent / "secret"`.
    """

    name: str
    suffix: str
    extra_memory: int = 0  # for readers that need more, with a comment that says why

    def good(self, path: Path) -> None:
        raise NotImplementedError

    def attacks(self, folder: Path, good: bytes) -> Iterator[tuple[str, Path]]:
        """Written into `folder`, one after the other: what it tries, and the file to read."""
        yield from ()

    def burdens(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """Like `attacks`, but of files that may be read: they ask for more work than their size lets expect."""
        yield from ()


@dataclass
class Outcome:
    """What became of all files of a subject."""

    files: int = 0
    refused: int = 0
    read: int = 0
    failures: list[str] = field(default_factory=list)


def assault(subject: Subject, folder: Path, size: tuple[int, int] = SAMPLE, seed: int = 0) -> Outcome:
    """Read every mutation of the good file and every attack, in a child process."""
    outcome = Outcome()
    secret, inside = folder / "secret", folder / "files"
    secret.write_bytes(os.urandom(4096))
    inside.mkdir()
    path = inside / f"good{subject.suffix}"
    subject.good(path)
    good = path.read_bytes()
    with Child(inside, MEMORY + subject.extra_memory) as child:
        whole = child.read(path)
        assert whole.get("grus") and not whole.get("refused"), f"{subject.name}: the good file: {whole}"
        for what, file, kind in _files(subject, inside, good, size, seed):
            answer = child.read(file)
            outcome.files += 1
            outcome.refused += "error" in answer or bool(answer.get("refused"))
            outcome.read += bool(answer.get("grus"))
            wrong = _wrong(kind, answer, whole)
            if wrong:
                kept = folder / f"failure_{len(outcome.failures)}{subject.suffix}"
                kept.write_bytes(file.read_bytes())
                outcome.failures.append(f"{subject.name}: {what}: {wrong} (kept as {kept})")
    return outcome


def _files(
    subject: Subject, folder: Path, good: bytes, size: tuple[int, int], seed: int
) -> Iterator[tuple[str, Path, str]]:
    """All files, one after the other: what was done, where it is, and the kind of it."""
    cuts, count = size
    rng = np.random.default_rng(seed)
    path = folder / f"broken{subject.suffix}"
    for index in range(cuts):
        length = len(good) * index // cuts
        path.write_bytes(good[:length])
        yield f"cut to {length} of {len(good)} bytes", path, "cut"
    for _ in range(count):
        at, bit = int(rng.integers(len(good))), int(rng.integers(8))
        broken = bytearray(good)
        broken[at] ^= 1 << bit
        path.write_bytes(broken)
        yield f"bit {bit} of byte {at} flipped", path, "flip"
    for _ in range(count):
        length = int(rng.integers(1, 17))
        at = int(rng.integers(max(1, len(good) - length)))
        burst = rng.bytes(length) if rng.random() < 0.5 else bytes([rng.choice([0x00, 0x7F, 0x80, 0xFF])]) * length
        path.write_bytes(good[:at] + burst + good[at + length :])
        yield f"bytes {at}.. became {burst.hex()}", path, "burst"
    for what, file in subject.attacks(folder, good):
        yield what, file, "attack"
    for what, file in subject.burdens(folder):
        yield what, file, "burden"


def _wrong(kind: str, answer: dict[str, Any], whole: dict[str, Any]) -> str | None:
    """Why an answer is not what it should be."""
    if "failure" in answer:
        return str(answer["failure"])
    if "error" in answer:
        return None if answer["words"].strip() else "an error without words"
    if kind == "cut" and any(gru not in whole["grus"] for gru in answer["grus"]):
        return f"a part of the file was read as another model: {answer['grus']}"
    if kind == "attack" and answer["grus"]:
        return f"was read: {answer['grus']}"
    return None


# ---- the child -------------------------------------------------------------------------------------------------------


class Child:
    """A process that reads files; it is started again after it has died. `first` is code that it runs before."""

    def __init__(self, folder: Path, memory: int, first: str = ""):
        self.folder, self.memory, self.first = folder, memory, first
        self.process: subprocess.Popen[bytes] | None = None
        self.good: Path | None = None  # the first file that is read, and read again by a child in the place of another

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def read(self, path: Path) -> dict[str, Any]:
        """What reading the file gave: `grus` and `refused`, or `error` and `words`, or `failure`."""
        if self.process is None:
            self._start()
            if self.good is not None:
                self._answer(self.good)
        self.good = self.good or path
        return self._answer(path)

    def _answer(self, path: Path) -> dict[str, Any]:
        assert self.process and self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{path}\n".encode())
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        line = self.process.stdout.readline() if ready else b""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        ended = self._end()
        return {"failure": f"the reader died ({ended})" if ready else f"no answer after {SECONDS} s"}

    def _start(self) -> None:
        program = (
            f"{self.first}\nimport hostile, pathlib\nhostile.serve(pathlib.Path({str(self.folder)!r}), {self.memory})"
        )
        command = [sys.executable, "-c", program]
        settings = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=settings)

    def _end(self) -> str:
        if self.process is None:
            return "never started"
        self.process.kill() if self.process.poll() is None else None
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        self.process = None
        return f"exit status {code}"


FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "ctypes.dlopen")


class Violation(BaseException):
    """What a reader of files must never do. No `except Exception` hides it, and it is remembered."""


def serve(folder: Path, memory: int) -> None:
    """In the child: answer one line for each path that comes. The first file is a good one and is read unwatched."""
    import gru_xp  # noqa: F401 - before the limit
    from gru_xp import files
    from gru_xp.formats.hdf5.file import COMMAND

    violations: list[str] = []
    secret = str(folder.parent / "secret")
    watching = False

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching:
            return
        broken = event in FORBIDDEN and not (event == "subprocess.Popen" and arguments[1] == COMMAND)  # h5py, apart
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            broken = path == secret or (_writes(arguments) and not path.startswith((str(folder), "/dev/null")))
        if broken:
            violations.append(f"{event} {arguments[:2]}")
            raise Violation(violations[-1])

    sys.addaudithook(watch)
    files.formats()
    for line in sys.stdin:
        violations.clear()
        began = time.process_time()
        try:
            answer = _read(Path(line.rstrip("\n")), files)
        except MemoryError:
            answer = {"failure": f"asked for more than {memory >> 20} MiB"}
        except BaseException as error:
            answer = {"failure": f"{type(error).__module__}.{type(error).__qualname__}: {error}"}
        if violations:
            answer = {"failure": f"did what no reader may do: {violations[0]}"}
        print(json.dumps(answer | {"seconds": time.process_time() - began}), flush=True)
        if not watching:  # the good file has brought in all libraries
            watching = True
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _read(path: Path, files: Any) -> dict[str, Any]:
    from gru_xp.errors import GRUError
    from gru_xp.loading import as_model
    from gru_xp.selection import place_for, selection

    place = place_for(selection("numpy"), None)
    try:
        found = files.contents(path)
        for gru in found.grus:
            if gru.dtype != "bfloat16":
                as_model(gru, place)
        if not found.grus:
            files.pick(found, None, str(path))
    except GRUError as error:
        return {"error": type(error).__name__, "words": str(error)}
    return {
        "grus": [[gru.name, str(gru.spec), gru.dtype, gru.batch_first, _digest(gru)] for gru in found.grus],
        "refused": [[refusal.name, refusal.reason] for refusal in found.refused],
    }


def _digest(gru: Any) -> str:
    arrays = [array for layer in gru.params for w in layer for array in w if array is not None]
    return hashlib.sha256(b"".join(repr(a.shape).encode() + a.tobytes() for a in arrays)).hexdigest()


# ---- all of it -------------------------------------------------------------------------------------------------------


def main() -> None:
    """The full run; exit status 1 if anything fails."""
    from hostile_subjects import SUBJECTS

    known = {subject.name: subject for subject in SUBJECTS}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", metavar="subject", help=f"{', '.join(known)}; all, if none is named")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    failures = []
    for name in chosen.subjects or known:
        folder = Path(tempfile.mkdtemp(prefix=f"hostile_{name}_"))
        began = time.monotonic()
        outcome = assault(known[name], folder, FULL, chosen.seed)
        print(
            f"{name}: {outcome.files} files in {time.monotonic() - began:.0f} s, {outcome.refused} refused, "
            f"{outcome.read} read, {len(outcome.failures)} failures",
            flush=True,
        )
        failures += outcome.failures
    print("\n".join(failures))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
