"""Whether several threads are faster than one is found out, and found out again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gru_xp

pytest.importorskip("llvmlite")
from gru_xp_cpu.calling import kernel
from gru_xp_cpu.threads import workers
from gru_xp_cpu.threads.autotune import PAUSE, PROBES, Autotuner


def calls(autotuner: Autotuner, together: float, alone: float, count: int) -> float:
    """The time of some calls, as those that use `autotuner` make them."""
    total = 0.0
    for _ in range(count):
        settled = autotuner.settled()
        time = alone if autotuner.alone else together
        total += time
        if not settled:
            autotuner.note(time)
    return total


@pytest.mark.parametrize(("together", "alone"), [(80.0, 90.0), (125.0, 90.0), (100.0, 800.0), (90.0, 90.0)])
def test_the_faster_way_is_taken_and_looking_for_it_costs_little(together: float, alone: float) -> None:
    autotuner = Autotuner()
    calls(autotuner, together, alone, 2 * PROBES)
    assert calls(autotuner, together, alone, 10_000) < 10_000 * min(together, alone) * 1.06


def test_what_changes_is_noticed() -> None:
    autotuner = Autotuner()
    calls(autotuner, 80.0, 90.0, 2 * PROBES)
    assert not autotuner.alone
    calls(autotuner, 130.0, 90.0, PAUSE + 300)
    assert autotuner.alone
    calls(autotuner, 80.0, 90.0, PAUSE + 600)
    assert not autotuner.alone


def test_a_single_slow_call_decides_nothing() -> None:
    autotuner = Autotuner()
    for time in (9000.0, 80.0, 80.0, 90.0, 90.0, 90.0):
        assert not autotuner.settled()
        autotuner.note(time)
    assert not autotuner.alone


def test_both_ways_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_XP_NUM_THREADS", "2")
    rng = np.random.default_rng(0)
    T, N, I, H = 41, 3, 33, 96
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((3 * H, I), (3 * H, H), (3 * H,), (3 * H,))]
    x, dy = (rng.standard_normal((T, N, size)).astype(np.float32) for size in (I, H))

    def everything() -> list[bytes]:
        y, _, tape = gru_xp.gru_forward(x, ((gru_xp.CellParams(*weights),),))
        grads = gru_xp.gru_backward(tape, dy)
        return [a.tobytes() for a in (y, grads.x, grads.h0, *grads.params[0][0])]

    def run_of_the_workers(*arguments: Any) -> bool:
        went.append(arguments)
        return workers.run(*arguments)

    went: list[Any] = []
    for kind in ("forward", "backward"):
        monkeypatch.setattr(kernel.kernel(kind, np.dtype("f4"), None), "_run", run_of_the_workers)
    run = kernel.kernel("forward", np.dtype("f4"), None)
    plan = run.plan(T, N, I, H, False)
    assert plan.autotuner is not None
    assert plan.threads == 2
    found, ways = [], []
    for _ in range(2 * PROBES):  # a probe
        found.append(everything())
        ways.append(len(went))
    assert all(other == found[0] for other in found)
    assert ways == [2, 4, 6, 6, 6, 6], "forward and backward together, then alone"
