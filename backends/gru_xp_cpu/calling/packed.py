"""Weights packed into panels once, for many calls of inference."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from gru_xp.params import CellParams
from gru_xp_cpu.passes.fields import STEP, Kind

from .fit import fitted_weights
from .kernel import plan_of
from .memory import block

__all__ = ["PackedCell", "pack"]


class PackedCell(CellParams):
    """Weights and their panels; copies, so that they cannot become stale."""

    kind: Kind = "forward"  # of the kernel that reads them
    panels: bytes  # the first of the places that a call needs, see `fields.PLACES`
    memory: Any
    _make = CellParams._make  # type: ignore[assignment] # what `_replace` gives is not packed

    def __reduce__(self) -> Any:
        """For pickle and copy: the panels are addresses of this process."""
        return pack, (CellParams(*self),)


def pack(w: CellParams) -> PackedCell:
    """Copy and pack weights."""
    packed = PackedCell(*(None if a is None else np.array(a) for a in fitted_weights(w)))
    for array in packed:
        if array is not None:
            array.flags.writeable = False
    W_ih, W_hh, b_ih, b_hh = packed
    I, H, new = W_ih.shape[1], W_hh.shape[1], partial(np.empty, dtype=W_ih.dtype)
    plan = plan_of("forward", W_ih.dtype, None, 0, 0, I, H)
    address, packed.memory = block(plan.size)
    tail = plan.tail(address)
    # nothing but the preparation runs when there are no steps and no rows
    x, h0, y, h_n = new((0, 0, I)), new((0, H)), new((0, 0, H)), new((0, H))
    arrays = x, h0, W_ih, W_hh, b_ih, b_hh, y, h_n, *([None] * 8)
    misfits = plan.run(plan.head + plan.pack(0, 0, 0, STEP, id(arrays)) + tail)
    assert not misfits
    packed.panels = tail[: 4 * 8]
    return packed
