"""The site documents everything that is public. `.ci/run docs` builds it, with warnings as errors."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """docs/make_reference.py."""
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs/make_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name is None or error.name.startswith("gru_xp"):
            raise
        return None


def test_every_public_name_is_documented(reference: ModuleType) -> None:
    """Each name that a module exports has a docstring or a comment, and so a text on the module's page."""
    for module in reference.public_modules():
        documented = {}
        for name, thing in reference.exported(module):
            if reference.foreign(thing):
                documented[name] = True
                continue
            documented[name] = reference.docstring_of(thing) or reference.comment(thing) or thing.is_attribute
            page = "\n".join(reference.described(name, thing))
            assert f"}} {name}" in page, f"{module}.{name}"
        assert all(documented.values()), f"{module}: {[name for name, there in documented.items() if not there]}"
        if (found := imported(module)) is not None:
            names = {name for name in getattr(found, "__all__", ()) if not isinstance(getattr(found, name), ModuleType)}
            assert set(documented) == names, module


def test_no_public_module_is_left_out(reference: ModuleType) -> None:
    """What `gru_xp` and its docstring name as modules, and every package that the wheel holds."""
    import gru_xp

    named = {f"gru_xp.{name}" for name in gru_xp.__all__ if isinstance(getattr(gru_xp, name), ModuleType)}
    named |= set(re.findall(r"`(gru_xp\.[a-z]+)`", gru_xp.__doc__ or ""))
    packages = {
        path.parent.name
        for folder in ("src", "backends", "conformance")
        for path in ROOT.glob(f"{folder}/gru_xp*/__init__.py")
    }
    assert named | packages <= set(reference.public_modules())


def test_every_public_method_is_documented(reference: ModuleType) -> None:
    for module in ("gru_xp", "gru_xp.training", "gru_xp_torch", "gru_xp_sklearn"):
        for name, thing in reference.exported(module):
            for member, inner in thing.members.items() if thing.is_class else ():
                overrides = module != "gru_xp" and any(
                    member in getattr(base, "__dict__", {}) for base in getattr(imported(module), name).__mro__[1:]
                )
                if inner.is_function and not member.startswith("_") and not overrides:
                    assert inner.docstring is not None, f"{module}.{name}.{member}"


def test_every_variable_is_documented() -> None:
    page = (ROOT / "docs/reference/variables.md").read_text(encoding="utf-8")
    for folder in ("src", "backends", "conformance/gru_xp_conformance"):
        for file in (ROOT / folder).rglob("*.py"):
            for name in re.findall(r"GRU_XP_[A-Z_]+\b", file.read_text(encoding="utf-8")):
                assert f"`{name}`" in page, f"{name} of {file.relative_to(ROOT)}"


def test_every_command_is_documented(reference: ModuleType) -> None:
    from typer.main import get_command

    from gru_xp.cli import app

    page = reference.commands_page()
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        assert f"## `gru-xp {name}`" in page
    assert "`--batch-first/--no-batch-first`" in page and "`--size" in page


def test_every_format_is_documented(reference: ModuleType) -> None:
    from gru_xp.files import formats

    page = reference.formats_page()
    assert all(f"| `{name}` |" in page for name in formats())


def test_every_extra_is_documented(reference: ModuleType) -> None:
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    rows = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", rows)) == set(reference.PROJECT["project"]["optional-dependencies"])


def test_every_page_is_in_a_part_of_the_site() -> None:
    """index.md names each page of the folders below it; the others beside it become how-to guides."""
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([\w/-]+)$", index, re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if "/" in page and not page.startswith("generated/")} <= listed
    assert {page for page in listed if not page.startswith("generated/")} <= pages


def test_the_address_is_written_once(reference: ModuleType) -> None:
    address = reference.REPOSITORY
    written = [
        path
        for folder in (
            "",
            "docs",
            "docs/tutorials",
            "docs/explanation",
            "docs/reference",
            ".github",
            ".github/workflows",
            ".ci",
            "backends",
            "conformance",
        )
        for path in (ROOT / folder).glob("*")
        if path.is_file() and path.suffix != ".png" and address in path.read_text(encoding="utf-8")
    ]
    assert written == [ROOT / "pyproject.toml"]
