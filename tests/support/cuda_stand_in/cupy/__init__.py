"""In CuPy's place, where no GPU is: its names, devices and streams over NumPy's arrays in host memory.

What CuPy forbids, or does wrong without a word, is an error here: values can be read by `asnumpy` alone, nothing
becomes a NumPy array by itself, and an array is computed with while its own device is the current one.
"""

import numpy as _np
from numpy import *  # noqa: F403

from . import cuda

__version__ = "a stand-in"


class ndarray:  # noqa: N801
    """An array of a device: the one that is current when it is made."""

    def __init__(self, array, device=None):
        self._array, self.device = array, cuda.Device(device)

    shape = property(lambda self: self._array.shape)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    dtype = property(lambda self: self._array.dtype)
    T = property(lambda self: ndarray(self._array.T, self.device))
    data = property(lambda self: cuda.Pointer(self._array.ctypes.data, self.device.id))

    def __getitem__(self, key):
        """A view, which is made without the device."""
        return ndarray(self._array[_down(key)], self.device)

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def astype(self, dtype, copy=True):
        return _up(_down(self).astype(dtype, copy=copy))

    def copy(self):
        return _up(_down(self).copy())

    def __bool__(self):
        raise AssertionError("a value was read, for which the host waits")

    __int__ = __float__ = __complex__ = __index__ = __array__ = item = tolist = get = __bool__
    __hash__ = None

    def __dlpack_device__(self):
        return 2, self.device.id

    def __dlpack__(self, *, stream=None, **options):
        cuda.CALLS.append(("exported", self.device.id, cuda.get_current_stream().ptr, stream))
        return self._array.__dlpack__()


def _down(a):
    """NumPy's arrays in the place of ours, which have to be on the current device."""
    if isinstance(a, ndarray):
        assert a.device == cuda.Device(), f"an array of device {a.device.id} while {cuda.Device().id} is current"
        return a._array
    if isinstance(a, tuple | list):
        return type(a)(map(_down, a))
    assert not isinstance(a, _np.ndarray), "an array of NumPy's among those of the device"
    return a


def _up(a):
    if isinstance(a, tuple | list):
        return type(a)(map(_up, a))
    return ndarray(_np.asarray(a)) if isinstance(a, _np.ndarray | _np.generic) else a


def _on_device(function):
    def called(*args, **options):
        return _up(function(*_down(args), **{name: _down(value) for name, value in options.items()}))

    return called


for _name, _thing in list(vars(_np).items()):
    if callable(_thing) and not isinstance(_thing, type) and not _name.startswith("_"):
        globals()[_name] = _on_device(_thing)
_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "pow", "matmul", "and", "or", "xor")
for _name in (*_BINARY, "eq", "ne", "lt", "le", "gt", "ge"):
    for _each in (f"__{_name}__", f"__r{_name}__"):
        if hasattr(_np.ndarray, _each):
            setattr(ndarray, _each, _on_device(getattr(_np.ndarray, _each)))
for _name in ("__neg__", "__invert__", "__abs__"):
    setattr(ndarray, _name, _on_device(getattr(_np.ndarray, _name)))


def empty(shape, dtype=float):
    """Aligned to 16 bytes and full of what would be seen if it were read: NaN."""
    size = int(_np.prod(shape)) * _np.dtype(dtype).itemsize
    raw = _np.full(size + 16, 255, _np.uint8)
    start = -raw.ctypes.data % 16
    return ndarray(raw[start : start + size].view(dtype).reshape(shape))


def array(obj, dtype=None, copy=True, order="K", blocking=False):
    """Of any device's array, host memory or a list: a copy on the current device."""
    cuda.CALLS.append(("array", cuda.Device().id, blocking))
    return ndarray(_np.array(obj._array if isinstance(obj, ndarray) else obj, dtype=dtype, order=order))


def asarray(obj, dtype=None):
    return obj if isinstance(obj, ndarray) and dtype in (None, obj.dtype) else array(obj, dtype)


def reshape(a, shape):
    """Of a compact array a view, which is made without the device."""
    return ndarray(a._array.reshape(shape), a.device) if a._array.flags.c_contiguous else _up(_down(a).reshape(shape))


def ascontiguousarray(a):
    return a if a._array.flags.c_contiguous else _up(_np.ascontiguousarray(_down(a)))


def asnumpy(a, order="C"):
    return _np.array(_down(a), order=order)


def from_dlpack(a):
    kind, device = a.__dlpack_device__()
    assert kind == 2, "CuPy takes no host memory by DLPack"
    with cuda.Device(device):
        return ndarray(_np.from_dlpack(_Capsule(a.__dlpack__(stream=cuda.get_current_stream().ptr or 1))))


class _Capsule:
    """What NumPy takes for host memory."""

    def __init__(self, capsule):
        self.capsule = capsule

    def __dlpack__(self, **options):
        return self.capsule

    def __dlpack_device__(self):
        return 1, 0
