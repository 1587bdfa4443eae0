"""Where to compute: what an argument, `use_backend` or a variable selects.

The array's library decides the type of the result; the selection decides where it is computed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from .backend import Backend
from .discovery import Place, load
from .errors import BackendError, StructureError, VariableError

__all__ = ["Selection", "kernel_policy", "place_for", "selection", "use_backend", "variables"]

KERNEL_POLICIES = ("auto", "off", "require")
BACKEND, KERNELS = "GRU_XP_BACKEND", "GRU_XP_KERNELS"


class Selection(NamedTuple):
    """`name[:device]`, as somebody asked for it."""

    name: str
    device: str | None


_context: ContextVar[str | Backend | None] = ContextVar("gru_xp_backend", default=None)


@contextmanager
def use_backend(backend: str | Backend) -> Iterator[None]:
    """Within this context calls compute on `backend`, as `name[:device]` or "auto"; results stay of the caller's kind.

    A `Backend` object, such as one under test, stands for itself.

    >>> import numpy as np, gru_xp
    >>> model = gru_xp.GRU(3, 4)
    >>> with gru_xp.use_backend("numpy:cpu"):
    ...     y, h_n = model(np.zeros((7, 2, 3), np.float32))
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
