"""The suite is proved: each broken implementation is rejected by the group that is meant to; honest ones pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gru_xp import quantized
from gru_xp_conformance.cases import GROUPS
from gru_xp_conformance.matrix import FAILED, NOT_RUN, judge_case, plan
from gru_xp_conformance.mutants import HONEST, MUTANTS, Mutant
from gru_xp_conformance.narrow import narrow_cases
from gru_xp_conformance.narrow_mutants import NARROW_MUTANTS, HonestNarrow


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.caught_by}-{mutant}")
def test_a_mutant_is_rejected_by_the_group_that_is_meant_to_catch_it(mutant: Mutant) -> None:
    outcomes = (
        judge_case(mutant.target, case, dtype, mutant.implementation())
        for _, case, dtype in plan([mutant.target], quick=False)
        if case.group == mutant.caught_by
    )
    caught = next((outcome for outcome in outcomes if outcome.status == FAILED), None)
    assert caught is not None, f"{mutant.mistake}: not seen by {mutant.caught_by}"
    assert "Error: " not in caught.reason, f"{mutant.mistake}: expected a wrong result, got {caught.reason}"


@pytest.mark.parametrize("kind", [HonestNarrow, *NARROW_MUTANTS], ids=lambda kind: kind.__name__)
def test_kernels_that_read_narrow_weights_wrongly_are_rejected(kind: type[HonestNarrow]) -> None:
    mutant = Mutant(kind, "inference")
    kernel = mutant.implementation()  # one for all cases, so that it may keep what it should not
    outcomes = [judge_case(mutant.target, case, "float32", kernel) for case in narrow_cases()]
    wrong = [outcome for outcome in outcomes if outcome.status == FAILED]
    assert all(outcome.status != NOT_RUN for outcome in outcomes)
    assert bool(wrong) == (kind is not HonestNarrow), [outcome.reason for outcome in wrong]
    meant = {case.name for case in narrow_cases() if kind.caught_as in case.catches}
    assert meant & {outcome.case for outcome in wrong} or kind is HonestNarrow, (
        f"not seen by the cases that say: {kind.caught_as}"
    )
    assert all("Error: " not in outcome.reason for outcome in wrong), wrong


def truncated(W: Any) -> tuple[Any, Any]:
    scale = np.abs(W).max(axis=1) / np.float32(127)
    return np.trunc(W / scale[:, None]) * scale[:, None], scale


def of_another_row(W: Any) -> tuple[Any, Any]:
    scale = np.roll(np.abs(W).max(axis=1) / np.float32(127), 1)
    return np.clip(np.rint(W / scale[:, None]), -127, 127) * scale[:, None], scale


def of_the_whole_matrix(W: Any) -> tuple[Any, Any]:
    scale = np.full(len(W), np.abs(W).max() / np.float32(127))
    return np.rint(W / scale[:, None]) * scale[:, None], scale


@pytest.mark.parametrize("rounding", [truncated, of_another_row, of_the_whole_matrix])
def test_weights_that_are_rounded_wrongly_are_rejected(rounding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By each case of int8 weights, whoever computes: they are not the nearest that there are."""
    monkeypatch.setattr(quantized, "_rounded", lambda W, weights, backend: rounding(W))
    honest = Mutant(HonestNarrow, "inference")
    for case in narrow_cases():
        if case.name.startswith("int8 weights"):
            outcome = judge_case(honest.target, case, "float32", honest.implementation())
            assert outcome.status == FAILED and "weights: expected" in outcome.reason


@pytest.mark.parametrize("honest", HONEST, ids=str)
def test_an_honest_implementation_passes(honest: Mutant) -> None:
    for target, case, dtype in plan([honest.target], quick=True):
        outcome = judge_case(target, case, dtype, honest.implementation())
        assert outcome.status != FAILED, outcome.reason


def test_there_are_mutants_for_every_group() -> None:
    assert {mutant.caught_by for mutant in MUTANTS} == set(GROUPS)
    assert len({mutant.kind for mutant in MUTANTS}) >= 25
