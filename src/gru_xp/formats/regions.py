"""Bytes that are read piece by piece: those of a file, of an entry of a zip, or in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gru_xp.errors import FileFormatError

__all__ = ["Region"]

CHUNK = 1 << 20
LOCAL_HEADER = 30  # bytes before the name of an entry


class Region:
    """A part of a file, from `start` on, or bytes. The file is opened for each piece, but within `kept_open`."""

    def __init__(self, source: Path | bytes, start: int = 0, size: int | None = None):
        self.source, self.start = source, start
        whole = len(source) if isinstance(source, bytes) else source.stat().st_size
        self.size = whole - start if size is None else size
        self._file: BinaryIO | None = None
        if start + self.size > whole:
            raise FileFormatError(f"expected {self.size} bytes at {start}, the file ends at {whole}")

    @classmethod
    def of_entry(cls, path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Region:
        """An entry of a zip, whose checksum is compared first; one that is compressed is unpacked into memory."""
        with archive.open(info) as entry:
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                return cls(entry.read(info.file_size))
            while entry.read(CHUNK):
                pass
        header = cls(path, info.header_offset, LOCAL_HEADER).piece(0, LOCAL_HEADER)
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        return cls(path, info.header_offset + LOCAL_HEADER + lengths, info.file_size)

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """For many pieces."""
        if isinstance(self.source, bytes):
            yield
            return
        with self.source.open("rb") as self._file:
            try:
                yield
            finally:
                self._file = None

    def piece(self, start: int, size: int) -> bytes:
        """`size` bytes; what is not there is a `FileFormatError`."""
        if start + size > self.size:
            raise FileFormatError(f"says that {size} bytes are at {start}, and is {self.size} bytes long")
        if isinstance(self.source, bytes):
            return self.source[self.start + start : self.start + start + size]
        if self._file is not None:
            return self._read(self._file, start, size)
        with self.source.open("rb") as file:
            return self._read(file, start, size)

    def _read(self, file: BinaryIO, start: int, size: int) -> bytes:
        file.seek(self.start + start)
        data = file.read(size)
        if len(data) != size:
            raise FileFormatError(f"expected {size} bytes at {start}, got {len(data)}: the file has become shorter")
        return data
