"""The suite under pytest: `GRU_XP_BACKEND=torch python -m pytest --pyargs gru_xp_conformance`.

Each case on each row is a test; what does not run is a skip with its reason, and what GRU_XP_REQUIRE promises is a test
too. GRU_XP_QUICK=1 leaves the long cases out.
"""

from __future__ import annotations

import os

import pytest

from gru_xp_conformance.cases import Case
from gru_xp_conformance.judge import Target
from gru_xp_conformance.matrix import FAILED, NOT_RUN, chosen, judge_case, plan, promises_broken, targets

NAMES = chosen()
ROWS, MISSING = targets(NAMES)
STEPS = plan(ROWS, quick=os.environ.get("GRU_XP_QUICK", "") not in ("", "0"))


def test_all_that_was_promised_is_here() -> None:
    assert not promises_broken(ROWS, MISSING, NAMES)


@pytest.mark.parametrize(
    ("target", "case", "dtype"),
    STEPS,
    ids=["-".join([str(target), case.group, case.name, dtype]).replace(" ", "_") for target, case, dtype in STEPS],
)
def test_conformance(target: Target, case: Case, dtype: str) -> None:
    outcome = judge_case(target, case, dtype)
    if outcome.status == NOT_RUN:
        pytest.skip(outcome.reason)
    if outcome.status == FAILED:
        pytest.fail(f"{outcome.reason}\nthis case catches: {case.catches}", pytrace=False)
