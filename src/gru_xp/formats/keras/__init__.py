"""Keras 3: models and weights in files, live layers and models. Nothing here imports Keras."""

from .format import KerasFormat, keras

__all__ = ["KerasFormat", "keras"]
