"""What every test starts from: no variable is set, and JAX has float64."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

# so that `assert` says what it compared there too, and compares under `python -O`
pytest.register_assert_rewrite(*(path.stem for path in Path(__file__).with_name("support").glob("*.py")))


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests choose for themselves."""
    monkeypatch.delenv("GRU_XP_BACKEND", raising=False)
    monkeypatch.delenv("GRU_XP_KERNELS", raising=False)


@pytest.fixture(autouse=True, scope="session")
def _float64_in_jax() -> None:
    """Not as a variable, which programs that tests start would inherit; not earlier, so that collection is quick."""
    with contextlib.suppress(ModuleNotFoundError):
        import jax

        jax.config.update("jax_enable_x64", True)
