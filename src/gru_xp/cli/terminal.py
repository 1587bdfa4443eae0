"""What all commands share: the console, errors as one line, reports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from gru_xp.checks import sizes_of
from gru_xp.errors import GRUError
from gru_xp.stored import Report, StoredGRU

__all__ = [
    "BatchFirstOption",
    "DtypeOption",
    "NameOption",
    "errors",
    "make_console",
    "printable",
    "say",
    "show_read",
    "show_report",
]

WIDTH = 120  # of tables where neither a terminal nor COLUMNS says how wide the page is
NameOption = Annotated[str | None, typer.Option("--name", help="which GRU, where the file holds several")]
BatchFirstOption = Annotated[
    bool | None,
    typer.Option(
        "--batch-first/--no-batch-first",
        metavar="",
        help="x is (N, T, I), or (T, N, I), where the file does not say it",
    ),
]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="float32, float64, float16 or bfloat16; by default the file's")
]
COLORS = {"exact": "green", "folded": "yellow", "assumed": "yellow", "changed": "yellow", "ignored": "dim"}


def make_console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(stderr=stderr, width=WIDTH)


@contextmanager
def errors(status: int = 1) -> Iterator[None]:
    """What a user can put right, in one line on stderr and with an exit status."""
    try:
        yield
    except GRUError as error:
        words = str(error)
    except OSError as error:
        words = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    else:
        return
    Console(stderr=True).print(
        f"[bold red]error:[/] {escape(' '.join(words.split()))}", highlight=False, soft_wrap=True
    )
    raise typer.Exit(status)


def printable(text: str) -> str:
    """A name out of a file as text for `rich`: it can neither mark up nor steer the terminal."""
    return escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text))


def say(console: Console, words: str) -> None:
    """Print text that may hold names out of files, as a line."""
    console.print(printable(words), highlight=False, soft_wrap=True)


def show_read(console: Console, file: Path, format_name: str, gru: StoredGRU, *fates: str) -> None:
    """Which GRU was read, and its notes, of all fates or those given."""
    I, H, L, D, bias = sizes_of(gru.params)
    named = f" {gru.name!r}" if gru.name else ""
    order = "(N, T, I)" if gru.batch_first else "(T, N, I)"
    sizes = f"I={I}, H={H}, L={L}, D={D}, {'' if bias else 'no biases, '}{gru.dtype}, x {order}"
    say(console, f"read {file} ({format_name}): GRU{named}, {sizes}")
    show_report(console, Report(tuple(note for note in gru.report.notes if not fates or note.fate in fates)))


def show_report(console: Console, report: Report, before: str = "") -> None:
    """What became of the numbers, a note a line."""
    for note in report.notes:
        why = f": {printable(note.why)}" if note.why else ""
        told = f"[{COLORS[note.fate]}]{note.fate}:[/] {before}{printable(note.what)}{why}"
        console.print(told, highlight=False, soft_wrap=True)
