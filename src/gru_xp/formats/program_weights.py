"""The weights of a program for NumPy: an `.npz` with arrays such as `layer0_forward_W_ih`, and the code that reads it.

Weights in 8 bits are there as integers, with `layer0_forward_W_ih_scale` of their rows; those in bfloat16, which NumPy
lacks, as the upper halves of float32. Other 16-bit numbers become float32, in which the program computes.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.narrow import Narrow, integers
from gru_xp.stored import StoredGRU

__all__ = ["ENDING", "is_of_a_program", "reading", "ways_of", "weights_file", "weights_path"]

ENDING = "_weights.npz"


def weights_path(path: Path) -> Path:
    """Where the weights of a program lie."""
    return path.with_name(f"{path.stem}{ENDING}")


def is_of_a_program(path: Path) -> bool:
    """Whether the file holds a program's weights, and not, say, the model that is being exported."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.startswith(("layer0_forward_", "layer0_reverse_")) for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def ways_of(gru: StoredGRU) -> tuple[str, ...]:
    """The directions by name."""
    if len(gru.params[0]) == 2:
        return ("forward", "reverse")
    return ("reverse",) if gru.spec.reverse else ("forward",)


def weights_file(gru: StoredGRU) -> bytes:
    """The file, of all arrays and the first state."""
    arrays: dict[str, Any] = {}
    for layer, directions in enumerate(gru.params):
        narrow = None if gru.narrow is None else gru.narrow.of_layers(layer, layer + 1)
        for d, (way, w) in enumerate(zip(ways_of(gru), directions, strict=True)):
            for name, array in w._asdict().items():
                if array is not None:
                    arrays |= _stored(f"layer{layer}_{way}_{name}", array, name, narrow, d)
    if gru.h0 is not None:
        arrays["h0"] = gru.h0 if gru.h0.ndim == 3 else gru.h0[:, None]
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **arrays)
    return data.getvalue()


def _stored(key: str, array: Any, name: str, narrow: Narrow | None, d: int) -> dict[str, Any]:
    """One array as the file has it, with its scales."""
    if narrow is None or array.ndim < 2:
        return {key: array if array.dtype.itemsize > 2 else array.astype("f4")}
    scales = narrow.scales_of(0, d)
    if scales is not None:
        scale = getattr(scales, name)
        return {key: integers(array, scale, np).astype("i1"), f"{key}_scale": scale}
    if narrow.weights == "float16":
        return {key: array.astype("f2")}
    return {key: (array.view("u4") >> 16).astype("u2")}


def reading(gru: StoredGRU) -> tuple[str, str]:
    """The function of the program that reads an array, and its call; no function where arrays are read as they are."""
    if gru.narrow is None:
        return "", 'file[f"layer{layer}_{way}_{name}"]'
    dtype, told, widened = {
        "int8": (
            "np.int8",
            "integers of 8 bits, times one scale for each row",
            'array * file[f"{name}_scale"][:, None]',
        ),
        "float16": ("np.float16", "numbers of 16 bits", "array.astype(np.float32)"),
        "bfloat16": ("np.uint16", "the upper halves of float32", "(array.astype(np.uint32) << 16).view(np.float32)"),
    }[gru.narrow.weights]
    function = f'''
def widened(file, name):
    """An array of the file in float32; weights are there as {told}."""
    array = file[name]
    return {widened} if array.dtype == {dtype} else array
'''
    return function, 'widened(file, f"layer{layer}_{way}_{name}")'
