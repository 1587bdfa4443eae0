"""Trees: dicts, lists and tuples (named ones too), nested in any way; all else is a leaf, and None is nothing.

`GRU.params` is one, and so are the gradients. A dict is walked in the order of its sorted keys, so that two trees with
the same keys have their leaves in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from math import prod
from typing import Any

from array_api_compat import array_namespace

from gru_xp.errors import ShapeError, StructureError

__all__ = ["flatten", "leaves", "map_tree", "names", "unflatten"]


def map_tree(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """The tree with `function(leaf, ...)` instead of each leaf, given the leaves of `others` at the same place.

    Raises:
        StructureError: one of `others` is not a tree of the same structure; the message names the place.

    >>> map_tree(lambda a, b: a + b, {"a": 1, "b": (2, None)}, {"b": (20, None), "a": 10})
    {'a': 11, 'b': (22, None)}
    """
    return _mapped(function, (tree, *others), "")


def leaves(tree: Any) -> list[Any]:
    """All leaves, in order.

    >>> leaves({"b": [1, 2], "a": (3, None)})
    [3, 1, 2]
    """
    children = _children(tree)
    return [tree] if children is None else [leaf for _, child in children for leaf in leaves(child)]


def names(tree: Any) -> list[str]:
    """The name of each leaf, in order: the keys, fields and positions that lead to it, joined by points.

    >>> names({"gru": ((1, 2),), "b": 3})
    ['b', 'gru.0.0', 'gru.0.1']
    """
    children = _children(tree)
    if children is None:
        return [""]
    return [f"{name}.{rest}" if rest else name for name, child in children for rest in names(child)]


def flatten(tree: Any) -> Any:
    """All arrays of the tree one after the other, (P,); they are of one library, device and dtype.

    >>> import numpy as np
    >>> flatten({"W": np.ones((2, 2)), "b": np.zeros(1)})
    array([1., 1., 1., 1., 0.])
    """
    arrays = leaves(tree)
    if not arrays:
        raise StructureError("tree: expected at least one array, got none")
    for name, array in zip(names(tree), arrays, strict=True):
        if array.dtype != arrays[0].dtype:
            raise StructureError(f"{name}: expected {arrays[0].dtype}, as the first array has, got {array.dtype}")
    xp = array_namespace(*arrays)
    return xp.concat([xp.reshape(array, (-1,)) for array in arrays])


def unflatten(vector: Any, like: Any) -> Any:
    """The inverse of `flatten`: the entries of `vector` (P,) in the shapes and the structure of `like`.

    >>> import numpy as np
    >>> unflatten(np.arange(5.0), {"W": np.ones((2, 2)), "b": np.zeros(1)})["W"]
    array([[0., 1.],
           [2., 3.]])
    """
    sizes = [prod(array.shape) for array in leaves(like)]
    if tuple(vector.shape) != (sum(sizes),):
        raise ShapeError(f"vector: expected (P,) = ({sum(sizes)},), got {tuple(vector.shape)}; P comes from like")
    xp = array_namespace(vector)
    ends = iter(list(accumulate(sizes)))

    def taken(array: Any) -> Any:
        end = next(ends)
        return xp.reshape(vector[end - prod(array.shape) : end], tuple(array.shape))

    return map_tree(taken, like)


def _children(tree: Any) -> list[tuple[str, Any]] | None:
    """The names and subtrees of a node; None for a leaf."""
    if tree is None:
        return []
    if isinstance(tree, dict):
        if not all(isinstance(key, str) for key in tree):
            raise StructureError(f"tree: expected a dict with names for keys, got the keys {list(tree)}")
        return sorted(tree.items(), key=lambda item: item[0])
    if isinstance(tree, list | tuple):
        return list(zip(getattr(tree, "_fields", map(str, range(len(tree)))), tree, strict=True))
    return None


def _mapped(function: Callable[..., Any], trees: tuple[Any, ...], place: str) -> Any:
    first, *others = trees
    found = [_children(tree) for tree in trees]
    shapes = [None if children is None else [name for name, _ in children] for children in found]
    for other, shape in zip(others, shapes[1:], strict=True):
        if shape != shapes[0]:
            raise StructureError(f"{place or 'tree'}: expected {_in_words(first)}, got {_in_words(other)}")
    if found[0] is None:
        return function(*trees)
    columns = zip(*(children for children in found if children is not None), strict=True)
    results = [
        _mapped(function, tuple(child for _, child in column), f"{place}.{column[0][0]}".lstrip("."))
        for column in columns
    ]
    if first is None:
        return None
    if isinstance(first, dict):
        return dict(zip(shapes[0] or (), results, strict=True))
    return type(first)(*results) if hasattr(first, "_fields") else type(first)(results)


def _in_words(tree: Any) -> str:
    children = _children(tree)
    if tree is None or children is None:
        return "None" if tree is None else "a leaf"
    return f"a {type(tree).__name__} of {', '.join(name for name, _ in children) or 'nothing'}"
