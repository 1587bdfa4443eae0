"""What estimators take as X: a list of sequences (T_i, I), an array (N, T, I), or a table (N, T) of one feature."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_array, validate_data

__all__ = ["Sequences", "checked"]

Sequences: TypeAlias = "list[npt.NDArray[np.float64]]"  # N arrays (T_i, I)


def checked(estimator: Any, X: Any, *, reset: bool) -> Sequences:
    """X as a list of float64 arrays (T_i, I); finite, and with as many features as the estimator was fitted with.

    A table has T features to scikit-learn, and one feature at each of T steps to a GRU: `n_features_in_` is T if the
    estimator was fitted with a table, else I. `reset` sets it, and `feature_names_in_` for a table with named columns.

    Raises:
        ValueError, TypeError: in scikit-learn's words.
    """
    rows = _ragged(X)
    is_table = rows is None and (X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim) != 3
    if reset:
        estimator._fitted_with_table = is_table
    if is_table:
        if estimator._fitted_with_table:
            table = validate_data(estimator, X, reset=reset, dtype=np.float64)
        else:
            table = check_array(X, input_name="X", estimator=estimator, dtype=np.float64)
            if estimator.n_features_in_ != 1:
                raise ValueError(
                    f"X is a table (N, T), which has 1 feature at each step, but {type(estimator).__name__} is "
                    f"expecting {estimator.n_features_in_} features as input"
                )
        return list(table[:, :, None])
    rows = list(np.asarray(X)) if rows is None else rows
    if not rows:
        raise ValueError("X: expected at least one sequence, got 0 samples")
    lengths = [len(row) for row in rows]
    steps = np.concatenate(rows)
    if not reset and estimator._fitted_with_table:
        steps = check_array(steps, input_name="X", estimator=estimator, dtype=np.float64)
        if steps.shape[1] != 1:
            raise ValueError(
                f"X has {steps.shape[1]} features at each step, but {type(estimator).__name__} is expecting 1 feature, "
                f"because it was fitted with a table (N, T)"
            )
    else:
        steps = validate_data(estimator, steps, reset=reset, dtype=np.float64)
    return np.split(steps, np.cumsum(lengths)[:-1])


def _ragged(X: Any) -> Sequences | None:
    """The sequences of a list, a tuple or an array of objects, if they are not all of one shape; else None."""
    if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1:
        X = list(X)
    if not isinstance(X, list | tuple):
        return None
    rows = [np.asarray(row) for row in X]
    if len({row.shape for row in rows}) < 2:
        return None
    for index, row in enumerate(rows):
        if row.ndim not in (1, 2) or row.shape[1:] != rows[0].shape[1:]:
            raise ValueError(
                f"X[{index}]: expected a sequence (T_i, I), of as many features as the first, X[0], of shape "
                f"{rows[0].shape}; got {row.shape}"
            )
    return [row[:, None] if row.ndim == 1 else row for row in rows]
