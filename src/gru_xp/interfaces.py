"""The interfaces between the levels of a computation: what a kernel is told, is asked for, and has to provide.

A kernel replaces one level of the plain path with the same methods: `gates` is the pointwise part of a step, `layer`
one layer in one direction, `stack` everything. The plain ones are `cell.Gates`, `layer.Layer` and `stack.Stack`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from .params import CellParams, GRUGrads, GRUSpec, LayerTape, Params, Sizes

if TYPE_CHECKING:
    from .backend import Backend

__all__ = ["Call", "Function", "Gates", "GatesKernel", "Kernel", "Layer", "LayerKernel", "Level", "Options", "Save"]
__all__ += ["Stack", "StackKernel"]

Function: TypeAlias = Literal["gru", "inference", "forward"]
Level: TypeAlias = Literal["gates", "layer", "stack"]
Save: TypeAlias = Literal["all", "states"]


class Options(NamedTuple):
    """What a layer or a stack is told besides its arrays."""

    #: which equations are meant. A kernel has to respect other activations or a clip (`standard_gates`), the order of
    #: the products (`reset_after`), a y that holds the state in the padding (`padding`)
    spec: GRUSpec = GRUSpec()
    #: (T, N) booleans, False where a step is padding, in any pattern; None where there is no padding
    valid: Any = None
    #: (T, N) booleans, True where the state is set to zero before the step; None for no resets
    resets: Any = None
    #: for a layer: whether it runs backwards in time; y is in input order. For a stack: of the one direction
    reverse: bool = False
    #: for `forward`: what the tape keeps, the gates and states of every step or the states alone
    save: Save | None = None


class Call(NamedTuple):
    """What a kernel is told of a call before it has to say whether it can serve it."""

    function: Literal["inference", "forward", "backward"]
    backend: Backend
    device: Any  # the library's own device object
    dtype: str  # of the caller's arrays: "float32", ...
    T: int
    N: int
    I: int
    H: int
    L: int
    D: int
    spec: GRUSpec
    bias: bool
    lengths: bool  # whether there may be padding: lengths or a mask are given
    resets: bool  # whether given
    dropout: bool  # whether there are masks
    recording: bool  # whether automatic differentiation records the single operations, or the arrays are traced
    save: Save | None = None  # forward: what the tape keeps
    integers: bool = False  # whether the products round x and the state to 8 bits, see `gru_xp.integers`

    @classmethod
    def of(
        cls,
        function: Literal["inference", "forward", "backward"],
        backend: Backend,
        device: Any,
        dtype: str,
        shape: tuple[int, ...],
        sizes: Sizes,
        options: Options,
        *,
        dropout: bool = False,
        recording: bool = False,
        integers: bool = False,
    ) -> Call:
        """The call of a stack with x of `shape` (T, N, I), parameters of these sizes, and these options."""
        return cls(
            function,
            backend,
            device,
            dtype,
            shape[0],
            shape[1],
            sizes.I,
            sizes.H,
            sizes.L,
            sizes.D,
            options.spec,
            bias=sizes.bias,
            lengths=options.valid is not None,
            resets=options.resets is not None,
            dropout=dropout,
            recording=recording,
            save=options.save,
            integers=integers,
        )


class Gates(Protocol):
    """The pointwise part of a step: (..., 3H) and (..., H), any number of leading axes.

    It is asked for whole blocks of time at once too. Results are new arrays; the arguments are never written to, with
    one exception: `gh` is a temporary of the caller, so `u` may be a view of it.
    """

    def inference(self, gi: Any, gh: Any, h: Any, /) -> Any:
        """(..., 3H), (..., 3H), (..., H) -> h' (..., H)."""

    def forward(self, gi: Any, gh: Any, h: Any, /) -> tuple[Any, ...]:
        """(..., 3H), (..., 3H), (..., H) -> h', r, z, n, u, each (..., H)."""

    def backward(self, dh1: Any, h: Any, r: Any, z: Any, n: Any, u: Any, /) -> tuple[Any, ...]:
        """Six times (..., H) -> dgi, dgh (..., 3H), and the part of dh that does not go through W_hh (..., H)."""


class Layer(Protocol):
    """One layer in one direction."""

    def inference(self, x: Any, h0: Any, w: CellParams, options: Options, /) -> tuple[Any, Any]:
        """x (T, N, I), h0 (N, H) -> y (T, N, H), h_n (N, H)."""

    def forward(self, x: Any, h0: Any, w: CellParams, options: Options, /) -> tuple[Any, Any, LayerTape]:
        """As `inference`, and the tape."""

    def backward(self, tape: LayerTape, dy: Any, dh_n: Any, /) -> tuple[Any, Any, CellParams]:
        """dy (T, N, H) or None, dh_n (N, H) or None -> dx (T, N, I), dh0 (N, H), dw."""


class Stack(Protocol):
    """All layers and directions; `dropout_masks` (L-1, T, N, D*H) or None."""

    def inference(self, x: Any, h0: Any, params: Params, options: Options, dropout_masks: Any, /) -> tuple[Any, Any]:
        """x (T, N, I), h0 (L*D, N, H) -> y (T, N, D*H), h_n (L*D, N, H)."""

    def forward(
        self, x: Any, h0: Any, params: Params, options: Options, dropout_masks: Any, /
    ) -> tuple[Any, Any, tuple[tuple[LayerTape, ...], ...]]:
        """As `inference`, and the layers' tapes."""

    def backward(self, tapes: tuple[tuple[LayerTape, ...], ...], dy: Any, dh_n: Any, dropout_masks: Any, /) -> GRUGrads:
        """dy (T, N, D*H) or None, dh_n (L*D, N, H) or None -> the gradients."""


@runtime_checkable
class Kernel(Protocol):
    """What all kernels have.

    A kernel may also have `pack(w: CellParams) -> CellParams`: the weights copied into the layout that its inference
    prefers. What `prepare` and `GRU` hold is packed once and stays as it is, because nobody else can write to it.

    It may have `pack_narrow(w, narrow, scales)` for the weights that `quantize` made, the numbers that they mean, how
    they are stored (`gru_xp.narrow`), and their scales; without it such weights are packed like others. A kernel with
    `serves_integers = True` is asked for calls whose products round x and the state to 8 bits too.

    With `unseen = True` the library sees nothing of its work, so it is called without a context to compute in.

    It may also have `stream(params, batch_size)`: None, or an object for one thread at a time whose `advance(x, state)`
    makes one step, (N, I), (L, N, H) -> (N, H) and the next state, both new; a third argument is the pair of arrays to
    write these to instead, or None. It returns None, and does nothing, for arrays of other kinds, shapes or dtypes.
    """

    name: str
    level: Level

    def __hash__(self) -> int: ...

    def refuses(self, call: Call, /) -> str | None:
        """Say why not, in a few words, or return None to accept. Asked once, before any work."""
        ...


class GatesKernel(Gates, Kernel, Protocol):
    """A kernel for the pointwise part of a step."""


class LayerKernel(Layer, Kernel, Protocol):
    """A kernel for one layer in one direction."""


class StackKernel(Stack, Kernel, Protocol):
    """A kernel for all layers and directions."""
