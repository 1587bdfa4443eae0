"""Losses with their gradients, and masks for what does not count, such as the padding of ragged sequences."""

from __future__ import annotations

from math import prod
from typing import Any

from array_api_compat import array_namespace

from gru_xp.errors import DTypeError, MixedArraysError, RangeError, ShapeError

__all__ = ["cross_entropy", "squared_error"]


def cross_entropy(logits: Any, labels: Any, mask: Any = None) -> tuple[Any, Any]:
    """The mean of `-log(softmax(logits)[label])` over all entries that count, and its gradient.

    Args:
        logits: (..., K), K being the number of classes: (N, K), or (T, N, K) for a label at each step.
        labels: (...) integers from 0 to K - 1; where the mask is false they may be anything.
        mask: (...) booleans, true where an entry counts; None for all.

    Returns:
        The loss, of shape (), and its gradient with respect to the logits (..., K), zero where the mask is false.

    Raises:
        ShapeError, DTypeError, RangeError, MixedArraysError: an argument does not fit.

    >>> import numpy as np
    >>> loss, dlogits = cross_entropy(np.array([[0.0, 0.0], [5.0, 9.0]]), np.array([1, 7]), np.array([True, False]))
    >>> round(float(loss), 4), dlogits.tolist()
    (0.6931, [[0.5, -0.5], [0.0, 0.0]])
    """
    xp = _namespace(logits=logits, labels=labels, mask=mask)
    _assert_shape(labels, "labels", tuple(logits.shape[:-1]), "as logits has without its last axis")
    if not xp.isdtype(labels.dtype, "integral"):
        raise DTypeError(f"labels: expected integers, got {labels.dtype}")
    counts = _counts(xp, mask, labels)
    K = logits.shape[-1]
    hit = xp.expand_dims(labels, axis=-1) == xp.arange(K, dtype=labels.dtype, device=labels.device)
    if not bool(xp.all(xp.any(hit, axis=-1) | ~counts)):
        raise RangeError(f"labels: expected integers from 0 to K - 1 = {K - 1} where the mask is true, got others")
    counted = xp.expand_dims(counts, axis=-1)
    wide = _widened(xp, logits)
    wide = xp.where(counted, wide, xp.zeros_like(wide))
    wide = wide - xp.max(wide, axis=-1, keepdims=True)
    exps = xp.exp(wide)
    sums = xp.sum(exps, axis=-1, keepdims=True)
    zeros, N = xp.zeros_like(wide), _number(xp, counts, "labels")
    loss = xp.sum(xp.where(hit & counted, xp.log(sums) - wide, zeros)) / N
    gradient = xp.where(counted, exps / sums - xp.astype(hit, wide.dtype), zeros) / N
    return loss, xp.astype(gradient, logits.dtype)


def squared_error(y: Any, targets: Any, mask: Any = None) -> tuple[Any, Any]:
    """The mean of `(y - targets)**2` over all entries that count, and its gradient.

    Args:
        y: (..., K): (N, K), or (T, N, K) for a target at each step.
        targets: (..., K); where the mask is false they may be anything.
        mask: (...) booleans, true where an entry counts; None for all.

    Returns:
        The loss, of shape (), and its gradient with respect to y (..., K), zero where the mask is false.

    >>> import numpy as np
    >>> loss, dy = squared_error(np.array([[1.0], [5.0]]), np.array([[3.0], [np.nan]]), np.array([True, False]))
    >>> float(loss), dy.tolist()
    (4.0, [[-4.0], [0.0]])
    """
    xp = _namespace(y=y, targets=targets, mask=mask)
    _assert_shape(targets, "targets", tuple(y.shape), "as y has")
    counts = _counts(xp, mask, y[..., 0])
    errors = _widened(xp, y) - _widened(xp, targets)
    errors = xp.where(xp.expand_dims(counts, axis=-1), errors, xp.zeros_like(errors))
    N = _number(xp, counts, "y") * y.shape[-1]
    return xp.sum(errors * errors) / N, xp.astype(2.0 * errors / N, y.dtype)


def _namespace(**arrays: Any) -> Any:
    given = {name: array for name, array in arrays.items() if array is not None}
    try:
        return array_namespace(*given.values())
    except TypeError as error:
        raise MixedArraysError(f"{', '.join(given)}: expected arrays of one library: {error}") from None


def _assert_shape(array: Any, name: str, shape: tuple[int, ...], where: str) -> None:
    if tuple(array.shape) != shape:
        raise ShapeError(f"{name}: expected {shape}, {where}, got {tuple(array.shape)}")


def _counts(xp: Any, mask: Any, like: Any) -> Any:
    """The mask, true everywhere if there is none."""
    if mask is None:
        return xp.ones_like(like, dtype=xp.bool)
    _assert_shape(mask, "mask", tuple(like.shape), "one boolean for each entry")
    if not xp.isdtype(mask.dtype, "bool"):
        raise DTypeError(f"mask: expected booleans, got {mask.dtype}")
    return mask


def _number(xp: Any, counts: Any, name: str) -> int:
    """How many entries count."""
    if prod(counts.shape) == 0 or (number := int(xp.count_nonzero(counts))) == 0:
        raise RangeError(f"{name}, mask: expected at least one entry that counts, got none: their mean has no value")
    return number


def _widened(xp: Any, array: Any) -> Any:
    """In float32 where there are 16 bits: sums over many entries need more."""
    return xp.astype(array, xp.float32) if xp.finfo(array.dtype).bits < 32 else array
