"""The CUDA gates without a GPU: their arithmetic on the host, all conformance cases, and when they decline."""

from __future__ import annotations

import mmap
import sys
from typing import Any

import cuda_on_host
import numpy as np
import pytest
import torch
from cuda_on_host import HostArrays, activated, host_gates, run

import gru_xp
from gru_xp import discovery, kernels
from gru_xp.cell import Gates
from gru_xp_conformance.implementation import Assembled
from gru_xp_conformance.judge import Target
from gru_xp_conformance.matrix import FAILED, PASSED, judge_case, ordinary_call, plan
from gru_xp_cuda import CudaGates, Launch, gates
from gru_xp_cuda.source import LANES, THREADS, kernel_name
from gru_xp_torch.cuda import TorchArrays

NO_RESERVE = 0x4000  # MAP_NORESERVE, which mmap of Python 3.11 does not name
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


def plain_gates() -> Gates:
    return Gates(discovery.load("numpy").xp)


@on_host
def test_arrays_in_any_layout_are_read_as_what_they_are() -> None:
    p, kernel = problem("float32", (6, 5)), host_gates()
    strange = {
        "gi": np.asfortranarray(p["gi"]),
        "gh": np.broadcast_to(p["gh"][:1], (6, 15)),
        "h": np.repeat(p["h"], 2, axis=1)[::-1, ::2],
        "dh1": p["dh1"][::-1],
    }
    compact = {name: a.copy(order="C") for name, a in strange.items()}
    results = []
    for given in (strange, compact):
        forward = kernel.forward(given["gi"], given["gh"], given["h"])
        results.append((*forward, *kernel.backward(given["dh1"], given["h"], *(a.T.copy().T for a in forward[1:]))))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@on_host
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 3, 8), (7, 2, 130), (2, 0), (0, 4), (12,)])
def test_gates_are_the_plain_ones(shape: tuple[int, ...], dtype: str) -> None:
    p, kernel, plain = problem(dtype, shape), host_gates(), plain_gates()
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

    chosen = gates.launch_for
    for grid, block in (((1, 1), (THREADS, 1)), ((3, 5), (2, 4)), ((1, 2), (1, THREADS))):
        size = {"grid": grid, "block": block}
        monkeypatch.setattr(gates, "launch_for", lambda *given, size=size: chosen(*given)._replace(**size))
        guarded = Guarded()
        kernel = CudaGates(guarded)
        got = kernel.forward(*given), kernel.backward(p["dh1"], p["h"], *kernel.forward(*given)[1:])
        for one, other in zip((*got[0], *got[1]), (*first[0], *first[1]), strict=True):
            np.testing.assert_array_equal(one, other)
        guarded.assert_margins_untouched()


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


@on_host
@pytest.mark.skipif(sys.platform != "linux", reason="memory that is not there is asked for as on Linux")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by", [1, None], ids=["by one", "by a wide load"])
def test_beyond_2_to_the_31_numbers_the_last_thread_still_finds_its_place(by: int | None, dtype: str) -> None:
    """In memory of which only the pages that are touched exist: the last thread reads and writes at the very ends."""
    lanes, size = by or LANES[dtype], np.dtype(dtype).itemsize
    rows, H = 3 * (1 << 20), 1024  # 3 * 2**30 numbers in h, 9 * 2**30 in gi
    p = problem(dtype, (1, H))
    p |= dict(zip("rznu", plain_gates().forward(p["gi"], p["gh"], p["h"])[1:], strict=True))

    class Vast:
        """(rows, K), of which the last row is given, or None."""

        def __init__(self, K: int, last_row: Any = None):
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
            try:
                self.memory = mmap.mmap(-1, rows * K * size, flags=flags)
            except OSError as error:
                pytest.skip(f"addresses are scarce here: {error}")
            self.last_row = np.frombuffer(self.memory, dtype, K, offset=(rows - 1) * K * size)
            if last_row is not None:
                self.last_row[:] = last_row
            self.address = self.last_row.ctypes.data - (rows - 1) * K * size

    names = {"inference": ("gi", "gh", "h"), "forward": ("gi", "gh", "h"), "backward": ("dh1", "h", "r", "z", "n", "u")}
    for function, given in names.items():
        wanted = getattr(host_gates(), function)(*(p[name] for name in given))
        wanted = (wanted,) if function == "inference" else wanted
        arrays = [Vast(p[name].shape[-1], p[name]) for name in given] + [Vast(a.shape[-1]) for a in wanted]
        # a grid in which the last thread has the last row and the last columns, and nothing else
        grid, block = (H // lanes // 64, rows), (64, 1)
        launch = Launch(dtype, kernel_name(function, dtype, lanes), grid, block)
        run(launch, (*(a.address for a in arrays), rows, H), last=True)
        for made, row in zip(arrays[len(given) :], wanted, strict=True):
            for part in range(row.shape[-1] // H):
                end = (part + 1) * H
                np.testing.assert_array_equal(made.last_row[end - lanes : end], row[0, end - lanes : end])
                assert not made.last_row[end - H : end - lanes].any()


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

    def unavailable(self, device: Any) -> str | None:
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
    kernel, backend = CudaGates(HostArrays()), discovery.load("numpy")
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
    kernel.arrays.unavailable = lambda device: "no compiler"
    assert kernel.refuses(call) == "no compiler"
    installed = next(kernel for kernel in kernels.kernels_of("torch") if kernel.name == "cuda-gates")
    assert installed.refuses(ordinary_call(discovery.load("torch"), torch.device("cpu"))) == (
        "works in CUDA memory, not on cpu"
    )
    x = torch.zeros(2, 1, 3)
    w = gru_xp.CellParams(torch.zeros(12, 3), torch.zeros(12, 4))
    assert ("cuda-gates", "gates", "works in CUDA memory, not on cpu") in gru_xp.explain(
        x, ((w,),), spec=gru_xp.GRUSpec(reset_after=False)
    ).refusals
