"""scikit-learn: `GRUClassifier` and `GRURegressor`, estimators over sequences that may differ in length."""

from .estimators import GRUClassifier, GRURegressor

__all__ = ["GRUClassifier", "GRURegressor"]
