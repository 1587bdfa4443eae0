"""The command `gru-xp bench`: a user's sizes on the user's machine, over the backends and kernels there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import gru_xp
from gru_xp.convert import convert
from gru_xp.discovery import Place, load
from gru_xp.errors import GRUError, KernelError
from gru_xp.kernels import kernels_of

from .environment import describe
from .implementation import Arguments
from .judge import Target
from .matrix import Missing, targets
from .timing import TASKS, AbsentError, Command, Problem, Size, as_json, compare, serve
from .timing_report import picture, print_timings

__all__ = ["app"]

SIZES = ("1,1,32,64", "100,1,64,128", "100,8,128,256", "50,32,256,256")

app = typer.Typer(add_completion=False)


class Library:
    """The public functions on one backend and device with one kernel, or the plain path.

    Inference has prepared parameters, as whoever calls again and again would; a single step is `GRU.step`.
    """

    def __init__(self, problem: Problem, target: Target):
        self.backend, numpy = load(target.name), load("numpy")
        device = self.backend.device(target.device)
        self.backend.kernels = lambda: tuple(  # type: ignore[method-assign] # in a process of its own
            kernel for kernel in kernels_of(target.name) if kernel.name == target.kernel
        )
        self.place, self.host = Place(self.backend, device), Place(numpy, numpy.device(None))
        dtype = problem.x.dtype.name
        if dtype not in self.backend.float_names():
            raise AbsentError(f"{target.name} has no {dtype}")
        given = Arguments.of(problem, lambda a: convert(a, numpy, self.place, "problem"))
        self.x, self.dy, self.params = given.x, given.dy, given.params
        self.prepared = gru_xp.prepare(self.params)
        self.model = gru_xp.GRU.from_params(self.params)
        self.stepping = problem.x.shape[0] == 1 and not self.model.bidirectional
        self.state = self.model.initial_state(problem.x.shape[1]) if self.stepping else None

    def inference(self) -> Any:
        """y (T, N, D*H)."""
        try:
            if self.stepping:
                y = self.model.step(self.x[0, ...], self.state)[0][None, ...]
            else:
                y = gru_xp.gru_inference(self.x, self.prepared)[0]
        except KernelError as refusal:
            raise AbsentError(str(refusal)) from None
        self.backend.wait(y)
        return y

    def training(self) -> Any:
        """The gradients, in a tree."""
        try:
            _, _, tape = gru_xp.gru_forward(self.x, self.params)
        except KernelError as refusal:
            raise AbsentError(str(refusal)) from None
        grads = gru_xp.gru_backward(tape, self.dy)
        for array in (grads.x, *grads.params[0][0]):  # of the last arrays to be computed
            self.backend.wait(array)
        return grads

    def gradients(self, grads: Any) -> list[Any]:
        """For the check."""
        return [grads.x, *(a for layer in grads.params for w in layer for a in w)]

    def to_numpy(self, a: Any) -> Any:
        """For the check."""
        return convert(a, self.backend, self.host, "result")


def command(target: Target) -> Command:
    """The library as an engine of `timing.compare`."""
    words = [sys.executable, "-m", __spec__.name, target.name, target.device, target.kernel]
    return Command(words, {"GRU_XP_KERNELS": "off" if target.kernel == "plain" else "require"})


@app.command()
def bench(
    backends: Annotated[
        list[str] | None,
        typer.Argument(help="name or name:device, such as torch jax:cpu; by default all that are here"),
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option("--size", "-s", help="T,N,I,H or T,N,I,H,L,D: steps, batch, input, hidden, layers, directions"),
    ] = None,
    task: Annotated[str, typer.Option("--task", help="inference, training (forward and backward), or both")] = "both",
    dtype: Annotated[str, typer.Option("--dtype", help="float32 or float64")] = "float32",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="how often each is timed, in turns")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the result for machines")] = None,
    picture_file: Annotated[Path | None, typer.Option("--picture", help="draw it: .png, .svg or .pdf")] = None,
) -> None:
    """Time your sizes on your machine, over the backends and kernels that are here.

    Each engine has a process of its own, is checked against the reference before it is timed, and is timed in turns
    with the others. A time is the median of the rounds. Inference has prepared parameters; with T = 1 it is `GRU.step`.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    try:
        wanted = [Size.parse(text) for text in sizes or SIZES]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--size") from None
    if task not in (*TASKS, "both"):
        raise typer.BadParameter(f"expected inference, training or both, got {task!r}", param_hint="--task")
    if dtype not in ("float32", "float64"):
        raise typer.BadParameter(f"expected float32 or float64, got {dtype!r}", param_hint="--dtype")
    rows, missing = targets(backends or ())
    _assert_there(backends or [], missing)
    tasks = TASKS if task == "both" else (task,)
    engines = {str(target): command(target) for target in rows}
    with console.status("starting") as status:
        timings, left_out, _ = compare(
            engines, wanted, tasks=tasks, dtype=dtype, rounds=rounds, progress=lambda text: status.update(text)
        )
    print_timings(console, timings, left_out)
    if json_file is not None:
        about = {**describe(target.name for target in rows), "dtype": dtype, "rounds": rounds}
        report = {"environment": about, "timings": as_json(timings), "left out": left_out}
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if picture_file is not None:
        picture(timings, picture_file)
    if any(": wrong" in f": {reason}" for reason in left_out.values()):
        raise typer.Exit(1)


def _assert_there(names: list[str], missing: tuple[Missing, ...]) -> None:
    """What was asked for by name is here."""
    for one in missing:
        if one.name in names:
            raise GRUError(f"{one.name}: {one.reason}")


if __name__ == "__main__":
    serve(lambda problem: Library(problem, Target(*sys.argv[1:])))
