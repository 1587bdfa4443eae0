"""The public functions. A cell is a sequence of one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from .arguments import CELL, SEQUENCE, Arguments, check
from .backend import Backend
from .backward import backward
from .checks import assert_expected, kind_of, sizes_of, structured
from .discovery import owner
from .errors import StructureError
from .interfaces import Function, Save
from .kernels import PLAIN, Refusal
from .params import A, ArrayLike, CellGrads, CellParams, GRUGrads, GRUSpec, Lengths, ParamsLike, Steps, Tape
from .plan import Given, forward, infer, planned
from .prepared import PreparedParams, owned_at, place_of
from .selection import place_for, selection

__all__ = [
    "Explanation",
    "explain",
    "gru",
    "gru_backward",
    "gru_cell",
    "gru_cell_backward",
    "gru_cell_forward",
    "gru_cell_inference",
    "gru_forward",
    "gru_inference",
    "prepare",
]

CUDNN = GRUSpec()
SAVES = get_args(Save)


def gru(
    x: A,
    params: ParamsLike | PreparedParams,
    h0: A | None = None,
    *,
    lengths: Lengths | None = None,
    mask: Steps | None = None,
    resets: Steps | None = None,
    spec: GRUSpec = CUDNN,
    dropout_masks: A | None = None,
    backend: str | Backend | None = None,
) -> tuple[A, A]:
    """Run a gated recurrent unit over a sequence; differentiable by the arrays' own library where it has autodiff.

    Args:
        x: (T, N, I), or (T, I) without a batch; float16, bfloat16, float32 or float64 of any array library.
        params: a tuple of layers, each a tuple of one or two directions, each a `CellParams`; or what `prepare` gave.
        h0: (L*D, N, H), row `layer * D + direction`; without a batch (L*D, H). None is zero.
        lengths: (N,) integers: past a row's end `y` is 0, `h_n` is the state at its length, and the reverse direction
            begins at its last valid step.
        mask: (T, N) booleans instead of lengths, false where a step is padding, in any pattern: the state stands still
            there and `y` is 0; a reset there does nothing.
        resets: (T, N) booleans: the state is set to zero before the step.
        spec: which equations are meant.
        dropout_masks: (L-1, T, N, D*H), already scaled: multiplied onto what each layer but the last puts out.
        backend: where to compute, as `name[:device]`; by default what `use_backend` or GRU_XP_BACKEND say, else where
            the arrays are.

    Returns:
        y (T, N, D*H), the forward direction first on the last axis, and h_n (L*D, N, H), of x's library and device.

    Raises:
        GRUError: one of its subclasses, which name the argument, what was expected, what came and what to do.

    >>> import numpy as np, gru_xp
    >>> rng = np.random.default_rng(0)
    >>> w = gru_xp.CellParams(rng.normal(size=(12, 3)), rng.normal(size=(12, 4)))   # I = 3, H = 4
    >>> y, h_n = gru_xp.gru(rng.normal(size=(7, 2, 3)), ((w,),), lengths=[7, 5])
    >>> y.shape, h_n.shape
    ((7, 2, 4), (1, 2, 4))
    """
    return infer("gru", (x, params, h0, lengths, mask, resets, dropout_masks), spec, backend)


def gru_inference(
    x: A,
    params: ParamsLike | PreparedParams,
    h0: A | None = None,
    *,
    lengths: Lengths | None = None,
    mask: Steps | None = None,
    resets: Steps | None = None,
    spec: GRUSpec = CUDNN,
    dropout_masks: A | None = None,
    backend: str | Backend | None = None,
) -> tuple[A, A]:
    """As `gru`, but nothing is saved or recorded for a gradient."""
    return infer("inference", (x, params, h0, lengths, mask, resets, dropout_masks), spec, backend)


def gru_forward(
    x: A,
    params: ParamsLike | PreparedParams,
    h0: A | None = None,
    *,
    lengths: Lengths | None = None,
    mask: Steps | None = None,
    resets: Steps | None = None,
    spec: GRUSpec = CUDNN,
    dropout_masks: A | None = None,
    backend: str | Backend | None = None,
    save: Save = "all",
) -> tuple[A, A, Tape]:
    """As `gru`, and the tape that `gru_backward` needs.

    `save="all"` keeps the gates of every step; `save="states"` keeps the inputs and states alone, about a fifth as much
    where I is small, and backward computes the gates again in large products. Both give the same gradients.

    The tape holds x and the weights themselves: until the last `gru_backward`, do not change them in place.

    >>> import numpy as np, gru_xp
    >>> rng = np.random.default_rng(0)
    >>> w = gru_xp.CellParams(rng.normal(size=(12, 3)), rng.normal(size=(12, 4)))
    >>> y, h_n, tape = gru_xp.gru_forward(rng.normal(size=(7, 2, 3)), ((w,),))
    >>> grads = gru_xp.gru_backward(tape, dy=np.ones_like(y))
    >>> grads.x.shape, grads.h0.shape, grads.params[0][0].W_ih.shape
    ((7, 2, 3), (1, 2, 4), (12, 3))
    """
    _assert_save(save)
    return forward((x, params, h0, lengths, mask, resets, dropout_masks), spec, backend, save)


def gru_backward(tape: Tape, dy: ArrayLike | None = None, dh_n: ArrayLike | None = None) -> GRUGrads:
    """The gradients of a loss, given its gradients with respect to what `gru_forward` returned.

    Args:
        tape: from `gru_forward`; it may be used again.
        dy: (T, N, D*H) or None for zero.
        dh_n: (L*D, N, H) or None for zero. At least one of the two is given.

    Returns:
        `.x` (T, N, I), `.h0` (L*D, N, H) and `.params` with the structure of the parameters.
    """
    return backward(tape, dy, dh_n)


def gru_cell(
    x: A, h: A | None, params: CellParams, *, spec: GRUSpec = CUDNN, backend: str | Backend | None = None
) -> A:
    """One step: x (N, I), h (N, H) or None for zero -> h' (N, H); without a batch (I,), (H,) -> (H,).

    Differentiable as `gru` is.

    >>> import numpy as np, gru_xp
    >>> rng = np.random.default_rng(0)
    >>> w = gru_xp.CellParams(rng.normal(size=(12, 3)), rng.normal(size=(12, 4)))
    >>> gru_xp.gru_cell(rng.normal(size=(2, 3)), np.zeros((2, 4)), w).shape
    (2, 4)
    """
    return infer("gru", _one_step(x, h, params), spec, backend, CELL)[1][0, ...]


def gru_cell_inference(
    x: A, h: A | None, params: CellParams, *, spec: GRUSpec = CUDNN, backend: str | Backend | None = None
) -> A:
    """As `gru_cell`, but nothing is recorded for a gradient."""
    return infer("inference", _one_step(x, h, params), spec, backend, CELL)[1][0, ...]


def gru_cell_forward(
    x: A, h: A | None, params: CellParams, *, spec: GRUSpec = CUDNN, backend: str | Backend | None = None
) -> tuple[A, Tape]:
    """As `gru_cell`, and the tape, which is that of a sequence of one step."""
    _, h_n, tape = forward(_one_step(x, h, params), spec, backend, "all", CELL)
    return h_n[0, ...], tape


def gru_cell_backward(tape: Tape, dh1: ArrayLike) -> CellGrads:
    """dh1 (N, H) -> the gradients `.x` (N, I), `.h` (N, H) and `.params`."""
    if not isinstance(tape, Tape) or len(tape.layers) != 1 or tape.layers[0][0].x.shape[0] != 1:
        raise StructureError("tape: expected what gru_cell_forward returned last, got something else")
    N, H = tape.layers[0][0].h_prev.shape[1:]
    assert_expected(dh1, "dh1", {"N": N, "H": H} if tape.batched else {"H": H}, "as gru_cell_forward returned it")
    gradient: Any = dh1
    grads = gru_backward(tape, dh_n=gradient[None, ...])
    return CellGrads(grads.x[0, ...], grads.h0[0, ...], grads.params[0][0])


def _one_step(x: Any, h: Any, params: Any) -> Given:
    """The arguments of a cell as those of a sequence of one step."""
    if not isinstance(params, CellParams):
        if not isinstance(params, tuple) or len(params) not in (2, 4):
            raise StructureError(f"params: expected CellParams(W_ih, W_hh, b_ih, b_hh), got {kind_of(params)}")
        params = CellParams(*params)
    owner(x, "x")
    if h is not None:
        owner(h, "h")
        h = h[None, ...]
    return x[None, ...], ((params,),), h, None, None, None, None


def _assert_save(save: Any) -> None:
    if not isinstance(save, str) or save not in SAVES:
        raise StructureError(f"save: expected one of {', '.join(map(repr, SAVES))}, got {save!r}")


def prepare(params: ParamsLike, *, backend: str | Backend | None = None) -> PreparedParams:
    """Check and copy parameters, and bring them to where they will be computed with; for repeated calls.

    Later changes to the arrays that came do not reach the copy.

    >>> import numpy as np, gru_xp
    >>> rng = np.random.default_rng(0)
    >>> weights = gru_xp.prepare(((gru_xp.CellParams(rng.normal(size=(12, 3)), rng.normal(size=(12, 4))),),))
    >>> y, h_n = gru_xp.gru_inference(rng.normal(size=(7, 2, 3)), weights)
    """
    layers = structured(params)
    sizes = sizes_of(layers)
    caller = place_of(layers)
    place = place_for(selection(backend), caller)
    return PreparedParams(owned_at(place, layers, caller), sizes, place)


@dataclass(frozen=True)
class Explanation:
    """Who would compute a call, and why nothing faster does; `str()` says it in words."""

    backend: str
    device: str
    kernel: str
    level: str | None
    refusals: tuple[Refusal, ...]

    def __str__(self) -> str:
        what = "the plain path" if self.level is None else f"kernel {self.kernel} ({self.level})"
        lines = [f"{what} on {self.backend}, device {self.device}"]
        lines += [f"  not {name} ({level}): {reason}" for name, level, reason in self.refusals]
        return "\n".join(lines)


def explain(
    x: A,
    params: ParamsLike | PreparedParams,
    h0: A | None = None,
    *,
    lengths: Lengths | None = None,
    mask: Steps | None = None,
    resets: Steps | None = None,
    spec: GRUSpec = CUDNN,
    dropout_masks: A | None = None,
    backend: str | Backend | None = None,
    function: Function = "inference",
    save: Save = "all",
) -> Explanation:
    """Which backend and kernel would run such a call, and why not a faster one. Nothing is computed.

    >>> import numpy as np, gru_xp
    >>> w = gru_xp.CellParams(np.zeros((12, 3)), np.zeros((12, 4)))
    >>> gru_xp.explain(np.zeros((7, 2, 3)), ((w,),), backend="numpy").backend
    'numpy'
    """
    if function not in get_args(Function):
        raise StructureError(f"function: expected 'gru', 'inference' or 'forward', got {function!r}")
    _assert_save(save)
    arguments = Arguments(x, params, h0, lengths, mask, resets, dropout_masks)
    plan = planned(check(function, arguments, spec, backend, save if function == "forward" else None, SEQUENCE))
    kernel = plan.choice.kernel
    return Explanation(
        plan.place.backend.name,
        plan.place.backend.device_name(plan.place.device),
        PLAIN if kernel is None else kernel.name,
        None if kernel is None else kernel.level,
        plan.choice.refusals,
    )
