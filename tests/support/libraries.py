"""Array libraries and frameworks, imported when a test first uses them.

    from libraries import torch

A test that uses one that is not installed is skipped.
"""

from __future__ import annotations

from typing import Any

import pytest


class Library:
    """A module that is imported when an attribute of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "_mock_name" or attribute.startswith("__"):  # pytest asks everything in a test module for these
            raise AttributeError(attribute)
        return getattr(pytest.importorskip(self._name), attribute)


array_api_strict = Library("array_api_strict")
jax = Library("jax")
jnp = Library("jax.numpy")
ml_dtypes = Library("ml_dtypes")
onnx = Library("onnx")
torch = Library("torch")
