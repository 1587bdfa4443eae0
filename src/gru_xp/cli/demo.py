"""`gru-xp demo`: learn to read handwritten digits, save the model, and run it on every backend that is installed."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gru_xp.atomic import write_whole
from gru_xp.discovery import Place, available, entries
from gru_xp.discovery import load as load_backend
from gru_xp.errors import GRUError, RangeError
from gru_xp.functional import explain, gru_inference
from gru_xp.loading import load
from gru_xp.params import map_params
from gru_xp.selection import place_for, selection, use_backend

from .digits import (
    A,
    Classifier,
    Digits,
    History,
    accuracy,
    from_host,
    load_digits,
    one_blas_thread,
    side_by_side,
    to_host,
    train,
)
from .picture import draw

__all__ = ["Row", "compare", "run"]

EPOCHS, QUICK_EPOCHS = 30, 4


def run(console: Console, *, epochs: int | None, out: Path, quick: bool, seed: int = 0) -> None:
    """Train, write digits.safetensors, readout.npz and digits.png into `out`, and compare all backends."""
    epochs = epochs if epochs is not None else QUICK_EPOCHS if quick else EPOCHS
    if epochs < 1:
        raise RangeError(f"epochs: expected at least 1, got {epochs}")
    _need("sklearn", "matplotlib")
    out.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    model = Classifier.drawn(place_for(selection(), None), seed)
    console.print(
        f"[bold]{model.gru!r}[/]\n{len(digits.x)} scans to learn from, {len(digits.x_held_out)} held out",
        highlight=False,
    )
    started = time.perf_counter()
    with one_blas_thread():
        history = _train_with_bar(console, model, digits, epochs, seed)
    seconds = time.perf_counter() - started
    console.print(
        f"[bold green]{history.held_out[-1]:.2%}[/] of the held-out scans are read correctly, "
        f"after {epochs} epochs in {seconds:.1f} s",
        highlight=False,
    )
    path = out / "digits.safetensors"
    model.gru.save(path)
    W, b = (model.to_host(a) for a in (model.W, model.b))
    _write_npz(out / "readout.npz", W=W, b=b)
    draw(history, digits, model.logits(digits.x_held_out), out / "digits.png")
    console.print(f"wrote {path}, {out / 'readout.npz'} and {out / 'digits.png'}", highlight=False, soft_wrap=True)
    with one_blas_thread():
        rows = compare(path, W, b, digits, calls=3 if quick else 30)
    console.print(_table(rows))
    if missing := sorted(set(entries()) - set(available())):
        console.print(f"not installed: {', '.join(missing)}; gru-xp info says how to get them", highlight=False)


def _train_with_bar(console: Console, model: Classifier, digits: Digits, epochs: int, seed: int) -> History:
    columns = (
        TextColumn("epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[say]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=epochs, say="")

        def show(history: History) -> None:
            say = (
                f"loss [bold]{history.loss[-1]:.4f}[/]  learned {history.learned[-1]:.1%}  "
                f"held out [bold green]{history.held_out[-1]:.1%}[/]"
            )
            bar.update(task, advance=1, say=say)

        return train(model, digits, epochs, seed, show)


# ---- the same model on every backend ---------------------------------------------------------------------------------


class Row(NamedTuple):
    """What one backend made of the saved model; `reason` says why it did not."""

    backend: str
    device: str = ""
    kernel: str = ""
    accuracy: float = math.nan
    difference: float = math.nan  # the largest one of any y and h_n from the reference
    seconds: float = math.nan  # per call, after a first one, until the result is in host memory
    reason: str = ""


def compare(path: Path, W: A, b: A, digits: Digits, *, calls: int) -> list[Row]:
    """Load the model again on each backend that somebody has installed, and read the held-out scans with it."""
    x = digits.x_held_out
    expected = _reference(path, x)
    rows = []
    for name in sorted(available()):
        try:
            if load_backend(name).takes_whole_calls:
                continue  # the scans are no arrays of its own
            devices = _one_of_each_kind(list(load_backend(name).devices()))
        except Exception as error:  # a library that is there and cannot be imported fails in any way it likes
            rows.append(Row(name, reason=f"cannot be loaded: {error}"))
            continue
        for device in devices:
            try:
                rows.append(_measured(name, device, path, x, expected, W, b, digits.labels_held_out, calls))
            except GRUError as error:
                rows.append(Row(name, device, reason=str(error)))
    return rows


def _measured(
    name: str, device: str, path: Path, x: A, expected: tuple[A, A], W: A, b: A, labels: A, calls: int
) -> Row:
    backend = load_backend(name)
    place = Place(backend, backend.device(device))
    with use_backend(str(place)):
        model = load(path)
        native = from_host(x, place)

        def call() -> list[A]:
            return [to_host(a, place) for a in model(native)]

        y, h_n = call()
        times = []
        for _ in range(calls):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        kernel = explain(backend.xp.permute_dims(native, (1, 0, 2)), model.params).kernel
    difference = max(float(np.max(np.abs(got - ref))) for got, ref in zip((y, h_n), expected, strict=True))
    states = side_by_side(np, h_n)
    return Row(name, device, kernel, accuracy(states @ W.T + b, labels), difference, float(np.median(times)))


def _reference(path: Path, x: A) -> tuple[A, A]:
    """y (N, T, D*H) and h_n by NumPy in float64, which the conformance suite holds to its reference."""
    model = load(path, backend="numpy")
    params = map_params(lambda a: a.astype(np.float64), model.params)
    y, h_n = gru_inference(x.transpose(1, 0, 2).astype(np.float64), params, spec=model.spec, backend="numpy")
    return y.transpose(1, 0, 2), h_n


def _one_of_each_kind(devices: Sequence[str]) -> list[str]:
    """The default device, and the first of each kind of the others: `cpu` and `cuda:0`, but not `cuda:1`."""
    kinds: dict[str, str] = {}
    for device in devices:
        kinds.setdefault(device.partition(":")[0], device)
    return [device for device in kinds.values() if device == devices[0] or ":" in device]


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="the saved model on every backend", title_justify="left", title_style="bold")
    table.add_column("backend", style="bold cyan", no_wrap=True)
    for heading in ("device", "kernel"):
        table.add_column(heading)
    for heading in ("accuracy", "largest difference", "time per call"):
        table.add_column(heading, justify="right")
    for row in rows:
        if row.reason:
            table.add_row(row.backend, row.device or "-", f"[dim]{escape(row.reason)}[/]", "-", "-", "-")
        else:
            figures = (f"{row.accuracy:.2%}", f"{row.difference:.1e}", f"{row.seconds * 1e3:.2f} ms")
            table.add_row(row.backend, row.device, row.kernel, *figures)
    table.caption = (
        "largest difference of y and h_n from NumPy's result in float64; time for all held-out scans, "
        "with one BLAS thread"
    )
    table.caption_justify = "left"
    return table


def _write_npz(path: Path, **arrays: A) -> None:
    data = io.BytesIO()
    np.savez(data, **arrays)  # type: ignore[arg-type]
    write_whole(path, data.getvalue())


def _need(*modules: str) -> None:
    """The libraries of the extra `demo` are there."""
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        names = " and ".join("scikit-learn" if name == "sklearn" else name for name in missing)
        raise GRUError(f"the demo needs {names}, which is missing; install it: python -m pip install 'gru-xp[demo]'")
