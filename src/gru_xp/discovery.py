"""Which backends there are, and which one an array belongs to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
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
    """All backends that somebody has installed, by the root module of their library; none of them is loaded.

    A backend of another package replaces one of the same name that comes with gru_xp.
    """
    from importlib.metadata import entry_points  # takes longer to import than all of gru_xp

    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group="gru_xp.backends"):
        if entry.name not in found or _comes_with_gru_xp(found[entry.name]):
            found[entry.name] = entry
    return dict(sorted(found.items()))


def _comes_with_gru_xp(entry: EntryPoint) -> bool:
    return entry.dist is not None and entry.dist.name == "gru-xp"


def available() -> tuple[str, ...]:
    """The names of the backends whose library can be found on this machine."""
    return tuple(name for name in entries() if _can_be_found(name))


def _can_be_found(name: str) -> bool:
    """Whether a module of that name is there; it may be a namespace package, as MLX is."""
    if name in sys.modules:
        return sys.modules[name] is not None
    return name.isidentifier() and find_spec(name) is not None  # of a dotted name it would import the beginning


#: what people call some libraries
ALSO_CALLED = {"pytorch": "torch", "np": "numpy", "jnp": "jax", "jax.numpy": "jax", "mlx.core": "mlx", "cuda": "cupy"}


@cache
def load(name: str) -> Backend:
    """The backend of that name; imports its library. One of the standard needs none: its root module is enough."""
    if name not in entries():
        found = _library(name)
        if found is not None:
            return found
        from difflib import get_close_matches  # needed for this alone

        meant = ALSO_CALLED.get(name.lower()) or next(iter(get_close_matches(name, entries(), 1)), None)
        hint = f", perhaps {meant!r} was meant" if meant else ""
        raise BackendError(f"unknown backend {name!r}{hint}; installed: {', '.join(available()) or 'none'}")
    if name not in available():
        raise BackendError(
            f"backend {name!r}: its library is missing; install it ({how_to_get(name)}) "
            f"or choose one of: {', '.join(available())}"
        )
    try:
        backend = entries()[name].load()()
    except ImportError as error:
        raise BackendError(f"backend {name!r}: its library is installed but cannot be imported: {error}") from error
    except (Exception, SystemExit) as error:  # a package that cannot be imported fails in any way it likes
        raise BackendError(
            f"backend {name!r}: cannot be loaded from {entries()[name].value}: {type(error).__name__}: {error}; "
            f"repair its package or uninstall it"
        ) from error
    if not isinstance(backend, Backend):
        raise BackendError(
            f"backend {name!r}: expected {entries()[name].value} to make a gru_xp.backend.Backend, got {backend!r}"
        )
    return backend


def _library(name: str) -> Backend | None:
    """The backend of a library without an entry point: its root module, or array_api in it, is a namespace."""
    if name in ALSO_CALLED or not name.isidentifier() or find_spec(name) is None:
        return None
    for path in (name, f"{name}.array_api"):
        with suppress(Exception):  # whatever a module that is no array library raises
            namespace = import_module(path)
            return _standard(namespace.asarray([0.0]).__array_namespace__(), name)
    return None


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
    kind = type(array)
    for name in entries():
        if sys.modules.get(name) is None:  # an array cannot exist before its library
            continue
        try:
            backend = load(name)
        except BackendError:
            if kind.__module__.partition(".")[0] == name:
                raise
            continue  # not in the way of other arrays
        if backend.owns(array):
            return backend
    if not hasattr(array, "__array_namespace__") or kind.__module__.partition(".")[0] in entries() or _carries(kind):
        raise StructureError(
            f"{argument}: expected an array of {', '.join(available())} or of another library that speaks the array "
            f"API standard, got {_name(kind)}{_instead(array, argument)}"
        )
    missing = [name for name in ("device", "dtype", "ndim", "shape") if not hasattr(array, name)]
    if missing:
        raise StructureError(
            f"{argument}: expected an array of the array API standard, got {_name(kind)} without .{missing[0]}; its "
            f"library needs a backend (gru_xp.backend.Backend){_instead(array, argument)}"
        )
    return _standard(array.__array_namespace__(), kind.__module__.partition(".")[0])


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _carries(kind: type) -> bool:
    """Whether it derives from another library's array: nobody knows what it carries besides numbers."""
    return any(base.__module__ == "numpy" and base.__name__ == "ndarray" for base in kind.__mro__[1:])


def _instead(array: Any, argument: str) -> str:
    """What to pass instead of something that is no array, if there is anything."""
    kind = type(array)
    if "Masked" in kind.__name__:
        return "; fill what is masked, and say by mask= which steps to skip"
    if kind.__name__ == "PackedSequence":
        return "; give what torch.nn.utils.rnn.pad_packed_sequence returns: the tensor, and lengths="
    if _carries(kind):
        return (
            f", which may carry more than numbers (a unit, say); to compute with these alone pass "
            f"{argument}.view(numpy.ndarray), or call gru_xp_numpy.register({kind.__name__}) once for all of them"
        )
    if hasattr(array, "magnitude"):
        return f", which carries a unit; pass {argument}.magnitude, in a unit of your choice"
    if isinstance(array, list | tuple):
        return f"; pass numpy.asarray({argument}, dtype='float32'), or the dtype that the parameters have"
    if hasattr(array, "compute"):
        return f"; numpy.asarray({argument}.compute()) makes an array of it, all in memory"
    if hasattr(array, "__dlpack__"):
        return f"; pass numpy.from_dlpack({argument}), for example"
    return f"; pass numpy.asarray({argument}), for example" if hasattr(array, "__array__") else ""


_standards: list[tuple[Any, Backend]] = []


def _standard(xp: Any, name: str) -> Backend:
    """One backend for each namespace, which need not be hashable."""
    found = next((backend for namespace, backend in _standards if namespace is xp), None)
    if found is None:
        found = Backend(name, _Namespace(xp, name))
        _standards.append((xp, found))
    return found


class _MissingError(BackendError, AttributeError):
    """A library has no function of that name."""


class _Namespace:
    """A library's functions; to ask for one that it lacks is an error that says what to do."""

    def __init__(self, xp: Any, name: str) -> None:
        self._xp, self._library = xp, name

    def __getattr__(self, function: str) -> Any:
        try:
            found = getattr(self._xp, function)
        except AttributeError:
            raise _MissingError(
                f"{self._library} lacks {function}, which this call needs; "
                f"give arrays of another library, such as NumPy's"
            ) from None
        setattr(self, function, found)
        return found


def assert_same_library(array: Any, argument: str, first: Backend, first_argument: str) -> None:
    """All arrays of a call belong to one library."""
    backend = owner(array, argument)
    if backend is not first:
        raise MixedArraysError(
            f"{argument}: expected an array of {first.name}, as {first_argument} is, got one of {backend.name}; "
            f"convert one of them: gru_xp.to(params, like={first_argument}) converts parameters"
        )
