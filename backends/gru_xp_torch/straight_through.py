"""Values with the gradient of others, https://arxiv.org/abs/1308.3432: for weights that are rounded in training."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["StraightThrough"]


class StraightThrough(torch.autograd.Function):
    """(array, values) -> values; what comes back goes to the array."""

    generate_vmap_rule = True

    @staticmethod
    def forward(array: Any, values: Any) -> Any:
        return values.clone()  # autograd takes an input that is returned for the input

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient, None

    @staticmethod
    def jvp(ctx: Any, tangent: Any, _: Any) -> Any:
        return tangent.clone()
