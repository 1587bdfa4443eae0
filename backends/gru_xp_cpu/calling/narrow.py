"""Weights of 8 bits, packed once for kernels that read bytes."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from gru_xp.discovery import load
from gru_xp.integers import integer_params
from gru_xp.layer import Layer
from gru_xp.narrow import Narrow, integers
from gru_xp.params import CellParams
from gru_xp_cpu.passes.digits import digits_of
from gru_xp_cpu.passes.fields import Kind

from .fit import fitted_weights
from .kernel import kernel
from .memory import block
from .packed import PackedCell, pack

__all__ = ["FixedCell", "IntegerCell", "NarrowCell", "pack_narrow"]

#: places of packed weights in `fields.IntegerPlaces`
PLACES = 9
#: weights of a layer whose float32 no cache of a core holds, so that reading them bounds a step of one row
MANY = 4_000_000


class NarrowCell(PackedCell):
    """8-bit weights and their panels, see `passes.integers`."""

    given: tuple[CellParams, Narrow, CellParams]
    bytes: bool  # whether digits have 8 bits, four of which an instruction multiplies at once

    def __reduce__(self) -> Any:
        return pack_narrow, self.given


class FixedCell(NarrowCell):
    """Weights for float activations."""

    kind: Kind = "fixed"

    @cached_property
    def floats(self) -> PackedCell:
        """As the kernel of float32 takes them: for a state beyond 1, and where that is faster."""
        return pack(self.given[0])

    def fastest(self, T: int, N: int) -> PackedCell:
        """Itself, or `floats` where several products of digits take longer than to read four times as many bytes."""
        read_bound = N == 1 and (T == 1 or self.W_ih.size + self.W_hh.size > MANY)
        return self if self.bytes or read_bound else self.floats


class IntegerCell(NarrowCell):
    """Weights for 8-bit activations."""

    kind: Kind = "integers"

    @cached_property
    def plain(self) -> CellParams:
        """As the plain layer takes them."""
        w, narrow, scales = self.given
        ((cell,),) = integer_params(((w,),), Narrow(narrow.weights, narrow.activations, ((scales,),)), np)
        return cell

    def plain_inference(self, x: Any, h0: Any, options: Any) -> tuple[Any, Any]:
        """What the kernel does not compute: from a state beyond 1."""
        backend = load("numpy")
        return Layer(backend, backend.gates_type(backend.xp)).inference(x, h0, self.plain, options)


def pack_narrow(w: CellParams, narrow: Narrow, scales: CellParams | None) -> PackedCell:
    """Copy and pack weights that `quantize` made. Those of 16 bits are multiplied as float32."""
    if scales is None:
        return pack(w)
    from gru_xp_cpu.emit.target import current

    kind: type[NarrowCell] = IntegerCell if narrow.activations == "int8" else FixedCell
    digits = digits_of(kind.kind, current())
    W_ih, W_hh, b_ih, b_hh = (None if a is None else np.array(a) for a in fitted_weights(w))
    assert W_ih is not None and W_hh is not None
    I, H = W_ih.shape[1], W_hh.shape[1]
    if max(I, H) > digits.most and kind is FixedCell:
        return pack(w)
    packed = kind(W_ih, W_hh, b_ih, b_hh)
    packed.bytes = digits.size == 1
    packed.given = CellParams(*packed), narrow, CellParams(*(None if s is None else np.array(s) for s in scales))
    run = kernel(kind.kind, np.dtype("f4"), None)
    plan, V = run.plan(0, 0, I, H), run.lanes
    address, packed.memory = block(plan.size)
    J = -(-H // V)

    def by_block(a: Any) -> Any:
        """(3H, ...) -> (J, ..., gate, V), with zeros beyond H."""
        wide = np.zeros((3, J * V, *a.shape[1:]), a.dtype)
        wide[:, :H] = a.reshape(3, H, *a.shape[1:])
        return wide.reshape(3, J, V, *a.shape[1:])

    def panels(q: Any) -> Any:
        K = q.shape[1]
        wide = np.zeros((3 * H, -(-K // V) * V), np.int8)
        wide[:, :K] = q
        return by_block(wide).reshape(3, J, V, -1, digits.depth).transpose(1, 3, 0, 2, 4)

    def rows(a: Any) -> Any:
        return by_block(a).transpose(1, 0, 2)

    given = packed.given[2]
    q_ih, q_hh = (integers(W, s, np).astype(np.int8) for W, s in ((W_ih, given.W_ih), (W_hh, given.W_hh)))
    start_gi, start_gh = (np.zeros(3 * H, np.float32) for _ in range(2))
    if b_ih is not None and b_hh is not None:
        start_gi[: 2 * H], start_gi[2 * H :] = b_ih[: 2 * H] + b_hh[: 2 * H], b_ih[2 * H :]
        start_gh[2 * H :] = b_hh[2 * H :]
    first = [np.int32(-digits.offset) * q.sum(axis=1, dtype=np.int32) for q in (q_ih, q_hh)]
    largest = np.float32(digits.largest)
    arrays = (
        panels(q_ih), panels(q_hh), rows(start_gi), rows(start_gh), rows(first[0]), rows(first[1]),
        rows(given.W_ih / largest), rows(given.W_hh / largest), np.ones(1, np.float32),
    )  # fmt: skip
    begin = address - packed.memory.ctypes.data
    for array, at in zip(arrays, plan.offsets, strict=False):
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        packed.memory[begin + at : begin + at + data.size] = data
    for array in packed:
        if array is not None:
            array.flags.writeable = False
    packed.panels = plan.tail(address)[: PLACES * 8]
    return packed
