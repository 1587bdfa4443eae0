"""Who computes: discovery of backends, selection by argument, context and variable, the way from one to another.

The array's library decides the type of the result; the selection decides where it is computed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from .backend import Backend
from .errors import (
    BackendError,
    DTypeError,
    GRUError,
    MixedArraysError,
    NotDifferentiableError,
    StructureError,
    VariableError,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Place", "Selection", "available", "convert", "load", "owner", "use_backend"]

KERNEL_POLICIES = ("auto", "off", "require")
BACKEND, KERNELS = "GRU_XP_BACKEND", "GRU_XP_KERNELS"


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


class Selection(NamedTuple):
    """`name[:device]`, as somebody asked for it."""

    name: str
    device: str | None


# ---- discovery -------------------------------------------------------------------------------------------------------


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


def owner_of_type(kind: type) -> Backend | None:
    """The backend that arrays of this type have been found to belong to before, or None."""
    return _owners.get(kind)


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


# ---- selection -------------------------------------------------------------------------------------------------------

_context: ContextVar[str | Backend | None] = ContextVar("gru_xp_backend", default=None)


@contextmanager
def use_backend(backend: str | Backend) -> Iterator[None]:
    """Within this context calls compute on `backend`, as `name[:device]` or "auto"; results stay of the caller's kind.

    A `Backend` object, such as one under test, stands for itself.

    >>> import gru_xp
    >>> with gru_xp.use_backend("numpy"):
    ...     print(gru_xp.selection())
    Selection(name='numpy', device=None)
    """
    selection(backend)
    token = _context.set(backend)
    try:
        yield
    finally:
        _context.reset(token)


def selection(backend: str | Backend | None = None) -> Selection | Backend | None:
    """What is selected by the argument, the context or GRU_XP_BACKEND, in this order; None for auto."""
    asked = backend if backend is not None else _context.get()
    if asked is not None:
        return asked if isinstance(asked, Backend) else _parse(asked, "backend")
    text = os.environ.get(BACKEND)
    return _parse(text, BACKEND) if text else None


def _parse(text: str, origin: str) -> Selection | None:
    if not isinstance(text, str):
        raise StructureError(f'{origin}: expected "name" or "name:device", got {text!r}')
    if text == "auto":
        return None
    name, colon, device = text.partition(":")
    try:
        backend = load(name)
        if colon:
            backend.device(device)
    except BackendError as error:
        raise BackendError(f"{origin}={text!r}: {error}") from None
    return Selection(name, device if colon else None)


# os.environ takes a microsecond to say that a variable is not set; the dictionary in which it keeps its own does not
_environ, _kept = os.environ, getattr(os.environ, "_data", None)
_get: Any = os.environ.get if _kept is None else _kept.get
_BACKEND, _KERNELS = (name if _kept is None else os.environ.encodekey(name) for name in (BACKEND, KERNELS))


def variables() -> tuple[Any, ...]:
    """All that is set outside of a call and decides who computes it; to be compared with what was seen before."""
    if os.environ is _environ:
        return _context.get(), _get(_BACKEND), _get(_KERNELS)
    return _context.get(), os.environ.get(BACKEND), os.environ.get(KERNELS)


def kernel_policy() -> str:
    """The value of GRU_XP_KERNELS."""
    policy = os.environ.get(KERNELS) or "auto"
    if policy not in KERNEL_POLICIES:
        raise VariableError(f"{KERNELS}: expected one of {', '.join(KERNEL_POLICIES)}, got {policy!r}")
    return policy


def place_for(selected: Selection | Backend | None, caller: Place | None) -> Place:
    """Where to compute for a caller whose arrays are at `caller`; without arrays, where to create."""
    if selected is None:
        return caller if caller is not None else Place(load("numpy"), load("numpy").device(None))
    backend = selected if isinstance(selected, Backend) else load(selected.name)
    if isinstance(selected, Selection) and selected.device is not None:
        return Place(backend, backend.device(selected.device))
    if caller is None:
        return Place(backend, backend.device(None))
    if backend is caller.backend:
        return caller
    device = caller.backend.device_name(caller.device)
    return Place(backend, backend.device(device if device in backend.devices() else None))


# ---- from one library to another -------------------------------------------------------------------------------------


def convert(array: Any, source: Backend, target: Place, argument: str) -> Any:
    """The same values in another library or on another device, by DLPack; shares memory where both allow it."""
    if source is target.backend:
        return source.to_device(array, target.device)
    reason = source.refuses_crossing(array)
    if reason is not None:
        raise NotDifferentiableError(
            f"{argument}: {reason}, so it cannot be taken from {source.name} to {target.backend.name}; "
            f"compute where it is (backend='auto')"
        )
    dtype = source.dtype_name(array.dtype)
    if dtype != "bool" and dtype not in target.backend.float_names():
        raise DTypeError(
            f"{argument}: {target.backend.name} has no {dtype} ({', '.join(target.backend.float_names())}); "
            f"cast it, or compute where it is (backend='auto')"
        )
    to_host = target.backend.device_name(target.device) == "cpu"
    try:
        moved = target.backend.from_dlpack(source.exportable(array, to_host=to_host), target.device)
    except GRUError:
        raise
    except (AttributeError, BufferError, TypeError, ValueError, RuntimeError) as error:
        raise BackendError(
            f"{argument}: {source.name} could not give it to {target.backend.name} by DLPack ({error}); "
            f"compute where the arrays are (backend='auto'), all of them of one library"
        ) from error
    if target.backend.dtype_name(moved.dtype) != dtype:
        raise DTypeError(f"{argument}: {target.backend.name} made {moved.dtype} of {dtype}")
    return moved


def assert_same_library(array: Any, argument: str, first: Backend, first_argument: str) -> None:
    """All arrays of a call belong to one library."""
    backend = owner(array, argument)
    if backend is not first:
        raise MixedArraysError(
            f"{argument}: expected an array of {first.name}, as {first_argument} is, got one of {backend.name}; "
            f"convert one of them"
        )
