"""The fused CPU kernels on OpenMP's threads, which PyTorch lends them."""

from __future__ import annotations

import ctypes
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("llvmlite")

from cpu_problem import OPTIONS, everything, problem, same
from subprocesses import run_file

from gru_xp_cpu import CpuLayer, Owner
from gru_xp_cpu.calling.kernel import kernel
from gru_xp_cpu.threads import openmp, workers
from gru_xp_torch import cpu

FOLDER = Path(torch.__file__).parent
#: a layer that computes on PyTorch's threads
ON_TORCHS = cpu.kernel.layer
lent = pytest.mark.skipif(openmp.runtime(FOLDER) is None, reason="PyTorch does not compute with OpenMP's threads here")


def results(layer: Any, seed: int = 0) -> list[Any]:
    """All results of a call forth and back, on the threads of the layer's owner."""
    x, h0, w = problem(seed=seed)
    y, h_n, tape = layer.forward(x, h0, w, OPTIONS._replace(save="all"))
    dx, dh0, dw = layer.backward(tape, y, h_n)
    return [y, h_n, dx, dh0, *dw]


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GRU_XP_NUM_THREADS", "2")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_same_as_with_threads_of_ours() -> None:
    expected = everything(*problem())
    assert all(same(results(ON_TORCHS), expected) for _ in range(20))


@lent
def test_no_threads_of_ours_are_started() -> None:
    script = """
import threading, torch, gru_xp_torch
layer = gru_xp_torch.GRU(64, 128, bidirectional=True)
for _ in range(5):
    layer(torch.ones(50, 4, 64))[0].sum().backward()
print([thread.name for thread in threading.enumerate()])
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.strip() == "['MainThread']"


@lent
def test_the_number_of_threads_is_pytorchs() -> None:
    run = kernel("forward", np.dtype("f4"), ON_TORCHS.owner)
    assert run.plan(50, 4, 64, 128, False).threads == 2
    torch.set_num_threads(1)
    assert run.plan(50, 4, 64, 128, False).threads == 1


def test_many_python_threads() -> None:
    expected, wrong = [everything(*problem(seed=seed)) for seed in range(8)], []

    def work(seed: int) -> None:
        wrong.extend(seed for _ in range(20) if not same(results(ON_TORCHS, seed), expected[seed]))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert not worker.is_alive()
    assert not wrong


class Runtime:
    """One of the test's own, that has `size` threads come, each after `delay` seconds."""

    def __init__(self, size: int, delay: float = 0.0):
        self.teams: list[int] = []
        own = threading.local()
        join = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

        def come(function: Any, data: int, number: int) -> None:
            own.number = number
            time.sleep(delay)
            function(data)

        def in_parallel(function: int, data: int, wanted: int, _: int) -> None:
            self.teams.append(wanted)
            others = [threading.Thread(target=come, args=(join(function), data, i)) for i in range(1, size)]
            for other in others:
                other.start()
            own.number = 0
            join(function)(data)
            for other in others:
                other.join()

        arguments = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
        self.GOMP_parallel = ctypes.CFUNCTYPE(None, *arguments)(in_parallel)
        self.omp_get_thread_num = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: own.number)


kept: list[Any] = []  # compiled code calls them


def layer_on(monkeypatch: pytest.MonkeyPatch, runtime: Any, count: Callable[[], int]) -> Any:
    kept.append(runtime)
    monkeypatch.setattr(openmp, "runtime", lambda _: runtime)
    return CpuLayer(Owner(FOLDER, count, np.empty))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("delay", [0.0, 0.02])
def test_whoever_comes(monkeypatch: pytest.MonkeyPatch, size: int, delay: float) -> None:
    """The shares of those who are missing are done by others, as inside of another team; who comes late finds none."""
    monkeypatch.setenv("GRU_XP_NUM_THREADS", "3")
    expected, runtime = everything(*problem()), Runtime(size, delay)
    layer = layer_on(monkeypatch, runtime, lambda: 3)
    assert all(same(results(layer), expected) for _ in range(3))
    assert set(runtime.teams) == {3}


def test_without_a_runtime_the_threads_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_on(monkeypatch, None, lambda: 2)
    assert same(results(layer), everything(*problem()))
    assert openmp.team(layer.owner) is workers


@pytest.mark.parametrize(
    ("paths", "chosen"),
    [
        ("", None),
        ("{torch}/lib/libgomp.so.1 /opt/x.libs/libgomp-a1b2.so.1", "{torch}/lib/libgomp.so.1"),
        ("{torch}.libs/libgomp-9f.so.1 /usr/lib/libiomp5.so", "{torch}.libs/libgomp-9f.so.1"),
        ("/usr/lib/libgomp.so.1", "/usr/lib/libgomp.so.1"),
        ("/usr/lib/libgomp.so.1 /usr/lib/libiomp5.so", None),
    ],
)
def test_which_runtime(monkeypatch: pytest.MonkeyPatch, paths: str, chosen: str | None) -> None:
    """The library's own, else the only one."""
    folder, opened = Path("/somewhere/torch"), []

    def library(path: str) -> Any:
        opened.append(path)
        return Runtime(1)

    monkeypatch.setattr(openmp, "loaded", lambda: {Path(path) for path in paths.format(torch=folder).split()})
    monkeypatch.setattr(ctypes, "CDLL", library)
    assert (openmp.runtime(folder) is None) is (chosen is None)
    assert opened == ([] if chosen is None else [chosen.format(torch=folder)])


def test_a_runtime_without_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Microsoft's."""
    monkeypatch.setattr(openmp, "loaded", lambda: {Path("vcomp140.dll")})
    monkeypatch.setattr(ctypes, "CDLL", lambda path: object())
    assert openmp.runtime(FOLDER) is None


def test_threadpoolctl_finds_what_the_system_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is installed it is asked, and without it the list of Linux."""
    pytest.importorskip("threadpoolctl")
    if not Path("/proc/self/maps").exists():
        pytest.skip("this system has no such list")
    found = openmp.loaded()
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert {path.resolve() for path in openmp.loaded()} == {path.resolve() for path in found} != set()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "7f-8f r-xp 0 08:01 1 /usr/lib/libgomp.so.1\n7f-8f rw-p 0 08:01 1 /usr/lib/libgomp.so.1",
            "/usr/lib/libgomp.so.1",
        ),
        ("7f-8f r-xp 0 08:01 1 /opt/a b/libiomp5.so", "/opt/a b/libiomp5.so"),
        ("7f-8f r-xp 0 08:01 1 /usr/lib/libompa.so", None),
        ("7f-8f r-xp 0 00:00 0", None),
    ],
)
def test_what_linux_lists(monkeypatch: pytest.MonkeyPatch, line: str, found: str | None) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    monkeypatch.setattr(Path, "read_text", lambda _: line)
    assert openmp.loaded() == (set() if found is None else {Path(found)})


def test_a_child_process() -> None:
    """OpenMP's threads do not survive a fork, and GNU's runtime would wait for them for ever."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system does not fork")
    run_file(__file__)


def in_a_process(queue: Any) -> None:
    queue.put(results(ON_TORCHS))


def assert_a_child_agrees() -> None:
    torch.set_num_threads(2)
    torch.ones(1000, 1000) @ torch.ones(1000, 1000)
    expected, context = results(ON_TORCHS), multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=in_a_process, args=(queue,))
    process.start()
    assert same(queue.get(timeout=60), expected)
    process.join(60)
    assert process.exitcode == 0
    assert same(results(ON_TORCHS), expected)


if __name__ == "__main__":
    assert_a_child_agrees()
