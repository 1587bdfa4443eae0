"""Problems that can fail, arrays of every library, comparison."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import gru_xp
from gru_xp import CellParams, discovery
from gru_xp.params import map_params

# for the errors about a library that is missing
WITHOUT_CUPY = pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is here")

LIBRARIES = ("numpy", "torch", "jax", "array_api_strict")


def random_params(
    rng: np.random.Generator, I: int, H: int, L: int = 1, D: int = 1, bias: bool = True, dtype: Any = "f8"
):
    """Parameters, all random and distinct: constants cannot see swapped gates, zero biases cannot see lost ones."""

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(scale=0.6, size=shape).astype(dtype)

    return tuple(
        tuple(
            CellParams(
                draw(3 * H, I if layer == 0 else D * H),
                draw(3 * H, H),
                *((draw(3 * H), draw(3 * H)) if bias else (None, None)),
            )
            for _ in range(D)
        )
        for layer in range(L)
    )


class Problem(NamedTuple):
    """One call with everything in it, as NumPy arrays."""

    x: Any
    params: Any
    h0: Any
    lengths: Any
    resets: Any
    dropout_masks: Any
    dy: Any
    dh_n: Any


def random_problem(
    seed: int, *, T: int = 7, N: int = 4, I: int = 5, H: int = 3, L: int = 2, D: int = 2, dtype: Any = "f8"
) -> Problem:
    rng = np.random.default_rng(seed)
    return Problem(
        x=rng.normal(size=(T, N, I)).astype(dtype),
        params=random_params(rng, I, H, L, D, dtype=dtype),
        h0=rng.normal(size=(L * D, N, H)).astype(dtype),
        lengths=[int(n) for n in rng.integers(0, T + 1, size=N)],
        resets=rng.random((T, N)) < 0.25,
        dropout_masks=(rng.random((L - 1, T, N, D * H)) < 0.7).astype(dtype) / np.asarray(0.7, dtype),
        dy=rng.normal(size=(T, N, D * H)).astype(dtype),
        dh_n=rng.normal(size=(L * D, N, H)).astype(dtype),
    )


def to_library(name: str, array: Any) -> Any:
    """A NumPy array as an array of another library, by way of Python numbers: a path of its own."""
    if array is None or name == "numpy":
        return array
    backend = discovery.load(name)
    if array.size == 0:
        return backend.xp.zeros(array.shape, dtype=getattr(backend.xp, str(array.dtype)))
    return backend.xp.asarray(array.tolist(), dtype=getattr(backend.xp, str(array.dtype)))


def to_numpy(array: Any) -> Any:
    """An array of any library as NumPy's, by the library's own way."""
    if isinstance(array, np.generic):
        return np.asarray(array)
    if type(array).__module__.startswith("torch"):
        return (
            array.detach().cpu().float().numpy()
            if str(array.dtype) == "torch.bfloat16"
            else array.detach().cpu().numpy()
        )
    return np.from_dlpack(array) if hasattr(array, "to_device") and not hasattr(array, "at") else np.asarray(array)


def run_everything(problem: Problem, put: Callable[[Any], Any], *, save: str = "all", **options: Any) -> dict[str, Any]:
    """Forward and backward; every array that comes out, by name."""
    call = {
        "lengths": problem.lengths,
        "resets": put(problem.resets),
        "dropout_masks": put(problem.dropout_masks),
        **options,
    }
    y, h_n, tape = gru_xp.gru_forward(
        put(problem.x), map_params(put, problem.params), put(problem.h0), save=save, **call
    )
    grads = gru_xp.gru_backward(tape, put(problem.dy), put(problem.dh_n))
    found = {"y": y, "h_n": h_n, "dx": grads.x, "dh0": grads.h0}
    for layer, directions in enumerate(grads.params):
        for d, dw in enumerate(directions):
            found |= {f"d{name}[{layer}][{d}]": part for name, part in dw._asdict().items() if part is not None}
    return found


def assert_close(got: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    """The same names, and values within `tolerance` times the largest expected one."""
    assert got.keys() == expected.keys()
    for name, value in got.items():
        a, b = to_numpy(value).astype("f8"), to_numpy(expected[name]).astype("f8")
        assert a.shape == b.shape, f"{name}: {a.shape} against {b.shape}"
        worst = np.max(np.abs(a - b), initial=0.0)
        assert worst <= tolerance * max(1.0, np.max(np.abs(b), initial=0.0)), f"{name}: off by {worst:.2e}"
