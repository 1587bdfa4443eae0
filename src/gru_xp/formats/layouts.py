"""How others lay out the parameters of one cell, to and from gru_xp's `CellParams`, as NumPy arrays.

Gates: here r, z, n are stacked on axis 0. Keras, RTNeural and ONNX stack z, r, n; `swapped` goes either way. Systems
that add the biases of a gate before anything acts on them keep one of them: b_ih + b_hh for r and z, while the two of
the candidate n stay apart, because r stands between them. That is `folded`, and the one thing here that loses bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gru_xp.errors import ConversionError
from gru_xp.params import CellParams
from gru_xp.stored import Note, rounded_to_bfloat16

__all__ = ["Folded", "folded", "from_keras", "is_nothing", "note_of_folding", "swapped", "to_keras", "unfolded"]


def swapped(a: Any, xp: Any = np) -> Any:
    """r, z, n <-> z, r, n on axis 0: (3H, ...) -> (3H, ...). Its own inverse."""
    H = a.shape[0] // 3
    return xp.concat([a[H : 2 * H, ...], a[:H, ...], a[2 * H :, ...]], axis=0)


class Folded(NamedTuple):
    """The biases of a cell where r and z have one each."""

    b: Any  # (3H,): b_ih + b_hh for r and z, b_ih for n; or None
    b_n: Any  # (H,): b_hh of n; or None
    lossless: bool  # nothing was added to anything but zero


def folded(w: CellParams, dtype: str) -> Folded:
    """Two biases -> one and a half. A sum with zero keeps its bits, so that what came from such a system goes back.

    >>> import numpy as np
    >>> W, b = np.zeros((3, 1)), np.array([1.0, 2.0, 3.0])
    >>> folded(CellParams(W, W, b, 10 * b), "float64")
    Folded(b=array([11., 22.,  3.]), b_n=array([30.]), lossless=False)
    """
    if w.b_ih is None:
        return Folded(None, None, True)
    gates = 2 * w.W_hh.shape[1]
    b_ih, b_hh = w.b_ih[:gates], w.b_hh[:gates]
    return Folded(np.concatenate([_sum(b_ih, b_hh, dtype), w.b_ih[gates:]]), w.b_hh[gates:].copy(), is_nothing(b_hh))


def is_nothing(a: Any) -> bool:
    """Whether all are the zero that adding leaves no trace of; -0.0 has a bit of its own."""
    return not (a.any() or np.signbit(a).any())


def _sum(b_ih: Any, b_hh: Any, dtype: str) -> np.ndarray:
    """Rounded to `dtype`, which NumPy cannot do where it is bfloat16; a sum with zero keeps its bits."""
    total = b_ih + b_hh
    if dtype == "bfloat16":
        total = rounded_to_bfloat16(total)
    return np.where(b_hh == 0, b_ih, np.where(b_ih == 0, b_hh, total))


def unfolded(W_ih: Any, W_hh: Any, b: Any, b_n: Any) -> CellParams:
    """One bias and a half -> two, b_hh being zero for r and z."""
    if b is None:
        return CellParams(W_ih, W_hh)
    return CellParams(W_ih, W_hh, b, np.concatenate([np.zeros(len(b) - len(b_n), b.dtype), b_n]))


FOLDED_ALL = Note(
    "folded",
    "b_ih + b_hh of all gates",
    "added together, because one bias stands there for both; outputs agree to rounding, training differs",
)
UNFOLDED = "b_hh of the gates r and z is zero: what was read has one bias where a model here has two"


def note_of_folding(lossless: bool) -> Note:
    """What to say of the biases on the way out."""
    if lossless:
        return Note("exact", "the weights", "b_hh of the gates r and z is zero or absent, so nothing was added up")
    return Note(
        "folded",
        "b_ih + b_hh of the gates r and z",
        "added together, because one bias stands there for both; outputs agree to rounding, training differs: one bias "
        "moves half as fast as two, and weight decay sees other numbers",
    )


def to_keras(w: CellParams, dtype: str, *, reset_after: bool) -> list[np.ndarray]:
    """kernel (I, 3H), recurrent_kernel (H, 3H) and, with biases, bias (2, 3H), or (3H,) if not `reset_after`."""
    arrays = [np.ascontiguousarray(swapped(a).T) for a in (w.W_ih, w.W_hh)]
    if w.b_ih is None:
        return arrays
    if reset_after:
        return [*arrays, np.stack([swapped(w.b_ih), swapped(w.b_hh)])]
    return [*arrays, swapped(_sum(w.b_ih, w.b_hh, dtype))]


def from_keras(arrays: list[np.ndarray]) -> tuple[CellParams, bool | None]:
    """The inverse of `to_keras`, and whether the bias says `reset_after`; None without biases, where nothing tells."""
    if len(arrays) not in (2, 3) or any(a.ndim != 2 for a in arrays[:2]):
        raise ConversionError(
            f"expected kernel (I, 3H), recurrent_kernel (H, 3H) and perhaps a bias, got {_shapes(arrays)}"
        )
    kernel, recurrent = arrays[:2]
    H = recurrent.shape[0]
    if recurrent.shape != (H, 3 * H) or kernel.shape[1] != 3 * H or H == 0:
        raise ConversionError(f"{kind_of(recurrent.T.shape)}, with kernels {_shapes(arrays[:2])}")
    W_ih, W_hh = (np.ascontiguousarray(swapped(a.T)) for a in (kernel, recurrent))
    if len(arrays) == 2:
        return CellParams(W_ih, W_hh), None
    bias = arrays[2]
    if bias.shape == (2, 3 * H):
        return CellParams(W_ih, W_hh, swapped(bias[0]), swapped(bias[1])), True
    if bias.shape == (3 * H,):
        return CellParams(W_ih, W_hh, swapped(bias), np.zeros_like(bias)), False
    raise ConversionError(f"bias: expected (2, 3H) = (2, {3 * H}) or (3H,) = ({3 * H},), got {bias.shape}")


def kind_of(shape: tuple[int, ...]) -> str:
    """What a recurrent weight (gates * H, H) that is no GRU's belongs to, in words."""
    rows, H = shape if len(shape) == 2 else (0, 0)
    names = {4 * H: "an LSTM: four gates", H: "a plain RNN: no gates"}
    kind = names.get(rows, "no GRU") if H else "no GRU"
    return f"{kind}; the recurrent weight of a GRU is (3H, H), this one is {tuple(shape)}"


def _shapes(arrays: list[np.ndarray]) -> str:
    return ", ".join(str(a.shape) for a in arrays)
