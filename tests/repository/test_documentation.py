"""The examples in the docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import gru_xp
import gru_xp.training

MODULES = [
    "gru_xp",
    *(f"gru_xp.{m.name}" for m in pkgutil.iter_modules(gru_xp.__path__) if m.name != "__main__"),
    *(f"gru_xp.training.{m.name}" for m in pkgutil.iter_modules(gru_xp.training.__path__)),
]


@pytest.mark.parametrize("name", [*MODULES, "gru_xp.arraymancer", "gru_xp.formats.safetensors"])
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_public_functions_have_a_docstring() -> None:
    for name in gru_xp.__all__:
        if callable(getattr(gru_xp, name)):
            assert getattr(gru_xp, name).__doc__, name
