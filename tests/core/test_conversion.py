"""From one library to another: each oddity a right result or a clear error."""

from __future__ import annotations

from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import pytest
from helpers import random_params
from libraries import array_api_strict, jax, jnp, ml_dtypes, torch

import gru_xp
from gru_xp import discovery, errors
from gru_xp.params import map_params

RNG = np.random.default_rng(0)
PARAMS = random_params(RNG, 3, 4)
X = RNG.normal(size=(5, 2, 3))
EXPECTED = gru_xp.gru(X, PARAMS)[0]
OTHERS = ["torch", "jax", "array_api_strict"]


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def _memory_map(a: Any) -> Any:
    file = NamedTemporaryFile()  # noqa: SIM115 - which lives as long as the map
    mapped = np.memmap(file, a.dtype, "w+", shape=a.shape)
    mapped[...] = a
    return mapped


ODDITIES = {
    "negative strides": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "read-only": read_only,
    "foreign byte order": lambda a: a.astype(">f8"),
    "transposed": lambda a: np.asfortranarray(a),
    "a slice": lambda a: np.repeat(a, 2, axis=0)[::2],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape) if a.ndim == 3 else a,
    "a memory map": _memory_map,
    "misaligned": lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view("f8").reshape(a.shape),
}


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize("backend", ["auto", *OTHERS])
def test_odd_numpy_arrays(backend: str, oddity: str) -> None:
    x = ODDITIES[oddity](X)
    params = map_params(ODDITIES[oddity], PARAMS)
    expected = gru_xp.gru(np.ascontiguousarray(x, dtype="f8"), PARAMS)[0]
    before = np.array(x)
    y, h_n, tape = gru_xp.gru_forward(x, params, backend=backend)
    grads = gru_xp.gru_backward(tape, ODDITIES[oddity](np.ones_like(expected)))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(x, before)
    for result in (y, h_n, grads.x, grads.h0, *grads.params[0][0]):
        assert type(result) is np.ndarray
        assert result.dtype == np.dtype("f8")
        assert result.flags.writeable


@pytest.mark.parametrize("backend", ["numpy", "jax", "array_api_strict"])
def test_odd_tensors(backend: str) -> None:
    tensors = map_params(torch.tensor, PARAMS)
    permuted = torch.tensor(X).permute(1, 0, 2).contiguous().permute(1, 0, 2)
    y, _ = gru_xp.gru_inference(permuted.requires_grad_(), tensors, backend=backend)
    assert isinstance(y, torch.Tensor)
    np.testing.assert_allclose(y.numpy(), EXPECTED, rtol=0, atol=1e-14)


def test_a_negative_stride_along_an_axis_of_one_is_copied() -> None:
    """NumPy calls such an array contiguous; a consumer of DLPack may refuse it."""
    exported = discovery.load("numpy").exportable(np.ones((1, 3))[::-1], to_host=True)
    assert min(exported.strides) > 0


def test_tensors_that_require_gradients_do_not_cross_libraries() -> None:
    x, params = torch.tensor(X, requires_grad=True), map_params(torch.tensor, PARAMS)
    with pytest.raises(errors.NotDifferentiableError, match="x: requires a gradient.*use gru_forward and gru_backward"):
        gru_xp.gru(x, params, backend="numpy")
    with torch.no_grad():
        gru_xp.gru(x, params, backend="numpy")
    watched = params[0][0]._replace(b_hh=params[0][0].b_hh.clone().requires_grad_())
    with pytest.raises(errors.NotDifferentiableError, match=r"params\[0\]\[0\].b_hh: requires a gradient"):
        gru_xp.gru(torch.tensor(X), ((watched,),), backend="numpy")
    with pytest.raises(errors.NotDifferentiableError, match="requires a gradient"):
        gru_xp.gru_cell(x[0], None, params[0][0], backend="numpy")


def test_jax_tracers_do_not_cross_libraries() -> None:
    params = map_params(jnp.asarray, PARAMS)
    for door in (gru_xp.gru, gru_xp.gru_inference):
        with pytest.raises(errors.NotDifferentiableError, match="(is traced|requires a gradient)"):
            jax.jit(lambda x, door=door: door(x, params, backend="numpy")[0])(jnp.asarray(X))


def test_functorch_tensors_do_not_cross_libraries() -> None:
    params = map_params(torch.tensor, PARAMS)
    with pytest.raises(errors.NotDifferentiableError, match=r"transform of torch\.func"):
        torch.func.vmap(lambda x: gru_xp.gru_inference(x, params, backend="numpy")[0])(torch.tensor(X)[None])


def test_float64_needs_a_jax_that_has_it() -> None:
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(errors.DTypeError, match=r"x: jax has no float64 \(float16, bfloat16, float32\)"):
            gru_xp.gru(X, PARAMS, backend="jax")
        y, _ = gru_xp.gru(X.astype("f4"), map_params(lambda a: a.astype("f4"), PARAMS), backend="jax")
        assert y.dtype == np.float32
    finally:
        jax.config.update("jax_enable_x64", True)


def test_bfloat16_crosses_where_both_have_it() -> None:
    x, params = (torch.tensor(X).bfloat16(), map_params(lambda a: torch.tensor(a).bfloat16(), PARAMS))
    own = gru_xp.gru(x, params)[0]
    y, _ = gru_xp.gru(x, params, backend="jax")
    assert y.dtype == torch.bfloat16
    assert float((y - own).abs().max()) < 0.02
    with pytest.raises(errors.DTypeError, match="x: numpy has no bfloat16"):
        gru_xp.gru(x, params, backend="numpy")
    with pytest.raises(errors.DTypeError, match="x: expected a floating-point dtype"):
        gru_xp.gru(X.astype(ml_dtypes.bfloat16), map_params(lambda a: a.astype(ml_dtypes.bfloat16), PARAMS))


def test_masks_and_lengths_cross_too() -> None:
    resets = RNG.random((5, 2)) < 0.3
    expected = gru_xp.gru(X, PARAMS, lengths=np.array([5, 2]), resets=resets)[0]
    for backend in OTHERS:
        y = gru_xp.gru(X, PARAMS, lengths=np.array([5, 2]), resets=resets, backend=backend)[0]
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-14)


def test_host_lengths_and_resets_serve_every_library() -> None:
    resets = RNG.random((5, 2)) < 0.3
    expected = gru_xp.gru(X, PARAMS, lengths=[5, 2], resets=resets)[0]
    for library in OTHERS:
        backend = discovery.load(library)
        put = lambda a, backend=backend: backend.xp.asarray(a.tolist(), dtype=backend.xp.float64)  # noqa: E731
        for lengths in ([5, 2], (5, 2), np.array([5, 2], np.uint8)):
            for given in (resets, resets.tolist()):
                y = gru_xp.gru(put(X), map_params(put, PARAMS), lengths=lengths, resets=given)[0]
                np.testing.assert_allclose(
                    np.asarray(y.tolist() if library == "torch" else np.from_dlpack(y)), expected, rtol=0, atol=1e-14
                )


def test_other_device_of_the_same_library() -> None:
    xps = array_api_strict
    here, there = xps.Device("CPU_DEVICE"), xps.Device("device1")
    put = lambda a: xps.asarray(a.tolist(), device=here)  # noqa: E731
    y, _, tape = gru_xp.gru_forward(put(X), map_params(put, PARAMS), backend="array_api_strict:device1")
    assert y.device == here
    assert tape.layers[0][0].x.device == there
    grads = gru_xp.gru_backward(tape, xps.ones_like(y))
    assert grads.x.device == here
    np.testing.assert_allclose(np.from_dlpack(y), EXPECTED, rtol=0, atol=1e-14)


def test_an_array_changed_after_the_call_does_not_change_a_jax_result() -> None:
    x = X.copy()
    _, _, tape = gru_xp.gru_forward(x, PARAMS, backend="jax")
    expected = gru_xp.gru_backward(tape, np.ones_like(EXPECTED)).params[0][0].W_ih
    x[...] = 0.0
    got = gru_xp.gru_backward(tape, np.ones_like(EXPECTED)).params[0][0].W_ih
    np.testing.assert_array_equal(got, expected)
