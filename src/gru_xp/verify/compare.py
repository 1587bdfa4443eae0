"""Whether two GRUs compute the same, each by its own runtime where that is installed; if not, where they part and why.

Both run on the same random and given inputs. Results may be a few units of rounding apart. The unit is measured: how
far the same GRU is from itself in float64, and at least an eps for each step. What parts is followed through layers,
directions and steps to the gate where it begins, and `suspects` says what would explain it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gru_xp.checks import sizes_of
from gru_xp.errors import BackendError, RangeError, ShapeError
from gru_xp.files import Format, format_of, read
from gru_xp.functional import gru_forward, gru_inference
from gru_xp.params import map_params, weights_of
from gru_xp.stored import StoredGRU
from gru_xp.verify.suspects import cell_changes_between, eps_of, related, spec_changes_between, suspects

__all__ = ["Case", "Inputs", "Parting", "Side", "Verdict", "is_finite", "random_inputs", "side_of", "verify"]

FEW = 4  # units of rounding that one result may be away from the truth
WAYS = ("forward", "reverse")


class Inputs(NamedTuple):
    """What both are run on: x (T, N, I), h0 (L*D, N, H) or None, lengths (N,) or None."""

    name: str
    x: Any
    h0: Any = None
    lengths: Any = None


class Run(NamedTuple):
    """y (T, N, D*H) and h_n (L*D, N, H), who computed them, and why not its own runtime."""

    y: Any
    h_n: Any
    by: str
    why: str = ""


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two: a GRU, where it comes from, and who can run it."""

    label: str  # "A"
    stored: StoredGRU
    path: Path | None = None
    format: Format | None = None

    @property
    def dtype(self) -> str:
        """What it computes in where NumPy runs it."""
        return "float32" if self.stored.dtype == "bfloat16" else self.stored.dtype

    def run(self, inputs: Inputs) -> Run:
        """By its own runtime, or by gru_xp with the reason."""
        x, h0 = (None if a is None else a.astype(self.dtype) for a in (inputs.x, inputs.h0))
        why = ""
        if self.path is not None and self.format is not None and self.format.runtime:
            try:
                ran = self.format.run(self.path, self.stored, x, h0, inputs.lengths)
            except BackendError as error:
                ran, why = None, str(error)
            if ran is not None:
                y, h_n = (np.asarray(a, "f8") for a in ran)
                return Run(y, h_n, self.format.runtime)
            why = why or f"{self.format.runtime} is not installed"
        return Run(*_own(self.stored, inputs, self.dtype), "gru_xp", why)


def side_of(
    label: str,
    path: str | Path,
    name: str | None = None,
    format: str | None = None,  # noqa: A002
    *,
    batch_first: bool | None = None,
) -> Side:
    """One GRU of a file; `label` is what the verdict calls it."""
    path = Path(path)
    gru = read(path, name=name, format=format, batch_first=batch_first)
    return Side(label, gru, path, format_of(path, format))


@dataclass(frozen=True)
class Case:
    """One pair of runs."""

    name: str
    by: tuple[str, str]  # who computed A and B
    difference: float  # the largest, of y and h_n
    allowed: float
    own: tuple[float, float]  # how far each is from gru_xp's result from the same numbers, 1 being what rounding allows

    @property
    def agrees(self) -> bool:
        return self.difference <= self.allowed


@dataclass(frozen=True)
class Parting:
    """Where two GRUs begin to differ: the first layer, there the first step in its own order of time."""

    layer: int
    direction: str
    step: int
    gates: tuple[str, ...]  # of "reset gate r", "update gate z", "candidate n"; none if only outputs tell


@dataclass(frozen=True)
class Verdict:
    """What `verify` found."""

    agrees: bool
    cases: tuple[Case, ...] = ()
    differences: tuple[str, ...] = ()  # between the two as they stand in the files
    parting: Parting | None = None
    explanation: str | None = None
    substituted: tuple[str, ...] = ()  # why gru_xp ran what has a runtime of its own
    unfaithful: tuple[str, ...] = ()  # sides whose runtime disagrees with gru_xp about the same numbers


def random_inputs(stored: StoredGRU, steps: int = 16, rows: int = 3, seed: int = 0) -> list[Inputs]:
    """A sequence, the same with a first state, and with lengths, none of them zero; numbers that every type holds."""
    sizes, rng = sizes_of(stored.params), np.random.default_rng(seed)
    x, h0 = rng.normal(size=(steps, rows, sizes.I)), rng.uniform(-1, 1, size=(sizes.L * sizes.D, rows, sizes.H))
    x, h0 = (np.round(32 * a) / 32 for a in (x, h0))
    lengths = np.array([max(1, steps - (row * steps) // rows) for row in range(rows)])
    return [Inputs("random x", x), Inputs("and h0", x, h0), Inputs("and lengths", x, h0, lengths)]


def verify(a: Side, b: Side, inputs: Sequence[Inputs] | None = None, tolerance: float | None = None) -> Verdict:
    """Run both on all inputs and compare; `tolerance` is a largest difference in the place of the measured one.

    >>> import gru_xp
    >>> from gru_xp.module import as_stored
    >>> model, other = (Side(label, as_stored(gru_xp.GRU(3, 4, seed=0))) for label in "AB")
    >>> verify(model, other).agrees
    True
    """
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise RangeError(
            f"tolerance: expected a finite number, at least 0, got {tolerance}; leave it out to measure one"
        )
    sizes = [sizes_of(side.stored.params) for side in (a, b)]
    for letter, ours, theirs in zip("IHLD", *sizes, strict=False):
        if ours != theirs:
            found = ", ".join(f"{label}: I, H, L, D = {tuple(s)[:4]}" for label, s in zip("AB", sizes, strict=True))
            return Verdict(False, differences=(f"they are of different sizes, {letter} to begin with; {found}",))
    inputs = random_inputs(a.stored) if inputs is None else inputs
    for each in inputs:
        if each.x.ndim != 3 or each.x.shape[2] != sizes[0].I:
            raise ShapeError(f"{each.name}: expected (T, N, I) = (T, N, {sizes[0].I}), got {tuple(each.x.shape)}")
    runs = [(each, a.run(each), b.run(each)) for each in inputs]
    cases = tuple(_case(a, b, *run, tolerance) for run in runs)
    differences = tuple(_differences(a, b))
    unfaithful = tuple(
        f"{side.label}: {case.by[index]} gives another result than gru_xp from the same numbers"
        for index, side in enumerate((a, b))
        for case in [max(cases, key=lambda case: case.own[index])]
        if case.own[index] > 1.0
    )
    substituted = tuple(
        dict.fromkeys(
            f"{side.label} was run by gru_xp: {run.why}"
            for _, *both in runs
            for side, run in zip((a, b), both, strict=True)
            if run.why
        )
    )
    if all(case.agrees for case in cases):
        return Verdict(True, cases, differences, substituted=substituted, unfaithful=unfaithful)
    first = next(index for index, case in enumerate(cases) if not case.agrees)
    each, ours, theirs = runs[first]
    allowed = cases[first].allowed
    parting = _by_gates(a, b, each, allowed) or _by_outputs(ours, theirs, sizes[0], each, allowed)
    explanation = _not_finite(a, b)
    # where both runtimes are faithful, the numbers in the files decide what can be suspected at all
    if explanation is None and (unfaithful or related(a.stored, b.stored)):
        explanation = _explanation(a, b, runs, cases)
    return Verdict(False, cases, differences, parting, explanation, substituted, unfaithful)


def is_finite(stored: StoredGRU) -> bool:
    """Whether no weight is NaN or infinite."""
    return all(np.isfinite(array).all() for array in weights_of(stored.params))


# ---- running and comparing -------------------------------------------------------------------------------------------


def _own(stored: StoredGRU, inputs: Inputs, dtype: str) -> tuple[Any, Any]:
    """y and h_n by gru_xp in this type, as float64."""
    params = map_params(lambda array: array.astype(dtype), stored.params)
    x, h0 = (None if array is None else array.astype(dtype) for array in (inputs.x, inputs.h0))
    with np.errstate(all="ignore"):
        y, h_n = gru_inference(x, params, h0, lengths=inputs.lengths, spec=stored.spec, backend="numpy")
    return y.astype("f8"), h_n.astype("f8")


def _difference(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> float:
    """The largest of y and h_n; what is the same infinity, or NaN in both, does not differ."""
    return max(float(_distance(p, q).max(initial=0.0)) for p, q in zip(ours[:2], theirs[:2], strict=True))


def _distance(p: Any, q: Any) -> Any:
    with np.errstate(all="ignore"):
        same = (p == q) | (np.isnan(p) & np.isnan(q))
        distance = np.where(same, 0.0, np.abs(p - q))
    return np.where(np.isnan(distance), np.inf, distance)


def _unit(side: Side, exact: tuple[Any, Any], inputs: Inputs) -> float:
    """What rounding does to this GRU on this input: its distance to itself in float64, and an eps for each step.

    Of 16-bit numbers one eps in all, because the state, which is rounded in each step, is forgotten again: an eps for
    each step would hide mistakes. bfloat16 is measured as float16, which has three bits more.
    """
    largest = max(float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) for a in exact)
    eps, steps = eps_of(side.stored.dtype), inputs.x.shape[0]
    if side.stored.dtype in ("float16", "bfloat16"):
        measured = _difference(_own(side.stored, inputs, "float16"), exact) * eps * 2**10
        return max(measured, eps * largest) if np.isfinite(measured) else eps * steps * largest
    return max(_difference(_own(side.stored, inputs, side.dtype), exact), eps * steps * largest)


def _case(a: Side, b: Side, inputs: Inputs, ours: Run, theirs: Run, tolerance: float | None) -> Case:
    exact = [_own(side.stored, inputs, "float64") for side in (a, b)]
    bounds = [FEW * _unit(side, one, inputs) for side, one in zip((a, b), exact, strict=True)]
    off = (_difference(result, one) for result, one in zip((ours, theirs), exact, strict=True))
    own = tuple(distance / bound if bound else distance for distance, bound in zip(off, bounds, strict=True))
    allowed = sum(bounds) if tolerance is None else tolerance
    return Case(inputs.name, (ours.by, theirs.by), _difference(ours, theirs), allowed, (own[0], own[1]))


def _differences(a: Side, b: Side) -> list[str]:
    """What differs between the files before anything runs."""
    found = []
    if a.stored.dtype != b.stored.dtype:
        found.append(f"A holds {a.stored.dtype}, B holds {b.stored.dtype}")
    for name, (ours, theirs) in spec_changes_between(a.stored, b.stored).items():
        found.append(f"{name}: A has {ours}, B has {theirs}")
    changed = cell_changes_between(a.stored, b.stored)
    every = sum(map(len, a.stored.params))
    if every == len(changed) > 1 and len({words for *_, words in changed}) == 1:
        return [*found, f"weights of every layer and direction: B has A's with {changed[0][2]}"]
    return found + [
        f"weights of {_cell_name(a.stored, layer, d)}: B has A's with {words}" for layer, d, words in changed
    ]


def _cell_name(stored: StoredGRU, layer: int, d: int) -> str:
    return f"layer {layer}" + (f", {WAYS[d]}" if len(stored.params[0]) == 2 else "")


# ---- where -----------------------------------------------------------------------------------------------------------


def _by_gates(a: Side, b: Side, inputs: Inputs, allowed: float) -> Parting | None:
    """Where the numbers in the two files part, by what all gates do in float64; None if they do not."""
    tapes = []
    for side in (a, b):
        params = map_params(lambda array: array.astype("f8"), side.stored.params)
        with np.errstate(all="ignore"):
            _, _, tape = gru_forward(
                inputs.x, params, inputs.h0, lengths=inputs.lengths, spec=side.stored.spec, backend="numpy"
            )
        tapes.append(tape)
    for layer, pair in enumerate(zip(*(tape.layers for tape in tapes), strict=True)):
        for d, (ours, theirs) in enumerate(zip(*pair, strict=True)):
            valid = np.ones(inputs.x.shape[:2], bool) if ours.valid is None else np.asarray(ours.valid)
            apart = {
                name: (_distance(getattr(ours, letter), getattr(theirs, letter)).max(axis=2) > allowed) & valid
                for letter, name in (("r", "reset gate r"), ("z", "update gate z"), ("n", "candidate n"))
            }
            steps = np.flatnonzero(np.any([each.any(axis=1) for each in apart.values()], axis=0))
            if len(steps):
                backwards = d == 1 or a.stored.spec.reverse
                step = int(steps[-1] if backwards else steps[0])
                gates = tuple(name for name, each in apart.items() if each[step].any())
                return Parting(layer, WAYS[backwards], step, gates)
    return None


def _by_outputs(ours: Run, theirs: Run, sizes: Any, inputs: Inputs, allowed: float) -> Parting:
    """Where results part that the numbers in the files do not explain, by the last states and by y."""
    states = np.flatnonzero((_distance(ours.h_n, theirs.h_n) > allowed).any(axis=(1, 2)))
    apart = (_distance(ours.y, theirs.y) > allowed).reshape(*inputs.x.shape[:2], sizes.D, sizes.H).any(axis=(1, 3))
    layer, d = divmod(int(states[0]), sizes.D) if len(states) else (sizes.L - 1, int(apart.any(axis=0).argmax()))
    steps = np.flatnonzero(apart[:, d])
    step = int(steps[-1 if d else 0]) if len(steps) else inputs.x.shape[0] - 1
    return Parting(layer, WAYS[d], step, ())


# ---- why -------------------------------------------------------------------------------------------------------------


def _not_finite(a: Side, b: Side) -> str | None:
    """Whose weights hold NaN or infinities, of which any change makes the same."""
    labels = [side.label for side in (a, b) if not is_finite(side.stored)]
    return f"the weights of {' and '.join(labels)} are not finite" if labels else None


def _explanation(a: Side, b: Side, runs: Any, cases: Sequence[Case]) -> str | None:
    """The first suspect that makes one of the two the other, on all inputs."""
    for one, other, index in ((a, b, 1), (b, a, 0)):
        for words, changed in suspects(one.stored, other.stored):
            if _fits(replace(one, stored=changed), runs, cases, 1 + index):
                return f"{other.label} computes what {one.label} does with {words}"
        for words, forgetful in (("h0 forgotten", {"h0": None}), ("lengths forgotten", {"lengths": None})):
            forgotten = [(each._replace(**forgetful), *results) for each, *results in runs]
            if _fits(one, forgotten, cases, 1 + index):
                return f"{other.label} computes what {one.label} does with {words}"
    return None


def _fits(side: Side, runs: Any, cases: Sequence[Case], result: int) -> bool:
    """Whether this GRU gives a side's results on all inputs."""
    for run, case in zip(runs, cases, strict=True):
        if not _difference(_own(side.stored, run[0], side.dtype), run[result]) <= case.allowed:
            return False
    return True
