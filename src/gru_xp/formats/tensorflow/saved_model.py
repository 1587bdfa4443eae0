"""SavedModel: a folder with a program, which is not read, the checkpoint of its variables, and Keras's descriptions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .wire import fields, number, piece, text

__all__ = ["PROGRAM", "metadata_of"]

PROGRAM = "saved_model.pb"
METADATA = "keras_metadata.pb"


def metadata_of(folder: Path) -> Iterator[tuple[int, str, str]]:
    """Of each object that Keras describes its number, its path and the description, in JSON."""
    beside = folder / METADATA
    if beside.is_file():
        for field, value in fields(memoryview(beside.read_bytes())):  # SavedMetadata
            if field == 1:
                entry = dict(fields(piece(value)))
                yield number(entry.get(2, 0)), text(entry.get(3, memoryview(b""))), text(entry[5])
        return
    for field, graph in fields(memoryview((folder / PROGRAM).read_bytes())):  # SavedModel
        if field == 2:
            for field_of, objects in fields(piece(graph)):  # MetaGraphDef
                if field_of == 7:
                    yield from _of_objects(piece(objects))


def _of_objects(graph: memoryview) -> Iterator[tuple[int, str, str]]:
    """Of a SavedObjectGraph, where Keras wrote until TensorFlow 2.4; the paths are made from the children."""
    nodes = [list(fields(piece(value))) for field, value in fields(graph) if field == 1]
    paths = {0: "root"}
    queue = [0]
    for at in queue:
        for field, value in nodes[at]:
            if field == 1:
                child = dict(fields(piece(value)))
                to, name = number(child.get(1, 0)), text(child[2])
                if to not in paths and to < len(nodes) and name not in ("keras_api", "variables"):
                    paths[to] = f"{paths[at]}.{name}"[-1000:]
                    queue.append(to)
    for at, node in enumerate(nodes):
        for field, value in node:
            if field == 4 and at in paths:
                user = dict(fields(piece(value)))
                if 3 in user:
                    yield at, paths[at], text(user[3])
