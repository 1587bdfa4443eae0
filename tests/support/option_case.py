"""What the tests of formats' options share: one x, and what a framework makes of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

T, N, I, H = 6, 2, 3, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(T, N, I)).astype("f4")


class Case(NamedTuple):
    """What is read, and what its framework makes of x (T, N, I), as (T, N, D*H)."""

    thing: Any
    y: Any
    dtype: str = "float32"
    name: str | None = None
    said: str = ""  # what the report says of an option that is noted, where that is not its name


def rows(a: Any) -> Any:
    """(T, N, K) <-> (N, T, K)."""
    return np.asarray(a).swapaxes(0, 1)
