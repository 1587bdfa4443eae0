"""What a call was given, and what its arguments mean: checked once for each kind of call."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

from .backend import Backend, Purpose
from .checks import (
    assert_directions,
    assert_expected,
    booleans_beside,
    canonical,
    check_agree,
    sizes_of,
    structured,
    valid_steps,
)
from .discovery import Place, known_owner, owner
from .errors import DTypeError, NotDifferentiableError, ShapeError, StructureError
from .interfaces import Function, Options, Save
from .params import GRUSpec, Params, Sizes, map_params, names_of, weights_of
from .prepared import PreparedParams
from .selection import place_for, selection

__all__ = ["CELL", "SEQUENCE", "STEP", "Arguments", "Checked", "Words", "check"]


class Arguments(NamedTuple):
    """The array arguments of `gru` and its relatives, as they were given."""

    x: Any
    params: Any
    h0: Any = None
    lengths: Any = None
    mask: Any = None
    resets: Any = None
    dropout_masks: Any = None


class Words(NamedTuple):
    """What errors call the arguments: a cell and a step of a stream are sequences of one step, and do not say so."""

    x: str = "x"
    h0: str = "h0"
    resets: str = "resets"
    step: bool = False  # x was given without its axis of time
    cell: bool = False  # and the state and the parameters without their layers
    rows: str = "L*D"
    origin: str = "L, D and H come from params and N from x"


SEQUENCE = Words()
CELL = Words(h0="h", step=True, cell=True, origin="H comes from W_hh and N from x")
STEP = Words("x_t", "state", "reset", step=True, rows="L", origin="L and H come from params, N from x_t")


class Checked(NamedTuple):
    """A call whose arguments are right: the arrays, still where they came from, and where they go."""

    function: Function
    source: Backend
    caller: Place  # where the arrays are
    place: Place  # where the call computes
    sizes: Sizes
    batched: bool
    as_is: bool  # whether all arrays are taken as they came
    x: Any  # (T, N, I)
    h0: Any  # (L*D, N, H) or None
    params: Params
    prepared: PreparedParams | None
    options: Options
    dropout_masks: Any  # (L-1, T, N, D*H) or None

    @property
    def crossing(self) -> bool:
        """Whether the call computes elsewhere than where its arrays are."""
        return self.place != self.caller

    @property
    def integers(self) -> bool:
        """Whether the products round x and the state to 8 bits."""
        narrow = None if self.prepared is None else self.prepared.narrow
        return narrow is not None and narrow.activations == "int8"

    @property
    def arrays(self) -> list[Any]:
        """All that may be differentiated."""
        return [a for a in (self.x, self.h0, self.dropout_masks) if a is not None] + weights_of(self.params)


def check(
    function: Function, a: Arguments, spec: GRUSpec, backend: str | Backend | None, save: Save | None, words: Words
) -> Checked:
    """Check that the arguments fit each other, and find out where to compute."""
    if type(spec) is not GRUSpec:
        raise StructureError(f"spec: expected a GRUSpec, got {spec!r}")
    x, h0, dropout_masks = a.x, a.h0, a.dropout_masks
    source = owner(x, words.x)
    x = canonical(x, words.x, source)
    if x.ndim not in (2, 3):
        expected = "(N, I), or (I,) without a batch" if words.step else "(T, N, I), or (T, I) without a batch"
        raise ShapeError(f"{words.x}: expected {expected}, got {tuple(x.shape)[int(words.step) :]}")
    batched = x.ndim == 3
    prepared = a.params if isinstance(a.params, PreparedParams) else None
    if prepared is not None and prepared.narrow is not None and function == "forward":
        raise NotDifferentiableError(
            f"params: expected parameters that can be trained, got {prepared.narrow}, which have no gradient; "
            f"train the model that they were made of"
        )
    params = prepared.params if prepared else structured(a.params)
    sizes = prepared.sizes if prepared else sizes_of(params, cell=words.cell)
    assert_directions(spec, sizes)
    if None in tuple(x.shape) and not source.takes_whole_calls:
        raise ShapeError(f"x: expected sizes that are known, got {tuple(x.shape)}; compute it first")
    T, N, rows = x.shape[0], x.shape[1] if batched else 1, sizes.L * sizes.D
    batch = {"N": N} if batched else {}
    came_from = f"I = {sizes.I} comes from W_ih"
    assert_expected(x, words.x, {"T": T, **batch, "I": sizes.I}, came_from, without_first=words.step)
    _assert_dtype_of_params(x, words.x, params, prepared, source)

    names, others = [], []
    if h0 is not None:
        axes = {words.rows: rows, **batch, "H": sizes.H}
        assert_expected(h0, words.h0, axes, words.origin, without_first=words.cell)
        h0 = canonical(h0, words.h0, source)
        names.append(words.h0)
        others.append(h0)
    if dropout_masks is not None:
        axes = {"L-1": sizes.L - 1, "T": T, **batch, "D*H": sizes.D * sizes.H}
        assert_expected(dropout_masks, "dropout_masks", axes, "L, D and H come from params, T and N from x")
        dropout_masks = canonical(dropout_masks, "dropout_masks", source)
        names.append("dropout_masks")
        others.append(dropout_masks)
    came = [a for a in (a.x, a.h0, a.dropout_masks) if a is not None] + ([] if prepared else weights_of(params))
    if not prepared:
        names_of_weights = iter(names_of(params, cell=words.cell))
        params = map_params(lambda a: canonical(a, next(names_of_weights), source), params)
    arrays = others if prepared else others + weights_of(params)

    def name_of(index: int) -> str:
        return [*names, *names_of(params, cell=words.cell)][index]

    check_agree(words.x, x, arrays, name_of, source)
    as_is = all(map(operator.is_, [x, *arrays], came))
    caller = Place(source, source.device_of(x))
    place = place_for(selection(backend), caller)
    _assert_computed(x, words.x, source, place)
    if place.backend is not source:
        names = [words.x, *map(name_of, range(len(arrays)))]
        _assert_can_cross([x, *arrays], names, source, place, "differentiate" if function == "gru" else "compute")
    if prepared is not None:
        prepared = prepared.at(place)
        params = prepared.params
    if not batched:
        x = x[:, None, :]
        h0 = None if h0 is None else h0[:, None, :]
        dropout_masks = None if dropout_masks is None else dropout_masks[:, :, None, :]
    valid, resets = _steps(a, T, N, x, caller, words, batched=batched)
    options = Options(spec, valid, resets, spec.reverse, save)
    return Checked(
        function, source, caller, place, sizes, batched, as_is, x, h0, params, prepared, options, dropout_masks
    )


def _steps(a: Arguments, T: int, N: int, x: Any, caller: Place, words: Words, *, batched: bool) -> tuple[Any, Any]:
    """Which steps are no padding, and before which the state is reset: (T, N) booleans or None."""
    valid = resets = None
    source = caller.backend
    with source.computing(caller.device, recorded=True):
        if a.mask is not None:
            if a.lengths is not None:
                raise StructureError("mask: expected lengths or mask, got both; a mask says what lengths would")
            valid = booleans_beside(a.mask, "mask", T, N, x, source, batched=batched)
        elif a.lengths is not None:
            valid = valid_steps(a.lengths, T, N, x, source, batched=batched)
        if a.resets is not None:
            resets = booleans_beside(a.resets, words.resets, T, N, x, source, batched=batched)
    return valid, resets


def _assert_dtype_of_params(
    x: Any, name: str, params: Params, prepared: PreparedParams | None, source: Backend
) -> None:
    """All weights being of one floating-point dtype, it is x that has to have it."""
    if not prepared and any(known_owner(type(w)) is not source for w in weights_of(params)):
        return
    library = prepared.place.backend if prepared else source
    wanted = {library.dtype_name(getattr(w, "dtype", None)) for w in weights_of(params)}
    got = source.dtype_name(x.dtype)
    if len(wanted) == 1 and got not in wanted and source.holds(got) and all(map(library.holds, wanted)):
        (dtype,) = wanted
        cast = f"{name}.astype({dtype!r})" if hasattr(x, "astype") else f"cast it to {dtype}"
        whose, or_else = "the parameters have", ""
        if prepared is not None and prepared.movable:
            whose, or_else = "the model has", f", or GRU(..., dtype={got!r})"
        raise DTypeError(f"{name}: expected {dtype}, as {whose}, got {got}; {cast}{or_else}")


def _assert_computed(x: Any, name: str, source: Backend, place: Place) -> None:
    """The dtype, which the arrays' library has, is one that can be computed with."""
    floats = place.backend.float_names()
    dtype = source.dtype_name(x.dtype)
    if dtype not in floats:
        if place.backend is source:
            expected = f"expected a floating-point dtype of {source.name} ({', '.join(floats)}), got {dtype}"
            raise DTypeError(f"{name}: {expected}; cast it, or use a backend that has it, such as backend='torch'")
        raise DTypeError(
            f"{name}: {place.backend.name} has no {dtype} ({', '.join(floats)}); cast it, or compute where it is "
            f"(backend='auto')"
        )


def _assert_can_cross(arrays: list[Any], names: list[str], source: Backend, place: Place, purpose: Purpose) -> None:
    for array, name in zip(arrays, names, strict=True):
        reason = source.refuses_crossing(array, purpose)
        if reason is not None:
            gradient = purpose == "differentiate" and source.refuses_crossing(array, "compute") is None
            instead = "use gru_forward and gru_backward, or gru_inference, or " if gradient else ""
            raise NotDifferentiableError(
                f"{name}: {reason}, so it cannot be taken from {source.name} to {place.backend.name} and back; "
                f"{instead}compute where it is (backend='auto')"
            )
