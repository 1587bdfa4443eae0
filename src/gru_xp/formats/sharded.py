"""Checkpoints in several files as a format: an index, or the folder of the shards."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from gru_xp.errors import FileFormatError
from gru_xp.files import Format, contents, format_of
from gru_xp.formats.named import grus_in
from gru_xp.formats.names import NAMES
from gru_xp.formats.shards import INDEX, SHARD, elsewhere, indices_of, shard_of_each
from gru_xp.stored import Contents, Tensor

__all__ = ["ShardsFormat", "shards"]

MOST_FILES = 10_000  # of a folder that are looked at


class ShardsFormat(Format):
    """The files that an index names, or that by their names belong together, read as one."""

    name = "shards"
    title = "checkpoints in several files (*.index.json, or the folder of the shards)"
    options = NAMES

    def recognises(self, path: Path, head: bytes) -> bool:
        return INDEX.fullmatch(path.name) is not None or (head[:1] == b"{" and b'"weight_map"' in head)

    def recognises_folder(self, folder: Path) -> bool:
        return folder.is_dir() and any(INDEX.fullmatch(name) or SHARD.fullmatch(name) for name in _names(folder))

    def needs(self, path: Path) -> str:
        return ", ".join(index.name for index, _ in indices_of(path))

    def read(self, path: Path) -> Contents:
        if not path.is_dir():
            return _of_index(path)
        names = _names(path)
        indices = [name for name in names if INDEX.fullmatch(name)]
        if len(indices) > 1:
            raise FileFormatError(f"{path}: expected one index, got several, of which to load one: {indices[:10]}")
        return _of_index(path / indices[0]) if indices else _of_shards(path, names)


shards = ShardsFormat()


def _names(folder: Path) -> list[str]:
    return sorted(each.name for each in islice(folder.iterdir(), MOST_FILES))


def _of_index(index: Path) -> Contents:
    by_file: dict[str, list[str]] = {}
    for name, file in shard_of_each(index).items():
        by_file.setdefault(file, []).append(name)
    tensors: dict[str, Tensor] = {}
    for file, names in by_file.items():
        shard = index.parent / file
        if not shard.is_file():
            tensors |= dict.fromkeys(names, elsewhere(f"in {file}, which is missing beside {index.name}"))
            continue
        found = _tensors_of(shard)
        if missing := [name for name in names if name not in found]:
            raise FileFormatError(f"{shard}: {index.name} says that it holds {missing[:4]}, which it does not")
        tensors |= {name: found[name] for name in names}
    return grus_in(tensors)


def _of_shards(folder: Path, names: list[str]) -> Contents:
    """Of a folder without an index: the one set of files, of which none is missing."""
    sets: dict[tuple[str, str, str], list[str]] = {}
    for name in names:
        if match := SHARD.fullmatch(name):
            sets.setdefault((match["stem"], match["count"], match["ending"]), []).append(name)
    if len(sets) > 1:
        raise FileFormatError(
            f"{folder}: expected the shards of one checkpoint, got those of {len(sets)}: {names[:10]}"
        )
    (((stem, count, ending), found),) = sets.items()
    wanted = [f"{stem}-{number + 1:05}-of-{count}{ending}" for number in range(int(count))]
    if missing := [name for name in wanted if name not in found]:
        raise FileFormatError(f"{folder}: of {int(count)} shards {len(missing)} are missing: {missing[:10]}")
    tensors: dict[str, Tensor] = {}
    for name in wanted:
        own = _tensors_of(folder / name)
        if twice := tensors.keys() & own.keys():
            raise FileFormatError(f"{folder}: several shards hold {sorted(twice)[:4]}")
        tensors |= own
    return grus_in(tensors)


def _tensors_of(shard: Path) -> Mapping[str, Tensor]:
    if format_of(shard).name == shards.name:
        raise FileFormatError(f"{shard}: expected a file of arrays, got an index")
    return contents(shard).arrays.tensors
