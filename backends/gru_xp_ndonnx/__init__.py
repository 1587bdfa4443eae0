"""ndonnx: calls become nodes of an ONNX graph, one GRU node for each layer, for any T and N. `nodes.py` makes them.

An ndonnx array is an input of a graph, or computed of one, or a constant; only a constant has values.
"""

from __future__ import annotations

from typing import Any

import ndonnx
import numpy as np

import gru_xp
from gru_xp.arguments import Arguments
from gru_xp.backend import Backend, Purpose
from gru_xp.errors import NotDifferentiableError
from gru_xp.params import map_params
from gru_xp.prepared import PreparedParams
from gru_xp.selection import Selection, selection

from . import nodes
from .nodes import values

__all__ = ["NdonnxBackend"]


class NdonnxBackend(Backend):
    """ndonnx's arrays, for inference."""

    name = "ndonnx"
    xp = ndonnx
    takes_whole_calls = True

    def owns(self, array: Any) -> bool:
        return isinstance(array, ndonnx.Array)

    def device_of(self, array: Any) -> Any:
        return "cpu"

    def device_beside(self, array: Any) -> Any:
        return None

    def to_device(self, array: Any, device: Any) -> Any:
        return array

    def refuses_crossing(self, array: Any, purpose: Purpose) -> str | None:
        return None if values(array) is not None else "is traced (its values are known where the model runs)"

    def exportable(self, array: Any, *, to_host: bool) -> Any:
        return array.unwrap_numpy()

    def from_dlpack(self, array: Any, device: Any) -> Any:
        return ndonnx.asarray(np.from_dlpack(array))

    def from_host(self, values: Any, dtype: Any, device: Any) -> Any:
        return ndonnx.asarray(np.asarray(values) if dtype is None else values, dtype=dtype)

    def whole_call(self, function: str, arguments: Any, **options: Any) -> Any:
        if function in ("forward", "backward"):
            raise NotDifferentiableError(
                f"gru_{function}: ndonnx makes ONNX models, which have no gradients; train with the arrays of "
                f"another library, then call gru_inference(x, gru_xp.to(params, like=x))"
            )
        chosen = selection(options["backend"])
        name = chosen.name if isinstance(chosen, Selection | Backend) else self.name
        if name != self.name:
            return self._elsewhere(arguments, options["spec"], options["backend"], name)
        return nodes.call(self, arguments, options["spec"])

    def _elsewhere(self, a: Arguments, spec: Any, backend: Any, name: str) -> tuple[Any, ...]:
        """Constants as NumPy's arrays, computed with where somebody asked for, and constants again."""

        def host(array: Any) -> Any:
            if not isinstance(array, ndonnx.Array):
                return array
            if values(array) is None:
                raise NotDifferentiableError(
                    f"x: is traced, so it cannot be taken from ndonnx to {name} and back; compute where it is "
                    f"(backend='auto')"
                )
            return array.unwrap_numpy()

        params = a.params if isinstance(a.params, PreparedParams) else map_params(host, a.params)
        given = Arguments(host(a.x), params, *map(host, a[2:]))
        named = given._asdict()
        results = gru_xp.gru_inference(named.pop("x"), named.pop("params"), **named, spec=spec, backend=backend)
        return tuple(map(ndonnx.asarray, results))
