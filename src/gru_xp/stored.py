"""What a file or a framework's object holds: GRUs in host memory, and a report of what happened to the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

from .checks import sizes_of
from .errors import ConversionError, DTypeError, GRUError, RangeError
from .narrow import Narrow, narrow_stack
from .params import GRUSpec, Params, map_params

__all__ = [
    "BATCH_FIRST",
    "FLOATS",
    "Arrays",
    "Contents",
    "Note",
    "Refusal",
    "Report",
    "StoredGRU",
    "Tensor",
    "assert_spec",
    "dtype_name",
    "rounded_to_bfloat16",
    "stacked",
    "two_directions",
    "with_batch_first",
    "with_dtype",
]

Fate: TypeAlias = Literal["exact", "folded", "assumed", "changed", "ignored"]


@dataclass(frozen=True)
class Note:
    """What happened to one thing on the way.

    `exact`: bit for bit, and the way back gives the same bits. `folded`: several numbers became one, outputs agree to
    rounding, the way back cannot tell them apart. `assumed`: what was read does not say it, and what was taken for it.
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
        """Whether all of it is there, bit for bit, and nothing was assumed."""
        return all(note.fate == "exact" for note in self.notes)

    @property
    def assumed(self) -> tuple[str, ...]:
        """What the source does not say, as it was taken to be: ("batch_first=False",)."""
        return tuple(note.what for note in self.notes if note.fate == "assumed")

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
    name: str = ""  # of its place in a larger model: "encoder.gru"; "" for a file that is nothing else
    dtype: str = "float32"
    batch_first: bool | None = None  # None: the source does not say it
    dropout: float = 0.0
    h0: Any = None  # a first state that the file fixes: (L*D, H), or (L*D, N, H) where it fixes the batch too
    report: Report = Report()  # of the way in
    narrow: Narrow | None = None  # how the weights are stored, where that is in fewer bits than `dtype`

    def renamed(self, name: str) -> StoredGRU:
        return replace(self, name=name)

    def noted(self, note: Note) -> StoredGRU:
        """With one more note in the report."""
        return replace(self, report=Report((*self.report.notes, note)))

    def __repr__(self) -> str:
        I, H, L, D, bias = sizes_of(self.params)
        more = "" if self.narrow is None else f", {self.narrow}"
        return f"StoredGRU({self.name!r}, I={I}, H={H}, L={L}, D={D}, bias={bias}, dtype={self.dtype!r}{more})"


@dataclass(frozen=True)
class Refusal:
    """A GRU that is there and cannot be had, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Tensor:
    """An array that is read when it is needed."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name of it, or "bfloat16", or whatever the file calls it
    read: Callable[[], Any]  # as NumPy's array; bfloat16 as float32, everything else as it is
    elsewhere: str = ""  # where it is, if this file lacks it: "in model-00001-of-00002.safetensors"


class Arrays(Mapping[str, Any]):
    """The arrays of a file by name, each read when it is asked for; bfloat16 comes as float32, which holds it.

    `tensors` has their shapes and dtypes.

    >>> arrays = Arrays({"bias": Tensor((2,), "float32", lambda: [0.0, 1.0])})
    >>> arrays["bias"], arrays.tensors["bias"].shape
    ([0.0, 1.0], (2,))
    """

    def __init__(self, tensors: Mapping[str, Tensor] | None = None):
        self.tensors = dict(tensors or {})

    def __getitem__(self, name: str) -> Any:
        return self.tensors[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return f"Arrays({_few(list(self))})"


@dataclass(frozen=True, eq=False)
class Contents:
    """Everything that looks like a GRU in one file or object, and the arrays in it, for the rest of the model."""

    grus: tuple[StoredGRU, ...]
    refused: tuple[Refusal, ...] = ()
    ignored: tuple[str, ...] = ()  # what else is there, by name
    arrays: Arrays = field(default_factory=Arrays)

    def __repr__(self) -> str:
        return f"Contents({list(self.grus)}, refused={_few(self.refused)}, ignored={_few(self.ignored)})"


def _few(things: Sequence[Any]) -> str:
    return f"[{', '.join(map(repr, things[:5]))}{f', ... {len(things)} in all' if len(things) > 5 else ''}]"


# ---- what the caller says --------------------------------------------------------------------------------------------

BATCH_FIRST = Note(
    "assumed",
    "batch_first=False",
    "what was read does not say it; where x is (N, T, I) say batch_first=True (--batch-first)",
)


def with_batch_first(gru: StoredGRU, asked: bool | None, origin: str) -> StoredGRU:
    """With the order of axes that the source says, else the one that is asked for, else time first, with a note."""
    if not isinstance(asked, bool | None):
        raise ConversionError(f"batch_first: expected True, False or None, got {asked!r}")
    if gru.batch_first is None:
        if asked is not None:
            return replace(gru, batch_first=asked)
        return replace(gru, batch_first=False).noted(BATCH_FIRST)
    if asked not in (None, gru.batch_first):
        where = f"{origin}, {gru.name}" if gru.name else origin
        raise ConversionError(
            f"batch_first: expected {gru.batch_first}, which {where} says, got {asked} (--batch-first); leave it out"
        )
    return gru


FLOATS = ("float16", "bfloat16", "float32", "float64")
MOST = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38, "float32": 3.4028234663852886e38}
WIDER = {"float16": ("float32", "float64"), "bfloat16": ("float32", "float64"), "float32": ("float64",)}


def with_dtype(gru: StoredGRU, dtype: str | None) -> StoredGRU:
    """With its numbers in another type: the same ones in a wider type, rounded in a narrower one."""
    if dtype is None or (dtype == gru.dtype and gru.narrow is None):
        return gru
    if dtype not in FLOATS:
        raise DTypeError(f"dtype: expected one of {', '.join(FLOATS)}, got {dtype!r}")
    if gru.narrow is not None:
        return with_dtype(_widened(gru), dtype)
    wider = dtype in WIDER.get(gru.dtype, ())

    def cast(array: Any) -> Any:
        size = abs(array)
        if not wider and ((size > MOST[dtype]) & (size < float("inf"))).any():
            raise RangeError(f"dtype={dtype}: expected numbers up to {MOST[dtype]:g}, got {size.max():g}")
        return rounded_to_bfloat16(array) if dtype == "bfloat16" else array.astype(dtype)

    note = (
        Note("exact", f"dtype={dtype}", f"the same numbers as in {gru.dtype}; {dtype} is what is computed in")
        if wider
        else Note("folded", f"dtype={dtype}", f"rounded from {gru.dtype}")
    )
    h0 = None if gru.h0 is None else cast(gru.h0)
    return replace(gru, params=map_params(cast, gru.params), dtype=dtype, h0=h0).noted(note)


def _widened(gru: StoredGRU) -> StoredGRU:
    """With the numbers that narrow weights mean, in float32."""
    assert gru.narrow is not None
    note = Note("folded", f"{gru.narrow.weights} weights", "the same numbers in float32, as was asked for by dtype")
    if gru.narrow.activations == "int8":
        why = "x and the state are not rounded to 8 bits, as they are beside the file's weights"
        gru = gru.noted(Note("changed", "int8 activations", why))
    return replace(gru.noted(note), narrow=None)


def rounded_to_bfloat16(array: Any) -> Any:
    """The nearest bfloat16, of two the even one, held as float32, from any NumPy array of floats."""
    narrow = array.astype("float32")
    bits = narrow.view("uint32").astype("uint64")
    if array.dtype.itemsize == 8:  # towards zero and odd where inexact, so that rounding twice is rounding once
        wide = narrow.astype("float64")
        bits = bits - (abs(wide) > abs(array)) | (wide != array)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype("uint32").view("float32")
    rounded[array != array] = float("nan")
    return rounded


# ---- several as one --------------------------------------------------------------------------------------------------


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
    narrow = narrow_stack([part for gru in grus for part in _narrow_layers(gru)])
    if narrow is None and any(gru.narrow is not None for gru in grus):
        notes += (Note("folded", "narrow weights", "stored in several ways there, in float32 here"),)
    return replace(first, params=params, name=name, dropout=dropout, report=Report(notes), narrow=narrow)


def _narrow_layers(gru: StoredGRU) -> list[tuple[Narrow | None, int]]:
    """How each layer is stored, and its directions."""
    return [
        (None if gru.narrow is None else gru.narrow.of_layers(index, index + 1), len(layer))
        for index, layer in enumerate(gru.params)
    ]


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
    if gru.narrow is not None and gru.narrow.activations == "int8":
        raise ConversionError(
            f"int8 activations: {whose} does not round x and the state; GRU.from_params(model.params, spec=model.spec) "
            f"does not either"
        )
    notes = []
    for each in fields(GRUSpec):
        value = getattr(gru.spec, each.name)
        if not each.init or each.name in knows or value == each.default:
            continue
        if each.name != "padding":
            raise ConversionError(f"{each.name}={value!s}: {whose} knows {each.default!s} only")
        notes.append(Note("changed", "padding='hold'", f"{whose} does not put the last state into the padding of y"))
    return tuple(notes)


def dtype_name(dtype: Any) -> str:
    """Return the name "float32" for "float32", numpy.float32, numpy.dtype("float32"), torch.float32, ..."""
    if isinstance(dtype, str):
        name = dtype
    else:
        name = getattr(dtype, "__name__", None) or getattr(dtype, "name", None) or str(dtype).rpartition(".")[2]
    if name not in ("float16", "bfloat16", "float32", "float64"):
        raise DTypeError(f"dtype: expected float32, float64, float16 or bfloat16, got {dtype!r}")
    return str(name)
