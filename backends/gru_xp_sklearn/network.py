"""What the estimators train: a GRU and a linear read-out of its last states, all NumPy arrays.

    states = the last layer's h_n, both directions side by side   (N, D*H)
    out    = states W' + b                                         (N, K)

K is the number of classes, or of outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import gru_xp
from gru_xp.training import pad

__all__ = ["Options", "drawn", "loss_and_gradients", "outputs"]

A = npt.NDArray[Any]
Loss = Callable[[A, A], tuple[Any, A]]  # out (N, K), targets -> the loss and its gradient


class Options(NamedTuple):
    """How to train and where to compute."""

    noise: float
    dropout: float
    backend: str | None


def drawn(I: int, H: int, L: int, D: int, K: int, seed: int) -> dict[str, Any]:
    """Initial weights: PyTorch's of a GRU and a linear layer."""
    gru = gru_xp.GRU(I, H, num_layers=L, bidirectional=D == 2, seed=seed, backend="numpy")
    bound = 1.0 / np.sqrt(D * H)
    W = np.random.default_rng(seed).uniform(-bound, bound, (K, D * H)).astype(np.float32)
    return {"gru": gru.params, "W": W, "b": np.zeros(K, np.float32)}


def outputs(weights: dict[str, Any], rows: list[A], backend: str | None) -> A:
    """rows: N arrays (T_i, I) -> out (N, K) in float64."""
    x, lengths = pad(rows)
    _, h_n = gru_xp.gru_inference(x, weights["gru"], lengths=lengths, backend=backend)
    states = _last_states(h_n, weights)
    return states.astype(np.float64) @ weights["W"].T + weights["b"]


def loss_and_gradients(
    weights: dict[str, Any], rows: list[A], targets: A, loss_of: Loss, options: Options, rng: np.random.Generator
) -> tuple[float, dict[str, Any]]:
    """The loss of one batch and its gradient for each of the weights, with noise in x and dropout of the states."""
    x, lengths = pad(rows)
    if options.noise > 0.0:
        x = x + (options.noise * rng.standard_normal(x.shape)).astype(x.dtype)
    (T, N, _), (L, D), H = x.shape, _sizes(weights), weights["gru"][0][0].W_hh.shape[1]
    masks = _kept(rng, (L - 1, T, N, D * H), options.dropout, x.dtype) if L > 1 else None
    _, h_n, tape = gru_xp.gru_forward(x, weights["gru"], lengths=lengths, dropout_masks=masks, backend=options.backend)
    kept = _kept(rng, (N, D * H), options.dropout, x.dtype)
    states = _last_states(h_n, weights) * kept
    loss, dout = loss_of(states @ weights["W"].T + weights["b"], targets)
    dstates = (dout @ weights["W"]) * kept
    dh_n = np.zeros_like(h_n)
    dh_n[-D:] = dstates.reshape(N, D, H).transpose(1, 0, 2)
    grads = gru_xp.gru_backward(tape, dh_n=dh_n)
    return float(loss), {"gru": grads.params, "W": dout.T @ states, "b": dout.sum(axis=0)}


def _sizes(weights: dict[str, Any]) -> tuple[int, int]:
    return len(weights["gru"]), len(weights["gru"][0])


def _last_states(h_n: A, weights: dict[str, Any]) -> A:
    """(L*D, N, H) -> (N, D*H) of the last layer."""
    return np.concatenate(list(h_n[-_sizes(weights)[1] :]), axis=-1)


def _kept(rng: np.random.Generator, shape: tuple[int, ...], p: float, dtype: Any) -> A:
    """What dropout leaves, scaled so that the mean stays."""
    return (rng.random(shape) >= p).astype(dtype) * dtype.type(1.0 / (1.0 - p))
