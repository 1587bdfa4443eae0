"""How many threads the fused CPU kernels use: variables, the context, threadpoolctl."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.errors import RangeError, StructureError, VariableError

pytest.importorskip("llvmlite")

from gru_xp_cpu.threads import count
from gru_xp_cpu.threads.count import thread_count
from gru_xp_cpu.threads.shared import MOST

CORES = max(1, min(count._cores(), count._quota()))


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRU_XP_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("ours", "openmps", "wanted"),
    [
        (None, None, CORES),
        (None, "3", 3),
        ("5", "3", 5),
        ("", "3", 3),
        (None, "4,2", 4),
        (None, " 7 , 1 ", 7),
        (None, "+6", 6),
        (None, "007", 7),
        (None, "1000", 64),
        *((None, ignored, CORES) for ignored in ("", "0", "-1", "many", "2,many", "2,", "2,0", "1e3", "9" * 30, "٣")),
    ],
)
def test_the_variables(ours: str | None, openmps: str | None, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenMP ignores in its variable is ignored, by GNU's documentation and libgomp 13's warnings."""
    for name, text in (("GRU_XP_NUM_THREADS", ours), ("OMP_NUM_THREADS", openmps)):
        if text is not None:
            monkeypatch.setenv(name, text)
    assert thread_count() == wanted


def test_a_wrong_number_of_ours_is_an_error_whatever_openmp_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_XP_NUM_THREADS", "4,2")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with pytest.raises(VariableError, match="GRU_XP_NUM_THREADS: expected a number from 1 to 64, got '4,2'"):
        thread_count()


@pytest.mark.parametrize("text", ["many", "0", "65", "-1", "\N{ARABIC-INDIC DIGIT THREE}", "9" * 5000])
def test_a_number_of_ours_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_XP_NUM_THREADS", text)
    with pytest.raises(VariableError, match="GRU_XP_NUM_THREADS: expected a number"):
        gru_xp.GRU(64, 128, seed=0)(np.zeros((50, 4, 64), np.float32))


VERSION_1 = {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/cpu.max": "250000 100000\n"}, 2),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"}, 1),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/cpu.max": "max 100000\n"}, MOST),
        ({"/proc/self/cgroup": "3:cpu,cpuacct:/\n", **VERSION_1}, 2),
        ({"/proc/self/cgroup": "3:cpu,cpuacct:/\n0::/\n", **VERSION_1}, 2),
        ({"/proc/self/cgroup": "3:cpu,cpuacct:/\n"}, MOST),
        ({}, MOST),
    ],
)
def test_the_cores_that_a_control_group_grants(
    files: dict[str, str], cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Files(PurePosixPath):
        def read_text(self) -> str:
            if str(self) not in files:
                raise FileNotFoundError(str(self))
            return files[str(self)]

    monkeypatch.setattr(count, "Path", Files)
    assert count._quota.__wrapped__() == cores


def test_the_context_comes_first_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_XP_NUM_THREADS", "5")
    with gru_xp.num_threads(3):
        with gru_xp.num_threads(np.int64(2)):  # type: ignore[arg-type]
            assert thread_count() == 2
        assert thread_count() == 3
    with pytest.raises(KeyError), gru_xp.num_threads(7):
        raise KeyError
    assert thread_count() == 5


@pytest.mark.parametrize(
    ("n", "error", "words"),
    [
        (0, RangeError, "n: expected a number of threads from 1 to 64, got 0"),
        (65, RangeError, "got 65"),
        (2.0, StructureError, "n: expected an integer, got float 2.0"),
        ("2", StructureError, "n: expected an integer, got str '2'"),
        (None, StructureError, "n: expected an integer, got NoneType None"),
    ],
)
def test_what_is_no_number_of_threads(n: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words), gru_xp.num_threads(n):
        pass


def test_other_threads_and_tasks_have_contexts_of_their_own() -> None:
    seen: dict[str, int] = {}

    async def task(name: str, n: int) -> None:
        with gru_xp.num_threads(n):
            await asyncio.sleep(0.01)
            seen[name] = thread_count()

    async def both() -> None:
        await asyncio.gather(task("a", 11), task("b", 12))

    asyncio.run(both())
    with gru_xp.num_threads(13):
        thread = threading.Thread(target=lambda: seen.update(c=thread_count()))
        thread.start()
        thread.join()
    assert seen == {"a": 11, "b": 12, "c": CORES}


# ---- what computes --------------------------------------------------------------------------------------------------

WORKERS = """
import os, sys, time
import numpy as np
import gru_xp
TASKS = "/proc/self/task"

def ticks():
    found = {}
    for name in os.listdir(TASKS):
        fields = open(f"{TASKS}/{name}/stat").read().rpartition(")")[2].split()
        found[name] = int(fields[11]) + int(fields[12])
    return found

model, x = gru_xp.GRU(256, 512, seed=0), np.zeros((50, 64, 256), "f4")
model(x)

def working():
    # threads that have worked for more than 30 of 1000 milliseconds
    before = ticks()
    begin = time.process_time()
    while time.process_time() - begin < 1:
        model(x)
    spent = [n - before.get(name, 0) for name, n in ticks().items()]
    return sum(n > 3 for n in spent)
"""


def printed(code: str, **variables: str) -> list[str]:
    program = subprocess.run(
        [sys.executable, "-c", WORKERS + code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return program.stdout.split()


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc that lists threads")


@linux
def test_workers_of_joblib_and_ray_are_heard() -> None:
    """They set OMP_NUM_THREADS=1."""
    assert printed("print(working())", OMP_NUM_THREADS="1") == ["1"]


@linux
def test_threadpoolctl_limits_them() -> None:
    pytest.importorskip("threadpoolctl")
    code = """
import threadpoolctl
with threadpoolctl.threadpool_limits(1):
    inside = working()
with threadpoolctl.threadpool_limits(1, user_api="blas"):
    blas = working()
with threadpoolctl.threadpool_limits({"gru_xp": 1}):
    by_name = working()
print(inside, blas, by_name, working())
"""
    assert printed(code, GRU_XP_NUM_THREADS="2") == ["1", "2", "1", "2"]


def test_threadpoolctl_shows_and_restores_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    gru_xp.GRU(8, 16, seed=0)(np.zeros((2, 1, 8), np.float32))

    def shown() -> list[int]:
        return [one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "gru_xp"]

    monkeypatch.setenv("GRU_XP_NUM_THREADS", "5")
    assert shown() == [5]
    with threadpoolctl.threadpool_limits(limits=3, user_api="gru_xp"):
        assert shown() == [3]
        assert thread_count() == 3
        with gru_xp.num_threads(2), threadpoolctl.threadpool_limits(limits=1):
            assert thread_count() == 1
        assert shown() == [3]
    assert shown() == [5]
    monkeypatch.setenv("GRU_XP_NUM_THREADS", "4")  # no limit is left
    assert shown() == [4]
    (one,) = (one for one in threadpoolctl.threadpool_info() if one["user_api"] == "gru_xp")
    assert one["version"] == gru_xp.__version__
