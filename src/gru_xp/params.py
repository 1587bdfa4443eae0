"""The records: parameters, options of the equations, tape, gradients. Shapes in the letters of `cell.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from .errors import StructureError

__all__ = ["Array", "CellGrads", "CellParams", "GRUGrads", "GRUSpec", "LayerTape", "Params", "Tape"]


class Array(Protocol):
    """What the mathematics asks of an array: the operators of the array API standard, a shape and a dtype."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def T(self) -> Array: ...
    def __getitem__(self, key: Any, /) -> Array: ...
    def __add__(self, other: Any, /) -> Array: ...
    def __radd__(self, other: Any, /) -> Array: ...
    def __sub__(self, other: Any, /) -> Array: ...
    def __rsub__(self, other: Any, /) -> Array: ...
    def __mul__(self, other: Any, /) -> Array: ...
    def __rmul__(self, other: Any, /) -> Array: ...
    def __matmul__(self, other: Any, /) -> Array: ...
    def __and__(self, other: Any, /) -> Array: ...
    def __invert__(self) -> Array: ...
    def __lt__(self, other: Any, /) -> Array: ...


class CellParams(NamedTuple):
    """The weights of one layer in one direction; the gates r, z, n are stacked on axis 0. Both biases or neither.

    The layout is PyTorch's, cuDNN's and Arraymancer's. `gru` takes a tuple of layers, each a tuple of directions:
    `((w,),)` for one layer in one direction.
    """

    W_ih: Any  # (3H, I), in the layers above the first (3H, D*H)
    W_hh: Any  # (3H, H)
    b_ih: Any = None  # (3H,)
    b_hh: Any = None  # (3H,)


Params: TypeAlias = "tuple[tuple[CellParams, ...], ...]"


@dataclass(frozen=True)
class GRUSpec:
    """Which equations are meant.

    `reset_after=True` applies the reset gate after the recurrent product, as cuDNN, PyTorch and Keras (by default) do;
    `False` applies it before (Cho et al. 2014, https://arxiv.org/abs/1406.1078; ONNX by default).
    """

    reset_after: bool = True

    def __post_init__(self) -> None:
        if type(self.reset_after) is not bool:
            raise StructureError(f"reset_after: expected True or False, got {self.reset_after!r}")


@dataclass(frozen=True, eq=False)
class LayerTape:
    """What the forward pass of one layer and direction leaves for the backward pass, all in input order.

    The gates are None where they were not saved. With 16-bit arrays they stand in the type that they were computed in.
    """

    x: Any  # (T, N, I), zero in the padding
    h_prev: Any  # (T, N, H), the state that each step read, after any reset
    r: Any  # (T, N, H) or None
    z: Any  # (T, N, H) or None
    n: Any  # (T, N, H) or None
    u: Any  # (T, N, H) or None, the candidate's recurrent term
    w: CellParams
    valid: Any  # (T, N) booleans or None
    resets: Any  # (T, N) booleans or None
    spec: GRUSpec = GRUSpec()
    reverse: bool = False


@dataclass(frozen=True, eq=False)
class Tape:
    """What `gru_forward` leaves for `gru_backward`. It stays where it was computed."""

    layers: tuple[tuple[LayerTape, ...], ...]  # [layer][direction]
    params: Params
    valid: Any  # (T, N) booleans or None
    resets: Any  # (T, N) booleans or None
    dropout_masks: Any  # (L-1, T, N, D*H) or None
    spec: GRUSpec
    batched: bool  # False if x came as (T, I)
    place: Any  # the `dispatch.Place` where it was computed and lies
    caller: Any  # the `dispatch.Place` of the arrays that came


class GRUGrads(NamedTuple):
    """What `gru_backward` returns; `params` has the structure of the parameters."""

    x: Any  # (T, N, I)
    h0: Any  # (L*D, N, H)
    params: Any


class CellGrads(NamedTuple):
    """What `gru_cell_backward` returns."""

    x: Any  # (N, I)
    h: Any  # (N, H)
    params: CellParams


def map_params(function: Callable[[Any], Any], params: Params) -> Params:
    """The parameters with `function` applied to every array."""
    return tuple(tuple(CellParams(*(None if a is None else function(a) for a in w)) for w in layer) for layer in params)


def weights_of(params: Params) -> list[Any]:
    """All arrays of the parameters, in order."""
    return [array for layer in params for w in layer for array in w if array is not None]


def names_of(params: Params, *, cell: bool = False) -> list[str]:
    """What errors call the arrays of `weights_of`."""
    return [
        name if cell else f"params[{index}][{d}].{name}"
        for index, layer in enumerate(params)
        for d, w in enumerate(layer)
        for name, array in zip(CellParams._fields, w, strict=True)
        if array is not None
    ]
