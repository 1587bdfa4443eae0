"""The reference: a gated recurrent unit in float64, one row of the batch, one time step and one gate at a time.

It is slow on purpose, shares nothing with the code that it judges, and takes other roads to the same numbers: padding
is never walked over, a reset begins a new piece of the sequence, the reverse direction walks each row backwards, and
the gradient is the adjoint of one line of the forward step after the other.

    T N I H L D   time steps, batch, input size, hidden size, layers, directions

Parameters are a tuple of layers, each a tuple of directions, each (W_ih (3H, I), W_hh (3H, H), b_ih (3H,), b_hh (3H,)),
the biases both None or neither. Complex arrays go through `forward`, so that derivatives can be taken by complex steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Gradients", "Run", "Weights", "backward", "cell_backward", "cell_forward", "forward"]

A: TypeAlias = "npt.NDArray[Any]"
Rounding: TypeAlias = "Callable[[A], A]"


class Weights(NamedTuple):
    """One layer in one direction, or the gradients of its weights."""

    W_ih: A  # (3H, I)
    W_hh: A  # (3H, H)
    b_ih: A | None = None  # (3H,)
    b_hh: A | None = None  # (3H,)


@dataclass(frozen=True)
class Options:
    """What a call may say besides its arrays."""

    lengths: Sequence[int] | None = None  # (N,)
    resets: A | None = None  # (T, N) booleans
    reset_after: bool = True
    dropout_masks: A | None = None  # (L-1, T, N, D*H)
    rounding: Rounding | None = None  # what a 16-bit type makes of the state after each step


@dataclass(frozen=True)
class Walk:
    """What one layer in one direction computed, each (T, N, ...) and zero in the padding."""

    x: A
    y: A
    h_prev: A  # the state that each step read
    r: A
    z: A
    n: A
    u: A  # the candidate's recurrent term
    h_n: A  # (N, H)


@dataclass(frozen=True)
class Run:
    """The results of `forward`, and all that `backward` needs."""

    y: A  # (T, N, D*H)
    h_n: A  # (L*D, N, H)
    layers: tuple[tuple[Walk, ...], ...] = field(repr=False)
    params: tuple[tuple[Weights, ...], ...] = field(repr=False)
    options: Options = field(repr=False)


class Gradients(NamedTuple):
    """The gradients of a loss."""

    x: A  # (T, N, I)
    h0: A  # (L*D, N, H)
    params: tuple[tuple[Weights, ...], ...]


# ---- one step --------------------------------------------------------------------------------------------------------


class Gate(NamedTuple):
    """The weights of one gate, views of a layer's."""

    W: A  # (H, I)
    V: A  # (H, H), from the state
    b: A | float
    c: A | float


Gates: TypeAlias = "tuple[Gate, Gate, Gate]"


def gates_of(w: Weights) -> Gates:
    """The reset gate's weights, the update gate's and the candidate's."""
    b: Sequence[A | float] = (0.0, 0.0, 0.0) if w.b_ih is None else np.split(w.b_ih, 3)
    c: Sequence[A | float] = (0.0, 0.0, 0.0) if w.b_hh is None else np.split(w.b_hh, 3)
    W, V = np.split(w.W_ih, 3), np.split(w.W_hh, 3)
    return Gate(W[0], V[0], b[0], c[0]), Gate(W[1], V[1], b[1], c[1]), Gate(W[2], V[2], b[2], c[2])


def sigmoid(a: A) -> A:
    """1 / (1 + exp(-a)); relative accuracy in both tails."""
    return 1.0 / (1.0 + np.exp(-a))


class Step(NamedTuple):
    """One step of one row: everything that has a name in it, (H,) each."""

    h1: A
    r: A
    z: A
    n: A
    u: A


def step(x: A, h: A, gates: Gates, reset_after: bool) -> Step:
    """One step of one row: x (I,), h (H,)."""
    reset, update, candidate = gates
    r = sigmoid(reset.W @ x + reset.b + reset.V @ h + reset.c)
    z = sigmoid(update.W @ x + update.b + update.V @ h + update.c)
    if reset_after:
        u = candidate.V @ h + candidate.c
        n = np.tanh(candidate.W @ x + candidate.b + r * u)
    else:
        u = candidate.V @ (r * h) + candidate.c
        n = np.tanh(candidate.W @ x + candidate.b + u)
    return Step((1.0 - z) * n + z * h, r, z, n, u)


def step_adjoint(dh1: A, x: A, h: A, s: Step, gates: Gates, dgates: Gates, reset_after: bool) -> tuple[A, A]:
    """The adjoint of each line of `step`, last line first: dx (I,) and dh (H,); adds to dgates."""
    reset, update, candidate = gates
    dreset, dupdate, dcandidate = dgates

    # h1 = (1 - z) * n + z * h
    dn, dz, dh = dh1 * (1.0 - s.z), dh1 * h - dh1 * s.n, dh1 * s.z

    # n = tanh(a)
    da = dn - dn * s.n**2
    dx = candidate.W.T @ da
    _add_outer(dcandidate.W, da, x)
    _add(dcandidate.b, da)
    if reset_after:  # a = ... + r * u;  u = V @ h + c
        dr, du = da * s.u, da * s.r
        dh = dh + candidate.V.T @ du
        _add_outer(dcandidate.V, du, h)
    else:  # a = ... + u;  u = V @ (r * h) + c
        du = da
        drh = candidate.V.T @ du
        dr, dh = drh * h, dh + drh * s.r
        _add_outer(dcandidate.V, du, s.r * h)
    _add(dcandidate.c, du)

    # z = sigmoid(a)
    da = dz * s.z * (1.0 - s.z)
    dx, dh = dx + update.W.T @ da, dh + update.V.T @ da
    _add_outer(dupdate.W, da, x)
    _add_outer(dupdate.V, da, h)
    _add(dupdate.b, da)
    _add(dupdate.c, da)

    # r = sigmoid(a)
    da = dr * s.r * (1.0 - s.r)
    dx, dh = dx + reset.W.T @ da, dh + reset.V.T @ da
    _add_outer(dreset.W, da, x)
    _add_outer(dreset.V, da, h)
    _add(dreset.b, da)
    _add(dreset.c, da)
    return dx, dh


def _add(total: A | float, part: A) -> None:
    if isinstance(total, np.ndarray):
        total += part


def _add_outer(total: A, a: A, b: A) -> None:
    total += a[:, None] * b[None, :]


# ---- one layer in one direction --------------------------------------------------------------------------------------


def pieces(T: int, row: int, options: Options, reverse: bool) -> Iterator[tuple[bool, list[int]]]:
    """The pieces of one row in the order of the walk, as (cut off from the piece before, its steps).

    A reset before step t is a boundary between t-1 and t, whichever way it is crossed. Padding is in no piece.
    """
    end = T if options.lengths is None else int(options.lengths[row])
    bounds = [] if options.resets is None else [t for t in range(end) if options.resets[t, row]]
    edges = [0, *bounds, end]
    spans = [list(range(a, b)) for a, b in pairwise(edges)]
    cuts = [False] + [True] * len(bounds)
    if reverse:  # what is cut off is now the piece on the other side; nothing lies on the other side of step 0
        spans = [span[::-1] for span in reversed(spans)]
        cuts = [cut and bool(span) for cut, span in zip(cuts, spans, strict=True)]
    return zip(cuts, spans, strict=True)


def walk(x: A, h0: A, w: Weights, options: Options, reverse: bool) -> Walk:
    """x (T, N, I), h0 (N, H)."""
    T, N, _ = x.shape
    H = w.W_hh.shape[1]
    kind = np.result_type(x, h0, *(a for a in w if a is not None), np.float64)
    y, h_prev, r, z, n, u = (np.zeros((T, N, H), dtype=kind) for _ in range(6))
    h_n = np.zeros((N, H), dtype=kind)
    seen = np.zeros_like(x)
    gates = gates_of(w)
    for row in range(N):
        h = h0[row]
        for cut, steps in pieces(T, row, options, reverse):
            if cut:
                h = np.zeros_like(h)
            for t in steps:
                s = step(x[t, row], h, gates, options.reset_after)
                seen[t, row], h_prev[t, row] = x[t, row], h
                r[t, row], z[t, row], n[t, row], u[t, row] = s.r, s.z, s.n, s.u
                h = s.h1 if options.rounding is None else options.rounding(s.h1)
                y[t, row] = h
        h_n[row] = h
    return Walk(seen, y, h_prev, r, z, n, u, h_n)


def walk_back(run: Walk, dy: A, dh_n: A, w: Weights, options: Options, reverse: bool) -> tuple[A, A, Weights]:
    """dy (T, N, H), dh_n (N, H) -> dx (T, N, I), dh0 (N, H), dw."""
    T, N, _ = run.x.shape
    dx, dh0 = np.zeros_like(run.x), np.zeros_like(run.h_n)
    dw = zeros_like(w)
    gates, dgates = gates_of(w), gates_of(dw)
    for row in range(N):
        dh = dh_n[row]
        for cut, steps in reversed(list(pieces(T, row, options, reverse))):
            for t in reversed(steps):
                s = Step(run.y[t, row], run.r[t, row], run.z[t, row], run.n[t, row], run.u[t, row])
                g, x, h = dh + dy[t, row], run.x[t, row], run.h_prev[t, row]
                dx[t, row], dh = step_adjoint(g, x, h, s, gates, dgates, options.reset_after)
            if cut:
                dh = np.zeros_like(dh)
        dh0[row] = dh
    return dx, dh0, dw


def zeros_like(w: Weights) -> Weights:
    """Weights to add gradients to."""
    return Weights(*(None if a is None else np.zeros(a.shape) for a in w))  # type: ignore[arg-type]


# ---- everything ------------------------------------------------------------------------------------------------------


def forward(
    x: A,
    params: Sequence[Sequence[Sequence[A | None]]],
    h0: A | None = None,
    *,
    lengths: Sequence[int] | None = None,
    resets: A | None = None,
    reset_after: bool = True,
    dropout_masks: A | None = None,
    rounding: Rounding | None = None,
) -> Run:
    """x (T, N, I), h0 (L*D, N, H) -> y (T, N, D*H), h_n (L*D, N, H) and every gate of every step."""
    options = Options(lengths, resets, reset_after, dropout_masks, rounding)
    weights = tuple(tuple(Weights(*w) for w in layer) for layer in params)  # type: ignore[arg-type]
    D, H = len(weights[0]), weights[0][0].W_hh.shape[1]
    if h0 is None:
        h0 = np.zeros((len(weights) * D, x.shape[1], H))
    layers = []
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):  # saturated gates, and NaN in some row
        for index, directions in enumerate(weights):
            walks = tuple(walk(x, h0[index * D + d], w, options, d == 1) for d, w in enumerate(directions))
            layers.append(walks)
            x = np.concatenate([one.y for one in walks], axis=-1)
            if dropout_masks is not None and index < len(weights) - 1:
                x = x * dropout_masks[index]
    return Run(x, np.stack([one.h_n for walks in layers for one in walks]), tuple(layers), weights, options)


def backward(run: Run, dy: A | None = None, dh_n: A | None = None) -> Gradients:
    """dy (T, N, D*H), dh_n (L*D, N, H), zero where None -> the gradients."""
    D, H = len(run.params[0]), run.params[0][0].W_hh.shape[1]
    dy = np.zeros(run.y.shape) if dy is None else dy
    dh_n = np.zeros(run.h_n.shape) if dh_n is None else dh_n
    dh0 = np.zeros(run.h_n.shape)
    dparams: list[tuple[Weights, ...]] = []
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for index in reversed(range(len(run.params))):
            dx = np.zeros(run.layers[index][0].x.shape)
            layer = []
            for d, w in enumerate(run.params[index]):
                row, part = index * D + d, dy[..., d * H : (d + 1) * H]
                dx_d, dh0[row], dw = walk_back(run.layers[index][d], part, dh_n[row], w, run.options, d == 1)
                dx = dx + dx_d
                layer.append(dw)
            dparams.insert(0, tuple(layer))
            masks = run.options.dropout_masks
            dy = dx if index == 0 or masks is None else dx * masks[index - 1]
    return Gradients(dy, dh0, tuple(dparams))


def cell_forward(x: A, h: A, w: Sequence[A | None], *, reset_after: bool = True) -> A:
    """x (N, I), h (N, H) -> h' (N, H)."""
    return forward(x[None], ((w,),), h[None], reset_after=reset_after).h_n[0]


def cell_backward(x: A, h: A, w: Sequence[A | None], dh1: A, *, reset_after: bool = True) -> tuple[A, A, Weights]:
    """dh1 (N, H) -> dx (N, I), dh (N, H), dw."""
    grads = backward(forward(x[None], ((w,),), h[None], reset_after=reset_after), dh_n=dh1[None])
    return grads.x[0], grads.h0[0], grads.params[0][0]
