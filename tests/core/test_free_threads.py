"""Eight threads on one model, on its parameters being assigned, and on streams; without the GIL where Python can."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.params import map_params

THREADS, ROUNDS = 8, 25
X = np.random.default_rng(0).standard_normal((6, 3, 5)).astype(np.float32)


def together(work: Callable[[int], None]) -> None:
    """Do the work in eight threads that begin at the same time; what one raises is raised."""
    barrier = Barrier(THREADS)

    def begin(index: int) -> None:
        barrier.wait()
        work(index)

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(begin, index) for index in range(THREADS)]:
            done.result()


def test_one_model_and_sizes_that_are_new_to_all() -> None:
    model = gru_xp.GRU(5, 7, num_layers=2, seed=0)
    y, _, tape = model.forward(X)
    grads = model.backward(tape, y)

    def work(index: int) -> None:
        for n in range(ROUNDS):
            x = X[:, : 1 + (index + n) % 3]
            np.testing.assert_allclose(model(x)[0], y[:, : x.shape[1]], atol=1e-6)
            mine, _, own = model.forward(X)
            np.testing.assert_array_equal(mine, y)
            np.testing.assert_array_equal(model.backward(own, y).x, grads.x)

    together(work)


def test_parameters_that_are_assigned_while_others_compute() -> None:
    """Each answer is that of one of the two sets, never of a mixture."""
    model = gru_xp.GRU(5, 7, seed=0)
    sets: list[Any] = [model.params, map_params(lambda a: -a, model.params)]
    wanted = [gru_xp.gru_inference(X, params)[0] for params in sets]

    def work(index: int) -> None:
        for n in range(ROUNDS):
            if index < 2:
                model.params = sets[n % 2]
            else:
                y = model(X)[0]
                assert min(np.abs(y - each).max() for each in wanted) < 1e-6

    together(work)


def test_a_stream_for_each_thread() -> None:
    model = gru_xp.GRU(5, 7, num_layers=2, seed=0)
    y = model(X)[0]

    def work(_: int) -> None:
        for _ in range(ROUNDS):
            state = None
            for t, x in enumerate(X):
                out, state = model.step(x, state)
                np.testing.assert_allclose(out, y[t], atol=1e-6)

    together(work)


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
def test_the_gil_stays_off() -> None:
    code = "import sys, numpy, gru_xp; gru_xp.GRU(3, 4)(numpy.ones((2, 1, 3), 'f4')); print(sys._is_gil_enabled())"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr
