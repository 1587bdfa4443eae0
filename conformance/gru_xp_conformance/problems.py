"""What is computed in a case: a `Config` says it in a few words, a `Problem` holds the arrays, `expected` gives the
reference's results and `plain_errors` how far the plain path on NumPy is from them.

    T N I H L D   time steps, batch, input size, hidden size, layers, directions
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gru_xp.activations import Activation
from gru_xp.discovery import Place, load
from gru_xp.params import GRUSpec

from . import reference
from .implementation import Arguments, Assembled

__all__ = [
    "Config",
    "Problem",
    "Quantity",
    "expected",
    "of_forward",
    "of_gradients",
    "plain_errors",
    "problem",
    "rounded",
]

A = npt.NDArray[Any]
KEPT = 1024  # results that are kept for the next row


@dataclass(frozen=True)
class Config:
    """One call of the library. Sizes are distinct and odd where nothing else is asked for."""

    T: int = 5
    N: int = 3
    I: int = 9
    H: int = 7
    L: int = 1
    D: int = 1
    bias: bool = True
    reset_after: bool = True
    gate: tuple[Any, ...] = ("sigmoid",)  # an activation's name and its constants
    candidate: tuple[Any, ...] = ("tanh",)
    clip: float | None = None
    reverse: bool = False
    hold: bool = False  # y is the state in the padding
    h0: bool = True
    lengths: tuple[int, ...] | None = None
    masked: tuple[tuple[int, int], ...] | None = None  # (t, row) that are padding; instead of lengths
    resets: tuple[tuple[int, int], ...] | None = None  # (t, row) where the state is set to zero
    dropout: bool = False
    flows: str = "both"  # which gradients flow in: "both", "dy" or "dh_n"
    scale: float = 1.0  # of x
    seed: int = 0

    def but(self, **changes: Any) -> Config:
        return replace(self, **changes)

    @property
    def spec(self) -> GRUSpec:
        padding = "hold" if self.hold else "zero"
        activations = Activation(*self.gate), Activation(*self.candidate)
        return GRUSpec(self.reset_after, *activations, self.clip, self.reverse, padding)

    @property
    def valid(self) -> A | None:
        """(T, N) booleans, false where a step is padding."""
        if self.masked is None:
            return None if self.lengths is None else np.arange(self.T)[:, None] < np.asarray(self.lengths)
        valid = np.ones((self.T, self.N), dtype=bool)
        for at in self.masked:
            valid[at] = False
        return valid

    def __str__(self) -> str:
        words = [f"{letter}={getattr(self, letter)}" for letter in "TNIHLD"]
        words += [] if self.bias else ["no biases"]
        words += [] if self.reset_after else ["reset before the product"]
        words += [] if self.spec == GRUSpec(self.reset_after) else [f"spec={self.spec.text}"]
        words += [] if self.h0 else ["h0=None"]
        words += [] if self.lengths is None else [f"lengths={list(self.lengths)}"]
        words += [] if self.masked is None else [f"masked at (t, row)={list(self.masked)}"]
        words += [] if self.resets is None else [f"resets at (t, row)={list(self.resets)}"]
        words += ["dropout"] if self.dropout else []
        words += [] if self.flows == "both" else [f"only {self.flows} flows in"]
        return ", ".join(words)


@dataclass(frozen=True, eq=False)
class Problem:
    """The arrays of a call; those of a config are float64, but of values that the dtype has, and read-only."""

    x: A
    params: tuple[tuple[reference.Weights, ...], ...]
    h0: A | None = None
    lengths: A | None = None
    mask: A | None = None
    resets: A | None = None
    dropout_masks: A | None = None
    dy: A | None = None
    dh_n: A | None = None


class Quantity(NamedTuple):
    """What is compared: `y`, `h_n`, a gate on the tape, a gradient; of one layer and direction where it has them."""

    kind: str
    layer: int = 0
    d: int = 0

    def __str__(self) -> str:
        if self.kind in WHOLE:
            return self.kind
        return f"{self.kind} of layer {self.layer}, {('forward', 'reverse')[self.d]} direction"


WHOLE = ("y", "h_n", "dx", "dh0")
ON_TAPE = ("x", "h_prev", "r", "z", "u", "n")
GATES_ON_TAPE = ("r", "z", "u", "n")


def rounded(a: A, dtype: str) -> A:
    """float64 values that the dtype has."""
    if dtype == "bfloat16":  # the upper half of a float32, to nearest, ties to even
        bits = a.astype(np.float32).view(np.uint32)
        upper = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return np.where(np.isfinite(a), upper.view(np.float32), a).astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        return a.astype(dtype).astype(np.float64)


@lru_cache(KEPT)
def problem(config: Config, dtype: str) -> Problem:
    """Random arrays for a config."""
    rng = np.random.default_rng(config.seed)
    T, N, I, H, L, D = (getattr(config, letter) for letter in "TNIHLD")

    def draw(*shape: int, scale: float = 1.0) -> A:
        a = rounded(scale * rng.normal(size=shape), dtype)
        a.flags.writeable = False
        return a

    def weights(K: int) -> reference.Weights:
        W_ih, W_hh, b_ih, b_hh = draw(3 * H, K, scale=K**-0.5), draw(3 * H, H, scale=H**-0.5), draw(3 * H), draw(3 * H)
        return reference.Weights(W_ih, W_hh, b_ih, b_hh) if config.bias else reference.Weights(W_ih, W_hh)

    params = tuple(tuple(weights(I if layer == 0 else D * H) for _ in range(D)) for layer in range(L))
    x, h0 = draw(T, N, I, scale=config.scale), draw(L * D, N, H)
    dy, dh_n = draw(T, N, D * H), draw(L * D, N, H)
    masks = np.where(rng.random((L - 1, T, N, D * H)) < 0.5, 2.0, 0.0) if config.dropout else None
    resets = None
    if config.resets is not None:
        resets = np.zeros((T, N), dtype=bool)
        for at in config.resets:
            resets[at] = True
    return Problem(
        x,
        params,
        h0 if config.h0 else None,
        None if config.lengths is None else np.asarray(config.lengths, dtype=np.int64),
        None if config.masked is None else config.valid,
        resets,
        masks,
        dy if config.flows != "dh_n" else None,
        dh_n if config.flows != "dy" else None,
    )


def of_forward(y: Any, h_n: Any, layers: Any = ()) -> Iterator[tuple[Quantity, Any]]:
    """The quantities of a forward pass, causes first; the reference's walks and the library's tapes look alike."""
    for layer, directions in enumerate(layers):
        for d, one in enumerate(directions):
            for kind in ON_TAPE:
                yield Quantity(kind, layer, d), getattr(one, kind)
    yield Quantity("y"), y
    yield Quantity("h_n"), h_n


def of_gradients(grads: Any) -> Iterator[tuple[Quantity, Any]]:
    """The quantities of a backward pass."""
    for layer, directions in enumerate(grads.params):
        for d, dw in enumerate(directions):
            for name, a in zip(reference.Weights._fields, dw, strict=True):
                yield Quantity(f"d{name}", layer, d), a
    yield Quantity("dx"), grads.x
    yield Quantity("dh0"), grads.h0


@lru_cache(KEPT)
def run(config: Config, dtype: str, emulated: bool = False) -> dict[Quantity, A | None]:
    """The reference's results; `emulated`: with the state rounded to the dtype after each step."""
    p = problem(config, dtype)
    ran = reference.forward(
        p.x,
        p.params,
        p.h0,
        lengths=config.lengths,
        mask=p.mask,
        resets=p.resets,
        reset_after=config.reset_after,
        gate=config.gate,
        candidate=config.candidate,
        clip=config.clip,
        reverse=config.reverse,
        hold=config.hold,
        dropout_masks=p.dropout_masks,
        rounding=(lambda h: rounded(h, dtype)) if emulated else None,
    )
    return dict([*of_forward(ran.y, ran.h_n, ran.layers), *of_gradients(reference.backward(ran, p.dy, p.dh_n))])


def expected(config: Config, dtype: str) -> dict[Quantity, A | None]:
    """What every quantity ought to be, in float64."""
    return run(config, dtype)


@lru_cache(KEPT)
def plain_errors(config: Config, dtype: str) -> dict[Quantity, float]:
    """For each quantity max|plain - ref|, plain being the plain path on NumPy in the same dtype.

    NumPy has no bfloat16: there it is the worse of float32 and of the reference with its state and results rounded.
    """
    wanted = {q: a for q, a in expected(config, dtype).items() if a is not None}
    got = _plain(config, dtype)
    errors = {q: largest_error(within(config, q, got[q]), a) for q, a in wanted.items()}
    if dtype == "bfloat16":
        emulated = run(config, dtype, emulated=True)
        for q, ref in wanted.items():
            a = emulated[q]
            if a is not None:
                errors[q] = max(errors[q], largest_error(a if q.kind in GATES_ON_TAPE else rounded(a, dtype), ref))
    return errors


def _plain(config: Config, dtype: str) -> dict[Quantity, A | None]:
    numpy, width = load("numpy"), "float32" if dtype == "bfloat16" else dtype
    args = Arguments.of(problem(config, dtype), lambda a: a.astype(bool if a.dtype == bool else width))
    plain = Assembled(Place(numpy, numpy.device(None)), None)
    with np.errstate(all="ignore"):
        y, h_n, tape = plain.gru_forward(*args.positional, **args.options(config.spec))
        grads = plain.gru_backward(tape, args.dy, args.dh_n)
    return dict([*of_forward(y, h_n, tape.layers), *of_gradients(grads)])


def within(config: Config, quantity: Quantity, got: A | None) -> A | None:
    """Nobody says what states and gates stand on the tape in the padding: zero there, as the reference has it."""
    valid = config.valid
    if got is None or valid is None or quantity.kind not in ON_TAPE[1:] or got.shape[:2] != (config.T, config.N):
        return got
    return np.where(valid[..., None], got, 0.0)


def largest_error(got: A | None, wanted: A) -> float:
    """max|got - wanted| where both are finite; infinite where only one is."""
    if got is None or got.shape != wanted.shape:
        return float("inf")
    got = np.asarray(got, dtype=np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(finite, np.isfinite(got)):
        return float("inf")
    return float(np.max(np.abs(got[finite] - wanted[finite]), initial=0.0))
