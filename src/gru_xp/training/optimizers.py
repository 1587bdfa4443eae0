"""Optimisers over trees of arrays, and clipping.

An optimiser is a record of numbers; what changes is its state, a tree. Nothing that comes is written to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

from array_api_compat import array_namespace, is_array_api_obj

from gru_xp.errors import DTypeError, RangeError, ShapeError, StructureError

from .trees import leaves, map_tree, names

__all__ = ["SGD", "Adam", "clip_by_norm"]

Rate: TypeAlias = "float | Callable[[int], float]"


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1).

    With a `weight_decay` it is AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101, as
    torch.optim.AdamW has it): a step also takes `rate * weight_decay` of each weight away from it.

    Args:
        rate: the step size, or a function from the number of steps taken so far to it.
        b1: how much of the mean gradient a step keeps.
        b2: how much of the mean squared gradient a step keeps.
        eps: added to the root of the mean squared gradient.
        weight_decay: 0 for none.

    >>> import numpy as np
    >>> adam, weights = Adam(rate=0.1), {"w": np.array([3.0, -2.0])}
    >>> state = adam.init(weights)
    >>> for _ in range(300):
    ...     gradients = {"w": 2.0 * weights["w"]}  # of the loss w @ w
    ...     weights, state = adam.update(weights, gradients, state)
    >>> bool(np.max(np.abs(weights["w"])) < 1e-3)
    True
    """

    rate: Rate = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def init(self, weights: Any) -> dict[str, Any]:
        """The state before the first step: `step`, the mean gradient `m` and the mean squared gradient `v`."""
        _assert_wide(weights)
        return {"step": 0, "m": map_tree(_zeros_like, weights), "v": map_tree(_zeros_like, weights)}

    def update(self, weights: Any, gradients: Any, state: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The weights and the state after one step; `gradients` has the structure of `weights`."""
        _assert_alike(gradients, weights)
        step, rate = state["step"] + 1, _rate(self.rate, state["step"])
        m = map_tree(lambda m, g: self.b1 * m + (1.0 - self.b1) * g, state["m"], gradients)
        v = map_tree(lambda v, g: self.b2 * v + (1.0 - self.b2) * (g * g), state["v"], gradients)
        size, scale = rate / (1.0 - self.b1**step), 1.0 / math.sqrt(1.0 - self.b2**step)
        kept = 1.0 - rate * self.weight_decay

        def stepped(w: Any, m: Any, v: Any) -> Any:
            w = w if kept == 1.0 else kept * w
            return w - size * m / (scale * array_namespace(v).sqrt(v) + self.eps)

        return map_tree(stepped, weights, m, v), {"step": step, "m": m, "v": v}


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum: `v = momentum * v + gradient` and `w = w - rate * v`.

    Args:
        rate: the step size, or a function from the number of steps taken so far to it.
        momentum: 0 for none.
    """

    rate: Rate
    momentum: float = 0.0

    def init(self, weights: Any) -> dict[str, Any]:
        """The state before the first step: `step` and the velocity `v`."""
        _assert_wide(weights)
        return {"step": 0, "v": map_tree(_zeros_like, weights)}

    def update(self, weights: Any, gradients: Any, state: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The weights and the state after one step; `gradients` has the structure of `weights`."""
        _assert_alike(gradients, weights)
        rate = _rate(self.rate, state["step"])
        v = map_tree(lambda v, g: self.momentum * v + g, state["v"], gradients)
        return map_tree(lambda w, v: w - rate * v, weights, v), {"step": state["step"] + 1, "v": v}


def clip_by_norm(gradients: Any, bound: float) -> tuple[Any, Any]:
    """The gradients, scaled down together so that their norm over all arrays is at most `bound`; and that norm before.

    The norm is an array of shape (). Where it is not finite, so are the gradients not: leave such a step out.

    >>> import numpy as np
    >>> clipped, norm = clip_by_norm({"w": np.array([3.0, 4.0])}, 2.5)
    >>> float(norm), clipped["w"].tolist()
    (5.0, [1.5, 2.0])
    """
    if not bound > 0.0:
        raise RangeError(f"bound: expected a number above 0, got {bound!r}")
    arrays = leaves(gradients)
    xp = array_namespace(*arrays)
    norm = xp.sqrt(sum(xp.sum(g * g) for g in arrays))
    # a quotient, not `bound / norm`, which has no value at 0
    scale = bound / xp.where(norm > bound, norm, xp.full_like(norm, bound))
    return map_tree(lambda g: g * scale, gradients), norm


def _rate(rate: Rate, step: int) -> float:
    return float(rate(step) if callable(rate) else rate)  # NumPy's own float64 would widen float32 arrays


def _zeros_like(array: Any) -> Any:
    return array_namespace(array).zeros_like(array)


def _assert_wide(weights: Any) -> None:
    """16 bits cannot hold the mean of squares, nor a weight that changes by a thousandth."""
    for name, array in zip(names(weights), leaves(weights), strict=True):
        if not is_array_api_obj(array):
            raise StructureError(f"weights: {name}: expected an array, got a {type(array).__name__}")
        if array_namespace(array).finfo(array.dtype).bits < 32:
            raise DTypeError(
                f"weights: {name}: expected float32 or float64, got {array.dtype}; keep float32 weights here, and cast "
                f"them for each call of gru_forward"
            )


def _assert_alike(gradients: Any, weights: Any) -> None:
    """The gradients have the shapes and dtypes of the weights: nothing is broadcast or widened in silence."""
    positions = count()

    def check(w: Any, g: Any) -> None:
        position = next(positions)
        if tuple(g.shape) != tuple(w.shape):
            name = names(weights)[position]
            raise ShapeError(f"gradients: {name}: expected {tuple(w.shape)}, as the weight has, got {tuple(g.shape)}")
        if g.dtype != w.dtype:
            name = names(weights)[position]
            raise DTypeError(f"gradients: {name}: expected {w.dtype}, as the weight has, got {g.dtype}")

    map_tree(check, weights, gradients)
