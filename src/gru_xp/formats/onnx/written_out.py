"""GRUs that are written out in smaller operators: found by the names of their arrays, or named as what they are.

PyTorch's exporters write a GRUCell as Gemm, Split, Sigmoid, ... and keep the names of its parameters. tf2onnx writes a
Keras GRU that ONNX's node cannot express as a Loop, in which no name says which array is what.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from gru_xp.errors import ConversionError
from gru_xp.formats.named import grus_in
from gru_xp.formats.onnx.constants import Evaluation, Graph, Unknown, library
from gru_xp.stored import Contents, Note, Refusal, Report, Tensor

__all__ = ["grus_by_name", "loop_of_a_gru", "tensors_of"]

CLASSES = re.compile(r"'torch\.nn\.modules\.rnn\.(GRU|GRUCell)'")  # as PyTorch's newer exporter notes them
NAMED_SO = re.compile(r"(?<![a-zA-Z])gru(?![a-z])", re.IGNORECASE)
WRITTEN_OUT = (
    "a {} that is named so and multiplies matrices: a GRU written out, as tf2onnx does where it finds no node for one "
    "(hard_sigmoid, reset_after=False, masks, no biases); load the file that this one was made from"
)
MOST_NAMES = 10_000  # of a loop that are looked at


def tensors_of(graph: Graph) -> dict[str, Tensor]:
    """The initialisers by name, to be read later."""
    return {name: _tensor(graph, name, proto) for name, proto in graph.tensors.items()}


def _tensor(graph: Graph, name: str, proto: Any) -> Tensor:
    try:
        dtype = np.dtype(library().helper.tensor_dtype_to_np_dtype(proto.data_type)).name
    except (KeyError, TypeError, ValueError):
        dtype = f"type {proto.data_type}"

    def read() -> np.ndarray:
        try:
            array = Evaluation(graph, {}).value(name)
        except Unknown as reason:
            raise ConversionError(str(reason)) from None
        return array.astype(np.float32) if array.dtype.name == "bfloat16" else array

    return Tensor(tuple(proto.dims), dtype, read)


def grus_by_name(graph: Graph, tensors: dict[str, Tensor]) -> Contents:
    """The GRUs among initialisers that no GRU node takes, by PyTorch's names.

    Where the file says that PyTorch's class computes with them, that is known; else it is assumed.
    """
    found = grus_in(tensors)
    grus = []
    for gru in found.grus:
        takers = graph.consumers.get(f"{gru.name}.weight_hh", []) + graph.consumers.get(f"{gru.name}.weight_hh_l0", [])
        if not any(CLASSES.search(str(entry.value)[:4000]) for node in takers for entry in node.metadata_props):
            doubt = Note(
                "assumed", "a GRU of PyTorch's", "found by the names of its arrays; its nodes are not looked at"
            )
            gru = replace(gru, report=gru.report + Report((doubt,)))
        grus.append(gru)
    return replace(found, grus=tuple(grus))


def loop_of_a_gru(node: Any, body: Graph) -> Refusal | None:
    """A Loop or Scan that a GRU was written out as, by its name and those of its nodes."""
    kinds = {each.op_type for each in body.proto.node}
    if node.op_type not in ("Loop", "Scan") or "GRU" in kinds or not kinds & {"MatMul", "Gemm"}:
        return None
    names = [node.name, *(name for each in body.proto.node for name in (each.name, *each.input))][:MOST_NAMES]
    for folders in (name[:1000].split("/") for name in names):
        for depth, folder in enumerate(folders, 1):
            if NAMED_SO.search(folder):
                return Refusal(".".join(folders[:depth]), WRITTEN_OUT.format(node.op_type))
    return None
