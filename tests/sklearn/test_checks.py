"""scikit-learn's own checks of estimators, all of them, over tables (N, T)."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from gru_xp_sklearn import GRUClassifier, GRURegressor


@parametrize_with_checks([GRUClassifier(), GRURegressor()])
@pytest.mark.filterwarnings("ignore")  # the checks warn of what they provoke
def test_check(estimator: Any, check: Any) -> None:
    check(estimator)
