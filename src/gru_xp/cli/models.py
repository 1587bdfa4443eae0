"""`gru-xp inspect`, `convert`, `verify` and `export`: model files of any format."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gru_xp.account import bytes_of
from gru_xp.checks import sizes_of
from gru_xp.errors import FileFormatError, StructureError
from gru_xp.files import contents, format_of, read, write
from gru_xp.params import weights_of
from gru_xp.stored import Contents, Report, StoredGRU
from gru_xp.verify import Inputs, Parting, Verdict, is_finite, random_inputs, side_of
from gru_xp.verify import verify as compare

from .terminal import (
    BatchFirstOption,
    DtypeOption,
    NameOption,
    errors,
    make_console,
    printable,
    say,
    show_read,
    show_report,
)

__all__ = ["models"]

models = typer.Typer()

ModelFile = Annotated[Path, typer.Argument(metavar="FILE", help="a model file of any format")]
FormatOption = Annotated[str | None, typer.Option("--format", help="the format, where the ending does not tell")]


# ---- inspect ---------------------------------------------------------------------------------------------------------


@models.command()
def inspect(
    file: ModelFile,
    file_format: FormatOption = None,
    batch_first: BatchFirstOption = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="print JSON, for programs")] = False,
) -> None:
    """What is in a file: every GRU with its sizes, equation, dtype and norms; what is assumed; what cannot be read.

    The exit status is 1 if there is no GRU that can be read.
    """
    with errors():
        format_name = format_of(file, file_format).name
        found = contents(file, file_format, batch_first=batch_first)
    if as_json:
        print(json.dumps(_as_dict(format_name, found), indent=2))
    else:
        _show(make_console(), file, format_name, found)
    raise typer.Exit(not found.grus)


MOST = 20  # GRUs, refusals and other names that are shown
LEGEND = "L layers, D directions, I inputs, H hidden units, T steps, N rows of a batch"


def _show(console: Console, file: Path, format_name: str, found: Contents) -> None:
    console.print(f"[bold]{printable(str(file))}[/] ({format_name})", highlight=False, soft_wrap=True)
    if found.grus:
        console.print(_table(found.grus[:MOST]))
        console.print(f"[dim]{LEGEND}[/]", highlight=False)
    if (more := len(found.grus) - MOST) > 0:
        console.print(f"{more} more GRUs, which --json names", highlight=False)
    for gru in found.grus[:MOST]:
        where = f"{printable(gru.name)}: " if gru.name else ""
        show_report(console, gru.report, where)
        if gru.narrow is not None:
            console.print(f"{where}{_told_of_narrow(gru)}", highlight=False, soft_wrap=True)
        if not is_finite(gru):
            console.print(f"[yellow]not finite:[/] {where}weights hold NaN or infinities", highlight=False)
    for refusal in found.refused[:MOST]:
        where = f"{printable(refusal.name)}: " if refusal.name else ""
        console.print(f"[red]refused:[/] {where}{printable(refusal.reason)}", highlight=False, soft_wrap=True)
    if (more := len(found.refused) - MOST) > 0:
        console.print(f"[red]refused:[/] {more} more, which --json names", highlight=False)
    if not found.grus and not found.refused:
        console.print("[red]no GRU in it[/]")
    if found.ignored:
        listed = ", ".join(map(printable, found.ignored[:MOST])) + (", ..." if len(found.ignored) > MOST else "")
        console.print(f"[dim]also in it: {listed}[/]", highlight=False, soft_wrap=True)


def _table(grus: tuple[StoredGRU, ...]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("name", style="bold cyan", overflow="fold")
    for heading in ("L", "D", "I", "H"):
        table.add_column(heading, justify="right")
    for heading in ("x", "reset gate", "activations", "biases", "dtype", "norms of W_ih, W_hh, b_ih, b_hh"):
        table.add_column(heading, overflow="fold")
    for gru in grus:
        sizes, spec = sizes_of(gru.params), gru.spec
        direction = "reverse" if spec.reverse else str(sizes.D)
        activations = f"{spec.gate_activation}, {spec.candidate_activation}"
        activations += "" if spec.clip is None else f", clip {spec.clip:g}"
        table.add_row(
            printable(gru.name) or "-",
            *(str(sizes.L), direction, str(sizes.I), str(sizes.H)),
            "(N, T, I)" if gru.batch_first else "(T, N, I)",
            "after the product" if spec.reset_after else "before the product",
            activations,
            "both" if sizes.bias else "none",
            gru.dtype if gru.narrow is None else gru.narrow.weights,
            ", ".join(f"{norm:.3g}" for norm in _norms(gru).values()),
        )
    return table


def _narrow_as_dict(gru: StoredGRU) -> dict[str, Any] | None:
    """How weights of 8 or 16 bits are stored, with the least and the largest scale, and how many bytes they take."""
    narrow = gru.narrow
    if narrow is None:
        return None
    scales = np.concatenate([np.zeros(0)] if narrow.scales is None else weights_of(narrow.scales))
    return {
        "weights": narrow.weights,
        "activations": narrow.activations,
        "float32_layers": list(narrow.kept),
        "scales": [float(scales.min()), float(scales.max())] if scales.size else None,
        "bytes": bytes_of(gru),
        "bytes_in_float32": bytes_of(replace(gru, narrow=None)),
    }


def _told_of_narrow(gru: StoredGRU) -> str:
    found = _narrow_as_dict(gru)
    assert found is not None
    scales = "" if found["scales"] is None else ", scales of rows from {:.2g} to {:.2g}".format(*found["scales"])
    return f"{gru.narrow}{scales}; {found['bytes']:,} bytes, {found['bytes_in_float32']:,} in float32"


def _norms(gru: StoredGRU) -> dict[str, float]:
    """The Euclidean norm of each kind of weight, over all layers and directions."""
    kinds: dict[str, list[float]] = {}
    for directions in gru.params:
        for w in directions:
            for name, array in w._asdict().items():
                if array is not None:
                    kinds.setdefault(name, []).append(float(np.linalg.norm(array.astype("f8"))))
    return {name: float(np.linalg.norm(norms)) for name, norms in kinds.items()}


def _as_dict(format_name: str, found: Contents) -> dict[str, Any]:
    return {
        "format": format_name,
        "grus": [
            {
                "name": gru.name,
                **dict(zip(("input_size", "hidden_size", "num_layers", "directions", "bias"), sizes, strict=True)),
                "spec": gru.spec.as_dict(),
                "dtype": gru.dtype,
                "narrow": _narrow_as_dict(gru),
                "batch_first": gru.batch_first,
                "dropout": gru.dropout,
                "first_state": gru.h0 is not None,
                "norms": _norms(gru),
                "finite": is_finite(gru),
                "report": _notes(gru.report),
            }
            for gru in found.grus
            for sizes in [sizes_of(gru.params)]
        ],
        "refused": [{"name": refusal.name, "reason": refusal.reason} for refusal in found.refused],
        "ignored": list(found.ignored),
    }


def _notes(report: Report) -> list[dict[str, str]]:
    return [{"fate": note.fate, "what": note.what, "why": note.why} for note in report.notes]


# ---- convert and export ----------------------------------------------------------------------------------------------


@models.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="a model file of any format")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="the ending says the format")],
    name: NameOption = None,
    source_format: Annotated[str | None, typer.Option("--from", help="the format of IN")] = None,
    target_format: Annotated[str | None, typer.Option("--to", help="the format of OUT")] = None,
    batch_first: BatchFirstOption = None,
    dtype: DtypeOption = None,
    inputs: Annotated[
        str | None, typer.Option("--inputs", help="of an ONNX graph, without defaults: x, or x,h0, or x,h0,lengths")
    ] = None,
    opset: Annotated[int | None, typer.Option("--opset", help="of ONNX's operators")] = None,
) -> None:
    """From one format to another, with a report of what happened to the numbers on the way in and out."""
    with errors():
        gru = read(source, name=name, format=source_format, batch_first=batch_first, dtype=dtype)
        _write(source, source_format, gru, target, target_format, inputs=inputs, opset=opset)


def _write(
    source: Path, source_format: str | None, gru: StoredGRU, target: Path, target_format: str | None, **options: Any
) -> None:
    """Write what was read, and say what happened on both ways."""
    origin = format_of(source, source_format).name  # before it may be replaced
    given = {name: value for name, value in options.items() if value is not None}
    report = write(gru, target, format=target_format, **given)
    console = make_console()
    show_read(console, source, origin, gru)
    say(console, f"wrote {target} ({format_of(target, target_format, writing=True).name})")
    show_report(console, report)


@models.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="a model file of any format")],
    target: Annotated[Path, typer.Argument(metavar="OUT.py", help="the weights go beside it, into OUT_weights.npz")],
    numpy: Annotated[bool, typer.Option("--numpy", metavar="", help="a program that needs NumPy alone")] = False,
    name: NameOption = None,
    source_format: Annotated[str | None, typer.Option("--from", help="the format of MODEL")] = None,
    batch_first: BatchFirstOption = None,
    dtype: DtypeOption = None,
) -> None:
    """A model as a program, for machines that have no framework, not even this one."""
    with errors():
        if not numpy:
            raise StructureError("expected --numpy: it is the one kind of program that can be written")
        gru = read(source, name=name, format=source_format, batch_first=batch_first, dtype=dtype)
        _write(source, source_format, gru, target, "numpy")


# ---- verify ----------------------------------------------------------------------------------------------------------


@models.command()
def verify(
    a: Annotated[Path, typer.Argument(metavar="A")],
    b: Annotated[Path, typer.Argument(metavar="B")],
    name_a: Annotated[str | None, typer.Option("--name-a", help="which GRU of A")] = None,
    name_b: Annotated[str | None, typer.Option("--name-b", help="which GRU of B")] = None,
    format_a: Annotated[str | None, typer.Option("--format-a", help="the format of A")] = None,
    format_b: Annotated[str | None, typer.Option("--format-b", help="the format of B")] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input", metavar="X.npy", help="x (T, N, I), or (T, I), beside the random ones")
    ] = None,
    batch_first: BatchFirstOption = None,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="the largest difference; by default from the rounding")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="T of the random inputs")] = 16,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the random inputs")] = 0,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="print JSON, for programs")] = False,
) -> None:
    """Run both on the same inputs, each by its own runtime where that is installed, and say where they part and why.

    The exit status is 0 if they agree, 1 if not, 2 if something else is wrong.
    """
    with errors(2):
        sides = (
            side_of("A", a, name_a, format_a, batch_first=batch_first),
            side_of("B", b, name_b, format_b, batch_first=batch_first),
        )
        inputs = random_inputs(sides[0].stored, steps=steps, seed=seed)
        if input_file is not None:
            inputs.append(_given(input_file, batch_first is True))
        console = make_console()
        with console.status("running both") if console.is_terminal and not as_json else nullcontext():
            verdict = compare(*sides, inputs, tolerance)
    if as_json:
        print(json.dumps(_verdict_as_dict(verdict), indent=2))
    else:
        _show_verdict(console, verdict)
    raise typer.Exit(not verdict.agrees)


def _given(path: Path, batch_first: bool) -> Inputs:
    from .main import read_npy

    x = read_npy(path)
    if x.ndim not in (2, 3) or x.dtype.kind not in "fiu":
        raise FileFormatError(f"{path}: expected numbers x (T, N, I) or (T, I), got {x.dtype} {x.shape}")
    if x.ndim == 2:
        x = x[:, None]
    elif batch_first:
        x = x.swapaxes(0, 1)
    return Inputs(path.name, x.astype("f8"))


def _show_verdict(console: Console, verdict: Verdict) -> None:
    def say(words: str) -> None:
        console.print(words, highlight=False, soft_wrap=True)

    if verdict.cases:
        table = Table(box=SIMPLE_HEAD, padding=(0, 2, 0, 0))
        for heading in ("input", "A run by", "B run by", "largest difference", "allowed", ""):
            table.add_column(heading, overflow="fold")
        for case in verdict.cases:
            verdict_of_case = "[green]agree[/]" if case.agrees else "[bold red]part[/]"
            sides = (printable(by) for by in case.by)
            table.add_row(
                printable(case.name), *sides, f"{case.difference:.1e}", f"{case.allowed:.1e}", verdict_of_case
            )
        console.print(table)
    for words in verdict.compared:
        say(printable(words))
    for words in verdict.substituted:
        say(f"[dim]{printable(words)}[/]")
    for words in verdict.differences:
        say(f"[yellow]differs:[/] {printable(words)}")
    for words in verdict.unfaithful:
        say(f"[yellow]unlike gru_xp:[/] {printable(words)}")
    if verdict.parting is not None:
        say(f"[bold red]they part:[/] {_told(verdict.parting)}")
    if verdict.explanation is not None:
        say(f"[bold]explained:[/] {printable(verdict.explanation)}")
    elif verdict.parting is not None:
        known = "" if verdict.unfaithful or not verdict.differences else ", beyond what differs above"
        say(f"[bold]not explained[/] by any mistake that is known here{known}")
    say("[bold green]A and B agree[/]" if verdict.agrees else "[bold red]A and B do not agree[/]")


def _told(parting: Parting) -> str:
    gates = f", in {', '.join(parting.gates)}" if parting.gates else ""
    return f"layer {parting.layer}, {parting.direction} direction, time step {parting.step}{gates}"


def _verdict_as_dict(verdict: Verdict) -> dict[str, Any]:
    parting = verdict.parting
    return {
        "agrees": verdict.agrees,
        "cases": [
            {"input": case.name, "by": case.by, "difference": case.difference, "allowed": case.allowed}
            for case in verdict.cases
        ],
        "compared": verdict.compared,
        "differences": verdict.differences,
        "run_by_gru_xp": verdict.substituted,
        "unlike_gru_xp": verdict.unfaithful,
        "parting": None if parting is None else parting.__dict__,
        "explanation": verdict.explanation,
    }
