"""Quantised weights inside PyTorch's transforms, compiler and exporter; roundings of activations have no derivative."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gru_xp
from gru_xp import errors

KINDS = [("int8", "float32"), ("int8", "int8"), ("float16", "float32")]
X = torch.from_numpy(np.random.default_rng(2).normal(size=(9, 3, 24)).astype("f4"))


def made(kind: Any) -> Any:
    """A model that nobody has called yet."""
    params = gru_xp.map_params(lambda a: torch.tensor(a), gru_xp.GRU(24, 40, num_layers=2, seed=1).params)
    return gru_xp.GRU.from_params(gru_xp.quantize(params, *kind))


class Module(torch.nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.model(x)[0]
        return y


@pytest.mark.parametrize("how", ["compile", "export", "vmap"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_call_may_be_traced(kind: Any, how: str) -> None:
    model = made(kind)
    right = made(kind)(X)[0]
    if how == "compile":
        call: Any = torch.compile(Module(model), backend="aot_eager")
    elif how == "export":
        call = torch.export.export(Module(model), (X,)).module()
    else:
        call = lambda x: torch.func.vmap(lambda x: model(x)[0])(torch.stack([x, 2 * x]))[0]  # noqa: E731
    atol = 1e-3 if kind[1] == "int8" else 1e-6  # a rounding that is decided otherwise moves a sum by a step
    for _ in range(2):
        torch.testing.assert_close(call(X), right, atol=atol, rtol=0)
    assert torch.equal(model(X)[0], right)


def test_gru_inference_under_vmap() -> None:
    params = gru_xp.map_params(lambda a: torch.tensor(a), gru_xp.GRU(24, 40, num_layers=2, seed=1).params)
    got = torch.func.vmap(lambda x: gru_xp.gru_inference(x, params)[0])(torch.stack([X, 2 * X]))
    for y, x in zip(got, (X, 2 * X), strict=True):
        torch.testing.assert_close(y, gru_xp.gru_inference(x, params)[0], atol=1e-6, rtol=0)


def test_int8_activations_have_no_derivative() -> None:
    model = made(("int8", "int8"))
    recorded = X.clone().requires_grad_()
    for call in (
        lambda: model(recorded),
        lambda: torch.compile(Module(model), backend="aot_eager")(recorded),
        lambda: torch.func.grad(lambda x: model(x)[0].sum())(X),
        lambda: torch.func.vmap(torch.func.grad(lambda x: model(x)[0].sum()))(torch.stack([X, X])),
    ):
        with pytest.raises(errors.NotDifferentiableError, match="int8 activations, which have none"):
            call()
    with torch.no_grad():
        assert torch.equal(model(recorded)[0], model(X)[0])
    assert not gru_xp.gru_inference(recorded, model._own)[0].requires_grad


def test_a_module_of_pytorch_has_the_numbers_that_the_weights_mean() -> None:
    """And none rounds x and the state."""
    import gru_xp_torch

    model = made(("int8", "float32"))
    module = gru_xp_torch.to_module(model)
    assert torch.equal(module.weight_hh_l1, model.params[1][0].W_hh)
    torch.testing.assert_close(module(X)[0], model(X)[0], atol=1e-6, rtol=0)
    with pytest.raises(errors.ConversionError, match="int8 activations: torch.nn.GRU does not round x and the state"):
        gru_xp_torch.to_module(made(("int8", "int8")))
