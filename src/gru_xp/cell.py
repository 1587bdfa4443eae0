"""One step of a gated recurrent unit: its equations, forward and backward.

    T N I H L D   time steps, batch, input size, hidden size, layers, directions
    x             input (N, I); of a layer (T, N, I)
    h             state (N, H); h_prev (T, N, H) is what each step of a layer read
    W_ih  W_hh    weights (3H, I), (3H, H), gates stacked r, z, n on axis 0
    b_ih  b_hh    biases (3H,), both or neither
    gi    gh      gate arguments from the input and from the state (..., 3H)
    r  z  n       reset gate, update gate, candidate (..., H)
    u             the candidate's recurrent term (..., H)
    d<name>       gradient of the loss with respect to <name>
    da_r da_z da_n   ... with respect to the gates' arguments

The equations are cuDNN's, which are PyTorch's, Keras's with `reset_after=True` and ONNX's with `linear_before_reset=1`:

    gi = x @ W_ih.T + b_ih      gh = h @ W_hh.T + b_hh
    r  = sigmoid(gi_r + gh_r)   z  = sigmoid(gi_z + gh_z)
    u  = gh_n                   n  = tanh(gi_n + r * u)
    h' = (1 - z) * n + z * h

and their gradient, g being all that flows into h':

    da_n = (1 - z) * g * (1 - n*n)   da_z = (h - n) * g * z * (1 - z)   da_r = da_n * u * r * (1 - r)
    dgi  = [da_r, da_z, da_n]        dgh  = [da_r, da_z, da_n * r]
    dh   = z * g + dgh @ W_hh

All of it is linear in g. So the factors of g, the *slopes*, are computed for many steps at once, without the loop over
time; what is left for the loop is two products with them and one with W_hh.

`ResetAfter` is that cell. `ResetBefore` is the other one (Cho et al. 2014): the reset gate acts before the product.
`Activated` is either of them with activations other than sigmoid and tanh, or with clipped arguments.

Padding is z = 1. For sigmoid an argument `gi_z` of +inf says so; `Activated` takes it as a mark.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from . import interfaces
from .activations import Activation
from .params import Array, CellParams, GRUSpec

Arrays: TypeAlias = "tuple[Any, ...]"


def affine(a: Array, W: Array, b: Array | None, xp: Any) -> Array:
    """`a @ W.T + b`: (..., K), (M, K), (M,) -> (..., M). W may have a product `times` of its own kind."""
    if hasattr(W, "times"):
        out = W.times(a)
    elif a.ndim == 2:
        out = a @ W.T
    else:
        out = xp.tensordot(a, W, axes=((a.ndim - 1,), (1,)))
    return out if b is None else out + b


def sum_of_outer(a: Array, b: Array, xp: Any) -> Array:
    """(..., M), (..., K) -> (M, K), one product over all rows; merges no axes, one of which may be sharded."""
    rows = tuple(range(a.ndim - 1))
    return xp.tensordot(a, b, axes=(rows, rows))


def sigmoid(a: Array, xp: Any, half: Any = 0.5, one: Any = 1.0) -> Array:
    """The logistic function by way of tanh, which never overflows.

    Its absolute error is within an eps; in the far left tail, where the value is below an eps, it has no relative
    accuracy.
    """
    return half * (one + xp.tanh(half * a))


def times_each_gate(g: Array, slopes: Array, xp: Any) -> Array:
    """g (..., H) times each of the three parts of slopes (..., 3, H) -> (..., 3H)."""
    return xp.reshape(g[..., None, :] * slopes, (*g.shape[:-1], 3 * g.shape[-1]))


class Gates:
    """The pointwise part of a step in the pure array API; any number of leading axes."""

    name = "plain"

    def __init__(self, xp: Any):
        self.xp = xp

    def numbers(self, dtype: Any) -> tuple[Any, Any]:
        """0.5 and 1 to compute with beside arrays of this dtype."""
        return 0.5, 1.0

    def inference(self, gi: Array, gh: Array, h: Array, /) -> Array:
        """(..., 3H), (..., 3H), (..., H) -> h' (..., H)."""
        return self.forward(gi, gh, h)[0]

    def forward(self, gi: Array, gh: Array, h: Array, /) -> Arrays:
        """(..., 3H), (..., 3H), (..., H) -> h', r, z, n, u, each (..., H)."""
        H = h.shape[-1]
        half, one = self.numbers(h.dtype)
        rz = sigmoid(gi[..., : 2 * H] + gh[..., : 2 * H], self.xp, half, one)
        r, z = rz[..., :H], rz[..., H:]
        u = gh[..., 2 * H :]
        n = self.xp.tanh(gi[..., 2 * H :] + r * u)
        return (one - z) * n + z * h, r, z, n, u

    def backward(self, dh1: Array, h: Array, r: Array, z: Array, n: Array, u: Array, /) -> Arrays:
        """Six times (..., H) -> dgi, dgh (..., 3H), and the part of dh that does not go through W_hh (..., H)."""
        da_n = (1.0 - z) * dh1 * (1.0 - n * n)
        da_z = (h - n) * dh1 * z * (1.0 - z)
        da_r = da_n * u * r * (1.0 - r)
        dgi = self.xp.concat([da_r, da_z, da_n], axis=-1)
        dgh = self.xp.concat([da_r, da_z, da_n * r], axis=-1)
        return dgi, dgh, z * dh1


class Slopes(NamedTuple):
    """The factors of g in the gradient of a step, and of q in that of `ResetBefore`."""

    dh: Any  # (..., H)
    dgh: Any = None  # (..., 3, H)
    dgi: Any = None  # (..., 3, H)
    da_r: Any = None  # (..., H)
    da_z: Any = None  # (..., H)
    da_n: Any = None  # (..., H)
    r: Any = None  # (..., H)


class _FromGates:
    """A cell whose gradient can be computed from the values of its gates."""

    from_gates: ClassVar[Literal[True]] = True
    forward: Any
    slopes: Any

    def slopes_at(self, gi: Array, h: Array, w: CellParams) -> tuple[Slopes, Arrays]:
        """The factors of g, for any number of steps at once, and r, z, n, u, computed again: (..., H) each."""
        gates = self.forward(gi, h, w)[1:]
        return self.slopes(h, *gates, w), gates


class ResetAfter(_FromGates):
    """The cell with the reset gate after the recurrent product; its gates are plain or fused."""

    def __init__(self, xp: Any, gates: interfaces.Gates):
        self.xp, self.gates = xp, gates

    def inference(self, gi: Array, h: Array, w: CellParams) -> Array:
        """(N, 3H), (N, H) -> h' (N, H)."""
        return self.gates.inference(gi, affine(h, w.W_hh, w.b_hh, self.xp), h)

    def forward(self, gi: Array, h: Array, w: CellParams) -> Arrays:
        """(N, 3H), (N, H) -> h', r, z, n, u, each (N, H)."""
        return self.gates.forward(gi, affine(h, w.W_hh, w.b_hh, self.xp), h)

    def slopes(self, h: Array, r: Array, z: Array, n: Array, u: Array, w: CellParams) -> Slopes:
        """The factors of g, for any number of steps at once: (..., H) each."""
        split = (*h.shape[:-1], 3, h.shape[-1])
        dgi, dgh, dh = self.gates.backward(self.xp.ones_like(z), h, r, z, n, u)
        return Slopes(dh=dh, dgh=self.xp.reshape(dgh, split), dgi=self.xp.reshape(dgi, split))

    def backward(self, g: Array, s: Slopes, w: CellParams) -> tuple[Array, Arrays]:
        """One step, g (N, H): dh (N, H), and what `gate_gradients` needs of every step."""
        return s.dh * g + times_each_gate(g, s.dgh, self.xp) @ w.W_hh, (g,)

    def gate_gradients(self, flows: Arrays, s: Slopes) -> tuple[Array, Array]:
        """dgi, dgh (..., 3H) of any number of steps, from what `backward` left."""
        (g,) = flows
        return times_each_gate(g, s.dgi, self.xp), times_each_gate(g, s.dgh, self.xp)

    def gradient(self, g: Array, h: Array, r: Array, z: Array, n: Array, u: Array, w: CellParams) -> Arrays:
        """One step alone, without slopes computed beforehand: dh (N, H), dgi and dgh (N, 3H)."""
        dgi, dgh, dh = self.gates.backward(g, h, r, z, n, u)
        return dh + dgh @ w.W_hh, dgi, dgh

    def dW_hh(self, dgh: Array, h: Array, r: Array) -> Array:
        """(..., 3H), (..., H), (..., H) -> (3H, H), summed over all rows."""
        return sum_of_outer(dgh, h, self.xp)


class ResetBefore(_FromGates):
    """The cell with the reset gate before the recurrent product:

        u = (r * h) @ W_hn.T + b_hn      n = tanh(gi_n + u)      r, z and h' as in `ResetAfter`
        q = da_n @ W_hn                  da_r = q * h * r * (1 - r)
        dgi = dgh = [da_r, da_z, da_n]   dh = z * g + r * q + [da_r, da_z] @ W_h[rz]

    The methods are those of `ResetAfter`. Nothing pointwise of it is ever fused.
    """

    def __init__(self, xp: Any):
        self.xp = xp

    def inference(self, gi: Array, h: Array, w: CellParams) -> Array:
        return self.forward(gi, h, w)[0]

    def forward(self, gi: Array, h: Array, w: CellParams) -> Arrays:
        H = h.shape[-1]
        rz_bias, n_bias = (None, None) if w.b_hh is None else (w.b_hh[: 2 * H], w.b_hh[2 * H :])
        rz = sigmoid(gi[..., : 2 * H] + affine(h, w.W_hh[: 2 * H, :], rz_bias, self.xp), self.xp)
        r, z = rz[..., :H], rz[..., H:]
        u = affine(r * h, w.W_hh[2 * H :, :], n_bias, self.xp)
        n = self.xp.tanh(gi[..., 2 * H :] + u)
        return (1.0 - z) * n + z * h, r, z, n, u

    def slopes(self, h: Array, r: Array, z: Array, n: Array, u: Array, w: CellParams) -> Slopes:
        return Slopes(dh=z, da_n=(1.0 - z) * (1.0 - n * n), da_z=(h - n) * z * (1.0 - z), da_r=h * r * (1.0 - r), r=r)

    def backward(self, g: Array, s: Slopes, w: CellParams) -> tuple[Array, Arrays]:
        H = g.shape[-1]
        q = (s.da_n * g) @ w.W_hh[2 * H :, :]
        da_rz = self.xp.concat([s.da_r * q, s.da_z * g], axis=-1)
        return s.dh * g + s.r * q + da_rz @ w.W_hh[: 2 * H, :], (g, q)

    def gate_gradients(self, flows: Arrays, s: Slopes) -> tuple[Array, Array]:
        g, q = flows
        da = self.xp.concat([s.da_r * q, s.da_z * g, s.da_n * g], axis=-1)
        return da, da

    def gradient(self, g: Array, h: Array, r: Array, z: Array, n: Array, u: Array, w: CellParams) -> Arrays:
        s = self.slopes(h, r, z, n, u, w)
        dh, flows = self.backward(g, s, w)
        return dh, *self.gate_gradients(flows, s)

    def dW_hh(self, dgh: Array, h: Array, r: Array) -> Array:
        H = h.shape[-1]
        rz, n = dgh[..., : 2 * H], dgh[..., 2 * H :]
        return self.xp.concat([sum_of_outer(rz, h, self.xp), sum_of_outer(n, r * h, self.xp)], axis=0)


class Nonlinearity(NamedTuple):
    """An activation of arguments that are clamped to [-clip, clip] before, unless `clip` is None."""

    activation: Activation
    clip: float | None
    xp: Any

    def value(self, a: Array) -> Array:
        return self.activation.value(self._clamped(a), self.xp)

    def derivative(self, a: Array) -> Array:
        """Zero where the argument was clamped; on the bound itself that of the activation."""
        slope = self.activation.derivative(self._clamped(a), self.xp)
        return slope if self.clip is None else self.xp.where(self.xp.abs(a) > self.clip, self.xp.zeros_like(a), slope)

    def _clamped(self, a: Array) -> Array:
        if self.clip is None:
            return a
        low, high = self.xp.full_like(a, -self.clip), self.xp.full_like(a, self.clip)
        return self.xp.where(a > high, high, self.xp.where(a < low, low, a))


class Activated:
    """Either cell with the activations and the clip of a spec: f for the gates r and z, g for the candidate.

        da_n = (1 - z) * g * g'(a_n)   da_z = (h - n) * g * f'(a_z)   da_r = ... * f'(a_r)

    The derivatives are taken at the arguments, which cannot be found from the values on the tape: `slopes_at` computes
    them again. `padded`: a `gi_z` of +inf, which then nothing else may have, means z = 1.
    """

    from_gates: ClassVar[Literal[False]] = False

    def __init__(self, xp: Any, spec: GRUSpec, padded: bool):
        self.xp, self.padded = xp, padded
        self.linear: ResetAfter | ResetBefore = ResetAfter(xp, Gates(xp)) if spec.reset_after else ResetBefore(xp)
        self.f = Nonlinearity(spec.gate_activation, spec.clip, xp)
        self.g = Nonlinearity(spec.candidate_activation, spec.clip, xp)
        self.backward, self.gate_gradients = self.linear.backward, self.linear.gate_gradients
        self.dW_hh = self.linear.dW_hh

    def inference(self, gi: Array, h: Array, w: CellParams) -> Array:
        return self.forward(gi, h, w)[0]

    def forward(self, gi: Array, h: Array, w: CellParams) -> Arrays:
        return self._gates(gi, h, w)[0]

    def slopes_at(self, gi: Array, h: Array, w: CellParams) -> tuple[Slopes, Arrays]:
        """The factors of g, for any number of steps at once, and r, z, n, u: (..., H) each."""
        (_, r, z, n, u), (a_r, a_z, a_n), still = self._gates(gi, h, w)
        f_r, f_z = self.f.derivative(a_r), self._where_still(still, 0.0, self.f.derivative(a_z))
        da_n, da_z = (1.0 - z) * self.g.derivative(a_n), (h - n) * f_z
        if isinstance(self.linear, ResetBefore):
            return Slopes(dh=z, da_n=da_n, da_z=da_z, da_r=h * f_r, r=r), (r, z, n, u)
        da_r = da_n * u * f_r
        dgi, dgh = self.xp.stack([da_r, da_z, da_n], axis=-2), self.xp.stack([da_r, da_z, da_n * r], axis=-2)
        return Slopes(dh=z, dgi=dgi, dgh=dgh), (r, z, n, u)

    def _gates(self, gi: Array, h: Array, w: CellParams) -> tuple[Arrays, Arrays, Any]:
        """h', r, z, n, u; the arguments of r, z, n; and where the state stands still. Arguments are 0 there."""
        H = h.shape[-1]
        gi_r, gi_z, gi_n = gi[..., :H], gi[..., H : 2 * H], gi[..., 2 * H :]
        still = gi_z == float("inf") if self.padded else None
        before = isinstance(self.linear, ResetBefore)
        first = 2 * H if before else 3 * H
        gh = affine(h, w.W_hh[:first, :], None if w.b_hh is None else w.b_hh[:first], self.xp)
        a_r = self._where_still(still, 0.0, gi_r + gh[..., :H])
        a_z = self._where_still(still, 0.0, gi_z + gh[..., H : 2 * H])
        r, z = self.f.value(a_r), self._where_still(still, 1.0, self.f.value(a_z))
        if before:
            u = through_r = affine(r * h, w.W_hh[2 * H :, :], None if w.b_hh is None else w.b_hh[2 * H :], self.xp)
        else:
            u = gh[..., 2 * H :]
            through_r = r * u
        a_n = self._where_still(still, 0.0, gi_n + through_r)
        n = self.g.value(a_n)
        return ((1.0 - z) * n + z * h, r, z, n, u), (a_r, a_z, a_n), still

    def _where_still(self, still: Any, value: float, a: Array) -> Array:
        return a if still is None else self.xp.where(still, self.xp.full_like(a, value), a)


Cell: TypeAlias = ResetAfter | ResetBefore | Activated


def cell_of(spec: GRUSpec, xp: Any, gates: interfaces.Gates, padded: bool) -> Cell:
    """The cell that `spec` asks for; `padded`: whether there is any padding."""
    if not spec.standard_gates:
        return Activated(xp, spec, padded)
    return ResetAfter(xp, gates) if spec.reset_after else ResetBefore(xp)
