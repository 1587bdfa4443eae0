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

HOW_TO_GET = "python -m pip install 'gru-xp[cuda]'"
MOST_ARGUMENTS = 16
_lock = threading.Lock()
_here = threading.local()


@cache
def unavailable() -> str | None:
    """Why there is no compiler here, or None."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:  # RuntimeError: the library itself is not found
        return f"NVRTC is missing ({str(error).splitlines()[0]}); install it: {HOW_TO_GET}"
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

    In the latter case the driver turns the PTX into the device's code.
    """
    if capability in supported:
        return f"sm_{capability}"
    return f"compute_{max((one for one in supported if one < capability), default=min(supported))}"


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

    def launch(self, launch: Launch, arguments: tuple[int, ...], stream: int) -> None:
        """Put a launch into a stream of this device. The context is made current for it, whatever the thread had."""
        driver = self._driver
        _checked(driver.cuCtxPushCurrent(self._context))
        try:
            function = self._functions.get(launch.kernel)
            if function is None:
                function = self._function(launch)
            values, places = _argument_block()
            values[: len(arguments)] = arguments
            (grid_x, grid_y), (block_x, block_y) = launch.grid, launch.block
            _checked(driver.cuLaunchKernel(function, grid_x, grid_y, 1, block_x, block_y, 1, 0, stream, places, 0))
        finally:
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
        return _checked(self._driver.cuModuleLoadData(image(dtype, architecture)))


def _argument_block() -> tuple[Any, int]:
    """Room for this thread's arguments, and the address of their addresses; the driver copies while it launches."""
    try:
        return _here.block
    except AttributeError:
        values = (ctypes.c_int64 * MOST_ARGUMENTS)()
        first = ctypes.addressof(values)
        _here.places = (ctypes.c_void_p * MOST_ARGUMENTS)(*range(first, first + 8 * MOST_ARGUMENTS, 8))
        _here.block = values, ctypes.addressof(_here.places)
        return _here.block


@cache
def device(index: int) -> Device:
    """The device of that index, as CuPy and PyTorch count them."""
    return Device(index)


def _checked(result: tuple[Any, ...]) -> Any:
    """The values of a call of cuda-bindings, whose first is the status."""
    status, *values = result
    if status:
        raise RuntimeError(f"CUDA: {status.name}")
    return values[0] if len(values) == 1 else values
