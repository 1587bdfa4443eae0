"""What `timing.compare` found, for people: a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gru_xp.errors import GRUError

from .timing import TASKS, Size, Timing

__all__ = ["milliseconds", "picture", "print_timings"]

MARKERS = "osD^*PXv<>"


def milliseconds(seconds: float) -> str:
    """Three digits."""
    return f"{1e3 * seconds:#.3g}".rstrip(".")


def print_timings(console: Console, timings: Sequence[Timing], left_out: Mapping[str, str]) -> None:
    """A table for each task: a row for each size, a column for each engine, the fastest in bold."""
    for task in TASKS:
        found = [one for one in timings if one.task == task]
        if not found:
            continue
        engines, sizes = _names(found), _sizes(found)
        table = Table(box=SIMPLE_HEAD, title=f"{task}, milliseconds", title_justify="left", title_style="bold")
        table.add_column("engine", no_wrap=True)
        for size in sizes:
            table.add_column(str(size), justify="right")
        best = {size: min(one.median for one in found if one.size == size) for size in sizes}
        for name in engines:
            row = {one.size: one for one in found if one.engine == name}
            table.add_row(name, *(_cell(row.get(size), best[size]) for size in sizes))
        console.print(table)
    if timings:
        console.print(
            "medians of the rounds, and how far these were apart; the fastest in bold; columns are T, N, I, H",
            style="dim",
            highlight=False,
        )
    for name, reason in left_out.items():
        console.print(f"[yellow]{escape(name)}[/]: {escape(reason)}", highlight=False, soft_wrap=True)


def _cell(one: Timing | None, best: float) -> str:
    if one is None:
        return "-"
    text = f"{milliseconds(one.median)} [dim]±{50 * (one.most - one.least) / one.median:.0f}%[/]"
    return f"[bold green]{text}[/]" if one.median == best else text


def picture(timings: Sequence[Timing], path: Path, ours: str | None = None) -> None:
    """Every engine's time over that of `ours`, or of the fastest, for each size; a panel for each task."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        raise GRUError("the picture needs matplotlib: python -m pip install 'gru-xp[demo]'") from None
    mpl.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    tasks = [task for task in TASKS if any(one.task == task for one in timings)]
    sizes, names = _sizes(timings), _names(timings)
    colours = {name: f"C{i % 10}" for i, name in enumerate(names)}
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(5.2 * len(tasks), 1.6 + 0.42 * len(sizes)), sharey=True, squeeze=False
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        for row, size in enumerate(sizes):
            found = {one.engine: one for one in timings if one.size == size and one.task == task}
            if not found:
                continue
            unit = found[ours].median if ours in found else min(one.median for one in found.values())
            for name, one in found.items():
                place = names.index(name)
                axis.plot(
                    one.median / unit,
                    row,
                    MARKERS[place % len(MARKERS)],
                    color=colours[name],
                    markersize=11 if name == ours else 6.5,
                    label=name,
                    zorder=3,
                )
                axis.hlines(row, one.least / unit, one.most / unit, color=colours[name], linewidth=1.5, zorder=2)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.axvline(1, color="0.6", linewidth=1, zorder=1)
        axis.grid(axis="x", color="0.9", zorder=0)
        axis.set_title(task if task == "inference" else "training: forward and backward")
        axis.set_xlabel(f"time, that of {ours} being 1" if ours else "time, the fastest being 1")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_yticks(range(len(sizes)), [str(size) for size in sizes])
    axes[0, 0].set_ylabel("T, N, I, H")
    axes[0, 0].set_ylim(len(sizes) - 0.5, -0.5)  # the first on top
    handles = {
        label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend([handles[name] for name in names], names, loc="lower center", ncols=min(len(names), 7), frameon=False)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _names(timings: Sequence[Timing]) -> list[str]:
    return list(dict.fromkeys(one.engine for one in timings))


def _sizes(timings: Sequence[Timing]) -> list[Size]:
    return list(dict.fromkeys(one.size for one in timings))
