"""Compare two result files of side_by_side.py, of one processor: fail where gru_xp fell behind.

    python conformance/benchmarks/compare_results.py OLD NEW

Prints the ratio to the best peer at each point, before and after. It fell where it is more than a tenth below the
least that the rounds of OLD allow. The exit status is 1 if it fell anywhere, 2 if the files cannot be compared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ratios import Ratio, ratios, read
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

TENTH = 0.9


def fell(old: Ratio, new: Ratio) -> bool:
    """Whether the ratio is more than a tenth below the least that it was."""
    return new.value < TENTH * old.least


def main() -> None:
    """Print the comparison and exit with its outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args()
    for path in (options.old, options.new):
        if not path.is_file():
            parser.error(f"{path}: no such file")
    old, new = read(options.old), read(options.new)
    kinds = [known["about"].get("kind") for known in (old, new)]
    if kinds[0] != kinds[1]:
        parser.error(f"expected two files of one kind of processor, got {kinds[0]} and {kinds[1]}")
    before = {(one.point, one.task): one for one in ratios(old)}
    pairs = [(before[one.point, one.task], one) for one in ratios(new) if (one.point, one.task) in before]
    if not pairs:
        parser.error("the files have no point in common")
    commits = [known["about"].get("commit", "?") for known in (old, new)]
    table = Table(box=SIMPLE_HEAD, title=f"times as fast as the best peer, {kinds[0]}", title_justify="left")
    for name in ("point", "task", *commits, ""):
        table.add_column(name, justify="left" if name in ("point", "task", "") else "right", no_wrap=True)
    for was, now in pairs:
        cells = [f"{one.value:.2f} ({one.least:.2f} to {one.most:.2f})" for one in (was, now)]
        table.add_row(now.point, now.task, *cells, "fell" if fell(was, now) else "")
    Console(width=100).print(table)
    missing = [
        f"{point} {task}" for point, task in before if (point, task) not in {(b.point, b.task) for _, b in pairs}
    ]
    if missing:
        print(f"not measured in {options.new}: {', '.join(missing)}")
    sys.exit(any(fell(was, now) for was, now in pairs))


if __name__ == "__main__":
    main()
