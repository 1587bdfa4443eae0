"""All layers and directions, over layers that are plain or fused."""

from __future__ import annotations

from typing import Any

from .interfaces import Layer, Options
from .params import Array, GRUGrads, LayerTape, Params


class Stack:
    """The plain stack: a layer reads what the one below wrote, both directions side by side on the last axis."""

    name = "plain"

    def __init__(self, xp: Any, layer: Layer):
        self.xp, self.layer = xp, layer

    def inference(
        self, x: Array, h0: Array, params: Params, options: Options, dropout_masks: Any, /
    ) -> tuple[Any, Any]:
        """x (T, N, I), h0 (L*D, N, H) -> y (T, N, D*H), h_n (L*D, N, H)."""
        if len(params) == 1 == len(params[0]):  # in a small call the loops below would take as long as the rest
            y, h_n = self.layer.inference(x, h0[0, ...], params[0][0], options)
            return y, self._stacked([h_n], y)
        ways = directions(params, options)
        states: list[Any] = []
        for index, layer in enumerate(params):
            outs = []
            for w, way in zip(layer, ways, strict=True):
                y, h_n = self.layer.inference(x, h0[len(states), ...], w, way)
                outs.append(y)
                states.append(h_n)
            x = self._between(outs, index, dropout_masks)
        return x, self._stacked(states, x)

    def forward(
        self, x: Array, h0: Array, params: Params, options: Options, dropout_masks: Any, /
    ) -> tuple[Any, Any, tuple[tuple[LayerTape, ...], ...]]:
        """As `inference`, and the layers' tapes."""
        if len(params) == 1 == len(params[0]):
            y, h_n, tape = self.layer.forward(x, h0[0, ...], params[0][0], options)
            return y, self._stacked([h_n], y), ((tape,),)
        ways = directions(params, options)
        states: list[Any] = []
        tapes = []
        for index, layer in enumerate(params):
            outs, layer_tapes = [], []
            for w, way in zip(layer, ways, strict=True):
                y, h_n, tape = self.layer.forward(x, h0[len(states), ...], w, way)
                outs.append(y)
                states.append(h_n)
                layer_tapes.append(tape)
            tapes.append(tuple(layer_tapes))
            x = self._between(outs, index, dropout_masks)
        return x, self._stacked(states, x), tuple(tapes)

    def backward(self, tapes: tuple[tuple[LayerTape, ...], ...], dy: Any, dh_n: Any, dropout_masks: Any, /) -> GRUGrads:
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
                dy_d = dy if dy is None or D == 1 else dy[..., d * H : (d + 1) * H]
                dx_d, dh0[row], dw = self.layer.backward(tape, dy_d, None if dh_n is None else dh_n[row, ...])
                dx = dx_d if dx is None else self.xp.add(dx, dx_d)
                dlayer.append(dw)
            dparams.append(tuple(dlayer))
            dy = dx if index == 0 or dropout_masks is None else self.xp.multiply(dx, dropout_masks[index - 1, ...])
        return GRUGrads(dy, self._stacked(dh0, dy), tuple(reversed(dparams)))

    def _stacked(self, states: list[Any], y: Any) -> Any:
        """States (N, H), or their gradients, as (L*D, N, H). Without steps they are the caller's own: then a copy."""
        return states[0][None, ...] if len(states) == 1 and y.shape[0] > 0 else self.xp.stack(states)

    def _between(self, outs: list[Any], index: int, dropout_masks: Any) -> Any:
        """The directions' outputs (T, N, H) side by side, and through the dropout above this layer, if any."""
        y = outs[0] if len(outs) == 1 else self.xp.concat(outs, axis=-1)
        if dropout_masks is None or index == dropout_masks.shape[0]:
            return y
        return self.xp.multiply(y, dropout_masks[index, ...])


class EmptyBatch:
    """Inference without rows: one step is then as much as T, of which there may be more than can be walked through."""

    def __init__(self, xp: Any, stack: Any):
        self.xp, self.stack, self.name = xp, stack, stack.name

    def inference(
        self, x: Array, h0: Array, params: Params, options: Options, dropout_masks: Any, /
    ) -> tuple[Any, Any]:
        """x (T, 0, I), h0 (L*D, 0, H) -> y (T, 0, D*H), h_n (L*D, 0, H)."""
        options = options._replace(valid=self._steps(options.valid, 1), resets=self._steps(options.resets, 1))
        masks = None if dropout_masks is None else dropout_masks[:, :1, ...]
        y, h_n = self.stack.inference(self._steps(x, 1), h0, params, options, masks)
        return self._steps(y, x.shape[0]), h_n

    def _steps(self, a: Any, T: int) -> Any:
        """The same nothing as T steps."""
        return None if a is None else self.xp.reshape(a, (T, *a.shape[1:]))


def directions(params: Params, options: Options) -> tuple[Options, ...]:
    """The options of each direction of a layer: a second one runs backwards in time."""
    return (options, options._replace(reverse=True))[: len(params[0])]
