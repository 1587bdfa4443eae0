"""Threads that share a kernel: whoever comes when, and wherever the system puts them, the results are the same."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from cpu_problem import everything, problem, same

from gru_xp_cpu.emit.code import Code, Integers, Value
from gru_xp_cpu.emit.compiler import Machine, image_of
from gru_xp_cpu.emit.function import function
from gru_xp_cpu.emit.module import I32, Module
from gru_xp_cpu.emit.target import current
from gru_xp_cpu.threads import system, workers
from gru_xp_cpu.threads.barrier import Sections
from gru_xp_cpu.threads.shared import SYNC, call_at

TASKS = Path("/proc/self/task")
linux = pytest.mark.skipif(not TASKS.exists(), reason="no /proc that lists threads")
several_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="threads cannot be put on cores"
)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> workers.Workers:
    """New workers, none of which has been started."""
    new = workers.Workers()
    monkeypatch.setattr(workers, "_pools", [new])
    return new


def threads_of_this_process() -> set[int]:
    return {int(name) for name in os.listdir(TASKS)}


# ---- the sections of a kernel ---------------------------------------------------------------------------------------


@function
def counting(c: Code, fields: Integers, part: Value, parts: Value, sync: Integers) -> None:
    """Add one for each share of each section, by a load and a store, and call a function with the share's number.

    `fields`: how many sections, the address of their counters, and that of the function or 0.
    """
    counters, called = c.pointer(Integers, fields.load(1)), fields.load(2)
    sections, number = Sections(c, part, parts, sync), fields.load(0)
    with c.loop(0, number) as section, sections.section() as share:
        at = section * parts + share
        counters.store(counters.load(at) + 1, at)
        with c.when(called > 0):
            call_at(c, called, I32, [c.b.trunc(share.ir, I32), c.b.trunc(part.ir, I32)])
    sections.finish()


@function
def summing(c: Code, fields: Integers, part: Value, parts: Value, sync: Integers) -> None:
    """Each share of each section adds up what all shares have made of the section before, with a part done meanwhile.

    `fields`: how many sections, and the address of two rows of integers and one for what is done meanwhile.
    """
    rows, sections, number = c.pointer(Integers, fields.load(1)), Sections(c, part, parts, sync), fields.load(0)
    own = rows.at(parts * 2)

    def meanwhile(section: Value, share: Value) -> None:
        own.store(rows.load(((section + 1) & 1) * parts + share) * 3, share)

    with c.loop(0, number) as section, sections.section(lambda share: meanwhile(section, share)) as share:
        total = c.variable(own.load(share))
        with c.loop(0, parts) as other:
            total.set(total.get() + rows.load((section & 1) * parts + other))
        rows.store(total.get() & 0xFFFFFF, ((section + 1) & 1) * parts + share)
    sections.finish()


@pytest.fixture(scope="module")
def machine() -> Machine:
    module = Module(current(), "float32")
    counting.export(module, "counting")
    summing.export(module, "summing")
    return Machine(module.target, image_of(module))


def run(machine: Machine, kernel: str, threads: int, *fields: int) -> int:
    given = np.array(fields, np.int64).tobytes()
    return workers.run(current(), machine.address(kernel), given, threads)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_each_share_is_done_once(machine: Machine, pool: workers.Workers, threads: int) -> None:
    for sections in [1, 2, 500] * 40:
        counters = np.zeros(sections * threads, np.int64)
        assert run(machine, "counting", threads, sections, counters.ctypes.data, 0) >= 0
        assert (counters == 1).all()
    assert pool.workers == threads - 1


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_a_section_sees_the_whole_section_before(machine: Machine, pool: workers.Workers, threads: int) -> None:
    """With as many threads as cores and with more."""
    sections, begin = 3000, np.arange(3 * threads)
    rows = [int(n) for n in begin]
    for section in range(sections):
        before, after = (section & 1) * threads, (section + 1 & 1) * threads
        for share in range(threads):
            own = rows[2 * threads + share]
            rows[after + share] = (own + sum(rows[before : before + threads])) & 0xFFFFFF
        rows[2 * threads :] = [3 * n for n in rows[after : after + threads]]
    for _ in range(10):
        found = begin.astype(np.int64)
        assert run(machine, "summing", threads, sections, found.ctypes.data) >= 0
        np.testing.assert_array_equal(found, rows)


def test_shares_of_a_thread_that_does_not_come_are_done_by_others(machine: Machine, pool: workers.Workers) -> None:
    """Workers are held up in the system's functions before they enter, longer than the kernel takes."""
    calls: list[tuple[int, int]] = []

    def core_of() -> int:
        if threading.get_ident() != main:
            time.sleep(0.05)
        return 0

    main, kind = threading.get_ident(), ctypes.CFUNCTYPE(ctypes.c_int)
    slow, note = kind(core_of), ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)
    called = note(lambda share, part: calls.append((share, part)) or 0)
    forever.append((slow, called))
    assert pool.ready(current(), 1)
    pool.sync[SYNC["core_of"]] = ctypes.cast(slow, ctypes.c_void_p).value
    pool.sync[SYNC["use"]] = 0
    counters = np.zeros(3 * 100, np.int64)
    address = ctypes.cast(called, ctypes.c_void_p).value
    assert address is not None
    assert run(machine, "counting", 3, 100, counters.ctypes.data, address) >= 0
    assert (counters == 1).all()
    assert sorted(calls) == sorted((share, 0) for share in range(3) for _ in range(100))


#: what native code calls as long as the process lives
forever: list[Any] = []


def test_who_waits_long_blocks(machine: Machine, pool: workers.Workers) -> None:
    """One share takes milliseconds."""
    sleep = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)(
        lambda share, part: time.sleep(0.02 * share) or 0
    )
    forever.append(sleep)
    address, counters = ctypes.cast(sleep, ctypes.c_void_p).value, np.zeros(2 * 20, np.int64)
    assert address is not None
    run(machine, "counting", 2, 1, counters.ctypes.data, 0)
    assert run(machine, "counting", 2, 20, counters.ctypes.data, address) > 0
    assert (counters[2:] == 1).all()


# ---- the kernels ----------------------------------------------------------------------------------------------------


@contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """Processes that count, so that the system preempts our threads."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@linux
@several_cores
@pytest.mark.usefixtures("three_threads")
def test_preempted_moved_and_called_by_many() -> None:
    """The same bits from several callers, beside busy processes, while the affinity of all threads changes."""
    problems = [problem(N=1 + 7 * i, seed=i) for i in range(4)]
    expected, cores = [everything(*p) for p in problems], os.sched_getaffinity(0)
    wrong, stop, ran = list[int](), threading.Event(), [0] * len(problems)

    def call(i: int) -> None:
        while not stop.is_set():
            if not same(everything(*problems[i]), expected[i]):
                wrong.append(i)
            ran[i] += 1

    callers = [threading.Thread(target=call, args=(i,)) for i in range(len(problems))]
    rng = random.Random(0)
    with busy_neighbours(2):
        for caller in callers:
            caller.start()
        try:
            for _ in range(200):
                for thread in threads_of_this_process():
                    few = rng.sample(sorted(cores), rng.randint(1, len(cores)))
                    try:
                        os.sched_setaffinity(thread, few)
                    except ProcessLookupError:  # it has ended meanwhile
                        continue
                time.sleep(0.01)
        finally:
            stop.set()
            for caller in callers:
                caller.join(60)
            for thread in threads_of_this_process():
                os.sched_setaffinity(thread, cores)
    assert not any(caller.is_alive() for caller in callers)
    assert not wrong
    assert all(ran)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be put on cores")
@pytest.mark.parametrize("count", [2, 5])
def test_more_threads_than_cores(count: int) -> None:
    """On one core, as under `taskset`: nobody waits for ever for a thread that has no core."""
    program = """
    import os
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from cpu_problem import everything, problem, same
    one = problem(T=200)
    expected = everything(*one)
    assert all(same(everything(*one), expected) for _ in range(20))
    """
    run_program(program, GRU_XP_NUM_THREADS=str(count))


def run_program(program: str, **variables: str) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120, env=environment)


@linux
@several_cores
@pytest.mark.usefixtures("three_threads")
def test_a_worker_leaves_the_callers_core(pool: workers.Workers) -> None:
    """It goes to another one, and may be put on any core later."""
    before = threads_of_this_process()
    expected, cores = everything(*problem()), os.sched_getaffinity(0)
    started, first = threads_of_this_process() - before, min(cores)
    assert len(started) == 2

    def core(thread: int) -> int:
        return int((TASKS / str(thread) / "stat").read_text().rpartition(")")[2].split()[36])

    try:
        os.sched_setaffinity(0, {first})
        for thread in started:
            os.sched_setaffinity(thread, {first})
            os.sched_setaffinity(thread, cores)
        for _ in range(200):
            assert same(everything(*problem()), expected)
            if all(core(thread) != first for thread in started):
                break
            time.sleep(0.01)
        assert all(core(thread) != first for thread in started)
        assert all(os.sched_getaffinity(thread) == cores for thread in started)
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("refused", [False, True])
def test_where_a_worker_goes(monkeypatch: pytest.MonkeyPatch, pool: workers.Workers, refused: bool) -> None:
    """A system of the test's own, on which all threads are on core 0, and 0 to 2 may be used, or nobody may ask."""
    expected, chosen = everything(*problem()), []

    def may_use(_: int, size: int, cores: Any) -> int:
        if not refused:
            cores[0][:] = [0b111] + [0] * (size - 1)
        return -1 if refused else 0

    def use(_: int, size: int, cores: Any) -> int:
        chosen.append(cores[0][:size])
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.POINTER(ctypes.c_uint8 * 128))
    functions = {"core_of": ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0), "may_use": kind(may_use), "use": kind(use)}
    forever.append(functions)
    addresses = {name: ctypes.cast(function, ctypes.c_void_p).value or 0 for name, function in functions.items()}
    real = workers.functions()
    new = workers.Workers()
    monkeypatch.setattr(workers, "functions", lambda: real | addresses)
    monkeypatch.setattr(workers, "_pools", [new])
    for _ in range(50):
        assert same(everything(*problem()), expected)
        time.sleep(0.001)
    assert bool(chosen) != refused
    assert all(cores[0] in (0b110, 0b111) and not any(cores[1:]) for cores in chosen)


@pytest.mark.usefixtures("three_threads")
def test_threads_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, pool: workers.Workers) -> None:
    """Those that are there do all shares, and the next call tries again."""
    really, tried = workers._started, list[int]()

    def started(function: int, argument: int) -> bool:
        tried.append(argument)
        return len(tried) == 2 and really(function, argument)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "_started", started)
        expected = everything(*problem())
        assert len(tried) == 3  # in forward none, in backward one of two
        assert pool.workers == 1
    assert same(everything(*problem()), expected)
    assert pool.workers == 2


@pytest.mark.usefixtures("three_threads")
def test_a_system_in_which_nothing_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, new = everything(*problem()), workers.Workers()
    monkeypatch.setattr(workers, "functions", lambda: dict.fromkeys(system.SYSTEM, 0))
    monkeypatch.setattr(workers, "_pools", [new])
    assert same(everything(*problem()), expected)
    assert new.workers == 0


@pytest.mark.parametrize("name", ["darwin", "windows"])
def test_other_systems(name: str) -> None:
    """Their functions, played by Python: a wait ends when its integer is another, or for no reason."""
    run_program(
        f"""
    import ctypes, threading
    import numpy as np
    from gru_xp_cpu.calling import kernel
    from gru_xp_cpu.threads import system, workers
    from cpu_problem import everything, problem, same

    system._system = lambda c: {name!r}
    kernel.TRIED = 0
    changed, waited = threading.Condition(), []

    def wait_while(address, expected, seconds):
        with changed:
            waited.append(address)
            if ctypes.c_uint32.from_address(address).value == expected:
                changed.wait(seconds)

    def wake_all():
        with changed:
            changed.notify_all()
        return 0

    if {name!r} == "darwin":
        def wait(operation, address, expected, microseconds):
            assert operation == 1
            wait_while(address, expected, microseconds / 1e6 or 0.05)
            return 0

        def wake(operation, address, value):
            assert operation == 0x101 and value == 0
            return wake_all()

        of_wait = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32)
        of_wake = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint64)
    else:
        def wait(address, compare, size, milliseconds):
            assert size == 4
            wait_while(address, ctypes.c_uint32.from_address(compare).value, min(milliseconds / 1e3, 0.05))
            return 1

        def wake(address):
            wake_all()

        of_wait = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32)
        of_wake = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    functions = {{"wait": of_wait(wait), "wake": of_wake(wake)}}
    addresses = {{name: ctypes.cast(f, ctypes.c_void_p).value for name, f in functions.items()}}
    workers.functions = lambda: dict.fromkeys(system.SYSTEM, 0) | addresses
    run = kernel.kernel("forward", np.dtype("f4"), None)._run
    one = problem(T=100)
    expected = everything(*one)
    assert all(same(everything(*one), expected) for _ in range(5))
    assert workers._pools[0].workers == 1 and waited
    """,
        GRU_XP_NUM_THREADS="2",
        GRU_XP_CACHE_DIR="off",
    )


@linux
@pytest.mark.usefixtures("three_threads")
def test_nothing_runs_between_calls(pool: workers.Workers) -> None:
    before = threads_of_this_process()
    everything(*problem())
    started = threads_of_this_process() - before
    assert len(started) == 2

    def used(thread: int) -> int:
        fields = (TASKS / str(thread) / "stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    time.sleep(0.05)  # for one that is called and not needed
    begin = [used(thread) for thread in started]
    time.sleep(0.5)
    assert [used(thread) for thread in started] == begin


@pytest.mark.parametrize("library", ["threading", "gevent", "eventlet"])
def test_patched_threads(library: str) -> None:
    """gevent and eventlet make greenlets of Python's threads: a worker that were one would block all of them."""
    if library != "threading":
        pytest.importorskip(library)
    patch = {
        "threading": "import _thread, threading; threading._start_new_thread = _thread.start_new_thread = None",
        "gevent": "from gevent import monkey; monkey.patch_all()",
        "eventlet": "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch()",
    }
    program = f"""
    {patch[library]}
    import numpy as np, gru_xp
    from gru_xp_cpu.calling import kernel
    from gru_xp_cpu.threads import workers
    kernel.TRIED = 0
    y, _ = gru_xp.GRU(256, 256, seed=0)(np.ones((20, 64, 256), "f4"))
    assert np.isfinite(y).all() and workers._pools[0].workers == 1
    """
    run_program(program, GRU_XP_NUM_THREADS="2")
