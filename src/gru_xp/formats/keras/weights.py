"""What `get_weights()` gives: arrays in a list, of one layer or of a whole model, without names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gru_xp.errors import GRUError
from gru_xp.formats.keras_arrays import KERAS_1, looks_like_one
from gru_xp.formats.trees import tensor_of
from gru_xp.stored import Arrays, Contents, Refusal, StoredGRU

from .dialects import KERAS_3
from .walk import both_directions, guessed

__all__ = ["grus_of_weights", "is_weights"]


def is_weights(thing: Any) -> bool:
    """Whether it is a list of NumPy's arrays in which a GRU's follow on one another."""
    if not isinstance(thing, list | tuple) or not all(isinstance(array, np.ndarray) for array in thing):
        return False
    return next(_runs([array.shape for array in thing]), None) is not None


def grus_of_weights(arrays: Sequence[np.ndarray]) -> Contents:
    """Each GRU, called by the place of its first array: "0", "3"; alone it has no name."""
    tensors = {str(index): tensor_of(array) for index, array in enumerate(arrays)}
    grus, refused, used = list[StoredGRU](), [], set[str]()
    for start, end in _runs([array.shape for array in arrays]):
        names = [str(index) for index in range(start, end)]
        used.update(names)
        try:
            grus.append(guessed([tensors[name] for name in names], names[0], KERAS_3))
        except GRUError as error:
            refused.append(Refusal(names[0], str(error)))
    if len(used) == len(arrays) and len(grus) == 2 and _are_directions(grus[0], grus[1]):
        grus = [both_directions(grus[0], grus[1], "", KERAS_3)]
    elif len(used) == len(arrays) and len(grus) == 1:
        grus = [grus[0].renamed("")]
    ignored = tuple(name for name in tensors if name not in used)
    return Contents(tuple(grus), tuple(refused), ignored, Arrays(tensors))


def _runs(shapes: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    """Where kernel, recurrent_kernel and maybe a bias follow on one another, or Keras 1's nine: from, to."""
    at = 0
    while at < len(shapes):
        nine = shapes[at : at + KERAS_1]
        if len(nine) == KERAS_1 and [len(shape) for shape in nine] == [2, 2, 1] * 3 and looks_like_one(nine):
            yield at, at + KERAS_1
            at += KERAS_1
        elif at + 1 < len(shapes) and looks_like_one(shapes[at : at + 2]):
            gates, H = shapes[at + 1][1], shapes[at + 1][0]
            more = at + 2 < len(shapes) and shapes[at + 2] in ((gates,), (2, gates), (2 * gates,))
            if gates == 3 * H:
                yield at, at + 2 + more
            at += 2 + more
        else:
            at += 1


def _are_directions(a: StoredGRU, b: StoredGRU) -> bool:
    """Whether both read the same x, which the second of a stack cannot where I is not H."""
    (((w,),), ((v,),)) = a.params, b.params
    return w.W_ih.shape == v.W_ih.shape and w.W_ih.shape != w.W_hh.shape
