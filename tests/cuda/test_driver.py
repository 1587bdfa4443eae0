"""From a launch to the device without a GPU: NVRTC, what is kept on disk, the driver, streams and contexts."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cuda_on_host
import pytest
import torch

from gru_xp import discovery
from gru_xp.kernels import ordinary_call
from gru_xp_cuda import CudaGates, Launch, driver
from gru_xp_cuda.source import LANES, source
from gru_xp_torch.cuda import TorchArrays

DTYPES = ("float32", "float64")
FUNCTIONS = ("inference", "forward", "backward")
on_host = pytest.mark.skipif(cuda_on_host.MISSING is not None, reason=str(cuda_on_host.MISSING))

# ---- NVRTC -----------------------------------------------------------------------------------------------------------


def nvrtc_libraries() -> list[str]:
    """NVRTC in its wheel: loaded by path it is found also where an environment sees the packages of another one."""
    try:
        found = [file for file in files("nvidia-cuda-nvrtc") or () if re.match(r"libnvrtc\.so|nvrtc64", file.name)]
    except PackageNotFoundError:
        return []
    return [str(file.locate()) for file in found]


@cache
def preload() -> None:
    for path in nvrtc_libraries():
        ctypes.CDLL(path)


# ---- the driver ------------------------------------------------------------------------------------------------------


class Driver:
    """In the place of cuda.bindings.driver: keeps what it is asked, answers as the real one does."""

    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major", CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor"
    )

    def __init__(self, *, launch_status: int = 0, version: int = 13000, major: int = 9):
        self.calls: list[Any] = []
        self.launch_status = SimpleNamespace(name="CUDA_ERROR_TEST") if launch_status else 0
        self.version, self.major = version, major
        self.meanwhile: Any = lambda: None  # happens once, when a launch has begun

    def cuInit(self, flags: int) -> Any:
        return (0,)

    def cuDriverGetVersion(self) -> Any:
        return 0, self.version

    def cuDeviceGet(self, index: int) -> Any:
        return 0, f"device {index}"

    def cuDevicePrimaryCtxRetain(self, handle: str) -> Any:
        return 0, f"context of {handle}"

    def cuDeviceGetAttribute(self, attribute: str, handle: str) -> Any:
        return 0, {"major": self.major, "minor": 0}[attribute]

    def cuCtxPushCurrent(self, context: str) -> Any:
        self.calls.append(("push", context))
        return (0,)

    def cuCtxPopCurrent(self) -> Any:
        self.calls.append(("pop",))
        return 0, "context"

    def cuModuleLoadData(self, image: bytes) -> Any:
        self.calls.append(("load", image[:4]))
        return 0, "module"

    def cuModuleGetFunction(self, module: str, name: bytes) -> Any:
        self.calls.append(("get", name))
        return 0, name.decode()

    def cuLaunchKernel(self, function: str, *rest: Any) -> Any:
        *size, shared, stream, places, extra = rest
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        arguments = tuple(
            ctypes.c_int64.from_address(place or 0).value for place in (ctypes.c_void_p * 6).from_address(places)
        )
        self.calls.append(("launch", function, tuple(size), shared, stream, arguments, extra))
        return (self.launch_status,)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device over the driver above; NVRTC 13.5 knows sm_80 and sm_90 and compiles nothing."""
    nvrtc = SimpleNamespace(nvrtcGetSupportedArchs=lambda: (0, [80, 90]), nvrtcVersion=lambda: (0, 13, 5))
    compiled: list[tuple[str, str]] = []

    def made(**options: Any) -> Any:
        replaced = Driver(**options)
        monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(driver=replaced, nvrtc=nvrtc))
        monkeypatch.setattr(
            driver, "image", lambda dtype, architecture: compiled.append((dtype, architecture)) or b"\x7fELF"
        )
        return driver.Device(1), replaced, compiled

    return made


LAUNCH = Launch("float32", "inference_float32", (2, 3), (32, 4))
ARGUMENTS = (1 << 40, 2, 3, 4, 5, 6)


def test_a_launch_goes_into_the_devices_own_context_and_the_given_stream(fake: Any) -> None:
    device, calls, compiled = fake()
    device.launch(LAUNCH, ARGUMENTS, 77)
    device.launch(LAUNCH, ARGUMENTS, 0)
    launched = ("launch", "inference_float32", (2, 3, 1, 32, 4, 1), 0)
    assert calls.calls == [
        ("push", "context of device 1"),
        ("load", b"\x7fELF"),
        ("get", b"inference_float32"),
        (*launched, 77, ARGUMENTS, 0),
        ("pop",),
        ("push", "context of device 1"),
        (*launched, 1, ARGUMENTS, 0),  # the legacy stream, by its own name
        ("pop",),
    ]
    assert compiled == [("float32", "sm_90")]


def test_a_failing_launch_is_an_error_and_leaves_the_context_as_it_was(fake: Any) -> None:
    device, calls, _ = fake(launch_status=1)
    with pytest.raises(RuntimeError, match=r"CUDA: CUDA_ERROR_TEST at Launch\(.*'inference_float32', grid=\(2, 3\)"):
        device.launch(LAUNCH, ARGUMENTS, 0)
    assert calls.calls[-1] == ("pop",)


def test_a_launch_within_a_launch_as_a_signal_handler_makes_it_leaves_the_arguments_alone(fake: Any) -> None:
    device, calls, _ = fake()
    device.launch(LAUNCH, (7,) * 6, 5)
    calls.meanwhile = lambda: device.launch(LAUNCH, (8,) * 6, 6)
    device.launch(LAUNCH, ARGUMENTS, 7)
    device.launch(LAUNCH, (9,) * 6, 8)
    launched = [call[-3:-1] for call in calls.calls if call[0] == "launch"]
    assert launched == [(5, (7,) * 6), (6, (8,) * 6), (7, ARGUMENTS), (8, (9,) * 6)]


def test_what_the_driver_or_the_device_could_not_run_is_declined(fake: Any) -> None:
    assert fake()[0].refuses() is None
    assert fake(version=13020)[0].refuses() is None  # within one major version the driver may be the older one
    assert fake(version=14000, major=10)[0].refuses() is None
    assert fake(version=12080)[0].refuses() == (
        "NVRTC 13.5 compiles for drivers of CUDA 13, this one is of CUDA 12; "
        "install another: python -m pip install 'cuda-bindings[all]==12.*'"
    )
    assert fake(major=7)[0].refuses() == (
        "NVRTC 13.5 compiles for compute capability 8.0 and above, this device has 7.0"
    )


def test_the_kernel_declines_for_the_reason_of_the_device_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "unavailable", lambda index: f"device {index} is too old")
    backend = discovery.load("torch")
    call = ordinary_call(backend, torch.device("cuda", 1))
    assert CudaGates(TorchArrays()).refuses(call) == "device 1 is too old"
    assert driver.architecture_for(75, [75, 80]) == "sm_75"


class Launched:
    """In the place of a device: keeps the launches and their streams."""

    def __init__(self, index: int):
        self.index = index

    def launch(self, launch: Launch, arguments: tuple[int, ...], stream: int) -> None:
        LAUNCHED.append((self.index, launch, arguments, stream))


LAUNCHED: list[Any] = []


def test_pytorchs_launches_go_to_the_tensors_device_and_its_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "device", Launched)
    streams = {torch.device("cuda", 0): 5, torch.device("cuda", 1): 6}
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=streams[device]))
    LAUNCHED.clear()
    for index in (1, 0):
        TorchArrays().launch(LAUNCH, ARGUMENTS, SimpleNamespace(device=torch.device("cuda", index)))
    assert LAUNCHED == [(1, LAUNCH, ARGUMENTS, 6), (0, LAUNCH, ARGUMENTS, 5)]


def test_tensors_that_are_lazily_negated_or_strided_are_made_compact() -> None:
    a = torch.randn(3, 4, dtype=torch.complex64)
    negated = torch.conj(a).imag
    assert negated.is_neg()
    for tensor in (negated, torch.randn(4, 6)[:, 2:4], torch.randn(2, 3).T):
        compact = TorchArrays().compact(tensor)
        assert compact.is_contiguous() and not compact.is_neg()
        torch.testing.assert_close(compact, tensor, rtol=0, atol=0)
    already = torch.randn(2, 3)
    assert TorchArrays().compact(already) is already


def test_a_device_that_is_newer_than_the_compiler_gets_ptx() -> None:
    assert driver.architecture_for(90, [80, 90]) == "sm_90"
    assert driver.architecture_for(103, [80, 90, 100]) == "compute_100"


THROUGH_THE_DRIVER = """
import sys
from cuda_on_host import HostArrays
from gru_xp_conformance.cases import EVERYTHING
from gru_xp_conformance.implementation import Assembled
from gru_xp_conformance.judge import Judge, Target
from gru_xp_cuda import CudaGates
from gru_xp_cuda.driver import device, unavailable

class Driven(HostArrays):
    def launch(self, launch, arguments, like):
        device(0).launch(launch, arguments, 77 if launch.kernel.startswith("forward") else 0)

row = Target("numpy", "cpu", "cuda-gates")
for dtype in ("float32", "float64"):
    judge = Judge(row, dtype, Assembled(row.place, CudaGates(Driven())))
    for H in (7, 8):
        config = EVERYTHING.but(H=H)
        judge.assert_forward(config, *judge.forward(config))
        judge.assert_forward(config, *judge.inference(config))
        judge.assert_gradients(config, judge.gradients(config))
assert unavailable(0) is None
assert "torch" not in sys.modules  # which might take the stand-in for a driver too
"""


@on_host
@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for the driver is made for Linux")
def test_nvidias_bindings_bring_the_launches_to_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the layer to a libcuda of our own, through the real cuda-bindings; the code comes from the disk."""
    preload()
    monkeypatch.setenv("GRU_XP_CACHE_DIR", str(tmp_path / "cache"))
    built = [cuda_on_host.build_kernels(dtype, tmp_path) for dtype in DTYPES]
    cuda_on_host.build("cuda_driver.cpp", tmp_path / "libcuda.so.1", "-Wl,-soname,libcuda.so.1", "-ldl")
    for dtype in DTYPES:
        driver.image(dtype, "sm_90")  # NVRTC itself wants more of a driver
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("GRU_XP_TEST_KERNELS", ":".join(map(str, built)))
    monkeypatch.setenv(
        "CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM", "1"
    )  # then 0 would be a stream of the thread's own
    monkeypatch.setenv("PYTHONPATH", str(Path(cuda_on_host.__file__).parent))
    program = f"import ctypes\nfor path in {nvrtc_libraries()}: ctypes.CDLL(path)\n{THROUGH_THE_DRIVER}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = Counter(done.stderr.splitlines())
    kernels = [
        f"{function}_{dtype}{by}" for function in FUNCTIONS for dtype in DTYPES for by in ("", f"_by_{LANES[dtype]}")
    ]
    streams = {kernel: 77 if kernel.startswith("forward") else driver.LEGACY_STREAM for kernel in kernels}
    assert set(told) == {"load", *(f"launch {kernel} on stream {stream}" for kernel, stream in streams.items())}
    assert told["load"] == len(DTYPES)


# ---- what NVRTC makes of it ------------------------------------------------------------------------------------------

compiles = pytest.mark.skipif(sys.platform == "darwin", reason="NVIDIA has no compiler for macOS")


@compiles
@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nvrtc_compiles_the_kernels_without_spills_and_in_their_own_type(dtype: str, architecture: int) -> None:
    preload()
    assert driver.no_compiler() is None
    cubin, log = driver.compiled(
        source(dtype), f"sm_{architecture}", (*driver.OPTIONS, "--ptxas-options=-v", "--warning-as-error=all-warnings")
    )
    assert cubin.startswith(b"\x7fELF")
    kernels = {f"{function}_{dtype}{by}" for function in FUNCTIONS for by in ("", f"_by_{LANES[dtype]}")}
    told = dict(re.findall(r"Function properties for (\w+)\n.*?(\d+ bytes stack frame, .*)\n", log))
    assert told == dict.fromkeys(kernels, "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads")
    registers = [int(number) for number in re.findall(r"Used (\d+) registers", log)]
    assert len(registers) == len(kernels) and max(registers) <= 128

    ptx = driver.compiled(source(dtype), f"compute_{architecture}")[0].decode()
    assert set(re.findall(r"\.entry (\w+)", ptx)) == kernels
    code = ptx[ptx.index(".entry") :]
    assert ".local" not in code
    assert not re.search(r"\.(ftz|approx|full)\b", code), "flushed or estimated"
    assert not re.search(r"\.(f16|bf16|f64)\b" if dtype == "float32" else r"\.(f16|bf16|f32)\b", code), "another type"
    sixteen_bytes = r"\.global(\.nc)?\.(v4\.[bf]32|v2\.[bf]64)\s"
    for kernel, loads, stores in (("inference", 7, 1), ("forward", 7, 5), ("backward", 6, 7)):
        body = code[code.index(f".entry {kernel}_{dtype}_by_") :].partition("\n}")[0]
        assert len(re.findall(rf"\bld{sixteen_bytes}", body)) == loads
        assert len(re.findall(rf"\bst{sixteen_bytes}", body)) == stores
        assert len(re.findall(r"\b(ld|st)\.global", body)) == loads + stores


@compiles
def test_what_was_compiled_is_kept_on_disk_and_a_damaged_file_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preload()
    monkeypatch.setenv("GRU_XP_CACHE_DIR", str(tmp_path / "cache"))
    count, compiled = [0], driver.compiled

    def counted(*words: Any) -> Any:
        count[0] += 1
        return compiled(*words)

    monkeypatch.setattr(driver, "compiled", counted)
    first = driver.image("float32", "sm_90")
    assert first.startswith(b"\x7fELF") and driver.image("float32", "sm_90") == first
    assert count == [1]
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert driver.image("float32", "sm_90") == first
    assert count == [2]
    driver.image("float32", "compute_90")
    assert count == [3]
    monkeypatch.setenv("GRU_XP_CACHE_DIR", "off")
    driver.image("float32", "sm_90")
    assert count == [4]


@compiles
def test_an_error_of_the_compiler_says_what_it_said() -> None:
    preload()
    with pytest.raises(RuntimeError, match=r"could not compile gates.cu for sm_90: (?s:.*)nonsense"):
        driver.compiled("nonsense", "sm_90")


@pytest.mark.parametrize(
    ("bindings", "reason"),
    [
        (
            "SimpleNamespace(nvrtc=SimpleNamespace(nvrtcVersion=not_found))",
            "NVRTC is missing (libnvrtc.so: not found); install it: python -m pip install 'cuda-bindings[all]'",
        ),
        (
            "None",
            (
                "cuda-bindings is missing (import of cuda.bindings halted; None in sys.modules); "
                "install it: python -m pip install 'gru-xp[cuda]'"
            ),
        ),
    ],
)
def test_without_a_compiler_the_kernel_says_what_to_install(bindings: str, reason: str) -> None:
    program = f"""
import sys
from types import SimpleNamespace

def not_found():
    raise RuntimeError("libnvrtc.so: not found\\nsearched in many places")

sys.modules |= {{"cuda": SimpleNamespace(), "cuda.bindings": {bindings}}}
from gru_xp_cuda import driver
print(driver.no_compiler())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{reason}\n"
