"""Which backends there are, and which one an array belongs to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from .backend import Backend
from .errors import BackendError, MixedArraysError, StructureError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Place", "assert_same_library", "available", "entries", "how_to_get", "known_owner", "load", "owner"]


class Place(NamedTuple):
    """A library and one of its devices (the library's own device object)."""

    backend: Backend
    device: Any

    def __str__(self) -> str:
        return f"{self.backend.name}:{self.backend.device_name(self.device)}"

    def __reduce__(self) -> Any:
        """By name, for pickle and copy: a backend is one object in each process."""
        device = None if self.device is None else self.backend.device_name(self.device)
        return _place, (self.backend.name, device)


def _place(name: str, device: str | None) -> Place:
    backend = load(name)
    return Place(backend, None if device is None else backend.device(device))


@cache
def entries() -> dict[str, EntryPoint]:
    """All backends that somebody has installed, by the root module of their library; none of them is loaded."""
    from importlib.metadata import entry_points  # takes longer to import than all of gru_xp

    return {entry.name: entry for entry in sorted(entry_points(group="gru_xp.backends"), key=lambda entry: entry.name)}


def available() -> tuple[str, ...]:
    """The names of the backends whose library can be found on this machine."""
    return tuple(name for name in entries() if _can_be_found(name))


def _can_be_found(name: str) -> bool:
    """Whether a module of that name is there; it may be a namespace package, as MLX is."""
    return sys.modules[name] is not None if name in sys.modules else find_spec(name) is not None


@cache
def load(name: str) -> Backend:
    """The backend of that name; imports its library."""
    if name not in entries():
        raise BackendError(f"unknown backend {name!r}; installed: {', '.join(available()) or 'none'}")
    if name not in available():
        raise BackendError(
            f"backend {name!r}: its library is missing; install it ({how_to_get(name)}) "
            f"or choose one of: {', '.join(available())}"
        )
    try:
        backend = entries()[name].load()()
    except ImportError as error:
        raise BackendError(f"backend {name!r}: its library is installed but cannot be imported: {error}") from error
    assert isinstance(backend, Backend), f"the entry point {name} of gru_xp.backends gave {backend!r}, no Backend"
    return backend


def how_to_get(name: str) -> str:
    """The command that installs a backend's library."""
    from importlib.metadata import metadata

    extras = [extra.replace("-", "_") for extra in metadata("gru-xp").get_all("Provides-Extra") or ()]
    wanted = f"'gru-xp[{name}]'" if name in extras else name
    return f"python -m pip install {wanted}"


_owners: dict[type, Backend] = {}  # a cache: what owns a type never changes


def owner(array: Any, argument: str) -> Backend:
    """The backend that an array belongs to."""
    try:
        return _owners[type(array)]
    except KeyError:
        backend = _owners[type(array)] = _find_owner(array, argument)
        return backend


#: the backend that arrays of a type have been found to belong to before, or None
known_owner: Callable[[type], Backend | None] = _owners.get


def _find_owner(array: Any, argument: str) -> Backend:
    for name in entries():
        if sys.modules.get(name) is not None and load(name).owns(array):  # an array cannot exist before its library
            return load(name)
    kind = type(array)
    if not hasattr(array, "__array_namespace__") or kind.__module__.partition(".")[0] in entries():
        raise StructureError(
            f"{argument}: expected an array of {', '.join(available())} or of another library that speaks the array "
            f"API standard, got {kind.__module__}.{kind.__qualname__}; {_instead(kind, argument)}"
        )
    missing = [name for name in ("device", "dtype", "ndim", "shape") if not hasattr(array, name)]
    if missing:
        raise StructureError(
            f"{argument}: expected an array of the array API standard, got {kind.__module__}.{kind.__qualname__} "
            f"without .{missing[0]}; its library needs a backend of its own (gru_xp.backend.Backend); "
            f"{_instead(kind, argument)}"
        )
    return _standard(array.__array_namespace__(), kind.__module__.partition(".")[0])


def _instead(kind: type, argument: str) -> str:
    if kind.__name__ == "MaskedArray":
        return "fill what is masked, and say by mask= which steps to skip"
    return f"pass numpy.asarray({argument}), for example"


@cache
def _standard(xp: Any, name: str) -> Backend:
    return Backend(name, xp)


def assert_same_library(array: Any, argument: str, first: Backend, first_argument: str) -> None:
    """All arrays of a call belong to one library."""
    backend = owner(array, argument)
    if backend is not first:
        raise MixedArraysError(
            f"{argument}: expected an array of {first.name}, as {first_argument} is, got one of {backend.name}; "
            f"convert one of them"
        )
