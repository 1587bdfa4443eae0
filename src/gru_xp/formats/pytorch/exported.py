"""Programs that `torch.export.save` wrote (.pt2): a graph as JSON, and each array in an entry of its own.

Since PyTorch 2.8 each array's raw bytes lie beside a table of their shapes; before, the arrays were a file of
`torch.save` within the file. Nothing is run.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gru_xp.errors import ConversionError, FileFormatError
from gru_xp.formats.pytorch.archive import Archive
from gru_xp.formats.pytorch.calls import MOVES, ZEROS, Call
from gru_xp.formats.pytorch.modules import Module
from gru_xp.formats.pytorch.storages import Storage, numpy_dtype, unreadable, view
from gru_xp.formats.pytorch.tree import found_in
from gru_xp.params import GRUSpec
from gru_xp.stored import Tensor

__all__ = ["calls_in_export", "graph_of", "tensors_of_export"]

OLD = "serialized_exported_program.json"  # of PyTorch 2.1 to 2.7
# torch._export.serde.schema.ScalarType
TYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64"}
TYPES |= {12: "bool", 13: "bfloat16"}
MOST_NODES = 100_000
DEEPEST = 50  # nodes behind one another that make a first state
COMPILED = "holds compiled code; export the model again with torch.export.save, or save its state_dict()"


def graph_of(archive: Archive) -> tuple[str, Any]:
    """The name of the model and its graph module."""
    names = [name for name in archive.under("models/") if name.endswith(".json")] or [OLD][: OLD in archive]
    if not names and "archive_format" not in archive:
        raise FileFormatError("a zip, but PyTorch did not write it: it lacks data.pkl")
    if not names:
        raise ConversionError(COMPILED)
    if len(names) > 1:
        raise ConversionError(f"holds {len(names)} programs; export the one with the GRU alone")
    graph = json.loads(archive.text(names[0]))["graph_module"]
    return names[0].removeprefix("models/").removesuffix(".json"), graph


def tensors_of_export(archive: Archive, model: str) -> dict[str, Tensor]:
    """The parameters, buffers and constants by name."""
    found: dict[str, Tensor] = {}
    for kind, old in (("weights", "state_dict"), ("constants", "constants")):
        table = f"data/{kind}/{model}_{kind}_config.json"
        if table in archive:
            config = json.loads(archive.text(table))["config"]
            found |= {name: _tensor(archive, f"data/{kind}", entry) for name, entry in config.items()}
        for name in (f"data/{kind}/{model}.pt", f"serialized_{old}.pt", f"serialized_{old}.json"):
            if name in archive and archive.sizes[archive.root + name]:
                inner = Archive(io.BytesIO(archive.read(name, archive.budget.most)), archive.budget)
                found |= found_in(inner.tree(), archive.budget)[0]
    return found


def _tensor(archive: Archive, folder: str, entry: Any) -> Tensor:
    name, meta = f"{folder}/{entry['path_name']}", entry["tensor_meta"]
    dtype = TYPES.get(meta["dtype"], "no floating point") if meta else "an object"
    if entry["use_pickle"] or dtype not in TYPES.values():
        return Tensor((), "a subclass of Tensor" if entry["use_pickle"] else dtype, unreadable)
    size = archive.sizes.get(archive.root + name, 0) // numpy_dtype(dtype).itemsize
    shape, strides = ([each["as_int"] for each in meta[field]] for field in ("sizes", "strides"))
    offset = meta["storage_offset"]["as_int"]
    return view(Storage(name, dtype, size), offset, shape, strides, archive.numbers, archive.budget)


def calls_in_export(graph_module: Any) -> tuple[list[Call], dict[str, Module]]:
    """Every call of a GRU, and the classes of the modules that the nodes come from."""
    names: dict[str, str] = {}  # of arrays, by that of the argument of the graph
    given: set[str] = set()  # the names of the inputs that are no arrays of the file
    for spec in graph_module["signature"]["input_specs"]:
        for kind, entry in spec.items():
            if kind in ("parameter", "buffer", "tensor_constant"):
                names[entry["arg"]["name"]] = entry[f"{kind}_name"]
            elif kind == "user_input" and "as_tensor" in entry["arg"]:
                given.add(entry["arg"]["as_tensor"]["name"])
    makers: dict[str, Any] = {}
    calls: list[Call] = []
    modules: dict[str, Module] = {}
    made = {*given}  # the names of what depends on those
    for count, node in enumerate(_nodes(graph_module["graph"])):
        if count > MOST_NODES:
            raise FileFormatError(f"expected at most {MOST_NODES} nodes")
        outputs = {output["as_tensor"]["name"]: node for output in node["outputs"] if "as_tensor" in output}
        makers |= outputs
        if made.intersection(_taken(node)):
            made |= outputs.keys()
        modules |= {place: Module(kind, {}) for place, kind in _stack(node)}
        call = _call(node, names, makers, made)
        if call is not None:
            calls.append(call if call.is_cell else replace(call, state=_state(node, names, given, makers)))
    return calls, modules


def _nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of those within it, as `torch.no_grad()` makes them."""
    waiting = [graph]
    while waiting:
        for node in waiting.pop()["nodes"]:
            yield node
            waiting += [each["arg"]["as_graph"]["graph"] for each in node["inputs"] if "as_graph" in each["arg"]]


def _stack(node: Any) -> list[tuple[str, str]]:
    """The modules that a node is in, outermost first: name and class."""
    told = node["metadata"].get("nn_module_stack", "")
    entries = (entry.split(",") for entry in told.split(";") if entry)
    return [(entry[1].partition("@")[0], entry[2]) for entry in entries if len(entry) == 3]


def _call(node: Any, names: dict[str, str], makers: dict[str, Any], made: set[str]) -> Call | None:
    operator, _, overload = node["target"].removeprefix("torch.ops.").rpartition(".")
    if operator not in ("aten.gru", "aten.gru_cell", "gru_xp.forward"):
        return None
    given = {each["name"]: next(iter(each["arg"].values())) for each in node["inputs"]}
    listed = [given.get(name) for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
    if operator != "aten.gru_cell":
        listed = given["weights" if operator == "gru_xp.forward" else "params"]
    weights = tuple(names.get(each["name"], "") for each in listed if isinstance(each, dict))
    if operator == "aten.gru_cell":
        return Call(weights, has_biases=len(weights) == 4, is_cell=True)
    if operator == "gru_xp.forward":
        return _own_call(node, given, weights, makers, made)
    return Call(
        weights,
        given["has_biases"],
        given["num_layers"],
        given["dropout"],
        given["train"],
        given["bidirectional"],
        given["batch_first"] if overload == "input" else None,
    )


def _state(node: Any, names: dict[str, str], given: set[str], makers: dict[str, Any]) -> str:
    """What the first state is made of; "" for an input of the program, and for zero."""
    arguments = {each["name"]: each["arg"] for each in node["inputs"]}
    name = arguments.get("hx", arguments.get("h0", {})).get("as_tensor", {}).get("name", "")
    for _ in range(DEEPEST):
        if not name or name in given:
            return ""
        if name in names:
            return f"is the array {names[name]!r}"
        if name not in makers:
            break
        operator = makers[name]["target"].removeprefix("torch.ops.aten.").partition(".")[0]
        inputs = [each["arg"] for each in makers[name]["inputs"]]
        if operator in ZEROS or (operator == "full" and inputs[1] in ({"as_float": 0.0}, {"as_int": 0})):
            return ""
        if operator not in MOVES:
            break
        name = inputs[0]["as_tensor"]["name"]
    return "is computed"


def _taken(node: Any) -> list[str]:
    """The names of the tensors that a node takes."""
    entries = [value for each in node["inputs"] for value in each["arg"].values()]
    flat = [one for value in entries for one in (value if isinstance(value, list) else [value])]
    return [str(one.get("as_tensor", one).get("name", "")) for one in flat if isinstance(one, dict)]


def _own_call(
    node: Any, given: dict[str, Any], weights: tuple[str, ...], makers: dict[str, Any], made: set[str]
) -> Call:
    """Of gru_xp's operator, before which gru_xp_torch.GRU transposes x where the batch comes first."""
    unlike = ""
    if given["spec"] != GRUSpec().text:
        unlike = f"computed by gru_xp with other equations than PyTorch's: {given['spec'][:100]}"
    elif isinstance(given["masks"], dict):
        unlike = "drops out in every call, by masks that the program draws; export it after eval()"
    for name, words in (("valid", "lengths or a mask"), ("resets", "resets")):
        if isinstance(given[name], dict) and given[name].get("name") not in made:
            unlike = f"{words} are fixed in the program; pass them here to the GRU of its state_dict()"
    L = len(weights) // (given["D"] * (4 if given["bias"] else 2))
    maker = makers.get(given["x"]["name"])
    turned = maker is not None and maker["target"] == "torch.ops.aten.transpose.int" and _stack(maker) == _stack(node)
    return Call(weights, given["bias"], L, bidirectional=given["D"] == 2, batch_first=turned, unlike=unlike)
