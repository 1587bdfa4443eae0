"""What is judged: the functions of the library, by its public doors or put together around one kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import gru_xp
from gru_xp.checks import sizes_of
from gru_xp.discovery import Place
from gru_xp.interfaces import Call, Kernel, Options, Save
from gru_xp.kernels import refusal
from gru_xp.params import CellGrads, CellParams, GRUGrads, GRUSpec, Tape, names_of, weights_of

__all__ = ["Arguments", "Assembled", "Library", "RefusedError", "public"]


class RefusedError(Exception):
    """The kernel declined, with a reason: the case does not run."""


@dataclass(frozen=True, eq=False)
class Arguments:
    """The arrays of a problem as some library's own."""

    x: Any
    params: Any
    h0: Any
    lengths: Any
    mask: Any
    resets: Any
    dropout_masks: Any
    dy: Any
    dh_n: Any

    @classmethod
    def of(cls, problem: Any, convert: Callable[[Any], Any]) -> Arguments:
        """The arrays of a problem, each through `convert`; the lengths stay NumPy's."""

        def converted(a: Any) -> Any:
            return None if a is None else convert(a)

        return cls(
            converted(problem.x),
            tuple(tuple(CellParams(*map(converted, w)) for w in layer) for layer in problem.params),
            converted(problem.h0),
            problem.lengths,
            converted(problem.mask),
            converted(problem.resets),
            converted(problem.dropout_masks),
            converted(problem.dy),
            converted(problem.dh_n),
        )

    @property
    def positional(self) -> tuple[Any, Any, Any]:
        return self.x, self.params, self.h0

    def named(self) -> Iterator[tuple[str, Any]]:
        """All arrays of the library that are given, with their names."""
        for name in ("x", "h0", "mask", "resets", "dropout_masks", "dy", "dh_n"):
            if getattr(self, name) is not None:
                yield name, getattr(self, name)
        yield from zip(names_of(self.params), weights_of(self.params), strict=True)

    def options(self, spec: GRUSpec) -> dict[str, Any]:
        return {
            "lengths": self.lengths,
            "mask": self.mask,
            "resets": self.resets,
            "dropout_masks": self.dropout_masks,
            "spec": spec,
        }


class Library:
    """The functions of gru_xp under the names of gru_xp; a subclass may do some of them differently, or wrongly."""

    gru = staticmethod(gru_xp.gru)
    gru_inference = staticmethod(gru_xp.gru_inference)
    gru_forward = staticmethod(gru_xp.gru_forward)
    gru_backward = staticmethod(gru_xp.gru_backward)
    gru_cell = staticmethod(gru_xp.gru_cell)
    gru_cell_inference = staticmethod(gru_xp.gru_cell_inference)
    gru_cell_forward = staticmethod(gru_xp.gru_cell_forward)
    gru_cell_backward = staticmethod(gru_xp.gru_cell_backward)
    prepare = staticmethod(gru_xp.prepare)
    GRU = gru_xp.GRU


public = Library()


class Assembled(Library):
    """The stack around one kernel, or the plain one for None, without the front doors: no other kernel can step in.

    Takes what the cases pass: `lengths` as NumPy's, everything else as the backend's own.
    """

    def __init__(self, place: Place, kernel: Kernel | None):
        self.place, self.kernel = place, kernel

    def gru(self, x: Any, params: Any, h0: Any = None, **options: Any) -> Any:
        return self.gru_inference(x, params, h0, **options)

    def gru_inference(self, x: Any, params: Any, h0: Any = None, **options: Any) -> Any:
        with self._computing():
            return self._stack().inference(*self._opened("inference", x, params, h0, **options))

    def gru_forward(self, x: Any, params: Any, h0: Any = None, *, save: Save = "all", **options: Any) -> Any:
        inputs = self._opened("forward", x, params, h0, save=save, **options)
        with self._computing():
            y, h_n, layers = self._stack().forward(*inputs)
        spec, valid, resets, *_ = inputs[3]
        return y, h_n, Tape(layers, params, valid, resets, inputs[4], spec, True, self.place, self.place)

    def gru_backward(self, tape: Any, dy: Any = None, dh_n: Any = None) -> Any:
        save: Save = "states" if tape.layers[0][0].r is None else "all"
        options = Options(tape.spec, tape.valid, tape.resets, save=save)
        self._ask("backward", tape.layers[0][0].x, tape.params, options, tape.dropout_masks)
        with self._computing():
            return GRUGrads(*self._stack().backward(tape.layers, dy, dh_n, tape.dropout_masks))

    def gru_cell(self, x: Any, h: Any, params: Any, **options: Any) -> Any:
        return self.gru_cell_inference(x, h, params, **options)

    def gru_cell_inference(self, x: Any, h: Any, params: Any, **options: Any) -> Any:
        return self.gru_inference(x[None, ...], ((params,),), h[None, ...], **options)[1][0, ...]

    def gru_cell_forward(self, x: Any, h: Any, params: Any, **options: Any) -> Any:
        _, h_n, tape = self.gru_forward(x[None, ...], ((params,),), h[None, ...], **options)
        return h_n[0, ...], tape

    def gru_cell_backward(self, tape: Any, dh1: Any) -> Any:
        grads = self.gru_backward(tape, None, dh1[None, ...])
        return CellGrads(grads.x[0, ...], grads.h0[0, ...], grads.params[0][0])

    def _stack(self) -> Any:
        return self.place.backend.stack(self.kernel)

    def _computing(self) -> Any:
        return self.place.backend.computing(self.place.device, recorded=False)

    def _opened(
        self,
        function: Any,
        x: Any,
        params: Any,
        h0: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        dropout_masks: Any = None,
        spec: GRUSpec = GRUSpec(),  # noqa: B008 - frozen
        save: Save | None = None,
    ) -> tuple[Any, Any, Any, Options, Any]:
        """The arguments of a stack's `inference` and `forward`."""
        backend, device = self.place
        T, N, _ = x.shape
        valid = mask
        if lengths is not None:
            steps = (np.arange(T)[:, None] < lengths).tolist()
            valid = backend.xp.reshape(backend.from_host(steps, backend.xp.bool, device), (T, N))
        if h0 is None:
            rows = len(params) * len(params[0])
            h0 = backend.xp.zeros((rows, N, params[0][0].W_hh.shape[1]), dtype=x.dtype, device=device)
        options = Options(spec, valid, resets, spec.reverse, save)
        self._ask(function, x, params, options, dropout_masks)
        return x, h0, params, options, dropout_masks

    def _ask(self, function: Any, x: Any, params: Any, options: Options, masks: Any) -> None:
        """Let the kernel decline, as the library does, before any work."""
        if self.kernel is None:
            return
        backend, device = self.place
        dtype, sizes = backend.dtype_name(x.dtype), sizes_of(params)
        call = Call.of(function, backend, device, dtype, x.shape, sizes, options, dropout=masks is not None)
        reason = refusal(self.kernel, call)
        if reason is not None:
            raise RefusedError(reason)
