"""What all commands share: the console, errors as one line, reports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from gru_xp.errors import GRUError
from gru_xp.stored import Report

__all__ = ["NameOption", "errors", "make_console", "printable", "show_report"]

WIDTH = 120  # of tables where nobody says how wide the page is
NameOption = Annotated[str | None, typer.Option("--name", help="which GRU, where the file holds several")]
COLORS = {"exact": "green", "folded": "yellow", "assumed": "yellow", "changed": "yellow", "ignored": "dim"}


def make_console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDTH)


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


def show_report(console: Console, report: Report, before: str = "") -> None:
    """What became of the numbers, a note a line."""
    for note in report.notes:
        why = f": {printable(note.why)}" if note.why else ""
        told = f"[{COLORS[note.fate]}]{note.fate}:[/] {before}{printable(note.what)}{why}"
        console.print(told, highlight=False, soft_wrap=True)
