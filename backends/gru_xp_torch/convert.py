"""Models as PyTorch's own: a `state_dict`, a live `torch.nn.GRU`."""

from __future__ import annotations

import io
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gru_xp.checks import sizes_of
from gru_xp.errors import BackendError
from gru_xp.formats.named import pytorch_names
from gru_xp.formats.trees import arrays_of
from gru_xp.module import GRU, as_stored
from gru_xp.stored import StoredGRU, assert_spec

__all__ = ["run_saved", "saved", "state_dict", "to_module"]


def state_dict(gru: StoredGRU) -> dict[str, torch.Tensor]:
    """The weights under PyTorch's names, bit for bit, on the CPU."""
    dtype = getattr(torch, gru.dtype)
    return {name: torch.from_numpy(array.copy()).to(dtype) for name, array in pytorch_names(gru.params).items()}


def saved(gru: StoredGRU) -> bytes:
    """The file that `torch.save` makes of the weights."""
    buffer = io.BytesIO()
    torch.save(state_dict(gru), buffer)
    return buffer.getvalue()


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
    module = _module_for(stored, device)
    module.load_state_dict(state_dict(stored))
    return module


def _module_for(gru: StoredGRU, device: Any) -> torch.nn.GRU:
    sizes = sizes_of(gru.params)
    return torch.nn.GRU(
        sizes.I,
        sizes.H,
        sizes.L,
        bias=sizes.bias,
        batch_first=gru.batch_first,
        dropout=gru.dropout if sizes.L > 1 else 0.0,  # which would warn
        bidirectional=sizes.D == 2,
        device=device,
        dtype=getattr(torch, gru.dtype),
    )


def run_saved(path: Path, gru: StoredGRU, x: Any, h0: Any, lengths: Any) -> tuple[Any, Any]:
    """y (T, N, D*H), h_n (L*D, N, H) by `torch.nn.GRU`, with what `torch.load` finds in the file under the GRU's name.

    x (T, N, I), h0 (L*D, N, H) or None, lengths (N,) or None are NumPy's. A `BackendError` says what it cannot run.
    """
    if "+" in gru.name or (lengths is not None and min(lengths, default=1) < 1):
        raise BackendError(
            "torch.nn.GRU packs no sequences of length 0, and a stack put together by name is none of its"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is TorchScript, which is then refused
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:  # the latter for TorchScript
        raise BackendError(
            f"torch.load(weights_only=True) refuses the file: {str(error).partition('. ')[0][:100]}"
        ) from None
    tensors = arrays_of(tree)
    place = f"{gru.name}." if gru.name else ""
    module = _module_for(replace(gru, batch_first=False, dropout=0.0), "cpu")
    cell = f"{place}weight_hh" in tensors  # a GRUCell's names say no layer
    names = {name: place + (name.removesuffix("_l0") if cell else name) for name in module.state_dict()}
    if missing := names.values() - tensors.keys():
        raise BackendError(f"torch.nn.GRU has no weights that are computed or named otherwise: {sorted(missing)[:4]}")
    module.load_state_dict({name: tensors[there] for name, there in names.items()})
    dtype = getattr(torch, gru.dtype)
    given: Any = torch.from_numpy(x).to(dtype)
    if lengths is not None:
        given = pack_padded_sequence(given, torch.as_tensor(lengths).long(), enforce_sorted=False)
    with torch.no_grad():
        y, h_n = module(given, None if h0 is None else torch.from_numpy(h0).to(dtype))
    if lengths is not None:
        y, _ = pad_packed_sequence(y, total_length=len(x))
    return y.to(torch.float64).numpy(), h_n.to(torch.float64).numpy()
