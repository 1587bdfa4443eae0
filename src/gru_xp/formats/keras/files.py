"""The GRUs in Keras's files.

A .keras file is a zip of a description in JSON and of an HDF5 file, which has the arrays of each layer under a path
that follows from the description. A .weights.h5 file is the latter alone, which does not tell a GRU's activations.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from gru_xp.checks import sizes_of
from gru_xp.errors import ConversionError, FileFormatError, GRUError
from gru_xp.formats.hdf5 import datasets
from gru_xp.formats.layouts import from_keras
from gru_xp.formats.named import Tensor
from gru_xp.params import GRUSpec
from gru_xp.stored import FLOATS, Arrays, Contents, Note, Refusal, Report, StoredGRU, two_directions

from .layer import KEPT, OTHER, RECURRENT, gru_of, kind_of, read_all
from .stacks import stacks_of, wiring_of

__all__ = ["Walk", "from_zip"]

MOST_JSON = 1 << 24  # bytes
MOST_LAYERS = 20_000


def from_zip(data: bytes) -> tuple[Any, dict[str, Tensor]]:
    """The description and the arrays. Sizes are looked at before anything is unpacked, and nothing touches the disk."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    entries = {info.filename: info for info in archive.infolist()}

    def unpacked(name: str, most: int) -> bytes:
        info = entries.get(name)
        if info is None:
            sharded = (
                "; its weights are in several files, load it with Keras" if "model.weights.json" in entries else ""
            )
            raise FileFormatError(f"a zip without {name}{sharded}")
        if info.file_size > most:
            raise FileFormatError(f"{name}: expected at most {most} bytes, it says {info.file_size}")
        with archive.open(info) as file:
            return file.read(most)

    config = json.loads(unpacked("config.json", min(MOST_JSON, 50 * len(data))))
    return config, datasets(unpacked("model.weights.h5", 8 * len(data)))


class Walk:
    """The GRUs of a file: those that the description tells of, and those that only the arrays show."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.groups: dict[str, dict[str, Tensor]] = {}
        self.tensors = tensors
        for path, tensor in tensors.items():
            place, _, leaf = path.rpartition("/")
            self.groups.setdefault(place, {})[leaf] = tensor
        self.sorted = sorted(self.groups)
        self.used: set[str] = set()
        self.layers = 0
        self.refused: list[Refusal] = []
        self.closed: dict[str, tuple[str, str, bool]] = {}  # layers that are not understood: name, class, Keras's own

    def contents(self, config: Any) -> Contents:
        grus = list(self.below(config, "", "")) if config is not None else []
        grus += self.rest()
        used = {f"{place}/{leaf}" for place in self.used for leaf in self.groups.get(place, ())}
        ignored = tuple(name for name in self.tensors if name not in used)
        arrays = Arrays({name: tensor.read for name, tensor in self.tensors.items()})
        return Contents(tuple(grus), tuple(self.refused), ignored, arrays)

    def below(self, entry: Any, path: str, name: str, depth: int = 0, mask: str = "") -> Iterator[StoredGRU]:
        """In the layers of a described model; `mask` is what makes the mask of its input."""
        config = entry.get("config") if isinstance(entry, Mapping) else None
        layers = config.get("layers") if isinstance(config, Mapping) else None
        if not isinstance(layers, list) or depth > 20:
            return
        self.layers += len(layers)
        if self.layers > MOST_LAYERS:
            raise FileFormatError(f"expected at most {MOST_LAYERS} layers")
        wiring = wiring_of(entry, mask)
        counts: dict[str, int] = {}
        found: dict[str, StoredGRU] = {}
        for layer in layers:
            kind = str(layer["class_name"])
            stem = snake_case(kind)
            count = counts[stem] = counts.get(stem, -1) + 1
            own = f"{path}layers/{stem}{f'_{count}' if count else ''}"
            label = str(layer["config"].get("name", stem))
            whole = f"{name}.{label}" if name else label
            gru = self.layer(layer, own, whole)
            if gru is not None:
                found[label] = gru
            elif kind_of(layer) == "TimeDistributed":
                inner = layer["config"]["layer"]
                gru = self.layer(inner, f"{own}/layer", f"{whole}.{inner['config'].get('name', 'layer')}")
                yield from () if gru is None else (gru,)
            elif isinstance(layer["config"].get("layers"), list):
                yield from self.below(layer, f"{own}/", whole, depth + 1, wiring.masks.get(label, ""))
        yield from stacks_of(found, wiring, layers)

    def layer(self, entry: Any, path: str, name: str) -> StoredGRU | None:
        kind = kind_of(entry)
        if kind in OTHER:
            self.refuse(path, name, f"a layer of the class {kind}")
        if kind not in RECURRENT:
            self.closed[path] = (name, str(entry["class_name"]), kind != "")
            return None

        def arrays(where: tuple[str | int, ...]) -> Sequence[Tensor]:
            stem = snake_case("GRUCell")
            steps = [step if isinstance(step, str) else f"{stem}_{step}" if step else stem for step in where]
            place = "/".join([path, *steps, "vars"])
            self.used.add(place)
            group = self.groups.get(place, {})
            return [group[key] for key in sorted(group)]

        try:
            gru = gru_of(kind, entry["config"], arrays)
        except FileFormatError:
            raise
        except GRUError as error:
            self.refuse(path, name, str(error))
            return None
        if gru is None:
            self.closed[path] = (name, kind, True)
            return None
        return gru.renamed(name)

    def refuse(self, path: str, name: str, reason: str) -> None:
        start = bisect_left(self.sorted, f"{path}/")
        following = (self.sorted[index] for index in range(start, len(self.sorted)))
        self.used.update(takewhile(lambda place: place.startswith(f"{path}/"), following))
        self.refused.append(Refusal(name, reason))

    def may_be_anything(self, place: str) -> bool:
        """Refuses what lies in a layer whose description is there and is not understood.

        Whole layers in one that is not Keras's own are left: nothing says what they are, as in a file of arrays alone.
        """
        steps = place.split("/")
        for count in range(1, len(steps)):
            path = "/".join(steps[:count])
            name, kind, keras_own = self.closed.get(path, ("", "", False))
            if keras_own or (kind and steps[count] in OWN):
                reason = f"has a GRU's weights, but a {kind} that is described so may compute anything with them"
                self.refuse(path, name, reason)
                return True
        return False

    def rest(self) -> Iterator[StoredGRU]:
        """GRUs that no description tells of, by the shapes of their arrays."""
        found = {}
        for place, group in self.groups.items():
            names = next((names for names in NAMES if {*names[:2]} <= group.keys() <= {*names}), None)
            if place in self.used or names is None:
                continue
            path = place.removesuffix("/vars").removesuffix("/cell")
            tensors = [group[name] for name in names if name in group]
            if not _looks_like_one(tensors) or self.may_be_anything(place):
                continue
            self.used.add(place)
            try:
                arrays = read_all(tensors)
                w, reset_after = from_keras(arrays)
                sizes_of(((w,),))
                dtypes = {tensor.dtype for tensor in tensors}
                if len(dtypes) != 1 or not dtypes <= {*FLOATS}:
                    raise ConversionError(
                        f"expected arrays of one floating-point type, got {', '.join(sorted(dtypes))}"
                    )
            except FileFormatError:
                raise
            except GRUError as error:
                self.refused.append(Refusal(path, str(error)))
                continue
            spec = GRUSpec(reset_after is not False, padding="hold")
            untold = UNTOLD if reset_after is not None else f"{UNTOLD}, reset_after"
            report = Report((KEPT, Note("assumed", untold, DEFAULTS)))
            found[path] = StoredGRU(((w,),), spec, path, tensors[0].dtype, batch_first=True, report=report)
        yield from _pairs(found)


NAMES = (  # of a cell's arrays, since Keras 3 and before it (.h5)
    ("0", "1", "2"),
    ("kernel", "recurrent_kernel", "bias"),
    ("kernel:0", "recurrent_kernel:0", "bias:0"),
)
OWN = ("vars", "cell", "forward_layer", "backward_layer")  # where a recurrent layer has its own arrays
UNTOLD = "that it is a GRU, its activations, go_backwards, zero_output_for_mask"
DEFAULTS = "arrays alone do not tell; taken to be Keras's GRU with its defaults"


def _looks_like_one(tensors: Sequence[Tensor]) -> bool:
    """kernel (I, 3H) and recurrent_kernel (H, 3H), or an LSTM's, which is then refused."""
    kernel, recurrent = tensors[0].shape, tensors[1].shape
    if len(kernel) != 2 or len(recurrent) != 2 or kernel[1] != recurrent[1]:
        return False
    return recurrent[1] in (3 * recurrent[0], 4 * recurrent[0]) and recurrent[0] > 0


def _pairs(found: dict[str, StoredGRU]) -> Iterator[StoredGRU]:
    """The two layers of a `Bidirectional` as one, under its path: ".../forward_layer", before Keras 3 "forward_gru"."""
    for path, gru in found.items():
        forward = re.sub(r"(^|/)backward_", r"\1forward_", path)
        other = found.get(re.sub(r"(^|/)forward_", r"\1backward_", path))
        if forward != path and forward in found:
            continue
        if other is None or other is gru:
            yield gru
            continue
        try:
            yield two_directions(gru, other, re.sub(r"(^|/)forward_.*", "", path))
        except ConversionError:
            yield from (gru, other)


def snake_case(name: str) -> str:
    """How Keras names the arrays of a layer: "GRUCell" -> "gru_cell"."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
