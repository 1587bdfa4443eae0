"""The command: `python -m gru_xp_conformance`, which is also `gru-xp conformance`."""

from __future__ import annotations

import faulthandler
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gru_xp.errors import KernelError

from .guard import Side
from .matrix import Result, chosen, run
from .report import as_text, markdown, print_matrix, put_table, table_differs
from .report import html as page

__all__ = ["app", "main"]

WIDTH = 80  # where neither a terminal nor COLUMNS says how wide the page is

app = typer.Typer(add_completion=False, help="Is every backend, device and kernel right, and where not?")


@app.command()
def conformance(
    backends: Annotated[
        list[str] | None,
        typer.Argument(
            help="name[:device][ kernel], such as torch jax:cpu 'numpy:cpu plain'; by default all that are here"
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="the shorter cases, in float32")] = False,
    guard_pages: Annotated[
        str | None,
        typer.Option(
            "--guard-pages",
            metavar="before|behind",
            help="put an unreadable page beside each array of NumPy's, which PyTorch's share: to touch it ends the run",
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="write one self-contained page")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the result for machines")] = None,
    table: Annotated[bool, typer.Option("--table", help="print the support table as Markdown")] = False,
    write_table: Annotated[Path | None, typer.Option("--write-table", help="put the support table into a file")] = None,
    also: Annotated[
        list[Path] | None, typer.Option("--also", help="rows of the table that ran elsewhere, as --json wrote them")
    ] = None,
    check_table: Annotated[
        Path | None, typer.Option("--check-table", help="fail if the table in a file differs")
    ] = None,
) -> None:
    """Judge backends, devices and kernels against the reference.

    GRU_XP_BACKEND chooses what is judged where no names are given. GRU_XP_REQUIRE="torch:cuda,cupy,numpy:cpu mine"
    makes a failure of what does not run. The exit status is 0 if all that was promised passed.
    """
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=WIDTH)
    try:
        result = _run(chosen(backends or ()), quick, _side(guard_pages), console)
    except KernelError as error:
        console.print(f"[red]not conformant[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    print_matrix(result, console)
    everywhere = result.joined([json.loads(path.read_text(encoding="utf-8")) for path in also or ()])
    if html is not None:
        html.write_text(page(result), encoding="utf-8")
    if json_file is not None:
        json_file.write_text(as_text(result.as_json()), encoding="utf-8")
    if table:
        print(markdown(everywhere))
    if write_table is not None:
        put_table(write_table, everywhere)
    differs = check_table is not None and table_differs(check_table, everywhere)
    if differs:
        console.print(f"[red]the support table in {check_table} differs[/]; write it with --write-table {check_table}")
    raise typer.Exit(0 if result.passed and not differs else 1)


def _side(name: str | None) -> Side | None:
    """The side of the guard pages; which case touched one is on stderr."""
    if name is None:
        return None
    if name not in get_args(Side):
        raise typer.BadParameter(
            f"expected one of {', '.join(get_args(Side))}, got {name!r}", param_hint="--guard-pages"
        )
    faulthandler.enable()
    return cast("Side", name)


def _run(names: tuple[str, ...], quick: bool, guard: Side | None, console: Console) -> Result:
    """The run with a progress bar; the variable was the choice of what to judge and must choose nothing any more."""
    os.environ.pop("GRU_XP_BACKEND", None)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")

        def show(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)

        return run(names, quick=quick, guard=guard, progress=show)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the command, with the arguments that were given to the program or these."""
    app(args=arguments)
