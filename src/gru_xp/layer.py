"""All steps of one layer in one direction, in the pure array API.

The input projection is one product for all steps, before the loop over time; every weight gradient is one product for
each block of time, after the loop over that block. In the loop stands only what depends on the step before.

Padding and resets are no branches of the loop. Padding is z = 1: there the update gate's argument is +inf, its sigmoid
is exactly 1, and the state stands still; where the gates have another activation, that +inf is a mark for the same. A
reset sets the state that a step reads to zero. So nothing is flipped or gathered, and the reverse direction begins by
itself at each row's last valid step.

16-bit arrays: products, gates and sums in float32, the state rounded to the caller's type after each step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .cell import Arrays, Cell, Slopes, affine, cell_of, sum_of_outer
from .interfaces import Gates, Options
from .params import Array, CellParams, GRUSpec, LayerTape

if TYPE_CHECKING:
    from .backend import Backend

# rows (steps times batch) of one block of time: what the scratch memory of backward is proportional to
ROWS_PER_BLOCK = 1024


class Layer:
    """The plain layer: inference, forward and backward over a backend and gates that are plain or fused."""

    name = "plain"

    def __init__(self, backend: Backend, gates: Gates):
        self.backend, self.xp, self.gates = backend, backend.xp, gates

    def inference(self, x: Array, h0: Array, w: CellParams, options: Options, /) -> tuple[Any, Any]:
        """x (T, N, I), h0 (N, H) -> y (T, N, H), h_n (N, H)."""
        spec, valid, resets, reverse, _ = options
        run = Run(self, x.dtype, w, spec, valid is not None)
        cut = cut_before(valid, resets, reverse, self.xp)
        cell, w_loop = run.cell, run.weights_for_loop(x)

        def step(h: Any, at: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
            gi_t, cut_t = at
            if cut_t is not None:
                h = self.zero_where(cut_t, h)
            h = cell.inference(gi_t, h, w_loop) if run.same else run.narrow(cell.inference(gi_t, run.wide(h), w_loop))
            return h, (h,)

        h_n, (y,) = self.backend.scan(step, h0, (run.project(self.zero_padding(valid, x), valid), cut), reverse=reverse)
        return self.padded(spec, valid, y), h_n

    def forward(self, x: Array, h0: Array, w: CellParams, options: Options, /) -> tuple[Any, Any, LayerTape]:
        """As `inference`, and the tape. `save="states"` leaves the gates out; backward then computes them again."""
        spec, valid, resets, reverse, save = options
        run = Run(self, x.dtype, w, spec, valid is not None)
        cut = cut_before(valid, resets, reverse, self.xp)
        x = self.zero_padding(valid, x)
        cell, w_loop = run.cell, run.weights_for_loop(x)

        def step(h: Any, at: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
            gi_t, cut_t = at
            h, *gates = cell.forward(gi_t, run.wide(self.zero_where(cut_t, h)), w_loop)
            h = run.narrow(h)
            return h, ((h, *gates) if save == "all" else (h, None, None, None, None))

        h_n, (y, r, z, n, u) = self.backend.scan(step, h0, (run.project(x, valid), cut), reverse=reverse)
        h_prev = self.zero_where(cut, self._before(y, h0, reverse))
        tape = LayerTape(x, h_prev, r, z, n, u, w, valid, resets, spec, reverse)
        return self.padded(spec, valid, y), h_n, tape

    def backward(self, tape: LayerTape, dy: Any, dh_n: Any, /) -> tuple[Any, Any, CellParams]:
        """dy (T, N, H) or None, dh_n (N, H) or None -> dx (T, N, I), dh0 (N, H), dw.

        Goes through time in blocks; scratch memory does not grow with T.
        """
        T, N, H = tape.h_prev.shape
        run = Run(self, tape.x.dtype, tape.w, tape.spec, tape.valid is not None)
        cut = cut_before(tape.valid, tape.resets, tape.reverse, self.xp)

        def block(carry: tuple[Any, ...], at: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
            dy, x, h_prev, r, z, n, u, valid, cut = at
            dh, *sums = carry
            dh, dx, parts = run.backward_block(dh, dy, x, h_prev, (r, z, n, u), valid, cut, reverse=not tape.reverse)
            return (dh, *(total if part is None else total + part for total, part in zip(sums, parts, strict=True))), (
                dx,
            )

        def zeros(like: Any, shape: tuple[int, ...]) -> Any:
            return (
                None if like is None else self.xp.zeros(shape, dtype=run.dtype, device=self.backend.device_beside(like))
            )

        dh = zeros(tape.h_prev, (N, H)) if dh_n is None else run.wide(dh_n)
        sums = tuple(zeros(weight, weight.shape if weight is not None else ()) for weight in tape.w)
        (dh0, *dw), dx = self.scan_blocks(
            block,
            (dh, *sums),
            (dy, tape.x, tape.h_prev, tape.r, tape.z, tape.n, tape.u, tape.valid, cut),
            T=T,
            size=-(-ROWS_PER_BLOCK // max(N, 1)),
            reverse=not tape.reverse,
        )
        return dx, run.narrow(dh0), CellParams(*(part if part is None else run.narrow(part) for part in dw))

    def _before(self, y: Any, h0: Any, reverse: bool) -> Any:
        """The states (T, N, H) that the steps begin with, y being those they end with."""
        if reverse:
            return self.xp.concat([y, h0[None, ...]], axis=0)[1:, ...]
        return self.xp.concat([h0[None, ...], y], axis=0)[:-1, ...]

    def zero_where(self, cut: Any, h: Any) -> Any:
        """h, zero where a boundary is crossed; `cut` broadcasts against it or is None."""
        return h if cut is None else self.xp.where(cut, self.xp.zeros_like(h), h)

    def zero_padding(self, valid: Any, a: Any) -> Any:
        """a (T, N, K), zero in the padding: by selection, because 0 * NaN is NaN."""
        return a if valid is None else self.xp.where(valid[..., None], a, self.xp.zeros_like(a))

    def padded(self, spec: GRUSpec, valid: Any, y: Any) -> Any:
        """y (T, N, H), or what flows into it, as `spec` has it in the padding: there the states stand still."""
        return y if spec.padding == "hold" else self.zero_padding(valid, y)

    def right_operand(self, W: Any, T: int, N: int) -> Any:
        """W (M, K) in the memory layout in which T products `a @ W.T` with a (N, K) are fastest."""
        return W

    def sum_of_rows(self, a: Any) -> Any:
        """a (T, N, M) -> (M,)."""
        return self.xp.sum(a, axis=(0, 1))

    def loop_back(
        self, run: Run, dh: Any, dy: Any, cut: Any, slopes: Slopes, saved: Any, *, reverse: bool
    ) -> tuple[Any, Any, Any]:
        """The loop of backward: dh that leaves it (N, H), and dgi, dgh (T, N, 3H).

        `slopes` (T, ...) are those of all steps; a library that prefers to compute them inside the loop finds in
        `saved` (h_prev, r, z, n, u) what they are made of.
        """

        def step(dh: Any, at: tuple[Any, ...]) -> tuple[Any, Arrays]:
            dy_t, cut_t, *slopes_t = at
            dh, flows = run.cell.backward(dh if dy_t is None else dh + dy_t, Slopes(*slopes_t), run.w)
            return self.zero_where(cut_t, dh), flows

        dh, flows = self.backend.scan(step, dh, (dy, cut, *slopes), reverse=reverse)
        return dh, *run.cell.gate_gradients(flows, slopes)

    def scan_blocks(
        self, block: Any, carry: Any, xs: tuple[Any, ...], *, T: int, size: int, reverse: bool
    ) -> tuple[Any, Any]:
        """Scan over blocks of `size` steps, the rest standing at the end of time: carry and output (T, ...)."""
        whole, rest = divmod(T, size)
        parts = [(0, whole, size)] * (whole > 0) + [(whole * size, 1, rest)] * (rest > 0 or T == 0)
        outs = []
        for start, count, length in reversed(parts) if reverse else parts:
            split = tuple(self._split(a, start, count, length) for a in xs)
            carry, (out,) = self.backend.scan(block, carry, split, reverse=reverse)
            outs.append(self.xp.reshape(out, (count * length, *out.shape[2:])))
        if len(outs) == 1:
            return carry, outs[0]
        return carry, self.xp.concat(outs[::-1] if reverse else outs, axis=0)

    def _split(self, a: Any, start: int, count: int, length: int) -> Any:
        """Steps of a (T, ...) -> (count, length, ...)."""
        if a is None:
            return None
        return self.xp.reshape(a[start : start + count * length, ...], (count, length, *a.shape[1:]))


class Run:
    """One layer's call: its cell, and its weights in the type that is computed in."""

    def __init__(self, layer: Layer, dtype: Any, w: CellParams, spec: GRUSpec, padded: bool):
        self.layer, self.xp, self.spec = layer, layer.xp, spec
        self.caller_dtype, self.dtype = dtype, layer.backend.computed_in(dtype)
        self.same = self.caller_dtype == self.dtype
        self.cell: Cell = cell_of(spec, layer.xp, layer.gates, padded)
        self.w = w if self.same else CellParams(*(None if weight is None else self.wide(weight) for weight in w))

    def wide(self, a: Any) -> Any:
        """a in the type that is computed in."""
        return a if self.same else self.xp.astype(a, self.dtype)

    def narrow(self, a: Any) -> Any:
        """a in the caller's type."""
        return a if self.same else self.xp.astype(a, self.caller_dtype)

    def weights_for_loop(self, x: Any) -> CellParams:
        """The weights with W_hh as the library likes it for a product in each step over x (T, N, I)."""
        T, N, _ = x.shape
        W_hh = self.layer.right_operand(self.w.W_hh, T, N)
        return self.w if W_hh is self.w.W_hh else self.w._replace(W_hh=W_hh)

    def project(self, x: Any, valid: Any) -> Any:
        """x (T, N, I), zero in the padding -> gi (T, N, 3H), where the padding has z = 1."""
        if hasattr(self.w.W_ih, "times"):
            gi = affine(x, self.w.W_ih, self.w.b_ih, self.xp)
        else:
            gi = self.layer.backend.product(self.wide(x), self.w.W_ih.T, self.w.b_ih)
        if valid is None:
            return gi
        if not self.cell.from_gates:  # +inf is its mark for padding alone
            inf, most = float("inf"), self.xp.finfo(gi.dtype).max
            gi = self.xp.where(gi == inf, self.xp.full_like(gi, most), gi)
        gate = self.xp.arange(gi.shape[-1], device=self.layer.backend.device_beside(x)) // self.w.W_hh.shape[1]
        return self.xp.where(~valid[..., None] & (gate == 1), self.xp.full_like(gi, float("inf")), gi)

    def backward_block(
        self, dh: Any, dy: Any, x: Any, h_prev: Any, gates: Any, valid: Any, cut: Any, *, reverse: bool
    ) -> tuple[Any, Any, tuple[Any, ...]]:
        """Some steps (T, N, ...) in a row: dh that leaves them, dx, and their part of the weights' gradients."""
        layer, cell, w, xp = self.layer, self.cell, self.w, self.xp
        h_prev = self.wide(h_prev)
        if cell.from_gates and gates[0] is not None:
            r, z, n, u = gates
            slopes = cell.slopes(h_prev, r, z, n, u, w)
        else:
            slopes, (r, z, n, u) = cell.slopes_at(self.project(x, valid), h_prev, w)
        if dy is not None:
            dy = layer.padded(self.spec, valid, self.wide(dy))
        dh, dgi, dgh = layer.loop_back(self, dh, dy, cut, slopes, (h_prev, r, z, n, u), reverse=reverse)
        dx = self.narrow(layer.backend.product(dgi, w.W_ih))
        db_ih, db_hh = (None, None) if w.b_ih is None else map(layer.sum_of_rows, (dgi, dgh))
        return dh, dx, (sum_of_outer(dgi, self.wide(x), xp), cell.dW_hh(dgh, h_prev, r), db_ih, db_hh)


def cut_before(valid: Any, resets: Any, reverse: bool, xp: Any) -> Any:
    """Where the state is set to zero before a step: (T, N, 1) or None.

    Both directions have the same cuts: between a step with a reset and the valid step before it in time.
    """
    if resets is None:
        return None
    if reverse:
        cut = earlier(resets, 1, xp) if valid is None else valid & of_next_valid(resets, valid, xp)
    else:
        cut = resets if valid is None else resets & valid
    return cut[..., None]


def of_next_valid(values: Any, valid: Any, xp: Any) -> Any:
    """At each step the value at the nearest later step that is valid, False where there is none: (T, N) booleans.

    What each step has found within a window, it passes on to those that found nothing; the window doubles each time.
    """
    found, known, window = earlier(values & valid, 1, xp), earlier(valid, 1, xp), 1
    while window < valid.shape[0]:
        found = found | (earlier(found, window, xp) & ~known)
        known = known | earlier(known, window, xp)
        window *= 2
    return found


def earlier(a: Any, steps: int, xp: Any) -> Any:
    """a (T, N) moved to earlier steps, False at the end."""
    return a if a.shape[0] == 0 else xp.concat([a[steps:, :], xp.zeros_like(a[:steps, :])], axis=0)
