"""The format: TensorFlow's checkpoints and SavedModels, read as arrays and as what Keras wrote beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gru_xp.errors import FileFormatError
from gru_xp.files import Format
from gru_xp.formats.damage import reading
from gru_xp.formats.keras.dialects import TENSORFLOW_2
from gru_xp.formats.keras.files import Model
from gru_xp.formats.keras.options import SOURCES
from gru_xp.formats.keras.walk import TRAINED, Walk
from gru_xp.formats.named import grus_in
from gru_xp.formats.names import NAMES
from gru_xp.stored import Contents

from .cells import joined
from .checkpoint import Checkpoint, prefix_of
from .objects import GRAPH, Objects, described, nodes_of
from .saved_model import PROGRAM, metadata_of

__all__ = ["TensorFlowFormat", "tensorflow"]

#: A SavedModel has Keras's descriptions; a checkpoint has arrays, and the names of the objects that hold them.
OPTIONS = {
    **{source: options for source, options in SOURCES.items() if source != "Keras 1's GRU"},
    **{source: options for source, options in NAMES.items() if source.startswith(("Keras", "TensorFlow"))},
}
LITE, GRAPH_ALONE = "a TensorFlow Lite model", "a graph of TensorFlow's"
UNREAD = (
    "{}, in which a GRU is no layer any more; load the Keras model that it was made from (.keras, .h5, a SavedModel, a "
    "checkpoint), or write one there: model.save('model.keras')"
)


class TensorFlowFormat(Format):
    """Variables of Keras's layers, and of TensorFlow 1's cells."""

    name = "tensorflow"
    title = "TensorFlow: a checkpoint (ckpt-1, .index, a folder), a SavedModel (a folder)"
    suffixes = (".index", ".tflite", ".pb")
    options = OPTIONS

    def recognises(self, path: Path, head: bytes) -> bool:
        """By the name, by a checkpoint's files beside it, or by what a .tflite begins with."""
        return super().recognises(path, head) or head[4:8] == b"TFL3" or (bool(head) and prefix_of(path) is not None)

    def recognises_folder(self, folder: Path) -> bool:
        return (folder / PROGRAM).is_file() or prefix_of(folder) is not None

    def read(self, path: Path) -> Contents:
        with reading(path, "TensorFlow's checkpoint or SavedModel", FileFormatError):
            return _read(path)


tensorflow = TensorFlowFormat()


def _read(path: Path) -> Contents:
    folder = path.parent if path.name == PROGRAM else path
    program = folder / PROGRAM
    if path.is_file() and path != program:
        with path.open("rb") as file:
            lite = file.read(8)[4:] == b"TFL3"
        if lite or path.suffix in (".tflite", ".pb"):
            raise FileFormatError(UNREAD.format(LITE if lite or path.suffix == ".tflite" else GRAPH_ALONE))
    prefix = folder / "variables" / "variables" if program.is_file() else prefix_of(path)
    if prefix is None:
        raise FileFormatError("expected a SavedModel or a checkpoint, which has a file .index")
    if not prefix.with_name(f"{prefix.name}.index").is_file():
        raise FileFormatError(UNREAD.format("a SavedModel without variables"))
    config, layers = described(metadata_of(folder)) if program.is_file() else (None, {})
    checkpoint = Checkpoint(prefix)
    nodes = nodes_of(checkpoint.string(GRAPH)) if GRAPH in checkpoint.entries else []
    source = Objects(nodes, checkpoint.tensors, layers)
    found = Walk(Model(config, TENSORFLOW_2, source)).contents()
    cells = grus_in({name: source.tensors[name] for name in found.ignored if not TRAINED.match(name)})
    left = {*cells.ignored}
    return replace(
        found,
        grus=(*found.grus, *joined(cells.grus)),
        refused=(*found.refused, *cells.refused),
        ignored=tuple(name for name in found.ignored if name in left or TRAINED.match(name)),
    )
