"""Devices and streams that write down what is asked of them."""

from types import SimpleNamespace
from typing import NamedTuple

#: what was asked, in order
CALLS = []
_current = [0]  # the current device, and those before it
_streams = {}  # the current stream of each device


class Device:
    """One of two devices."""

    def __init__(self, device=None):
        self.id = _current[-1] if device is None else device.id if isinstance(device, Device) else device

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self):
        return self.id

    def __enter__(self):
        _current.append(self.id)
        return self

    def __exit__(self, *error):
        _current.pop()

    def synchronize(self):
        CALLS.append(("synchronize", self.id))


class Pointer(NamedTuple):
    """Where an array lies."""

    ptr: int
    device_id: int


class Stream:
    """A stream of the current device."""

    def __init__(self, ptr):
        self.ptr, self.device = ptr, Device()

    def use(self):
        _streams[self.device.id] = self

    def record(self):
        CALLS.append(("record", self.ptr))
        return f"event of {self.ptr}"

    def wait_event(self, event):
        CALLS.append(("wait", self.ptr, event))


def get_current_stream(device_id=-1):
    device_id = _current[-1] if device_id == -1 else device_id
    if device_id not in _streams:
        with Device(device_id):
            _streams[device_id] = Stream(0)
    return _streams[device_id]


class CUDARuntimeError(RuntimeError):
    """CuPy's error where there is no device."""


runtime = SimpleNamespace(
    getDeviceCount=lambda: 2,
    CUDARuntimeError=CUDARuntimeError,
    is_hip=False,
    runtimeGetVersion=lambda: 13000,
    driverGetVersion=lambda: 13000,
)
