"""The arrays of a tree of containers, by name: "encoder.layers.0.weight". No framework is imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gru_xp.errors import ConversionError
from gru_xp.stored import Tensor

__all__ = ["DEEPEST", "arrays_of", "class_of", "is_module", "library_of", "nodes_of", "tensor_of"]

DEEPEST = 200
ROOTS = ("torch", "jax", "jaxlib", "mlx", "numpy", "keras", "tf_keras", "flax", "equinox")


def arrays_of(tree: Any) -> dict[str, Any]:
    """Whatever has a shape and a dtype in mappings, lists, tuples and modules, by the path to it.

    >>> import numpy as np
    >>> arrays_of({"a": [np.zeros(3)], "lr": 0.1})
    {'a.0': array([0., 0., 0.])}
    """
    return {path: node for path, node in nodes_of(tree) if _is_array(node)}


def nodes_of(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every node and the path to it."""
    return _walk(tree, "", ())


def _walk(node: Any, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    yield path, node
    if not _is_array(node) and len(above) < DEEPEST and id(node) not in above:
        for key, child in _children(node):
            yield from _walk(child, f"{path}.{key}" if path else str(key), (*above, id(node)))


def _children(node: Any) -> Any:
    if isinstance(node, Mapping):
        return node.items()
    if isinstance(node, list | tuple):
        return enumerate(node)
    if is_module(node):
        return [(name, child) for name, child in vars(node).items() if not str(name).startswith("_")]
    return ()


def is_module(node: Any) -> bool:
    """Whether it is one of the frameworks' objects that hold arrays as attributes or entries, not an array itself."""
    return library_of(node) in ("flax", "equinox", "mlx") and hasattr(node, "__dict__") and not _is_array(node)


def _is_array(node: Any) -> bool:
    return hasattr(node, "shape") and hasattr(node, "dtype") and not isinstance(node, type)


def class_of(node: Any) -> str:
    """The class by its whole name; of a layer of gru_xp_flax that of Flax which it extends."""
    kind = next(cls for cls in type(node).__mro__ if not cls.__module__.startswith("gru_xp_"))
    return f"{kind.__module__}.{kind.__qualname__}"


def library_of(node: Any) -> str:
    """The framework that a type or the first base of it belongs to: "torch", "jax"; else its root module."""
    roots = [cls.__module__.partition(".")[0] for cls in type(node).__mro__]
    return next((root for root in roots if root in ROOTS), roots[0])


def tensor_of(array: Any) -> Tensor:
    """A framework's array as one that is read later."""
    dtype = str(array.dtype).rpartition(".")[2]
    return Tensor(tuple(array.shape), dtype, lambda: _values(array, dtype))


def _values(array: Any, dtype: str) -> np.ndarray:
    """In host memory, native and contiguous, a copy; bfloat16 as float32."""
    library = library_of(array)
    if library == "flax":  # a variable around an array
        array = array.get_value()
    if library == "torch" and array.is_meta:
        raise ConversionError("a tensor on the meta device has no numbers; load the weights first")
    if library == "torch" and str(array.layout) != "torch.strided":
        raise ConversionError(f"a tensor of the layout {array.layout} is no array of numbers; pass its to_dense()")
    if library == "torch":  # a copy first: a tensor that lent its memory to NumPy can never be resized again
        array = array.detach().to("cpu", copy=True).contiguous()
        return np.asarray((array.float() if dtype == "bfloat16" else array).numpy())
    if library == "mlx" and dtype == "bfloat16":
        import mlx.core

        array = array.astype(mlx.core.float32)
    values = np.array(array)
    wanted = np.dtype("float32") if dtype == "bfloat16" else values.dtype.newbyteorder("=")
    return np.array(values, wanted, order="C", copy=True)
