"""How fast is what is right: engines side by side.

An engine is whatever computes a GRU: this library on some backend with some kernel, or a peer. Each has a process of
its own, since the threads of some libraries wait spinning and would take the cores from the others. All get the same
problem, are checked before they are timed, and are timed in turns, so that a slow spell of the machine meets all.

The results to check against are the plain path's in float64, of which two rows are held against the reference first:
that one walks row by row, which would take minutes here. The gradients of the weights are sums over all rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gru_xp.discovery import Place, load

from . import reference, tolerance
from .environment import variables
from .implementation import Arguments, Assembled
from .problems import Problem
from .undisturbed import undisturbed

__all__ = [
    "TASKS",
    "AbsentError",
    "Command",
    "Engine",
    "Problem",
    "Size",
    "Timing",
    "as_json",
    "compare",
    "load_and_check",
    "serve",
]

A = npt.NDArray[Any]
TASKS = ("inference", "training")
SECONDS = 0.2  # of calls for each engine, size, task and round


class AbsentError(Exception):
    """An engine that cannot run here, or not this problem: why."""


class Size(NamedTuple):
    """What a GRU computes: steps, batch, input size, hidden size, layers, directions."""

    T: int
    N: int
    I: int
    H: int
    L: int = 1
    D: int = 1

    @classmethod
    def parse(cls, text: str) -> Size:
        """From "100,8,64,128", layers and directions after it if there are more than one; a ValueError says why not."""
        words = text.split(",")
        if not 4 <= len(words) <= 6 or not all(word.strip().isdecimal() and int(word) > 0 for word in words):
            raise ValueError(f"expected T,N,I,H or T,N,I,H,L,D, whole numbers from 1 on, got {text!r}")
        size = cls(*map(int, words))
        if size.D > 2:
            raise ValueError(f"expected one or two directions, got D = {size.D} in {text!r}")
        return size

    def __str__(self) -> str:
        more = [f"{n} {what}" for n, what in ((self.L, "layers"), (self.D, "directions")) if n > 1]
        return "; ".join([", ".join(map(str, self[:4])), *more])

    def multiply_adds(self, task: str) -> int:
        """Of the products; training has three times as many as inference."""
        T, N, I, H, L, D = self
        once = T * N * D * 3 * H * sum((I if layer == 0 else D * H) + H for layer in range(L))
        return once * (3 if task == "training" else 1)


@dataclass(frozen=True)
class Timing:
    """One engine at one task: seconds for a call."""

    size: Size
    task: str
    engine: str
    median: float  # of the rounds
    least: float
    most: float
    error: float  # the largest, as a fraction of what is allowed


@dataclass(frozen=True)
class Command:
    """How to start an engine: a program that calls `serve`, and variables for it."""

    words: Sequence[str]
    environment: Mapping[str, str]


# ---- the engine's process -------------------------------------------------------------------------------------------


def serve(make: Callable[[Problem], Any]) -> None:
    """Be an engine: do what comes in on stdin, a line of JSON each, and answer.

    `make(problem)` returns an object with `inference() -> y` and, if it can, `training() -> [dx, dW_ih, dW_hh, db_ih,
    db_hh, ... of all layers and directions]`; both return when everything has been computed. `gradients`, if there,
    makes that list of what `training` returned; it is not timed. `to_numpy`, if there, makes an array of NumPy of a
    result. It raises AbsentError or ImportError if it cannot run.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes elsewhere
    engine = None
    for line in sys.stdin:
        what, argument = json.loads(line)
        answer: Any = None
        try:
            if what == "load":
                engine = None  # its memory, before there is more
                engine = make(_read(Path(argument)))
                answer = [task for task in TASKS if hasattr(engine, task)]
            elif what == "check":
                folder, task = argument
                answer = {"error": _check(engine, task, Path(folder))}
            elif what == "time":
                answer = statistics.median(_times(getattr(engine, argument), SECONDS))
            elif what == "times":
                task, seconds = argument
                answer = _times(getattr(engine, task), seconds)
            else:
                answer = getattr(engine, what)()
        except (AbsentError, ImportError) as error:
            answer = {"absent": str(error)}
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _times(run: Callable[[], Any], seconds: float) -> list[float]:
    """The seconds of each of some calls, so many that they take `seconds` together, and at least three."""
    run()
    run()
    times: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times) < 3:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def _check(engine: Any, task: str, folder: Path) -> float:
    """The largest error, as a fraction of what is allowed."""
    result = getattr(engine, task)()
    results = getattr(engine, "gradients", list)(result) if task == "training" else [result]
    got = [getattr(engine, "to_numpy", np.asarray)(a) for a in results]
    with np.load(folder / f"{task}.npz") as known:
        wanted, bounds = [known[f"{i}"] for i in range(len(known) - 1)], known["bounds"]
    if [a.shape for a in got] != [a.shape for a in wanted]:
        return float("inf")
    errors = [float(np.max(np.abs(g - w), initial=0.0)) / b for g, w, b in zip(got, wanted, bounds, strict=True)]
    return max(errors) if all(np.isfinite(errors)) else float("inf")


# ---- problems -------------------------------------------------------------------------------------------------------


def problem(size: Size, dtype: str) -> Problem:
    """Random arrays, as models have them; `dy` flows in."""
    T, N, I, H, L, D = size
    rng, k = np.random.default_rng(7), H**-0.5

    def weights(K: int) -> reference.Weights:
        shapes: list[tuple[int, ...]] = [(3 * H, K), (3 * H, H), (3 * H,), (3 * H,)]
        return reference.Weights(*(rng.uniform(-k, k, shape).astype(dtype) for shape in shapes))

    params = tuple(tuple(weights(I if layer == 0 else D * H) for _ in range(D)) for layer in range(L))
    x, dy = rng.standard_normal((T, N, I)).astype(dtype), rng.standard_normal((T, N, D * H)).astype(dtype)
    return Problem(x, params, dy=dy)


def _write(one: Problem, folder: Path) -> None:
    """The problem, and what is right for it, with what each array may be off."""
    weights = {f"{i}_{d}_{name}": a for i, d, name, a in _named(one.params)}
    np.savez(folder / "problem.npz", x=one.x, dy=one.dy, **weights)
    exact, rounded = plain_results(one, "float64"), plain_results(one, one.x.dtype.name)
    assert_right(one, exact["inference"][0], exact["training"][0])
    for task in TASKS:
        bounds = [
            tolerance.bound(float(np.max(np.abs(a - b), initial=0.0)), a, one.x.dtype.name)
            for a, b in zip(exact[task], rounded[task], strict=True)
        ]
        np.savez(folder / f"{task}.npz", bounds=bounds, **{f"{i}": a for i, a in enumerate(exact[task])})


def _read(folder: Path) -> Problem:
    with np.load(folder / "problem.npz") as arrays:
        known = {name: arrays[name] for name in arrays.files}
    x, dy = known.pop("x"), known.pop("dy")
    layers: dict[str, dict[str, list[A]]] = {}
    for name, a in known.items():
        layer, d, _ = name.split("_", 2)
        layers.setdefault(layer, {}).setdefault(d, []).append(a)
    params = tuple(tuple(reference.Weights(*w) for w in layer.values()) for layer in layers.values())
    return Problem(x, params, dy=dy)


def _named(params: Any) -> Iterable[tuple[int, int, str, A]]:
    for i, layer in enumerate(params):
        for d, w in enumerate(layer):
            for name, a in zip(reference.Weights._fields, w, strict=True):
                yield i, d, name, a


def plain_results(one: Problem, dtype: str) -> dict[str, list[A]]:
    """The results of both tasks by the plain path on NumPy."""
    numpy = load("numpy")
    plain, arguments = Assembled(Place(numpy, numpy.device(None)), None), Arguments.of(one, lambda a: a.astype(dtype))
    y, _, tape = plain.gru_forward(*arguments.positional)
    grads = plain.gru_backward(tape, arguments.dy)
    return {"inference": [y], "training": [grads.x, *(a for *_, a in _named(grads.params))]}


def assert_right(one: Problem, y: A, dx: A) -> None:
    """The first and the last row of the batch, against the reference."""
    rows = sorted({0, one.x.shape[1] - 1})
    x, dy = (a[:, rows].astype("float64") for a in (one.x, one.dy))
    params = tuple(tuple(reference.Weights(*(a.astype("float64") for a in w)) for w in layer) for layer in one.params)
    ran = reference.forward(x, params, None)
    for got, want in ((y[:, rows], ran.y), (dx[:, rows], reference.backward(ran, dy, None).x)):
        np.testing.assert_allclose(got, want, **tolerance.OF_REFERENCE)


# ---- all of them ----------------------------------------------------------------------------------------------------


class Engine:
    """An engine's process, from outside."""

    def __init__(self, name: str, command: Command):
        self.name = name
        self.process = subprocess.Popen(
            command.words,
            env={**os.environ, **command.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.communicate()  # it ends with its input

    def ask(self, what: str, argument: Any = None) -> Any:
        """One question and its answer."""
        self.tell(what, argument)
        return self.answer()

    def tell(self, what: str, argument: Any = None) -> None:
        """A question whose answer is asked for later."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer, either
            self.process.stdin.write(json.dumps([what, argument]) + "\n")
            self.process.stdin.flush()

    def answer(self) -> Any:
        """The answer to what was told last."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"failed": f"the process ended with status {self.process.wait()}"}


def compare(
    commands: Mapping[str, Command],
    sizes: Iterable[Size],
    *,
    tasks: Sequence[str] = TASKS,
    dtype: str = "float32",
    rounds: int = 5,
    ask_too: Sequence[tuple[str, str]] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[list[Timing], dict[str, str], dict[str, list[Any]]]:
    """Time all engines at all sizes.

    Returns the timings; why an engine, or an engine at a size, is not among them; and the answers to what was asked
    besides, before and after each task: `ask_too` names an engine and one of its methods.
    """
    timings: list[Timing] = []
    left_out: dict[str, str] = {}
    answers: dict[str, list[Any]] = {method: [] for _, method in ask_too}
    with ExitStack() as stack, variables(GRU_XP_BACKEND=None):
        engines = {name: stack.enter_context(Engine(name, command)) for name, command in commands.items()}

        pids = [engine.process.pid for engine in engines.values()]

        def ask() -> None:
            for name, method in ask_too:
                answers[method].append(engines[name].ask(method))

        for size in sizes:
            right, why_not = load_and_check(engines.values(), size, tasks, dtype, progress)
            left_out |= why_not
            for task in tasks:
                errors = {name: found[task] for name, found in right.items() if task in found}
                times: dict[str, list[float]] = {name: [] for name in errors}
                ask()
                for turn in range(rounds):
                    for name, kept in times.items():
                        progress(f"{size}, {task}: round {turn + 1} of {rounds}, {name}")
                        answer = undisturbed(partial(engines[name].ask, "time", task), pids)
                        if isinstance(answer, dict):
                            raise RuntimeError(f"{name} at {size}, {task}: {answer}")
                        kept.append(answer)
                ask()
                timings += [
                    Timing(size, task, name, statistics.median(kept), min(kept), max(kept), errors[name])
                    for name, kept in times.items()
                ]
    return timings, _joined(left_out, commands, sizes), answers


def load_and_check(
    engines: Iterable[Engine], size: Size, tasks: Sequence[str], dtype: str, progress: Callable[[str], None]
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Give all engines a problem of one size, and check what they compute.

    Returns for each engine the tasks at which it is right, with its error as a fraction of what is allowed; and why
    an engine, or an engine at a task, is not among them.
    """
    right: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    with TemporaryDirectory() as folder:
        progress(f"{size}: the right results")
        _write(problem(size, dtype), Path(folder))
        for engine in engines:
            name = engine.name
            progress(f"{size}: {name}")
            able = engine.ask("load", folder)
            if not isinstance(able, list):
                left_out[f"{name} at {size}"] = able.get("absent") or able["failed"]
                continue
            for task in [task for task in tasks if task in able]:
                progress(f"{size}, {task}: checking {name}")
                answer = engine.ask("check", [folder, task])
                if answer.get("error", 2.0) <= 1.0:
                    right.setdefault(name, {})[task] = answer["error"]
                else:
                    wrong = f"wrong: its error is {answer.get('error', 0):.3g} times what is allowed"
                    left_out[f"{name} at {size}, {task}"] = answer.get("absent") or answer.get("failed") or wrong
    return right, left_out


def _joined(left_out: dict[str, str], commands: Iterable[str], sizes: Iterable[Size]) -> dict[str, str]:
    """One line for an engine that was left out of all sizes for the same reason."""
    for name in commands:
        everywhere = [f"{name} at {size}" for size in sizes]
        reasons = {left_out.get(key) for key in everywhere}
        if len(reasons) == 1 and None not in reasons:
            left_out = {name: reasons.pop() or "", **{k: v for k, v in left_out.items() if k not in everywhere}}
    return left_out


def as_json(timings: Iterable[Timing]) -> list[dict[str, Any]]:
    """For machines."""
    return [{**asdict(one), "size": list(one.size)} for one in timings]
