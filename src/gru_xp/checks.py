"""Checks of arguments, and the sizes found on the way."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

from .backend import Backend
from .discovery import assert_same_library, known_owner, owner
from .errors import DTypeError, MixedArraysError, RangeError, ShapeError, StructureError
from .params import CellParams, GRUSpec, Params, Sizes


def structured(params: Any) -> Params:
    """The parameters as tuples of tuples of CellParams; takes lists and plain tuples of two or four too."""
    return params if is_structured(params) else _restructured(params)


def is_structured(params: Any) -> bool:
    """Whether these are tuples of tuples of CellParams, with as many directions in each layer."""
    if type(params) is not tuple or not params:
        return False
    for layer in params:
        if type(layer) is not tuple or not 0 < len(layer) < 3 or len(layer) != len(params[0]):
            return False
        if type(layer[0]) is not CellParams or type(layer[-1]) is not CellParams:
            return False
    return True


def _restructured(params: Any) -> Params:
    if isinstance(params, CellParams):
        raise StructureError(
            "params: expected a tuple of layers, each a tuple of directions, got a bare CellParams; wrap it: ((w,),)"
        )
    if getattr(params, "narrow", None) is not None:
        raise StructureError(
            f"params: expected a tuple of layers, got quantised ones with {params.narrow}; GRU.from_params(params) "
            f"takes them to any library, and params.params are the numbers that they mean, in float32"
        )
    if hasattr(params, "params"):
        raise StructureError(f"params: expected a tuple of layers, got {kind_of(params)}; pass its .params")
    if hasattr(params, "keys") or hasattr(params, "state_dict"):
        raise StructureError(
            f"params: expected a tuple of layers, got {kind_of(params)}; gru_xp.from_framework(...).params makes "
            f"one of a state_dict, or of the layers and cells of PyTorch, Keras, Flax and others"
        )
    if not isinstance(params, tuple | list) or not params:
        raise StructureError(f"params: expected a tuple of layers, each a tuple of directions, got {kind_of(params)}")
    layers = []
    for index, layer in enumerate(params):
        if isinstance(layer, CellParams) or not isinstance(layer, tuple | list) or len(layer) not in (1, 2):
            raise StructureError(
                f"params[{index}]: expected a tuple of one or two directions, got {kind_of(layer)}; "
                f"for one direction write ((w,),)"
            )
        layers.append(tuple(_cell(w, f"params[{index}][{d}]") for d, w in enumerate(layer)))
        if len(layers[index]) != len(layers[0]):
            raise StructureError(
                f"params[{index}]: expected {len(layers[0])} directions as in params[0], got {len(layers[index])}"
            )
    return tuple(layers)


def _cell(w: Any, name: str) -> CellParams:
    if isinstance(w, CellParams):
        return w
    if isinstance(w, tuple | list) and len(w) in (2, 4):
        return CellParams(*w)
    raise StructureError(f"{name}: expected CellParams(W_ih, W_hh, b_ih, b_hh), got {kind_of(w)}")


def sizes_of(params: Params, *, cell: bool = False) -> Sizes:
    """The sizes, from shapes that fit together."""
    first = params[0][0]
    W_hh = _shape(first.W_hh, _path(0, 0, cell) + "W_hh")
    if len(W_hh) != 2 or W_hh[0] != 3 * W_hh[1] or W_hh[1] == 0:
        raise ShapeError(f"{_path(0, 0, cell)}W_hh: expected (3H, H) with H of at least 1, got {tuple(W_hh)}")
    W_ih = _shape(first.W_ih, _path(0, 0, cell) + "W_ih")
    if len(W_ih) != 2 or W_ih[0] != W_hh[0]:
        raise ShapeError(
            f"{_path(0, 0, cell)}W_ih: expected (3H, I) = ({W_hh[0]}, I), got {tuple(W_ih)}; "
            f"H = {W_hh[1]} comes from W_hh"
        )
    sizes = Sizes(W_ih[1], W_hh[1], len(params), len(params[0]), first.b_ih is not None)
    G, H, D = W_hh[0], W_hh[1], sizes.D
    for layer, directions in enumerate(params):
        K = sizes.I if layer == 0 else D * H
        for d, w in enumerate(directions):
            try:
                fits = w.W_ih.shape == (G, K) and w.W_hh.shape == (G, H)
                if sizes.bias:
                    fits = fits and w.b_ih.shape == (G,) and w.b_hh.shape == (G,)
                else:
                    fits = fits and w.b_ih is None and w.b_hh is None
            except AttributeError:
                fits = False
            if not fits:
                _assert_cell_fits(w, _path(layer, d, cell), sizes, K, "I" if layer == 0 else "D*H")
    return sizes


def assert_directions(spec: GRUSpec, sizes: Sizes) -> None:
    """The spec is one for as many directions as there are."""
    if spec.reverse and sizes.D == 2:
        raise StructureError(
            "spec: expected reverse=False for two directions, of which one is reversed already, got reverse=True"
        )


def _path(layer: int, d: int, cell: bool) -> str:
    """How errors call a cell's parameters."""
    return "" if cell else f"params[{layer}][{d}]."


def _assert_cell_fits(w: CellParams, path: str, sizes: Sizes, K: int, letter: str) -> None:
    """The cell's arrays have the shapes that the sizes ask for; says in detail what does not fit."""
    H = sizes.H
    if (w.b_ih is None) != (w.b_hh is None):
        missing, given = ("b_ih", "b_hh") if w.b_ih is None else ("b_hh", "b_ih")
        raise StructureError(
            f"{path}{missing}: expected an array, because {given} is given, got None; give both biases or neither"
        )
    if (w.b_ih is not None) != sizes.bias:
        raise StructureError(
            f"{path}b_ih: expected {'an array' if sizes.bias else 'None'} as in params[0][0], got {kind_of(w.b_ih)}; "
            f"give biases in every layer and direction or in none"
        )
    wanted = (
        ("W_hh", w.W_hh, "(3H, H)", (3 * H, H)),
        ("W_ih", w.W_ih, f"(3H, {letter})", (3 * H, K)),
        ("b_ih", w.b_ih, "(3H,)", (3 * H,)),
        ("b_hh", w.b_hh, "(3H,)", (3 * H,)),
    )
    for name, array, letters, shape in wanted:
        if (array is not None or sizes.bias or "W" in name) and tuple(_shape(array, path + name)) != shape:
            origin = "W_hh" if not path else "params[0][0].W_hh"
            raise ShapeError(
                f"{path}{name}: expected {letters} = {shape}, got {tuple(array.shape)}; H = {H} comes from {origin}"
            )


def assert_expected(
    array: Any, name: str, axes: dict[str, int], came_from: str, *, without_first: bool = False
) -> None:
    """The array has these axes, by their letters; the first was added by us if the caller gave it `without_first`.

    A size that is None, on either side, is known to nobody while a call is traced.
    """
    got, wanted = tuple(_shape(array, name)), tuple(axes.values())
    if got != wanted and not _fit(got, wanted):
        letters, shape = list(axes)[without_first:], tuple(axes.values())[without_first:]
        comma = "," if len(letters) == 1 else ""
        got = tuple(array.shape)[without_first:]
        raise ShapeError(f"{name}: expected ({', '.join(letters)}{comma}) = {shape}, got {got}; {came_from}")


def _fit(got: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(got) == len(wanted) and all(a == b or None in (a, b) for a, b in zip(got, wanted, strict=True))


def assert_shape(array: Any, name: str, letters: str, shape: tuple[int, ...], why: str) -> None:
    """The array has that shape; `letters` says it in the glossary's letters and `why` where the numbers come from."""
    if tuple(_shape(array, name)) != shape:
        raise ShapeError(f"{name}: expected {letters} = {shape}, got {tuple(array.shape)}; {why}")


def _shape(array: Any, name: str) -> tuple[int, ...]:
    try:
        return tuple(array.shape)
    except AttributeError:
        raise StructureError(f"{name}: expected an array, got {kind_of(array)}") from None


def canonical(array: Any, name: str, source: Backend) -> Any:
    """The array as the mathematics can take it; one of another library as it is, to be refused with all of them."""
    if owner(array, name) is not source:
        return array
    try:
        return source.canonical(array)
    except StructureError as error:
        raise StructureError(f"{name}: {error}") from None


def assert_floating(dtype: Any, name: str, source: Backend, what_to_do: str) -> None:
    """A floating-point dtype of the library, which itself may have no arithmetic for it."""
    if not source.holds(source.dtype_name(dtype)):
        floats = ", ".join(source.float_names())
        raise DTypeError(f"{name}: expected a floating-point dtype ({floats}), got {dtype}; {what_to_do}")


def check_agree(first_name: str, first: Any, others: list[Any], name_of: Callable[[int], str], source: Backend) -> None:
    """All arrays belong to one library, have one dtype and lie on one device: those of the first.

    `name_of` returns what the caller calls one of the others; it is asked only for an error.
    """
    kind, dtype, beside = type(first), first.dtype, source.beside
    assert_floating(dtype, first_name, source, "cast it first")
    for index, array in enumerate(others):
        if type(array) is not kind and known_owner(type(array)) is not source:
            assert_same_library(array, name_of(index), source, first_name)
        if array.dtype != dtype and source.dtype_name(array.dtype) != source.dtype_name(dtype):
            raise DTypeError(
                f"{name_of(index)}: expected {dtype}, as {first_name} has, got {array.dtype}; cast one of them"
            )
        if not beside(first, array):
            assert_beside(array, name_of(index), first, first_name, source)


def valid_steps(lengths: Any, T: int, N: int, x: Any, source: Backend, *, batched: bool) -> Any:
    """Lengths (N,) -> which steps are no padding: (T, N) booleans, or None where all are known to be valid.

    Host data (numbers, lists, NumPy arrays) is checked to lie within 0..T; values on a device or traced are not looked
    at.
    """
    device = source.device_beside(x)
    host = host_lengths(lengths, T, N, batched=batched)
    if host is None:
        assert_same_library(lengths, "lengths", source, "x")
        if not source.dtype_name(lengths.dtype).startswith(("int", "uint")):
            raise DTypeError(f"lengths: expected integers, got {lengths.dtype}")
        assert_beside(lengths, "lengths", x, "x", source)
        assert_shape(lengths, "lengths", "(N,)", (N,), "N comes from x")
    else:
        if all(number == T for number in host):
            return None
        lengths = source.from_host(host, None, device)
    steps = source.xp.arange(T, device=device)
    if lengths.dtype != steps.dtype:
        lengths = source.xp.astype(lengths, steps.dtype)
    return steps[:, None] < lengths[None, :]


def host_lengths(lengths: Any, T: int | None, N: int | None, *, batched: bool) -> list[int] | None:
    """Lengths that are host data as a list, checked against the sizes that are known; None for an array elsewhere."""
    host = host_values(lengths, "lengths")
    if not batched and host is not None and not isinstance(host, list):
        host = [host]
    if host is None:
        return None
    if not isinstance(host, list) or len(host) != (len(host) if N is None else N):
        got = f"({len(host)},)" if isinstance(host, list) else f"the number {host}"
        raise ShapeError(f"lengths: expected (N,) = ({N},), got {got}; N comes from x")
    if any(isinstance(number, list) for number in host):
        raise ShapeError(f"lengths: expected (N,) = ({N},), got more than one axis; N comes from x")
    for number in host:
        if isinstance(number, bool) or not isinstance(number, int):
            raise DTypeError(f"lengths: expected integers, got {number!r}, {kind_of(number)}")
        if number < 0 or (T is not None and number > T):
            most = "T" if T is None else f"T = {T}"
            raise RangeError(f"lengths: expected values from 0 to {most}, got {number}; T comes from x")
    return host


def booleans_beside(values: Any, name: str, T: int, N: int, x: Any, source: Backend, *, batched: bool) -> Any:
    """Resets or a mask (T, N), without a batch (T,), as lists, NumPy or x's own booleans -> (T, N) of x's library."""
    if isinstance(values, list | tuple) or owner(values, name) is not source:
        host = host_values(values, name)
        if host is None:
            assert_same_library(values, name, source, "x")
        strange = next((value for value in _flat(host) if type(value) is not bool), None)
        if strange is not None:
            raise DTypeError(f"{name}: expected booleans, got {strange!r}, {kind_of(strange)}")
        if batched:
            assert_rows(host, name, "(T, N)", (T, N), "as x has")
        values = source.from_host(host, source.xp.bool, source.device_beside(x))
        if T == 0 and batched and not host:  # no list says how long its missing rows would be
            values = source.xp.reshape(values, (0, N))
    if source.dtype_name(values.dtype) != "bool":
        raise DTypeError(f"{name}: expected booleans, got {values.dtype}; compare with zero first")
    assert_beside(values, name, x, "x", source)
    letters, shape = ("(T, N)", (T, N)) if batched else ("(T,)", (T,))
    assert_shape(values, name, letters, shape, "as x has")
    return values if batched else values[:, None]


def steps_first(values: Any, name: str, N: int, T: int) -> Any:
    """A mask or resets (N, T), as nested lists or an array, turned to (T, N)."""
    why = "as x has; the model is batch_first"
    if isinstance(values, list | tuple):
        rows = host_values(values, name)
        assert_rows(rows, name, "(N, T)", (N, T), why)
        return [list(step) for step in zip(*rows, strict=True)] if rows else [[]] * T
    library = owner(values, name)
    assert_shape(values, name, "(N, T)", (N, T), why)
    return library.xp.permute_dims(values, (1, 0))


def assert_rows(host: list[Any], name: str, letters: str, shape: tuple[int, int], why: str) -> None:
    """A list of that many rows, each of that length."""
    lengths = [len(row) if isinstance(row, list) else None for row in host]
    if len(lengths) != shape[0]:
        raise ShapeError(f"{name}: expected {letters} = {shape}, got {len(lengths)} rows; {why}")
    for length in lengths:
        if length != shape[1]:
            got = "something that is no row" if length is None else f"a row of {length}"
            raise ShapeError(f"{name}: expected {letters} = {shape}, got {got}; {why}")


def assert_beside(array: Any, name: str, first: Any, first_name: str, source: Backend) -> None:
    """The array lies where the first one does."""
    if not source.beside(first, array):
        raise MixedArraysError(
            f"{name}: expected on {source.device_name(source.device_of(first))}, where {first_name} is, "
            f"got on {source.device_name(source.device_of(array))}; move one of them"
        )


def host_values(values: Any, name: str) -> Any:
    """Nested lists of the values where they are host data (numbers, lists, NumPy arrays), else None."""
    if isinstance(values, list | tuple | range):
        return [host_values(value, name) for value in values]
    if isinstance(values, int | float):
        return values
    if type(values).__module__ == "numpy" and getattr(values, "shape", None) == ():
        return values.item()  # NumPy's scalars are not arrays of the standard
    return values.tolist() if owner(values, name).name == "numpy" else None


def whole_number(value: Any, name: str, *, least: int) -> int:
    """An integer of any kind that Python can take as an index, but no boolean."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise StructureError(f"{name}: expected an integer, got {value!r}") from None
    if number < least:
        raise RangeError(f"{name}: expected at least {least}, got {number}")
    return number


def _flat(values: Any) -> Iterator[Any]:
    if isinstance(values, list | tuple):
        for value in values:
            yield from _flat(value)
    else:
        yield values


def kind_of(value: Any) -> str:
    """What errors call a value of the wrong kind: "an int", "a list of 3", "None"."""
    if value is None:
        return "None"
    name = type(value).__name__
    article = "an" if name[0] in "aeioAEIO" else "a"
    if isinstance(value, tuple | list) and not isinstance(value, CellParams):
        return f"{article} {name} of {len(value)}"
    return f"{article} {name}"
