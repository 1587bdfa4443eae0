"""What the training guide promises beside running."""

from __future__ import annotations

import re
from pathlib import Path

GUIDE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_ragged_training_by_hand_takes_at_most_40_lines() -> None:
    block = re.search(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    assert block is not None and "gru_backward" in block[1] and "lengths" in block[1]
    assert len(block[1].splitlines()) <= 40
