"""The kernel door: fused kernels, asked before any work whether they can serve a call.

A kernel replaces one floor of the plain path with the same methods: `gates` the pointwise part of a step, `layer` one
layer in one direction, `stack` everything. It is an object named in the entry-point group `gru_xp.kernels` under
`<root module of the library>.<name>`, and it declines with a reason. A kernel that fails is a bug and is never hidden
by falling back.

The most fused kernel that accepts a call computes it; among those of one level, the one whose entry point comes first
in the alphabet. Each kernel of a library has a name of its own, and `plain` is none: so the plain path is called.

What a kernel is told of the options it has to look at: `spec` may ask for other activations, a clip or another order of
the products (`standard_gates`, `reset_after`), for y to hold the state in the padding (`padding`), and, at the level of
the stack alone, for one reversed direction (`reverse`). `valid` may have any pattern, not just padding at the end.

A kernel may also have `pack(w: CellParams) -> CellParams`: the weights copied and laid out as its inference likes them
best. What `prepare` and `GRU` hold is packed once and stays as it is, because nobody else can write to it. And it may
have `stream(params, batch_size)`: None, or an object for one thread whose `advance(x, state)` makes one step,
(N, I), (L, N, H) -> (N, H) and the next state, both new.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from .backend import Backend
from .cell import Gates
from .errors import KernelError
from .layer import Layer
from .params import CellParams, GRUGrads, GRUSpec, LayerTape, Params
from .stack import Stack

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Call", "GatesKernel", "Kernel", "LayerKernel", "StackKernel"]

Level: TypeAlias = Literal["gates", "layer", "stack"]
LEVELS: tuple[Level, ...] = ("stack", "layer", "gates")  # the most fused first
PLAIN = "plain"  # what the path without a kernel is called
METHODS = ("refuses", "inference", "forward", "backward", "__hash__")


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
    recording: bool  # the library's automatic differentiation is watching, or the arrays are traced
    save: str | None = None  # forward: "all" or "states"


@runtime_checkable
class Kernel(Protocol):
    """What all kernels have."""

    name: str
    level: Level

    def __hash__(self) -> int: ...

    def refuses(self, call: Call, /) -> str | None:
        """Why not, in a few words; None to accept. Asked once, before any work."""
        ...


class GatesKernel(Kernel, Protocol):
    """The pointwise part of a step, as `cell.Gates`: (..., 3H) and (..., H), any number of leading axes.

    It is asked for whole blocks of time at once too. Results are new arrays; the arguments are never written to, with
    one exception: `gh` is a temporary of the caller, so `u` may be a view of it.
    """

    def inference(self, gi: Any, gh: Any, h: Any, /) -> Any: ...
    def forward(self, gi: Any, gh: Any, h: Any, /) -> tuple[Any, ...]: ...
    def backward(self, dh1: Any, h: Any, r: Any, z: Any, n: Any, u: Any, /) -> tuple[Any, ...]: ...


class LayerKernel(Kernel, Protocol):
    """One layer in one direction, as `layer.Layer`."""

    def inference(
        self, x: Any, h0: Any, w: CellParams, /, *, spec: GRUSpec, valid: Any, resets: Any, reverse: bool
    ) -> tuple[Any, Any]: ...
    def forward(
        self, x: Any, h0: Any, w: CellParams, /, *, spec: GRUSpec, valid: Any, resets: Any, reverse: bool, save: str
    ) -> tuple[Any, Any, LayerTape]: ...
    def backward(self, tape: LayerTape, dy: Any, dh_n: Any, /) -> tuple[Any, Any, CellParams]: ...


class StackKernel(Kernel, Protocol):
    """All layers and directions, as `stack.Stack`."""

    def inference(
        self, x: Any, h0: Any, params: Params, /, *, spec: GRUSpec, valid: Any, resets: Any, dropout_masks: Any
    ) -> tuple[Any, Any]: ...
    def forward(
        self,
        x: Any,
        h0: Any,
        params: Params,
        /,
        *,
        spec: GRUSpec,
        valid: Any,
        resets: Any,
        dropout_masks: Any,
        save: str,
    ) -> tuple[Any, Any, tuple[tuple[LayerTape, ...], ...]]: ...
    def backward(
        self, tapes: tuple[tuple[LayerTape, ...], ...], dy: Any, dh_n: Any, /, *, dropout_masks: Any
    ) -> GRUGrads: ...


@cache
def entries() -> tuple[EntryPoint, ...]:
    """All kernels that are installed, by name; none of them is loaded."""
    from importlib.metadata import entry_points  # takes longer to import than all of gru_xp

    return tuple(sorted(entry_points(group="gru_xp.kernels"), key=lambda entry: entry.name))


@cache
def kernels_of(library: str) -> tuple[Kernel, ...]:
    """The kernels for one library's arrays, in the order in which they are asked; each is looked at once, here."""
    found: dict[str, tuple[EntryPoint, Kernel]] = {}
    for entry in entries():
        if entry.name.partition(".")[0] == library:
            kernel = _load(entry)
            if kernel.name in found:
                raise KernelError(
                    f"{_words(entry)}: expected a name that no other kernel of {library} has, got {kernel.name!r}, "
                    f"as {_words(found[kernel.name][0])} has; rename or uninstall one of them"
                )
            found[kernel.name] = entry, kernel
    return tuple(sorted((kernel for _, kernel in found.values()), key=lambda kernel: LEVELS.index(kernel.level)))


def _load(entry: EntryPoint) -> Kernel:
    """The kernel of an entry point."""
    try:
        kernel: Kernel = entry.load()
    except Exception as error:  # a package that cannot be imported fails in any way it likes
        got = f"{type(error).__name__}: {error}"
        raise KernelError(
            f"{_words(entry)}: expected a kernel, got {got}; repair its package or uninstall it"
        ) from error
    fault = _fault(kernel)
    if fault is not None:
        raise KernelError(f"{_words(entry)}: expected {fault}; correct it or uninstall its package")
    return kernel


def _fault(kernel: Any) -> str | None:
    """What was expected of a kernel and what came, or None if all is there; calls rely on it."""
    if isinstance(kernel, type):
        return f"an object, got the class {kernel.__name__}"
    name, level = getattr(kernel, "name", None), getattr(kernel, "level", None)
    if not isinstance(name, str) or name in ("", PLAIN):
        return f"its name to be a string other than {PLAIN!r}, which is the path without kernels, got {name!r}"
    if level not in LEVELS:
        return f"its level to be one of {', '.join(map(repr, LEVELS))}, got {level!r}"
    lacking = [method for method in METHODS if not callable(getattr(kernel, method, None))]
    return f"the methods {', '.join(METHODS)}, got none called {', '.join(lacking)}" if lacking else None


def _words(entry: EntryPoint) -> str:
    """An entry point as it stands in the pyproject.toml of its package."""
    return f'gru_xp.kernels: "{entry.name}" = "{entry.value}"'


def refusal(kernel: Kernel, call: Call) -> str | None:
    """What a kernel answers to a call, looked at; `choose` does not look, because it stands in every call."""
    reason: Any = kernel.refuses(call)
    if reason is None or (isinstance(reason, str) and reason):
        return reason
    raise KernelError(
        f"{kernel.name}.refuses: expected None to accept a call, or words that say why not, got {reason!r}; "
        f"return one of these"
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """Which kernel runs, None for the plain path, and why each faster one does not."""

    kernel: Kernel | None
    refusals: tuple[tuple[Kernel, str], ...]


def choose(call: Call, policy: str) -> Choice:
    """The most fused kernel that accepts the call; `policy` is the value of GRU_XP_KERNELS."""
    kernels: tuple[Kernel, ...] | None = call.backend.kernels()
    if kernels is None:
        kernels = kernels_of(call.backend.name)
    if policy == "off":
        return Choice(None, tuple((kernel, "GRU_XP_KERNELS=off") for kernel in kernels))
    refusals: list[tuple[Kernel, str]] = []
    for kernel in kernels:
        reason = kernel.refuses(call)
        if reason is None:
            return Choice(kernel, tuple(refusals))
        refusals.append((kernel, reason))
    if policy == "require":
        listed = (
            "; ".join(f"{kernel.name} ({kernel.level}): {reason}" for kernel, reason in refusals) or "none is installed"
        )
        raise KernelError(
            f"GRU_XP_KERNELS=require: no fused kernel of {call.backend.name} serves this call: {listed}. "
            "GRU_XP_KERNELS=auto takes the plain path instead"
        )
    return Choice(None, tuple(refusals))


@cache
def stack_for(backend: Backend, kernel: Any) -> Any:
    """The stack with the kernel in its place, whichever floor that is."""
    if kernel is not None and kernel.level == "stack":
        return kernel
    gates: Any = kernel if kernel is not None and kernel.level == "gates" else Gates(backend.xp, backend.numbers)
    layer: Any = kernel if kernel is not None and kernel.level == "layer" else Layer(backend, gates)
    return backend.compiled(Stack(backend.xp, layer))
