"""The formats that `hostile.py` attacks: a good file of each, and files that somebody made to do harm."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile import Subject

import gru_xp


class Bomb:
    """Runs code where it is unpickled, which the audit hook of the child sees."""

    def __reduce__(self) -> Any:
        return exec, ("import os; os.system('true')",)


class Safetensors(Subject):
    """gru_xp's own files."""

    def good(self, path: Path) -> None:
        gru_xp.GRU(2, 3, 2, bidirectional=True, seed=0).save(path)

    def attacks(self, folder: Path, good: bytes) -> Iterator[tuple[str, Path]]:
        path = folder / "attack.safetensors"
        size = int.from_bytes(good[:8], "little")
        header = json.loads(good[8 : 8 + size])
        shaped = {
            name: entry if name == "__metadata__" else entry | {"shape": [2**31, 2**31]}
            for name, entry in header.items()
        }
        for what, data in {
            "a pickle": pickle.dumps(Bomb()),
            "a header of 2**63 bytes": (2**63).to_bytes(8, "little") + good[8:],
            "a header of all that follows": (len(good) - 8).to_bytes(8, "little") + good[8:],
            "shapes of 2**62 numbers": _with_header(shaped, good[8 + size :]),
            "offsets beyond the end": _with_header(_moved(header, 2**40), good[8 + size :]),
            "deep JSON": (100_000).to_bytes(8, "little") + b"[" * 100_000 + good,
        }.items():
            path.write_bytes(data)
            yield what, path


def _with_header(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _moved(header: dict[str, Any], by: int) -> dict[str, Any]:
    """Every array of a safetensors header `by` bytes further on."""
    return {
        name: entry if name == "__metadata__" else entry | {"data_offsets": [a + by for a in entry["data_offsets"]]}
        for name, entry in header.items()
    }


SUBJECTS = (Safetensors("safetensors", ".safetensors"),)
