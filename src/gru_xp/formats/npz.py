"""NumPy's archives (.npz): arrays with names, GRUs among them by whoever's names; written with PyTorch's."""

from __future__ import annotations

import io
import zipfile
from math import prod
from pathlib import Path

import numpy as np

from gru_xp.atomic import write_whole
from gru_xp.errors import ConversionError, FileFormatError
from gru_xp.files import Format
from gru_xp.formats.damage import reading
from gru_xp.formats.named import Tensor, grus_in, pytorch_names
from gru_xp.formats.names import NAMES
from gru_xp.stored import Contents, Note, Report, StoredGRU, assert_spec

__all__ = ["NpzFormat", "archive_of", "npz"]

MOST_HEADER = 10_000  # bytes
MOST_UNPACKED = 50  # bytes for each of the file; those of weights are seldom two


class NpzFormat(Format):
    """Archives of arrays, never of pickles."""

    name = "npz"
    title = "NumPy, with PyTorch's, Flax's, Equinox's, MLX's or Arraymancer's names (.npz)"
    suffixes = (".npz",)
    options = NAMES

    def read(self, path: Path) -> Contents:
        with reading(path, "NumPy's .npz"):
            return grus_in(_tensors(path))

    def write(self, gru: StoredGRU, path: Path) -> Report:
        notes = assert_spec(gru, "a reader of PyTorch's names")
        write_whole(path, archive_of(pytorch_names(gru.params), gru.dtype))
        lost = [
            Note("ignored", name, "such a file holds arrays only")
            for name, value in (("batch_first", gru.batch_first), ("dropout", gru.dropout))
            if value
        ]
        return Report((Note("exact", "the weights"), *notes, *lost))


npz = NpzFormat()


def archive_of(arrays: dict[str, np.ndarray], dtype: str) -> bytes:
    """The bytes of an archive with these arrays."""
    if dtype == "bfloat16":
        raise ConversionError("bfloat16: NumPy's files have no such numbers; write .safetensors")
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _tensors(path: Path) -> dict[str, Tensor]:
    """The arrays, of which only the heads have been read."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        listed = {info.filename: info for info in archive.infolist()}  # some again and again
        arrays = [info for name, info in listed.items() if name.endswith(".npy")]
        unpacked = sum(info.file_size for info in arrays)
        if unpacked > 2**20 + MOST_UNPACKED * size:
            raise FileFormatError(f"says that {unpacked} bytes are packed into {size}")
        return {info.filename.removesuffix(".npy"): _tensor(path, archive, info) for info in arrays}


def _tensor(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Tensor:
    with archive.open(info) as file:
        head = io.BytesIO(file.read(MOST_HEADER))
    version = np.lib.format.read_magic(head)
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    try:
        shape, by_columns, dtype = reader(head, max_header_size=MOST_HEADER)
    except MemoryError:  # what Python's parser says of brackets in brackets
        raise FileFormatError(f"{info.filename}: a header that means nothing") from None
    start = head.tell()

    def read() -> np.ndarray:
        size = prod(shape) * dtype.itemsize
        if dtype.hasobject or info.file_size != start + size:
            raise FileFormatError(f"{info.filename}: {shape} of {dtype} is not {info.file_size - start} bytes")
        with zipfile.ZipFile(path) as again, again.open(info) as file:
            values = np.frombuffer(file.read(start + size)[start:], dtype)
        return np.array(values.reshape(shape, order="F" if by_columns else "C"), dtype.newbyteorder("="), order="C")

    return Tensor(shape, dtype.name, read)
