"""The registry of fused kernels, and the choice of one for a call.

A kernel (`interfaces.Kernel`) is an object named in the entry-point group `gru_xp.kernels` under
`<root module of the library>.<name>`. It declines a call with a reason before any work; one that fails is a bug and is
never hidden by falling back.

The most fused kernel that accepts a call computes it; among those of one level, the one whose entry point comes first
in the alphabet. Each kernel of a library has a unique name other than `plain`, which is the path without kernels.

A package whose kernel cannot be loaded is left out: `unusable` has the reason, and so have the refusals of each choice.
With GRU_XP_KERNELS=off none is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from .backend import Backend
from .errors import KernelError
from .interfaces import Call, Kernel, Level
from .params import GRUSpec

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "PLAIN",
    "Choice",
    "Refusal",
    "choose",
    "entries",
    "is_unseen",
    "kernels_of",
    "ordinary_call",
    "refusal",
    "unusable",
]

LEVELS: tuple[Level, ...] = ("stack", "layer", "gates")  # the most fused first
PLAIN = "plain"  # the name of the path without a kernel
METHODS = ("refuses", "inference", "forward", "backward", "__hash__")
NOT_LOADED = "not loaded"  # the level of a kernel that was never seen


class Refusal(NamedTuple):
    """Why a kernel does not serve a call, or any."""

    name: str
    level: str
    reason: str


@cache
def entries() -> tuple[EntryPoint, ...]:
    """All kernels that are installed, by name; none of them is loaded."""
    from importlib.metadata import entry_points  # takes longer to import than all of gru_xp

    return tuple(sorted(entry_points(group="gru_xp.kernels"), key=lambda entry: entry.name))


def kernels_of(library: str) -> tuple[Kernel, ...]:
    """The kernels for one library's arrays, in the order in which they are asked; each is checked once, here."""
    return _loaded(library)[0]


def unusable(library: str) -> tuple[Refusal, ...]:
    """What is installed as a kernel for one library's arrays and is none, or cannot be imported."""
    return _loaded(library)[1]


@cache
def _loaded(library: str) -> tuple[tuple[Kernel, ...], tuple[Refusal, ...]]:
    found: dict[str, tuple[EntryPoint, Kernel]] = {}
    faults = []
    for entry in _entries_of(library):
        kernel, fault = _load(entry)
        if fault is None and kernel.name in found:
            fault = (
                f"expected a name that no other kernel of {library} has, got {kernel.name!r}, "
                f"as {_words(found[kernel.name][0])} has; rename or uninstall one of them"
            )
        if fault is None:
            found[kernel.name] = entry, kernel
        else:
            faults.append(Refusal(_name(entry), NOT_LOADED, f"{_words(entry)}: {fault}"))
    kernels = sorted((kernel for _, kernel in found.values()), key=lambda kernel: LEVELS.index(kernel.level))
    return tuple(kernels), tuple(faults)


def _entries_of(library: str) -> list[EntryPoint]:
    return [entry for entry in entries() if entry.name.partition(".")[0] == library]


def _name(entry: EntryPoint) -> str:
    return entry.name.partition(".")[2] or entry.name


def _load(entry: EntryPoint) -> tuple[Any, str | None]:
    """The object of an entry point, and why it cannot be used as a kernel, if so."""
    try:
        kernel: Any = entry.load()
        fault = _fault(kernel)
    except (Exception, SystemExit) as error:  # a package that cannot be imported fails in any way it likes
        got = f"{type(error).__name__}: {error}"
        return None, f"expected a kernel, got {got}; repair its package or uninstall it"
    return kernel, None if fault is None else f"expected {fault}; correct it or uninstall its package"


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
    """An entry point as it is written in the pyproject.toml of its package."""
    return f'gru_xp.kernels: "{entry.name}" = "{entry.value}"'


def is_unseen(kernel: Kernel | None) -> bool:
    """Whether a library sees nothing of what a kernel for the whole stack does with its arrays."""
    return kernel is not None and kernel.level == "stack" and getattr(kernel, "unseen", False) is True


def refusal(kernel: Kernel, call: Call) -> str | None:
    """What a kernel answers to a call, checked; `choose` does not check it, because it is part of every new call."""
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
    refusals: tuple[Refusal, ...]


def choose(call: Call, policy: str) -> Choice:
    """The most fused kernel that accepts the call; `policy` is the value of GRU_XP_KERNELS."""
    kernels: tuple[Kernel, ...] | None = call.backend.kernels()
    library = call.backend.name
    if policy == "off":
        names = [_name(entry) for entry in _entries_of(library)] if kernels is None else [one.name for one in kernels]
        return Choice(None, tuple(Refusal(name, NOT_LOADED, "GRU_XP_KERNELS=off") for name in names))
    refusals = list(unusable(library)) if kernels is None else []
    for kernel in kernels_of(library) if kernels is None else kernels:
        reason = kernel.refuses(call)
        if call.integers and kernel.level != "gates" and not getattr(kernel, "serves_integers", False):
            reason = "has no products of 8 bits"
        if reason is None:
            return Choice(kernel, tuple(refusals))
        refusals.append(Refusal(kernel.name, kernel.level, reason))
    if policy == "require":
        listed = "; ".join(f"{name} ({level}): {reason}" for name, level, reason in refusals) or "none is installed"
        raise KernelError(
            f"GRU_XP_KERNELS=require: no fused kernel of {library} serves this call: {listed}. "
            "GRU_XP_KERNELS=auto takes the plain path instead"
        )
    return Choice(None, tuple(refusals))


def ordinary_call(backend: Backend, device: Any, dtype: str = "float32") -> Call:
    """A call that every kernel for such a device should take."""
    return Call(
        "inference",
        backend,
        device,
        dtype,
        *(5, 3, 9, 7, 1, 1),  # T, N, I, H, L, D
        GRUSpec(),
        bias=True,
        lengths=False,
        resets=False,
        dropout=False,
        recording=False,
    )
