"""Batches of problems, as `torch.func.vmap` asks for them: folded into the rows of one problem where that is possible.

Problems that share their weights are rows of one larger batch; only the gradients of the weights have to be kept apart,
one product for each problem. These are the per-sample gradients. Problems with weights of their own go one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

from gru_xp.cell import Gates, Slopes, cell_of
from gru_xp.discovery import load
from gru_xp.layer import cut_before
from gru_xp.params import CellParams, LayerTape

__all__ = ["GroupedLayer", "fold", "one_by_one", "unfold"]


def fold(a: Any, dim: int | None, B: int, rows: int) -> Any:
    """A tensor with the problems at `dim`, or the same for all of them, and its batch N at `rows` -> B*N there."""
    if a is None:
        return None
    a = a.unsqueeze(rows).expand(*a.shape[:rows], B, *a.shape[rows:]) if dim is None else a.movedim(dim, rows)
    return a.flatten(rows, rows + 1)


def unfold(a: Any, B: int) -> Any:
    """(T, B*N, K) -> (T, B, N, K)."""
    return a.unflatten(1, (B, a.shape[1] // B))


def one_by_one(operator: Callable[..., Any], B: int, in_dims: Any, args: Any) -> tuple[list[Any], list[int]]:
    """The operator over each problem, its results stacked."""

    def problem(index: int) -> Any:
        def part(a: Any, dim: int | None) -> Any:
            return a if dim is None else a.select(dim, index)

        return [
            [part(*each) for each in zip(arg, dims, strict=True)] if isinstance(arg, list | tuple) else part(arg, dims)
            for arg, dims in zip(args, in_dims, strict=True)
        ]

    found = [operator(*problem(index)) for index in range(B)]
    stacked = [torch.stack(column) for column in zip(*found, strict=True)]
    return stacked, [0] * len(stacked)


class GroupedLayer:
    """The backward of one layer over the rows (T, B*N, ...) of B problems: the weights' gradients are (B, ...)."""

    def __init__(self, B: int):
        self.B = B

    def backward(self, tape: LayerTape, dy: Any, dh_n: Any, /) -> tuple[Any, Any, CellParams]:
        """As `gru_xp.layer.Layer.backward`, without its blocks of time."""
        backend = load("torch")
        narrow, wide = tape.x.dtype, backend.computed_in(tape.x.dtype)
        x, h_prev, r, z, n, u, dy, g, *weights = tree_map(
            lambda a: a.to(wide), [tape.x, tape.h_prev, tape.r, tape.z, tape.n, tape.u, dy, dh_n, *tape.w]
        )
        w, xp = CellParams(*weights), backend.xp
        cell = cell_of(tape.spec, xp, Gates(xp), tape.valid is not None)
        assert cell.from_gates  # others go one by one
        slopes = cell.slopes(h_prev, r, z, n, u, w)
        cut = cut_before(tape.valid, tape.resets, tape.reverse, xp)
        if tape.valid is not None and tape.spec.padding == "zero":
            dy = torch.where(tape.valid[..., None], dy, 0.0)

        def step(g: Any, at: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
            dy_t, cut_t, *slopes_t = at
            g, flows = cell.backward(g + dy_t, Slopes(*slopes_t), w)
            return g if cut_t is None else g.masked_fill(cut_t, 0.0), flows

        dh0, flows = backend.scan(step, g, (dy, cut, *slopes), reverse=not tape.reverse)
        dgi, dgh = cell.gate_gradients(flows, slopes)

        def problems(a: Any) -> Any:
            return unfold(a, self.B).transpose(0, 1).flatten(1, 2)  # (T, B*N, K) -> (B, T*N, K)

        a, b = problems(dgi), problems(dgh)
        each: Any = zip(b, problems(h_prev), problems(r), strict=True)
        dW_hh: Any = torch.stack([cell.dW_hh(*rows) for rows in each])  # type: ignore[misc]
        db = (None, None) if w.b_ih is None else (a.sum(1).to(narrow), b.sum(1).to(narrow))
        dw = CellParams((a.mT @ problems(x)).to(narrow), dW_hh.to(narrow), *db)
        return (dgi @ w.W_ih).to(narrow), dh0.to(narrow), dw
