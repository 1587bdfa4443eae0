"""The nodes that are layers of one GRU, joined: Y of one, moved about, is X of the next.

Exporters write the way from Y (T, D, N, H) to (T, N, D*H) in many ways, with shapes computed on the way. So it is
tried: numbers that tell where they stand go through it, and have to come out where the next layer expects them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gru_xp.formats.onnx.constants import EVALUATED, Evaluation, Graph, Unknown
from gru_xp.formats.onnx.nodes import GRUNode, shapes_tried, time_and_batch
from gru_xp.narrow import narrow_stack
from gru_xp.stored import Note, Report, StoredGRU

__all__ = ["Stack", "joined"]

MOST = 64  # nodes on the way from one layer to the next

Stack = tuple[GRUNode, ...]


def joined(nodes: list[GRUNode]) -> list[Stack]:
    """The nodes of one graph as stacks of layers, in the order in which they stand."""
    by_output = {node.y: node for node in nodes if node.y}
    below: dict[int, GRUNode] = {}
    for node in nodes:
        lower = _lower_layer(node, by_output)
        if lower is not None and all(lower is not other for other in below.values()):
            below[node.index] = lower
    taken = {lower.index for lower in below.values()}
    stacks = []
    for top in nodes:
        if top.index not in taken:
            stack = [top]
            while stack[0].index in below:
                stack.insert(0, below[stack[0].index])
            stacks.append(tuple(stack))
    return stacks


def _lower_layer(node: GRUNode, by_output: dict[str, GRUNode]) -> GRUNode | None:
    """The node whose output, and nothing else, is the input of this one, if they can be layers of one GRU."""
    way = _way_back(node.graph, node.input(0), by_output)
    reached = {name for name in way if name in by_output}
    if len(reached) != 1:
        return None
    lower = by_output[reached.pop()]
    alike = (
        lower.index < node.index
        and lower.spec == node.spec
        and lower.dtype == node.dtype
        and (lower.D, lower.H, lower.B is None) == (node.D, node.H, node.B is None)
        and node.params[0].W_ih.shape[1] == node.D * node.H
    )
    return lower if alike and _nothing_else_takes(lower, node, way) and _arrives(lower, node, by_output) else None


def _way_back(graph: Graph, name: str, by_output: dict[str, GRUNode]) -> dict[str, Any]:
    """All values behind one, as far as they are only moved about, by name, with the nodes that make them."""
    way: dict[str, Any] = {}
    waiting = [name]
    while waiting and len(way) < MOST:
        name = waiting.pop()
        maker = graph.producers.get(name)
        if name in way or maker is None:
            continue
        if name in by_output or maker.op_type in EVALUATED:
            way[name] = maker
        if name not in by_output and maker.op_type in EVALUATED:
            waiting += [each for each in maker.input[:MOST] if each]
    return way


def _nothing_else_takes(lower: GRUNode, upper: GRUNode, way: dict[str, Any]) -> bool:
    """Whether all that takes lower's output, on its way, is the way itself: no residual connection, no output."""
    graph = upper.graph
    carried, waiting = {lower.y}, [lower.y]
    while waiting:
        name = waiting.pop()
        if name in graph.outputs:
            return False
        takers = graph.consumers.get(name, [])
        if len(takers) > MOST:
            return False
        for taker in takers:
            outputs = [each for each in taker.output if each]
            if taker.op_type == "Shape" or outputs == [each for each in upper.proto.output if each]:
                continue
            if not outputs or outputs[0] not in way:
                return False
            waiting += [each for each in outputs if each not in carried]
            carried |= set(outputs)
    return True


def _arrives(lower: GRUNode, upper: GRUNode, by_output: dict[str, GRUNode]) -> bool:
    """Whether every number of Y arrives in X where a stack has it."""
    D, H = lower.D, lower.H
    for given, batch_first in zip(
        shapes_tried(lower.graph, [(lower.input(0), bool(lower.layout))]), (False, True), strict=True
    ):
        T, N = time_and_batch(lower.graph, lower.input(0), bool(lower.layout), batch_first)
        if T * N * D * H > 2**20:
            return False
        y = np.arange(T * D * N * H, dtype=np.float64).reshape(T, D, N, H)
        x = y.transpose(0, 2, 1, 3).reshape(T, N, D * H)
        known = Evaluation(lower.graph, given | {lower.y: y.transpose(2, 0, 1, 3) if lower.layout else y})
        try:
            got = known.value(upper.input(0))
            same_lengths = lower.input(4) == upper.input(4) or _same(known, lower.input(4), upper.input(4))
        except Unknown:
            continue
        if same_lengths and np.array_equal(got, x.transpose(1, 0, 2) if upper.layout else x):
            return True
    return False


def _same(known: Evaluation, *names: str) -> bool:
    """Whether two values are the same numbers; some exporters compute the lengths for each layer."""
    a, b = (known.value(name) if name else None for name in names)
    return a is not None and b is not None and np.array_equal(a, b)


def as_stored(stack: Stack) -> StoredGRU:
    """A stack as one GRU, with the report of the way in."""
    first = stack[0]
    names = list(dict.fromkeys(node.name for node in stack))
    feeder = first.graph.producers.get(first.input(0))
    transposed = (
        feeder is not None and feeder.op_type == "Transpose" and [1, 0, 2] in (list(a.ints) for a in feeder.attribute)
    )
    notes = [Note("exact", "weights and biases", "bit for bit; the gates stand in the order z, r, n there")]
    notes += dict.fromkeys(note for node in stack for note in node.notes)
    return StoredGRU(
        params=tuple(node.params for node in stack),
        spec=first.spec,
        name=names[0] if len(names) == 1 else "+".join(node.name for node in stack),
        dtype=first.dtype,
        batch_first=first.layout == 1 or transposed,
        h0=_first_states(stack),
        report=Report(tuple(notes)),
        narrow=narrow_stack([(node.narrow, node.D) for node in stack]),
    )


def _first_states(stack: Stack) -> Any:
    """(L*D, H), or (L*D, N, H) where a file fixes the batch; None where no layer has one."""
    states = [node.h0 for node in stack]
    if all(h0 is None for h0 in states):
        return None
    N = next((h0.shape[1] for h0 in states if h0 is not None and h0.ndim == 3), None)
    shape = (stack[0].D, stack[0].H) if N is None else (stack[0].D, N, stack[0].H)

    def filled(h0: Any) -> Any:
        if h0 is None:
            return np.zeros(shape, stack[0].params[0].W_hh.dtype)
        return np.broadcast_to(h0 if N is None or h0.ndim == 3 else h0[:, None], shape)

    return np.concatenate([filled(h0) for h0 in states])
