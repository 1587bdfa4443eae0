"""What every test starts from: no variable is set, and JAX has float64."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests choose for themselves."""
    monkeypatch.delenv("GRU_XP_BACKEND", raising=False)
    monkeypatch.delenv("GRU_XP_KERNELS", raising=False)


def pytest_configure(config: pytest.Config) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
