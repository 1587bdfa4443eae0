"""The fused CPU kernels for PyTorch's tensors in host memory, which NumPy's arrays can share.

A whole call is seen as one of NumPy's arrays, and its results as tensors, without a copy. It runs on PyTorch's threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gru_xp.interfaces import Call, Level, Options
from gru_xp.narrow import Narrow
from gru_xp.params import CellParams, GRUGrads, LayerTape, Params, map_params
from gru_xp.stack import Stack
from gru_xp_cpu import CpuLayer, Owner, PackedCell

from .memory import empty, seen, shown

__all__ = ["CpuStack", "kernel"]


class Joining:
    """What a stack needs of a namespace, into memory of PyTorch's."""

    @staticmethod
    def concat(arrays: list[Any], axis: int) -> Any:
        """As `numpy.concatenate` along the last axis."""
        *shape, _ = arrays[0].shape
        out = empty((*shape, sum(a.shape[axis] for a in arrays)), arrays[0].dtype)
        return np.concatenate(arrays, axis, out=out)

    @staticmethod
    def stack(arrays: list[Any]) -> Any:
        """As `numpy.stack`."""
        return np.stack(arrays, out=empty((len(arrays), *arrays[0].shape), arrays[0].dtype))

    @staticmethod
    def add(a: Any, b: Any) -> Any:
        """As `torch.add`: NumPy has no bfloat16."""
        out = empty(a.shape, a.dtype)
        torch.add(shown(a), shown(b), out=shown(out))
        return out

    @staticmethod
    def multiply(a: Any, b: Any) -> Any:
        """As `torch.multiply`."""
        out = empty(a.shape, a.dtype)
        torch.multiply(shown(a), shown(b), out=shown(out))
        return out


class CpuStack:
    """Fused inference, forward and backward for tensors, as `gru_xp.interfaces.StackKernel`; `host` is NumPy's."""

    name = "cpu"
    level: Level = "stack"
    unseen = True
    serves_integers = True

    def __init__(self) -> None:
        self.layer = CpuLayer(Owner(Path(torch.__file__).parent, torch.get_num_threads, empty))
        self.host = Stack(Joining, self.layer)

    def refuses(self, call: Call, /) -> str | None:
        """Say why not, or return None."""
        return self.layer.refuses(call)

    def pack(self, w: CellParams, /) -> CellParams:
        """Copy and pack weights; the copies are NumPy's."""
        return self.layer.pack(_weights(w))

    def pack_narrow(self, w: CellParams, narrow: Narrow, scales: CellParams | None, /) -> CellParams:
        """The same for weights that `quantize` made."""
        return self.layer.pack_narrow(_weights(w), narrow, None if scales is None else _weights(scales))

    def warmup(self) -> str:
        """As `gru_xp_cpu.CpuLayer.warmup`."""
        return self.layer.warmup()

    def inference(self, x: Any, h0: Any, params: Params, options: Options, dropout_masks: Any, /) -> tuple[Any, Any]:
        """x (T, N, I), h0 (L*D, N, H) -> y (T, N, D*H), h_n (L*D, N, H)."""
        y, h_n = self.host.inference(seen(x), seen(h0), _params(params), _options(options), seen(dropout_masks))
        return shown(y), shown(h_n)

    def forward(
        self, x: Any, h0: Any, params: Params, options: Options, dropout_masks: Any, /
    ) -> tuple[Any, Any, tuple[tuple[LayerTape, ...], ...]]:
        """As `inference`, and the layers' tapes."""
        given = seen(x)
        y, h_n, tapes = self.host.forward(given, seen(h0), _params(params), _options(options), seen(dropout_masks))

        def tape(t: LayerTape, w: CellParams) -> LayerTape:
            h_prev, r, z, n, u = map(shown, (t.h_prev, t.r, t.z, t.n, t.u))
            used = x if t.x is given else shown(t.x)
            return LayerTape(used, h_prev, r, z, n, u, w, options.valid, options.resets, t.spec, t.reverse)

        layers = zip(tapes, params, strict=True)
        return shown(y), shown(h_n), tuple(tuple(map(tape, *each)) for each in layers)

    def backward(self, tapes: tuple[tuple[LayerTape, ...], ...], dy: Any, dh_n: Any, dropout_masks: Any, /) -> GRUGrads:
        """dy (T, N, D*H) or None, dh_n (L*D, N, H) or None -> the gradients."""
        grads = self.host.backward(
            tuple(tuple(map(_tape, layer)) for layer in tapes), seen(dy), seen(dh_n), seen(dropout_masks)
        )
        return GRUGrads(shown(grads.x), shown(grads.h0), map_params(shown, grads.params))


def _weights(w: CellParams) -> CellParams:
    return w if isinstance(w, PackedCell) else CellParams(*map(seen, w))


def _params(params: Params) -> Params:
    return tuple(tuple(map(_weights, layer)) for layer in params)


def _options(options: Options) -> Options:
    if options.valid is None and options.resets is None:
        return options
    return options._replace(valid=seen(options.valid), resets=seen(options.resets))


def _tape(t: LayerTape) -> LayerTape:
    x, h_prev, r, z, n, u = map(seen, t[:6])
    return LayerTape(x, h_prev, r, z, n, u, _weights(t.w), seen(t.valid), seen(t.resets), t.spec, t.reverse)


kernel = CpuStack()
