"""Operations that JAX does not look into: what runs is native code, what is known of them comes from plain code.

The plain code means the same. It gives an operation its derivatives, what it is for a batch of problems (`vmap`), and
what runs where the native code cannot: in a program for several devices or for others than the CPU, and in one that is
exported, which others are to run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

from .meshes import on_a_mesh

__all__ = ["Operation"]

#: the axis of the batch, None for weights, of each array that comes in and that goes out
Rows = tuple[list[int | None], list[int]]


class Operation:
    """An operation of arrays and options: `native` in a program for one CPU, `plain` in every other respect.

    `shapes` gives the types of the results; `rows` is for operations that have the rows of a batch apart. All of them
    take the options, and all but `rows` the arrays.
    """

    def __init__(
        self,
        name: str,
        plain: Callable[..., list[Any]],
        shapes: Callable[..., list[Any]],
        native: Callable[..., list[Any]] | None = None,
        rows: Callable[..., Rows] | None = None,
    ):
        primitive: Any = Primitive(f"gru_xp_{name}")
        self.primitive, self.plain, self.rows = primitive, plain, rows
        primitive.multiple_results = True
        primitive.def_impl(partial(xla.apply_primitive, primitive))
        primitive.def_abstract_eval(shapes)
        ad.primitive_jvps[primitive] = self._derivative
        batching.primitive_batchers[primitive] = self._batch
        mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=True))
        if native is not None:
            mlir.register_lowering(primitive, _where_it_can_be(native, plain), platform="cpu")

    def __call__(self, *arrays: Any, **options: Any) -> list[Any]:
        """The results. On a mesh the types of arrays say more than `shapes` knows."""
        if on_a_mesh(arrays[0]):
            return self.plain(*arrays, **options)
        found: list[Any] = self.primitive.bind(*arrays, **options)
        return found

    def _derivative(self, primals: Any, tangents: Any, **options: Any) -> Any:
        return jax.jvp(partial(self.plain, **options), primals, tuple(map(ad.instantiate_zeros, tangents)))

    def _batch(self, arrays: Any, axes: Any, **options: Any) -> Any:
        given, found = ([], []) if self.rows is None else self.rows(**options)
        size = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
        apart = all(at is not None or axis is None for at, axis in zip(given, axes, strict=bool(given)))
        if given and apart and axes[0] is not None and size > 0:  # with one x for all, much is computed but once
            every = zip(arrays, axes, given, strict=True)
            folded = [a if at is None else _fold(a, axis, size, at) for a, axis, at in every]
            results = self.primitive.bind(*folded, **options)
            return [_unfold(a, size, at) for a, at in zip(results, found, strict=True)], found
        results = jax.vmap(partial(self.plain, **options), in_axes=tuple(axes))(*arrays)
        return results, [0] * len(results)


def _where_it_can_be(native: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """How a program for CPUs has an operation."""
    call, look_into = (mlir.lower_fun(function, multiple_results=True) for function in (native, plain))

    def lower(context: Any, *arrays: Any, **options: Any) -> Any:
        module = context.module_context
        alone = getattr(module.axis_context, "num_devices", 0) == 1
        empty = 0 in [size for kind in context.avals_in for size in kind.shape]
        suits = alone and not empty and not module.lowering_parameters.for_export
        return (call if suits else look_into)(context, *arrays, **options)

    return lower


def _fold(a: Any, axis: int | None, size: int, at: int) -> Any:
    """A batch of problems as one with `size` times the rows, which are at axis `at`."""
    if axis is None:
        a, axis = jnp.broadcast_to(a, (size, *a.shape)), 0
    a = jnp.moveaxis(a, axis, at)
    return a.reshape(*a.shape[:at], size * a.shape[at + 1], *a.shape[at + 2 :])


def _unfold(a: Any, size: int, at: int) -> Any:
    return a.reshape(*a.shape[:at], size, a.shape[at] // size, *a.shape[at + 1 :])
