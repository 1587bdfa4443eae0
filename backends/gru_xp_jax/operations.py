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

__all__ = ["operation"]

#: the axis of the batch, None for weights, of each array that comes in and that goes out
Rows = tuple[list[int | None], list[int]]


def operation(
    name: str,
    plain: Callable[..., list[Any]],
    shapes: Callable[..., list[Any]],
    native: Callable[..., list[Any]] | None = None,
    rows: Callable[..., Rows] | None = None,
) -> Any:
    """An operation of arrays and options: `native` in a program for one CPU, `plain` in every other respect.

    All four take the options; `rows` takes nothing else, and is for operations that have the rows of a batch apart.
    """
    primitive: Any = Primitive(f"gru_xp_{name}")
    primitive.multiple_results = True
    primitive.def_impl(partial(xla.apply_primitive, primitive))
    primitive.def_abstract_eval(shapes)

    def derivative(primals: Any, tangents: Any, **options: Any) -> Any:
        return jax.jvp(partial(plain, **options), primals, tuple(map(ad.instantiate_zeros, tangents)))

    def batch(arrays: Any, axes: Any, **options: Any) -> Any:
        given, found = ([], []) if rows is None else rows(**options)
        if given and all(at is not None or axis is None for at, axis in zip(given, axes, strict=True)):
            size = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
            folded = [
                a if at is None else _fold(a, axis, size, at) for a, axis, at in zip(arrays, axes, given, strict=True)
            ]
            results = primitive.bind(*folded, **options)
            return [_unfold(a, size, at) for a, at in zip(results, found, strict=True)], found
        results = jax.vmap(partial(plain, **options), in_axes=tuple(axes))(*arrays)
        return results, [0] * len(results)

    ad.primitive_jvps[primitive] = derivative
    batching.primitive_batchers[primitive] = batch
    look_into = mlir.lower_fun(plain, multiple_results=True)
    mlir.register_lowering(primitive, look_into)
    if native is not None:
        call = mlir.lower_fun(native, multiple_results=True)

        def lower(context: Any, *arrays: Any, **options: Any) -> Any:
            module = context.module_context
            alone = getattr(module.axis_context, "num_devices", 0) == 1
            empty = 0 in [size for kind in context.avals_in for size in kind.shape]
            suits = alone and not empty and not module.lowering_parameters.for_export
            return (call if suits else look_into)(context, *arrays, **options)

        mlir.register_lowering(primitive, lower, platform="cpu")
    return primitive


def _fold(a: Any, axis: int | None, size: int, at: int) -> Any:
    """A batch of problems as one with `size` times the rows, which are at axis `at`."""
    if axis is None:
        a, axis = jnp.broadcast_to(a, (size, *a.shape)), 0
    a = jnp.moveaxis(a, axis, at)
    return a.reshape(*a.shape[:at], size * a.shape[at + 1], *a.shape[at + 2 :])


def _unfold(a: Any, size: int, at: int) -> Any:
    return a.reshape(*a.shape[:at], size, a.shape[at] // size, *a.shape[at + 1 :])
