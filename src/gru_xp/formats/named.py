"""GRUs among arrays with names: one reader for every file and tree that is a mapping from names to arrays.

The last part of a name says what an array is, and all that stands before it where in a larger model it belongs:

    PyTorch    encoder.gru.weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, ..._l1, ..._l0_reverse
               cell.weight_ih, weight_hh, bias_ih, bias_hh
    Equinox    cell.weight_ih, weight_hh, bias, bias_n
    MLX        layers.0.Wx, Wh, b, bhn
    linen      params.GRUCell_0.ir.kernel, ir.bias, iz, in, hr, hz, hn
    NNX        cell.dense_i.kernel, dense_i.bias, dense_h.kernel
    Arraymancer  W3s0, W3sN, U3s, bW3s, bU3s

Keras's and TensorFlow 1's are in `cells`. Parts are joined by "." or "/". What else is there is listed as ignored;
LSTMs and incomplete sets are refused with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from gru_xp.arraymancer import ArraymancerParams, from_arraymancer
from gru_xp.checks import sizes_of
from gru_xp.errors import ConversionError, FileFormatError, GRUError
from gru_xp.formats.cells import CELLS, TENSORFLOW_1
from gru_xp.formats.layouts import UNFOLDED, kind_of, unfolded
from gru_xp.formats.reparametrized import reparametrized, some
from gru_xp.params import CellParams, GRUSpec, Params, map_params
from gru_xp.stored import FLOATS, Arrays, Contents, Note, Refusal, Report, StoredGRU, Tensor

__all__ = ["FLOATS", "Tensor", "grus_in", "pytorch_names"]

EXACT = Note("exact", "the weights")


Group = Mapping[str, Tensor]  # the arrays of one place, by the last part of their names


def grus_in(tensors: Mapping[str, Tensor]) -> Contents:
    """Every GRU among the arrays, in the order of their names; the others are refused or ignored."""
    in_use, computed, origins = reparametrized(tensors)
    grus, refused, used = [], [], tensors.keys() - in_use.keys()
    places = _places(in_use)
    for place in sorted(places, key=_natural):
        group = places[place]
        for layout in LAYOUTS:
            own = layout.own(group)
            if not own:
                continue
            used |= {f"{place}{leaf}" for leaf in own}
            name, origin = place[:-1], origins.pop(place, None)
            try:
                _assert_here({leaf: group[leaf] for leaf in own})
                _assert_floats(group[leaf] for leaf in own)
                params, dtype, note, *told = layout.build({leaf: group[leaf] for leaf in own})
                doubt = [Note("assumed", "the weights are in use as they are", origin)] if origin else []
                untold = [layout.untold(group)] if layout.untold else []
                report = Report((note, *untold, *computed.get(place, ()), *doubt))
                spec = told[0] if told else GRUSpec()
                grus.append(StoredGRU(params, spec, name, dtype, layout.batch_first, report=report))
            except FileFormatError:
                raise  # the file is damaged, which is not for this GRU alone
            except GRUError as error:
                refused.append(Refusal(name, origin or str(error)))
            break
    refused += [Refusal(place[:-1], reason) for place, reason in origins.items()]
    here = {name: tensor for name, tensor in tensors.items() if not tensor.elsewhere}
    ignored = tuple(name for name in here if name not in used)
    return Contents(tuple(_doubted(grus)), tuple(refused), ignored, Arrays(here))


BIASES = Note("assumed", "bias=False", "other GRUs beside it have biases, and of this one there are none")


def _doubted(grus: list[StoredGRU]) -> list[StoredGRU]:
    """With a note where biases may have been lost: where others have them."""
    without = [gru.params[0][0].b_ih is None for gru in grus]
    if all(without):
        return grus
    return [gru.noted(BIASES) if lacks else gru for gru, lacks in zip(grus, without, strict=True)]


def pytorch_names(params: Params) -> dict[str, np.ndarray]:
    """The arrays under PyTorch's names: `weight_ih_l0_reverse`."""
    return {
        f"{field}_l{layer}{'_reverse' if d else ''}": array
        for layer, directions in enumerate(params)
        for d, w in enumerate(directions)
        for field, array in zip(PYTORCH, w, strict=True)
        if array is not None
    }


# ---- places ----------------------------------------------------------------------------------------------------------

CHILD = re.compile(rf"(.*[./]|)((?:[ih][rznifgo]|dense_[ih])[./](?:kernel|bias)|{TENSORFLOW_1})", re.DOTALL)
LEAF = re.compile(r"(.*[./]|)(.*)", re.DOTALL)


def _places(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The arrays by where they stand, the separator included: {"encoder.gru.": {"weight_ih_l0": ...}}."""
    places: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = CHILD.fullmatch(name) or LEAF.fullmatch(name)
        assert match is not None
        places.setdefault(match[1], {})[match[2]] = tensor
    return places


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """A key that puts "layers.10" behind "layers.9"."""
    parts = re.split(r"([0-9]{1,9})", name)
    return [(place % 2 == 1, int(part) if place % 2 else 0, part) for place, part in enumerate(parts)]


# ---- layouts ---------------------------------------------------------------------------------------------------------

Built = tuple[Params, str, Note] | tuple[Params, str, Note, GRUSpec]


@dataclass(frozen=True)
class _Layout:
    own: Callable[[Group], list[str]]  # which of the arrays of a place are its own; none if it is another layout
    build: Callable[[Group], Built]
    untold: Callable[[Group], Note] | None = None  # what the arrays do not say, and what is taken for it
    batch_first: bool | None = None  # in all layers of whoever gives these names; None where they have either


FLAX_UNTOLD = Note(
    "assumed",
    "gate_fn=sigmoid, activation_fn=tanh, reverse=False, carry_init=zeros",
    "arrays alone say none of these; outputs differ if the layer had others",
)

PYTORCH = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
LAYERED = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)_l(0|[1-9]\d{0,5})(_reverse)?")
MOST_LAYERS = 1000


def _own_stack(group: Group) -> list[str]:
    return [leaf for leaf in group if LAYERED.fullmatch(leaf)]


def _build_stack(group: Group) -> Built:
    found: dict[tuple[int, int], dict[str, Tensor]] = {}
    for leaf, tensor in group.items():
        match = LAYERED.fullmatch(leaf)
        assert match is not None
        found.setdefault((int(match[2]), 1 if match[3] else 0), {})[match[1]] = tensor
    L, D = 1 + max(layer for layer, _ in found), 1 + max(d for _, d in found)
    if L > MOST_LAYERS or len(found) < L * D:
        there = "; ".join(sorted(group)[:8])
        raise ConversionError(f"incomplete: expected the arrays of {L} layers in {D} directions, got {there}")
    bias = any("bias" in field for fields in found.values() for field in fields)
    fields = PYTORCH if bias else PYTORCH[:2]
    names = {(layer, d): f"_l{layer}{'_reverse' if d else ''}" for layer in range(L) for d in range(D)}
    for place, end in names.items():
        if "weight_hr" in found[place]:
            raise ConversionError(f"an LSTM with a projection: weight_hr{end}")
        _assert_complete(found[place], fields, end)
        _assert_gru(found[place]["weight_hh"])
    dtype = _one_dtype(group.values())
    params = tuple(
        tuple(CellParams(*(found[layer, d][field].read() for field in fields)) for d in range(D)) for layer in range(L)
    )
    sizes_of(params)
    return params, dtype, Note("exact", "the weights", "dropout is no part of such names" if L > 1 else "")


def _own_cell(group: Group) -> list[str]:
    if "weight_hh" not in group or "bias_n" in group or ("bias" in group and "bias_hh" not in group):
        return []
    return [leaf for leaf in group if leaf in PYTORCH]


def _build_cell(group: Group) -> Built:
    fields = PYTORCH if any("bias" in leaf for leaf in group) else PYTORCH[:2]
    _assert_complete(group, fields)
    _assert_gru(group["weight_hh"])
    return _one_cell(CellParams(*(group[field].read() for field in fields))), _one_dtype(group.values()), EXACT


def _folded_layout(W_ih: str, W_hh: str, b: str, b_n: str, *, batch_first: bool | None = None) -> _Layout:
    """Rows r, z, n; one bias and a half."""

    def own(group: Group) -> list[str]:
        return [leaf for leaf in group if leaf in (W_ih, W_hh, b, b_n)] if W_hh in group and W_ih in group else []

    def build(group: Group) -> Built:
        _assert_gru(group[W_hh])
        fields = (W_ih, W_hh, b, b_n) if b in group or b_n in group else (W_ih, W_hh)
        _assert_complete(group, fields)
        arrays = [group[field].read() for field in fields]
        return _one_cell(unfolded(*arrays, *[None] * (4 - len(arrays)))), _one_dtype(group.values()), _note(fields)

    return _Layout(own, build, batch_first=batch_first)


LINEN = ("ir", "iz", "in", "hr", "hz", "hn")


def _own_linen(group: Group) -> list[str]:
    return [leaf for leaf in group if CHILD.fullmatch(leaf) and leaf[:1] in "ih"]


def _build_linen(group: Group) -> Built:
    kernels: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    for leaf, tensor in group.items():
        (kernels if leaf.endswith("kernel") else biases)[leaf[:2]] = tensor
    if "hf" in kernels and "ho" in kernels:
        raise ConversionError("an LSTM: four gates")
    wanted = ("ir", "iz", "in", "hn") if biases else ()
    _assert_complete(kernels, LINEN, " kernel")
    _assert_complete(biases, wanted, " bias")
    if {*biases} - {*wanted}:
        raise ConversionError(f"another cell than Flax's GRUCell, with a bias of {some({*biases} - {*wanted})}")
    read = {gate: kernels[gate].read() for gate in LINEN}
    if any(a.ndim != 2 for a in read.values()) or len({a.shape for gate, a in read.items() if gate[0] == "i"}) != 1:
        raise ConversionError("expected kernels (I, H) and (H, H) of one I and one H")
    W_ih, W_hh = (np.concatenate([read[side + gate].T for gate in "rzn"]) for side in "ih")
    one_bias = (
        (np.concatenate([biases[gate].read() for gate in wanted[:3]]), biases["hn"].read()) if wanted else (None, None)
    )
    return _one_cell(unfolded(W_ih, W_hh, *one_bias)), _one_dtype(group.values()), _note(wanted)


NNX = ("dense_i", "dense_h")


def _own_nnx(group: Group) -> list[str]:
    return list(group) if any(leaf.startswith(NNX) for leaf in group) else []


def _build_nnx(group: Group) -> Built:
    found = {re.sub(r"[./]", " ", leaf): tensor for leaf, tensor in group.items()}
    _assert_complete(found, ("dense_i kernel", "dense_h kernel"))
    _assert_gru(found["dense_h kernel"], turned=True)
    more = found.keys() - {"dense_i kernel", "dense_i bias", "dense_h kernel"}
    if more:
        raise ConversionError(f"another cell than Flax NNX's GRUCell as of 0.12, which has no {some(more)}")
    W_ih, W_hh = (np.ascontiguousarray(found[f"{side} kernel"].read().T) for side in NNX)
    bias = found["dense_i bias"].read() if "dense_i bias" in found else None
    b_n = None if bias is None else np.zeros(W_hh.shape[1], bias.dtype)
    note = EXACT if bias is None else Note("exact", "the weights", "b_hh is zero, because Flax NNX's GRUCell has none")
    return _one_cell(unfolded(W_ih, W_hh, bias, b_n)), _one_dtype(group.values()), note


def _own_arraymancer(group: Group) -> list[str]:
    return [leaf for leaf in group if leaf in ArraymancerParams._fields] if "U3s" in group else []


def _build_arraymancer(group: Group) -> Built:
    fields = ArraymancerParams._fields
    _assert_complete(group, [field for field in fields if field != "W3sN"])
    params = from_arraymancer(*(group[field].read() if field in group else None for field in fields))
    return map_params(np.ascontiguousarray, params), _one_dtype(group.values()), EXACT


def _cell(build: Callable[[Group], tuple[CellParams, Note, GRUSpec]]) -> Callable[[Group], Built]:
    def built(group: Group) -> Built:
        w, note, spec = build(group)
        return _one_cell(w), _one_dtype(group.values()), note, spec

    return built


LAYOUTS = (
    _Layout(_own_arraymancer, _build_arraymancer, batch_first=False),
    _Layout(_own_stack, _build_stack),
    _Layout(_own_cell, _build_cell),
    _folded_layout("weight_ih", "weight_hh", "bias", "bias_n"),
    _folded_layout("Wx", "Wh", "b", "bhn", batch_first=True),
    _Layout(_own_linen, _build_linen, lambda group: FLAX_UNTOLD),
    _Layout(_own_nnx, _build_nnx, lambda group: FLAX_UNTOLD),
    *(_Layout(own, _cell(build), untold, batch_first) for own, build, untold, batch_first in CELLS),
)


# ---- checks ----------------------------------------------------------------------------------------------------------


def _assert_complete(group: Mapping[str, Tensor], fields: Iterable[str], end: str = "") -> None:
    missing = {f"{field}{end}" for field in fields if field not in group}
    if missing:
        raise ConversionError(f"incomplete: expected {some(missing)} too")


def _assert_gru(W_hh: Tensor, *, turned: bool = False) -> None:
    shape = W_hh.shape[::-1] if turned else W_hh.shape
    if len(shape) != 2 or shape[0] != 3 * shape[1] or shape[1] == 0:
        raise ConversionError(kind_of(shape))


def _assert_here(group: Group) -> None:
    """Of a GRU in several files, this one has all."""
    if away := {leaf: tensor.elsewhere for leaf, tensor in group.items() if tensor.elsewhere}:
        which = "all of it" if len(away) == len(group) else some(away)
        verb = "are" if len(group) > len(away) > 1 else "is"
        raise ConversionError(f"incomplete: {which} {verb} {'; '.join(dict.fromkeys(away.values()))}")


def _assert_floats(tensors: Iterable[Tensor]) -> None:
    """Before anything else: what is no array of numbers has no shape that tells anything."""
    found = {tensor.dtype for tensor in tensors}
    if not found <= {*FLOATS}:
        raise ConversionError(f"expected arrays of one of {', '.join(FLOATS)}, got {some(found)}")


def _one_dtype(tensors: Iterable[Tensor]) -> str:
    found = {tensor.dtype for tensor in tensors}
    if len(found) > 1:
        raise ConversionError(f"expected arrays of one of {', '.join(FLOATS)}, got {some(found)}")
    return found.pop()


def _one_cell(w: CellParams) -> Params:
    params = ((w,),)
    sizes_of(params)
    return params


def _note(biases: Iterable[str]) -> Note:
    return Note("exact", "the weights", UNFOLDED) if biases else EXACT
