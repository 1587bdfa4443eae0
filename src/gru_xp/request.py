"""What happens to a call between the front door and the mathematics, and on the way back.

The arguments are checked, the place and the kernel chosen, the arrays brought there; the results go back to the
caller's own kind of array.

For a small call that takes longer than the arithmetic. So what was found out once is remembered by all that it depends
on, where that is little: for a library such as NumPy the shapes and dtypes, see `Backend.settles`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

from .backend import Backend
from .checks import (
    Sizes,
    assert_directions,
    assert_shape,
    booleans_beside,
    check_agree,
    sizes_of,
    structured,
    valid_steps,
)
from .dispatch import (
    Place,
    assert_same_library,
    convert,
    kernel_policy,
    owner,
    owner_of_type,
    place_for,
    selection,
    variables,
)
from .errors import DTypeError, MixedArraysError, NotDifferentiableError, ShapeError, StructureError
from .kernels import Call, Choice, choose, stack_for
from .params import CellParams, GRUGrads, GRUSpec, Params, Tape, map_params, names_of, weights_of

__all__ = [
    "Function",
    "Names",
    "OwnedParams",
    "PreparedParams",
    "Request",
    "backward",
    "forward",
    "infer",
    "owned_at",
    "place_of",
    "quick",
]

Function: TypeAlias = Literal["gru", "inference", "forward"]


class Names(NamedTuple):
    """What errors call the arguments of a front door."""

    x: str = "x"
    h0: str = "h0"
    resets: str = "resets"


@dataclass(frozen=True, eq=False)
class PreparedParams:
    """Parameters that `prepare` has checked and brought to where they are computed with; they stand for `params`."""

    params: Params
    sizes: Sizes
    place: Place  # where they are
    _packed: dict[str, Params] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> Any:
        """For pickle and copy: without what is packed, which holds addresses of this process."""
        return PreparedParams, (self.params, self.sizes, self.place)

    @cached_property
    def kind(self) -> Any:
        """All of them that decides whether a call is right and who computes it."""
        return self.sizes, self.place, self.params[0][0].W_hh.dtype

    def at(self, place: Place) -> PreparedParams:
        """The same where a call computes."""
        if place != self.place:
            raise StructureError(
                f"params: expected parameters prepared for {place}, got some prepared for {self.place}; "
                f"call prepare(params, backend=...) for where you compute"
            )
        return self

    def packed_for(self, kernel: Any) -> Params:
        """The same, as this kernel wants them for inference again and again; packed once for each kernel that packs."""
        pack = getattr(kernel, "pack", None)
        if pack is None:
            return self.params
        try:
            return self._packed[kernel.name]
        except KeyError:
            packed = self._packed[kernel.name] = tuple(tuple(map(pack, layer)) for layer in self.params)
            return packed


@dataclass(frozen=True, eq=False)
class OwnedParams(PreparedParams):
    """The same of a model, which go wherever a call computes; brought there once."""

    _brought: dict[tuple[str, str], PreparedParams] = field(default_factory=dict, repr=False)

    def at(self, place: Place) -> PreparedParams:
        if place == self.place:
            return self
        key = (place.backend.name, place.backend.device_name(place.device))
        brought = self._brought.get(key)
        if brought is None:
            brought = PreparedParams(owned_at(place, self.params, self.place), self.sizes, place)
            self._brought[key] = brought
        return brought


class Request:
    """A call with its arguments checked and its place known, but nothing brought there yet."""

    def __init__(
        self,
        function: Function,
        x: Any,
        params: Any,
        h0: Any,
        lengths: Any,
        resets: Any,
        spec: GRUSpec,
        dropout_masks: Any,
        backend: str | Backend | None,
        save: str | None = None,
        cell: bool = False,
        called: Names = Names(),  # noqa: B008 # it cannot be changed
        mask: Any = None,
    ):
        if type(spec) is not GRUSpec:
            raise StructureError(f"spec: expected a GRUSpec, got {spec!r}")
        self.function, self.spec, self.save = function, spec, save
        self.source = source = owner(x, "x")
        if x.ndim not in (2, 3):
            raise ShapeError(f"x: expected (T, N, I), or (T, I) without a batch, got {tuple(x.shape)}")
        self.batched = x.ndim == 3
        self.prepared = prepared = params if isinstance(params, PreparedParams) else None
        self.params = prepared.params if prepared else structured(params)
        self.sizes = sizes = prepared.sizes if prepared else sizes_of(self.params)
        assert_directions(spec, sizes)
        if None in tuple(x.shape):
            raise ShapeError(f"x: expected sizes that are known, got {tuple(x.shape)}; compute it first")
        T, N = x.shape[0], x.shape[1] if self.batched else 1
        if x.shape[-1] != sizes.I:
            letters, wanted = "(T, N, I)" if self.batched else "(T, I)", (*x.shape[:-1], sizes.I)
            raise ShapeError(f"x: expected {letters} = {wanted}, got {tuple(x.shape)}; I = {sizes.I} comes from W_ih")

        names, others = [], []
        if h0 is not None:
            rows = sizes.L * sizes.D
            letters, shape = ("(L*D, N, H)", (rows, N, sizes.H)) if self.batched else ("(L*D, H)", (rows, sizes.H))
            assert_shape(h0, called.h0, letters, shape, "L, D and H come from params and N from x")
            names.append(called.h0)
            others.append(h0)
        if dropout_masks is not None:
            letters = "(L-1, T, N, D*H)" if self.batched else "(L-1, T, D*H)"
            wanted = (sizes.L - 1, *x.shape[:-1], sizes.D * sizes.H)
            assert_shape(dropout_masks, "dropout_masks", letters, wanted, "L, D and H come from params, T and N from x")
            names.append("dropout_masks")
            others.append(dropout_masks)
        self.others = others
        arrays = others if prepared else others + weights_of(self.params)

        def name_of(index: int) -> str:
            return [*names, *names_of(self.params, cell=cell)][index]

        self.alike = check_agree(called.x, x, arrays, name_of, source)
        if not self.batched:
            x = x[:, None, :]
            h0 = None if h0 is None else h0[:, None, :]
            dropout_masks = None if dropout_masks is None else dropout_masks[:, :, None, :]
        self.x, self.h0, self.dropout_masks = x, h0, dropout_masks
        self.caller = Place(source, source.device_of(x))
        with source.computing(self.caller.device, recorded=True):
            self.valid = None if lengths is None else valid_steps(lengths, T, N, x, source, batched=self.batched)
            if mask is not None:
                if lengths is not None:
                    raise StructureError("mask: expected lengths or mask, got both; a mask says what lengths would")
                self.valid = booleans_beside(mask, "mask", T, N, x, source, batched=self.batched)
            self.resets = (
                None
                if resets is None
                else booleans_beside(resets, called.resets, T, N, x, source, batched=self.batched)
            )
        self.place = place_for(selection(backend), self.caller)
        self.crossing = self.place != self.caller
        if prepared is not None:
            self.prepared = prepared = prepared.at(self.place)
            self.params = prepared.params
            self._assert_dtype_of(prepared)
        if self.crossing and function == "gru" and self.place.backend is not source:
            self._assert_no_gradient([("x", x), *((name_of(index), array) for index, array in enumerate(arrays))])

    def _assert_dtype_of(self, prepared: PreparedParams) -> None:
        weight = prepared.params[0][0].W_hh
        name = prepared.place.backend.dtype_name(weight.dtype)
        if name != self.source.dtype_name(self.x.dtype):
            raise DTypeError(f"params: expected {self.x.dtype}, as x has, got {name}; cast one of them")

    def _assert_no_gradient(self, named: list[tuple[str, Any]]) -> None:
        for name, array in named:
            if self.source.requires_grad(array):
                raise NotDifferentiableError(
                    f"{name}: requires a gradient, which cannot cross from {self.place.backend.name} back to "
                    f"{self.source.name}; use gru_forward and gru_backward, or compute where it is (backend='auto')"
                )

    def context(self) -> Any:
        """Records nothing, unless this is a front door that is to be differentiable."""
        return self.place.backend.computing(self.place.device, recorded=self.function == "gru")

    def watched(self) -> bool:
        """Whether the library's automatic differentiation is watching where this computes."""
        if self.place.backend is not self.source:
            return False
        return self.source.recording([self.x, *self.others, *weights_of(self.params)])

    def differentiable(self, watched: bool, choose: Callable[[], Any] = lambda: None) -> Any:
        """The library's own differentiable stack, if there is something to differentiate and it has one."""
        return self.place.backend.differentiable(choose) if watched and self.function == "gru" else None

    def choose(self, watched: bool) -> Choice:
        """The kernel for this call, the arrays still being where they came from."""
        backend, sizes = self.place.backend, self.sizes
        inside = self.differentiable(watched) is not None  # there the kernels run, and nothing watches
        forward = self.function == "forward" or inside
        call = Call(
            "forward" if forward else "inference",
            backend,
            self.place.device,
            self.source.dtype_name(self.x.dtype),
            self.x.shape[0],
            self.x.shape[1],
            sizes.I,
            sizes.H,
            sizes.L,
            sizes.D,
            self.spec,
            bias=sizes.bias,
            lengths=self.valid is not None,
            resets=self.resets is not None,
            dropout=self.dropout_masks is not None,
            recording=watched and not inside,
            save=(self.save or "all") if forward else None,
        )
        return choose(call, kernel_policy())

    def bring(self) -> tuple[Any, Any, Params, Any, Any, Any]:
        """x, h0, params, valid, resets, dropout_masks where they are computed with."""
        source, place = self.source, self.place

        def moved(array: Any, name: str) -> Any:
            if array is None:
                return None
            array = source.canonical(array)
            return convert(array, source, place, name) if self.crossing else array

        x, h0 = moved(self.x, "x"), moved(self.h0, "h0")
        if self.prepared or (x is self.x and self.alike):
            params = self.params
        else:
            following = iter(names_of(self.params))
            params = map_params(lambda a: moved(a, next(following)), self.params)
        rest = [moved(a, name) for a, name in ((self.valid, "lengths"), (self.resets, "resets"))]
        if h0 is None:
            h0 = _zeros(x, self.sizes, place.backend)
        return x, h0, params, *rest, moved(self.dropout_masks, "dropout_masks")

    def run(self, key: Any = None) -> tuple[Any, Any]:
        """The results; what was found out is remembered under `key`, unless that is None."""
        with self.context():
            watched = self.watched()
            stack, kernel = self.differentiable(watched, lambda: self.choose(watched).kernel), None
            if stack is None:
                kernel = self.choose(watched).kernel
                stack = stack_for(self.place.backend, kernel)
            x, h0, params, valid, resets, masks = self.bring()
            self._remember(key, stack, kernel, x)
            if self.prepared is not None:
                params = self.prepared.packed_for(kernel)
            y, h_n = stack.inference(x, h0, params, spec=self.spec, valid=valid, resets=resets, dropout_masks=masks)
            return self.home(y, h_n)

    def run_forward(self, save: str, key: Any = None) -> tuple[Any, Any, Tape]:
        """As `run`, and the tape."""
        with self.context():
            kernel = self.choose(self.watched()).kernel
            stack = stack_for(self.place.backend, kernel)
            x, h0, params, valid, resets, masks = self.bring()
            self._remember(key, stack, kernel, x)
            y, h_n, layers = stack.forward(
                x, h0, params, spec=self.spec, valid=valid, resets=resets, dropout_masks=masks, save=save
            )
            tape = Tape(
                layers, params, valid, resets, masks, self.spec, self.batched, place=self.place, caller=self.caller
            )
            return *self.home(y, h_n), tape

    def _remember(self, key: Any, stack: Any, kernel: Any, x: Any) -> None:
        """For calls of this kind, if they need nothing but the stack: all arrays are taken as they are."""
        if key is not None and not self.crossing and self.alike and x is self.x:
            _remember(key, _Settled(stack, kernel, self.place, self.sizes))

    def home(self, y: Any, h_n: Any) -> tuple[Any, Any]:
        """The results as the caller's own kind of array."""
        if self.crossing:
            y, h_n = (convert(a, self.place.backend, self.caller, "result") for a in (y, h_n))
        return (y, h_n) if self.batched else (y[:, 0, :], h_n[:, 0, :])


def _zeros(x: Any, sizes: Sizes, backend: Backend) -> Any:
    """The first state (L*D, N, H) of a call with x (T, N, I) that was given none."""
    return backend.zeros((sizes.L * sizes.D, x.shape[1], sizes.H), x)


# ---- the front doors -------------------------------------------------------------------------------------------------


class _Settled(NamedTuple):
    """What was found out about a kind of call."""

    stack: Any
    kernel: Any
    place: Place
    sizes: Sizes


_settled: dict[Any, Any] = {}  # a cache: nothing but what is in the keys decides
MOST_SETTLED = 4096


def _remember(key: Any, found: Any) -> None:
    if len(_settled) >= MOST_SETTLED:
        _settled.clear()
    _settled[key] = found


def _kind(function: Function, save: str | None, x: Any, params: Any, h0: Any, spec: Any) -> Any:
    """All that decides whether a call is right and who computes it; None where that cannot be told from outside."""
    kind = type(x)
    source = owner_of_type(kind)
    if source is None or not source.settles or type(spec) is not GRUSpec:
        return None
    shape, dtype, state = x.shape, x.dtype, None
    if len(shape) != 3:
        return None
    if h0 is not None:
        if type(h0) is not kind or h0.dtype != dtype:
            return None
        state = h0.shape
    if isinstance(params, PreparedParams):
        weights = params.kind
    elif structured(params) is params:
        shapes = [len(params)]
        for layer in params:
            for w in layer:
                for a in w:
                    if a is not None:
                        if type(a) is not kind or (a.dtype is not dtype and a.dtype != dtype):
                            return None
                        shapes.append(a.shape)
        weights = tuple(shapes)
    else:
        return None
    return function, save, spec.text, kind, dtype, shape, state, weights, variables()


def _at_once(function: Function, x: Any, params: Any, h0: Any, spec: Any) -> tuple[Any, Any] | None:
    """By the short way of x's library, if it has one for such a call and the parameters are its own."""
    source = owner_of_type(type(x))
    if source is None:
        return None
    there = isinstance(params, PreparedParams) and params.place.backend is source
    return source.at_once(function, x, params.params if there else params, h0, spec)


def quick(x: Any, h0: Any) -> bool:
    """Whether these are arrays of one library, one that has been met before and has a short way for small calls."""
    kind = type(x)
    source = owner_of_type(kind)
    return source is not None and source.quick and (h0 is None or type(h0) is kind)


def infer(
    function: Function,
    x: Any,
    params: Any,
    h0: Any,
    lengths: Any,
    mask: Any,
    resets: Any,
    spec: GRUSpec,
    dropout_masks: Any,
    backend: str | Backend | None,
    called: Names = Names(),  # noqa: B008
    request: Callable[[], Request] | None = None,
) -> tuple[Any, Any]:
    """`gru` and `gru_inference`; `called` is what errors call its arguments.

    `request` makes the request, if the call is not like one that was right before and needs other checks than these.
    """
    key = found = results = None
    if lengths is None and mask is None and resets is None and dropout_masks is None and backend is None:
        key = _kind(function, None, x, params, h0, spec)
        found = None if key is None else _settled.get(key)  # torch.compile would look at all that is in it
        if found is None:
            results = _at_once(function, x, params, h0, spec)
    if results is not None:
        return results
    if found is None:
        if request is not None:
            return request().run(key)
        options: dict[str, Any] = {"mask": mask, "called": called}
        return Request(function, x, params, h0, lengths, resets, spec, dropout_masks, backend, **options).run(key)
    stack, kernel, place, sizes = found
    if h0 is None:
        h0 = _zeros(x, sizes, place.backend)
    if isinstance(params, PreparedParams):
        params = params.packed_for(kernel)
    result: tuple[Any, Any] = stack.inference(x, h0, params, spec=spec, valid=None, resets=None, dropout_masks=None)
    return result


def forward(
    x: Any,
    params: Any,
    h0: Any,
    lengths: Any,
    mask: Any,
    resets: Any,
    spec: GRUSpec,
    dropout_masks: Any,
    backend: str | Backend | None,
    save: str,
    request: Callable[[], Request] | None = None,
) -> tuple[Any, Any, Tape]:
    """`gru_forward`; `request` as in `infer`."""
    key = None
    if lengths is None and mask is None and resets is None and dropout_masks is None and backend is None:
        key = _kind("forward", save, x, params, h0, spec)
    found = None if key is None else _settled.get(key)
    if found is None:
        if request is not None:
            return request().run_forward(save, key)
        call = Request("forward", x, params, h0, lengths, resets, spec, dropout_masks, backend, save, mask=mask)
        return call.run_forward(save, key)
    stack, _, place, sizes = found
    if h0 is None:
        h0 = _zeros(x, sizes, place.backend)
    if isinstance(params, PreparedParams):
        params = params.params
    y, h_n, layers = stack.forward(x, h0, params, spec=spec, valid=None, resets=None, dropout_masks=None, save=save)
    return y, h_n, Tape(layers, params, None, None, None, spec, True, place, place)


def _kind_of_backward(tape: Tape, dy: Any, dh_n: Any) -> Any:
    """As `_kind`."""
    place = tape.place
    if place is not tape.caller or not place.backend.settles or not tape.batched:
        return None
    layers = tape.layers
    first = layers[0][0]
    x = first.x
    shapes: list[Any] = []
    kind, dtype = type(x), x.dtype
    for a in (dy, dh_n):
        if a is None:
            shapes.append(None)
        elif type(a) is kind and a.dtype == dtype:
            shapes.append(a.shape)
        else:
            return None
    sizes = x.shape, first.h_prev.shape, len(layers), len(layers[0])
    given = first.w.b_ih is None, first.r is None, tape.valid is None, tape.resets is None, tape.dropout_masks is None
    return "backward", place, tape.spec.text, kind, dtype, sizes, given, *shapes, variables()


def backward(tape: Any, dy: Any, dh_n: Any) -> GRUGrads:
    """`gru_backward`: where the tape lies, and back to the forward caller's kind of array."""
    key = _kind_of_backward(tape, dy, dh_n) if type(tape) is Tape else None
    stack = None if key is None else _settled.get(key)
    if stack is not None:
        settled: GRUGrads = stack.backward(tape.layers, dy, dh_n, dropout_masks=tape.dropout_masks)
        return settled
    if not isinstance(tape, Tape):
        raise StructureError(f"tape: expected what gru_forward returned last, got a {type(tape).__name__}")
    if dy is None and dh_n is None:
        raise StructureError("dy: expected dy or dh_n or both, got neither")
    first = tape.layers[0][0]
    T, N, H = first.h_prev.shape
    place, caller = tape.place, tape.caller
    compute = place.backend
    dtype = compute.dtype_name(first.x.dtype)
    if dtype not in compute.float_names():
        raise DTypeError(
            f"tape: was made with {dtype}, which {compute.name} does not have any more; switch it on again"
        )
    L, D = len(tape.layers), len(tape.layers[0])
    why = "as gru_forward returned it"
    for name, array, letters, shape in (
        ("dy", dy, "(T, N, D*H)" if tape.batched else "(T, D*H)", (T, N, D * H) if tape.batched else (T, D * H)),
        ("dh_n", dh_n, "(L*D, N, H)" if tape.batched else "(L*D, H)", (L * D, N, H) if tape.batched else (L * D, H)),
    ):
        if array is not None:
            assert_shape(array, name, letters, shape, why)
            assert_same_library(array, name, caller.backend, "the input of gru_forward")
            _assert_like_input(array, name, first.x, caller, compute)
    with compute.computing(place.device, recorded=False):
        dy, dh_n = (
            a if a is None else _bring(a, name, caller, place, batched=tape.batched)
            for name, a in (("dy", dy), ("dh_n", dh_n))
        )
        given = [a for a in (dy, dh_n) if a is not None]
        call = Call(
            "backward",
            compute,
            place.device,
            compute.dtype_name(first.x.dtype),
            T,
            N,
            first.x.shape[2],
            H,
            L,
            D,
            tape.spec,
            bias=first.w.b_ih is not None,
            lengths=tape.valid is not None,
            resets=tape.resets is not None,
            dropout=tape.dropout_masks is not None,
            recording=compute.recording([first.x, first.h_prev, *weights_of(tape.params), *given]),
            save="states" if first.r is None else "all",
        )
        stack = stack_for(compute, choose(call, kernel_policy()).kernel)
        if key is not None:
            _remember(key, stack)
        grads = stack.backward(tape.layers, dy, dh_n, dropout_masks=tape.dropout_masks)

    def home(array: Any) -> Any:
        return array if caller == place or array is None else convert(array, compute, caller, "gradients")

    dx, dh0 = home(grads.x), home(grads.h0)
    if not tape.batched:
        dx, dh0 = dx[:, 0, :], dh0[:, 0, :]
    if caller == place:
        return GRUGrads(dx, dh0, grads.params)
    return GRUGrads(dx, dh0, tuple(tuple(CellParams(*map(home, dw)) for dw in layer) for layer in grads.params))


def place_of(params: Params) -> Place:
    """Where parameters are that belong to one library, have one dtype and lie on one device."""
    arrays = weights_of(params)
    source = owner(arrays[0], names_of(params)[0])
    check_agree(names_of(params)[0], arrays[0], arrays, lambda index: names_of(params)[index], source)
    return Place(source, source.device_of(arrays[0]))


def owned_at(place: Place, params: Params, caller: Place) -> Params:
    """Copies of the parameters at another place, or at their own."""

    def copied(array: Any) -> Any:
        array = caller.backend.canonical(array)
        if place != caller:
            array = convert(array, caller.backend, place, "params")
        return place.backend.owned(array)

    with place.backend.computing(place.device, recorded=False):
        return map_params(copied, params)


def _bring(array: Any, name: str, caller: Place, place: Place, *, batched: bool) -> Any:
    if not batched:
        array = array[:, None, :]
    array = caller.backend.canonical(array)
    return array if caller == place else convert(array, caller.backend, place, name)


def _assert_like_input(array: Any, name: str, x: Any, caller: Place, compute: Backend) -> None:
    """A gradient has the dtype and the device of the forward caller's arrays."""
    wanted, got = compute.dtype_name(x.dtype), caller.backend.dtype_name(array.dtype)
    if wanted != got:
        raise DTypeError(f"{name}: expected {wanted}, as the input of gru_forward has, got {got}; cast it first")
    device = caller.backend.device_of(array)
    if device != caller.device and not (caller.backend is compute and compute.beside(x, array)):
        raise MixedArraysError(
            f"{name}: expected on {caller}, where the input of gru_forward was, "
            f"got on {caller.backend.name}:{caller.backend.device_name(device)}; move it"
        )
