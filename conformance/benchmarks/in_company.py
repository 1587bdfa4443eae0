"""gru_xp on the CPU and its peers while other programs use the cores too; float32.

    python conformance/benchmarks/in_company.py [--points step,seq] [--engines gru_xp,openvino] [--rounds 3]
        [--keep]        adds to the result file of this kind of processor: conformance/results/in_company/KIND.json
        [--json F]      adds to another file; the points may be measured one after the other
        [--show F]      measures nothing: the table of such a file

Each engine runs in a process of its own, and one after the other makes calls for a while: alone, beside one and two
neighbours (a Python process that counts), and gru_xp also beside a second process that does the same work. All calls of
all rounds count: the median and the 95th percentile are given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from points import POINTS
from processors import measured_on, result_file, write_result
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from side_by_side import ENGINES

from gru_xp_conformance.environment import variables
from gru_xp_conformance.timing import TASKS, Command, Engine, Size, load_and_check
from gru_xp_conformance.timing_report import milliseconds
from gru_xp_conformance.undisturbed import undisturbed

OURS = "gru_xp"
MEASURED = (OURS, "onnxruntime", "openvino", "torch", "jax")
#: how many neighbours there are; TWIN is a second process of the same engine instead
ALONE, TWIN = "alone", "its like"
COMPANY = {ALONE: 0, "1 neighbour": 1, "2 neighbours": 2}
SECONDS = 0.4  # of calls for each engine, task, company and round
NEIGHBOUR = """
import sys
print(flush=True)
while True:
    for _ in range(100_000):
        pass
"""
#: what the issue asks of a median, of a 95th percentile, and of two processes at once: times what it is alone
MEDIAN, PERCENTILE, LATER, BOTH = 2.5, 6.0, 8e-3, 2.3


@contextmanager
def neighbours(count: int) -> Iterator[list[int]]:
    """Processes that count; their numbers."""
    processes = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR], stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def percentile(times: Sequence[float]) -> float:
    """The 95th."""
    return sorted(times)[min(len(times) - 1, int(0.95 * len(times)))]


def measured(names: Sequence[str], size: Size, tasks: Sequence[str], rounds: int, console: Console) -> dict[str, Any]:
    """Median, 95th percentile and number of calls: by task, company and engine."""
    words = [sys.executable, str(Path(__file__).parent / "side_by_side.py"), "--engine"]
    commands = {name: Command([*words, name], {"GRU_XP_KERNELS": "auto"}) for name in names}
    times: dict[str, dict[str, dict[str, list[float]]]] = {task: {} for task in tasks}
    with ExitStack() as stack, variables(GRU_XP_BACKEND=None):
        engines = {name: stack.enter_context(Engine(name, command)) for name, command in commands.items()}
        twin = stack.enter_context(Engine("twin", commands[OURS])) if OURS in names else None
        right, left_out = load_and_check(
            [*engines.values(), *([twin] if twin else [])], size, tasks, "float32", lambda text: None
        )
        for name, reason in left_out.items():
            console.print(f"{name}: {reason}", highlight=False)

        pids = [engine.process.pid for engine in (*engines.values(), *([twin] if twin else []))]

        def calls(name: str, task: str, company: str) -> Any:
            engine = engines[name]
            if company == TWIN:
                assert twin is not None
                twin.tell("times", [task, SECONDS + 0.1])
                time.sleep(0.05)
            found = engine.ask("times", [task, SECONDS])
            if company == TWIN and twin is not None:
                twin.answer()
            return found

        def turn(name: str, task: str, company: str, others: Sequence[int] = ()) -> None:
            found = undisturbed(lambda: calls(name, task, company), [*pids, *others])
            if not isinstance(found, list):
                raise RuntimeError(f"{name} at {size}, {task}, {company}: {found}")
            times[task].setdefault(company, {}).setdefault(name, []).extend(found)
            time.sleep(0.02)  # the threads of some go on looking for work

        for _ in range(rounds):
            for company, count in COMPANY.items():
                with neighbours(count) as others:
                    for task in tasks:
                        for name in [name for name in engines if task in right.get(name, {})]:
                            turn(name, task, company, others)
            for task in tasks:
                if OURS in right and "twin" in right:
                    turn(OURS, task, TWIN)
    return {
        task: {
            company: {name: [statistics.median(t), percentile(t), len(t)] for name, t in found.items()}
            for company, found in by_company.items()
        }
        for task, by_company in times.items()
    }


def misses(found: dict[str, Any]) -> Iterator[str]:
    """What is asked of gru_xp at one point and task and not reached, in words."""
    alone = found[ALONE][OURS][0]
    for company, engines in found.items():
        if company == ALONE or OURS not in engines:
            continue
        median, percentile, _ = engines[OURS]
        most = BOTH if company == TWIN else MEDIAN
        if median > most * alone:
            yield f"{company}: the median is {median / alone:.2f} times alone, at most {most} are asked for"
        if company == TWIN:
            continue
        if percentile > max(PERCENTILE * alone, alone + LATER):
            yield f"{company}: p95 is {percentile / alone:.1f} times alone"
        peers = {name: one for name, one in engines.items() if name != OURS}
        for what, place in (("median", 0), ("p95", 1)):
            best = min(peers, key=lambda name: peers[name][place], default=None)
            if best is not None and engines[OURS][place] > peers[best][place]:
                ratio = engines[OURS][place] / peers[best][place]
                yield f"{company}: {what} is {ratio:.2f} times that of {best}"


def cell(one: Sequence[float] | None) -> str:
    """Median and 95th percentile."""
    return "" if one is None else f"{milliseconds(one[0])} ({milliseconds(one[1])})"


def show(console: Console, known: dict[str, Any]) -> None:
    """A row for each point, task and engine, and what is not reached."""
    table = Table(box=SIMPLE_HEAD, title="milliseconds: median (95th percentile)", title_justify="left")
    companies = [*COMPANY, TWIN]
    for name in ("point", "task", "engine"):
        table.add_column(name, no_wrap=True)
    for company in companies:
        table.add_column(company, justify="right", no_wrap=True)
    missed = []
    for point in [point for point in POINTS if point in known["points"]]:
        for task, found in known["points"][point].items():
            for name in found[ALONE]:
                cells = [cell(found.get(company, {}).get(name)) for company in companies]
                table.add_row(point, task, name, *cells, style="bold" if name == OURS else "")
            if OURS in found[ALONE]:
                missed += [f"{point}, {task}, {text}" for text in misses(found)]
    console.print(table)
    for text in missed:
        console.print(text, highlight=False)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default=",".join(MEASURED))
    parser.add_argument("--points", default=",".join(POINTS))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", action="store_true")
    for option in ("--json", "--show"):
        parser.add_argument(option, type=Path)
    options = parser.parse_args()
    console = Console(width=150)
    kept = options.show or options.json or (result_file("in_company") if options.keep else None)
    known = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}
    known = {"about": {}, "points": {}, **known}
    if options.show is None:
        assert set(options.engines.split(",")) <= set(ENGINES)
        for point in options.points.split(","):
            found = measured(
                options.engines.split(","), POINTS[point], options.tasks.split(","), options.rounds, console
            )
            known["points"][point] = known["points"].get(point, {}) | found
            known["about"] = measured_on() | {"rounds": options.rounds}
            if kept is not None:
                write_result(kept, known)
    show(console, known)


if __name__ == "__main__":
    main()
