"""Models as PyTorch's own: a `state_dict`, a live `torch.nn.GRU`."""

from __future__ import annotations

from typing import Any

import torch

from gru_xp.checks import sizes_of
from gru_xp.formats.named import pytorch_names
from gru_xp.formats.stored import StoredGRU, as_stored, assert_spec
from gru_xp.module import GRU

__all__ = ["state_dict", "to_module"]


def state_dict(gru: StoredGRU) -> dict[str, torch.Tensor]:
    """The weights under PyTorch's names, bit for bit, on the CPU."""
    dtype = getattr(torch, gru.dtype)
    return {name: torch.from_numpy(array.copy()).to(dtype) for name, array in pytorch_names(gru.params).items()}


def to_module(model: GRU, *, device: Any = None) -> torch.nn.GRU:
    """A `torch.nn.GRU` with the same options and, bit for bit, the same weights.

    Args:
        model: from any backend; its equations have to be PyTorch's, or it is a `ConversionError`.
        device: of the module; by default PyTorch's default device.

    >>> import gru_xp, gru_xp_torch
    >>> gru_xp_torch.to_module(gru_xp.GRU(3, 4, num_layers=2))
    GRU(3, 4, num_layers=2)
    """
    stored = as_stored(model)
    assert_spec(stored, "torch.nn.GRU")
    sizes = sizes_of(stored.params)
    module = torch.nn.GRU(
        sizes.I,
        sizes.H,
        sizes.L,
        bias=sizes.bias,
        batch_first=stored.batch_first,
        dropout=stored.dropout if sizes.L > 1 else 0.0,  # which would warn
        bidirectional=sizes.D == 2,
        device=device,
        dtype=getattr(torch, stored.dtype),
    )
    module.load_state_dict(state_dict(stored))
    return module
