"""array-api-strict: the backend for the referee, which has what the standard has and nothing else."""

from __future__ import annotations

from typing import Any

import array_api_strict

from gru_xp.backend import Backend

__all__ = ["StrictBackend"]


class StrictBackend(Backend):
    """array-api-strict arrays on its make-believe devices."""

    name = "array_api_strict"
    xp = array_api_strict

    def device_name(self, device: Any) -> str:
        name = str(device).removeprefix("array_api_strict.Device('").removesuffix("')")
        return "cpu" if name == "CPU_DEVICE" else name

    def exportable(self, array: Any, *, to_host: bool) -> Any:
        return self.to_device(array, self.device("cpu"))
