"""What all commands share: the console, and errors as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from gru_xp.errors import GRUError

__all__ = ["errors", "make_console", "printable"]

WIDTH = 120  # of tables where nobody says how wide the page is


def make_console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


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
