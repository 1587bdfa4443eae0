"""Read an HDF5 file with h5py and write what stands in it: a line of JSON, then the numbers. A program.

It is run by its path and imports h5py and NumPy alone. It takes the file from standard input, so that it opens none:
links into other files, values in other files and virtual datasets are passed over.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

NUMBERS = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4", "float64": "<f8"}
MOST_OBJECTS = 200_000
MOST_UNPACKED = 100  # bytes for each of the file; those of weights are seldom two
MOST_TEXT = 1 << 26
DEEPEST = 50
TEXTS = ("model_config", "keras_version", "backend")
LISTS = ("layer_names", "weight_names")


def main() -> None:
    data = sys.stdin.buffer.read()
    bound(2**31 + 4 * MOST_UNPACKED * len(data))
    import h5py

    found = Found(2**24 + MOST_UNPACKED * len(data))
    with h5py.File(io.BytesIO(data), "r") as file:
        found.inside(h5py, file, "", 0)
    head = {"datasets": found.datasets, "groups": found.groups, "attributes": found.attributes}
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n")
    for values in found.values:
        sys.stdout.buffer.write(values)


def bound(memory: int) -> None:
    """On Unix: of processor time and memory, and no memory is written out after a crash."""
    try:
        import resource
    except ImportError:
        return
    for what, most in ((resource.RLIMIT_CPU, 60), (resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (least, least))


class Found:
    def __init__(self, budget: int) -> None:
        self.budget = budget  # bytes of values
        self.datasets: list[dict[str, Any]] = []
        self.groups: list[str] = []
        self.attributes: dict[str, dict[str, Any]] = {}
        self.values: list[bytes] = []
        self.size = 0
        self.seen: set[int] = set()

    def inside(self, h5py: Any, group: Any, path: str, depth: int) -> None:
        self.groups.append(path)
        texts = {name: text for name in group.attrs for text in self.text(group, name)}
        if texts:
            self.attributes[path] = texts
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            child, place = group[name], f"{path}/{name}" if path else name
            address = h5py.h5o.get_info(child.id).addr
            if address in self.seen:
                continue
            self.seen.add(address)
            if len(self.seen) > MOST_OBJECTS or depth > DEEPEST:
                raise ValueError(f"expected at most {MOST_OBJECTS} objects, {DEEPEST} groups in one another")
            if isinstance(child, h5py.Group):
                self.inside(h5py, child, place, depth + 1)
            elif isinstance(child, h5py.Dataset):
                self.dataset(child, place)

    def text(self, group: Any, name: str) -> list[Any]:
        """The attribute in a list, if it is one that is wanted."""
        if name in TEXTS or name.rstrip("0123456789") in LISTS:
            value = group.attrs[name]
            value = value if isinstance(value, str | bytes) else value.tolist()
            each = value if isinstance(value, list) else [value]
            self.budget -= sum(map(len, each))
            if self.budget < 0 or not all(isinstance(text, str | bytes) for text in each):
                raise ValueError(f"{name}: expected text, and not so much")
            texts = [text.decode() if isinstance(text, bytes) else text for text in each]
            return [texts if isinstance(value, list) else texts[0]]
        return []

    def dataset(self, dataset: Any, path: str) -> None:
        dtype = dataset.dtype
        name = "bfloat16" if dtype.str == "|V2" else dtype.name if dtype.kind == "f" else str(dtype)
        reason = ""
        if dataset.shape is None or dataset.is_virtual or dataset.external:
            reason = "its values stand in another file"
        elif name in NUMBERS:
            self.budget -= dataset.size * dtype.itemsize
            if self.budget < 0:
                raise ValueError("asks for more numbers than a file of its size can hold")
            values = dataset[()]
            wanted = NUMBERS[name]
            values = values.view(wanted) if name == "bfloat16" else values.astype(wanted)
            self.values.append(values.tobytes())
        shape = list(dataset.shape or ())
        entry = {"path": path, "shape": shape, "dtype": name, "start": self.size, "reason": reason}
        self.datasets.append(entry)
        self.size += len(self.values[-1]) if name in NUMBERS and not reason else 0


if __name__ == "__main__":
    main()
