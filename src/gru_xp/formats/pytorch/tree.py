"""The tensors and modules in the tree that a pickle of PyTorch holds, by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gru_xp.errors import FileFormatError
from gru_xp.formats.pytorch.calls import joined
from gru_xp.formats.pytorch.modules import COMPILED, Module
from gru_xp.formats.pytorch.numpy_arrays import array_in
from gru_xp.formats.pytorch.quantised import is_packed, unpacked
from gru_xp.formats.pytorch.storages import Budget, unreadable
from gru_xp.formats.pytorch.unpickled import Thing
from gru_xp.formats.trees import DEEPEST
from gru_xp.stored import Tensor

__all__ = ["found_in"]

# A small pickle can make a tree of many branches by naming one of them again and again.
MOST_NODES, LEAST_NODES, LONGEST = 200_000, 1000, 500
CHEAP = 50  # as much as so many numbers in a list costs a node
INNER = ("_parameters", "_buffers", "_modules")  # no part of names
REBUILT = "torch._utils._rebuild_"  # what makes tensors of other kinds, for those of numbers are `Tensor`s by now


def found_in(tree: Any, budget: Budget) -> tuple[dict[str, Tensor], dict[str, Module]]:
    """The tensors and modules of a tree, by name; the work is bounded by the size of the file."""
    tensors: dict[str, Tensor] = {}
    modules: dict[str, Module] = {}
    most = left = min(MOST_NODES, LEAST_NODES + budget.size)

    def walk(node: Any, path: str, above: tuple[int, ...]) -> None:
        nonlocal left
        tensor = _tensor_in(node, budget)
        if tensor is None and (not isinstance(node, BRANCHES) or len(above) >= DEEPEST or id(node) in above):
            return
        left -= 1 + (0 if tensor is not None else _breadth(node) // CHEAP)
        if left < 0 or len(path) > LONGEST:
            raise FileFormatError(f"expected at most {most} objects, with names of at most {LONGEST} characters")
        if tensor is not None:
            while tensors.setdefault(path, tensor) is not tensor:  # as under the keys 1 and "1" of one dict
                path += "'"
            return
        if isinstance(node, Thing) and is_packed(node.origin):
            found = unpacked(node.state) or {"": Tensor((), "packed", unreadable)}
            tensors.update((joined(path, leaf) if leaf else path, each) for leaf, each in found.items())
            return
        if isinstance(node, Thing) and isinstance(node.state, dict) and not node.items:  # no subclass of dict
            modules[path] = Module(node.origin, node.state)
        for key, child in _children(node):
            walk(child, path if key is None else joined(path, key), (*above, id(node)))

    walk(tree, "", ())
    return tensors, modules


BRANCHES = (dict, list, tuple, Thing)


def _breadth(node: Any) -> int:
    """How much there is to look through."""
    parts = (node.args, node.state, node.items, node.elements) if isinstance(node, Thing) else (node,)
    return sum(len(part) for part in parts if isinstance(part, dict | list | tuple))


def _children(node: Any) -> Iterator[tuple[str | None, Any]]:
    """What is in it and may hold tensors, by name; None for what bears the name of the node itself."""
    if isinstance(node, dict | list | tuple):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for index, (key, child) in enumerate(items):
            if isinstance(child, (*BRANCHES, Tensor)):
                yield _name(key, index), child
    elif node.origin == COMPILED and node.args:
        yield "_orig_mod", node.args[0]
    else:
        has_slots = isinstance(node.state, tuple) and len(node.state) == 2
        for state in node.state if has_slots else (node.state,):
            yield from _attributes(node.origin, state)
        for filled in (node.items, node.elements, node.args):
            if isinstance(filled, dict | list | tuple):
                yield from _children(filled)


def _attributes(origin: str, state: Any) -> Iterator[tuple[str | None, Any]]:
    """What an object holds. Plain attributes of a module may be what a hook left there, out of date."""
    if not isinstance(state, dict):
        yield None, state
        return
    is_module = "_parameters" in state
    is_recurrent = is_module or Module(origin, state).is_recurrent
    for key, child in state.items():
        if (is_module and isinstance(child, Tensor)) or (is_recurrent and key == "_flat_weights"):
            continue
        yield None if key in INNER else _name(key, 0), child


def _name(key: Any, index: int) -> str:
    if type(key) is str:
        return key[:LONGEST]
    return str(key) if type(key) in (int, float, bool, type(None)) else f"({index})"


def _tensor_in(node: Any, budget: Budget) -> Tensor | None:
    if isinstance(node, Tensor):
        return node
    if not isinstance(node, Thing):
        return None
    if node.origin.startswith(REBUILT):
        return Tensor((), _kind_of(node), unreadable)
    return array_in(node, budget)


def _kind_of(tensor: Thing) -> str:
    """What a tensor is that is no array of plain numbers: "sparse_tensor", "tensor_v3 of float8_e4m3fn"."""
    args = tensor.args if isinstance(tensor.args, tuple) else ()
    named = (each.origin for each in args if isinstance(each, type) and issubclass(each, Thing))
    dtypes = [origin.rpartition(".")[2] for origin in named]
    return " of ".join([tensor.origin.removeprefix(REBUILT), *dtypes])[:200]
