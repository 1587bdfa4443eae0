"""The fused CPU kernels among threads and processes, and their cache on disk."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("llvmlite")

from cpu_problem import LAYER, OPTIONS, everything, problem, same
from subprocesses import run_file

from gru_xp.cli import app
from gru_xp.params import CellParams
from gru_xp_cpu import warmup
from gru_xp_cpu.calling import memory
from gru_xp_cpu.calling.kernel import build
from gru_xp_cpu.calling.stream import Stream
from gru_xp_cpu.emit.compiler import image_of
from gru_xp_cpu.emit.target import Target
from gru_xp_cpu.threads.launching import build as build_threads


def in_a_process(queue: Any) -> None:
    queue.put(everything(*problem()))


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes(method: str) -> None:
    """In an interpreter of its own, because JAX, which other tests have loaded, does not like to be forked."""
    run_file(__file__, method)


def assert_processes_agree(method: str) -> None:
    expected = everything(*problem())
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    processes = [context.Process(target=in_a_process, args=(queue,)) for _ in range(2)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert all(same(result, expected) for result in results)
    assert same(everything(*problem()), expected)


@pytest.mark.usefixtures("three_threads")
def test_many_python_threads() -> None:
    problems = [problem(N=1 + i, seed=i) for i in range(8)]
    expected = [everything(*p) for p in problems]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            if not same(everything(*problems[i]), expected[i]):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join(120)
        assert not thread.is_alive()
    assert not wrong


@pytest.mark.usefixtures("three_threads")
def test_beside_the_threads_of_other_libraries() -> None:
    torch = pytest.importorskip("torch")
    expected, stop = everything(*problem()), threading.Event()

    def multiply() -> None:
        a = torch.ones(400, 400)
        while not stop.is_set():
            a @ a

    other = threading.Thread(target=multiply)
    other.start()
    try:
        assert all(same(everything(*problem()), expected) for _ in range(50))
    finally:
        stop.set()
        other.join()


def test_the_number_of_threads_hardly_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for count in ("1", "2", "5"):
        monkeypatch.setenv("GRU_XP_NUM_THREADS", count)
        results.append(everything(*problem()))
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# ---- preparation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("N", "I", "H"), [(1, 32, 64), (3, 7, 50), (40, 64, 96)])
def test_a_stream_is_the_sequence(N: int, I: int, H: int, dtype: str) -> None:
    x, h0, w = problem(6, N, I, H)
    x, w = x.astype(dtype), CellParams(*(a.astype(dtype) for a in w))
    top = CellParams(*(a.astype(dtype) for a in problem(1, 1, H, H, seed=5)[2]))
    y, h = LAYER.inference(x, 0 * h0.astype(dtype), w, OPTIONS)
    z, g = LAYER.inference(y, 0 * h0.astype(dtype), top, OPTIONS)
    stream = Stream(((w,), (top,)), batch_size=N)
    for _ in range(2):
        got = np.stack([stream.step(x_t) for x_t in x])
        np.testing.assert_allclose(got, z, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(stream.state, np.stack([h, g]), rtol=1e-4, atol=1e-6)
        stream.reset()


def test_prepared_weights_are_a_copy() -> None:
    x, h0, w = problem()
    expected = LAYER.inference(x, h0, w, OPTIONS)[0]
    prepared = LAYER.pack(w)
    np.testing.assert_array_equal(LAYER.inference(x, h0, prepared, OPTIONS)[0], expected)
    w.W_hh[...] = 0
    np.testing.assert_array_equal(LAYER.inference(x, h0, prepared, OPTIONS)[0], expected)
    assert not np.array_equal(LAYER.inference(x, h0, w, OPTIONS)[0], expected)
    with pytest.raises(ValueError, match="read-only"):
        prepared.W_hh[...] = 0


def test_packed_weights_can_be_copied() -> None:
    x, h0, w = problem()
    packed = LAYER.pack(w)
    y, _ = LAYER.inference(x, h0, packed, OPTIONS)
    copies = [
        copy.copy(packed),
        copy.deepcopy(packed),
        pickle.loads(pickle.dumps(packed)),
        packed._replace(b_ih=w.b_ih),
    ]
    del packed
    for other in copies:
        np.testing.assert_array_equal(LAYER.inference(x, h0, other, OPTIONS)[0], y)
    others = copies[0]._replace(W_hh=0 * w.W_hh)
    assert not np.array_equal(LAYER.inference(x, h0, others, OPTIONS)[0], y)


@pytest.mark.parametrize("N", [4, 40])
def test_memory_is_used_again(N: int) -> None:
    """A loop of training gets the large arrays of the turn before last; an array that somebody holds is left alone."""
    x, h0, w = problem(T=100, N=N, I=64, H=128)
    LAYER.forward(x, h0, w, OPTIONS._replace(save="all"))
    held, _, tape = LAYER.forward(x, h0, w, OPTIONS._replace(save="all"))
    value, seen = held.copy(), set()
    del tape
    for _ in range(6):
        y, _, tape = LAYER.forward(x, h0, w, OPTIONS._replace(save="all"))
        seen |= {a.ctypes.data for a in (y, tape.h_prev, tape.r, tape.z, tape.n, tape.u)}
        y[...] = np.nan
    np.testing.assert_array_equal(held, value)
    assert held.ctypes.data not in seen
    assert len(seen) <= 14
    memory.release()


@pytest.mark.parametrize("save", ["all", "states"])
@pytest.mark.parametrize("lengths", [False, True])
def test_training_takes_the_tape_and_the_gradients(save: str, lengths: bool) -> None:
    """Beside them nothing grows with T: not the gates' arguments, not the gates that backward computes again."""

    def beside(T: int) -> int:
        x, h0, w = problem(T, N=4, I=24, H=64)
        valid = np.arange(T)[:, None] < np.array([T, T - 1, T // 2, 0]) if lengths else None
        dy = np.ones((T, 4, 64), np.float32)
        memory.release()
        tracemalloc.start()
        y, h_n, tape = LAYER.forward(x, h0, w, OPTIONS._replace(valid=valid, save=save))
        dx, dh0, dw = LAYER.backward(tape, dy, h_n)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        kept = [y, tape.h_prev, tape.r, tape.z, tape.n, tape.u, dx, dh0, *dw, *([tape.x] if lengths else [])]
        return peak - sum(a.nbytes for a in kept if a is not None)

    beside(10)
    assert beside(12_000) - beside(3_000) < 200_000  # an array of h's size grows by nine million bytes between them


def test_code_for_other_processors() -> None:
    """It can be written here, if not run."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    for triple in ("aarch64-unknown-linux-gnu", "arm64-apple-darwin", "aarch64-pc-windows-msvc"):
        for kind in ("threads", "forward", "backward"):
            write = build_threads if kind == "threads" else build
            assert image_of(write(Target(128, 32, triple, "generic", "+neon", x86=False), kind, "float32"))


# ---- processes of their own -----------------------------------------------------------------------------------------

LOOP = """
import resource
import numpy as np, gru_xp
rng = np.random.default_rng(0)
x = rng.standard_normal((100, 8, 64), np.float32)
W_ih, W_hh = rng.standard_normal((384, 64), np.float32), rng.standard_normal((384, 128), np.float32)
params = ((gru_xp.CellParams(W_ih, W_hh),),)
for turn in range(60):
    if turn == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    y, _, tape = gru_xp.gru_forward(x, params)
    gru_xp.gru_backward(tape, y)
    del y, tape
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 40)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts as Linux does")
def test_a_training_loop_touches_no_new_pages() -> None:
    """Arrays of 400 kB, whose memory the C library would give back to the system and fetch again in each turn."""
    out = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, check=True, timeout=120)
    assert float(out.stdout) < 100  # one new array would be as much, and there are nine


PROGRAM = """
import sys
import gru_xp_cpu
assert "llvmlite" not in sys.modules
import numpy as np
from gru_xp.interfaces import Options
from gru_xp.params import CellParams
rng = np.random.default_rng(0)
x, h0, *w = (rng.standard_normal(s).astype(np.float32) for s in ((5, 2, 3), (2, 4), (12, 3), (12, 4), (12,), (12,)))
options = Options()
y, _, tape = gru_xp_cpu.numpy_layer.forward(x, h0, CellParams(*w), options._replace(save="all"))
gru_xp_cpu.numpy_layer.backward(tape, y, None)
print(float(y.sum()))
"""


def run(folder: Path | str) -> float:
    """The program's result with this folder as the cache."""
    environment = {**os.environ, "GRU_XP_CACHE_DIR": str(folder)}
    out = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return float(out.stdout)


def test_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    result = run(folder)
    files = {path: (path.read_bytes(), path.stat().st_ino) for path in sorted(folder.iterdir())}
    assert [path.name.split("-")[0] for path in files] == ["backward", "forward"]
    assert run(folder) == result
    assert all(path.stat().st_ino == inode for path, (_, inode) in files.items()), "compiled again"
    for path, (whole, _) in files.items():
        path.write_bytes(whole[:-9] + b"\0" * 9)
    assert run(folder) == result
    assert {path: path.read_bytes() for path in files} == {path: whole for path, (whole, _) in files.items()}


def test_no_cache(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert run(blocked / "cache") == run("off")


def test_warmup_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_XP_CACHE_DIR", str(tmp_path / "cache"))
    assert warmup(("float32",)).endswith(f"bits: {tmp_path / 'cache'}")
    kinds = [path.name.split("-")[0] for path in sorted((tmp_path / "cache").iterdir())]
    assert kinds == ["backward", "fixed", "forward", "integers", "threads"]
    monkeypatch.setenv("GRU_XP_CACHE_DIR", "off")
    assert warmup(("float32",)).endswith("in memory only")


def test_warmup_fails_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GRU_XP_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match="cache: the fused CPU kernels cannot be kept there .*; set GRU_XP_CACHE_DIR"):
        warmup(("float32",))
    result = CliRunner().invoke(app, ["warmup"])
    assert result.exit_code == 1 and result.stderr.startswith("error: ") and "cannot be kept there" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_long_call_can_be_interrupted() -> None:
    program = """
import signal
import numpy as np
from gru_xp.interfaces import Options
from gru_xp.params import CellParams
import gru_xp_cpu
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
H = 512
x, h0, *w = (np.zeros(s, np.float32) for s in ((20000, 64, 8), (64, H), (3 * H, 8), (3 * H, H), (3 * H,), (3 * H,)))
options = Options()
gru_xp_cpu.numpy_layer.inference(x[:1], h0, CellParams(*w), options)
print("ready", flush=True)
gru_xp_cpu.numpy_layer.inference(x, h0, CellParams(*w), options)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert time.monotonic() - start < 10


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("count", [1, 3])
def test_a_signal_handler_may_compute(count: int) -> None:
    """Within a call of the same thread: neither waits for ever for the workers nor takes the call's scratch memory."""
    program = """
import signal
import numpy as np
from gru_xp.interfaces import Options
from gru_xp.params import CellParams
from gru_xp_cpu import numpy_layer
from gru_xp_cpu.calling import plan
plan.SEGMENT = 2e6  # often comes back to Python, as a long call does
H, rng = 64, np.random.default_rng(0)
x, h0, *w = (rng.normal(size=s) for s in ((1000, 4, 32), (4, H), (3 * H, 32), (3 * H, H), (3 * H,), (3 * H,)))
options = Options()

def everything(x):
    y, h_n, tape = numpy_layer.forward(x, h0, CellParams(*w), options._replace(save="states"))
    dx, dh0, dw = numpy_layer.backward(tape, y, h_n)
    return [y, h_n, dx, dh0, *dw]

def right(results, expected):
    return all(np.array_equal(a, b) for a, b in zip(results, expected))

other = 0.5 * x[:400] + 1
expected, expected_inside, inside = everything(x), everything(other), []
signal.signal(signal.SIGALRM, lambda *_: inside.append(right(everything(other), expected_inside)))
while len(inside) < 12:
    signal.setitimer(signal.ITIMER_REAL, 0.001 + 0.001 * (len(inside) % 8))
    assert right(everything(x), expected)
    signal.setitimer(signal.ITIMER_REAL, 0)
assert all(inside)
"""
    environment = {**os.environ, "GRU_XP_NUM_THREADS": str(count)}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=environment)


if __name__ == "__main__":
    assert_processes_agree(sys.argv[1])
