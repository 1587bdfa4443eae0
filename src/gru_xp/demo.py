"""The main job, `gru-xp demo`: learn to read handwritten digits, save the model, and run it on every backend there is.

The 1,797 scans (8x8) of scikit-learn are read row by row, so T = 8 and I = 8, by a GRU in both directions; a linear
read-out of its last states names the digit. Everything is trained with the explicit `GRU.forward` and `GRU.backward`,
and with Adam in a few lines of the array API, by whichever backend is selected. K is the number of classes, 10.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .dispatch import Place, available, convert, entries, place_for, selection, use_backend
from .dispatch import load as load_backend
from .errors import GRUError, RangeError
from .formats.files import write_whole
from .functional import explain
from .module import GRU, load
from .params import map_params, weights_of

__all__ = ["Adam", "Classifier", "Digits", "History", "Row", "compare", "cross_entropy", "load_digits", "run", "train"]

A = npt.NDArray[Any]

K = 10
H = 48
BATCH = 32
RATE = 5e-3  # of Adam at the first step; it falls to zero along a cosine
NOISE = 0.15  # standard deviation of what is added to the pixels, which are within -1..1, while learning
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


# ---- the data --------------------------------------------------------------------------------------------------------


class Digits(NamedTuple):
    """The scans, float32 within -1..1, and which digit each is."""

    x: A  # (N, T, I), to learn from
    labels: A  # (N,)
    x_held_out: A
    labels_held_out: A


def load_digits() -> Digits:
    """Three quarters to learn from and one held out, the same ones always, each digit in the same proportion."""
    from sklearn.datasets import load_digits as scans
    from sklearn.model_selection import train_test_split

    images, labels = scans(return_X_y=True)
    x = (images.reshape(-1, 8, 8) / 8.0 - 1.0).astype(np.float32)
    x, held_out, labels, labels_held_out = train_test_split(x, labels, test_size=0.25, stratify=labels, random_state=0)
    return Digits(x, labels, held_out, labels_held_out)


# ---- the model -------------------------------------------------------------------------------------------------------


@dataclass
class Classifier:
    """A GRU in both directions and a linear read-out of its last states; all of it at one place."""

    gru: GRU
    W: Any  # (K, D*H)
    b: Any  # (K,)
    place: Place

    @classmethod
    def drawn(cls, place: Place, seed: int) -> Classifier:
        """Initial weights; one seed gives the same ones everywhere."""
        gru = GRU(8, H, bidirectional=True, batch_first=True, seed=seed, backend=str(place))
        bound = 1.0 / math.sqrt(2 * H)
        W = np.random.default_rng(seed).uniform(-bound, bound, (K, 2 * H)).astype(np.float32)
        return cls(gru, from_host(W, place), from_host(np.zeros(K, np.float32), place), place)

    @property
    def weights(self) -> list[Any]:
        """All that is trained, in a flat list."""
        return [*weights_of(self.gru.params), self.W, self.b]

    @weights.setter
    def weights(self, weights: Sequence[Any]) -> None:
        *cells, self.W, self.b = weights
        following = iter(cells)
        self.gru.params = map_params(lambda _: next(following), self.gru.params)

    def loss_and_gradients(self, x: A, targets: A) -> tuple[float, A, list[Any]]:
        """x (N, T, I), targets (N, K) one-hot -> the mean loss, the logits (N, K), the gradients of `weights`."""
        xp = self.place.backend.xp
        _, h_n, tape = self.gru.forward(from_host(x, self.place), backend="auto")
        states = side_by_side(xp, h_n)
        logits = states @ self.W.T + self.b
        loss, dlogits = cross_entropy(xp, logits, from_host(targets, self.place))
        dstates = dlogits @ self.W
        dh_n = xp.stack([dstates[:, :H], dstates[:, H:]])
        grads = self.gru.backward(tape, dh_n=dh_n)
        gradients = [*weights_of(grads.params), dlogits.T @ states, xp.sum(dlogits, axis=0)]
        return loss, self.to_host(logits), gradients

    def logits(self, x: A) -> A:
        """x (N, T, I) -> (N, K), in host memory."""
        _, h_n = self.gru(from_host(x, self.place), backend="auto")
        return self.to_host(side_by_side(self.place.backend.xp, h_n) @ self.W.T + self.b)

    def to_host(self, array: Any) -> A:
        return to_host(array, self.place)


def side_by_side(xp: Any, h_n: Any) -> Any:
    """The last states (D, N, H) of one layer as (N, D*H)."""
    return xp.concat([h_n[0, ...], h_n[1, ...]], axis=-1)


def cross_entropy(xp: Any, logits: Any, targets: Any) -> tuple[float, Any]:
    """The mean of -sum(targets * log(softmax(logits))) over N rows, and its gradient; all (N, K)."""
    logits = logits - xp.max(logits, axis=-1, keepdims=True)
    exps = xp.exp(logits)
    sums = xp.sum(exps, axis=-1, keepdims=True)
    N = logits.shape[0]
    return float(xp.sum(targets * (xp.log(sums) - logits)) / N), (exps / sums - targets) / N


class Adam:
    """Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, for arrays of any library."""

    def __init__(self, xp: Any, weights: Sequence[Any]):
        self.xp, self.t = xp, 0
        self.m = [xp.zeros_like(w) for w in weights]
        self.v = [xp.zeros_like(w) for w in weights]

    def step(self, weights: Sequence[Any], gradients: Sequence[Any], rate: float) -> list[Any]:
        """The weights after one step; the arrays that came are not written to."""
        self.t += 1
        self.m = [0.9 * m + 0.1 * g for m, g in zip(self.m, gradients, strict=True)]
        self.v = [0.999 * v + 0.001 * g * g for v, g in zip(self.v, gradients, strict=True)]
        rate *= math.sqrt(1.0 - 0.999**self.t) / (1.0 - 0.9**self.t)
        return [w - rate * m / (self.xp.sqrt(v) + 1e-8) for w, m, v in zip(weights, self.m, self.v, strict=True)]


# ---- training --------------------------------------------------------------------------------------------------------


@dataclass
class History:
    """What each epoch came to."""

    loss: list[float] = field(default_factory=list)
    learned: list[float] = field(default_factory=list)  # accuracy on the batches, as they were with their noise
    held_out: list[float] = field(default_factory=list)


def train(
    model: Classifier,
    digits: Digits,
    epochs: int,
    seed: int,
    progress: Callable[[History], None] = lambda history: None,
) -> History:
    """Change the model; `progress` is called after each epoch. The held-out scans are looked at, never learned from."""
    rng = np.random.default_rng(seed)
    adam = Adam(model.place.backend.xp, model.weights)
    one_hot = np.eye(K, dtype=np.float32)[digits.labels]
    steps = len(digits.x) // BATCH  # of equal size; what is left over is another part in each epoch
    history = History()
    for epoch in range(epochs):
        losses, correct = 0.0, 0
        for step, rows in enumerate(_batches(rng, len(digits.x))):
            x = digits.x[rows] + NOISE * rng.standard_normal((BATCH, 8, 8), dtype=np.float32)
            loss, logits, gradients = model.loss_and_gradients(x, one_hot[rows])
            rate = RATE * 0.5 * (1.0 + math.cos(math.pi * (epoch + step / steps) / epochs))
            model.weights = adam.step(model.weights, gradients, rate)
            losses += loss
            correct += int(np.sum(np.argmax(logits, axis=-1) == digits.labels[rows]))
        history.loss.append(losses / steps)
        history.learned.append(correct / (steps * BATCH))
        history.held_out.append(accuracy(model.logits(digits.x_held_out), digits.labels_held_out))
        progress(history)
    return history


def _batches(rng: np.random.Generator, N: int) -> Iterator[A]:
    order = rng.permutation(N)
    for start in range(0, N - BATCH + 1, BATCH):
        yield order[start : start + BATCH]


def accuracy(logits: A, labels: A) -> float:
    """The fraction of the rows of (N, K) whose largest logit stands at the label."""
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


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


def one_blas_thread() -> Any:
    """A context for products as small as these: two threads gain nothing, and wait for each other on a busy machine.

    Seen with OpenBLAS 0.3.30 on two cores beside other jobs: 3 s of training with one thread, 11 to 28 s with two.
    """
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    return threadpool_limits(1, user_api="blas")


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
    for name in sorted(entries(), key=lambda name: (name not in available(), name)):
        if name not in available():
            rows.append(Row(name, reason="not installed"))
            continue
        try:
            devices = _one_of_each_kind(load_backend(name).devices())
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
    """y and h_n in float64, one row, one step and one gate at a time, by code that shares nothing with this library."""
    from gru_xp_conformance import reference

    params = map_params(lambda a: a.astype(np.float64), load(path, backend="numpy").params)
    result = reference.forward(x.transpose(1, 0, 2).astype(np.float64), params)
    return result.y.transpose(1, 0, 2), result.h_n


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
        "largest difference of y and h_n from the conformance reference in float64; time for all held-out scans, "
        "with one BLAS thread; gru-xp info says how to get what is not installed"
    )
    table.caption_justify = "left"
    return table


# ---- the picture -----------------------------------------------------------------------------------------------------

INK, FAINT, GOOD, BAD = "#1f2933", "#8a94a0", "#1a7f5a", "#c8372d"


def draw(history: History, digits: Digits, logits: A, path: Path) -> None:
    """Learning curves, and held-out digits with what they were read as: all kinds of misread ones first."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with rc_context(style):
        figure = Figure(figsize=(12, 5.6), dpi=120, facecolor="white")
        parts: Any = figure.subfigures(1, 2, width_ratios=(1, 1.55))
        curves, scans = parts
        _draw_curves(curves, history)
        _draw_scans(scans, digits, logits)
        image = io.BytesIO()
        figure.savefig(image, format="png", facecolor="white")
    write_whole(path, image.getvalue())


def _draw_curves(figure: Any, history: History) -> None:
    epochs = range(1, len(history.loss) + 1)
    top, bottom = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"left": 0.17, "right": 0.96, "top": 0.9, "hspace": 0.16}
    )
    top.semilogy(epochs, history.loss, color=INK, linewidth=1.8)
    top.set_ylabel("loss")
    figure.suptitle("learning", x=0.17, y=0.965, ha="left", fontsize=12, fontweight="bold")
    errors = [100.0 * (1.0 - value) for value in history.learned]
    held_out = [100.0 * (1.0 - value) for value in history.held_out]
    bottom.plot(epochs, errors, color=FAINT, linewidth=1.8, label="learned from, with noise")
    bottom.plot(epochs, held_out, color=GOOD, linewidth=2.2, label="held out")
    bottom.set_ylim(0.0, min(20.0, 1.1 * max(*errors, *held_out)))
    bottom.set_ylabel("misread, %")
    bottom.set_xlabel("epoch")
    bottom.legend(frameon=False)
    for axes in (top, bottom):
        axes.grid(axis="y", color=FAINT, alpha=0.2)


def _draw_scans(figure: Any, digits: Digits, logits: A) -> None:
    read, labels = np.argmax(logits, axis=-1), digits.labels_held_out
    wrong, right = np.flatnonzero(read != labels), np.flatnonzero(read == labels)
    rows, columns = 5, 9
    shown = [*wrong[: rows * columns // 2], *right][: rows * columns]
    words = f"{len(right) / len(labels):.1%} of {len(labels)} held-out scans read correctly, {len(wrong)} misread"
    figure.suptitle(words, x=0.01, y=0.965, ha="left", fontsize=12, fontweight="bold")
    grid = figure.subplots(
        rows, columns, gridspec_kw={"left": 0.01, "right": 0.985, "top": 0.86, "bottom": 0.02, "hspace": 0.42}
    )
    for axes, index in zip(grid.flat, shown, strict=False):
        correct = read[index] == labels[index]
        colour = GOOD if correct else BAD
        axes.imshow(digits.x_held_out[index], cmap="gray_r", vmin=-1.0, vmax=1.0)
        words = f"{read[index]}" if correct else f"{read[index]}, is {labels[index]}"
        axes.set_title(words, color=colour, fontsize=10, pad=3, fontweight="normal" if correct else "bold")
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(visible=True, color=colour, linewidth=0.6 if correct else 1.8)


# ---- host memory -----------------------------------------------------------------------------------------------------


def from_host(array: A, place: Place) -> Any:
    """A NumPy array as an array of another library."""
    return convert(array, load_backend("numpy"), place, "demo")


def to_host(array: Any, place: Place) -> A:
    """An array of another library as NumPy's."""
    host: A = convert(array, place.backend, Place(load_backend("numpy"), "cpu"), "demo")
    return host


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
