"""Dask: calls stay lazy, one block for each chunk of the batch, computed by the backend of the chunks.

Nothing is computed where the graph is built, and nothing is loaded there. `blocks.py` has the graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask.array as da
from array_api_compat.dask import array as xp

from gru_xp.backend import Backend, Purpose
from gru_xp.errors import BackendError
from gru_xp.selection import selection

from . import blocks

__all__ = ["DaskBackend"]


class DaskBackend(Backend):
    """Dask arrays, of NumPy's or another library's chunks."""

    name = "dask"
    xp = xp
    takes_whole_calls = True

    def owns(self, array: Any) -> bool:
        return isinstance(array, da.Array)

    def devices(self) -> Mapping[str, Any]:
        return {"cpu": "cpu"}

    def device_of(self, array: Any) -> Any:
        return "cpu"

    def device_beside(self, array: Any) -> Any:
        return None

    def beside(self, first: Any, second: Any) -> bool:
        return True

    def to_device(self, array: Any, device: Any) -> Any:
        return array

    def refuses_crossing(self, array: Any, purpose: Purpose) -> str | None:
        return None if purpose == "copy" else "is lazy: .compute() makes an array of it, all in memory"

    def exportable(self, array: Any, *, to_host: bool) -> Any:
        return array.compute()

    def from_dlpack(self, array: Any, device: Any) -> Any:
        return da.from_array(array, chunks=-1)

    def from_host(self, values: Any, dtype: Any, device: Any) -> Any:
        return xp.asarray(values, dtype=dtype)

    def owned(self, array: Any) -> Any:
        return array

    def handed_out(self, array: Any) -> Any:
        return array

    def whole_call(self, function: str, arguments: Any, **options: Any) -> Any:
        if function == "backward":
            return blocks.backward(*arguments)
        spec, backend, save = options["spec"], options["backend"], options["save"]
        chosen = selection(backend)  # here, since a task may run after a `use_backend` has ended, or on another machine
        if isinstance(chosen, Backend):
            raise BackendError("backend: expected a name, which workers can read, got an object")
        where = None if chosen is None or chosen.name == "dask" else ":".join(filter(None, chosen))
        return blocks.forward(self, function, arguments, spec, where, save)

    def wait(self, array: Any) -> None:
        array.compute()
