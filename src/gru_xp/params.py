"""The records: parameters, options of the equations, tape, gradients. Shapes in the letters of `cell.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, get_args

from .activations import SIGMOID, TANH, Activation, finite
from .errors import RangeError, StructureError

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
    def __eq__(self, other: Any, /) -> Array: ...  # type: ignore[override]
    def __lt__(self, other: Any, /) -> Array: ...


class ArrayLike(Protocol):
    """What every array has, of whatever library."""

    @property
    def shape(self) -> Any: ...
    @property
    def dtype(self) -> Any: ...


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
ParamsLike: TypeAlias = "Sequence[Sequence[CellParams]]"  #: lists will do
Lengths: TypeAlias = "ArrayLike | Sequence[int]"  #: (N,) integers
Steps: TypeAlias = "ArrayLike | Sequence[Any]"  #: (T, N) booleans, nested lists among them
A = TypeVar("A", bound="ArrayLike")
Padding: TypeAlias = Literal["zero", "hold"]


class Sizes(NamedTuple):
    """The sizes that the parameters fix."""

    I: int
    H: int
    L: int
    D: int
    bias: bool


PADDINGS = get_args(Padding)


@dataclass(frozen=True, init=False)
class GRUSpec:
    """Which equations are meant, by default those of cuDNN and PyTorch.

    Args:
        reset_after: True applies the reset gate after the recurrent product, as cuDNN, PyTorch and Keras (by default)
            do; False applies it before (Cho et al. 2014, https://arxiv.org/abs/1406.1078; ONNX by default).
        gate_activation: of the gates r and z, an `Activation` or its name. Keras calls it `recurrent_activation`.
        candidate_activation: of the candidate n. Keras calls it `activation`.
        clip: the arguments of r, z and n are clamped to [-clip, clip], as ONNX means it; no gradient flows through an
            argument that lies outside.
        reverse: the one direction runs backwards in time, with y in input order, as ONNX's `direction="reverse"`.
            Keras's `go_backwards` puts out the same y in reversed order. It is not for two directions.
        padding: what y holds where a step is padding: "zero", or "hold" for the state, which stands still there: that
            of the last valid step, as Keras has it unless `zero_output_for_mask`; before the first valid step the
            initial state, where Keras puts zero.

    >>> GRUSpec(gate_activation="hard_sigmoid").gate_activation
    Activation(name='hard_sigmoid', alpha=0.2, beta=0.5)
    """

    reset_after: bool = True
    gate_activation: Activation = SIGMOID
    candidate_activation: Activation = TANH
    clip: float | None = None
    reverse: bool = False
    padding: Padding = "zero"
    #: whether the gates are sigmoid and tanh of arguments that nothing clamps, which is what fused kernels have
    standard_gates: bool = field(init=False, repr=False, compare=False)
    #: all of it in words; made here, because torch.compile takes a float of an object for a variable
    text: str = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        reset_after: bool = True,
        gate_activation: Activation | str = "sigmoid",
        candidate_activation: Activation | str = "tanh",
        clip: float | None = None,
        reverse: bool = False,
        padding: Padding = "zero",
    ):
        for name, flag in (("reset_after", reset_after), ("reverse", reverse)):
            if type(flag) is not bool:
                raise StructureError(f"{name}: expected True or False, got {flag!r}")
        if not isinstance(padding, str) or padding not in PADDINGS:
            raise StructureError(f"padding: expected one of {', '.join(map(repr, PADDINGS))}, got {padding!r}")
        gate = SIGMOID if gate_activation == "sigmoid" else Activation.of(gate_activation, "gate_activation")
        candidate = (
            TANH if candidate_activation == "tanh" else (Activation.of(candidate_activation, "candidate_activation"))
        )
        standard = clip is None and gate == SIGMOID and candidate == TANH
        bound = _bound(clip)
        constants = f"{gate.name} {gate.alpha} {gate.beta} {candidate.name} {candidate.alpha} {candidate.beta} {bound}"
        values: dict[str, Any] = {
            "reset_after": reset_after,
            "gate_activation": gate,
            "candidate_activation": candidate,
            "clip": bound,
            "reverse": reverse,
            "padding": padding,
            "standard_gates": standard,
            "text": f"{reset_after} {constants} {reverse} {padding}",
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        found = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        return {name: asdict(value) if isinstance(value, Activation) else value for name, value in found.items()}

    @classmethod
    def from_dict(cls, values: Any) -> GRUSpec:
        """The inverse of `as_dict`; whatever is not what that gives is an error."""
        names = [each.name for each in fields(cls) if each.init]
        if not isinstance(values, dict) or sorted(map(str, values)) != sorted(names):
            raise StructureError(f"spec: expected {', '.join(names)}, got {values!r}")
        values = dict(values)
        for name in ("gate_activation", "candidate_activation"):
            constants = values[name]
            if not isinstance(constants, dict) or sorted(map(str, constants)) != ["alpha", "beta", "name"]:
                raise StructureError(f"{name}: expected name, alpha and beta, got {constants!r}")
            values[name] = Activation(**constants)
        return cls(**values)


def _bound(clip: Any) -> float | None:
    bound = None if clip is None else finite(clip, "clip")
    if bound is not None and bound <= 0.0:
        raise RangeError(f"clip: expected a number above 0, or None for no bound, got {clip!r}")
    return bound


class LayerTape(NamedTuple):
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


class Tape(NamedTuple):
    """What `gru_forward` leaves for `gru_backward`. It stays where it was computed."""

    layers: tuple[tuple[LayerTape, ...], ...]  # [layer][direction]
    params: Params
    valid: Any  # (T, N) booleans or None
    resets: Any  # (T, N) booleans or None
    dropout_masks: Any  # (L-1, T, N, D*H) or None
    spec: GRUSpec
    batched: bool  # False if x came as (T, I)
    place: Any  # the `discovery.Place` where it was computed and lies
    caller: Any  # the `discovery.Place` of the arrays that came


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
    if not isinstance(params, tuple | list):
        raise StructureError(f"params: expected a tuple of layers, got {type(params).__name__}; pass its .params")
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
