"""The two ways of reading, and when each is taken."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.errors import FileFormatError
from gru_xp.formats.regions import Region
from gru_xp.stored import Tensor

from .child import NUMBERS
from .reader import SIGNATURE, Stored, UnreadKindError, read_plain

__all__ = ["SIGNATURE", "UnreadKindError", "Stored", "read"]

SECONDS = 120  # for h5py to read a file
COMMAND = [sys.executable, "-P", str(Path(__file__).with_name("child.py"))]


def read(data: Region) -> Stored:
    """Everything in a file. What h5py reads is in memory; else numbers are read when they are asked for.

    Raises:
        UnreadKindError: it is whole, and of a kind that only h5py reads, which is not installed.
        FileFormatError: h5py says what is wrong with it.
        Exception: of any kind, for a damaged file.
    """
    try:
        return read_plain(data)
    except UnreadKindError as error:
        if importlib.util.find_spec("h5py") is None:
            raise UnreadKindError(
                f"{error}, which needs h5py: python -m pip install 'gru-xp[keras]', or write the file again with "
                f"h5py.File(..., libver='earliest') and without chunks and compression"
            ) from None
        return _by_h5py(data.piece(0, data.size))


def _by_h5py(data: bytes) -> Stored:
    """What h5py reads, in a process of its own, which finds no plugins and has bounds of time and memory."""
    environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(COMMAND, input=data, capture_output=True, timeout=SECONDS, env=environment, check=False)
    except subprocess.TimeoutExpired:
        raise FileFormatError(f"h5py did not read it within {SECONDS} s") from None
    if done.returncode or not done.stdout:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise FileFormatError(f"h5py cannot read it: {last[:200]}")
    end = done.stdout.index(b"\n")
    head = json.loads(done.stdout[:end])
    values = memoryview(done.stdout)[end + 1 :]
    datasets = {each["path"]: _tensor(each, values) for each in head["datasets"]}
    return Stored(datasets, head["groups"], head["attributes"])


def _tensor(entry: dict[str, Any], values: memoryview) -> Tensor:
    shape, name = tuple(entry["shape"]), entry["dtype"]

    def read() -> np.ndarray:
        if entry["reason"]:
            raise FileFormatError(f"{entry['path']}: {entry['reason']}")
        dtype = np.dtype(NUMBERS[name])
        start = entry["start"]
        array = np.frombuffer(values[start : start + prod(shape) * dtype.itemsize], dtype)
        if name == "bfloat16":
            array = (array.astype("u4") << 16).view("f4")
        return np.array(array.reshape(shape), array.dtype.newbyteorder("="))

    return Tensor(shape, name, read)
