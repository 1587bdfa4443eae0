"""What is kept of three trained models in 8 and 16 bits is as good as is promised, and the page shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOUND = json.loads((ROOT / "conformance" / "results" / "trained_narrow.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("task", ["digits", "text", "g2p_en"])
def test_a_task_is_done_as_well_and_the_account_predicts_the_difference(task: str) -> None:
    """Within 0.5 % of the figure in float32; the mean difference of y on other inputs within 5 %."""
    one = FOUND["models"][task]
    assert len(one["kinds"]) == 4
    for kind in one["kinds"].values():
        assert abs(kind["figure"] / one["float32"] - 1) <= 0.005
        for predicted, measured in zip(kind["predicted"], kind["measured"], strict=True):
            assert predicted == pytest.approx(measured, rel=0.05)


def test_the_page_has_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(ROOT / "conformance" / "benchmarks")
    from speed_page import table
    from trained_narrow import HEADS, rows

    page = (ROOT / "docs" / "quantize.md").read_text(encoding="utf-8")
    assert f"<!-- trained:begin -->\n{table(HEADS, list(rows(FOUND)))}\n<!-- trained:end -->" in page
