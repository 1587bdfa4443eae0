"""Whether the arguments of the operators fit together: a saved program may call them with anything."""

from __future__ import annotations

from typing import Any

from gru_xp.checks import assert_expected, sizes_of
from gru_xp.discovery import load
from gru_xp.errors import DTypeError, StructureError
from gru_xp.params import Sizes as ParamsSizes

from .flat import GATES, Sizes, params_of, spec_of

__all__ = ["assert_backward", "assert_forward"]

FROM_X = "T and N come from x, H from the second weight"


def assert_forward(
    D: int, bias: bool, spec: str, x: Any, h0: Any, valid: Any, resets: Any, masks: Any, weights: Any
) -> None:
    """Raise an error that names what does not fit in a call of `gru_xp::forward`."""
    sizes = _sizes(D, bias, spec, x, valid, resets, masks, weights)
    _assert_reals({"h0": (h0, _rows(sizes, x))}, x)


def assert_backward(
    D: int,
    bias: bool,
    spec: str,
    x: Any,
    dy: Any,
    dh_n: Any,
    valid: Any,
    resets: Any,
    masks: Any,
    weights: Any,
    tape: Any,
) -> None:
    """Raise an error that names what does not fit in a call of `gru_xp::backward`."""
    sizes = _sizes(D, bias, spec, x, valid, resets, masks, weights)
    (T, N, _), H, cells = x.shape, sizes.H, sizes.L * sizes.D
    _assert_reals({"dy": (dy, {"T": T, "N": N, "D*H": D * H}), "dh_n": (dh_n, _rows(sizes, x))}, x)
    if len(tape) != GATES * cells + sizes.L - 1:
        raise StructureError(
            f"tape: expected {GATES * cells + sizes.L - 1} tensors, as forward made them, got {len(tape)}"
        )
    for i, a in enumerate(tape):
        assert_expected(
            a, f"tape[{i}]", {"T": T, "N": N, "H": H} if i < GATES * cells else {"T": T, "N": N, "D*H": D * H}, FROM_X
        )
        if not a.dtype.is_floating_point:
            raise DTypeError(f"tape[{i}]: expected a floating-point dtype, got {a.dtype}")


def _sizes(D: int, bias: bool, spec: str, x: Any, valid: Any, resets: Any, masks: Any, weights: Any) -> ParamsSizes:
    """The sizes that the weights have, to which all that is common to both operators is compared."""
    try:
        spec_of(spec)
    except (TypeError, ValueError):
        raise StructureError(f"spec: expected the text of a GRUSpec, got {spec!r}") from None
    each = 4 if bias else 2
    if D not in (1, 2) or not weights or len(weights) % (each * D):
        raise StructureError(
            f"weights: expected {each} for each of D = 1 or 2 directions, got {len(weights)} and D = {D}"
        )
    sizes = sizes_of(params_of(weights, Sizes(D, bias, spec)))
    if x.dim() != 3:
        raise StructureError(f"x: expected (T, N, I), got {tuple(x.shape)}")
    T, N, _ = x.shape
    _assert_reals(
        {"x": (x, {"T": T, "N": N, "I": sizes.I}), **{f"weights[{i}]": (w, None) for i, w in enumerate(weights)}}, x
    )
    for name, mask in (("valid", valid), ("resets", resets)):
        if mask is not None:
            assert_expected(mask, name, {"T": T, "N": N}, FROM_X)
            if mask.dtype is not load("torch").xp.bool:
                raise DTypeError(f"{name}: expected booleans, got {mask.dtype}")
    if masks is not None:
        _assert_reals({"masks": (masks, {"L-1": sizes.L - 1, "T": T, "N": N, "D*H": D * sizes.H})}, x)
    return sizes


def _rows(sizes: ParamsSizes, x: Any) -> dict[str, int]:
    return {"L*D": sizes.L * sizes.D, "N": x.shape[1], "H": sizes.H}


def _assert_reals(arrays: dict[str, tuple[Any, dict[str, int] | None]], x: Any) -> None:
    """Of these shapes, where one is given, and of the dtype of x."""
    for name, (array, axes) in arrays.items():
        if axes is not None:
            assert_expected(array, name, axes, FROM_X)
        if array.dtype is not x.dtype or not array.dtype.is_floating_point:
            raise DTypeError(f"{name}: expected a floating-point dtype, that of x, got {array.dtype} and {x.dtype}")
