"""`GRUClassifier` and `GRURegressor`: what each makes of its targets and of the read-out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d

from gru_xp.training import cross_entropy, squared_error

from .base import ARGUMENTS, GRUEstimator, mean_and_scale

__all__ = ["GRUClassifier", "GRURegressor"]

A = npt.NDArray[Any]


class GRUClassifier(ClassifierMixin, GRUEstimator):
    __doc__ = (
        """Classify sequences by a GRU and a linear read-out of its last states, trained by cross entropy.
"""
        + ARGUMENTS
        + """        classes_: the K classes.

    >>> import numpy as np
    >>> from gru_xp_sklearn import GRUClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=(n, 2)) for n in rng.integers(3, 9, size=200)]  # ragged: (T_i, I)
    >>> y = ["up" if x[0, 0] > 0 else "down" for x in X]
    >>> GRUClassifier(16, random_state=0).fit(X[:150], y[:150]).score(X[150:], y[150:]) > 0.8
    True
    """
    )

    _auto = 0.3

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> GRUClassifier:
        """Make one pass over these sequences, from where the last one ended, with the whole `learning_rate`.

        The first call standardises by its own sequences, and later ones by the same `mean_` and `scale_`.

        Args:
            X: as in `fit`.
            y: as in `fit`.
            classes: all classes that will ever come; needed in the first call.
        """

        def targets(N: int, first: bool) -> A:
            if first:
                if classes is None:
                    raise ValueError("classes: expected all classes in the first call of partial_fit, got None")
                self.classes_ = np.unique(column_or_1d(classes))
            elif classes is not None and not np.array_equal(np.unique(column_or_1d(classes)), self.classes_):
                raise ValueError(f"classes: expected {self.classes_}, as in the first call, got {classes}")
            return self._encoded(y, N)

        return self._partial_fit(X, targets)

    def decision_function(self, X: Any) -> A:
        """The logits, (N, K); for two classes the difference of the second and the first, (N,)."""
        out = self._predicted(X)
        return out[:, 1] - out[:, 0] if len(self.classes_) == 2 else out

    def predict_proba(self, X: Any) -> A:
        """The probability of each class, (N, K)."""
        out = self._predicted(X)
        exps = np.exp(out - out.max(axis=1, keepdims=True))
        return exps / exps.sum(axis=1, keepdims=True)

    def predict_log_proba(self, X: Any) -> A:
        """The logarithm of `predict_proba`, (N, K)."""
        out = self._predicted(X)
        out = out - out.max(axis=1, keepdims=True)
        return out - np.log(np.exp(out).sum(axis=1, keepdims=True))

    def predict(self, X: Any) -> A:
        """The class of each sequence, (N,)."""
        best = self._predicted(X).argmax(axis=1)
        return self.classes_[best]

    def _learn_targets(self, y: Any, N: int) -> A:
        self.classes_ = np.unique(_labels(y, N, self))
        return self._encoded(y, N)

    def _encoded(self, y: Any, N: int) -> A:
        """Positions in `classes_`."""
        labels = _labels(y, N, self)
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise ValueError(f"y: expected the classes {self.classes_}, got {unknown} too")
        return np.searchsorted(self.classes_, labels)

    def _number_of_outputs(self) -> int:
        return len(self.classes_)

    def _strata(self, targets: A) -> A:
        return targets

    _loss = staticmethod(cross_entropy)

    def _score(self, out: A, targets: A) -> float:
        return float(accuracy_score(targets, out.argmax(axis=1)))


class GRURegressor(RegressorMixin, GRUEstimator):
    __doc__ = (
        """Predict one number or several for each sequence by a GRU and a linear read-out of its last states.

    It is trained by the squared error of standardised targets.
"""
        + ARGUMENTS
        + """
    >>> import numpy as np
    >>> from gru_xp_sklearn import GRURegressor
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=(n, 1)) for n in rng.integers(3, 9, size=300)]  # ragged: (T_i, I)
    >>> y = [x.sum() for x in X]
    >>> GRURegressor(16, random_state=0).fit(X[:250], y[:250]).score(X[250:], y[250:]) > 0.9
    True
    """
    )

    def partial_fit(self, X: Any, y: Any) -> GRURegressor:
        """Make one pass over these sequences, from where the last one ended, with the whole `learning_rate`.

        The first call standardises by its own sequences and targets, and later ones by the same numbers.

        Args:
            X: as in `fit`.
            y: as in `fit`.
        """

        def targets(N: int, first: bool) -> A:
            return self._learn_targets(y, N) if first else self._standardised_targets(y, N)

        return self._partial_fit(X, targets)

    def predict(self, X: Any) -> A:
        """(N,), or (N, K) if y was."""
        out = self._predicted(X) * self._y_scale + self._y_mean
        return out[:, 0] if self._y_ndim == 1 else out

    def _learn_targets(self, y: Any, N: int) -> A:
        values = _numbers(y, N, self)
        self._y_ndim = values.ndim
        columns = values.reshape(N, -1)
        self._y_mean, self._y_scale = mean_and_scale(columns)
        return self._standardised_targets(y, N)

    def _standardised_targets(self, y: Any, N: int) -> A:
        columns = _numbers(y, N, self).reshape(N, -1)
        if columns.shape[1] != len(self._y_mean):
            raise ValueError(f"y: expected {len(self._y_mean)} outputs, as in the first call, got {columns.shape[1]}")
        return ((columns - self._y_mean) / self._y_scale).astype(np.float32)

    def _number_of_outputs(self) -> int:
        return len(self._y_mean)

    def _strata(self, targets: A) -> None:
        return None

    _loss = staticmethod(squared_error)

    def _score(self, out: A, targets: A) -> float:
        return float(r2_score(targets, out))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _labels(y: Any, N: int, estimator: Any) -> A:
    _assert_given(y, estimator)
    labels = column_or_1d(y, warn=True)
    assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    check_consistent_length(labels, np.empty(N))
    return labels


def _numbers(y: Any, N: int, estimator: Any) -> A:
    _assert_given(y, estimator)
    values = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y", estimator=estimator)
    check_consistent_length(values, np.empty(N))
    return values


def _assert_given(y: Any, estimator: Any) -> None:
    if y is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but the target y is None."
        )
