"""The way of every call: a plan is made of it, the arrays are brought, computed with, and the results go home.

A plan is what was found out about a kind of call: its sizes, its place, its kernel. For small calls that takes longer
than the arithmetic, so plans are memoised under all that they depend on, where a backend can say that in a `key`.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

from .arguments import SEQUENCE, Arguments, Checked, Words, check
from .backend import Backend
from .checks import is_structured
from .convert import convert
from .discovery import Place, known_owner, owner
from .errors import BackendError, NotDifferentiableError
from .integers import NO_GRADIENT
from .interfaces import Call, Function, Kernel, Options, Save
from .kernels import Choice, choose, is_unseen
from .params import CellParams, GRUSpec, Tape, map_params, names_of
from .prepared import PreparedParams
from .selection import kernel_policy, variables
from .stack import EmptyBatch

__all__ = ["Given", "Memo", "Plan", "forward", "infer", "plan_of", "planned"]

#: the fields of `Arguments`, in a tuple that costs less to make
Given: TypeAlias = "tuple[Any, Any, Any, Any, Any, Any, Any]"
#: x, h0, params, options, dropout_masks
Inputs: TypeAlias = "tuple[Any, Any, Any, Options, Any]"


class Memo(dict[Hashable, Any]):
    """What was found out, by everything that it depends on; safe in threads, since nothing but the key decides."""

    MOST = 4096

    def keep(self, key: Hashable, found: Any) -> None:
        """Keep what was found."""
        if len(self) >= self.MOST:
            self.clear()
        self[key] = found


_plans = Memo()


@dataclass(frozen=True, slots=True)
class Plan:
    """How calls of one kind are computed."""

    function: Function
    source: Backend
    caller: Place
    place: Place
    state: tuple[int, int, int]  # the shape (L*D, N, H) of the state
    batched: bool
    as_is: bool  # whether all arrays are taken as they are
    in_place: bool  # whether the results, too, are returned as they are, and no context is needed
    nothing_to_bring: bool  # whether, moreover, a state is given and the weights need no packing
    options: Options  # without padding and resets, which belong to single calls
    choice: Choice
    packs: Kernel | None  # the kernel whose layout of the weights is wanted
    stack: Any

    def computing(self) -> AbstractContextManager[Any]:
        """Return the context to compute in: it records nothing, unless the function is to be differentiable."""
        return self.place.backend.computing(self.place.device, recorded=self.function == "gru")

    def bring(self, inputs: Inputs) -> Inputs:
        """Bring the arrays to where they are computed with."""
        if self.nothing_to_bring:
            return inputs
        x, h0, params, options, masks = inputs
        if not self.as_is:
            x, h0, params, options, masks = self._moved(*inputs)
        if h0 is None:
            h0 = self.place.backend.zeros(self.state, x)
        if type(params) is PreparedParams:
            if params.place is not self.place:
                params = params.at(self.place)
            params = params.packed_for(self.packs)
        return x, h0, params, options, masks

    def _moved(self, x: Any, h0: Any, params: Any, options: Options, masks: Any) -> Inputs:
        source, place, crossing = self.source, self.place, self.place != self.caller

        def moved(array: Any, name: str) -> Any:
            if array is None:
                return None
            array = source.canonical(array)
            return convert(array, source, place, name) if crossing else array

        x, h0 = moved(x, "x"), moved(h0, "h0")
        if not isinstance(params, PreparedParams):
            names = iter(names_of(params))
            params = map_params(lambda a: moved(a, next(names)), params)
        options = options._replace(valid=moved(options.valid, "lengths"), resets=moved(options.resets, "resets"))
        return x, h0, params, options, moved(masks, "dropout_masks")

    def home(self, y: Any, h_n: Any) -> tuple[Any, Any]:
        """Return the results as the caller's own kind of arrays."""
        if self.place is not self.caller and self.place != self.caller:
            y, h_n = (convert(a, self.place.backend, self.caller, "result") for a in (y, h_n))
        return (y, h_n) if self.batched else (y[:, 0, :], h_n[:, 0, :])


def infer(
    function: Function, given: Given, spec: GRUSpec, backend: str | Backend | None, words: Words = SEQUENCE
) -> tuple[Any, Any]:
    """Compute `gru` or `gru_inference`."""
    plan, inputs = plan_of(function, given, spec, backend, None, words)
    if plan is None:
        return owner(given[0], "x").whole_call(function, Arguments(*given), spec=spec, backend=backend, save=None)
    if plan.in_place:
        return plan.stack.inference(*plan.bring(inputs))
    with plan.computing():
        y, h_n = plan.stack.inference(*plan.bring(inputs))
        return plan.home(y, h_n)


def forward(
    given: Given, spec: GRUSpec, backend: str | Backend | None, save: Save, words: Words = SEQUENCE
) -> tuple[Any, Any, Tape]:
    """Compute `gru_forward`."""
    plan, inputs = plan_of("forward", given, spec, backend, save, words)
    if plan is None:
        return owner(given[0], "x").whole_call("forward", Arguments(*given), spec=spec, backend=backend, save=save)
    if plan.in_place:
        inputs = plan.bring(inputs)
        y, h_n, layers = plan.stack.forward(*inputs)
    else:
        with plan.computing():
            inputs = plan.bring(inputs)
            y, h_n, layers = plan.stack.forward(*inputs)
            y, h_n = plan.home(y, h_n)
    _, _, params, options, masks = inputs
    return (
        y,
        h_n,
        Tape(layers, params, options.valid, options.resets, masks, spec, plan.batched, plan.place, plan.caller),
    )


def plan_of(
    function: Function, given: Given, spec: GRUSpec, backend: str | Backend | None, save: Save | None, words: Words
) -> tuple[Plan | None, Inputs]:
    """Find the plan of a call, and its arrays in the order of a stack; no plan if the library takes over the call."""
    x, params, h0, lengths, mask, resets, dropout_masks = given
    key: Hashable | None = None
    if lengths is None and mask is None and resets is None and dropout_masks is None and type(spec) is GRUSpec:
        found = _key(x, params, h0)
        if found is not None and (backend is None or type(backend) is str):
            key = (function, save, spec.text, backend, found, variables())
            plan = _plans.get(key)
            if plan is not None:
                return plan, (x, h0, params, plan.options, None)
    if owner(x, words.x).takes_whole_calls:
        return None, (x, h0, params, Options(spec), None)
    checked = check(function, Arguments(*given), spec, backend, save, words)
    plan = planned(checked)
    if key is not None:  # torch.compile would guard everything that it sees here
        _plans.keep(key, plan)
    return plan, (checked.x, checked.h0, checked.prepared or checked.params, checked.options, checked.dropout_masks)


def _key(x: Any, params: Any, h0: Any) -> Hashable | None:
    """All of the arrays that a plan depends on; where there is padding, values matter too."""
    source = known_owner(type(x))
    if source is None or x.ndim != 3:
        return None
    if type(params) is PreparedParams:
        return source.key((x, h0), params.kind)
    if type(params) is tuple and len(params) == 1:  # in a small call the loops below would take as long as the rest
        (layer,) = params
        if type(layer) is tuple and len(layer) == 1 and type(layer[0]) is CellParams:
            return source.key((x, h0, *layer[0]))
    if not is_structured(params):
        return None
    return source.key((x, h0, *(a for layer in params for w in layer for a in w)), len(params))


def planned(c: Checked) -> Plan:
    """The plan of a call that was checked."""
    source, place = c.source, c.place if c.prepared is None else c.prepared.place
    backend, device = place
    if backend.takes_whole_calls and backend is source:
        raise BackendError(f"x: {backend.name} takes over whole calls with its arrays; no kernel is chosen here")
    if backend.takes_whole_calls:
        raise BackendError(
            f"backend: {backend.name} only takes over calls with its own arrays, and x is an array of {source.name}; "
            f"give arrays of {backend.name}"
        )
    context = backend.computing(device, recorded=c.function == "gru")
    with context:
        recorded = backend.recorded(c.arrays) if backend is source else "no"
        differentiable = c.function == "gru" and not c.integers
        if c.integers and c.function == "gru" and backend is source and backend.asks_gradient(c.arrays):
            raise NotDifferentiableError(NO_GRADIENT)
        inside = differentiable and recorded in ("call", "traced")  # kernels run inside, and nothing watches
        training = c.function == "forward" or inside
        call = Call.of(
            "forward" if training else "inference",
            backend,
            device,
            source.dtype_name(c.x.dtype),
            c.x.shape,
            c.sizes,
            c.options._replace(save=(c.options.save or "all") if training else None),
            dropout=c.dropout_masks is not None,
            recording=recorded != "no" and not inside,
            integers=c.integers,
        )
        choice = choose(call, kernel_policy())
        stack = (
            backend.integer_stack(choice.kernel)
            if call.integers and (choice.kernel is None or choice.kernel.level == "gates")
            else backend.stack(choice.kernel, call, recorded if inside else "no")
        )
        if c.function != "forward" and c.x.shape[1] == 0:
            stack = EmptyBatch(backend.xp, stack)
    as_is = not c.crossing and c.as_is
    return Plan(
        c.function,
        source,
        c.caller if c.crossing else place,
        place,
        (c.sizes.L * c.sizes.D, c.x.shape[1], c.sizes.H),
        c.batched,
        as_is=as_is,
        in_place=as_is and c.batched and (isinstance(context, nullcontext) or is_unseen(choice.kernel)),
        nothing_to_bring=as_is and c.h0 is not None and c.prepared is None,
        options=c.options._replace(valid=None, resets=None),
        choice=choice,
        packs=None if training else choice.kernel,
        stack=stack,
    )
