"""Arrays whose types say something of the devices that they are on; what else is sharded needs nothing of this.

On a mesh with explicit axes, which `jax.make_mesh` makes, an operation may have to be told how its result is sharded. A
stack leaves that to XLA: within it the axes are as on any other mesh, and what comes out has the steps and the batch
sharded as x has them. In `jax.shard_map` an array may differ along the mesh's axes or not, and what is carried through
a loop has to be of one kind from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from gru_xp.interfaces import Options
from gru_xp.params import CellParams, GRUGrads, LayerTape, Params
from gru_xp.stack import Stack

__all__ = ["OnMeshes", "alike", "on_a_mesh"]


class OnMeshes:
    """A stack, of arrays on any mesh."""

    def __init__(self, stack: Stack):
        self.stack, self.name = stack, stack.name

    def inference(self, x: Any, h0: Any, params: Params, options: Options, dropout_masks: Any, /) -> Any:
        """As `Stack.inference`."""
        arrays = x, h0, params, options, dropout_masks
        return _computed(self.stack.inference, arrays, lambda at: (at.steps, at.states))

    def forward(self, x: Any, h0: Any, params: Params, options: Options, dropout_masks: Any, /) -> Any:
        """As `Stack.forward`."""
        spec, valid, resets, _, save = options

        def placed(at: _Places) -> Any:
            def tape(d: int, w: CellParams) -> LayerTape:
                r, z, n, u = [at.steps if save == "all" else None] * 4
                padding, cuts = (None if a is None else at.rows for a in (valid, resets))
                reverse = d == 1 or spec.reverse
                return LayerTape(at.steps, at.steps, r, z, n, u, at.own(w), padding, cuts, spec, reverse)

            return at.steps, at.states, tuple(tuple(tape(*each) for each in enumerate(layer)) for layer in params)

        return _computed(self.stack.forward, (x, h0, params, options, dropout_masks), placed)

    def backward(self, tapes: Any, dy: Any, dh_n: Any, dropout_masks: Any, /) -> Any:
        """As `Stack.backward`."""

        def run(x: Any, tapes: Any, dy: Any, dh_n: Any, masks: Any) -> Any:
            return self.stack.backward(tapes, dy, dh_n, masks)

        def placed(at: _Places) -> Any:
            return GRUGrads(at.steps, at.states, at.own(tuple(tuple(tape.w for tape in layer) for layer in tapes)))

        return _computed(run, (tapes[0][0].x, tapes, dy, dh_n, dropout_masks), placed)


class _Places:
    """How the arrays of a stack are sharded on a mesh whose types say that x is sharded as `spec`."""

    def __init__(self, mesh: Any, spec: Any):
        self.mesh = mesh
        T, N = (*spec, None, None)[:2]
        self.rows, self.steps, self.states = (self.at(*axes) for axes in ((T, N), (T, N, None), (None, N, None)))

    def at(self, *axes: Any) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*axes))  # type: ignore[no-untyped-call]

    def own(self, arrays: Any) -> Any:
        """That of each array itself."""
        return jax.tree.map(lambda a: self.at(*jax.typeof(a).sharding.spec), arrays)


def _computed(run: Callable[..., Any], arrays: tuple[Any, ...], placed: Callable[[_Places], Any]) -> Any:
    """`run(*arrays)`, the first of which is x."""
    arrays = alike(arrays)
    kind = jax.typeof(arrays[0]).sharding
    if not kind.mesh.explicit_axes:
        return run(*arrays)
    automatic: Any = jax.sharding.auto_axes
    return automatic(run, axes=kind.mesh.explicit_axes, out_sharding=placed(_Places(kind.mesh, kind.spec)))(*arrays)


def alike(arrays: Any) -> Any:
    """The arrays, differing from device to device along each axis of `shard_map` along which one of them does."""
    leaves = jax.tree.leaves(arrays)
    axes = frozenset[str]().union(*map(_varying, leaves))
    if all(_varying(a) == axes for a in leaves):
        return arrays
    return jax.tree.map(lambda a: jax.lax.pcast(a, tuple(axes - _varying(a)), to="varying"), arrays)


def on_a_mesh(a: Any) -> bool:
    """Whether an array's type says something of the devices that it is on."""
    return bool(_varying(a)) or not jax.typeof(a).sharding.mesh.empty


def _varying(a: Any) -> frozenset[str]:
    """The axes of `shard_map` along which an array differs from device to device."""
    kind: Any = jax.typeof(a)
    found = kind.mat.varying if hasattr(kind, "mat") else getattr(kind, "vma", ())
    return frozenset(found)
