"""The reference: a gated recurrent unit in float64, one row of the batch, one time step and one gate at a time.

It is slow on purpose, shares nothing with the code that it judges, and takes other roads to the same numbers: padding
is passed by, a reset begins a new piece of the sequence, the reverse direction walks each row backwards, and the
gradient is the adjoint of one line of the forward step after the other. The derivatives of the activations other than
sigmoid and tanh are complex steps.

    T N I H L D   time steps, batch, input size, hidden size, layers, directions

Parameters are a tuple of layers, each a tuple of directions, each (W_ih (3H, I), W_hh (3H, H), b_ih (3H,), b_hh (3H,)),
the biases both None or neither. Complex arrays go through `forward`, so that derivatives can be taken by complex steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Gradients", "Run", "Weights", "backward", "cell_backward", "cell_forward", "forward"]

A: TypeAlias = "npt.NDArray[Any]"
Rounding: TypeAlias = "Callable[[A], A]"
Activation: TypeAlias = "tuple[Any, ...]"  # ONNX's or Keras's name in lower case, and its constants


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
    mask: A | None = None  # (T, N) booleans, false where a step is padding
    reset_after: bool = True
    gate: Activation = ("sigmoid",)
    candidate: Activation = ("tanh",)
    clip: float | None = None
    reverse: bool = False  # of the one direction
    hold: bool = False  # y is the state in the padding
    dropout_masks: A | None = None  # (L-1, T, N, D*H)
    rounding: Rounding | None = None  # what a 16-bit type makes of the state after each step
    rounded: Callable[[A, bool], A] | None = None  # what products see of a row of x, or (True) of a state


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
    a: A  # (3, T, N, H), the arguments of r, z, n
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


# the equations of https://onnx.ai/onnx/operators/onnx__GRU.html and https://keras.io/api/layers/activations, of a
# complex a too, whose real part decides between the pieces
ACTIVATIONS: dict[str, Callable[..., A]] = {
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda a: a * (a.real > 0),
    "affine": lambda a, alpha, beta: alpha * a + beta,
    "leaky_relu": lambda a, alpha: a * np.where(a.real > 0, 1.0, alpha),
    "thresholded_relu": lambda a, alpha: a * (a.real > alpha),
    "scaled_tanh": lambda a, alpha, beta: alpha * np.tanh(beta * a),
    "hard_sigmoid": lambda a, alpha, beta: clamped(alpha * a + beta - 0.5, 0.5) + 0.5,
    "elu": lambda a, alpha: np.where(a.real > 0, a, alpha * (np.exp(a) - 1.0)),
    "selu": lambda a: 1.0507009873554805 * np.where(a.real > 0, a, 1.6732632423543772 * (np.exp(a) - 1.0)),
    "softsign": lambda a: a / (1.0 + a * np.sign(a.real)),
    "softplus": lambda a: np.log(1.0 + np.exp(a)),
    "swish": lambda a: a * sigmoid(a),
    "exponential": np.exp,
}


def clamped(a: A, clip: float | None) -> A:
    """a within -clip and clip, by its real part."""
    return a if clip is None else np.where(np.abs(a.real) > clip, clip * np.sign(a.real), a)


def activated(a: A, activation: Activation, clip: float | None) -> A:
    """The activation of arguments a, clamped before."""
    name, *constants = activation
    return ACTIVATIONS[name](clamped(a, clip), *constants)


def slope(a: A, value: A, activation: Activation, clip: float | None) -> A:
    """The derivative of `activated` at a, where it has that value."""
    if clip is None and activation == ("sigmoid",):
        return value * (1.0 - value)
    if clip is None and activation == ("tanh",):
        return 1.0 - value**2
    tiny = np.sqrt(np.finfo(np.float64).tiny)
    return activated(a + 1j * tiny, activation, clip).imag / tiny


class Step(NamedTuple):
    """One step of one row: everything that has a name in it, (H,) each."""

    h1: A
    r: A
    z: A
    n: A
    u: A
    a: Sequence[A]  # the arguments of r, z, n


def step(x: A, h: A, gates: Gates, options: Options) -> Step:
    """One step of one row: x (I,), h (H,)."""
    reset, update, candidate = gates
    seen = h
    if options.rounded is not None:
        x, seen = options.rounded(x, False), options.rounded(h, True)
    a_r = reset.W @ x + reset.b + reset.V @ seen + reset.c
    a_z = update.W @ x + update.b + update.V @ seen + update.c
    r, z = (activated(a, options.gate, options.clip) for a in (a_r, a_z))
    if options.reset_after:
        u = candidate.V @ seen + candidate.c
        a_n = candidate.W @ x + candidate.b + r * u
    else:
        u = candidate.V @ (r * h) + candidate.c
        a_n = candidate.W @ x + candidate.b + u
    n = activated(a_n, options.candidate, options.clip)
    return Step((1.0 - z) * n + z * h, r, z, n, u, (a_r, a_z, a_n))


def step_adjoint(dh1: A, x: A, h: A, s: Step, gates: Gates, dgates: Gates, options: Options) -> tuple[A, A]:
    """The adjoint of each line of `step`, last line first: dx (I,) and dh (H,); adds to dgates."""
    reset, update, candidate = gates
    dreset, dupdate, dcandidate = dgates

    # h1 = (1 - z) * n + z * h
    dn, dz, dh = dh1 * (1.0 - s.z), dh1 * h - dh1 * s.n, dh1 * s.z

    # n = tanh(a), or another activation
    a_r, a_z, a_n = s.a
    da = dn * slope(a_n, s.n, options.candidate, options.clip)
    dx = candidate.W.T @ da
    _add_outer(dcandidate.W, da, x)
    _add(dcandidate.b, da)
    if options.reset_after:  # a = ... + r * u;  u = V @ h + c
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
    da = dz * slope(a_z, s.z, options.gate, options.clip)
    dx, dh = dx + update.W.T @ da, dh + update.V.T @ da
    _add_outer(dupdate.W, da, x)
    _add_outer(dupdate.V, da, h)
    _add(dupdate.b, da)
    _add(dupdate.c, da)

    # r = sigmoid(a)
    da = dr * slope(a_r, s.r, options.gate, options.clip)
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


def is_valid(t: int, row: int, options: Options) -> bool:
    """Whether a step is no padding."""
    within = options.lengths is None or t < options.lengths[row]
    return within and (options.mask is None or bool(options.mask[t, row]))


def pieces(T: int, row: int, options: Options, reverse: bool) -> Iterator[tuple[bool, list[int]]]:
    """The pieces of one row in the order of the walk, as (cut off from the piece before, its steps).

    A reset at a step cuts it off from the valid step before it in time, whichever way that is crossed. In the padding
    there are none, and nothing lies on the other side of a row's first valid step.
    """
    cut, steps, last = False, [], None
    for t in reversed(range(T)) if reverse else range(T):
        if is_valid(t, row, options):
            edge = last if reverse else t
            if options.resets is not None and edge is not None and options.resets[edge, row]:
                yield cut, steps
                cut, steps = True, []
            last = t
        steps.append(t)
    yield cut, steps


def walk(x: A, h0: A, w: Weights, options: Options, reverse: bool) -> Walk:
    """x (T, N, I), h0 (N, H)."""
    T, N, _ = x.shape
    H = w.W_hh.shape[1]
    kind = np.result_type(x, h0, *(a for a in w if a is not None), np.float64)
    y, h_prev, r, z, n, u = (np.zeros((T, N, H), dtype=kind) for _ in range(6))
    arguments = np.zeros((3, T, N, H), dtype=kind)
    h_n = np.zeros((N, H), dtype=kind)
    seen = np.zeros_like(x)
    gates = gates_of(w)
    for row in range(N):
        h = h0[row]
        for cut, steps in pieces(T, row, options, reverse):
            if cut:
                h = np.zeros_like(h)
            for t in steps:
                if not is_valid(t, row, options):
                    if options.hold:
                        y[t, row] = h
                    continue
                s = step(x[t, row], h, gates, options)
                arguments[:, t, row] = s.a
                seen[t, row], h_prev[t, row] = x[t, row], h
                r[t, row], z[t, row], n[t, row], u[t, row] = s.r, s.z, s.n, s.u
                h = s.h1 if options.rounding is None else options.rounding(s.h1)
                y[t, row] = h
        h_n[row] = h
    return Walk(seen, y, h_prev, r, z, n, u, arguments, h_n)


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
                if not is_valid(t, row, options):
                    if options.hold:
                        dh = dh + dy[t, row]
                    continue
                gates_of_t = (run.r[t, row], run.z[t, row], run.n[t, row], run.u[t, row])
                s = Step(run.y[t, row], *gates_of_t, run.a[:, t, row])
                g, x, h = dh + dy[t, row], run.x[t, row], run.h_prev[t, row]
                dx[t, row], dh = step_adjoint(g, x, h, s, gates, dgates, options)
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
    **options_by_name: Any,
) -> Run:
    """x (T, N, I), h0 (L*D, N, H) -> y (T, N, D*H), h_n (L*D, N, H) and every gate of every step; see `Options`."""
    options = Options(**options_by_name)
    dropout_masks = options.dropout_masks
    weights = tuple(tuple(Weights(*w) for w in layer) for layer in params)  # type: ignore[arg-type]
    D, H = len(weights[0]), weights[0][0].W_hh.shape[1]
    if h0 is None:
        h0 = np.zeros((len(weights) * D, x.shape[1], H))
    layers = []
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):  # saturated gates, and NaN in some row
        for index, directions in enumerate(weights):
            walks = tuple(
                walk(x, h0[index * D + d], w, options, d == 1 or options.reverse) for d, w in enumerate(directions)
            )
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
                reverse = d == 1 or run.options.reverse
                dx_d, dh0[row], dw = walk_back(run.layers[index][d], part, dh_n[row], w, run.options, reverse)
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
