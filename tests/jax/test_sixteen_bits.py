"""bfloat16 and float16 arrays of JAX on the CPU: the fused kernels, against the plain path and float64."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("llvmlite")

import gru_xp
from gru_xp_conformance import tolerance


def results(sizes: tuple[int, ...], dtype: str, *, fused: bool = False) -> list[Any]:
    """y, h_n and all gradients of two layers in two directions; the numbers are the same for all dtypes."""
    T, N, I, H = sizes
    rng = np.random.default_rng(sizes)

    def array(*shape: int, scale: float = 1.0) -> Any:
        numbers = np.round(64 * np.clip(scale * rng.standard_normal(shape), -3.9, 3.9)) / 64  # which all dtypes have
        return jnp.asarray(numbers, dtype)

    params = tuple(
        tuple(
            gru_xp.CellParams(*(array(*shape, scale=H**-0.5) for shape in ((3 * H, i), (3 * H, H), (3 * H,), (3 * H,))))
            for _ in range(2)
        )
        for i in (I, 2 * H)
    )
    lengths, resets = jnp.asarray(rng.integers(0, T + 1, N)), jnp.asarray(rng.random((T, N)) < 0.2)
    flows = array(T, N, 2 * H), array(4, N, H)

    def run(x: Any, h0: Any, params: Any) -> Any:
        return gru_xp.gru(x, params, h0, lengths=lengths, resets=resets)

    @jax.jit
    def everything(*arrays: Any) -> Any:
        found, pull = jax.vjp(run, *arrays)
        return found, pull(flows)

    arrays = array(T, N, I), array(4, N, H), params
    lowered = everything.lower(*arrays)
    assert ("gru_xp-backward" in lowered.as_text()) == fused
    return jax.tree.leaves(lowered.compile()(*arrays))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("sizes", [(5, 3, 6, 10), (3, 1, 70, 33), (60, 17, 40, 96)], ids=str)
def test_fused_results_are_as_good_as_plain_ones(
    sizes: tuple[int, ...], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = results(sizes, dtype, fused=True)
    monkeypatch.setenv("GRU_XP_KERNELS", "off")
    plain, exact = results(sizes, dtype), results(sizes, "float64")
    for number, (a, b, wanted) in enumerate(zip(got, plain, exact, strict=True)):
        assert a.dtype == dtype and a.shape == wanted.shape
        error, of_plain = (np.max(np.abs(np.asarray(each, "f8") - np.asarray(wanted))) for each in (a, b))
        assert error <= tolerance.bound(float(of_plain), np.asarray(wanted), dtype), number
