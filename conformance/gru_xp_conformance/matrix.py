"""The run: which rows there are, every case on every row, and what came out."""

from __future__ import annotations

import os
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from tempfile import gettempdir
from typing import Any

import numpy as np

from gru_xp.backend import Backend
from gru_xp.discovery import available, entries, load
from gru_xp.errors import GRUError
from gru_xp.kernels import kernels_of, ordinary_call, refusal, unusable

from .cases import Case, all_cases
from .environment import describe, variables
from .guard import Side, guarded
from .implementation import Library, RefusedError
from .judge import Judge, MismatchError, NotRunError, Target, compiles

__all__ = ["Missing", "Outcome", "Result", "chosen", "judge_case", "promises_broken", "run", "targets"]

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
#: groups with many shapes, each of which costs a compilation in each dtype
ONE_DTYPE_OF_COMPILERS = ("sizes", "ragged")

#: the variables while a case runs; Hypothesis would leave a folder behind wherever the command is run
CLEARED = {
    "GRU_XP_BACKEND": None,
    "GRU_XP_KERNELS": "off",
    "HYPOTHESIS_STORAGE_DIRECTORY": os.environ.get(
        "HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(gettempdir(), "hypothesis")
    ),
}


@dataclass(frozen=True)
class Missing:
    """What was asked for, or might have been, and is not here."""

    name: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """One case on one target in one dtype."""

    target: Target
    case: str
    group: str
    dtype: str
    status: str
    reason: str = ""
    errors: dict[str, float] = field(default_factory=dict)  # by quantity, as a fraction of the bound
    seconds: float = 0.0

    @property
    def worst(self) -> float:
        return max(self.errors.values(), default=0.0)


@dataclass(frozen=True)
class Result:
    """A whole run."""

    outcomes: tuple[Outcome, ...]
    missing: tuple[Missing, ...]
    broken_promises: tuple[str, ...]
    environment: dict[str, Any]
    quick: bool
    seconds: float

    @property
    def targets(self) -> tuple[Target, ...]:
        return tuple(dict.fromkeys(outcome.target for outcome in self.outcomes))

    def cell(self, target: Target, group: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.target == target and outcome.group == group]

    @property
    def passed(self) -> bool:
        """Whether all that ran passed and all that was promised ran."""
        return not self.broken_promises and all(outcome.status != FAILED for outcome in self.outcomes)

    def joined(self, others: Iterable[dict[str, Any]]) -> Result:
        """With the rows of other runs, as `as_json` wrote them, that are not in this one."""
        here = set(self.targets)
        more = [
            Outcome(target, one["case"], one["group"], one["dtype"], one["status"])
            for other in others
            for one in other["outcomes"]
            if (target := Target(one["backend"], one["device"], one["kernel"])) not in here
        ]
        names = {outcome.target.name for outcome in more}
        missing = tuple(one for one in self.missing if one.name not in names)
        return replace(self, outcomes=(*self.outcomes, *more), missing=missing)

    def as_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "quick": self.quick,
            "seconds": round(self.seconds, 1),
            "environment": self.environment,
            "missing": [asdict(one) for one in self.missing],
            "broken_promises": list(self.broken_promises),
            "outcomes": [
                {
                    "backend": outcome.target.name,
                    "device": outcome.target.device,
                    "kernel": outcome.target.kernel,
                    "group": outcome.group,
                    "case": outcome.case,
                    "dtype": outcome.dtype,
                    "status": outcome.status,
                    **({"reason": outcome.reason} if outcome.reason else {}),
                    **({"errors": {k: float(f"{v:.3g}") for k, v in outcome.errors.items()}} if outcome.errors else {}),
                    "seconds": round(outcome.seconds, 3),
                }
                for outcome in self.outcomes
            ],
        }


def chosen(names: Sequence[str] = ()) -> tuple[str, ...]:
    """What to judge: the names that were given, else what GRU_XP_BACKEND says, else nothing, which means everything."""
    if names:
        return tuple(names)
    variable = os.environ.get("GRU_XP_BACKEND", "")
    return () if variable in ("", "auto") else (variable,)


def parsed(text: str) -> tuple[str, str, str]:
    """Name, device and kernel of `name[:device][ kernel]`, as rows are printed; empty where nothing is said."""
    place, _, kernel = text.partition(" ")
    name, _, device = place.partition(":")
    return name, device, kernel


def targets(names: Sequence[str] = ()) -> tuple[tuple[Target, ...], tuple[Missing, ...]]:
    """The rows: each backend (`name[:device][ kernel]`) on each kind of device, plain and with each of its kernels.

    A kernel that declines even the most ordinary call, because it is for another device, say, is missing there.
    """
    rows: list[Target] = []
    missing: list[Missing] = []
    for text in names or sorted(entries(), key=lambda name: (name not in available(), name)):
        name, device, kernel = parsed(text)
        try:
            backend = load(name)
            devices = (backend.device_name(backend.device(device)),) if device else one_of_each_kind(backend.devices())
        except (GRUError, ImportError, RuntimeError) as error:
            missing.append(Missing(text, str(error)))
            continue
        if backend.takes_whole_calls:
            missing.append(Missing(text, "other backends compute its chunks, and these are judged"))
            continue
        found = [row for each in devices for row in _rows_on(backend, each)]
        asked = [(target, reason) for target, reason in found if kernel in ("", target.kernel)]
        rows += [target for target, reason in asked if reason is None]
        if not kernel:
            missing += [Missing(str(target), reason) for target, reason in asked if reason is not None]
        elif all(reason is not None for _, reason in asked):
            there = ", ".join(dict.fromkeys(target.kernel for target, _ in found))
            reasons = [reason for _, reason in asked if reason is not None]
            missing.append(Missing(text, reasons[0] if reasons else f"no kernel {kernel!r}; there are {there}"))
    return tuple(dict.fromkeys(rows)), tuple(missing)


def _rows_on(backend: Backend, device: str) -> Iterator[tuple[Target, str | None]]:
    """The rows of a device: the plain path and each kernel, with the reason why it declines everything, if it does."""
    yield Target(backend.name, device), None
    call = ordinary_call(backend, backend.device(device), main_dtype(backend))
    for kernel in kernels_of(backend.name):
        yield Target(backend.name, device, kernel.name), refusal(kernel, call)
    for name, _, reason in unusable(backend.name):
        yield Target(backend.name, device, name), reason


def main_dtype(backend: Backend) -> str:
    """The dtype of the cases that run in one alone."""
    names = backend.float_names()
    return "float32" if "float32" in names else names[0]


def one_of_each_kind(devices: Iterable[str]) -> tuple[str, ...]:
    """`cpu` and the first `cuda`, but not the second: the group `memory` goes to that one."""
    kinds: dict[str, str] = {}
    for device in devices:
        kinds.setdefault(re.split("[:(]", device)[0], device)  # cuda:1, or Device('gpu1') where nobody gave it a name
    kept = [device for kind, device in kinds.items() if not kind.startswith(("device", "no_"))]  # make-believe ones
    return tuple(kept)


def judge_case(
    target: Target, case: Case, dtype: str, implementation: Library | None = None, guard: Side | None = None
) -> Outcome:
    """One case on one target in one dtype; with a `guard`, NumPy's arrays lie flush against unreadable pages."""
    started = time.perf_counter()
    judge = Judge(target, dtype, implementation)
    status, reason = PASSED, ""
    try:
        with (
            variables(GRU_XP_BACKEND=None, GRU_XP_KERNELS="off"),
            judge.backend.computing(judge.place.device, recorded=True, precise=True),
            np.errstate(all="ignore"),
            nullcontext() if guard is None else guarded(guard),
        ):
            case.check(judge)
    except MismatchError as mismatch:
        status, reason = FAILED, f"{_written_to(judge)}{mismatch}"
    except NotRunError as nothing:
        status, reason = NOT_RUN, str(nothing)
    except RefusedError as refusal:
        status, reason = NOT_RUN, f"refused: {refusal}"
    except Exception as error:
        notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))  # Hypothesis: the configuration
        kind = type(error).__name__
        status, reason = FAILED, f"{kind}: {error} ({_where(error, judge)}){notes}"
    return Outcome(target, case.name, case.group, dtype, status, reason, judge.errors, time.perf_counter() - started)


def _written_to(judge: Judge) -> str:
    """The cause of a mismatch, where somebody wrote to the arguments."""
    with suppress(Exception):  # what is judged may be unable to give its arrays back
        names = judge.written_to()
        return f"an argument was written to: {', '.join(names)}\n  " if names else ""
    return ""


def _where(error: Exception, judge: Judge) -> str:
    """Where it was raised, and the last place before that in gru_xp, in the backend or in the kernel."""
    frames = [
        (frame.f_globals.get("__name__", ""), f"{frame.f_code.co_filename}:{line}, in {frame.f_code.co_name}")
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    judged = (judge.backend, getattr(judge.gru, "kernel", None))
    roots = {"gru_xp", *(type(one).__module__.partition(".")[0] for one in judged)}
    ours = [place for module, place in frames if module.partition(".")[0] in roots]
    innermost = frames[-1][1]
    return innermost if not ours or ours[-1] == innermost else f"{innermost}, which was called by {ours[-1]}"


def plan(rows: Iterable[Target], quick: bool, cases: Sequence[Case] | None = None) -> list[tuple[Target, Case, str]]:
    """What a run consists of."""
    steps = []
    for target in rows:
        backend = load(target.name)
        names, main = backend.float_names(), main_dtype(backend)
        for case in all_cases() if cases is None else cases:
            if case.is_for(target) and (case.quick or not quick):
                costly = compiles(backend) and case.group in ONE_DTYPE_OF_COMPILERS
                steps += [
                    (target, case, dtype) for dtype in (names if case.each_dtype and not (quick or costly) else (main,))
                ]
    return steps


def run(
    names: Sequence[str] = (),
    *,
    quick: bool = False,
    guard: Side | None = None,
    required: Sequence[str] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Result:
    """Judge what is named, or everything that is here."""
    started = time.perf_counter()
    rows, missing = targets(names)
    steps = plan(rows, quick)
    outcomes = []
    for done, (target, case, dtype) in enumerate(steps):
        progress(done, len(steps), f"{target}  {case}  {dtype}")
        outcomes.append(judge_case(target, case, dtype, guard=guard))
    progress(len(steps), len(steps), "")
    broken = promises_broken(rows, missing, names, required)
    seconds = time.perf_counter() - started
    return Result(tuple(outcomes), missing, broken, describe(target.name for target in rows), quick, seconds)


def promises_broken(
    rows: Sequence[Target], missing: Sequence[Missing], names: Sequence[str], required: Sequence[str] | None = None
) -> tuple[str, ...]:
    """What was named, or stands in GRU_XP_REQUIRE, and did not run."""
    if required is None:
        required = [word.strip() for word in os.environ.get("GRU_XP_REQUIRE", "").split(",") if word.strip()]
    reasons = {one.name: one.reason for one in missing}
    broken = [f"{name}: {reasons[name]}" for name in names if name in reasons]
    for text in required:
        name, device, kernel = parsed(text)
        there = [
            t
            for t in rows
            if t.name == name
            and (not device or t.device == device or t.device.startswith(f"{device}:"))
            and kernel in ("", t.kernel)
        ]
        if not there:
            broken.append(
                f"{text}: required by GRU_XP_REQUIRE, {reasons.get(text, reasons.get(name, 'not among the rows'))}"
            )
    return tuple(dict.fromkeys(broken))
