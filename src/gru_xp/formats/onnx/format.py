"""ONNX files as a `Format`."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from gru_xp.atomic import write_whole
from gru_xp.errors import BackendError, ConversionError, FileFormatError
from gru_xp.files import Format
from gru_xp.formats.onnx.constants import MOVES, Graph, Source, library
from gru_xp.formats.onnx.export import OPTIONS as WRITE_OPTIONS
from gru_xp.formats.onnx.export import model_of
from gru_xp.formats.onnx.nodes import GRUNode, name_of, read_node
from gru_xp.formats.onnx.options import OPTIONS
from gru_xp.formats.onnx.runtime import run_stack
from gru_xp.formats.onnx.stacks import Stack, as_stored, joined
from gru_xp.formats.onnx.written_out import grus_by_name, loop_of_a_gru, tensors_of
from gru_xp.stored import Arrays, Contents, Refusal, Report, StoredGRU

__all__ = ["OnnxFormat", "onnx"]

BRANCHES = {"then_branch": "then.", "else_branch": "else."}  # of If
MOST_NODES = 1000  # GRU nodes in one file
LARGEST = 2**31  # bytes of a protobuf message


class OnnxFormat(Format):
    """Every GRU node of a model, its layers joined where they are layers of one GRU."""

    name = "onnx"
    title = "ONNX (.onnx)"
    suffixes = (".onnx",)
    runtime = "onnxruntime"
    options = OPTIONS
    write_options = WRITE_OPTIONS
    holds_narrow = True

    def read(self, path: Path) -> Contents:
        found = _found(path)
        ignored = tuple(f"{name} x {count}" if count > 1 else name for name, count in sorted(found.others.items()))
        tensors = tensors_of(found.graph)
        nodes = {node.name for _, stack in found.stacks for node in stack}
        left = {name: tensor for name, tensor in tensors.items() if name not in found.source.read}
        left = {name: tensor for name, tensor in left.items() if name.rpartition(".")[0] not in nodes}
        named = grus_by_name(found.graph, left)
        grus = (*(gru for gru, _ in found.stacks), *named.grus)
        refused = (*found.refused, *(() if grus or found.refused else named.refused))
        found.source.budget = math.inf  # each array costs no more than it is large
        return Contents(grus, refused, ignored, Arrays(tensors))

    def write(self, gru: StoredGRU, path: Path, *, inputs: Any = None, opset: int | None = None) -> Report:
        model, report = model_of(gru, inputs, opset)
        data = model.SerializeToString()
        if len(data) >= LARGEST:
            raise ConversionError(f"{path}: {len(data)} bytes, but an ONNX file holds at most {LARGEST}")
        write_whole(path, data)
        return report

    def run(self, path: Path, gru: StoredGRU, x: Any, h0: Any, lengths: Any) -> tuple[Any, Any] | None:
        """By onnxruntime, node by node as they stand in the file."""
        stacks = {stored.name: stack for stored, stack in _found(path).stacks}
        names = [gru.name] if gru.name in stacks else gru.name.split("+")  # "a+b" is a stack of two
        if not stacks.keys() >= set(names):
            raise BackendError(f"{gru.name!r} is no node of the file, but a part of one or written out in others")
        return run_stack(tuple(node for name in names for node in stacks[name]), x, h0, lengths)


onnx = OnnxFormat()


class _Found(NamedTuple):
    """All GRU nodes of a file, those that cannot be had, and what else is in it."""

    stacks: list[tuple[StoredGRU, Stack]]
    refused: list[Refusal]
    others: Counter[str]  # operators
    graph: Graph
    source: Source


def _found(path: Path) -> _Found:
    size = path.stat().st_size
    if size >= LARGEST:
        raise FileFormatError(f"{path}: {size} bytes, but an ONNX file holds at most {LARGEST}")
    message = library().ModelProto()
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(path.read_bytes())
        return _read(message, Source(path, _opset(message, path), size))
    except (UnicodeDecodeError, DecodeError) as error:
        raise FileFormatError(f"{path}: expected an ONNX model, but it is damaged or something else: {error}") from None


def _read(message: Any, source: Source) -> _Found:
    stacks: list[Stack] = []
    refused: list[Refusal] = []
    others: Counter[str] = Counter()
    whole = Graph(message.graph, source)
    waiting = [("", whole)]
    count = 0
    while waiting:
        inside, graph = waiting.pop(0)
        nodes: list[GRUNode] = []
        for node in graph.proto.node:
            if node.op_type != "GRU" or node.domain not in ("", "ai.onnx"):
                if node.op_type not in MOVES and node.op_type != "Constant":
                    others[str(node.op_type)] += 1
                continue
            count += 1
            if count > MOST_NODES:
                raise FileFormatError(f"{source.path}: expected at most {MOST_NODES} GRU nodes")
            name = inside + name_of(node, count)
            try:
                nodes.append(read_node(node, graph, name, count))
            except ConversionError as error:
                refused.append(Refusal(name, str(error)))
        stacks += joined(nodes)
        for node, attribute, body in graph.subgraphs():
            waiting.append((f"{inside}{node.name or node.op_type}.{BRANCHES.get(attribute, '')}", body))
            loop = loop_of_a_gru(node, body)
            refused += [loop] if loop is not None else []
    for function in message.functions:
        for index, node in enumerate(function.node):
            if node.op_type == "GRU" and isinstance(node.name, str):
                reason = f"stands in the function {function.name!r}; inline it with onnx.inliner.inline_local_functions"
                refused.append(Refusal(name_of(node, index), reason))
    return _Found(_named([(as_stored(stack), stack) for stack in stacks]), refused, others, whole, source)


def _named(stacks: list[tuple[StoredGRU, Stack]]) -> list[tuple[StoredGRU, Stack]]:
    """With names that differ: a second `gru` becomes `gru_2`."""
    taken: set[str] = set()
    renamed = []
    for gru, stack in stacks:
        name, number = gru.name, 1
        while name in taken:
            number += 1
            name = f"{gru.name}_{number}"
        taken.add(name)
        renamed.append((gru.renamed(name), stack))
    return renamed


def _opset(message: Any, path: Path) -> int:
    versions = [each.version for each in message.opset_import if each.domain in ("", "ai.onnx")]
    if not message.HasField("graph") or not versions:
        raise FileFormatError(f"{path}: expected an ONNX model with a graph and its opset, but it has none")
    return int(versions[0])
