"""What a file or a framework's object holds: GRUs in host memory, and a report of what happened to the numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from gru_xp.backend import Backend
from gru_xp.checks import sizes_of
from gru_xp.dispatch import Place, convert
from gru_xp.dispatch import load as load_backend
from gru_xp.errors import BackendError, ConversionError
from gru_xp.module import GRU
from gru_xp.params import GRUSpec, Params, map_params

__all__ = ["Contents", "Note", "Refusal", "Report", "StoredGRU", "as_model", "as_stored", "assert_spec"]

Fate: TypeAlias = Literal["exact", "folded", "changed", "ignored"]


@dataclass(frozen=True)
class Note:
    """What happened to one thing on the way.

    `exact`: bit for bit, and the way back gives the same bits. `folded`: several numbers became one, outputs agree to
    rounding, the way back cannot tell them apart. `changed`: something acts differently from before, and how.
    `ignored`: was there and has no place here.
    """

    fate: Fate
    what: str  # "the weights", "bias of the gates r and z", "dropout"
    why: str = ""


@dataclass(frozen=True)
class Report:
    """What happened to everything on the way from one format to another."""

    notes: tuple[Note, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether all of it is there, bit for bit."""
        return all(note.fate == "exact" for note in self.notes)

    def __add__(self, other: Report) -> Report:
        return Report(self.notes + other.notes)

    def __str__(self) -> str:
        return "\n".join(f"{note.fate}: {note.what}{': ' if note.why else ''}{note.why}" for note in self.notes)


@dataclass(frozen=True, eq=False)
class StoredGRU:
    """One GRU, all its layers and directions, as a file or a framework's object holds it.

    The arrays are NumPy's, native and contiguous. NumPy has no bfloat16, so such numbers are held as float32, which
    holds them exactly, and `dtype` says what they were.
    """

    params: Params
    spec: GRUSpec = GRUSpec()  # noqa: RUF009 - frozen
    name: str = ""  # where it stands in a larger model: "encoder.gru"; "" for a file that is nothing else
    dtype: str = "float32"
    batch_first: bool = False
    dropout: float = 0.0
    h0: Any = None  # a first state that the file fixes: (L*D, H), or (L*D, N, H) where it fixes the batch too
    report: Report = Report()  # of the way in

    def renamed(self, name: str) -> StoredGRU:
        return replace(self, name=name)


@dataclass(frozen=True)
class Refusal:
    """A GRU that is there and cannot be had, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Contents:
    """Everything that looks like a GRU in one file or object."""

    grus: tuple[StoredGRU, ...]
    refused: tuple[Refusal, ...] = ()
    ignored: tuple[str, ...] = ()  # what else is there, by name


def as_model(stored: StoredGRU, place: Place) -> GRU:
    """A `GRU` with these numbers at a place, in the type that they were stored in."""
    backend, numpy = place.backend, load_backend("numpy")
    if stored.dtype not in backend.float_names():
        raise BackendError(
            f"{stored.name or 'this GRU'}: holds {stored.dtype}, which {backend.name} does not have; load it with "
            f"another backend, such as backend='torch'"
        )

    def brought(array: Any) -> Any:
        array = convert(numpy.canonical(array), numpy, place, "params")
        return backend.xp.astype(array, backend.dtype(stored.dtype))

    return GRU.from_params(
        map_params(brought, stored.params), spec=stored.spec, batch_first=stored.batch_first, dropout=stored.dropout
    )


def as_stored(model: GRU) -> StoredGRU:
    """What a file is written from."""
    own = model._own
    params = map_params(lambda array: to_host(array, own.place.backend), own.params)
    sizes_of(params)
    return StoredGRU(params, model.spec, "", model.dtype, model.batch_first, model.dropout)


def assert_spec(gru: StoredGRU, whose: str, *knows: str) -> None:
    """The equations are cuDNN's but for the fields of `GRUSpec` that are named; `whose` GRU lacks the others."""
    for field in fields(GRUSpec):
        value = getattr(gru.spec, field.name)
        if field.name not in knows and value != field.default:
            raise ConversionError(f"{field.name}={value!r}: {whose} knows {field.default!r} only")


def to_host(array: Any, backend: Backend) -> np.ndarray:
    """The values in host memory, contiguous; bfloat16 as float32."""
    numpy = load_backend("numpy")
    if backend.dtype_name(array.dtype) == "bfloat16":
        array = backend.xp.astype(array, backend.xp.float32)
    return np.ascontiguousarray(convert(array, backend, Place(numpy, numpy.device(None)), "params"))
