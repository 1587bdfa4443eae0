"""What the tests of the fused CPU kernels share."""

from __future__ import annotations

import pytest


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three threads at each call, faster or not."""
    from gru_xp_cpu.calling import kernel

    monkeypatch.setenv("GRU_XP_NUM_THREADS", "3")
    monkeypatch.setattr(kernel, "TRIED", 0)
    for kind in ("forward", "backward"):
        kernel.kernel(kind, "f", None)._layouts.clear()
