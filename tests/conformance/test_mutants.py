"""The suite is proved: each broken implementation is rejected by the group that is meant to; honest ones pass."""

from __future__ import annotations

import pytest

from gru_xp_conformance.cases import GROUPS
from gru_xp_conformance.matrix import FAILED, judge_case, plan
from gru_xp_conformance.mutants import HONEST, MUTANTS, Mutant


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


@pytest.mark.parametrize("honest", HONEST, ids=str)
def test_an_honest_implementation_passes(honest: Mutant) -> None:
    for target, case, dtype in plan([honest.target], quick=True):
        outcome = judge_case(target, case, dtype, honest.implementation())
        assert outcome.status != FAILED, outcome.reason


def test_there_are_mutants_for_every_group() -> None:
    assert {mutant.caught_by for mutant in MUTANTS} == set(GROUPS)
    assert len({mutant.kind for mutant in MUTANTS}) >= 25
