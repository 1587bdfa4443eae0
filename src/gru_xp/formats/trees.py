"""The arrays of a tree of containers, by name: "encoder.layers.0.weight". No framework is imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gru_xp.formats.named import Tensor

__all__ = ["arrays_of", "library_of", "tensor_of"]

DEEPEST = 200


def arrays_of(tree: Any) -> dict[str, Any]:
    """Whatever has a shape and a dtype in mappings, lists, tuples and records, by the path to it.

    >>> import numpy as np
    >>> arrays_of({"a": [np.zeros(3)], "lr": 0.1})
    {'a.0': array([0., 0., 0.])}
    """
    return dict(_walk(tree, "", ()))


def _walk(tree: Any, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    if is_array(tree):
        yield path, tree
    elif len(above) < DEEPEST and id(tree) not in above:
        for key, child in _children(tree):
            yield from _walk(child, f"{path}.{key}" if path else str(key), (*above, id(tree)))


def _children(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return tree.items()
    if isinstance(tree, list | tuple):
        return enumerate(tree)
    fields = getattr(type(tree), "__dataclass_fields__", {})
    return [(name, getattr(tree, name)) for name in fields if hasattr(tree, name)]


def is_array(thing: Any) -> bool:
    return hasattr(thing, "shape") and hasattr(thing, "dtype") and not isinstance(thing, type)


def library_of(thing: Any) -> str:
    """The root module of an array's type or of the first base of it that is not the user's: "torch", "jax"."""
    roots = [cls.__module__.partition(".")[0] for cls in type(thing).__mro__]
    return next((root for root in roots if root in ROOTS), roots[0])


ROOTS = ("torch", "jax", "jaxlib", "mlx", "numpy", "keras", "flax", "equinox")


def tensor_of(array: Any) -> Tensor:
    """A framework's array as one that is read later."""
    dtype = str(array.dtype).rpartition(".")[2]
    return Tensor(tuple(array.shape), dtype, lambda: _values(array, dtype))


def _values(array: Any, dtype: str) -> np.ndarray:
    """In host memory, native and contiguous, a copy; bfloat16 as float32."""
    library = library_of(array)
    if library == "torch":
        array = array.detach().cpu()
        array = (array.float() if dtype == "bfloat16" else array).numpy()
    if library == "mlx" and dtype == "bfloat16":
        array = array.astype(__import__("mlx.core").core.float32)
    values = np.array(array)
    wanted = np.dtype("float32") if dtype == "bfloat16" else values.dtype.newbyteorder("=")
    return np.array(values, wanted, order="C", copy=True)
