"""NVIDIA's compiler and driver, through cuda-bindings: a source becomes code of a device, and is launched there."""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from typing import Any

from gru_xp import cache as disk

from .gates import Launch
from .source import OPTIONS, source

__all__ = ["Device", "compiled", "device", "image", "unavailable"]

MOST_ARGUMENTS = 16
#: the stream that libraries call 0; cuda-bindings may take 0 for the thread's own, if a variable of its says so
LEGACY_STREAM = 1
_lock = threading.Lock()
_here = threading.local()


@cache
def unavailable(index: int) -> str | None:
    """Why nothing can be compiled for the device of that index and loaded there, or None."""
    return no_compiler() or device(index).refuses()


@cache
def no_compiler() -> str | None:
    """Why there is no compiler here, or None."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        return f"cuda-bindings is missing ({error}); install it: python -m pip install 'gru-xp[cuda]'"
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as error:  # the library itself is not found
        what = str(error).splitlines()[0]
        return f"NVRTC is missing ({what}); install it: python -m pip install 'cuda-bindings[all]'"
    return None


def compiled(text: str, architecture: str, options: tuple[str, ...] = OPTIONS) -> tuple[bytes, str]:
    """CUDA C++ -> code for one architecture and what the compiler said.

    "sm_90" gives a cubin, "compute_90" gives PTX.
    """
    from cuda.bindings import nvrtc

    program = _checked(nvrtc.nvrtcCreateProgram(text.encode(), b"gates.cu", 0, [], []))
    try:
        words = [word.encode() for word in (f"--gpu-architecture={architecture}", *options)]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(words), words)
        log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode().strip("\0\n ")
        if status:
            raise RuntimeError(f"NVRTC could not compile gates.cu for {architecture}: {status.name}\n{log}")
        if architecture.startswith("sm_"):
            return _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), log
        return _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program), log
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def image(dtype: str, architecture: str) -> bytes:
    """The kernels of one dtype, as `compiled`: from disk, or made now and kept there."""
    from cuda.bindings import nvrtc

    text = source(dtype)
    version = _checked(nvrtc.nvrtcVersion())
    path = disk.place("cuda", f"gates-{dtype}-{architecture}", ".bin", [text, OPTIONS, architecture, version])
    found = disk.read(path)
    if found is None:
        found, _ = compiled(text, architecture)
        disk.write(path, found)
    return found


def _text(size: Any, get: Any, program: Any) -> bytes:
    buffer = bytearray(_checked(size(program)))
    _checked(get(program, buffer))  # writes into the buffer
    return bytes(buffer)


def architecture_for(capability: int, supported: list[int]) -> str:
    """What to compile for a device of that compute capability: for itself, or for the newest that NVRTC knows.

    In the latter case the driver turns the PTX into the device's code. There is no code for devices older than all.
    """
    if capability in supported:
        return f"sm_{capability}"
    return f"compute_{max(one for one in supported if one < capability)}"


class Device:
    """One device: its primary context, which CuPy and PyTorch use too, and the kernels that were loaded into it."""

    def __init__(self, index: int):
        from cuda.bindings import driver

        self._driver = driver
        _checked(driver.cuInit(0))
        handle = _checked(driver.cuDeviceGet(index))
        self._context = _checked(driver.cuDevicePrimaryCtxRetain(handle))
        major, minor = (
            _checked(driver.cuDeviceGetAttribute(attribute, handle))
            for attribute in (
                driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.capability: int = 10 * major + minor
        self._modules: dict[str, Any] = {}  # by dtype
        self._functions: dict[str, Any] = {}

    def refuses(self) -> str | None:
        """Why what NVRTC makes cannot run here, or None."""
        from cuda.bindings import nvrtc

        major, minor = _checked(nvrtc.nvrtcVersion())
        driver_major = _checked(self._driver.cuDriverGetVersion()) // 1000
        if driver_major < major:  # within one major version the driver's may be the older one
            return (
                f"NVRTC {major}.{minor} compiles for drivers of CUDA {major}, this one is of CUDA {driver_major}; "
                f"install another: python -m pip install 'cuda-bindings[all]=={driver_major}.*'"
            )
        oldest = min(_checked(nvrtc.nvrtcGetSupportedArchs()))
        if self.capability < oldest:
            return (
                f"NVRTC {major}.{minor} compiles for compute capability {oldest / 10} and above, "
                f"this device has {self.capability / 10}"
            )
        return None

    def launch(self, launch: Launch, arguments: tuple[int, ...], stream: int) -> None:
        """Put a launch into a stream of this device. The context is made current for it, whatever the thread had."""
        driver = self._driver
        _checked(driver.cuCtxPushCurrent(self._context))
        block = _here.__dict__.pop("block", None) or _argument_block()  # taken out: a signal handler may launch too
        try:
            function = self._functions.get(launch.kernel)
            if function is None:
                function = self._function(launch)
            values, places, _ = block
            values[: len(arguments)] = arguments
            (grid_x, grid_y), (block_x, block_y) = launch.grid, launch.block
            stream = stream or LEGACY_STREAM
            done = driver.cuLaunchKernel(function, grid_x, grid_y, 1, block_x, block_y, 1, 0, stream, places, 0)
            if done[0]:
                _checked(done, f" at {launch}")
        finally:
            _here.block = block
            _checked(driver.cuCtxPopCurrent())

    def _function(self, launch: Launch) -> Any:
        """The kernel, compiled and loaded at its dtype's first use."""
        with _lock:
            module = self._modules.get(launch.dtype)
            if module is None:
                module = self._modules[launch.dtype] = self._loaded(launch.dtype)
            name = launch.kernel.encode()
            function = self._functions[launch.kernel] = _checked(self._driver.cuModuleGetFunction(module, name))
            return function

    def _loaded(self, dtype: str) -> Any:
        from cuda.bindings import nvrtc

        architecture = architecture_for(self.capability, list(_checked(nvrtc.nvrtcGetSupportedArchs())))
        return _checked(self._driver.cuModuleLoadData(image(dtype, architecture)), f" at the code for {architecture}")


def _argument_block() -> tuple[Any, int, Any]:
    """Room for arguments, the address of their addresses, and these; the driver copies while it launches."""
    values = (ctypes.c_int64 * MOST_ARGUMENTS)()
    first = ctypes.addressof(values)
    places = (ctypes.c_void_p * MOST_ARGUMENTS)(*range(first, first + 8 * MOST_ARGUMENTS, 8))
    return values, ctypes.addressof(places), places


@cache
def device(index: int) -> Device:
    """The device of that index, as CuPy and PyTorch count them."""
    return Device(index)


def _checked(result: tuple[Any, ...], where: str = "") -> Any:
    """The values of a call of cuda-bindings, whose first is the status."""
    status, *values = result
    if status:
        raise RuntimeError(f"CUDA: {status.name}{where}")
    return values[0] if len(values) == 1 else values
