"""The CUDA gates without a GPU: their arithmetic on the host, the launches, the code that NVRTC makes of them."""

from __future__ import annotations

import ctypes
import re
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cuda_on_host
import numpy as np
import pytest
import torch
from cuda_on_host import HostArrays, activated, host_gates, run

import gru_xp
from gru_xp import dispatch, kernels
from gru_xp.cell import Gates
from gru_xp_conformance.implementation import Assembled
from gru_xp_conformance.judge import Target
from gru_xp_conformance.matrix import FAILED, PASSED, judge_case, ordinary_call, plan
from gru_xp_cuda import CudaGates, Launch, driver, gates
from gru_xp_cuda.source import LANES, THREADS, source
from gru_xp_torch.cuda import TorchArrays

ULP = 4.0  # what fused kernels promise
DTYPES = ("float32", "float64")
on_host = pytest.mark.skipif(cuda_on_host.MISSING is not None, reason=str(cuda_on_host.MISSING))

# ---- the activations -------------------------------------------------------------------------------------------------


def exact(name: str, a: Any) -> Any:
    """In long double."""
    a = a.astype(np.longdouble)
    with np.errstate(over="ignore", under="ignore"):
        return np.tanh(a) if name == "tanh" else np.where(a < 0, np.exp(a) / (1 + np.exp(a)), 1 / (1 + np.exp(-a)))


def arguments(dtype: str) -> Any:
    rng = np.random.default_rng(0)
    far = {"float32": 110.0, "float64": 750.0}[dtype]
    small = np.exp(rng.uniform(np.log(1e-30), np.log(1.0), 1 << 15))
    near = rng.uniform(-12, 12, 1 << 17)
    return np.concatenate([rng.uniform(-1, 1, 1 << 16), near, rng.uniform(-far, far, 1 << 16), small, -small]).astype(
        dtype
    )


@on_host
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_activations_are_a_few_units_in_the_last_place_off_in_both_tails(name: str, dtype: str) -> None:
    a = arguments(dtype)
    got, want = activated(name, a), exact(name, a)
    apart = np.abs(got - want) / np.spacing(np.abs(want).astype(dtype))
    worst = int(np.argmax(apart))
    assert apart[worst] <= ULP, f"{name}({a[worst]!r}) = {got[worst]!r}, {float(apart[worst]):.2f} units off"
    assert np.all(got <= 1) and np.all(got >= (0 if name == "sigmoid" else -1))


@on_host
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_at_the_edges(dtype: str) -> None:
    inf, nan, tiny = np.inf, np.nan, float(np.finfo(dtype).smallest_subnormal)
    a = np.array([inf, -inf, nan, -nan, 0.0, -0.0, 1e30, -1e30, tiny, -tiny, 100.0], dtype)
    s, t = activated("sigmoid", a), activated("tanh", a)
    np.testing.assert_array_equal(s, np.array([1, 0, nan, nan, 0.5, 0.5, 1, 0, 0.5, 0.5, 1], dtype))
    np.testing.assert_array_equal(t, np.array([1, -1, nan, nan, 0.0, -0.0, 1, -1, tiny, -tiny, 1], dtype))
    np.testing.assert_array_equal(np.signbit(t[4:6]), [False, True])


# ---- the step --------------------------------------------------------------------------------------------------------


def problem(dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    rng, wide = np.random.default_rng(0), (*shape[:-1], 3 * shape[-1])
    sizes = {"gi": wide, "gh": wide, "h": shape, "dh1": shape}
    return {name: rng.normal(scale=2.0, size=size).astype(dtype) for name, size in sizes.items()}


@on_host
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 3, 8), (7, 2, 130), (2, 0), (0, 4), (12,)])
def test_gates_are_the_plain_ones(shape: tuple[int, ...], dtype: str) -> None:
    p, kernel, plain = problem(dtype, shape), host_gates(), Gates(dispatch.load("numpy").xp)
    expected = plain.forward(p["gi"], p["gh"], p["h"])
    got = kernel.forward(p["gi"], p["gh"], p["h"])
    pairs = list(zip(got, expected, strict=True))
    pairs.append((kernel.inference(p["gi"], p["gh"], p["h"]), got[0]))
    given = (p["h"], *expected[1:])
    pairs += zip(kernel.backward(p["dh1"], *given), plain.backward(p["dh1"], *given), strict=True)
    for one, other in pairs:
        assert one.dtype == other.dtype and one.shape == other.shape
        assert np.max(np.abs(one - other), initial=0) <= 8 * np.finfo(dtype).eps * np.max(np.abs(other), initial=1)


@on_host
def test_a_saturated_update_gate_leaves_the_state_as_it_is_and_nan_stays() -> None:
    gi = np.array([[-1e4, np.inf, 3.0], [1e4, -1e4, 1e4], [0.0, np.nan, 0.0]])
    h1, r, z, n, u = host_gates().forward(gi, np.zeros((3, 3)), np.full((3, 1), 0.3))
    assert h1[0, 0] == 0.3 and h1[1, 0] == 1.0 and np.isnan(h1[2, 0])
    assert (r[0, 0], z[0, 0], r[1, 0], z[1, 0], n[1, 0], u[0, 0]) == (0.0, 1.0, 1.0, 0.0, 1.0, 0.0)


@on_host
@pytest.mark.parametrize("dtype", DTYPES)
def test_wide_loads_and_any_grid_give_the_same_bits_and_write_nothing_else(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, H = 37, 24
    p, kernel = problem(dtype, (rows, H)), host_gates()
    given = (p["gi"], p["gh"], p["h"])
    first = kernel.forward(*given), kernel.backward(p["dh1"], p["h"], *kernel.forward(*given)[1:])
    assert all(launch.kernel.endswith(f"_by_{LANES[dtype]}") for launch in kernel.arrays.launches)

    off = {name: np.concatenate([np.zeros(1, dtype), a.ravel()])[1:].reshape(a.shape) for name, a in p.items()}
    assert any(a.ctypes.data % 16 for a in off.values())
    kernel = host_gates()
    again = kernel.forward(off["gi"], off["gh"], off["h"])
    assert kernel.arrays.launches[0].kernel == f"forward_{dtype}"
    np.testing.assert_array_equal(again, first[0])

    for grid, block in (((1, 1), (THREADS, 1)), ((3, 5), (2, 4)), ((1, 2), (1, THREADS))):
        monkeypatch.setattr(gates, "geometry", lambda rows, columns, size=(grid, block): size)
        gates.launch_for.cache_clear()
        guarded = Guarded()
        kernel = CudaGates(guarded)
        got = kernel.forward(*given), kernel.backward(p["dh1"], p["h"], *kernel.forward(*given)[1:])
        for one, other in zip((*got[0], *got[1]), (*first[0], *first[1]), strict=True):
            np.testing.assert_array_equal(one, other)
        guarded.assert_margins_untouched()
    gates.launch_for.cache_clear()


class Guarded(HostArrays):
    """With margins before and after what is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.margins: list[Any] = []

    def empty(self, shape: tuple[int, ...], like: Any) -> Any:
        size = int(np.prod(shape))
        whole = super().empty((size + 64,), like)
        self.margins += [whole[:32], whole[size + 32 :]]
        return whole[32 : size + 32].reshape(shape)

    def assert_margins_untouched(self) -> None:
        assert self.margins and all((margin.view(np.uint8) == 255).all() for margin in self.margins)


@pytest.mark.parametrize("rows", [1, 2, 100, 1 << 24])
@pytest.mark.parametrize("columns", [1, 3, 64, 128, 129, 5000])
def test_the_geometry_fits_the_device_and_covers_the_work(rows: int, columns: int) -> None:
    grid, block = gates.geometry(rows, columns)
    assert block[0] * block[1] == THREADS  # __launch_bounds__
    assert grid[0] * block[0] >= columns and grid[0] < 1 << 31
    assert grid[1] == 65535 or grid[1] * block[1] >= rows


# ---- the conformance cases, on the host ------------------------------------------------------------------------------

ROW = Target("numpy", "cpu", "cuda-gates")
CASES = plan([ROW], quick=False)


@on_host
@pytest.mark.parametrize("group", sorted({case.group for _, case, _ in CASES}))
def test_the_host_build_passes_the_conformance_cases(group: str) -> None:
    implementation, statuses = Assembled(ROW.place, host_gates()), []
    for target, case, dtype in CASES:
        if case.group == group:
            outcome = judge_case(target, case, dtype, implementation)
            statuses.append(outcome.status)
            assert outcome.status != FAILED, f"{case} {dtype}: {outcome.reason}"
    assert PASSED in statuses


class TorchOnHost(TorchArrays):
    """PyTorch's tensors in host memory, taken as the adapter takes those of a GPU, and launched on the host."""

    place = "cpu"

    def unavailable(self) -> str | None:
        return None

    def launch(self, launch: Launch, arguments: tuple[int, ...], like: Any) -> None:
        run(launch, arguments)


@on_host
def test_the_adapter_for_pytorch_passes_the_conformance_cases_on_the_host() -> None:
    row = Target("torch", "cpu", "cuda-gates")
    implementation = Assembled(row.place, CudaGates(TorchOnHost()))
    for target, case, _ in plan([row], quick=True):
        if case.group in ("forward", "inference", "backward", "cell", "memory"):
            for dtype in ("float32", "bfloat16") if case.each_dtype else ("float32",):
                outcome = judge_case(target, case, dtype, implementation)
                assert outcome.status != FAILED, f"{case} {dtype}: {outcome.reason}"


# ---- when it declines ------------------------------------------------------------------------------------------------


def test_reasons() -> None:
    kernel, backend = CudaGates(HostArrays()), dispatch.load("numpy")
    call = ordinary_call(backend, "cpu")
    if cuda_on_host.MISSING is None:
        assert kernel.refuses(call) is None
    for spec, reason in (
        (gru_xp.GRUSpec(reset_after=False), "with reset_after=False the gates have a product in their middle"),
        (gru_xp.GRUSpec(gate_activation="hard_sigmoid"), "has only sigmoid and tanh, and no clip"),
        (gru_xp.GRUSpec(clip=3.0), "has only sigmoid and tanh, and no clip"),
    ):
        assert kernel.refuses(call._replace(spec=spec)) == reason
    assert kernel.refuses(call._replace(recording=True)) == "the arrays are recorded or traced"
    assert "not for float8" in kernel.refuses(call._replace(dtype="float8"))
    kernel.arrays.unavailable = lambda: "no compiler"
    assert kernel.refuses(call) == "no compiler"
    installed = next(kernel for kernel in kernels.kernels_of("torch") if kernel.name == "cuda-gates")
    assert installed.refuses(ordinary_call(dispatch.load("torch"), torch.device("cpu"))) == (
        "works in CUDA memory, not on cpu"
    )
    x = torch.zeros(2, 1, 3)
    w = gru_xp.CellParams(torch.zeros(12, 3), torch.zeros(12, 4))
    assert ("cuda-gates", "gates", "works in CUDA memory, not on cpu") in gru_xp.explain(
        x, ((w,),), spec=gru_xp.GRUSpec(reset_after=False)
    ).refusals


# ---- the driver ------------------------------------------------------------------------------------------------------


class Driver:
    """In the place of cuda.bindings.driver: keeps what it is asked, answers as the real one does."""

    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major", CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor"
    )

    def __init__(self, *, launch_status: int = 0):
        self.calls: list[Any] = []
        self.launch_status = SimpleNamespace(name="CUDA_ERROR_TEST") if launch_status else 0

    def cuInit(self, flags: int) -> Any:
        return (0,)

    def cuDeviceGet(self, index: int) -> Any:
        return 0, f"device {index}"

    def cuDevicePrimaryCtxRetain(self, handle: str) -> Any:
        return 0, f"context of {handle}"

    def cuDeviceGetAttribute(self, attribute: str, handle: str) -> Any:
        return 0, {"major": 9, "minor": 0}[attribute]

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
        arguments = tuple(
            ctypes.c_int64.from_address(place or 0).value for place in (ctypes.c_void_p * 6).from_address(places)
        )
        self.calls.append(("launch", function, tuple(size), shared, stream, arguments, extra))
        return (self.launch_status,)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device over the driver above; NVRTC knows sm_80 and sm_90 and compiles nothing."""
    nvrtc = SimpleNamespace(nvrtcGetSupportedArchs=lambda: (0, [80, 90]))
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
        (*launched, 0, ARGUMENTS, 0),
        ("pop",),
    ]
    assert compiled == [("float32", "sm_90")]


def test_a_failing_launch_is_an_error_and_leaves_the_context_as_it_was(fake: Any) -> None:
    device, calls, _ = fake(launch_status=1)
    with pytest.raises(RuntimeError, match="CUDA: CUDA_ERROR_TEST"):
        device.launch(LAUNCH, ARGUMENTS, 0)
    assert calls.calls[-1] == ("pop",)


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


def test_cupys_launches_go_to_the_arrays_device_and_the_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = pytest.importorskip("cupy")
    from gru_xp_cupy.gates import CupyArrays

    monkeypatch.setattr(driver, "device", Launched)
    monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda: SimpleNamespace(ptr=7))
    LAUNCHED.clear()
    CupyArrays().launch(LAUNCH, ARGUMENTS, SimpleNamespace(data=SimpleNamespace(device_id=2)))
    assert LAUNCHED == [(2, LAUNCH, ARGUMENTS, 7)]


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


# ---- what NVRTC makes of it ------------------------------------------------------------------------------------------

compiles = pytest.mark.skipif(sys.platform == "darwin", reason="NVIDIA has no compiler for macOS")


@cache
def preload() -> None:
    """NVRTC from its wheel, also where the environment sees the packages of another one: there NVIDIA does not look."""
    try:
        found = [file for file in files("nvidia-cuda-nvrtc") or () if re.match(r"libnvrtc\.so|nvrtc64", file.name)]
    except PackageNotFoundError:
        return
    for file in found:
        ctypes.CDLL(str(file.locate()))


@compiles
@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nvrtc_compiles_the_kernels_without_spills_and_in_their_own_type(dtype: str, architecture: int) -> None:
    preload()
    assert driver.unavailable() is None
    cubin, log = driver.compiled(
        source(dtype), f"sm_{architecture}", (*driver.OPTIONS, "--ptxas-options=-v", "--warning-as-error=all-warnings")
    )
    assert cubin.startswith(b"\x7fELF")
    kernels = {
        f"{function}_{dtype}{by}"
        for function in ("inference", "forward", "backward")
        for by in ("", f"_by_{LANES[dtype]}")
    }
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


def test_without_a_compiler_the_kernel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    reason = driver.unavailable.__wrapped__()
    assert reason is not None and reason.startswith("NVRTC is missing") and "'gru-xp[cuda]'" in reason
