"""Write docs/options.md from what the formats say: `python docs/make_options.py`."""

from __future__ import annotations

from pathlib import Path

from gru_xp import files

TARGET = Path(__file__).with_name("options.md")
HEAD = """# What each format says, option by option

Written by `python docs/make_options.py` from the readers' own statements (`Format.options`), which the tests
compare with files and objects that set each option to a value that is not its default.

- **read**: said there, and used here.
- **noted**: without a counterpart here, or of no effect on outputs; `model.report` says so where it is not the default.
- **refused**: an error that says why.
- **assumed**: not said there; `model.report.assumed` says what was taken for it.
- **fixed**: never anything else there.

Options of a Keras layer, a Flax module or an ONNX node that are in no table are an error or a warning. "In:" names the
formats of `gru-xp inspect`; the program for NumPy is written and never read.
"""


def page() -> str:
    """The text; a kind of source that several formats share is shown once."""
    homes: dict[str, list[str]] = {}
    tables: dict[str, tuple[files.Option, ...]] = {}
    for each in files.formats().values():
        for source, options in each.options.items():
            homes.setdefault(source, []).append(each.name)
            tables[source] = options
    return HEAD + "".join(_table(source, homes[source], options) for source, options in tables.items())


def _table(source: str, homes: list[str], options: tuple[files.Option, ...]) -> str:
    rows: dict[tuple[str, str], list[str]] = {}
    for option in options:
        rows.setdefault((option.fate, option.words), []).append(f"`{option.name}`")
    lines = [f"| {', '.join(names)} | {fate} | {words} |" for (fate, words), names in rows.items()]
    return "\n".join(
        ["", f"## {source}", "", f"In: {', '.join(homes)}.", "", "| option | | |", "|---|---|---|", *lines, ""]
    )


if __name__ == "__main__":
    TARGET.write_text(page())
