"""GRUs that torch.ao.quantization.quantize_dynamic made: integers with scales, packed for a processor's instructions.

A file holds each product's weight and bias (LinearPackedParamsBase), and of a GRU those of each layer and direction
(CellParamsBase). The weights are int8 with one scale, or with one for each row, and are read as
(q - zero point) * scale in float32, as `Tensor.dequantize` computes it; they stay int8 weights where all of a GRU have
the zero point 0. Or they are float32 that hold float16 numbers. PyTorch rounds what is multiplied by int8 weights to 8
bits too, which nothing here does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gru_xp.errors import FileFormatError
from gru_xp.formats.named import pytorch_names
from gru_xp.formats.pytorch.calls import CELL, joined
from gru_xp.narrow import Narrow, are_int8
from gru_xp.params import CellParams
from gru_xp.stored import Note, Refusal, Report, StoredGRU, Tensor

__all__ = ["UNREADABLE", "Dequantised", "dequantised", "is_packed", "noted", "of_modules", "unpacked"]

BASES = ("torch.classes.rnn.CellParamsBase", "torch.classes.quantized.LinearPackedParamsBase")
KINDS = ("quantized", "quantized_dynamic", "quantized_fp16")
SCHEMES = {"torch.per_tensor_affine": 3, "torch.per_channel_affine": 4}  # and how long their descriptions are
STORED = Note("exact", "int8 weights", "the file's integers and scales")
WIDENED = Note("folded", "int8 weights", "the file holds integers with scales, which are multiplied out here")
ROUNDED = Note(
    "changed",
    "the quantised products",
    "quantize_dynamic rounds x and the state to 8 bits before each product; here they are not rounded",
)
SAVE = "in PyTorch save its numbers, which can be loaded: torch.save({**gru.get_weight(), **gru.get_bias()}, path)"
UNREADABLE = f"a quantised layer, packed in a way that is not read; {SAVE}"
AMBIGUOUS = f"quantised, and nothing says whether it has two layers or two directions; {SAVE}"


@dataclass(frozen=True)
class Dequantised(Tensor):
    """An array of the file's integers and scales; `scales` reads one of each row, if the zero point is 0."""

    scales: Callable[[], np.ndarray | None] = lambda: None


def dequantised(integers: Tensor, scheme: Any) -> Tensor:
    """Quantised numbers as float32; `scheme` is its name, scale and zero point, or scales, zero points and an axis."""
    kind = getattr(scheme[0], "origin", "") if type(scheme) is tuple and scheme else ""
    if SCHEMES.get(kind) != len(scheme) or integers.dtype not in ("int8", "uint8", "int32"):
        raise FileFormatError("expected quantised numbers with scales")
    scale, zero, *axis = scheme[1:]

    def spread(value: Any) -> Any:
        """A number, or one for each row."""
        if not axis:
            return np.asarray(value)
        if not isinstance(value, Tensor) or axis[0] != 0 or value.shape != integers.shape[:1]:
            raise FileFormatError("expected one scale for each row of a matrix")
        return value.read()[:, None]

    def read() -> np.ndarray:
        with np.errstate(all="ignore"):  # of damaged numbers
            shifted = integers.read().astype("f4") - spread(zero).astype("f4")
            return (shifted * spread(scale).astype("f4")).astype("f4")

    def scales() -> np.ndarray | None:
        if (spread(zero) != 0).any():
            return None
        return np.broadcast_to(spread(scale).astype("f4").reshape(-1), integers.shape[:1])

    return Dequantised(integers.shape, "float32", read, scales=scales)


def is_packed(origin: str) -> bool:
    return origin == "torch.ScriptObject" or origin.removeprefix("__torch__.") in BASES


def unpacked(state: Any) -> dict[str, Tensor]:
    """The arrays of packed weights, "weight_ih" and so on, or "weight" and "bias"; none of what is something else."""
    if type(state) is tuple and len(state) == 2 and state[1] in (f"__torch__.{base}" for base in BASES):
        state = state[0]  # with the class, where torch.save wrote it
    if type(state) is not tuple:
        return {}
    if len(state) == 2:
        return {name: each for name, each in zip(("weight", "bias"), state, strict=True) if isinstance(each, Tensor)}
    if len(state) != 5 or state[0] not in KINDS or type(state[4]) is not list or len(state[4]) != 2:
        return {}
    found: dict[str, Tensor] = {}
    for name, product in zip(("ih", "hh"), state[4], strict=True):
        arrays = unpacked(getattr(product, "state", None))
        found |= {f"{field}_{name}": array for field, array in arrays.items() if field in ("weight", "bias")}
    return found


# What a quantised GRU, GRUCell or LSTM has, by name, instead of its weights; "leaf" is missing where it is not read.
PACKED = re.compile(
    r"(?P<place>.*\.|)(?:_all_weight_values\.(?P<index>[0-9]{1,4})\.param|_packed_weight_(?P<side>[ih]h))"
    r"(?:\.(?P<leaf>\w+))?",
    re.DOTALL,
)


def of_modules(tensors: Mapping[str, Tensor], directions: Mapping[str, int]) -> tuple[dict[str, Tensor], list[Refusal]]:
    """The arrays with those of quantised GRUs under PyTorch's names, and the GRUs that cannot be had.

    Args:
        tensors: by name.
        directions: how many a module says that it has, by name.
    """
    named: dict[str, Tensor] = {}
    layered: dict[str, dict[tuple[int, str], Tensor]] = {}
    refused: dict[str, str] = {}
    for name, tensor in tensors.items():
        match = PACKED.fullmatch(name)
        if match is None:
            named.setdefault(name, tensor)
        elif match["leaf"] is None:
            refused[match["place"][:-1]] = UNREADABLE
        elif match["side"]:
            named[f"{match['place']}{match['leaf']}_{match['side']}"] = tensor
        else:
            layered.setdefault(match["place"], {})[int(match["index"]), match["leaf"]] = tensor
    for place, found in layered.items():
        D = directions.get(place[:-1]) or _directions(found)
        if D == 0:
            refused[place[:-1]] = AMBIGUOUS
        for (index, leaf), tensor in found.items() if D else ():
            named[f"{place}{leaf}_l{index // D}{'_reverse' if index % D else ''}"] = tensor
    return named, [Refusal(name, reason) for name, reason in refused.items()]


def _directions(found: Mapping[tuple[int, str], Tensor]) -> int:
    """By what the second cell and the third take as x; 0 where that may be either."""
    shapes = [found[index, "weight_ih"].shape for index in range(3) if (index, "weight_ih") in found]
    if len(shapes) < 2 or any(len(shape) != 2 for shape in shapes):
        return 1
    first, second, *third = (shape[1] for shape in shapes)
    H = shapes[0][0] // 3
    if first != second:
        return 1
    if third:
        return 2 if third[0] == 2 * H else 1
    return 0 if first == H else 2


def noted(gru: StoredGRU, tensors: Mapping[str, Tensor]) -> StoredGRU:
    """As int8 weights with notes of what is not as in PyTorch, if its weights are integers there."""
    own = (joined(gru.name, leaf) for leaf in (*pytorch_names(gru.params), *CELL))
    if not any(isinstance(tensors.get(name), Dequantised) for name in own):
        return gru
    rest = (note for note in gru.report.notes if note.fate != "exact")
    narrow = _narrow(gru, tensors)
    told = (Note("exact", "the biases"), WIDENED if narrow is None else STORED, ROUNDED, *rest)
    return replace(gru, narrow=narrow, report=Report(told))


def _narrow(gru: StoredGRU, tensors: Mapping[str, Tensor]) -> Narrow | None:
    """The scales of all weights; None where one has none, or a zero point."""

    def scales(layer: int, d: int, field: str, W: np.ndarray) -> np.ndarray | None:
        names = (f"{field}_l{layer}{'_reverse' if d else ''}", field)  # the latter of a cell
        held = next((found for name in names if (found := tensors.get(joined(gru.name, name))) is not None), None)
        rows = held.scales() if isinstance(held, Dequantised) else None
        return rows if rows is not None and are_int8(W, rows, np) else None

    found = tuple(
        tuple(
            CellParams(*(scales(layer, d, *each) for each in zip(CELL[:2], w[:2], strict=True)))
            for d, w in enumerate(ws)
        )
        for layer, ws in enumerate(gru.params)
    )
    every = all(rows is not None for cells in found for w in cells for rows in w[:2])
    return Narrow("int8", scales=found) if every else None
