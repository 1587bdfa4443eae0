"""What the tests of the fused CPU kernels share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three threads at each call, faster or not."""
    from gru_xp_cpu import reset_for_tests
    from gru_xp_cpu.calling import kernel

    monkeypatch.setenv("GRU_XP_NUM_THREADS", "3")
    monkeypatch.setattr(kernel, "TRIED", 0)
    reset_for_tests()
    yield
    reset_for_tests()
