"""The pointwise part of a step for PyTorch on the CPU, with its fused operators and in place.

The equations are those of `gru_xp.cell.Gates`, in the same order.
"""

from __future__ import annotations

from typing import Any

import torch

from gru_xp.interfaces import Call, Level

__all__ = ["TorchGates", "kernel"]


class TorchGates:
    """Fused gates for PyTorch on the CPU."""

    name = "torch-gates"
    level: Level = "gates"

    def refuses(self, call: Call, /) -> str | None:
        if not call.spec.reset_after:
            return "with reset_after=False the gates have a product in their middle"
        if not call.spec.standard_gates:
            return "has only sigmoid and tanh, and no clip"
        if call.device.type != "cpu":
            return f"it is for the CPU, and the tensors are on {call.device}"
        return "its operations in place cannot be differentiated or traced" if call.recording else None

    def inference(self, gi: Any, gh: Any, h: Any, /) -> Any:
        return self.forward(gi, gh, h)[0]

    def forward(self, gi: Any, gh: Any, h: Any, /) -> tuple[Any, ...]:
        H = h.shape[-1]
        rz = (gi[..., : 2 * H] + gh[..., : 2 * H]).sigmoid_()
        r, z = rz[..., :H], rz[..., H:]
        u = gh[..., 2 * H :]
        n = torch.addcmul(gi[..., 2 * H :], r, u).tanh_()
        # lerp is h - (h - n) * (1 - z) from z = 0.5 on, so at z = 1 the state stands still exactly
        return torch.lerp(n, h, z), r, z, n, u

    def backward(self, dh1: Any, h: Any, r: Any, z: Any, n: Any, u: Any, /) -> tuple[Any, ...]:
        H = h.shape[-1]
        dgi = h.new_empty((*h.shape[:-1], 3 * H))
        da_r, da_z, da_n = dgi[..., :H], dgi[..., H : 2 * H], dgi[..., 2 * H :]
        away = (1.0 - z).mul_(dh1)
        torch.mul(n, n, out=da_n).neg_().add_(1.0).mul_(away)
        torch.sub(h, n, out=da_z).mul_(z).mul_(away)
        torch.mul(r, r, out=da_r).neg_().add_(r).mul_(u).mul_(da_n)
        dgh = dgi.clone()
        dgh[..., 2 * H :].mul_(r)
        return dgi, dgh, z * dh1


kernel = TorchGates()
