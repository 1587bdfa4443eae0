"""Every example in a docstring of every package of this repository is run."""

from __future__ import annotations

import doctest
import importlib
import re
import tomllib
from pathlib import Path

import pytest

import gru_xp

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"^\s*>>> ", re.MULTILINE)


def examples() -> dict[str, int]:
    """How many examples the text of each module has that has any, of the packages that the wheel holds."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    found = {}
    for package in (ROOT / name for name in wheel["packages"]):
        for file in sorted(package.rglob("*.py")):
            parts = file.relative_to(package.parent).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            found[name] = len(EXAMPLE.findall(file.read_text(encoding="utf-8")))
    return {name: number for name, number in found.items() if number}


@pytest.mark.parametrize(("name", "number"), examples().items())
def test_every_example_of_a_module_is_run(name: str, number: int) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("gru_xp"):
            raise
        pytest.skip(f"{error.name} is not installed")
    assert doctest.testmod(module) == (0, number)


def test_what_gru_xp_exports_has_docstrings() -> None:
    for name in gru_xp.__all__:
        if callable(getattr(gru_xp, name)):
            assert getattr(gru_xp, name).__doc__, name
