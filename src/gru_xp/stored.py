"""What a file or a framework's object holds: GRUs in host memory, and a report of what happened to the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias

from .checks import sizes_of
from .errors import ConversionError, GRUError
from .params import GRUSpec, Params

__all__ = [
    "Contents",
    "Note",
    "Refusal",
    "Report",
    "StoredGRU",
    "assert_spec",
    "stacked",
    "two_directions",
]

Fate: TypeAlias = Literal["exact", "folded", "assumed", "changed", "ignored"]


@dataclass(frozen=True)
class Note:
    """What happened to one thing on the way.

    `exact`: bit for bit, and the way back gives the same bits. `folded`: several numbers became one, outputs agree to
    rounding, the way back cannot tell them apart. `assumed`: what was read does not tell it, and what was taken for it.
    `changed`: something acts differently from before, and how. `ignored`: was there and has no place here.
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


def stacked(grus: Sequence[StoredGRU], dropout: float = 0.0) -> StoredGRU:
    """Several as one stack, the first at the bottom, named "a+b"; what does not fit on one another is an error."""
    first = grus[0]
    for gru in grus[1:]:
        for name in ("spec", "dtype", "batch_first"):
            if getattr(gru, name) != getattr(first, name):
                raise ConversionError(
                    f"{gru.name} on top of {first.name}: expected {name} = {getattr(first, name)!r}, "
                    f"got {getattr(gru, name)!r}"
                )
    if len(grus) > 1 and (first.spec.reverse or any(gru.h0 is not None for gru in grus)):
        raise ConversionError(f"{first.name}: a stack has no reversed direction and no first states of its own")
    params = tuple(layer for gru in grus for layer in gru.params)
    try:
        sizes_of(params)
    except GRUError as error:
        raise ConversionError(f"{'+'.join(gru.name for gru in grus)}: {error}") from None
    notes = tuple(dict.fromkeys(note for gru in grus for note in gru.report.notes))
    name = "+".join(gru.name for gru in grus)
    return replace(first, params=params, name=name, dropout=dropout, report=Report(notes))


def two_directions(forward: StoredGRU, backward: StoredGRU, name: str) -> StoredGRU:
    """Two of one layer as the two directions of it."""
    if forward.spec != backward.spec or forward.dtype != backward.dtype:
        raise ConversionError(f"{name}: expected the same equations and dtypes in both directions")
    params = tuple((*a, *b) for a, b in zip(forward.params, backward.params, strict=True))
    try:
        sizes_of(params)
    except GRUError as error:
        raise ConversionError(f"{name}: {error}") from None
    notes = tuple(dict.fromkeys(forward.report.notes + backward.report.notes))
    return replace(forward, params=params, name=name, report=Report(notes))


def assert_spec(gru: StoredGRU, whose: str, *knows: str) -> tuple[Note, ...]:
    """The equations are cuDNN's but for the fields of `GRUSpec` that are named; `whose` GRU lacks the others.

    What y holds in the padding is no part of the equations: where `whose` GRU differs there, it is a note.
    """
    notes = []
    for field in fields(GRUSpec):
        value = getattr(gru.spec, field.name)
        if not field.init or field.name in knows or value == field.default:
            continue
        if field.name != "padding":
            raise ConversionError(f"{field.name}={value!s}: {whose} knows {field.default!s} only")
        notes.append(Note("changed", "padding='hold'", f"{whose} does not put the last state into the padding of y"))
    return tuple(notes)
