"""CuPy's backend and its fused gates over the stand-in: test_cupy_without_a_gpu.py runs it, in a process of its own."""

from __future__ import annotations

from itertools import product
from typing import Any

import cuda_on_host
import cupy
import numpy as np
import pytest
from cupy.cuda import CALLS, Device, Stream

import gru_xp
from gru_xp import discovery
from gru_xp.kernels import kernels_of
from gru_xp_conformance.cases import EVERYTHING
from gru_xp_conformance.judge import Judge, Target
from gru_xp_conformance.matrix import FAILED, PASSED, run
from gru_xp_cuda import Launch, driver

assert cupy.__version__ == "a stand-in"
LAUNCHED: list[tuple[int, str, int]] = []


class OnHost:
    """In the place of a device: the host build of the kernels."""

    def __init__(self, index: int):
        self.index = index

    def launch(self, launch: Launch, arguments: tuple[int, ...], stream: int) -> None:
        LAUNCHED.append((self.index, launch.kernel, stream))
        cuda_on_host.run(launch, arguments)


@pytest.fixture(autouse=True)
def _devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices, whose kernels run on the host; each has a current stream of its own."""
    monkeypatch.setattr(driver, "device", OnHost)
    monkeypatch.setattr(driver, "unavailable", lambda index: cuda_on_host.MISSING)
    for index in (0, 1):
        with Device(index):
            Stream(100 + index).use()
    LAUNCHED.clear()
    CALLS.clear()


def on(index: int, a: Any) -> Any:
    """A new array of a device."""
    with Device(index):
        made = cupy.array(a)
    CALLS.clear()
    return made


def test_the_conformance_cases_pass_plain_and_fused() -> None:
    result = run(("cupy",), required=("cupy",))
    assert [(str(o.target), o.case, o.reason) for o in result.outcomes if o.status == FAILED] == []
    assert result.passed
    passed = {(o.target.kernel, o.group, o.dtype) for o in result.outcomes if o.status == PASSED}
    groups, dtypes = ("forward", "inference", "backward", "cell"), ("float16", "float32", "float64")
    assert passed >= set(product(("plain", "cuda-gates"), groups, dtypes))
    assert passed >= {("plain", "conversion", "float32"), ("cuda-gates", "memory", "float32")}
    assert {(index, stream) for index, _, stream in LAUNCHED} == {(0, 100), (1, 101)}
    functions = {name.partition("_by_")[0] for _, name, _ in LAUNCHED}
    assert functions == {
        f"{f}_{dtype}" for f in ("inference", "forward", "backward") for dtype in ("float32", "float64")
    }


def test_a_call_on_another_device_than_the_current_one() -> None:
    """Lengths and resets lie on the device: no value can be read, and everything is made there."""
    judge = Judge(Target("cupy", "cuda:1"), "float32")
    args = judge.arguments(EVERYTHING)
    lengths = on(1, np.asarray(args.lengths))
    options = args.options(EVERYTHING.spec) | {"lengths": lengths}
    CALLS.clear()
    y, h_n, tape = gru_xp.gru_forward(*args.positional, **options)
    grads = gru_xp.gru_backward(tape, args.dy, args.dh_n)
    assert CALLS == []  # nothing was copied, and nothing waited
    judge.assert_forward(EVERYTHING, y, h_n, tape)
    judge.assert_gradients(EVERYTHING, grads)
    assert {(index, stream) for index, _, stream in LAUNCHED} == {(1, 101)}
    assert Device().id == 0


def test_a_launch_goes_to_the_arrays_device_and_the_current_stream_there() -> None:
    (kernel,) = kernels_of("cupy")
    shape = (3, 8)
    with Device(1):
        made = cupy.empty(shape, np.float32)
    launch = Launch("float32", "inference_float32", (1, 1), (128, 1))
    given = [
        on(1, np.zeros((3, 24), np.float32)),
        on(1, np.zeros((3, 24), np.float32)),
        on(1, np.ones(shape, np.float32)),
    ]
    kernel.arrays.launch(launch, (*(a.data.ptr for a in (*given, made)), 3, 8), made)
    assert LAUNCHED == [(1, "inference_float32", 101)]
    with Device(1):
        np.testing.assert_array_equal(cupy.asnumpy(made), np.full(shape, 0.5, np.float32))


def test_copies_lie_where_the_array_lies_whatever_device_is_current() -> None:
    backend = discovery.load("cupy")
    assert backend.owned(on(1, np.ones(3))).device == Device(1)
    assert backend.handed_out(on(1, np.ones(3))).device == Device(1)
    assert Device().id == 0


def test_from_one_device_to_another_each_stream_waits_for_the_other() -> None:
    backend = discovery.load("cupy")
    here = on(1, np.arange(6.0).reshape(2, 3))
    assert backend.to_device(here, Device(1)) is here
    assert CALLS == []
    there = backend.to_device(here, Device(0))
    assert there.device == Device(0)
    assert CALLS == [
        ("record", 101),
        ("wait", 100, "event of 101"),
        ("array", 0, False),
        ("record", 100),
        ("wait", 101, "event of 100"),
    ]


@pytest.mark.parametrize("kind", [1, 3])  # DLPack's numbers of the host's memory, ordinary and pinned by CUDA
def test_host_memory_comes_by_numpy_and_is_read_before_its_owner_can_write_there(kind: int) -> None:
    class Foreign:
        def __dlpack_device__(self) -> tuple[int, int]:
            return kind, 0

        def __dlpack__(self, **options: Any) -> Any:
            return np.arange(3.0).__dlpack__()

    moved = discovery.load("cupy").from_dlpack(Foreign(), Device(1))
    assert CALLS == [("array", 1, True)]
    with Device(1):
        np.testing.assert_array_equal(cupy.asnumpy(moved), np.arange(3.0))


def test_another_librarys_memory_comes_and_goes_on_the_stream_of_its_own_device() -> None:
    backend, array = discovery.load("cupy"), on(1, np.arange(3.0))
    out = backend.exportable(array, to_host=False)
    assert out.__dlpack_device__() == (2, 1)
    out.__dlpack__(stream=5)
    assert CALLS == [("exported", 1, 101, 5)]  # CuPy's stream 101 of device 1, for which stream 5 waits
    CALLS.clear()
    back = backend.from_dlpack(out, Device(1))
    assert back.device == Device(1)
    assert CALLS == [("exported", 1, 101, 101)]
    assert Device().id == 0


def test_amds_gpus_and_other_equations_are_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = on(0, np.zeros((2, 1, 3))), gru_xp.CellParams(on(0, np.zeros((12, 3))), on(0, np.zeros((12, 4))))
    told = gru_xp.explain(x, ((w,),), spec=gru_xp.GRUSpec(reset_after=False))
    assert told.kernel == "plain" and "reset_after=False" in str(told)
    monkeypatch.setattr(cupy.cuda.runtime, "is_hip", True)
    assert "this CuPy is built for AMD's" in str(gru_xp.explain(x, ((w,),)))
