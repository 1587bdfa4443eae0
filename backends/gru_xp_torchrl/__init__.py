"""TorchRL: `GRUModule` with `gru_xp_torch.GRU` in it, which runs over the ends of episodes as they lie.

torchrl.modules.GRUModule cuts a rollout at each step that `is_init` marks, pads the pieces and puts their results
together again. Here `is_init` goes to the GRU as `resets`, in one call over the whole rollout.
"""

from __future__ import annotations

from typing import Any

import torch
import torchrl.modules
from tensordict.nn import dispatch

from gru_xp_torch import GRU

__all__ = ["GRUModule"]


class GRUModule(torchrl.modules.GRUModule):
    """torchrl.modules.GRUModule with its arguments, keys and results, run by gru_xp.

    What has no reset of its own in one call goes torchrl's way, by pieces: several layers, two directions, and a state
    that is not zero where `is_init` is true, as from a primer with other defaults.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: L.
        bias: with both biases or with neither.
        dropout: probability with which, in training, an output of a layer but the last is dropped.
        bidirectional: D = 2.
        device: of the parameters.
        gru: a `gru_xp_torch.GRU` or a `torch.nn.GRU` with batch_first=True instead of the arguments above.
        **keys: `in_key` or `in_keys`, `out_key` or `out_keys`, `default_recurrent_mode`, as torchrl has them.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> from gru_xp_torchrl import GRUModule
    >>> module = GRUModule(3, 5, in_key="observation", out_key="features", default_recurrent_mode=True)
    >>> rollout = TensorDict({"observation": torch.randn(4, 20, 3), "is_init": torch.rand(4, 20, 1) < 0.1}, [4, 20])
    >>> module(rollout)["features"].shape
    torch.Size([4, 20, 5])
    """

    def __init__(
        self,
        input_size: int | None = None,
        hidden_size: int | None = None,
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: Any = None,
        gru: Any = None,
        **keys: Any,
    ):
        if gru is None:
            if input_size is None or hidden_size is None:
                raise ValueError("gru: expected a module, or input_size and hidden_size, got neither")
            gru = GRU(input_size, hidden_size, num_layers, bias, True, dropout, bidirectional, device=device)
        elif input_size is not None or hidden_size is not None:
            raise ValueError("gru: expected either a module or input_size and hidden_size, got both")
        elif isinstance(gru, torch.nn.GRU):
            gru = _ours(gru)
        super().__init__(gru=gru, **keys)

    @dispatch
    def forward(self, tensordict: Any) -> Any:
        """Write the outputs and the states of `in_keys` into the tensordict, as torchrl does."""
        found = self._resettable(tensordict) if self.recurrent_mode else None
        if found is None:
            return super().forward(tensordict)
        x, hx, is_init = found
        y, _ = self.gru(x, hx, resets=is_init)
        # the state where an episode or the rollout ends, zero elsewhere: that of one layer is its output
        ends = torch.cat([is_init[:, 1:], torch.ones_like(is_init[:, :1])], dim=1)
        states = torch.where(ends[..., None], y, 0.0)[:, :, None]
        for key, value in zip(self.out_keys, (y, states), strict=True):
            tensordict.set(key, value.reshape(*tensordict.shape, *value.shape[2:]))
        return tensordict

    def _resettable(self, tensordict: Any) -> tuple[Any, Any, Any] | None:
        """x (N, T, I), hx (1, N, H) or None, is_init (N, T); None where one call with resets is not the same."""
        if self.gru.num_layers > 1 or self.gru.bidirectional or tensordict.ndim == 0:
            return None
        x, states, is_init = (tensordict.get(key, None) for key in (*self.in_keys[:2], "is_init"))
        if x is None or is_init is None:
            return None  # torchrl says so
        T = tensordict.shape[-1]
        x, is_init = x.reshape(-1, T, x.shape[-1]), is_init.reshape(-1, T)
        if states is None:
            return x, None, is_init
        states = states.reshape(-1, T, 1, self.gru.hidden_size)
        if bool((states[is_init] != 0.0).any()):
            return None
        return x, states[:, 0].transpose(0, 1), is_init


def _ours(theirs: torch.nn.GRU) -> GRU:
    """The same parameters, not copies, in a module of ours."""
    ours = GRU(
        theirs.input_size,
        theirs.hidden_size,
        theirs.num_layers,
        theirs.bias,
        theirs.batch_first,
        theirs.dropout,
        theirs.bidirectional,
        device="meta",
    )
    for name, parameter in theirs.named_parameters():
        setattr(ours, name, parameter)
    return ours.train(theirs.training)
