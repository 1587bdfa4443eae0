"""The demo's picture: learning curves, and scans with what they were read as."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.atomic import write_whole

from .digits import A, Digits, History

__all__ = ["draw"]

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
