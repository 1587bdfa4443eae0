"""Whether two GRUs compute the same, each by its own runtime where that is installed; if not, where they part and why.

Both run on the same random and given inputs. Results may be a few units of rounding apart. The unit is measured: how
far the same GRU is from itself in float64, and at least an eps for each step. What parts is followed through layers,
directions and steps to the gate where it begins, and `suspects` says what would explain it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gru_xp.checks import sizes_of
from gru_xp.errors import RangeError, ShapeError
from gru_xp.functional import gru_forward
from gru_xp.params import map_params
from gru_xp.stored import StoredGRU
from gru_xp.verify.narrow import flips, rounded_as, told
from gru_xp.verify.sides import Inputs, Run, Side, is_finite, own_result, random_inputs
from gru_xp.verify.suspects import cell_changes_between, eps_of, related, spec_changes_between, suspects

__all__ = ["Case", "Parting", "Verdict", "verify"]

FEW = 4  # units of rounding that one result may be away from the truth
WAYS = ("forward", "reverse")


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
    compared: tuple[str, ...] = ()  # what was compared, where weights are in 8 or 16 bits


def verify(a: Side, b: Side, inputs: Sequence[Inputs] | None = None, tolerance: float | None = None) -> Verdict:
    """Run both on all inputs and compare; `tolerance` is a largest difference instead of the measured one.

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
    unfaithful = _unfaithful(a, b, cases)
    if (
        tolerance is None
        and (a.stored.narrow is None) != (b.stored.narrow is None)
        and (verdict := _rounded_alike(a, b, inputs, cases))
    ):
        return replace(verdict, unfaithful=unfaithful)
    compared = told(a.label, a.stored) + told(b.label, b.stored)
    differences = tuple(_differences(a, b))
    substituted = tuple(
        dict.fromkeys(
            f"{side.label} was run by gru_xp: {run.why}"
            for _, *both in runs
            for side, run in zip((a, b), both, strict=True)
            if run.why
        )
    )
    if all(case.agrees for case in cases):
        return Verdict(True, cases, differences, None, None, substituted, unfaithful, compared)
    first = next(index for index, case in enumerate(cases) if not case.agrees)
    each, ours, theirs = runs[first]
    allowed = cases[first].allowed
    parting = _by_gates(a, b, each, allowed) or _by_outputs(ours, theirs, sizes[0], each, allowed)
    explanation = _not_finite(a, b)
    # where both runtimes are faithful, the numbers in the files decide what can be suspected at all
    if explanation is None and (unfaithful or related(a.stored, b.stored)):
        explanation = _explanation(a, b, runs, cases)
    return Verdict(False, cases, differences, parting, explanation, substituted, unfaithful, compared)


def _unfaithful(a: Side, b: Side, cases: Sequence[Case]) -> tuple[str, ...]:
    return tuple(
        f"{side.label}: {case.by[index]} gives another result than gru_xp from the same numbers"
        for index, side in enumerate((a, b))
        for case in [max(cases, key=lambda case: case.own[index])]
        if case.own[index] > 1.0
    )


def _rounded_alike(a: Side, b: Side, inputs: Sequence[Inputs], cases: Sequence[Case]) -> Verdict | None:
    """Compare one whose weights are narrow with the other's weights rounded so; None where they cannot be.

    `cases` are those of both as they are. What else is wrong shows, where a tolerance for the rounding would hide it.
    """
    whole, narrow = (a, b) if a.stored.narrow is None else (b, a)
    try:
        like = replace(whole, stored=rounded_as(whole.stored, narrow.stored), path=None)
    except RangeError:
        return None
    verdict = verify(*((like, b) if whole is a else (a, like)), inputs)
    far = max(case.difference for case in cases)
    words = (
        f"{whole.label} has {whole.stored.dtype} weights, rounded here as those of {narrow.label} are; as they are, "
        f"results differ by {far:.1e} at most"
    )
    compared = tuple(each for each in verdict.compared if not each.startswith(whole.label))
    return replace(verdict, compared=(words, *compared))


# ---- running and comparing -------------------------------------------------------------------------------------------


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
        measured = _difference(own_result(side.stored, inputs, "float16"), exact) * eps * 2**10
        return max(measured, eps * largest) if np.isfinite(measured) else eps * steps * largest
    rounded = flips(side.stored, inputs.x) / FEW
    return max(_difference(own_result(side.stored, inputs, side.dtype), exact), eps * steps * largest, rounded)


def _case(a: Side, b: Side, inputs: Inputs, ours: Run, theirs: Run, tolerance: float | None) -> Case:
    exact = [own_result(side.stored, inputs, "float64") for side in (a, b)]
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
    if str(a.stored.narrow) != str(b.stored.narrow):
        found.append(f"A has {a.stored.narrow or 'float weights'}, B has {b.stored.narrow or 'float weights'}")
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
        if not _difference(own_result(side.stored, run[0], side.dtype), run[result]) <= case.allowed:
            return False
    return True
