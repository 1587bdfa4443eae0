"""The demo's task and its training: handwritten digits, a GRU with a linear read-out, and Adam over any library.

The 1,797 scans (8x8) of scikit-learn are read row by row, so T = 8 and I = 8, by a GRU in both directions; a linear
read-out of its last states names the digit. The explicit `GRU.forward` and `GRU.backward` train it, with Adam in a few
lines of the array API, on whichever backend is selected. K is the number of classes, 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gru_xp.convert import convert
from gru_xp.discovery import Place
from gru_xp.discovery import load as load_backend
from gru_xp.module import GRU
from gru_xp.params import map_params, weights_of

__all__ = [
    "Adam",
    "Classifier",
    "Digits",
    "History",
    "accuracy",
    "cross_entropy",
    "from_host",
    "load_digits",
    "one_blas_thread",
    "side_by_side",
    "to_host",
    "train",
]

A = npt.NDArray[Any]

K = 10
H = 48
BATCH = 32
RATE = 5e-3  # of Adam at the first step; it falls to zero along a cosine
NOISE = 0.15  # standard deviation of what is added to the pixels, which are within -1..1, while learning


class Digits(NamedTuple):
    """The scans, float32 within -1..1, and which digit each is."""

    x: A  # (N, T, I), to learn from
    labels: A  # (N,)
    x_held_out: A
    labels_held_out: A


def load_digits() -> Digits:
    """Three quarters to learn from and one held out, the same ones always, each digit in the same proportion."""
    from sklearn.datasets import load_digits as scans
    from sklearn.model_selection import train_test_split

    images, labels = scans(return_X_y=True)
    x = (images.reshape(-1, 8, 8) / 8.0 - 1.0).astype(np.float32)
    x, held_out, labels, labels_held_out = train_test_split(x, labels, test_size=0.25, stratify=labels, random_state=0)
    return Digits(x, labels, held_out, labels_held_out)


# ---- the model -------------------------------------------------------------------------------------------------------


@dataclass
class Classifier:
    """A GRU in both directions and a linear read-out of its last states; all of it at one place."""

    gru: GRU
    W: Any  # (K, D*H)
    b: Any  # (K,)
    place: Place

    @classmethod
    def drawn(cls, place: Place, seed: int) -> Classifier:
        """Initial weights; one seed gives the same ones everywhere."""
        gru = GRU(8, H, bidirectional=True, batch_first=True, seed=seed, backend=str(place))
        bound = 1.0 / math.sqrt(2 * H)
        W = np.random.default_rng(seed).uniform(-bound, bound, (K, 2 * H)).astype(np.float32)
        return cls(gru, from_host(W, place), from_host(np.zeros(K, np.float32), place), place)

    @property
    def weights(self) -> list[Any]:
        """All that is trained, in a flat list."""
        return [*weights_of(self.gru.params), self.W, self.b]

    @weights.setter
    def weights(self, weights: Sequence[Any]) -> None:
        *cells, self.W, self.b = weights
        following = iter(cells)
        self.gru.params = map_params(lambda _: next(following), self.gru.params)

    def loss_and_gradients(self, x: A, targets: A) -> tuple[float, A, list[Any]]:
        """x (N, T, I), targets (N, K) one-hot -> the mean loss, the logits (N, K), the gradients of `weights`."""
        xp = self.place.backend.xp
        _, h_n, tape = self.gru.forward(from_host(x, self.place), backend="auto")
        states = side_by_side(xp, h_n)
        logits = states @ self.W.T + self.b
        loss, dlogits = cross_entropy(xp, logits, from_host(targets, self.place))
        dstates = dlogits @ self.W
        dh_n = xp.stack([dstates[:, :H], dstates[:, H:]])
        grads = self.gru.backward(tape, dh_n=dh_n)
        gradients = [*weights_of(grads.params), dlogits.T @ states, xp.sum(dlogits, axis=0)]
        return loss, self.to_host(logits), gradients

    def logits(self, x: A) -> A:
        """x (N, T, I) -> (N, K), in host memory."""
        _, h_n = self.gru(from_host(x, self.place), backend="auto")
        return self.to_host(side_by_side(self.place.backend.xp, h_n) @ self.W.T + self.b)

    def to_host(self, array: Any) -> A:
        return to_host(array, self.place)


def side_by_side(xp: Any, h_n: Any) -> Any:
    """The last states (D, N, H) of one layer as (N, D*H)."""
    return xp.concat([h_n[0, ...], h_n[1, ...]], axis=-1)


def cross_entropy(xp: Any, logits: Any, targets: Any) -> tuple[float, Any]:
    """The mean of -sum(targets * log(softmax(logits))) over N rows, and its gradient; all (N, K)."""
    logits = logits - xp.max(logits, axis=-1, keepdims=True)
    exps = xp.exp(logits)
    sums = xp.sum(exps, axis=-1, keepdims=True)
    N = logits.shape[0]
    return float(xp.sum(targets * (xp.log(sums) - logits)) / N), (exps / sums - targets) / N


class Adam:
    """Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, for arrays of any library."""

    def __init__(self, xp: Any, weights: Sequence[Any]):
        self.xp, self.t = xp, 0
        self.m = [xp.zeros_like(w) for w in weights]
        self.v = [xp.zeros_like(w) for w in weights]

    def step(self, weights: Sequence[Any], gradients: Sequence[Any], rate: float) -> list[Any]:
        """The weights after one step; the arrays that came are not written to."""
        self.t += 1
        self.m = [0.9 * m + 0.1 * g for m, g in zip(self.m, gradients, strict=True)]
        self.v = [0.999 * v + 0.001 * g * g for v, g in zip(self.v, gradients, strict=True)]
        rate *= math.sqrt(1.0 - 0.999**self.t) / (1.0 - 0.9**self.t)
        return [w - rate * m / (self.xp.sqrt(v) + 1e-8) for w, m, v in zip(weights, self.m, self.v, strict=True)]


# ---- training --------------------------------------------------------------------------------------------------------


@dataclass
class History:
    """What each epoch came to."""

    loss: list[float] = field(default_factory=list)
    learned: list[float] = field(default_factory=list)  # accuracy on the batches, as they were with their noise
    held_out: list[float] = field(default_factory=list)


def train(
    model: Classifier,
    digits: Digits,
    epochs: int,
    seed: int,
    progress: Callable[[History], None] = lambda history: None,
) -> History:
    """Change the model; `progress` is called after each epoch. The held-out scans are looked at, never learned from."""
    rng = np.random.default_rng(seed)
    adam = Adam(model.place.backend.xp, model.weights)
    one_hot = np.eye(K, dtype=np.float32)[digits.labels]
    steps = len(digits.x) // BATCH  # of equal size; what is left over is another part in each epoch
    history = History()
    for epoch in range(epochs):
        losses, correct = 0.0, 0
        for step, rows in enumerate(_batches(rng, len(digits.x))):
            x = digits.x[rows] + NOISE * rng.standard_normal((BATCH, 8, 8), dtype=np.float32)
            loss, logits, gradients = model.loss_and_gradients(x, one_hot[rows])
            rate = RATE * 0.5 * (1.0 + math.cos(math.pi * (epoch + step / steps) / epochs))
            model.weights = adam.step(model.weights, gradients, rate)
            losses += loss
            correct += int(np.sum(np.argmax(logits, axis=-1) == digits.labels[rows]))
        history.loss.append(losses / steps)
        history.learned.append(correct / (steps * BATCH))
        history.held_out.append(accuracy(model.logits(digits.x_held_out), digits.labels_held_out))
        progress(history)
    return history


def _batches(rng: np.random.Generator, N: int) -> Iterator[A]:
    order = rng.permutation(N)
    for start in range(0, N - BATCH + 1, BATCH):
        yield order[start : start + BATCH]


def accuracy(logits: A, labels: A) -> float:
    """The fraction of the rows of (N, K) whose largest logit stands at the label."""
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def one_blas_thread() -> Any:
    """A context for products as small as these: two threads gain nothing, and wait for each other on a busy machine.

    Seen with OpenBLAS 0.3.30 on two cores beside other jobs: 3 s of training with one thread, 11 to 28 s with two.
    """
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    return threadpool_limits(1, user_api="blas")


# ---- host memory -----------------------------------------------------------------------------------------------------


def from_host(array: A, place: Place) -> Any:
    """A NumPy array as an array of another library."""
    return convert(array, load_backend("numpy"), place, "demo")


def to_host(array: Any, place: Place) -> A:
    """An array of another library as NumPy's."""
    host: A = convert(array, place.backend, Place(load_backend("numpy"), "cpu"), "demo")
    return host
