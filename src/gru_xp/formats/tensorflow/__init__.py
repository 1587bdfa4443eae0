"""TensorFlow's own files: checkpoints and SavedModels. Nothing here imports TensorFlow."""

from .format import TensorFlowFormat, tensorflow

__all__ = ["TensorFlowFormat", "tensorflow"]
