"""Weights that PyTorch computes anew in each call, and what it saves instead of them.

    weight_norm       weight_hh_l0_g, _v; or parametrizations.weight_hh_l0.original0, original1: w = g v / |v|, where
                      |v| is over the axes along which g has one number
    prune             weight_hh_l0_orig, _mask: w = orig * mask
    spectral_norm     weight_hh_l0_orig, _u, _v; or parametrizations.weight_hh_l0.original, 0._u, 0._v:
                      w = orig / (u . orig v), as in evaluation

The formulas are those of the documentation of torch.nn.utils. What else is saved instead of a weight is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gru_xp.stored import FLOATS, Note, Tensor, rounded_to_bfloat16

__all__ = ["reparametrized", "some"]

WEIGHT = r"(?:weight|bias)_[ih]h(?:_l[0-9]{1,6})?(?:_reverse)?"
SOURCE = re.compile(
    rf"(.*[./]|)(?:({WEIGHT})_(g|v|u|orig|mask|raw)|parametrizations[./]({WEIGHT})[./](original[01]?|[0-9]+[./]\w+))",
    re.DOTALL,
)
UNDO = "torch.nn.utils.remove_weight_norm, .prune.remove, .parametrize.remove_parametrizations"


def reparametrized(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[Note]], dict[str, str]]:
    """The arrays with the weights that can be computed, instead of what they are computed from.

    Also, by place ("encoder.gru."), notes of what was computed, and why what is left there is in doubt.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name in tensors:
        if match := SOURCE.fullmatch(name):
            kind = match[3] or match[5].replace("/", ".")
            found.setdefault((match[1], match[2] or match[4]), {})[kind] = name
    result = dict(tensors)
    notes: dict[str, list[Note]] = {}
    doubts: dict[str, str] = {}
    for (place, leaf), sources in found.items():
        told = some(name.removeprefix(place) for name in sources.values())
        way = next((way for way in WAYS if set(way.kinds) == sources.keys()), None)
        given = [tensors[sources[kind]] for kind in way.kinds] if way else []
        away = next((tensor for tensor in given if tensor.elsewhere), None)
        if way is None or place + leaf in tensors or not (away or _fits(way, given)):
            doubts.setdefault(
                place,
                f"{leaf} is computed anew in each call, from {told}; undo that, then save or pass it again: {UNDO}",
            )
            continue
        result[place + leaf] = away or _computed(way, given)
        for source in sources.values():
            del result[source]
        taken = "" if way.fate == "folded" else f"taken for {way.name}'s: "
        why = f"{taken}computed from {told} as {way.name} does; outputs agree to rounding, training differs"
        notes.setdefault(place, []).append(Note(way.fate, leaf, why))
    return result, notes, doubts


@dataclass(frozen=True)
class _Way:
    """How a weight is computed from arrays of these kinds, in float64; the last of them has its shape."""

    name: str
    kinds: tuple[str, ...]
    compute: Callable[..., np.ndarray]
    shapes: Callable[..., bool]
    fate: Literal["folded", "assumed"] = "folded"  # assumed: others keep arrays of such names


def _normed(g: np.ndarray, v: np.ndarray) -> np.ndarray:
    axes = tuple(axis for axis in range(v.ndim) if g.ndim == 0 or g.shape[axis] == 1)
    return g * v / np.sqrt(np.sum(v * v, axis=axes, keepdims=True)) if axes else g * np.sign(v)


def _spectral(u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
    return w / (u @ (w if len(u) == len(w) else w.T) @ v)


def _norms(g: tuple[int, ...], v: tuple[int, ...]) -> bool:
    return g == () or (len(g) == len(v) and all(n in (1, m) for n, m in zip(g, v, strict=True)))


def _vectors(u: tuple[int, ...], v: tuple[int, ...], w: tuple[int, ...]) -> bool:
    return len(w) == 2 and w in ((*u, *v), (*v, *u))


WAYS = (
    _Way("weight_norm", ("g", "v"), _normed, _norms),
    _Way("weight_norm", ("original0", "original1"), _normed, _norms, "assumed"),
    _Way("prune", ("mask", "orig"), np.multiply, lambda mask, orig: mask == orig),
    _Way("spectral_norm in evaluation", ("u", "v", "orig"), _spectral, _vectors),
    _Way("spectral_norm in evaluation", ("0._u", "0._v", "original"), _spectral, _vectors),
)


def _fits(way: _Way, given: Sequence[Tensor]) -> bool:
    dtypes = {tensor.dtype for tensor in given}
    return len(dtypes) == 1 and dtypes <= {*FLOATS} and way.shapes(*(tensor.shape for tensor in given))


def _computed(way: _Way, given: Sequence[Tensor]) -> Tensor:
    """In the dtype of what it is computed from."""
    dtype, shape = given[-1].dtype, given[-1].shape

    def read() -> np.ndarray:
        with np.errstate(all="ignore"):  # of damaged numbers, which are seen to be not finite
            weight = way.compute(*(tensor.read().astype("f8") for tensor in given))
            return rounded_to_bfloat16(weight) if dtype == "bfloat16" else weight.astype(dtype)

    return Tensor(shape, dtype, read)


def some(names: Iterable[str]) -> str:
    """A few of them, in order, for a message."""
    ordered = sorted(names)
    return ", ".join(ordered[:4]) + (", ..." if len(ordered) > 4 else "")
