"""Implementations that are broken on purpose, one mistake each: the suite has to reject every one of them, and the
group of cases that is named beside it has to be among those that do.

Most are fused kernels for NumPy as somebody might write them: the plain gates, layer or stack with one thing wrong. The
rest stand in the place of the front doors.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import gru_xp
from gru_xp.activations import Activation
from gru_xp.cell import Gates
from gru_xp.convert import convert
from gru_xp.discovery import Place, load, owner
from gru_xp.interfaces import Level, Options
from gru_xp.layer import Layer
from gru_xp.params import CellParams, GRUGrads, GRUSpec, map_params
from gru_xp.selection import place_for, selection
from gru_xp.stack import Stack

from .implementation import Assembled, Library
from .judge import Target

__all__ = ["HONEST", "MUTANTS", "Mutant"]

NUMPY = load("numpy")
HERE = Place(NUMPY, NUMPY.device(None))


CPU = Target("numpy", "cpu", "mutant")
DOORS = Target("numpy", "cpu")
STRICT = Target("array_api_strict", "cpu")
TORCH = Target("torch", "cpu")


@dataclass(frozen=True)
class Mutant:
    """A broken implementation, the group that is meant to catch it, and where it is judged."""

    kind: type
    caught_by: str
    at: Target | None = None

    def __str__(self) -> str:
        return self.kind.__name__

    @property
    def target(self) -> Target:
        if self.at is not None:
            return self.at
        return DOORS if issubclass(self.kind, Library) else CPU

    @property
    def mistake(self) -> str:
        return (self.kind.__doc__ or "").partition("\n")[0].rstrip(".")

    def implementation(self) -> Library:
        made = self.kind()
        return made if isinstance(made, Library) else Assembled(HERE, made)


# ---- honest kernels, from which the others are made ------------------------------------------------------------------


class HonestGates(Gates):
    """The plain gates as a kernel."""

    name, level = "mutant", "gates"

    def __init__(self) -> None:
        super().__init__(NUMPY.xp)

    def refuses(self, call: Any, /) -> None:
        return None


class HonestLayer(Layer):
    """The plain layer as a kernel; `changed` is what a mutant does to its arguments."""

    name, level = "mutant", "layer"

    def __init__(self) -> None:
        super().__init__(NUMPY, Gates(NUMPY.xp))

    def refuses(self, call: Any, /) -> None:
        return None

    def changed(self, x: Any, h0: Any, w: CellParams, options: Options) -> tuple[Any, Any, CellParams, Options]:
        return x, h0, w, options

    def inference(self, x: Any, h0: Any, w: CellParams, options: Options, /) -> Any:
        return super().inference(*self.changed(x, h0, w, options))

    def forward(self, x: Any, h0: Any, w: CellParams, options: Options, /) -> Any:
        return super().forward(*self.changed(x, h0, w, options))

    def pack(self, w: CellParams, /) -> CellParams:
        return CellParams(*(None if a is None else a.copy() for a in w))

    def stream(self, params: Any, batch_size: int, /) -> Any:
        return HonestStream(self, params)


class HonestStream:
    """The steps of a layer one at a time."""

    def __init__(self, layer: Layer, params: Any):
        self.stack, self.params = Stack(NUMPY.xp, layer), params

    def advance(self, x: Any, state: Any, out: Any = None) -> tuple[Any, Any] | None:
        w, L = self.params[0][0], len(self.params)
        fit = x.shape[1:] == w.W_ih.shape[1:] and state.shape == (L, x.shape[0], w.W_hh.shape[1])
        if out is not None or not fit or not x.dtype == state.dtype == w.W_hh.dtype:
            return None
        y, state = self.stack.inference(x[None], state, self.params, Options(), None)
        return y[0], state


class HonestStack(Stack):
    """The plain stack as a kernel."""

    name = "mutant"
    level: Level = "stack"

    def __init__(self) -> None:
        super().__init__(NUMPY.xp, Layer(NUMPY, Gates(NUMPY.xp)))

    def refuses(self, call: Any, /) -> None:
        return None


def logistic(a: Any) -> Any:
    return 0.5 * (1.0 + np.tanh(0.5 * a))


def thirds(a: Any) -> tuple[Any, Any, Any]:
    H = a.shape[-1] // 3
    return a[..., :H], a[..., H : 2 * H], a[..., 2 * H :]


# ---- the equations, forward ------------------------------------------------------------------------------------------


class GatesSwapped(HonestGates):
    """Gates stacked z, r, n in the place of r, z, n."""

    def forward(self, gi: Any, gh: Any, h: Any, /) -> Any:
        def swapped(a: Any) -> Any:
            r, z, n = thirds(a)
            return np.concatenate([z, r, n], axis=-1)

        return super().forward(swapped(gi), swapped(gh), h)


class UpdateFlipped(HonestGates):
    """z the wrong way round: z * n + (1 - z) * h."""

    def forward(self, gi: Any, gh: Any, h: Any, /) -> Any:
        _, r, z, n, u = super().forward(gi, gh, h)
        return z * n + (1.0 - z) * h, r, z, n, u


class ResetForgotten(HonestGates):
    """The candidate without the reset gate: tanh(gi_n + u)."""

    def forward(self, gi: Any, gh: Any, h: Any, /) -> Any:
        _, r, z, _, u = super().forward(gi, gh, h)
        n = np.tanh(thirds(gi)[2] + u)
        return (1.0 - z) * n + z * h, r, z, n, u


class ResetOfEverything(HonestGates):
    """The reset gate on the input's part too: tanh(r * (gi_n + u))."""

    def forward(self, gi: Any, gh: Any, h: Any, /) -> Any:
        _, r, z, _, u = super().forward(gi, gh, h)
        n = np.tanh(r * (thirds(gi)[2] + u))
        return (1.0 - z) * n + z * h, r, z, n, u


class ResetOnTheWrongSide(HonestLayer):
    """The reset gate before the product where it was to come after."""

    def changed(self, x: Any, h0: Any, w: Any, options: Options) -> Any:
        return x, h0, w, options._replace(spec=GRUSpec(not options.spec.reset_after))


class OtherConstants(HonestLayer):
    """Keras's hard_sigmoid for ONNX's, or for any."""

    def changed(self, x: Any, h0: Any, w: Any, options: Options) -> Any:
        spec = options.spec
        if spec.gate_activation.name == "hard_sigmoid":
            options = options._replace(spec=replace(spec, gate_activation=Activation.keras("hard_sigmoid")))
        return x, h0, w, options


class ClippedAfterwards(HonestLayer):
    """The results of the activations clipped in the place of their arguments: for most, nothing at all."""

    def changed(self, x: Any, h0: Any, w: Any, options: Options) -> Any:
        return x, h0, w, options._replace(spec=replace(options.spec, clip=None))


class LeftInTheOrderOfTheWalk(HonestStack):
    """y of one reversed direction in reversed order, as Keras's go_backwards has it."""

    def forward(self, x: Any, h0: Any, params: Any, options: Options, masks: Any, /) -> Any:
        y, h_n, layers = super().forward(x, h0, params, options, masks)
        return (y[::-1] if options.spec.reverse else y), h_n, layers


class CandidateBiasDropped(HonestLayer):
    """b_hn dropped."""

    def changed(self, x: Any, h0: Any, w: Any, options: Options) -> Any:
        if w.b_hh is not None:
            r, z, n = thirds(w.b_hh)
            w = w._replace(b_hh=np.concatenate([r, z, 0 * n]))
        return x, h0, w, options


class CandidateBiasDroppedAtFirst(HonestGates):
    """b_hn dropped where the state is zero, so at t = 0 without h0."""

    def forward(self, gi: Any, gh: Any, h: Any, /) -> Any:
        r, z, n = thirds(gh)
        return super().forward(gi, np.concatenate([r, z, np.where(h.any(), n, 0 * n)], axis=-1), h)


class CandidateBiasOutside(HonestLayer):
    """b_hn outside r, with b_in."""

    def changed(self, x: Any, h0: Any, w: Any, options: Options) -> Any:
        if w.b_hh is not None:
            r, z, n = thirds(w.b_hh)
            nothing = 0 * r
            w = w._replace(b_ih=w.b_ih + np.concatenate([nothing, nothing, n]), b_hh=np.concatenate([r, z, 0 * n]))
        return x, h0, w, options


class CheapSigmoid(HonestGates):
    """A sigmoid that is right to four digits."""

    def forward(self, gi: Any, gh: Any, h: Any, /) -> Any:
        _, r, z, n, u = super().forward(gi, gh, h)
        z = np.round(z * 4096.0) / np.asarray(4096.0, z.dtype)
        return (1.0 - z) * n + z * h, r, z, n, u


class NarrowInside(HonestLayer):
    """float64 computed in float32 and cast back."""

    def forward(self, x: Any, h0: Any, w: Any, options: Options, /) -> Any:
        if x.dtype != np.float64:
            return super().forward(x, h0, w, options)
        narrow = CellParams(*(None if a is None else a.astype(np.float32) for a in w))
        y, h_n, tape = super().forward(x.astype(np.float32), h0.astype(np.float32), narrow, options)
        saved = tape._asdict().items()
        wide = {name: a.astype(np.float64) for name, a in saved if getattr(a, "dtype", None) == np.float32}
        return y.astype(np.float64), h_n.astype(np.float64), tape._replace(**wide, w=w)


class NarrowResult(HonestStack):
    """float32 where float64 was given."""

    def forward(self, *args: Any) -> Any:
        y, h_n, tapes = super().forward(*args)
        return y.astype(np.float32) if y.dtype == np.float64 else y, h_n, tapes


class DirectionsSwapped(HonestLayer):
    """The reverse direction forwards and the forward one backwards."""

    def changed(self, x: Any, h0: Any, w: Any, options: Options) -> Any:
        return x, h0, w, options._replace(reverse=not options.reverse)


class ReverseLeftReversed(HonestLayer):
    """The reverse direction's output in the order of its walk."""

    def forward(self, x: Any, h0: Any, w: Any, options: Options, /) -> Any:
        y, h_n, tape = super().forward(x, h0, w, options)
        return y[::-1] if options.reverse else y, h_n, tape


class StatesByDirection(HonestStack):
    """h_n with all layers of one direction first."""

    def forward(self, x: Any, h0: Any, params: Any, options: Options, masks: Any, /) -> Any:
        y, h_n, tapes = super().forward(x, h0, params, options, masks)
        D = len(params[0])
        return y, np.concatenate([h_n[d::D] for d in range(D)]), tapes


class DropoutAfterTheLast(HonestStack):
    """Dropout after the last layer too."""

    def forward(self, x: Any, h0: Any, params: Any, options: Options, masks: Any, /) -> Any:
        y, h_n, tapes = super().forward(x, h0, params, options, masks)
        return y if masks is None else y * masks[-1], h_n, tapes


class DropoutIgnored(HonestStack):
    """Dropout masks that are not looked at."""

    def forward(self, x: Any, h0: Any, params: Any, options: Options, masks: Any, /) -> Any:
        return super().forward(x, h0, params, options, None)


class TapeOfItsOwn(HonestGates):
    """A tape that holds 1 - z for z, and a backward pass that knows."""

    def forward(self, gi: Any, gh: Any, h: Any, /) -> Any:
        h1, r, z, n, u = super().forward(gi, gh, h)
        return h1, r, 1.0 - z, n, u

    def backward(self, dh1: Any, h: Any, r: Any, z: Any, n: Any, u: Any, /) -> Any:
        return super().backward(dh1, h, r, 1.0 - z, n, u)


# ---- inference, cell, streaming --------------------------------------------------------------------------------------


class InferenceWithoutBias(HonestLayer):
    """b_hh dropped where nothing is saved."""

    def inference(self, x: Any, h0: Any, w: Any, options: Options, /) -> Any:
        return super().inference(x, h0, w if w.b_hh is None else w._replace(b_hh=0 * w.b_hh), options)


class InferenceOfOneDirection(HonestStack):
    """The reverse direction's weights used for both where nothing is saved."""

    def inference(self, x: Any, h0: Any, params: Any, options: Options, masks: Any, /) -> Any:
        return super().inference(x, h0, tuple((layer[-1],) * len(layer) for layer in params), options, masks)


class PackedWithoutBias(HonestLayer):
    """b_hn dropped where weights are packed."""

    def pack(self, w: Any, /) -> Any:
        return w if w.b_hh is None else w._replace(b_hh=np.concatenate([*thirds(w.b_hh)[:2], 0 * thirds(w.b_hh)[2]]))


class CellOfTheOtherEquation(Library):
    """A cell that does not look at its spec."""

    @staticmethod
    def gru_cell_inference(x: Any, h: Any, params: Any, *, spec: Any = None, backend: Any = None) -> Any:
        return gru_xp.gru_cell_inference(x, h, params, backend=backend)


class CellGradientOfGh(Library):
    """A cell's dx from dgh in the place of dgi."""

    @staticmethod
    def gru_cell_backward(tape: Any, dh1: Any) -> Any:
        grads, w = gru_xp.gru_cell_backward(tape, dh1), tape.params[0][0]
        h = tape.layers[0][0].h_prev[0]
        dgh = np.linalg.lstsq(h.T.astype(np.float64), grads.params.W_hh.T.astype(np.float64), rcond=None)[0]
        return grads._replace(x=(dgh @ w.W_ih).astype(grads.x.dtype))


class StateForgotten(Library):
    """A sequence of one step that starts from zero whatever h0 is."""

    @staticmethod
    def gru_inference(x: Any, params: Any, h0: Any = None, **options: Any) -> Any:
        return gru_xp.gru_inference(x, params, None if x.shape[0] == 1 else h0, **options)


class EmptyChunkWipes(Library):
    """A sequence of no steps that gives h_n = 0."""

    @staticmethod
    def gru_inference(x: Any, params: Any, h0: Any = None, **options: Any) -> Any:
        y, h_n = gru_xp.gru_inference(x, params, h0, **options)
        return y, h_n if x.shape[0] else h_n * 0


class StreamOfOneWorkspace(HonestLayer):
    """A kernel's stream that puts out one workspace again and again."""

    class Stream(HonestStream):
        """The stream with that mistake."""

        def advance(self, x: Any, state: Any, out: Any = None) -> Any:
            found = super().advance(x, state, out)
            if found is None:
                return None
            y, state = found
            kept = self.__dict__.setdefault("kept", y.copy())
            kept[...] = y
            return kept, state

    def stream(self, params: Any, batch_size: int, /) -> Any:
        return self.Stream(self, params)


class StepOutputReused(Library):
    """GRU.step that puts out one workspace again and again."""

    class GRU(gru_xp.GRU):
        """The model with that mistake."""

        def step(self, x_t: Any, state: Any, **options: Any) -> Any:
            y, state = super().step(x_t, state, **options)
            kept = self.__dict__.setdefault("kept", y.copy())
            kept[...] = y
            return kept, state


# ---- the equations, backward -----------------------------------------------------------------------------------------


class BrokenSlopes(HonestGates):
    """Gates whose gradient is changed by `spoil(dgi, dgh, dh, parts)`."""

    def backward(self, dh1: Any, h: Any, r: Any, z: Any, n: Any, u: Any, /) -> Any:
        dgi, dgh, dh = super().backward(dh1, h, r, z, n, u)
        return self.spoil([*thirds(dgi)], [*thirds(dgh)], dh, r, z, n)

    def spoil(self, dgi: list[Any], dgh: list[Any], dh: Any, r: Any, z: Any, n: Any) -> Any:
        return np.concatenate(dgi, axis=-1), np.concatenate(dgh, axis=-1), dh


class ResetGradientMissing(BrokenSlopes):
    """da_r missing."""

    def spoil(self, dgi: Any, dgh: Any, dh: Any, r: Any, z: Any, n: Any) -> Any:
        return super().spoil([0 * dgi[0], *dgi[1:]], [0 * dgh[0], *dgh[1:]], dh, r, z, n)


class UpdateGradientFlipped(BrokenSlopes):
    """da_z with the wrong sign."""

    def spoil(self, dgi: Any, dgh: Any, dh: Any, r: Any, z: Any, n: Any) -> Any:
        return super().spoil([dgi[0], -dgi[1], dgi[2]], [dgh[0], -dgh[1], dgh[2]], dh, r, z, n)


class ClippedWithGradient(HonestLayer):
    """The gradient passes where arguments are clipped."""

    def backward(self, tape: Any, dy: Any, dh_n: Any, /) -> Any:
        return super().backward(tape._replace(spec=replace(tape.spec, clip=None)), dy, dh_n)


class CandidateGradientLinear(BrokenSlopes):
    """da_n without 1 - n * n in the input's part."""

    def spoil(self, dgi: Any, dgh: Any, dh: Any, r: Any, z: Any, n: Any) -> Any:
        return super().spoil([*dgi[:2], dgi[2] / (1.0 - n * n)], dgh, dh, r, z, n)


class CandidateGradientWithoutReset(BrokenSlopes):
    """dgh_n without r."""

    def spoil(self, dgi: Any, dgh: Any, dh: Any, r: Any, z: Any, n: Any) -> Any:
        return super().spoil(dgi, [*dgh[:2], dgi[2]], dh, r, z, n)


class DirectPathMissing(BrokenSlopes):
    """dh without z * g."""

    def spoil(self, dgi: Any, dgh: Any, dh: Any, r: Any, z: Any, n: Any) -> Any:
        return super().spoil(dgi, dgh, 0 * dh, r, z, n)


class OneBiasGradient(HonestLayer):
    """db_ih handed out as db_hh."""

    def backward(self, tape: Any, dy: Any, dh_n: Any, /) -> Any:
        dx, dh0, dw = super().backward(tape, dy, dh_n)
        return dx, dh0, dw._replace(b_hh=dw.b_ih)


class StateGradientLost(HonestLayer):
    """The gradient of h0 lost."""

    def backward(self, tape: Any, dy: Any, dh_n: Any, /) -> Any:
        dx, dh0, dw = super().backward(tape, dy, dh_n)
        return dx, 0 * dh0, dw


class LastStateWithoutGradient(HonestLayer):
    """dh_n ignored where dy is given."""

    def backward(self, tape: Any, dy: Any, dh_n: Any, /) -> Any:
        return super().backward(tape, dy, None if dy is not None else dh_n)


class AbsentGradientOfOnes(HonestLayer):
    """dh_n=None taken for ones."""

    def backward(self, tape: Any, dy: Any, dh_n: Any, /) -> Any:
        return super().backward(tape, dy, np.ones_like(tape.h_prev[0]) if dh_n is None and len(tape.h_prev) else dh_n)


class RecurrentGradientFromLater(HonestLayer):
    """dW_hh from the states after each step in the place of those before."""

    def backward(self, tape: Any, dy: Any, dh_n: Any, /) -> Any:
        dx, dh0, dw = super().backward(tape, dy, dh_n)
        shifted = super().backward(tape._replace(h_prev=np.roll(tape.h_prev, -1, axis=0)), dy, dh_n)[2]
        return dx, dh0, dw._replace(W_hh=shifted.W_hh)


class ReverseInputGradientLost(HonestStack):
    """dx of the forward direction alone."""

    def backward(self, tapes: Any, dy: Any, dh_n: Any, masks: Any, /) -> Any:
        grads = super().backward(tapes, dy, dh_n, masks)
        for tape in tapes[0][1:]:
            part = self.layer.backward(tape, None if dy is None else dy[..., dy.shape[-1] // 2 :], None)[0]
            return GRUGrads(grads.x - part if len(tapes) == 1 else grads.x, grads.h0, grads.params)
        return grads


class DropoutForgottenBackward(HonestStack):
    """Dropout masks forgotten on the way back."""

    def backward(self, tapes: Any, dy: Any, dh_n: Any, masks: Any, /) -> Any:
        return super().backward(tapes, dy, dh_n, None)


class GradientsAddedUp(Library):
    """A tape used again gives what it gave before, added on."""

    def __init__(self) -> None:
        self.before: dict[int, Any] = {}

    def gru_backward(self, tape: Any, dy: Any = None, dh_n: Any = None) -> Any:
        grads = gru_xp.gru_backward(tape, dy, dh_n)
        _, total = self.before.get(id(tape), (tape, 0.0))
        self.before[id(tape)] = tape, total + grads.x
        return grads._replace(x=total + grads.x)


class GradientClipped(HonestStack):
    """Gradients that flow in are clipped to -1..1."""

    def backward(self, tapes: Any, dy: Any, dh_n: Any, masks: Any, /) -> Any:
        clipped = (None if a is None else np.clip(a, -1.0, 1.0) for a in (dy, dh_n))
        return super().backward(tapes, *clipped, masks)


# ---- sizes, lengths and resets, extremes -----------------------------------------------------------------------------


class TailForgotten(HonestGates):
    """Elements past the last whole vector of 16 left out."""

    def forward(self, gi: Any, gh: Any, h: Any, /) -> Any:
        h1, *gates = super().forward(gi, gh, h)
        whole = h.shape[-1] // 16 * 16
        return np.concatenate([h1[..., :whole], h[..., whole:]], axis=-1) if whole else h1, *gates


class BlocksApart(HonestLayer):
    """Blocks of 1024 steps between which no gradient passes."""

    def backward(self, tape: Any, dy: Any, dh_n: Any, /) -> Any:
        if len(tape.h_prev) > 1024 and dy is not None:
            names = ("x", "h_prev", "r", "z", "n", "u", "valid", "resets")
            first, last = (
                tape._replace(**{name: None if (a := getattr(tape, name)) is None else a[part] for name in names})
                for part in (slice(0, 1024), slice(1024, None))
            )
            dx_last, _, dw_last = super().backward(last, dy[1024:], dh_n)
            dx, dh0, dw = super().backward(first, dy[:1024], None)
            total = (None if a is None else a + b for a, b in zip(dw, dw_last, strict=True))
            return np.concatenate([dx, dx_last]), dh0, CellParams(*total)
        return super().backward(tape, dy, dh_n)


class LengthsOffByOne(HonestLayer):
    """One step less of each row that ends early."""

    def changed(self, x: Any, h0: Any, w: Any, options: Options) -> Any:
        valid = options.valid
        if valid is not None and len(valid):
            options = options._replace(valid=valid & np.concatenate([valid[1:], valid[-1:]]))
        return x, h0, w, options


class PaddingInTheOutput(HonestLayer):
    """The state in the place of zero in the padding of y."""

    def zero_padding(self, valid: Any, a: Any) -> Any:
        return a


class PaddingMultiplied(HonestLayer):
    """Padding multiplied by zero, not left out."""

    def zero_padding(self, valid: Any, a: Any) -> Any:
        return a if valid is None else a * valid[..., None]


class ReverseThroughPadding(HonestLayer):
    """The reverse direction begins at T whatever the length."""

    def changed(self, x: Any, h0: Any, w: Any, options: Options) -> Any:
        valid = options.valid
        if valid is not None and options.reverse:
            x, options = x * valid[..., None], options._replace(valid=None)
        return x, h0, w, options


class ResetsForgottenBackward(HonestLayer):
    """Resets ignored on the way back."""

    def backward(self, tape: Any, dy: Any, dh_n: Any, /) -> Any:
        return super().backward(tape._replace(resets=None), dy, dh_n)


class ReverseResetsOneOff(HonestLayer):
    """The reverse direction cut at the step of the reset, not behind it."""

    def changed(self, x: Any, h0: Any, w: Any, options: Options) -> Any:
        resets = options.resets
        if resets is not None and options.reverse:
            options = options._replace(resets=np.concatenate([resets[:1] & False, resets[:-1]]))
        return x, h0, w, options


class ResetsLate(HonestLayer):
    """A reset takes effect one step late."""

    def changed(self, x: Any, h0: Any, w: Any, options: Options) -> Any:
        resets = options.resets
        if resets is not None and not options.reverse:
            options = options._replace(resets=np.concatenate([resets[:1] & False, resets[:-1]]))
        return x, h0, w, options


class MaskAsLengths(HonestLayer):
    """A mask counted, as if its padding stood at the end."""

    def changed(self, x: Any, h0: Any, w: Any, options: Options) -> Any:
        valid = options.valid
        if valid is not None:
            options = options._replace(valid=np.arange(len(valid))[:, None] < valid.sum(axis=0))
        return x, h0, w, options


class HeldWithoutGradient(HonestLayer):
    """A gradient that is zero in the padding, where y holds the state."""

    def backward(self, tape: Any, dy: Any, dh_n: Any, /) -> Any:
        return super().backward(tape._replace(spec=replace(tape.spec, padding="zero")), dy, dh_n)


class SigmoidThatOverflows(HonestGates):
    """exp(a) / (1 + exp(a)), which is NaN for large a."""

    def forward(self, gi: Any, gh: Any, h: Any, /) -> Any:
        _, r, _, n, u = super().forward(gi, gh, h)
        a = np.exp(thirds(gi)[1] + thirds(gh)[1])
        z = np.where(np.isposinf(thirds(gi)[1]), 1.0, a / (1.0 + a)).astype(h.dtype)
        return (1.0 - z) * n + z * h, r, z, n, u


class RowsLeak(HonestGates):
    """Zero times the sum of all rows added to each."""

    def forward(self, gi: Any, gh: Any, h: Any, /) -> Any:
        h1, *gates = super().forward(gi, gh, h)
        return h1 + 0.0 * np.sum(h1, axis=-2, keepdims=True), *gates


# ---- memory, devices, conversion -------------------------------------------------------------------------------------


class InputOverwritten(HonestLayer):
    """x scaled in its own memory, and scaled back: not to the same bits."""

    def changed(self, x: Any, h0: Any, w: Any, options: Options) -> Any:
        if x.flags.writeable:
            x *= 3.0
            x /= 3.0
        return x, h0, w, options


class StridesIgnored(HonestLayer):
    """x read as if it were compact."""

    def changed(self, x: Any, h0: Any, w: Any, options: Options) -> Any:
        if x.size and all(stride > 0 for stride in x.strides):
            compact = np.empty(x.shape, x.dtype).strides
            x = np.lib.stride_tricks.as_strided(x, strides=compact)
        return x, h0, w, options


class StaleWorkspace(HonestStack):
    """y in a workspace that the next call writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.workspace: dict[Any, Any] = {}

    def inference(self, *args: Any) -> Any:
        y, h_n = super().inference(*args)
        kept = self.workspace.setdefault((y.shape, y.dtype), y)
        kept[...] = y
        return kept, h_n


class StateHandedBack(HonestLayer):
    """h_n that is h0 itself where there is nothing but padding."""

    def inference(self, x: Any, h0: Any, w: Any, options: Options, /) -> Any:
        y, h_n = super().inference(x, h0, w, options)
        return y, h_n if options.valid is None or options.valid.any() else h0


class LastStateOfTheOutput(HonestLayer):
    """h_n that is a part of y."""

    def inference(self, x: Any, h0: Any, w: Any, options: Options, /) -> Any:
        y, h_n = super().inference(x, h0, w, options)
        return y, y[0 if options.reverse else -1] if len(y) and options.valid is None else h_n


class GradientHandedBack(HonestLayer):
    """dh0 that is dh_n itself where there is nothing but padding."""

    def backward(self, tape: Any, dy: Any, dh_n: Any, /) -> Any:
        dx, dh0, dw = super().backward(tape, dy, dh_n)
        return dx, dh0 if tape.valid is None or tape.valid.any() else dh_n, dw


class TapeOfTheOutput(HonestLayer):
    """States on the tape that are a part of y."""

    def forward(self, x: Any, h0: Any, w: Any, options: Options, /) -> Any:
        y, h_n, tape = super().forward(x, h0, w, options)
        whole = np.concatenate([h0[None], y])
        plain = options.valid is None is options.resets and not options.reverse
        return (whole[1:], h_n, tape._replace(h_prev=whole[:-1])) if plain else (y, h_n, tape)


class ModelOfTheCallersArrays(Library):
    """A model that keeps the arrays that it was made from."""

    class GRU(gru_xp.GRU):
        """The model with that mistake."""

        @classmethod
        def from_params(cls, params: Any, **options: Any) -> Any:
            model = super().from_params(params, **options)
            model.kept = params
            return model

        def __call__(self, x: Any, h0: Any = None, **options: Any) -> Any:
            return gru_xp.gru(x, self.kept, h0, **options)


class ModelHandedOut(Library):
    """A model that hands out what it computes with, to be written to."""

    class GRU(gru_xp.GRU):
        """The model with that mistake."""

        @property
        def params(self) -> Any:
            if not hasattr(self, "kept"):
                self.kept = map_params(lambda a: a.copy(), super().params)
            return self.kept

        @params.setter
        def params(self, params: Any) -> None:
            gru_xp.GRU.params.fset(self, params)  # type: ignore[attr-defined]

        def __call__(self, x: Any, h0: Any = None, **options: Any) -> Any:
            return gru_xp.gru(x, self.params, h0, **options)


class Race(HonestLayer):
    """A workspace for the state that two threads share."""

    def __init__(self) -> None:
        super().__init__()
        self.workspace: dict[Any, Any] = {}

    def inference(self, x: Any, h0: Any, w: Any, options: Options, /) -> Any:
        shared = self.workspace.setdefault((h0.shape, h0.dtype), h0.copy())
        shared[...] = h0
        time.sleep(0.001 if threading.active_count() > 1 else 0.0)
        return super().inference(x, shared.copy(), w, options)


class ChanceInTheSum(HonestLayer):
    """Weight gradients summed in an order that differs from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def backward(self, tape: Any, dy: Any, dh_n: Any, /) -> Any:
        dx, dh0, dw = super().backward(tape, dy, dh_n)
        self.calls += 1
        return dx, dh0, dw._replace(W_hh=np.nextafter(dw.W_hh, np.asarray(self.calls % 3, dw.W_hh.dtype)))


class ElsewhereInTheEnd(Library):
    """Results on the default device, not where the inputs are."""

    @staticmethod
    def gru_forward(x: Any, *args: Any, **options: Any) -> Any:
        y, h_n, tape = gru_xp.gru_forward(x, *args, **options)
        return y.to_device(x.__array_namespace__().__array_namespace_info__().default_device()), h_n, tape


class TheBackendsOwn(Library):
    """Results of the library that computed, not of the one that asked."""

    @staticmethod
    def gru_inference(x: Any, params: Any, h0: Any = None, **options: Any) -> Any:
        y, h_n = gru_xp.gru_inference(x, params, h0, **options)
        if selection() is None:
            return y, h_n
        return convert(y, owner(y, "y"), place_for(selection(), None), "y"), h_n


class VariableIgnored(Library):
    """GRU_XP_BACKEND that is not looked at."""

    @staticmethod
    def gru_forward(x: Any, params: Any, h0: Any = None, **options: Any) -> Any:
        return gru_xp.gru_forward(x, params, h0, **{**options, "backend": "auto"})


class RowsOfTheBatchTied(Library):
    """Rows beyond the first computed from the row before."""

    @staticmethod
    def gru_forward(x: Any, params: Any, h0: Any = None, **options: Any) -> Any:
        y, h_n, tape = gru_xp.gru_forward(x, params, h0, **options)
        if x.shape[1] > 1:
            h_n = np.concatenate([h_n[:, :1], h_n[:, 1:] + 0.01 * h_n[:, :-1]], axis=1)
        return y, h_n, tape


HONEST = tuple(Mutant(kind, "") for kind in (HonestGates, HonestLayer, HonestStack, Library))

MUTANTS = (
    *(
        Mutant(kind, "forward")
        for kind in (
            GatesSwapped,
            UpdateFlipped,
            ResetForgotten,
            ResetOfEverything,
            ResetOnTheWrongSide,
            CandidateBiasDropped,
            CandidateBiasDroppedAtFirst,
            CandidateBiasOutside,
            CheapSigmoid,
            NarrowInside,
            NarrowResult,
            DirectionsSwapped,
            ReverseLeftReversed,
            StatesByDirection,
            DropoutAfterTheLast,
            DropoutIgnored,
            TapeOfItsOwn,
            OtherConstants,
            ClippedAfterwards,
            LeftInTheOrderOfTheWalk,
        )
    ),
    *(Mutant(kind, "inference") for kind in (InferenceWithoutBias, InferenceOfOneDirection, PackedWithoutBias)),
    *(Mutant(kind, "cell") for kind in (CellOfTheOtherEquation, CellGradientOfGh)),
    *(Mutant(kind, "streaming") for kind in (StateForgotten, EmptyChunkWipes, StepOutputReused, StreamOfOneWorkspace)),
    *(
        Mutant(kind, "backward")
        for kind in (
            ResetGradientMissing,
            UpdateGradientFlipped,
            CandidateGradientLinear,
            ClippedWithGradient,
            CandidateGradientWithoutReset,
            DirectPathMissing,
            OneBiasGradient,
            StateGradientLost,
            LastStateWithoutGradient,
            AbsentGradientOfOnes,
            RecurrentGradientFromLater,
            ReverseInputGradientLost,
            DropoutForgottenBackward,
            GradientsAddedUp,
        )
    ),
    *(Mutant(kind, "sizes") for kind in (TailForgotten, BlocksApart)),
    *(
        Mutant(kind, "ragged")
        for kind in (
            LengthsOffByOne,
            PaddingInTheOutput,
            PaddingMultiplied,
            ReverseThroughPadding,
            ResetsForgottenBackward,
            ReverseResetsOneOff,
            ResetsLate,
            MaskAsLengths,
            HeldWithoutGradient,
        )
    ),
    *(Mutant(kind, "extremes") for kind in (SigmoidThatOverflows, RowsLeak)),
    *(
        Mutant(kind, "memory")
        for kind in (
            InputOverwritten,
            StridesIgnored,
            StaleWorkspace,
            StateHandedBack,
            LastStateOfTheOutput,
            GradientHandedBack,
            TapeOfTheOutput,
            ModelOfTheCallersArrays,
            ModelHandedOut,
            Race,
            ChanceInTheSum,
        )
    ),
    Mutant(ElsewhereInTheEnd, "memory", STRICT),
    *(Mutant(kind, "laws") for kind in (GradientClipped, TapeOfItsOwn, RowsOfTheBatchTied)),
    *(Mutant(kind, "conversion", TORCH) for kind in (TheBackendsOwn, VariableIgnored)),
)
