"""Models and prepared parameters as JAX pytrees, so that `jax.grad`, `jax.jit` and optax take them."""

from __future__ import annotations

from typing import Any

import jax

from gru_xp.discovery import Place, load
from gru_xp.errors import StructureError
from gru_xp.module import GRU, of_leaves
from gru_xp.params import Params
from gru_xp.prepared import PreparedParams

__all__: list[str] = []


def _flat(model: GRU) -> tuple[tuple[Params], Any]:
    # a model that JAX rebuilt and nobody has used gives back what it was given, be it placeholders
    params = vars(model).get("_leaves")
    if params is None:
        _assert_wide(model._own)
        params = model.params
    return (params,), (model.spec, model.batch_first, model.dropout)


def _prepared(about: Any, children: Any) -> PreparedParams:
    (params,), (sizes, place, movable) = children, about
    leaf = params[0][0].W_hh
    if isinstance(leaf, jax.Array):  # what JAX makes of another library's arrays is its own
        backend = load("jax")
        place = Place(backend, backend.device_of(leaf))
    return PreparedParams(params, sizes, place, movable)


def _flat_prepared(prepared: PreparedParams) -> tuple[tuple[Params], Any]:
    _assert_wide(prepared)
    return (prepared.params,), (prepared.sizes, prepared.place, prepared.movable)


def _assert_wide(prepared: PreparedParams) -> None:
    if prepared.narrow is not None:
        raise StructureError(
            "params: expected weights that have gradients, got quantised ones; close over them instead"
        )


jax.tree_util.register_pytree_node(GRU, _flat, lambda about, children: of_leaves(*children, *about))
jax.tree_util.register_pytree_node(PreparedParams, _flat_prepared, _prepared)
