"""All layers and directions, over a floor of layers: plain or fused."""

from __future__ import annotations

from typing import Any, Protocol

from .params import Array, CellParams, GRUGrads, GRUSpec, LayerTape, Params


class LayerFloor(Protocol):
    """What the stack stands on: one layer in one direction, here or in a fused kernel. See `kernels.LayerKernel`."""

    def inference(
        self, x: Any, h0: Any, w: CellParams, /, *, spec: GRUSpec, valid: Any, resets: Any, reverse: bool
    ) -> tuple[Any, Any]: ...
    def forward(
        self, x: Any, h0: Any, w: CellParams, /, *, spec: GRUSpec, valid: Any, resets: Any, reverse: bool, save: str
    ) -> tuple[Any, Any, LayerTape]: ...
    def backward(self, tape: LayerTape, dy: Any, dh_n: Any, /) -> tuple[Any, Any, CellParams]: ...


class Stack:
    """The plain stack: a layer reads what the one below wrote, both directions side by side on the last axis."""

    name = "plain"

    def __init__(self, xp: Any, layer: LayerFloor):
        self.xp, self.layer = xp, layer

    def inference(
        self, x: Array, h0: Array, params: Params, /, *, spec: GRUSpec, valid: Any, resets: Any, dropout_masks: Any
    ) -> tuple[Any, Any]:
        """x (T, N, I), h0 (L*D, N, H) -> y (T, N, D*H), h_n (L*D, N, H)."""
        if len(params) == 1 == len(params[0]):  # in a small call the loops below would take as long as the rest
            y, h_n = self.layer.inference(
                x, h0[0, ...], params[0][0], spec=spec, valid=valid, resets=resets, reverse=spec.reverse
            )
            return y, self._stacked([h_n], y)
        states = []
        for index, directions in enumerate(params):
            outs = []
            for d, w in enumerate(directions):
                h = h0[index * len(directions) + d, ...]
                reverse = d == 1 or spec.reverse
                y, h_n = self.layer.inference(x, h, w, spec=spec, valid=valid, resets=resets, reverse=reverse)
                outs.append(y)
                states.append(h_n)
            x = self._between(outs, index, dropout_masks)
        return x, self._stacked(states, x)

    def forward(
        self,
        x: Array,
        h0: Array,
        params: Params,
        /,
        *,
        spec: GRUSpec,
        valid: Any,
        resets: Any,
        dropout_masks: Any,
        save: str,
    ) -> tuple[Any, Any, tuple[tuple[LayerTape, ...], ...]]:
        """As `inference`, and the layers' tapes."""
        if len(params) == 1 == len(params[0]):
            y, h_n, tape = self.layer.forward(
                x, h0[0, ...], params[0][0], spec=spec, valid=valid, resets=resets, reverse=spec.reverse, save=save
            )
            return y, self._stacked([h_n], y), ((tape,),)
        states, tapes = [], []
        for index, directions in enumerate(params):
            outs, layer_tapes = [], []
            for d, w in enumerate(directions):
                h = h0[index * len(directions) + d, ...]
                reverse = d == 1 or spec.reverse
                y, h_n, tape = self.layer.forward(
                    x, h, w, spec=spec, valid=valid, resets=resets, reverse=reverse, save=save
                )
                outs.append(y)
                states.append(h_n)
                layer_tapes.append(tape)
            tapes.append(tuple(layer_tapes))
            x = self._between(outs, index, dropout_masks)
        return x, self._stacked(states, x), tuple(tapes)

    def backward(
        self, tapes: tuple[tuple[LayerTape, ...], ...], dy: Any, dh_n: Any, /, *, dropout_masks: Any
    ) -> GRUGrads:
        """dy (T, N, D*H) or None, dh_n (L*D, N, H) or None -> the gradients."""
        if len(tapes) == 1 == len(tapes[0]):
            dx, dh, dw = self.layer.backward(tapes[0][0], dy, None if dh_n is None else dh_n[0, ...])
            return GRUGrads(dx, self._stacked([dh], dx), ((dw,),))
        D, H = len(tapes[0]), tapes[0][0].w.W_hh.shape[1]
        dh0: list[Any] = [None] * (len(tapes) * D)
        dparams = []
        for index in reversed(range(len(tapes))):
            dx, dlayer = None, []
            for d, tape in enumerate(tapes[index]):
                row = index * D + d
                part = dy if dy is None or D == 1 else dy[..., d * H : (d + 1) * H]
                dx_d, dh0[row], dw = self.layer.backward(tape, part, None if dh_n is None else dh_n[row, ...])
                dx = dx_d if dx is None else dx + dx_d
                dlayer.append(dw)
            dparams.append(tuple(dlayer))
            dy = dx if index == 0 or dropout_masks is None else dx * dropout_masks[index - 1, ...]
        return GRUGrads(dy, self._stacked(dh0, dy), tuple(reversed(dparams)))

    def _stacked(self, states: list[Any], y: Any) -> Any:
        """States (N, H), or their gradients, as (L*D, N, H). Without steps they are the caller's own: then a copy."""
        return states[0][None, ...] if len(states) == 1 and y.shape[0] > 0 else self.xp.stack(states)

    def _between(self, outs: list[Any], index: int, dropout_masks: Any) -> Any:
        """The directions' outputs (T, N, H) side by side, and through the dropout above this layer, if any."""
        y = outs[0] if len(outs) == 1 else self.xp.concat(outs, axis=-1)
        return y if dropout_masks is None or index == dropout_masks.shape[0] else y * dropout_masks[index, ...]
