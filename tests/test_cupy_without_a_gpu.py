"""What CuPy is asked for, and on which device and stream: with stand-ins for its arrays, which need a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupy", reason="CuPy is not installed here")

import gru_xp_cupy
from gru_xp import dispatch


class Device:
    """A device that writes down when it is the current one."""

    current = 0

    def __init__(self, index: int):
        self.id = index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id

    def __enter__(self) -> Device:
        self.before, Device.current = Device.current, self.id
        return self

    def __exit__(self, *error: object) -> None:
        Device.current = self.before


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of CuPy, each with the device that was current."""
    asked: list[Any] = []

    def said(name: str) -> Any:
        def function(array: Any, **options: Any) -> Any:
            asked.append((name, Device.current))
            return array

        return function

    class Stream:
        def __init__(self, device: int):
            self.device = device

        def record(self) -> str:
            asked.append((f"record {self.device}", Device.current))
            return f"event of {self.device}"

        def wait_event(self, event: str) -> None:
            asked.append((f"{self.device} waits for {event}", Device.current))

    monkeypatch.setattr(gru_xp_cupy.cupy, "array", said("array"))
    monkeypatch.setattr(gru_xp_cupy.cupy, "ascontiguousarray", said("ascontiguousarray"))
    monkeypatch.setattr(gru_xp_cupy.cupy.cuda, "get_current_stream", lambda: Stream(Device.current))
    return asked


def array_on(index: int, asked: list[Any]) -> Any:
    def copy() -> str:
        asked.append(("copy", Device.current))
        return "copy"

    return SimpleNamespace(device=Device(index), copy=copy)


def test_copies_lie_where_the_array_lies_whatever_device_is_current(asked: list[Any]) -> None:
    backend = dispatch.load("cupy")
    backend.owned(array_on(1, asked))
    backend.handed_out(array_on(1, asked))
    assert asked == [("array", 1), ("copy", 1)]
    assert Device.current == 0


def test_from_one_device_to_another_each_stream_waits_for_the_other(asked: list[Any]) -> None:
    backend = dispatch.load("cupy")
    here = array_on(1, asked)
    assert backend.to_device(here, Device(1)) is here
    assert asked == []
    backend.to_device(here, Device(2))
    assert asked == [
        ("ascontiguousarray", 1),
        ("record 1", 1),
        ("2 waits for event of 1", 2),
        ("array", 2),
        ("record 2", 2),
        ("1 waits for event of 2", 1),
    ]


@pytest.mark.parametrize("kind", [1, 3])  # DLPack's numbers of the host's memory, ordinary and pinned by CUDA
def test_host_memory_comes_by_numpy(kind: int, asked: list[Any]) -> None:
    class Foreign:
        def __dlpack_device__(self) -> tuple[int, int]:
            return kind, 0

        def __dlpack__(self, **options: Any) -> Any:
            return np.arange(3.0).__dlpack__()

    moved = dispatch.load("cupy").from_dlpack(Foreign(), Device(1))
    assert asked == [("array", 1)]
    np.testing.assert_array_equal(moved, np.arange(3.0))


def test_the_fused_gates_are_found_and_say_what_they_cannot() -> None:
    from gru_xp.kernels import kernels_of
    from gru_xp.params import GRUSpec
    from gru_xp_conformance.matrix import ordinary_call

    (kernel,) = kernels_of("cupy")
    assert (kernel.name, kernel.level) == ("cuda-gates", "gates")
    call = ordinary_call(dispatch.load("cupy"), Device(0))
    assert "reset_after=False" in kernel.refuses(call._replace(spec=GRUSpec(reset_after=False)))
