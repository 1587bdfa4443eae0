"""MLX: its arrays, lazy, compiled and differentiated as MLX does it; the loop over time is Python's."""

from collections.abc import Callable
from io import StringIO
from types import SimpleNamespace
from typing import Any

import mlx.core as mx

from gru_xp.backend import Backend, Purpose

__all__ = ["MlxBackend"]

FUNCTIONS = """abs add arange asarray astype concat exp expm1 finfo from_dlpack full_like isfinite log1p max multiply
    ones_like permute_dims reshape round stack sum tanh tensordot unstack where zeros zeros_like"""


def without_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """MLX has streams where the standard has devices: its arrays lie in memory that all of them share."""
    return lambda *args, device=None, **options: function(*args, **options)


class MlxBackend(Backend):
    """MLX's arrays. float64 is left out: MLX has it on the CPU alone, not on Apple's GPU."""

    name = "mlx"
    xp = SimpleNamespace(
        **{function: without_device(getattr(mx, function)) for function in FUNCTIONS.split()},
        bool=mx.bool_,
        int32=mx.int32,
        float16=mx.float16,
        bfloat16=mx.bfloat16,
        float32=mx.float32,
    )

    def device_of(self, array: Any) -> Any:
        return "cpu"

    def exportable(self, array: Any, *, to_host: bool) -> Any:
        return mx.contiguous(array)  # others do not take its negative strides

    def refuses_crossing(self, array: Any, purpose: Purpose) -> str | None:
        made = mx.sum(array)
        try:
            mx.eval(made)
        except ValueError:
            return "is traced (by mx.compile or mx.vmap)"
        graph = StringIO()
        mx.export_to_dot(graph, made)  # what has values keeps no graph, unless it is differentiated
        watched = purpose == "differentiate" and "label" in graph.getvalue()
        return "is differentiated (by mx.grad, say)" if watched else None

    def wait(self, array: Any) -> None:
        mx.eval(array)
