"""The report: the matrix for a terminal, one HTML page with a picture of where errors lie, the table for a README."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gru_xp.discovery import available, entries

from .cases import GROUPS, all_cases
from .judge import Target
from .matrix import FAILED, NOT_RUN, PASSED, Outcome, Result

__all__ = ["BEGIN", "END", "as_text", "html", "markdown", "print_matrix", "put_between", "put_table", "table_differs"]

BEGIN, END = "<!-- support:begin -->", "<!-- support:end -->"
QUICK = "quick: one dtype and the shorter cases alone; run without --quick before you trust it"
IN_FULL = 5  # failed cases of a target
KINDS = ("y", "h_n", "x", "h_prev", "r", "z", "u", "n", "dx", "dh0", "dW_ih", "dW_hh", "db_ih", "db_hh")


def _counts(outcomes: Iterable[Outcome]) -> Counter[str]:
    return Counter(outcome.status for outcome in outcomes)


def _worst(outcomes: Iterable[Outcome]) -> float:
    return max((outcome.worst for outcome in outcomes if outcome.errors), default=0.0)


def _not_run(outcomes: Iterable[Outcome], target: Target) -> dict[str, list[Outcome]]:
    """What did not run there, by reason."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.status == NOT_RUN and outcome.target == target:
            found.setdefault(outcome.reason, []).append(outcome)
    return found


Failure = list[Outcome]  # of one case on one target: its dtypes, float32 first


def _failures(outcomes: Iterable[Outcome], target: Target) -> tuple[list[Failure], list[Failure]]:
    """The failed cases of a target: those to show in full, and the others, mostly consequences of the same mistakes.

    In full is the first of each group, and cases of one step come first, where a mistake has not spread yet.
    """
    found: dict[tuple[str, str], Failure] = {}
    for outcome in outcomes:
        if outcome.status == FAILED and outcome.target == target:
            found.setdefault((outcome.group, outcome.case), []).append(outcome)
    cases = [sorted(each, key=lambda outcome: outcome.dtype != "float32") for each in found.values()]
    cases.sort(key=lambda case: "in T=1, " not in case[0].reason)
    groups = {case[0].group: case for case in reversed(cases)}
    first = [case for case in cases if groups[case[0].group] is case][:IN_FULL]
    return first, [case for case in cases if case not in first]


def _catches(outcome: Outcome) -> str:
    """The mistake that its case is for."""
    return next((one.catches for one in all_cases() if (one.group, one.name) == (outcome.group, outcome.case)), "")


def _case_words(case: Failure) -> str:
    first = case[0]
    return f"{first.target}, {first.group}: {first.case}, {', '.join(outcome.dtype for outcome in case)}"


def _verdict(result: Result) -> str:
    if not result.passed:
        return "not conformant"
    return "the quick subset passed" if result.quick else "all that was promised passed"


def as_text(report: dict[str, Any]) -> str:
    """JSON with a line for each outcome, so that two runs can be compared line by line."""
    head = json.dumps({**report, "outcomes": []}, indent=1)
    outcomes = ",\n".join(f"  {json.dumps(outcome)}" for outcome in report["outcomes"])
    return head.replace('"outcomes": []', f'"outcomes": [\n{outcomes}\n ]') + "\n"


# ---- for a terminal --------------------------------------------------------------------------------------------------


def print_matrix(result: Result, console: Console) -> None:
    """The matrix, what failed, and what did not run with its reason."""
    for targets in _blocks(result.targets, console.width):
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("", no_wrap=True)
        for target in targets:
            place = target.name if target.device == "cpu" else f"{target.name}:{target.device}"
            table.add_column(f"{place}\n{target.kernel}", justify="right", no_wrap=True)
        for group in GROUPS:
            table.add_row(group, *(_cell_text(result.cell(target, group)) for target in targets))
        console.print(table)
    console.print("cases passed, and the worst error as a fraction of its bound", style="dim", highlight=False)
    for target in result.targets:
        first, more = _failures(result.outcomes, target)
        for case in first:
            console.print(f"[red]failed[/] {_case_words(case)}", highlight=False, soft_wrap=True)
            console.print(f"  [dim]this case catches: {_catches(case[0])}[/]", highlight=False, soft_wrap=True)
            console.print("  " + case[0].reason, markup=False, highlight=False, soft_wrap=True)
        if more:
            counts = Counter(case[0].group for case in more)
            groups = ", ".join(f"{counts[group]} in {group}" for group in GROUPS if group in counts)
            words = f"[red]failed[/] {target}, {len(more)} more cases: {groups}; --html shows each of them"
            console.print(words, highlight=False, soft_wrap=True)
    for target in result.targets:
        for reason, outcomes in _not_run(result.outcomes, target).items():
            words = (
                f"not run  {target}  {len(outcomes)} in {', '.join(dict.fromkeys(o.group for o in outcomes))}: {reason}"
            )
            console.print(words, markup=False, highlight=False, style="dim", soft_wrap=True)
    for one in result.missing:
        console.print(f"not here  {one.name}: {one.reason}", markup=False, highlight=False, style="dim", soft_wrap=True)
    for broken in result.broken_promises:
        console.print(f"[red]promised, not run[/] {broken}", highlight=False, soft_wrap=True)
    total = _counts(result.outcomes)
    words = ", ".join(f"{total[status]} {status}" for status in (PASSED, FAILED, NOT_RUN))
    verdict = f"[{'green' if result.passed else 'red'}]{_verdict(result)}[/]"
    console.print(
        f"{verdict}: {words}, in {result.seconds:.1f} s{f' ({QUICK})' if result.quick else ''}",
        highlight=False,
        soft_wrap=True,
    )


def _blocks(targets: Sequence[Target], width: int) -> list[list[Target]]:
    """Targets in groups, whose columns fit beside the names of the groups of cases."""
    blocks: list[list[Target]] = []
    left = 0
    for target in targets:
        wide = 2 + max(9, len(str(target).partition(" ")[0].removesuffix(":cpu")), len(target.kernel))
        if not blocks or left < wide:
            blocks.append([])
            left = width - 3 - max(map(len, GROUPS))
        blocks[-1].append(target)
        left -= wide
    return blocks


def _cell_text(outcomes: list[Outcome]) -> str:
    count = _counts(outcomes)
    if count[FAILED]:
        return f"[red]{count[FAILED]} failed[/]"
    if not count[PASSED]:
        return "[dim]-[/]"
    return f"[green]{count[PASSED]}[/] [dim]{_worst(outcomes):.2f}[/]"


# ---- for a README ----------------------------------------------------------------------------------------------------


def markdown(result: Result) -> str:
    """The support table: a row per backend, device and kernel; the same wherever the same passes."""
    names = list(GROUPS)
    lines = [
        "| backend | device | kernel | " + " | ".join(names) + " |",
        "|---|---|---|" + ":-:|" * len(names),
    ]
    for target in sorted(result.targets, key=lambda target: (target.name, target.device, target.kernel != "plain")):
        cells = [_mark(result.cell(target, group)) for group in names]
        lines.append(f"| {target.name} | {target.device} | {target.kernel} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "✓ all cases passed, ✗ some failed, - does not apply: kernels convert nothing.",
    ]
    not_here = sorted(set(entries()) - set(available()) - {target.name for target in result.targets})
    if not_here:
        lines.append(f"Not here when this was written: {', '.join(not_here)}.")
    return "\n".join(lines)


def _mark(outcomes: list[Outcome]) -> str:
    count = _counts(outcomes)
    return "✗" if count[FAILED] else "✓" if count[PASSED] else "-"


def put_table(path: Path, result: Result) -> None:
    """Write the support table between its markers."""
    path.write_text(_with_table(path, result), encoding="utf-8")


def table_differs(path: Path, result: Result) -> bool:
    """Whether the support table in the file is another than this run gives."""
    return path.read_text(encoding="utf-8") != _with_table(path, result)


def _with_table(path: Path, result: Result) -> str:
    return _between(path, "support", markdown(result))


def put_between(path: Path, mark: str, text: str) -> None:
    """Write into a file what stands between the markers of that name."""
    path.write_text(_between(path, mark, text), encoding="utf-8")


def _between(path: Path, mark: str, text: str) -> str:
    """The file's text with another one between the markers."""
    whole, begin, end = path.read_text(encoding="utf-8"), f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    if begin not in whole or end not in whole:
        raise ValueError(
            f"{path}: expected the markers {begin} and {end}, found none; put them where the table should stand"
        )
    between = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    return between.sub(lambda _: f"{begin}\n{text}\n{end}", whole, count=1)


# ---- one page --------------------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --faint: #6b7280; --line: #d8dce2; --good: #1a7f37;
        --bad: #c62828; --head: #f4f6f8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --paper: #15181c; --faint: #9aa3ad; --line: #333a42; --good: #4ac26b; --bad: #ff6b6b;
          --head: #1e2329 } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
       max-width: 78rem; padding: 0 1rem }
h1 { font-size: 1.5rem }
h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-size: .86rem }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .55rem }
th { text-align: left; background: var(--head) }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
pre { white-space: pre-wrap; background: var(--head); padding: .7rem; border-radius: 4px; font-size: .8rem }
summary { cursor: pointer; padding: .25rem 0 }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif }
svg .group { font-weight: 600 }
svg .rule { stroke: var(--line) }
.good { color: var(--good) }
.bad { color: var(--bad); font-weight: 600 }
.faint { color: var(--faint) }
.wide { overflow-x: auto }
#figure { position: sticky; top: 0; min-height: 1.5em; margin: 0; background: var(--paper) }
.e0 { fill: #cfe8d4 } .e1 { fill: #8fcf95 } .e2 { fill: #b9d77c } .e3 { fill: #e8cf62 } .e4 { fill: #f2a33a }
.e5 { fill: #d32f2f }
@media (prefers-color-scheme: dark) {
  .e0 { fill: #1f3527 } .e1 { fill: #2b5c3a } .e2 { fill: #5b7a33 } .e3 { fill: #9c8526 } .e4 { fill: #d98a1e }
  .e5 { fill: #ff5252 } }
"""

PICTURES = """<h2>Where errors lie</h2>
<p class='faint'>Each row is a case, each column a quantity; the colour is the worst error in any dtype as a fraction of
its bound: faint green far inside it, amber near it, red past it. Point at a square, or touch it, to see the figure.
On a narrow screen the pictures scroll sideways.</p>
<p id='figure' role='status'></p>
<script>document.addEventListener('click', e => { const t = e.target.closest && e.target.closest('rect');
if (t) document.getElementById('figure').textContent = t.textContent })</script>"""


def html(result: Result) -> str:
    """Everything on one page, which needs nothing from elsewhere."""
    verdict = _verdict(result)
    total = _counts(result.outcomes)
    counts = ", ".join(f"{total[status]} {status}" for status in (PASSED, FAILED, NOT_RUN))
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>gru_xp conformance: {verdict}</title><style>{STYLE}</style></head><body>",
        f"<h1>gru_xp conformance: <span class='{'good' if result.passed else 'bad'}'>{verdict}</span></h1>",
        f"<p>{counts}, in {result.seconds:.1f} s{f' ({QUICK})' if result.quick else ''}.</p>",
        *(f"<p class='bad'>promised, not run: {escape(broken)}</p>" for broken in result.broken_promises),
        "<h2>The matrix</h2><p class='faint'>Cases passed, and the worst error as a fraction of its bound.</p>",
        _html_matrix(result),
        _html_failures(result),
        PICTURES,
        *(_html_picture(result, target) for target in result.targets),
        _html_not_run(result),
        _html_environment(result),
        "</body></html>",
    ]
    return "\n".join(parts)


def _html_matrix(result: Result) -> str:
    head = "".join(f"<th title='{escape(text)}'>{group}</th>" for group, text in GROUPS.items())
    rows = []
    for target in result.targets:
        cells = "".join(_html_cell(result.cell(target, group)) for group in GROUPS)
        rows.append(f"<tr><th>{escape(str(target))}</th>{cells}</tr>")
    return f"<div class='wide'><table><tr><th>backend</th>{head}</tr>{''.join(rows)}</table></div>"


def _html_cell(outcomes: list[Outcome]) -> str:
    count = _counts(outcomes)
    title = escape(", ".join(f"{count[status]} {status}" for status in (PASSED, FAILED, NOT_RUN)))
    if count[FAILED]:
        return f"<td class='n bad' title='{title}'>{count[FAILED]} failed</td>"
    if not count[PASSED]:
        return f"<td class='n faint' title='{title}'>-</td>"
    figures = f"<span class='good'>{count[PASSED]}</span> <span class='faint'>{_worst(outcomes):.2f}</span>"
    return f"<td class='n' title='{title}'>{figures}</td>"


def _html_failures(result: Result) -> str:
    parts = []
    for target in result.targets:
        first, more = (list(map(_html_failure, cases)) for cases in _failures(result.outcomes, target))
        parts += first
        if more:
            summary = f"{escape(str(target))}: {len(more)} more cases"
            parts.append(f"<details><summary>{summary}</summary>{''.join(more)}</details>")
    return "<h2>What failed</h2>" + "".join(parts) if parts else ""


def _html_failure(case: Failure) -> str:
    others = "".join(
        f"<details><summary>in {outcome.dtype}</summary><pre>{escape(outcome.reason)}</pre></details>"
        for outcome in case[1:]
    )
    return (
        f"<p>{escape(_case_words(case))}</p><p class='faint'>this case catches: {escape(_catches(case[0]))}</p>"
        f"<pre>{escape(case[0].reason)}</pre>{others}"
    )


def _html_picture(result: Result, target: Target) -> str:
    """A square for each case and quantity."""
    worst: dict[tuple[str, str], dict[str, float]] = {}
    for outcome in result.outcomes:
        if outcome.target == target and outcome.errors:
            row = worst.setdefault((outcome.group, outcome.case), {})
            for kind, error in outcome.errors.items():
                row[kind] = max(error, row.get(kind, 0.0))
    if not worst:
        return ""
    side, left, top = 18, 430, 52
    kinds = [kind for kind in KINDS if any(kind in row for row in worst.values())]
    width, height = left + side * len(kinds) + 20, top + side * len(worst) + 8
    parts = [f"<svg viewBox='0 0 {width} {height}' width='{width}' height='{height}' role='img'>"]
    for column, kind in enumerate(kinds):
        x = left + side * column + side / 2
        parts.append(f"<text x='{x}' y='{top - 6}' transform='rotate(-55 {x} {top - 6})'>{kind}</text>")
    before = ""
    for line, ((group, case), row) in enumerate(worst.items()):
        y = top + side * line
        if group != before:
            parts.append(f"<line class='rule' x1='0' x2='{width - 20}' y1='{y - 0.5}' y2='{y - 0.5}'/>")
            parts.append(f"<text class='group' x='0' y='{y + 12}'>{group}</text>")
            before = group
        parts.append(f"<text x='{left - 8}' y='{y + 12}' text-anchor='end'>{escape(case)}</text>")
        for column, kind in enumerate(kinds):
            if kind in row:
                x, edge, title = (
                    left + side * column,
                    side - 1,
                    f"{group}: {case}; {kind}: {row[kind]:.3g} of its bound",
                )
                square = f"<rect x='{x}' y='{y}' width='{edge}' height='{edge}' class='{_shade(row[kind])}'>"
                parts.append(f"{square}<title>{escape(title)}</title></rect>")
    parts.append("</svg>")
    state = " open" if target == result.targets[0] else ""
    return f"<details{state}><summary>{escape(str(target))}</summary><div class='wide'>{''.join(parts)}</div></details>"


def _shade(fraction: float) -> str:
    """A class of the style: from far inside the bound, e0, to past it, e5."""
    return "e5" if fraction > 1.0 else f"e{sum(fraction >= limit for limit in (0.03, 0.125, 0.25, 0.5))}"


def _html_not_run(result: Result) -> str:
    items = [f"<li>{escape(one.name)}: {escape(one.reason)}</li>" for one in result.missing]
    for target in result.targets:
        for reason, outcomes in _not_run(result.outcomes, target).items():
            cases = ", ".join(dict.fromkeys(f"{outcome.group}: {outcome.case}" for outcome in outcomes))
            items.append(
                f"<li>{escape(str(target))}: {escape(reason)} <span class='faint'>({escape(cases)})</span></li>"
            )
    return f"<h2>What did not run, and why</h2><ul>{''.join(items)}</ul>" if items else ""


def _html_environment(result: Result) -> str:
    rows = []
    for name, value in result.environment.items():
        text = "; ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        rows.append(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>")
    return f"<h2>Where it ran</h2><table>{''.join(rows)}</table>"
