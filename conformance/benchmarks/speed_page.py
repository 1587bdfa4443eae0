"""Write the page of speed, docs/speed.md, and the README's small table, from the result files of all processors.

    python conformance/benchmarks/speed_page.py

Needs no measurement: run it after side_by_side.py, autodiff.py or in_company.py kept a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autodiff import COMPARISONS, WORDS
from in_company import BOTH, COMPANY, LATER, MEDIAN, OURS, PERCENTILE, TWIN, misses
from points import POINTS
from processors import PACKAGES
from ratios import Ratio, best_peer, every_result, ratios, timings_of

from gru_xp_conformance.report import put_between
from gru_xp_conformance.timing import TASKS, Size
from gru_xp_conformance.timing_report import milliseconds

ROOT = Path(__file__).parents[2]
HEAD = """\
# Speed

Written by `conformance/benchmarks/speed_page.py` from the files in `conformance/results`, one for each kind of
processor. Each engine ran in its own process, in turns with the others; figures are medians, ratios come from one run.
All machines are shared virtual ones of two cores, so read ratios and not milliseconds. The README in
`conformance/benchmarks` has the commands that measure yours.
"""
COMPANY_WORDS = """\
Milliseconds, median (95th percentile). A neighbour is a Python process that counts; "its like" is a second process with
the same calls.
"""
MISSED_WORDS = f"""\
Missed here: a median of at most {MEDIAN} times alone ({BOTH} for two alike), a 95th percentile of at most {PERCENTILE}
times alone or {1e3 * LATER:.0f} ms more, and neither above the best peer's in the same company.
"""


def about(known: dict[str, Any]) -> str:
    """The machine, the commit and the versions, in a sentence."""
    found = known["about"]
    packages = ", ".join(f"{name} {found[name]}" for name in ("python", *PACKAGES) if name in found)
    caches = f", caches {', '.join(found['caches'])}" if found.get("caches") else ""
    return (
        f"{found['cores']} cores of {found['processor']} ({found['kind']}, {found['vectors']}{caches}), commit "
        f"{found['commit']}, {found['date']}; medians of at least {found['rounds']} rounds; {packages}."
    )


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; the first column is text, the others numbers."""
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def by_processor() -> dict[str, dict[tuple[str, str], Ratio]]:
    """The ratios of each kind of processor, by point and task."""
    return {
        known["about"]["kind"]: {(one.point, one.task): one for one in ratios(known)}
        for known in every_result("side_by_side")
    }


def worst_first() -> str:
    """The ratio at each point on every processor, the smallest first."""
    found = by_processor()
    keys = {key for each in found.values() for key in each}
    least = {key: min(each[key].value for each in found.values() if key in each) for key in keys}
    rows = []
    for point, task in sorted(keys, key=lambda key: least[key]):
        cells = [
            f"{each[point, task].value:.2f} ({each[point, task].peer})" if (point, task) in each else ""
            for each in found.values()
        ]
        rows.append([f"{POINTS[point]}, {task}", *cells])
    return table(["T, N, I, H", *found], rows)


def smallest() -> str:
    """For the README: the smallest ratio of all processors at each point, a column for each task."""
    found, rows = by_processor(), []
    for point, size in POINTS.items():
        cells = []
        for task in TASKS:
            values = [each[point, task].value for each in found.values() if (point, task) in each]
            cells.append(f"{min(values):.2f}" if values else "")
        rows.append([str(size), *cells])
    return table(["T, N, I, H", *TASKS], rows)


def engines(known: dict[str, Any]) -> str:
    """The milliseconds of every engine on one processor."""
    timings = timings_of(known)
    names = [name for name in dict.fromkeys(one.engine for one in timings) if name != "kernels"]
    rows = []
    for size in POINTS.values():
        for task in TASKS:
            found = {one.engine: one.median for one in timings if (one.size, one.task) == (size, task)}
            best = best_peer(timings, size, task)
            if OURS in found and best is not None:
                cells = [milliseconds(found[name]) if name in found else "" for name in names]
                rows.append([f"{size}, {task}", *cells, f"{best.median / found[OURS]:.2f}"])
    words = {OURS: f"**{OURS}**", "plain": "plain path"}
    return table(["T, N, I, H", *(words.get(name, name) for name in names), "best peer's time over ours"], rows)


def gradients(known: dict[str, Any]) -> str:
    """Inside PyTorch and JAX on one processor: without gru_xp, with it, and the ratio."""
    rows = []
    for name, words in WORDS.items():
        for point in COMPARISONS[name][2]:
            if (one := known["seconds"].get(name, {}).get(point)) is not None:
                cells = [milliseconds(one[of][0]) for of in ("peer", "ours")]
                rows.append([f"{words}; {Size(*one['size'])}", *cells, f"{one['ratio']:.2f}"])
    return table(["", "without, ms", "with gru_xp, ms", "times as fast"], rows)


def company(known: dict[str, Any]) -> str:
    """Medians and 95th percentiles beside other programs on one processor."""
    companies, rows = [*COMPANY, TWIN], []
    for point, tasks in known["points"].items():
        for task, found in tasks.items():
            for name in found["alone"]:
                cells = [
                    f"{milliseconds(found[c][name][0])} ({milliseconds(found[c][name][1])})"
                    if name in found.get(c, {})
                    else ""
                    for c in companies
                ]
                rows.append([f"{POINTS[point]}, {task}: {name}", *cells])
    return table(["T, N, I, H", *companies], rows)


def missed(known: dict[str, Any]) -> Iterator[str]:
    """What is asked of gru_xp in company and not reached on one processor."""
    for point, tasks in known["points"].items():
        for task, found in tasks.items():
            if OURS in found["alone"]:
                yield from (f"- {POINTS[point]}, {task}, {text}" for text in misses(found))


def page() -> str:
    """The page of speed."""
    parts = [HEAD, "## Times as fast as the best peer, the smallest first", worst_first()]
    parts.append("The name of the best peer is beside each ratio; below 1 the peer is faster.")
    for known in every_result("side_by_side"):
        parts += [f"## Milliseconds: {known['about']['kind']}", engines(known), about(known)]
    for known in every_result("autodiff"):
        parts += [f"## Inside PyTorch and JAX: {known['about']['kind']}", gradients(known), about(known)]
    for known in every_result("in_company"):
        parts += [
            f"## In company: {known['about']['kind']}",
            "Milliseconds, median (95th percentile). A neighbour is a ",
        ]
        parts[-1] += 'Python process that counts; "its like" is a second process with the same calls.'
        parts += [company(known), about(known)]
        if lines := list(missed(known)):
            parts.append(
                "More than a median of 2.5 times alone, a 95th percentile of 6 times alone, or the best peer's:\n"
            )
            parts[-1] += "\n" + "\n".join(lines)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main() -> None:
    """Write both."""
    (ROOT / "docs" / "speed.md").write_text(page(), encoding="utf-8")
    put_between(ROOT / "README.md", "speed", smallest())


if __name__ == "__main__":
    main()
