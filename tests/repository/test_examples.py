"""The scripts in docs/examples run, and what they print is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def swapped(numbers: list[float]) -> bool:
    first, last, apart, _, _, difference = numbers
    return last < 0.9 * first and apart < 1e-3 and difference < 1e-5


def curved(numbers: list[float]) -> bool:
    rows, eigenvalue, apart = numbers
    return rows == 3 * 16 * (4 + 16 + 2) and abs(eigenvalue) > 1e-3 and apart < 1e-5


def told_apart(numbers: list[float]) -> bool:
    wrong, right, looked_at, found, _, apart = numbers
    return wrong > 5 * right and found >= looked_at - 2 and apart < 1e-5


def learned(numbers: list[float]) -> bool:
    weights, arrays, first, last, _, constant, new = numbers
    return weights == 3 * 32 * (2 + 32 + 2) + 33 and arrays == 6 and first > 0.1 and max(last, new) < 0.1 * constant


def recognised(numbers: list[float]) -> bool:
    return min(numbers[-2:]) > 0.85


def remembered(numbers: list[float]) -> bool:
    ours, theirs, without = numbers[0], numbers[4], numbers[8]
    return min(ours, theirs) > 0.95 and without < 0.6


def fine_tuned(numbers: list[float]) -> bool:
    right, right_before, before, right_after, after = numbers
    return right > 0.9 and min(right_before, right_after) > right - 0.01 and after < 0.97 * before


def rewarded(numbers: list[float]) -> bool:
    theirs, ours = numbers[0], numbers[2]
    return ours > 0.95 and abs(ours - theirs) < 0.02


RESULTS: dict[str, Callable[[list[float]], bool]] = {
    "swap_in_a_pytorch_model": swapped,
    "hessian_vector_product": curved,
    "per_sample_gradient_norms": told_apart,
    "train_with_jax_and_optax": learned,
    "classify_with_scikit_learn": recognised,
    "fine_tune_for_int8": fine_tuned,
    "memory_task_in_gymnasium": remembered,
    "rollouts_in_torchrl": rewarded,
}


def test_each_example_is_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(RESULTS)


@pytest.mark.parametrize("name", RESULTS)
def test_example(name: str) -> None:
    # torch warns of its own code
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", str(EXAMPLES / f"{name}.py")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GRU_XP")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    numbers = [float(number) for number in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.]*\w)", done.stdout)]
    assert RESULTS[name](numbers), done.stdout
