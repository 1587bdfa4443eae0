"""Weights in 8 and 16 bits, and products of integers: the cases, and what they are compared with.

Weights: the float64 reference over the numbers that the narrow weights mean, once these are found to be the nearest of
W. Integers: step by step from the state that the target itself has computed, because one unit in the last place of a
tanh can decide a rounding; over whole sequences within what a few decided otherwise can do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

import gru_xp

from . import reference, tolerance
from .cases import BASE, EVERYTHING, Case
from .implementation import Assembled
from .judge import Judge, MismatchError, NotRunError
from .problems import Config, largest_error, problem

__all__ = ["narrow_cases"]

A = npt.NDArray[Any]
#: with a last vector that is not full, more than one block of units, and rows of h0 beyond 1
WIDE = Config(T=9, I=37, H=41)
LEAST_OF_X, LEAST_OF_A_STATE = 2.0**-100, 1.0


def narrow_cases() -> Iterator[Case]:
    """All of them, in float32, which narrow weights are computed in."""
    for weights in ("int8", "bfloat16", "float16"):
        for name, config in (("one layer", WIDE), ("one row", WIDE.but(N=1)), ("everything at once", EVERYTHING)):
            yield Case(
                "inference",
                f"{weights} weights, {name}",
                "the scale of another row, weights read as unsigned numbers, rounding that is not to the nearest",
                _weights(weights, config),
                quick=weights == "int8",
            )
    for name, config in (
        ("a batch", WIDE.but(h0=False)),
        ("one row", WIDE.but(N=1, h0=False)),
        ("more rows than a tile has", WIDE.but(N=19, h0=False, T=3)),
        ("many columns", BASE.but(I=1100, H=70, h0=False)),
        ("states beyond 1", WIDE),
    ):
        yield Case(
            "inference",
            f"int8 activations step by step, {name}",
            "sums that saturate, a rounding towards zero, signed bytes taken for unsigned ones, a stale scale, a state "
            "scaled by its own largest number, one scale for all rows",
            _step_by_step(config),
        )
    for name, config in (("everything at once", EVERYTHING), ("from zero", EVERYTHING.but(h0=False))):
        yield Case(
            "inference",
            f"int8 activations, {name}",
            "the scale of another row of x or of another layer",
            _sequences(config),
        )


def _weights(weights: Any, config: Config) -> Callable[[Judge], None]:
    def check(judge: Judge) -> None:
        y, params = _computed(judge, config, weights, "float32")
        ref = _reference(config, params)
        plain = public_plain(judge, config, params)
        error, limit = largest_error(y, ref.y), tolerance.bound(largest_error(plain, ref.y), ref.y, judge.dtype)
        _assert_within(judge, error, limit, f"y with {weights} weights", config)

    return check


def _step_by_step(config: Config) -> Callable[[Judge], None]:
    def check(judge: Judge) -> None:
        y, params = _computed(judge, config, "int8", "int8")
        p, worst = problem(config, judge.dtype), 0.0
        h = np.zeros((1, config.N, config.H)) if p.h0 is None else p.h0
        for t in range(config.T):
            one = reference.forward(p.x[t : t + 1], params, h, rounded=rounded)
            worst, h = max(worst, largest_error(y[t], one.y[0])), y[t][None]
        _assert_within(judge, worst, tolerance.bound(0.0, np.ones(1), judge.dtype), "y of one step", config)

    return check


def _sequences(config: Config) -> Callable[[Judge], None]:
    def check(judge: Judge) -> None:
        y, params = _computed(judge, config, "int8", "int8")
        ref = _reference(config, params, rounded=rounded)
        p = problem(config, judge.dtype)
        largest = max(float(np.abs(W).max()) for layer in params for w in layer for W in (w.W_ih, w.W_hh))
        limit = tolerance.FLIPS * largest * max(1.0, float(np.abs(p.x).max())) / 127
        _assert_within(judge, largest_error(y, ref.y), limit, "y with int8 activations", config)

    return check


def rounded(a: A, of_a_state: bool) -> A:
    """What a product sees of a row (K,): whole numbers from -127 to 127, times m / 127; in float32, as defined."""
    row = a.astype(np.float32)
    m = max(np.float32(LEAST_OF_A_STATE if of_a_state else LEAST_OF_X), np.abs(row).max(initial=np.float32(0.0)))
    k = [round(float(v)) for v in row * (np.float32(127.0) / m)]  # Python rounds half to even
    return np.asarray(k, np.float64) * (float(m) / 127.0)


# ---- what is judged --------------------------------------------------------------------------------------------------


def _computed(judge: Judge, config: Config, weights: Any, activations: Any) -> tuple[A, Any]:
    """y of the target, and the numbers in float64 that its weights mean, which are the nearest."""
    args = judge.arguments(config)
    narrow = gru_xp.quantize(args.params, weights, activations)
    params = tuple(
        tuple(
            reference.Weights(*(None if a is None else judge.host(a) for a in w))  # type: ignore[arg-type]
            for w in layer
        )
        for layer in narrow.params
    )
    for given, found in zip(problem(config, judge.dtype).params, params, strict=True):
        for w, v in zip(given, found, strict=True):
            for W, V in zip(w[:2], v[:2], strict=True):
                _assert_nearest(W, V, weights)
    prepared: Any = narrow
    if isinstance(judge.gru, Assembled) and judge.gru.kernel is not None:
        pack = getattr(judge.gru.kernel, "pack_narrow", None)
        if pack is None or (activations == "int8" and not getattr(judge.gru.kernel, "serves_integers", False)):
            raise NotRunError("the kernel reads no narrow weights")
        judge.inference(config, args)  # a kernel packs for what it does not decline
        held = narrow.narrow
        assert held is not None
        prepared = tuple(
            tuple(pack(w, held, held.scales_of(index, d)) for d, w in enumerate(layer))
            for index, layer in enumerate(narrow.params)
        )
    y, _ = judge.inference(config, replace(args, params=prepared))
    judge.assert_belongs(y, "y", (config.T, config.N, config.D * config.H))
    return judge.host(y), params


def _assert_nearest(W: A, V: A, weights: str) -> None:
    """V are the numbers of the format that are nearest to W, within what float32 can tell."""
    if weights == "int8":
        step = np.abs(W).max(axis=1, keepdims=True) / 127
        off = np.abs(V / step - np.rint(V / step)).max()
        if off > tolerance.OF_A_MULTIPLE:
            raise MismatchError(f"weights: expected multiples of max|row| / 127, got some {off:.2g} beside them")
    else:
        step = 2.0 ** (np.floor(np.log2(np.abs(W))) - (7 if weights == "bfloat16" else 10))
        step = np.maximum(step, 0.0 if weights == "bfloat16" else 2.0**-24)
    if (np.abs(V - W) > 0.5001 * step).any():
        raise MismatchError(f"weights: expected the nearest {weights} numbers, got some that are farther off")


def public_plain(judge: Judge, config: Config, params: Any) -> A:
    """y of the plain path on NumPy with these weights in float32: what the case costs it."""
    p = problem(config, judge.dtype)
    narrow = tuple(
        tuple(gru_xp.CellParams(*(None if a is None else a.astype("f4") for a in w)) for w in layer) for layer in params
    )

    def single(a: A | None) -> A | None:
        return None if a is None else a.astype("f4")

    options = {"lengths": p.lengths, "mask": p.mask, "resets": p.resets, "dropout_masks": single(p.dropout_masks)}
    y, _ = gru_xp.gru_inference(p.x.astype("f4"), narrow, single(p.h0), **options, spec=config.spec)
    return np.asarray(y, np.float64)


def _reference(config: Config, params: Any, **options: Any) -> reference.Run:
    p = problem(config, "float32")
    lengths = None if p.lengths is None else p.lengths.tolist()
    return reference.forward(
        p.x, params, p.h0, lengths=lengths, resets=p.resets, dropout_masks=p.dropout_masks, **options
    )


def _assert_within(judge: Judge, error: float, limit: float, what: str, config: Config) -> None:
    judge.note("y", error, limit)
    if not error <= limit:
        raise MismatchError(f"{what}: expected within {limit:.2g} of the reference, got {error:.2g}\n  in {config}")
