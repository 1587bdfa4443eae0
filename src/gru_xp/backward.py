"""The way of `gru_backward`: as that of every call, from where the tape lies to the forward caller's kind of arrays."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from .backend import Backend
from .checks import assert_expected, kind_of
from .convert import convert
from .discovery import Place, assert_same_library
from .errors import DTypeError, GRUError, MixedArraysError, StructureError
from .interfaces import Call, Options
from .kernels import choose, is_unseen
from .params import GRUGrads, LayerTape, Sizes, Tape, map_params, weights_of
from .plan import Memo
from .selection import kernel_policy, variables
from .tapes import assert_tape

__all__ = ["backward"]

_plans = Memo()


@dataclass(frozen=True, slots=True)
class Plan:
    """How gradients of one kind are computed."""

    caller: Place
    place: Place
    batched: bool
    as_is: bool  # whether dy and dh_n are taken as they are, and the gradients returned so
    in_place: bool  # whether, moreover, no context is needed
    trusting: bool  # whether what computes does not look at each array itself, as native code does
    stack: Any

    def computing(self) -> AbstractContextManager[Any]:
        """Return the context to compute in: nothing is recorded."""
        return self.place.backend.computing(self.place.device, recorded=False)

    def bring(self, array: Any, name: str) -> Any:
        """Bring dy or dh_n to where the tape lies."""
        if array is None or self.as_is:
            return array
        if not self.batched:
            array = array[:, None, :]
        array = self.caller.backend.canonical(array)
        return array if self.caller == self.place else convert(array, self.caller.backend, self.place, name)

    def home(self, grads: GRUGrads) -> GRUGrads:
        """Return the gradients as the forward caller's kind of arrays."""
        if self.as_is:
            return grads
        dx, dh0, dparams = grads
        if self.caller != self.place:
            dx, dh0 = self._home(dx), self._home(dh0)
            dparams = map_params(self._home, dparams)
        return GRUGrads(dx, dh0, dparams) if self.batched else GRUGrads(dx[:, 0, :], dh0[:, 0, :], dparams)

    def _home(self, array: Any) -> Any:
        return convert(array, self.place.backend, self.caller, "gradients")


def backward(tape: Tape, dy: Any, dh_n: Any) -> GRUGrads:
    """Compute `gru_backward`."""
    if not isinstance(tape, Tape):
        raise StructureError(f"tape: expected what gru_forward returned last, got {kind_of(tape)}")
    backend = tape.place.backend
    if backend.takes_whole_calls:
        return backend.whole_call("backward", (tape, dy, dh_n))
    try:
        plan = plan_of_backward(tape, dy, dh_n)
        if plan.trusting:
            assert_tape(tape)
        if plan.in_place:
            return plan.stack.backward(tape.layers, dy, dh_n, tape.dropout_masks)
        with plan.computing():
            dy, dh_n = plan.bring(dy, "dy"), plan.bring(dh_n, "dh_n")
            return plan.home(plan.stack.backward(tape.layers, dy, dh_n, tape.dropout_masks))
    except GRUError:
        raise
    except Exception:
        assert_tape(tape)  # which says it better, if that is why
        raise


def plan_of_backward(tape: Tape, dy: Any, dh_n: Any) -> Plan:
    """Find the plan of a backward pass."""
    key = _key(tape, dy, dh_n)
    plan = None if key is None else _plans.get(key)
    if plan is None:
        _check(tape, dy, dh_n)
        plan = _made(tape, dy, dh_n)
        if key is not None:
            _plans.keep(key, plan)
    return plan


def _key(tape: Tape, dy: Any, dh_n: Any) -> Hashable | None:
    """All that the plan depends on, if that is little; then dy and dh_n are as the backend wants them."""
    if not tape.batched or tape.place is not tape.caller:
        return None  # and where there is a key, the arrays are taken as they are
    layers, backend = tape.layers, tape.place.backend
    first = layers[0][0]
    given = tape.valid is None, tape.resets is None, tape.dropout_masks is None, first.w.b_ih is None, first.r is None
    found = backend.key((first.x, first.h_prev, dy, dh_n), given)
    return None if found is None else (backend, tape.spec.text, len(layers), len(layers[0]), found, variables())


def _shape(tape: Tape) -> tuple[int, int]:
    return len(tape.layers), len(tape.layers[0])


def _check(tape: Tape, dy: Any, dh_n: Any) -> None:
    if dy is None and dh_n is None:
        raise StructureError("dy: expected dy or dh_n or both, got neither")
    assert_tape(tape)
    first, compute = tape.layers[0][0], tape.place.backend
    dtype = compute.dtype_name(first.x.dtype)
    if dtype not in compute.float_names():
        raise DTypeError(
            f"tape: was made with {dtype}, which {compute.name} does not have any more; switch it on again"
        )
    (T, N, H), (L, D) = first.h_prev.shape, _shape(tape)
    batch = {"N": N} if tape.batched else {}
    for name, array, axes in (
        ("dy", dy, {"T": T, **batch, "D*H": D * H}),
        ("dh_n", dh_n, {"L*D": L * D, **batch, "H": H}),
    ):
        if array is not None:
            assert_expected(array, name, axes, "as gru_forward returned it")
            assert_same_library(array, name, tape.caller.backend, "the input of gru_forward")
            _assert_like_input(array, name, first, tape.caller, compute)


def _assert_like_input(array: Any, name: str, first: LayerTape, caller: Place, compute: Backend) -> None:
    """A gradient has the dtype and the device of the forward caller's arrays."""
    wanted, got = compute.dtype_name(first.x.dtype), caller.backend.dtype_name(array.dtype)
    if wanted != got:
        raise DTypeError(f"{name}: expected {wanted}, as the input of gru_forward has, got {got}; cast it first")
    device = caller.backend.device_of(array)
    if device != caller.device and not (caller.backend is compute and compute.beside(first.x, array)):
        raise MixedArraysError(
            f"{name}: expected on {caller}, where the input of gru_forward was, "
            f"got on {caller.backend.name}:{caller.backend.device_name(device)}; move it"
        )


def _made(tape: Tape, dy: Any, dh_n: Any) -> Plan:
    """The plan of a backward pass that was checked."""
    (backend, device), first, (L, D) = tape.place, tape.layers[0][0], _shape(tape)
    sizes = Sizes(first.x.shape[2], first.h_prev.shape[2], L, D, first.w.b_ih is not None)
    options = Options(tape.spec, tape.valid, tape.resets, save="states" if first.r is None else "all")
    arrays = [a for a in (first.x, first.h_prev, *weights_of(tape.params), dy, dh_n) if a is not None]
    context = backend.computing(device, recorded=False)
    with context:
        call = Call.of(
            "backward",
            backend,
            device,
            backend.dtype_name(first.x.dtype),
            first.x.shape,
            sizes,
            options,
            dropout=tape.dropout_masks is not None,
            recording=tape.caller.backend is backend and backend.recorded(arrays) != "no",
        )
        kernel = choose(call, kernel_policy()).kernel
        stack = backend.stack(kernel, call)
    canonical = tape.caller.backend.canonical
    as_is = tape.batched and tape.caller == tape.place and all(a is None or canonical(a) is a for a in (dy, dh_n))
    in_place = as_is and (isinstance(context, nullcontext) or is_unseen(kernel))
    trusting = kernel is None or kernel.level == "gates"
    return Plan(tape.caller, tape.place, tape.batched, as_is, in_place, trusting, stack)
