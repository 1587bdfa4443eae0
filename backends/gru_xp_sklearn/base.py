"""What the estimators share: scikit-learn's conventions around a network that the explicit backward trains."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted

import gru_xp
from gru_xp.training import Adam, batches, clip_by_norm

from .network import Options, drawn, loss_and_gradients, outputs
from .progress import Progress
from .sequences import Sequences, checked

__all__ = ["ARGUMENTS", "GRUEstimator", "mean_and_scale"]

A = npt.NDArray[Any]

PREDICTED_TOGETHER = 256  # sequences, which bounds the memory for their padding


ARGUMENTS = """
    Args:
        hidden_size: H, the number of hidden units in each direction.
        num_layers: L.
        bidirectional: whether a second GRU reads each sequence from its end.
        noise: standard deviation of what is added to the standardised features while learning. "auto" is 0.3 in a
            classifier, 0 in a regressor.
        dropout: probability with which an output of a layer is dropped while learning. "auto" as for noise.
        learning_rate: of Adam; in `fit` it falls to zero along a cosine.
        weight_decay: AdamW's.
        clip_norm: bound for the norm of all gradients together.
        batch_size: number of sequences in a batch.
        max_iter: number of passes over the data.
        early_stopping: whether `fit` holds some sequences out, stops when their score has not improved for a while, and
            keeps the weights that had the best one. The score is that of `score`.
        validation_fraction: of the sequences, which early stopping holds out.
        n_iter_no_change: how many passes without an improvement of at least `tol` early stopping allows.
        tol: see there.
        backend: where to compute, as `name[:device]`; by default NumPy or what GRU_XP_BACKEND says.
        random_state: decides initial weights, batches, noise, dropout and what is held out.
        verbose: 1 for a progress bar on standard error.

    Attributes:
        model_: the GRU, a `gru_xp.GRU`: it runs on any array library, and saves.
        coef_: (K, D*H), of the read-out, and `intercept_` (K,).
        mean_: (I,) of the features, and `scale_` (I,): `model_` reads `(x - mean_) / scale_`.
        n_iter_: the number of passes over the data.
        loss_curve_: the mean loss of each.
        validation_scores_: of each, with early stopping, else None; and `best_validation_score_`.
        n_features_in_: I, or T if the estimator was fitted with a table (N, T).
"""


class GRUEstimator(BaseEstimator):
    """What the two estimators share."""

    _auto = 0.0  # what "auto" means

    def __init__(
        self,
        hidden_size: int = 64,
        *,
        num_layers: int = 1,
        bidirectional: bool = True,
        noise: float | Literal["auto"] = "auto",
        dropout: float | Literal["auto"] = "auto",
        learning_rate: float = 5e-3,
        weight_decay: float = 0.0,
        clip_norm: float = 1.0,
        batch_size: int = 32,
        max_iter: int = 30,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        backend: str | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ):
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.noise = noise
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.backend = backend
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Any:
        """Learn from nothing.

        Args:
            X: a list of N arrays (T_i, I), or of arrays (T_i,) of one feature; an array (N, T, I); or a table (N, T),
                which is one feature at T steps. Features are standardised: by `mean_` and `scale_` of all steps.
            y: (N,); for a regressor (N, K) too.

        Returns:
            self.
        """
        self._check_parameters()
        sequences = checked(self, X, reset=True)
        targets = self._learn_targets(y, len(sequences))
        self._start(sequences)
        rows, held_out = np.arange(len(sequences)), np.arange(0)
        if self.early_stopping:
            rows, held_out = train_test_split(
                rows, test_size=self.validation_fraction, random_state=self._seed, stratify=self._strata(targets)
            )
        steps = self.max_iter * math.ceil(len(rows) / self.batch_size)

        def rate(step: int) -> float:
            return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / steps))

        x = self._standardised(sequences)
        best, since, kept = -math.inf, 0, self._weights
        self.validation_scores_: list[float] | None = [] if self.early_stopping else None
        with Progress(self.max_iter, shown=bool(self.verbose)) as progress:
            for _ in range(self.max_iter):
                self._learn([x[i] for i in rows], targets[rows], rate)
                score = None
                if self.validation_scores_ is not None:
                    score = self._score(self._outputs([x[i] for i in held_out]), targets[held_out])
                    self.validation_scores_.append(score)
                    since = 0 if score > best + self.tol else since + 1
                    if score > best:
                        best, kept = score, self._weights
                progress.epoch(self.loss_curve_[-1], score)
                if self.early_stopping and since >= self.n_iter_no_change:
                    break
        self.best_validation_score_ = best if self.early_stopping else None
        if self.early_stopping:
            self._weights = kept
        return self

    def _partial_fit(self, X: Any, targets_of: Any) -> Any:
        self._check_parameters()
        first = not hasattr(self, "model_")
        sequences = checked(self, X, reset=first)
        targets = targets_of(len(sequences), first)
        if first:
            self._start(sequences)
        self._learn(self._standardised(sequences), targets, self.learning_rate)
        return self

    # ---- what is learned ---------------------------------------------------------------------------------------------

    def _start(self, sequences: Sequences) -> None:
        """Initial weights, and the mean and scale of the features."""
        self.mean_, self.scale_ = mean_and_scale(np.concatenate(sequences))
        self._seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        D = 2 if self.bidirectional else 1
        self._weights = drawn(
            len(self.mean_), self.hidden_size, self.num_layers, D, self._number_of_outputs(), self._seed
        )
        self._adam_state = self._adam(self.learning_rate).init(self._weights)
        self.n_iter_, self.loss_curve_ = 0, list[float]()

    @property
    def _weights(self) -> dict[str, Any]:
        return {"gru": self.model_.params, "W": self.coef_, "b": self.intercept_}

    @_weights.setter
    def _weights(self, weights: dict[str, Any]) -> None:
        self.model_ = gru_xp.GRU.from_params(weights["gru"])
        self.coef_, self.intercept_ = weights["W"], weights["b"]

    def _learn(self, x: list[A], targets: A, rate: Any) -> None:
        """One pass over the data."""
        weights, state, adam = self._weights, self._adam_state, self._adam(rate)
        noise, dropout = (self._auto if p == "auto" else p for p in (self.noise, self.dropout))
        options, total = Options(noise, dropout, self.backend), 0.0
        rng = np.random.default_rng([self._seed, self.n_iter_])
        for rows in batches([len(a) for a in x], self.batch_size, seed=self._seed, epoch=self.n_iter_):
            loss, gradients = loss_and_gradients(weights, [x[i] for i in rows], targets[rows], self._loss, options, rng)
            gradients, _ = clip_by_norm(gradients, self.clip_norm)
            weights, state = adam.update(weights, gradients, state)
            total += loss * len(rows)
        self._weights, self._adam_state = weights, state
        self.n_iter_ += 1
        self.loss_curve_.append(total / len(x))

    def _adam(self, rate: Any) -> Adam:
        return Adam(rate, weight_decay=self.weight_decay)

    def _standardised(self, sequences: Sequences) -> list[A]:
        scaled = [(a - self.mean_) / self.scale_ for a in sequences]
        largest = max(float(np.max(np.abs(a), initial=0.0)) for a in scaled)
        if largest > float(np.finfo(np.float32).max):
            raise ValueError(f"X: expected values within float32 after they are standardised, got {largest:.3g}")
        return [a.astype(np.float32) for a in scaled]

    def _outputs(self, x: list[A]) -> A:
        """The read-out of each sequence, (N, K)."""
        out = np.empty((len(x), len(self.intercept_)))
        for rows in batches([len(a) for a in x], PREDICTED_TOGETHER):
            out[rows] = outputs(self._weights, [x[i] for i in rows], self.backend)
        return out

    def _predicted(self, X: Any) -> A:
        check_is_fitted(self)
        return self._outputs(self._standardised(checked(self, X, reset=False)))

    # ---- parameters --------------------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        for name in ("hidden_size", "num_layers", "batch_size", "max_iter", "n_iter_no_change"):
            check_scalar(getattr(self, name), name, Integral, min_val=1)
        for name in ("learning_rate", "clip_norm"):
            check_scalar(getattr(self, name), name, Real, min_val=0.0, include_boundaries="neither")
        for name in ("weight_decay", "tol"):
            check_scalar(getattr(self, name), name, Real, min_val=0.0)
        if self.noise != "auto":
            check_scalar(self.noise, "noise", Real, min_val=0.0)
        if self.dropout != "auto":
            check_scalar(self.dropout, "dropout", Real, min_val=0.0, max_val=1.0, include_boundaries="left")
        if self.early_stopping:
            check_scalar(
                self.validation_fraction,
                "validation_fraction",
                Real,
                min_val=0.0,
                max_val=1.0,
                include_boundaries="neither",
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def mean_and_scale(columns: A) -> tuple[A, A]:
    """Of each column of (N, K); the scale of a constant one is 1."""
    mean, deviation = columns.mean(axis=0), columns.std(axis=0)
    constant = deviation <= 10.0 * np.finfo(np.float64).eps * np.abs(mean)
    return mean, np.where(constant, 1.0, deviation)
