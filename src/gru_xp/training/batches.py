"""Batches of sequences that differ in length."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from array_api_compat import array_namespace

from gru_xp.checks import whole_number
from gru_xp.errors import RangeError, ShapeError, StructureError

__all__ = ["batches", "pad", "valid_steps"]


def batches(
    lengths: Sequence[int], size: int, *, seed: int | None = None, epoch: int = 0, pool: int = 16
) -> list[list[int]]:
    """Which sequences go into each batch: lists of at most `size` indices, of which each appears once.

    The indices are shuffled, `pool` batches at a time are sorted by length, so that a batch needs little padding, and
    the batches are shuffled. One seed and epoch give the same batches always.

    Args:
        lengths: of each sequence.
        size: of a batch; the last one of all may be smaller.
        seed: an integer, or None to sort all by length and shuffle nothing.
        epoch: give another one in each pass over the data.
        pool: how many batches are sorted together; 1 for sequences of equal length.

    >>> batches([5, 2, 9, 2, 7], 2)
    [[1, 3], [0, 4], [2]]
    >>> sorted(i for batch in batches([5, 2, 9, 2, 7], 2, seed=0) for i in batch)
    [0, 1, 2, 3, 4]
    """
    size, pool = whole_number(size, "size", least=1), whole_number(pool, "pool", least=1)
    order = list(range(len(lengths)))
    if seed is None:
        order.sort(key=lambda i: lengths[i])
        return [order[start : start + size] for start in range(0, len(order), size)]
    random = Random(f"{whole_number(seed, 'seed', least=0)} {whole_number(epoch, 'epoch', least=0)}")
    random.shuffle(order)
    found = []
    for start in range(0, len(order), size * pool):
        pooled = sorted(order[start : start + size * pool], key=lambda i: lengths[i])
        found += [pooled[first : first + size] for first in range(0, len(pooled), size)]
    random.shuffle(found)
    return found


def pad(sequences: Sequence[Any], *, value: float = 0) -> tuple[Any, list[int]]:
    """N arrays (T_i, ...) as one (T, N, ...), T being the greatest length, with `value` past each end; and the lengths.

    >>> import numpy as np
    >>> x, lengths = pad([np.ones((3, 2)), np.ones((1, 2))])
    >>> x.shape, lengths, x[:, 1, 0].tolist()
    ((3, 2, 2), [3, 1], [1.0, 0.0, 0.0])
    """
    sequences = list(sequences)
    if not sequences:
        raise StructureError("sequences: expected at least one array, got none")
    first = sequences[0]
    for index, a in enumerate(sequences):
        if not hasattr(a, "shape") or not hasattr(a, "dtype") or len(a.shape) == 0:
            raise StructureError(f"sequences[{index}]: expected an array (T_i, ...), got {a!r:.80}")
        if tuple(a.shape[1:]) != tuple(first.shape[1:]) or a.dtype != first.dtype:
            raise ShapeError(
                f"sequences[{index}]: expected (T_i, {', '.join(map(str, first.shape[1:]))}) and {first.dtype}, as the "
                f"first has, got {tuple(a.shape)} and {a.dtype}"
            )
    xp = array_namespace(*sequences)
    lengths = [int(a.shape[0]) for a in sequences]
    T = max(lengths)
    filling = xp.full((T, *first.shape[1:]), value, dtype=first.dtype, device=first.device)
    whole = [
        a if length == T else xp.concat([a, filling[length:, ...]])
        for a, length in zip(sequences, lengths, strict=True)
    ]
    return xp.stack(whole, axis=1), lengths


def valid_steps(x: Any, lengths: Sequence[int]) -> Any:
    """The mask (T, N) of what is no padding in x (T, N, ...), of the library and device of x, for a masked loss.

    >>> import numpy as np
    >>> valid_steps(np.zeros((3, 2, 4)), [3, 1]).tolist()
    [[True, True], [True, False], [True, False]]
    """
    if len(lengths) != x.shape[1]:
        raise ShapeError(f"lengths: expected (N,) = ({x.shape[1]},), as x has, got ({len(lengths)},)")
    T = x.shape[0]
    for n in lengths:
        if not 0 <= n <= T:
            raise RangeError(f"lengths: expected numbers from 0 to T = {T}, as x has, got {n}")
    xp = array_namespace(x)
    steps = xp.arange(T, device=x.device)
    return steps[:, None] < xp.asarray([int(length) for length in lengths], dtype=steps.dtype, device=x.device)[None, :]
