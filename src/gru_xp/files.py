"""Files and frameworks' objects: which format they are of, and the record of parameters that it gives or takes.

A format is an object in the entry-point group `gru_xp.formats`. It reads and writes files, or takes a framework's live
objects, or both; whatever it cannot do it leaves out. Formats know parameters, never a model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from .errors import ConversionError, FileFormatError, StructureError
from .stored import Contents, Refusal, Report, StoredGRU, stacked, with_batch_first, with_dtype

__all__ = [
    "Format",
    "Option",
    "adopt",
    "contents",
    "format_of",
    "formats",
    "pick",
    "read",
    "unusable_formats",
    "write",
]

PathType: TypeAlias = "str | PathLike[str]"
HEAD = 512  # bytes of a file that `Format.recognises` is shown


class Option(NamedTuple):
    """One option of a GRU in one kind of source, and what a reader does with it.

    `read`: said there, and used. `noted`: said there, without a counterpart here, and the report says so. `refused`:
    said there, and what `words` name is an error. `assumed`: not said there, and `Report.assumed` says what was taken.
    `fixed`: never anything else there.
    """

    name: str  # as the source calls it: "go_backwards"
    fate: Literal["read", "noted", "refused", "assumed", "fixed"]
    words: str = ""  # what it becomes, what is refused, what is assumed: "reverse"


class Format:
    """What a format can do. Methods that a format lacks refuse with a reason."""

    name: str  # "keras"
    title: str  # "Keras 3 (.keras, .weights.h5, a live layer)"
    suffixes: tuple[str, ...] = ()
    runtime: str = ""  # the library that `run` computes with: "onnxruntime"
    options: Mapping[str, tuple[Option, ...]] = {}  # by kind of source, "a state_dict"; docs/options.md shows them

    write_options: Mapping[str, str] = {}  # what `write` takes beside the path, and what it means

    holds_narrow: bool = False  # whether `write` keeps weights of 8 and 16 bits (`StoredGRU.narrow`) as they are

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether a file is one of these, by its name and its first bytes."""
        return path.name.lower().endswith(self.suffixes) if self.suffixes else False

    def recognises_folder(self, folder: Path) -> bool:
        """Whether a folder, or what is no file but begins the names of several, is one of these; `read` is given it."""
        return False

    def read(self, path: Path) -> Contents:
        """Everything in a file that looks like a GRU; a damaged or hostile file is a `FileFormatError`.

        What the file does not say and the reader assumes is a note of the report; `batch_first` is left None.
        """
        raise ConversionError(f"{path}: {self.name} cannot be read from files")

    def write(self, gru: StoredGRU, path: Path) -> Report:
        """Write a file, whole or not at all; what cannot be represented is a `ConversionError` with the reason.

        What `write_options` names are arguments by name.
        """
        raise ConversionError(f"{path}: {self.name} cannot be written to files")

    def needs(self, path: Path) -> str:
        """The name of a file of this format that would be broken if `path` were replaced; "" if there is none."""
        return ""

    def adopts(self, thing: Any) -> bool:
        """Whether a live object of a framework belongs to this format. Must not import the framework."""
        return False

    def adopt(self, thing: Any) -> Contents:
        """Everything in a live object that looks like a GRU."""
        raise ConversionError(f"{self.name} has no live objects")

    def run(self, path: Path, gru: StoredGRU, x: Any, h0: Any, lengths: Any) -> tuple[Any, Any] | None:
        """y (T, N, D*H), h_n (L*D, N, H) of one GRU of a file, computed by the format's own runtime; None if missing.

        x (T, N, I), h0 (L*D, N, H) or None, lengths (N,) or None, as NumPy arrays. What the runtime cannot run, such as
        lengths, is a `BackendError` that says so.
        """
        return None


def formats() -> dict[str, Format]:
    """All formats that are installed and can be imported, by name. Loading them imports no framework."""
    return _loaded()[0]


def unusable_formats() -> dict[str, str]:
    """By the name of a format that cannot be imported: why."""
    return _loaded()[1]


@cache
def _loaded() -> tuple[dict[str, Format], dict[str, str]]:
    from importlib.metadata import entry_points  # takes longer to import than all of gru_xp

    found, faults = {}, {}
    for entry in sorted(entry_points(group="gru_xp.formats"), key=lambda entry: entry.name):
        try:
            found[entry.name] = entry.load()
        except (Exception, SystemExit) as error:  # a package that cannot be imported fails in any way it likes
            faults[entry.name] = (
                f'gru_xp.formats: "{entry.name}" = "{entry.value}": {type(error).__name__}: {error}; '
                f"repair its package or uninstall it"
            )
    return found, faults


def format_of(path: PathType, format: str | None = None, *, writing: bool = False) -> Format:  # noqa: A002
    """The format that is named, or the one that recognises the file.

    A file that is to be written is recognised by its name alone; a name without an ending becomes gru_xp's own.
    """
    if format is not None:
        if format in unusable_formats():
            raise FileFormatError(f"format: {format!r} cannot be loaded: {unusable_formats()[format]}")
        if format not in formats():
            raise StructureError(f"format: expected one of {', '.join(formats())}, got {format!r}")
        return formats()[format]
    file = _path(path)
    if not writing and file.exists() and not (file.is_file() or file.is_dir()):
        raise FileFormatError(f"{file}: expected a file, got a pipe or a device; write what it gives into a file")
    if not writing and not file.is_file():
        for candidate in formats().values():
            if candidate.recognises_folder(file):
                return candidate
    if not writing and file.is_dir():
        raise FileFormatError(
            f"{file}: expected a file, or a folder of a known format: shards, a SavedModel, a checkpoint"
        )
    head = b""
    if not writing:
        with file.open("rb") as opened:
            head = opened.read(HEAD)
    for candidate in formats().values():
        if candidate.recognises(file, head):
            return candidate
    if writing and not file.suffix:
        return formats()["safetensors"]
    known = "; ".join(f"{each.name} ({', '.join(each.suffixes)})" for each in formats().values() if each.suffixes)
    told = "a name with the ending of a known format" if writing else "a file of a known format"
    broken = "".join(f". Cannot be loaded: {fault}" for fault in unusable_formats().values())
    raise FileFormatError(f"{file}: expected {told}, or format= to say which: {known}{broken}")


def contents(path: PathType, format: str | None = None, *, batch_first: bool | None = None) -> Contents:  # noqa: A002
    """Everything in a file: `.grus`, `.refused`, the names of the rest as `.ignored`, and all `.arrays` by name.

    Args:
        path: a file of any format.
        format: the format, where the file's name and first bytes do not say it.
        batch_first: whether x is (N, T, I), where the file does not say it; by default False, which the report notes.
    """
    found = format_of(path, format).read(_path(path))
    return replace(found, grus=tuple(with_batch_first(gru, batch_first, str(_path(path))) for gru in found.grus))


def _path(path: PathType) -> Path:
    if not isinstance(path, str | bytes | PathLike):
        raise StructureError(f"path: expected the name of a file, got {path!r}")
    name = os.fsdecode(path)
    if "\0" in name:
        raise StructureError(f"path: expected the name of a file, which has no null character, got {name!r}")
    return Path(name)


def pick(found: Contents, name: str | None, origin: str) -> StoredGRU:
    """The one GRU, or the one named: by its whole name, or by a part of it that fits no other.

    "a+b" is a stack of two, "b" on top of "a"; a part of a stack that the file makes is a name too.
    """
    if not isinstance(name, str | None):
        raise StructureError(f"name: expected a string or None, got {name!r}")
    names = ", ".join(_first([repr(gru.name) for gru in found.grus])) or "none"
    refused = "".join(f"; refused: {told}" for told in _first([_told(refusal) for refusal in found.refused]))
    chosen = [gru for gru in found.grus if name is None or gru.name == name]
    if not chosen and name is not None:
        chosen = _parts(found, name, origin)
    if not chosen and name is not None:
        chosen = [gru for gru in found.grus if f".{name}." in f".{gru.name}.".replace("/", ".")]
    if len(chosen) == 1:
        return chosen[0]
    for refusal in found.refused:
        if not chosen and name in (None, refusal.name):
            raise ConversionError(f"{origin}: {_told(refusal)}")
    if not chosen:
        asked = "a GRU" if name is None else f"a GRU called {name!r}"
        raise FileFormatError(f"{origin}: expected {asked}, found: {names}{refused}")
    raise StructureError(
        f"{origin}: expected name= (--name) to say which, because it holds several GRUs: {names}{refused}"
    )


MOST_TOLD = 20


def _first(told: list[str]) -> list[str]:
    """As many as fit into a message."""
    return told if len(told) <= MOST_TOLD else [*told[:MOST_TOLD], f"and {len(told) - MOST_TOLD} more"]


def _parts(found: Contents, name: str, origin: str) -> list[StoredGRU]:
    """What "a+b" means where those are names, and "b" where "a+b" is one."""
    for gru in found.grus:
        names = gru.name.split("+")
        if name in names and len(names) == len(gru.params) > 1:
            place = names.index(name)
            narrow = None if gru.narrow is None else gru.narrow.of_layers(place, place + 1)
            return [replace(gru, name=name, params=gru.params[place : place + 1], narrow=narrow, dropout=0.0)]
    if "+" not in name:
        return []
    return [stacked([pick(found, part, origin) for part in name.split("+")])]


def _told(refusal: Refusal) -> str:
    return f"{refusal.name}: {refusal.reason}" if refusal.name else refusal.reason


def read(
    path: PathType,
    *,
    name: str | None = None,
    format: str | None = None,  # noqa: A002
    batch_first: bool | None = None,
    dtype: str | None = None,
) -> StoredGRU:
    """The one GRU of a file, or the one named, with what the caller says where the file does not."""
    origin = str(_path(path))
    gru = pick(format_of(path, format).read(_path(path)), name, origin)
    return with_dtype(with_batch_first(gru, batch_first, origin), dtype)


def adopt(
    thing: Any, *, name: str | None = None, batch_first: bool | None = None, dtype: str | None = None
) -> StoredGRU:
    """The one GRU of a framework's object, or the one named, with what the caller says where the object does not."""
    for candidate in formats().values():
        if candidate.adopts(thing):
            origin = type(thing).__name__
            gru = pick(candidate.adopt(thing), name, origin)
            return with_dtype(with_batch_first(gru, batch_first, origin), dtype)
    raise StructureError(
        f"expected an object of {', '.join(formats())}, got {type(thing).__module__}.{type(thing).__qualname__}"
    )


def write(gru: StoredGRU, path: PathType, *, format: str | None = None, **options: Any) -> Report:  # noqa: A002
    """Write a file in the format that its ending says, or the one named; the report says what it cost.

    `options` are those of the format, as ONNX's `inputs` and `opset`. What another model's file needs, such as the
    weights of a written program, is not replaced.
    """
    chosen, target = format_of(path, format, writing=True), _path(path)
    for option in options.keys() - chosen.write_options.keys():
        known = "; ".join(f"{name}: {words}" for name, words in chosen.write_options.items()) or "none"
        raise StructureError(f"{option}: expected an option of writing {chosen.name} files, which are {known}")
    if gru.narrow is not None and not chosen.holds_narrow:
        able = ", ".join(each.name for each in formats().values() if each.holds_narrow)
        raise ConversionError(
            f"{target}: expected a format that holds {gru.narrow}, such as {able}, got {chosen.name}; "
            f"GRU.from_params(model.params, spec=model.spec), or a file loaded with dtype='float32' (--dtype float32), "
            f"has the same numbers in float32, which it holds"
        )
    for each in formats().values():
        if owner := each.needs(target):
            raise ConversionError(f"{target}: {owner} beside it needs what is there; choose another name")
    writer: Any = chosen
    return writer.write(gru, target, **options)
