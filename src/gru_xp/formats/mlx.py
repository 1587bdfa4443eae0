"""MLX (https://ml-explore.github.io/mlx): weights as its `Module.load_weights` takes them, .safetensors or .npz.

Reading such files is up to the format of the file, which knows MLX's names among others. Nothing here imports MLX.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gru_xp.atomic import write_whole
from gru_xp.checks import sizes_of
from gru_xp.errors import ConversionError
from gru_xp.files import Format
from gru_xp.formats.layouts import folded, note_of_folding
from gru_xp.formats.names import NAMES
from gru_xp.formats.npz import archive_of, npz
from gru_xp.formats.safetensors import safetensors, serialized
from gru_xp.stored import Contents, Note, Report, StoredGRU, assert_spec

__all__ = ["MLXFormat", "mlx"]


SOURCES = {title: options for title, options in NAMES.items() if title.startswith("MLX")}


class MLXFormat(Format):
    """Files for mlx.nn.GRU, or for mlx.nn.Sequential of several: its names are `Wx`, or `layers.0.Wx`."""

    name = "mlx"
    title = "MLX's names (.safetensors, .npz; say format='mlx' to write them)"

    options = SOURCES

    def read(self, path: Path) -> Contents:
        return (npz if path.suffix.lower() == ".npz" else safetensors).read(path)

    def write(self, gru: StoredGRU, path: Path) -> Report:
        notes = assert_spec(gru, "MLX's GRU")
        sizes = sizes_of(gru.params)
        if sizes.D != 1:
            raise ConversionError("two directions: MLX's GRU has one")
        arrays: dict[str, np.ndarray] = {}
        lossless = True
        for index, (w,) in enumerate(gru.params):
            prefix = f"layers.{index}." if sizes.L > 1 else ""
            one = folded(w, gru.dtype)
            lossless &= one.lossless
            cell = {"Wx": w.W_ih, "Wh": w.W_hh, "b": one.b, "bhn": one.b_n}
            arrays |= {prefix + name: array for name, array in cell.items() if array is not None}
        if path.suffix.lower() == ".npz":
            write_whole(path, archive_of(arrays, gru.dtype))
        else:
            write_whole(path, serialized(arrays, gru.dtype, {"format": "mlx"}))
        if not gru.batch_first:
            notes = (*notes, Note("changed", "batch_first=False", "MLX's x and y are (N, T, ...)"))
        if gru.dropout:
            notes = (*notes, Note("ignored", f"dropout={gru.dropout}", "put mlx.nn.Dropout between the layers"))
        return Report((note_of_folding(lossless), *notes))


mlx = MLXFormat()
