"""bfloat16 and float16 tensors on the CPU: the fused kernels, against the plain path and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("llvmlite")

import gru_xp
from gru_xp.params import map_params
from gru_xp_conformance import tolerance

#: T, N, I, H; the first is a small call, the last has arrays of more than 128 KiB and several blocks of time
SIZES = [(5, 3, 6, 10), (3, 1, 70, 33), (40, 17, 40, 96), (120, 9, 24, 48)]
OPTIONS = ["none", "lengths", "resets", "dropout"]


def results(sizes: tuple[int, ...], option: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """y, h_n and all gradients of two layers in two directions; the numbers are the same for all dtypes."""
    T, N, I, H = sizes
    rng = np.random.default_rng(sizes)

    def tensor(*shape: int, scale: float = 1.0) -> Any:
        numbers = np.round(64 * np.clip(scale * rng.standard_normal(shape), -3.9, 3.9)) / 64  # which all dtypes have
        return torch.tensor(numbers, dtype=dtype, requires_grad=True)

    params = tuple(
        tuple(
            gru_xp.CellParams(
                *(tensor(*shape, scale=H**-0.5) for shape in ((3 * H, i), (3 * H, H), (3 * H,), (3 * H,)))
            )
            for _ in range(2)
        )
        for i in (I, 2 * H)
    )
    x, h0, dy = tensor(T, N, I), tensor(4, N, H), tensor(T, N, 2 * H)
    options: dict[str, Any] = {}
    if option == "lengths":
        options["lengths"] = torch.tensor(rng.integers(0, T + 1, N))
    elif option == "resets":
        options["resets"] = torch.tensor(rng.random((T, N)) < 0.2)
    elif option == "dropout":
        options["dropout_masks"] = (2 * (tensor(1, T, N, 2 * H) > 0)).to(dtype)
    y, h_n = gru_xp.gru(x, params, h0, **options)
    leaves = [x, h0, *(a for layer in params for w in layer for a in w)]
    return [y.detach(), h_n.detach(), *torch.autograd.grad([y, h_n], leaves, [dy.detach(), h0.detach()])]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_fused_results_are_as_good_as_plain_ones(
    sizes: tuple[int, ...], option: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = results(sizes, option, dtype)
    monkeypatch.setenv("GRU_XP_KERNELS", "off")
    plain, exact = results(sizes, option, dtype), results(sizes, option, torch.float64)
    name = str(dtype).removeprefix("torch.")
    for number, (a, b, wanted) in enumerate(zip(got, plain, exact, strict=True)):
        assert a.dtype == dtype and a.shape == wanted.shape
        error, of_plain = (float((each.double() - wanted).abs().max()) for each in (a, b))
        assert error <= tolerance.bound(of_plain, wanted.numpy(), name), number


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_such_calls_are_the_fused_kernels(dtype: torch.dtype) -> None:
    params = map_params(lambda a: torch.tensor(a, dtype=dtype), gru_xp.GRU(6, 10, seed=0).params)
    assert gru_xp.explain(torch.zeros(5, 3, 6, dtype=dtype), params).kernel == "cpu"


def test_integers_are_not_taken_for_the_bits_of_bfloat16() -> None:
    from gru_xp.errors import GRUError
    from gru_xp.interfaces import Options
    from gru_xp_torch.cpu import kernel

    for dtype in (torch.uint16, torch.int16):
        w = gru_xp.CellParams(*(torch.zeros(s, dtype=dtype) for s in ((12, 3), (12, 4), (12,), (12,))))
        with pytest.raises(GRUError):
            kernel.inference(
                torch.zeros(5, 2, 3, dtype=dtype), torch.zeros(1, 2, 4, dtype=dtype), ((w,),), Options(), None
            )
