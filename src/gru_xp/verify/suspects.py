"""What conversions get wrong, each as a change to a GRU: the suspects when two GRUs do not agree.

A suspect is convicted by its deed: one GRU, changed so, has to give what the other gives. Where the weights stand in
both files, they are compared first, cell by cell, because that also finds different mistakes in different cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gru_xp.errors import GRUError
from gru_xp.params import CellParams, GRUSpec, weights_of
from gru_xp.stored import StoredGRU

__all__ = [
    "CELL_CHANGES",
    "Suspect",
    "cell_changes_between",
    "eps_of",
    "related",
    "spec_changes_between",
    "suspects",
]

Change: TypeAlias = "Callable[[CellParams], CellParams]"
GATES = "rzn"


class Suspect(NamedTuple):
    """A change, in words that go after "with", and what it makes of a GRU."""

    words: str
    changed: StoredGRU


def _parts(a: Any) -> list[Any]:
    return np.split(a, 3)


def _reordered(order: tuple[int, ...], *fields: str) -> Change:
    """The gates of these arrays in another order."""

    def change(w: CellParams) -> CellParams:
        arrays = {name: getattr(w, name) for name in fields}
        moved = {n: np.concatenate([_parts(a)[i] for i in order]) for n, a in arrays.items() if a is not None}
        return w._replace(**moved)

    return change


def _without(*fields: str) -> Change:
    def change(w: CellParams) -> CellParams:
        return w._replace(**{n: np.zeros_like(getattr(w, n)) for n in fields if getattr(w, n) is not None})

    return change


def _without_b_hn(w: CellParams) -> CellParams:
    if w.b_hh is None:
        return w
    r, z, n = _parts(w.b_hh)
    return w._replace(b_hh=np.concatenate([r, z, np.zeros_like(n)]))


def _all_in_b_ih(w: CellParams) -> CellParams:
    return w if w.b_ih is None else w._replace(b_ih=w.b_ih + w.b_hh, b_hh=np.zeros_like(w.b_hh))


def _all_in_b_hh(w: CellParams) -> CellParams:
    return w if w.b_ih is None else w._replace(b_hh=w.b_ih + w.b_hh, b_ih=np.zeros_like(w.b_ih))


def _exchanged(w: CellParams) -> CellParams:
    return w._replace(b_ih=w.b_hh, b_hh=w.b_ih)


def _inverted(w: CellParams) -> CellParams:
    """sigmoid(-a) is 1 - sigmoid(a)."""

    def negated(a: Any) -> Any:
        r, z, n = _parts(a)
        return np.concatenate([r, -z, n])

    return CellParams(*(None if a is None else negated(a) for a in w))


def _transposed(w: CellParams) -> CellParams:
    return w._replace(W_hh=np.concatenate([part.T for part in _parts(w.W_hh)]))


def _orders() -> dict[str, Change]:
    found: dict[str, Change] = {}
    for order in permutations(range(3)):
        moved = [i for i in range(3) if order[i] != i]
        if not moved:
            continue
        words = f"the gates {GATES[moved[0]]} and {GATES[moved[1]]} swapped"
        if len(moved) == 3:
            words = f"the gates in the order {', '.join(GATES[i] for i in order)}"
        found[words] = _reordered(order, *CellParams._fields)
        for where, fields in (("W_ih", ("W_ih",)), ("W_hh", ("W_hh",)), ("the biases", ("b_ih", "b_hh"))):
            found[f"{words} in {where} alone"] = _reordered(order, *fields)
    return found


CELL_CHANGES: dict[str, Change] = {
    **_orders(),
    "b_hn, the candidate's recurrent bias, dropped": _without_b_hn,
    "b_hh dropped": _without("b_hh"),
    "b_ih dropped": _without("b_ih"),
    "all biases dropped": _without("b_ih", "b_hh"),
    "b_hh added to b_ih, for the candidate too, where r has to stand between them": _all_in_b_ih,
    "b_ih added to b_hh, for the candidate too, where r has to stand between them": _all_in_b_hh,
    "b_ih and b_hh exchanged": _exchanged,
    "the update gate inverted: h' = z * n + (1 - z) * h": _inverted,
    "W_hh transposed in each gate": _transposed,
    "W_hh lost": _without("W_hh"),
}

RESET = {
    True: "the reset gate after the recurrent product (linear_before_reset=1, reset_after=True)",
    False: "the reset gate before the recurrent product (linear_before_reset=0, reset_after=False)",
}


def cell_changes_between(a: StoredGRU, b: StoredGRU) -> list[tuple[int, int, str]]:
    """The cells whose numbers differ: layer, direction, and the change that makes a's cell b's, or the arrays."""
    found = []
    eps = 4 * max(eps_of(a.dtype), eps_of(b.dtype))
    for layer, (ours, theirs) in enumerate(zip(a.params, b.params, strict=True)):
        for d, (w, v) in enumerate(zip(ours, theirs, strict=True)):
            if not _alike(w, v, eps):
                found.append((layer, d, _explained(w, v, eps)))
    return found


def eps_of(dtype: str) -> float:
    """The distance of 1 to the next number."""
    return 2.0**-7 if dtype == "bfloat16" else float(np.finfo(dtype).eps)


def _explained(w: CellParams, v: CellParams, eps: float) -> str:
    for words, change in CELL_CHANGES.items():
        if _alike(change(w), v, eps):
            return words
    names = [name for name, p, q in zip(CellParams._fields, w, v, strict=True) if not _alike((p,), (q,), eps)]
    return f"other numbers in {', '.join(names)}"


def _alike(w: Any, v: Any, eps: float) -> bool:
    """The same numbers to rounding, a missing bias being zero; what is no number is like itself."""
    for p, q in zip(w, v, strict=True):
        p, q = (np.zeros(1) if each is None else np.asarray(each, "f8") for each in (p, q))
        largest = max(float(np.abs(each[np.isfinite(each)]).max(initial=0.0)) for each in (p, q))
        if not np.allclose(p, q, rtol=0.0, atol=eps * largest, equal_nan=True):
            return False
    return True


def related(a: StoredGRU, b: StoredGRU) -> bool:
    """Whether any suspect could make one's weights the other's.

    They put the numbers of W_ih and W_hh into other places and give them other signs, within a layer, or lose W_hh.
    """
    tolerance = 2.0**-7 if "bfloat16" in (a.dtype, b.dtype) else 2.0**-11  # of numbers that were rounded to 16 bits
    for ours, theirs in zip(a.params, b.params, strict=True):
        for name in ("W_ih", "W_hh"):
            p, q = (
                np.sort(np.abs(np.concatenate([getattr(w, name) for w in each]).astype("f8")), axis=None)
                for each in (ours, theirs)
            )
            largest = max(p[-1:].max(initial=0.0), q[-1:].max(initial=0.0))
            lost = name == "W_hh" and not all(getattr(w, name).any() for each in (ours, theirs) for w in each)
            if not lost and np.any(np.abs(p - q) > tolerance * largest):
                return False
    return True


def spec_changes_between(a: StoredGRU, b: StoredGRU) -> dict[str, tuple[Any, Any]]:
    """The options of the equations that differ, with both values."""
    ours, theirs = a.spec.as_dict(), b.spec.as_dict()
    return {name: (getattr(a.spec, name), getattr(b.spec, name)) for name in ours if ours[name] != theirs[name]}


def suspects(gru: StoredGRU, other: StoredGRU) -> Iterator[Suspect]:
    """Everything that may have happened to `gru` on the way to `other`, what is likely first."""
    different = spec_changes_between(gru, other)
    specs = [(_words(name, theirs), {name: theirs}) for name, (_, theirs) in different.items()]
    if len(specs) > 1:
        specs.append((" and ".join(words for words, _ in specs), {n: theirs for n, (_, theirs) in different.items()}))
    if "reset_after" not in different:
        specs.append((RESET[not gru.spec.reset_after], {"reset_after": not gru.spec.reset_after}))
    if gru.spec.clip is not None:
        specs.append(("the clip lost", {"clip": None}))
    if not gru.spec.standard_gates:
        standard = {name: getattr(GRUSpec(), name) for name in ("gate_activation", "candidate_activation")}
        specs.append(("sigmoid and tanh in the place of its activations", standard))
    if len(gru.params[0]) == 1:
        specs.append(("time in the other direction", {"reverse": not gru.spec.reverse}))
    variants = [("", gru)]
    for words, fields in specs:
        try:
            spec = GRUSpec(**{name: getattr(gru.spec, name) for name in gru.spec.as_dict()} | fields)
        except GRUError:
            continue
        variants.append((words, replace(gru, spec=spec)))
        yield Suspect(*variants[-1])
    if len(gru.params[0]) == 2:
        turned = replace(gru, params=tuple((backward, forward) for forward, backward in gru.params))
        yield Suspect("the two directions exchanged", turned)
    for before, variant in variants:
        for words, change in CELL_CHANGES.items():
            changed = _changed(variant, change, lambda layer, d: True)
            if changed is not None:
                yield Suspect(f"{before} and {words}" if before else words, changed)
    yield from _in_some_cells(gru)


def _in_some_cells(gru: StoredGRU) -> Iterator[Suspect]:
    """A change to one direction, or one layer, or one cell."""
    L, D = len(gru.params), len(gru.params[0])
    names = ("forward", "reverse") if D == 2 else ("",)
    for words, change in CELL_CHANGES.items():
        for d in range(D if D == 2 else 0):
            if (changed := _changed(gru, change, lambda _, at, d=d: at == d)) is not None:
                yield Suspect(f"{words}, in the {names[d]} direction alone", changed)
        for layer in range(L if L > 1 else 0):
            if (changed := _changed(gru, change, lambda at, _, layer=layer: at == layer)) is not None:
                yield Suspect(f"{words}, in layer {layer} alone", changed)
        for layer in range(L if L > 1 and D == 2 else 0):
            for d in range(D):
                one = _changed(gru, change, lambda at, way, layer=layer, d=d: (at, way) == (layer, d))
                if one is not None:
                    yield Suspect(f"{words}, in the {names[d]} direction of layer {layer} alone", one)


def _changed(gru: StoredGRU, change: Change, where: Any) -> StoredGRU | None:
    """None where it changes nothing, such as the bias of a GRU without."""
    params = tuple(
        tuple(change(w) if where(layer, d) else w for d, w in enumerate(directions))
        for layer, directions in enumerate(gru.params)
    )
    pairs = zip(weights_of(params), weights_of(gru.params), strict=True)
    return None if all(np.array_equal(p, q) for p, q in pairs) else replace(gru, params=params)


def _words(name: str, value: Any) -> str:
    return RESET[value] if name == "reset_after" else f"{name} = {value}"
