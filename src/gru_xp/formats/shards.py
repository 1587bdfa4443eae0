"""Checkpoints in several files: indices, which name the file of each array, and the names of shards.

Hugging Face's libraries write them: `model-00001-of-00002.safetensors`, `model-00002-of-00002.safetensors` and
`model.safetensors.index.json`, whose `weight_map` maps the name of each array to a file beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from gru_xp.errors import ConversionError, FileFormatError
from gru_xp.formats.named import grus_in
from gru_xp.stored import Contents, Note, Tensor

__all__ = ["INDEX", "SHARD", "elsewhere", "grus_of_file", "indices_of", "shard_of_each"]

INDEX = re.compile(r".+\.index(\.[\w-]+)?\.json")  # model.safetensors.index.json, model.safetensors.index.fp16.json
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<ending>\.\w+)")
LARGEST = 1 << 26  # bytes of an index
MOST_INDICES = 100  # in one folder


def shard_of_each(index: Path) -> dict[str, str]:
    """The name of the file of each array, all of them in the folder of the index."""
    if index.stat().st_size > LARGEST:
        raise FileFormatError(f"{index}: expected at most {LARGEST} bytes")
    try:
        content = json.loads(index.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FileFormatError(
            f"{index}: expected JSON, but it is damaged or something else: {str(error)[:200]}"
        ) from None
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise FileFormatError(f"{index}: expected the index of a checkpoint, with a `weight_map` of names to files")
    for file in found.values():
        if type(file) is not str or not file or file in (".", "..") or re.search(r"[/\\\0]", file):
            raise FileFormatError(f"{index}: expected names of files beside it, got {str(file)[:100]!r}")
    return found


def elsewhere(where: str) -> Tensor:
    """An array that is in another file."""

    def read() -> NoReturn:
        raise ConversionError(f"the array is {where}")

    return Tensor((), "elsewhere", read, where)


def grus_of_file(
    path: Path, tensors: Mapping[str, Tensor], judge: Callable[[Mapping[str, Tensor]], Contents] = grus_in
) -> Contents:
    """The GRUs of one file by `judge`; one of which an index has more in other files is refused with their names."""
    others: dict[str, Tensor] = {}
    for index, files in indices_of(path):
        words = f"load {index.name} or the folder"
        others |= {name: elsewhere(f"in {file}; {words}") for name, file in files.items() if name not in tensors}
    found = judge({**tensors, **others})
    shard = SHARD.fullmatch(path.name)
    if others or shard is None:
        return found
    why = f"by its name it is one of {int(shard['count'])} files, of which no index is beside it; load their folder"
    note = Note("assumed", "all of the GRU is in this file", why)
    return replace(found, grus=tuple(gru.noted(note) for gru in found.grus))


def indices_of(path: Path) -> list[tuple[Path, dict[str, str]]]:
    """The indices beside a file that name it, and what they say."""
    found = []
    for index in sorted(each for each in path.parent.glob("*.index*.json") if INDEX.fullmatch(each.name))[
        :MOST_INDICES
    ]:
        try:
            files = shard_of_each(index)
        except FileFormatError:  # somebody else's
            continue
        if path.name in files.values():
            found.append((index, files))
    return found
