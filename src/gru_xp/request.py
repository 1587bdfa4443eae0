"""What happens to a call between the front door and the mathematics, and on the way back.

The arguments are checked, the place and the kernel chosen, the arrays brought there; the results go back to the
caller's own kind of array.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

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
from .dispatch import Place, assert_same_library, convert, kernel_policy, owner, place_for, selection
from .errors import DTypeError, MixedArraysError, NotDifferentiableError, ShapeError, StructureError
from .kernels import Call, Choice, choose, stack_for
from .params import CellParams, GRUGrads, GRUSpec, Params, Tape, map_params, names_of, weights_of

__all__ = ["Function", "PreparedParams", "Request", "backward", "owned_at", "place_of"]

Function: TypeAlias = Literal["gru", "inference", "forward"]


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
        state_name: str = "h0",
        mask: Any = None,
    ):
        if type(spec) is not GRUSpec:
            raise StructureError(f"spec: expected a GRUSpec, got {spec!r}")
        self.function, self.spec, self.save = function, spec, save
        self.source = source = owner(x, "x")
        if x.ndim not in (2, 3):
            raise ShapeError(f"x: expected (T, N, I), or (T, I) without a batch, got {tuple(x.shape)}")
        self.batched = x.ndim == 3
        self.prepared = params if isinstance(params, PreparedParams) else None
        self.params = self.prepared.params if self.prepared else structured(params)
        self.sizes = sizes = self.prepared.sizes if self.prepared else sizes_of(self.params)
        assert_directions(spec, sizes)
        T, N = x.shape[0], x.shape[1] if self.batched else 1
        if x.shape[-1] != sizes.I:
            letters, wanted = "(T, N, I)" if self.batched else "(T, I)", (*x.shape[:-1], sizes.I)
            raise ShapeError(f"x: expected {letters} = {wanted}, got {tuple(x.shape)}; I = {sizes.I} comes from W_ih")

        names, others = [], []
        if h0 is not None:
            rows = sizes.L * sizes.D
            letters, shape = ("(L*D, N, H)", (rows, N, sizes.H)) if self.batched else ("(L*D, H)", (rows, sizes.H))
            assert_shape(h0, state_name, letters, shape, "L, D and H come from params and N from x")
            names.append(state_name)
            others.append(h0)
        if dropout_masks is not None:
            letters = "(L-1, T, N, D*H)" if self.batched else "(L-1, T, D*H)"
            wanted = (sizes.L - 1, *x.shape[:-1], sizes.D * sizes.H)
            assert_shape(dropout_masks, "dropout_masks", letters, wanted, "L, D and H come from params, T and N from x")
            names.append("dropout_masks")
            others.append(dropout_masks)
        self.others = others
        arrays = others if self.prepared else others + weights_of(self.params)

        def name_of(index: int) -> str:
            return [*names, *names_of(self.params, cell=cell)][index]

        self.alike = check_agree("x", x, arrays, name_of, source)
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
                None if resets is None else booleans_beside(resets, "resets", T, N, x, source, batched=self.batched)
            )
        self.place = place_for(selection(backend), self.caller)
        self.crossing = self.place != self.caller
        if self.prepared is not None:
            self._assert_prepared_fits(self.prepared)
        if self.crossing and function == "gru" and self.place.backend is not source:
            self._assert_no_gradient([("x", x), *((name_of(index), array) for index, array in enumerate(arrays))])

    def _assert_prepared_fits(self, prepared: PreparedParams) -> None:
        if prepared.place != self.place:
            raise StructureError(
                f"params: expected parameters prepared for {self.place}, got some prepared for {prepared.place}; "
                f"call prepare(params, backend=...) for where you compute"
            )
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

    def differentiable(self, watched: bool) -> Any:
        """The library's own differentiable stack, if there is something to differentiate and it has one."""
        return self.place.backend.differentiable() if watched and self.function == "gru" else None

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
            shape = (self.sizes.L * self.sizes.D, x.shape[1], self.sizes.H)
            h0 = place.backend.xp.zeros(shape, dtype=x.dtype, device=place.backend.device_beside(x))
        return x, h0, params, *rest, moved(self.dropout_masks, "dropout_masks")

    def run(self) -> tuple[Any, Any]:
        with self.context():
            watched = self.watched()
            stack, kernel = self.differentiable(watched), None
            if stack is None:
                kernel = self.choose(watched).kernel
                stack = stack_for(self.place.backend, kernel)
            x, h0, params, valid, resets, masks = self.bring()
            if self.prepared is not None and kernel is not None:
                params = self.prepared.packed_for(kernel)
            y, h_n = stack.inference(x, h0, params, spec=self.spec, valid=valid, resets=resets, dropout_masks=masks)
            return self.home(y, h_n)

    def run_forward(self, save: str) -> tuple[Any, Any, Tape]:
        with self.context():
            stack = stack_for(self.place.backend, self.choose(self.watched()).kernel)
            x, h0, params, valid, resets, masks = self.bring()
            y, h_n, layers = stack.forward(
                x, h0, params, spec=self.spec, valid=valid, resets=resets, dropout_masks=masks, save=save
            )
            tape = Tape(
                layers, params, valid, resets, masks, self.spec, self.batched, place=self.place, caller=self.caller
            )
            return *self.home(y, h_n), tape

    def home(self, y: Any, h_n: Any) -> tuple[Any, Any]:
        """The results as the caller's own kind of array."""
        if self.crossing:
            y, h_n = (convert(a, self.place.backend, self.caller, "result") for a in (y, h_n))
        return (y, h_n) if self.batched else (y[:, 0, :], h_n[:, 0, :])


def backward(tape: Any, dy: Any, dh_n: Any) -> GRUGrads:
    """`gru_backward`: where the tape lies, and back to the forward caller's kind of array."""
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
