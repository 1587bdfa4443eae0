"""Write docs/generated: the reference, from docstrings, commands and formats, and pages of other folders.

    python docs/make_reference.py          docs/conf.py calls it before each build; nothing in that folder is committed

Packages are read, not imported, so that a backend's page needs no array library.
"""

from __future__ import annotations

import ast
import inspect
import logging
import re
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import griffe

logging.getLogger("griffe").setLevel(logging.ERROR)  # it warns of arguments that go on by **options
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TARGET = DOCS / "generated"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]
SOURCES = [ROOT / folder for folder in ("src", "backends", "conformance")]
#: modules of gru_xp beside its packages: for users, then for authors of backends and kernels
SUBMODULES = ("types", "errors", "training", "arraymancer", "files", "backend", "interfaces")
ELSEWHERE = {  # pages of other folders, and what they are called here
    "backends/README.md": "write-a-backend",
    "conformance/README.md": "conformance",
    "conformance/benchmarks/README.md": "benchmarks",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "backends/gru_xp_cpu/README.md": "cpu-kernels",
}
ARGUMENTS = {griffe.DocstringSectionKind.parameters: "param", griffe.DocstringSectionKind.raises: "raises"}
ARGUMENTS[griffe.DocstringSectionKind.attributes] = "ivar"
SHOWN_SPECIAL = ("__call__",)


def public_modules() -> list[str]:
    """`gru_xp`, its public submodules, the other packages of the wheel, and the modules that their docstrings name."""
    found = ["gru_xp", *(f"gru_xp.{name}" for name in SUBMODULES)]
    for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        folder = ROOT / package
        if folder.name != "gru_xp":
            text = (folder / "__init__.py").read_text(encoding="utf-8")
            named = dict.fromkeys(re.findall(rf"\b{folder.name}\.(\w+)", text.split('"""')[1]))
            modules = [f"{folder.name}.{name}" for name in named if (folder / f"{name}.py").exists()]
            found += [folder.name] if "\n__all__ = " in text else [folder.name, *modules]
    return found


def exported(module: str) -> list[tuple[str, Any]]:
    """What a module exports, without modules, each where it is defined."""
    found = loaded(module)
    things = [(str(name), _final(found[str(name)])) for name in found.exports or ()]
    # a function may have the name of the module that it comes from
    things = [
        (name, thing if foreign(thing) or not thing.is_module else thing.members.get(name, thing))
        for name, thing in things
    ]
    return [(name, thing) for name, thing in things if foreign(thing) or not thing.is_module]


def loaded(module: str) -> Any:
    """A module as griffe reads it."""
    return griffe.load(module, search_paths=SOURCES, docstring_parser="google", resolve_aliases=True)


def foreign(thing: Any) -> bool:
    """Whether it is another library's, and exported as it is."""
    return bool(thing.is_alias and not thing.target_path.startswith("gru_xp"))


def _final(thing: Any) -> Any:
    return thing.final_target if thing.is_alias and not foreign(thing) else thing


# ---- a docstring as Markdown -----------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """Text of a docstring: examples are fenced, and no star outside of code is emphasis."""
    done = []
    for block in re.split(r"\n\s*\n", text):
        if block.lstrip().startswith(">>> "):
            done.append(f"```pycon\n{block}\n```")
        elif block.startswith("    "):
            done.append(f"```text\n{block}\n```")
        else:
            pieces = re.split(r"(`[^`]*`)", block)
            done.append("".join(p if p.startswith("`") else re.sub(r"([*<\[|])", r"\\\1", p) for p in pieces))
    return "\n\n".join(done)


def docstring_of(thing: Any) -> Any:
    """A docstring, also one that a class puts together of literals: `__doc__ = "..." + ARGUMENTS`."""
    put_together = thing.members.get("__doc__") if thing.is_class else None
    if put_together is None:
        return thing.docstring

    def value(node: ast.expr) -> str:
        if isinstance(node, ast.BinOp):
            return value(node.left) + value(node.right)
        if isinstance(node, ast.Name):
            return str(ast.literal_eval(str(_final(thing.module[node.id]).value)))
        return str(ast.literal_eval(node))

    text = value(ast.parse(f"({put_together.value})", mode="eval").body)
    return griffe.Docstring(inspect.cleandoc(text), parent=thing, parser="google")


def body(docstring: Any) -> Iterator[str]:
    """The sections of a docstring."""
    for section in docstring.parsed if docstring is not None else ():
        if section.kind in ARGUMENTS:
            for one in section.value:
                name = getattr(one, "name", None) or one.annotation
                yield _field(f"{ARGUMENTS[section.kind]} {name}", one.description)
        elif section.kind is griffe.DocstringSectionKind.returns:
            words = [f"{one.annotation}: {one.description}" if one.name else one.description for one in section.value]
            yield _field("returns", "\n".join(words))
        elif section.kind is griffe.DocstringSectionKind.text:
            yield "\n" + prose(section.value) + "\n"
        else:
            raise ValueError(f"{docstring.parent.path}: a section that this page cannot show: {section.kind}")


def _field(name: str, text: str) -> str:
    return f":{name}: " + prose(text).replace("\n", "\n    ")


# ---- objects as directives of the Python domain ----------------------------------------------------------------------


def described(name: str, thing: Any, depth: int = 8) -> Iterator[str]:
    """One function, class or value, with its members."""
    fence = ":" * depth
    if foreign(thing):
        yield f"{fence}{{py:data}} {name}\n\nThis is `{thing.target_path}`.\n{fence}\n"
        return
    kind = (
        "property" if "property" in thing.labels else {"function": "function", "class": "class"}.get(thing.kind.value)
    )
    if thing.parent is not None and thing.parent.is_class and kind == "function":
        kind = "method"
    yield f"{fence}{{py:{kind or 'data'}}} {name}{_signature(thing) if kind in ('function', 'method', 'class') else ''}"
    if "classmethod" in thing.labels:
        yield ":classmethod:"
    if kind in (None, "property") and getattr(thing, "annotation", None) is not None:
        yield f":type: {thing.annotation}"
    if kind is None and thing.value is not None and len(str(thing.value)) < 200:
        yield f":value: {thing.value}"
    yield ""
    yield from body(docstring_of(thing))
    if kind is None and thing.docstring is None:
        yield from filter(None, [prose(comment(thing))])
    if kind == "class":
        for member, inner in thing.members.items():
            public = (not member.startswith("_") or member in SHOWN_SPECIAL) and not inner.is_alias
            if public and (inner.docstring is not None or (inner.is_attribute and inner.annotation is not None)):
                yield from described(member, inner, depth - 1)
    yield fence + "\n"


def _signature(thing: Any) -> str:
    if thing.kind is griffe.Kind.CLASS:
        if "__init__" not in thing.members and any(str(base) == "NamedTuple" for base in thing.bases):
            fields = [m for m in thing.members.values() if m.is_attribute and m.annotation is not None]
            return f"({', '.join(f'{m.name}: {m.annotation}' + (f' = {m.value}' if m.value else '') for m in fields)})"
        init = thing.all_members.get("__init__")  # which may be inherited
        parameters = [p for p in (thing if init is None else _final(init)).parameters if p.name != "self"]
        return str(griffe.Function("", parameters=griffe.Parameters(*parameters)).signature()) if parameters else ""
    parameters = [p for p in thing.parameters if p.name not in ("self", "cls")]
    return str(griffe.Function("", parameters=griffe.Parameters(*parameters), returns=thing.returns).signature())


def comment(thing: Any) -> str:
    """What the source says of a value: behind it, or above it after `#:`."""
    if thing.lineno is None or not isinstance(thing.filepath, Path):
        return ""
    lines = thing.filepath.read_text(encoding="utf-8").splitlines()
    behind = re.search(r"  # (.*)$", lines[thing.endlineno - 1])
    above = []
    for line in reversed(lines[: thing.lineno - 1]):
        if not line.strip().startswith("#:"):
            break
        above.insert(0, line.strip().removeprefix("#:").strip())
    return " ".join(above) or (behind[1] if behind else "")


def module_page(module: str) -> str:
    """The page of one module."""
    lines = [f"# `{module}`", "", f":::{{py:module}} {module}", ":::", "", *body(loaded(module).docstring), ""]
    for name, thing in exported(module):
        lines += [f"## `{name}`", "", *described(name, thing)]
    return "\n".join(lines)


# ---- commands and formats --------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command with its arguments and options, as the program itself knows them."""
    import typer.main

    from gru_xp.cli import app as program
    from gru_xp_conformance import app, bench

    whole = typer.main.get_command(program)
    found = dict(whole.commands)  # type: ignore[attr-defined]
    found |= {"conformance": typer.main.get_command(app.app), "bench": typer.main.get_command(bench.app)}
    lines = ["# Commands", "", "`gru-xp COMMAND --help` says the same. The extra `cli` brings the program.", ""]
    for name, command in found.items():
        lines += [f"## `gru-xp {name}`", "", prose(_unwrapped(command.help or "")), ""]
        if rows := [row for parameter in command.params if (row := _parameter(parameter))]:
            lines += ["| | |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _unwrapped(text: str) -> str:
    return "\n\n".join(" ".join(block.split()) for block in text.replace("\b", "").split("\n\n"))


def _parameter(parameter: Any) -> str:
    if parameter.name == "help":
        return ""
    if parameter.param_type_name == "argument":
        called = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        names = "/".join([*parameter.opts, *parameter.secondary_opts])
        called = f"`{names}`" if parameter.is_flag else f"`{names} {parameter.metavar or parameter.name.upper()}`"
    words = prose(getattr(parameter, "help", None) or "")
    default = parameter.default
    if default not in (None, False, ()) and not callable(default) and "Sentinel" not in type(default).__name__:
        words += f" (default `{default}`)"
    return f"| {called} | {words} |"


def formats_page() -> str:
    """Every format that is installed, and what it can do."""
    from gru_xp.files import Format, formats

    lines = [
        "# File formats",
        "",
        "What `gru_xp.load`, `GRU.save`, `gru_xp.from_framework` and the commands read and write. A package may",
        "add one, by an entry point in the group `gru_xp.formats`. [Bring your model](../bring-your-model.md) shows",
        "them at work; [this table](../options.md) says what becomes of each option.",
        "",
        "| name | what | endings | read | written | live objects | options of writing |",
        "|---|---|---|:-:|:-:|:-:|---|",
    ]
    for name, each in formats().items():
        does = ["✓" if getattr(type(each), do) is not getattr(Format, do) else "" for do in ("read", "write", "adopt")]
        options = "; ".join(f"`{option}`: {prose(words)}" for option, words in each.write_options.items())
        endings = ", ".join(f"`{suffix}`" for suffix in each.suffixes)
        lines.append(f"| `{name}` | {prose(each.title)} | {endings} | {' | '.join(does)} | {options} |")
    return "\n".join([*lines, ""])


# ---- pages of other folders ------------------------------------------------------------------------------------------


def outward(text: str, folder: Path, prefix: str = "") -> str:
    """Markdown with its relative links made right: to pages of the site, or to the repository for everything else."""
    pages = {ROOT / source: TARGET / f"{name}.md" for source, name in ELSEWHERE.items()}

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match[1].partition("#")
        path = (folder / target).resolve()
        path = pages.get(path, path)
        inside = path.is_relative_to(DOCS) and path.suffix in (".md", ".png", ".svg")
        if inside:
            found = f"{prefix}{path.relative_to(DOCS).as_posix()}"
        else:
            kind = "tree" if path.is_dir() else "blob"
            found = f"{REPOSITORY}/{kind}/main/{path.relative_to(ROOT).as_posix()}"
        return f"]({found}{'#' if anchor else ''}{anchor})"

    return re.sub(r"\]\((?!https?://|#|mailto:)([^)\s]+)\)", link, text)


def write(pages: Sequence[tuple[str, str]]) -> None:
    """Make the folder anew."""
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir()
    for name, text in pages:
        (TARGET / f"{name}.md").write_text(text, encoding="utf-8")


def main() -> None:
    """Write every page."""
    modules = public_modules()
    index = ["# Python", "", ":::{toctree}", *modules, ":::", ""]
    pages = [(module, module_page(module)) for module in modules]
    pages += [("python", "\n".join(index)), ("commands", commands_page()), ("formats", formats_page())]
    for source, name in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        pages.append((name, outward(text, (ROOT / source).parent, "../")))
    write(pages)


if __name__ == "__main__":
    main()
