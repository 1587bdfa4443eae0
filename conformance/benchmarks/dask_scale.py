"""gru_xp on Dask: what the graph costs, and that data larger than memory and a killed worker change nothing.

python conformance/benchmarks/dask_scale.py            all of it
python conformance/benchmarks/dask_scale.py build loop cluster memory killed

build     the graph of 100 chunks against the time of one chunk
loop      100 chunks on Dask's threads against a loop over the same calls, on as many threads
cluster   a LocalCluster of two workers against two plain processes
memory    two workers with a limit, data of four times that, from zarr to zarr; the client's memory
killed    the same with a worker killed in the middle
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import signal
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

import gru_xp

T, N, I, H = 100, 192, 64, 256  # at least 50 ms of work
CHUNKS = 100
LIMIT = 400 * 2**20  # bytes of a worker
MODEL = gru_xp.GRU(I, H, seed=0)


def seconds(call: Callable[[], Any], turns: int = 5) -> float:
    """The median."""
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def lazy(chunks: int) -> Any:
    """x of so many chunks, which cost nothing to make: what is measured are calls."""
    return da.full((T, N * chunks, I), 0.5, chunks=(T, N, I), dtype="float32")


def one_chunk() -> float:
    """Seconds of the call for one chunk on one thread."""
    x = lazy(1).compute()
    with gru_xp.num_threads(1):
        MODEL(x)
        return seconds(lambda: MODEL(x))


def build() -> None:
    """The graph of inference, and of forward and backward."""
    x, one = lazy(CHUNKS), one_chunk()
    MODEL(x)
    inference = seconds(lambda: MODEL(x))

    def training() -> None:
        y, _, tape = MODEL.forward(x)
        MODEL.backward(tape, y)

    print(f"one chunk {1e3 * one:.0f} ms; graph of {CHUNKS}: inference {1e3 * inference:.0f} ms, "
          f"forward and backward {1e3 * seconds(training):.0f} ms")  # fmt: skip


def loop() -> None:
    """What Dask adds to the same calls."""
    x, block, cores = lazy(CHUNKS), lazy(1).compute(), len(os.sched_getaffinity(0))

    def plain() -> None:
        def call(_: int) -> None:
            with gru_xp.num_threads(1):
                MODEL(block)

        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(call, range(CHUNKS)))

    def by_dask() -> None:
        h_n = MODEL(x)[1]
        with dask.config.set(scheduler="threads", num_workers=cores):
            h_n.compute()

    plain(), by_dask()
    pairs = [(seconds(plain, 1), seconds(by_dask, 1)) for _ in range(5)]
    ratios = [dask_s / plain_s for plain_s, dask_s in pairs]
    print(f"loop {pairs[0][0]:.2f} s; Dask over the loop: {statistics.median(ratios):.3f} "
          f"({min(ratios):.3f} to {max(ratios):.3f})")  # fmt: skip


def _plain_worker(chunks: int, start: Any, done: Any) -> None:
    block = np.random.default_rng(0).standard_normal((T, N, I), dtype=np.float32)
    with gru_xp.num_threads(1):
        MODEL(block)
        start.wait()
        for _ in range(chunks):
            MODEL(block)
    done.wait()


def cluster() -> None:
    """Two workers of Dask against two processes."""
    context = multiprocessing.get_context("spawn")
    start, done = context.Barrier(3), context.Barrier(3)
    workers = [context.Process(target=_plain_worker, args=(CHUNKS // 2, start, done)) for _ in range(2)]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    done.wait()
    plain = time.perf_counter() - began
    for worker in workers:
        worker.join()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made, Client(made):
        h_n = MODEL(lazy(CHUNKS))[1]
        h_n.compute()
        by_dask = seconds(h_n.compute, 3)
    print(
        f"two processes {plain:.2f} s, two workers {by_dask:.2f} s: {plain / by_dask:.2f} of what the processes reach"
    )


def memory(*, kill: bool = False) -> None:
    """From zarr to zarr with little memory; every result is compared with a call on the whole batch's rows."""
    chunks = 4 * LIMIT // (4 * T * N * (I + H)) + 1
    with TemporaryDirectory() as folder:
        source, target = Path(folder, "x.zarr"), Path(folder, "y.zarr")
        rng = da.random.default_rng(0)
        x = rng.standard_normal((T, N * chunks, I), chunks=(T, N, I)).astype("float32")
        x.to_zarr(source)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = 4 * T * N * chunks * (I + H)
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=LIMIT, dashboard_address=None) as made,
            Client(made) as client,
        ):
            y, _ = MODEL(da.from_zarr(source))
            writing = client.compute(y.to_zarr(target, compute=False))
            if kill:
                time.sleep(2)
                os.kill(client.run(os.getpid).popitem()[1], signal.SIGKILL)
            began = time.perf_counter()
            writing.result()
            took = time.perf_counter() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        y, x = da.from_zarr(target), da.from_zarr(source)
        for chunk in (0, chunks // 2, chunks - 1):
            rows = slice(chunk * N, (chunk + 1) * N)
            np.testing.assert_allclose(y[:, rows].compute(), MODEL(x[:, rows].compute())[0], rtol=1e-5, atol=1e-6)
        sizes = (
            f"x and y of {size / 2**20:.0f} MiB, two workers of {LIMIT / 2**20:.0f} MiB{', one killed' if kill else ''}"
        )
        print(f"{sizes}: {took:.1f} s, right; the client grew by {grown / 1024:.0f} MiB")


def killed() -> None:
    """As `memory`, with a worker killed in the middle."""
    memory(kill=True)


PARTS = {part.__name__: part for part in (build, loop, cluster, memory, killed)}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=(*PARTS, []))
    for name in parser.parse_args().parts or PARTS:
        print(f"{name}: ", end="", flush=True)
        PARTS[name]()


if __name__ == "__main__":
    main()
