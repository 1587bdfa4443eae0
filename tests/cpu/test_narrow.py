"""The fused kernels for 8-bit weights, against the plain path and the definition in integers."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import gru_xp
from gru_xp_cpu.calling import layer

pytestmark = pytest.mark.skipif(layer.unusable() is not None, reason=str(layer.unusable()))


def case(T, N, I, H, seed=0, activations="int8", **options):
    rng = np.random.default_rng(seed)
    model = gru_xp.GRU(I, H, seed=seed, **options)
    return gru_xp.quantize(model, activations=activations), rng.normal(size=(T, N, I)).astype("f4")


def plain(monkeypatch, model, *given, **options):
    with monkeypatch.context() as patch:
        patch.setenv("GRU_XP_KERNELS", "off")
        return model(*given, **options)


@pytest.mark.parametrize("I", [1, 3, 16, 65])
@pytest.mark.parametrize("H", [1, 15, 16, 17, 70])
@pytest.mark.parametrize("N", [1, 2, 7, 9, 40])
def test_a_step_is_the_plain_path_s(monkeypatch, N, I, H):
    """From the same state the integers are the same, so that only the gates' rounding differs."""
    model, x = case(1, N, I, H, N + I + H)
    h0 = np.random.default_rng(1).uniform(-1, 1, (1, N, H)).astype("f4")
    assert gru_xp.explain(x, model._own).kernel == "cpu"
    np.testing.assert_allclose(model(x, h0)[0], plain(monkeypatch, model, x, h0)[0], atol=1e-6)


@pytest.mark.parametrize("I", [1, 3, 16, 65])
@pytest.mark.parametrize("H", [1, 15, 16, 17, 70])
@pytest.mark.parametrize("N", [1, 2, 7, 9, 40])
def test_float_activations_are_nearly_as_exact_as_float32(N, I, H):
    """Against the same weights in float64, with rows of very different sizes, and with resets and padding."""
    model, x = case(6, N, I, H, N + I + H, "float32")
    x *= 10.0 ** np.random.default_rng(2).uniform(-3, 1, (6, N, 1)).astype("f4")
    given = {"resets": np.random.default_rng(3).random((6, N)) < 0.2, "lengths": [6, 3, 0][:N] + [5] * (N - 3)}
    wide = gru_xp.map_params(lambda a: a.astype("f8"), model.params)
    assert gru_xp.explain(x, model._own).kernel == "cpu"
    h0 = np.random.default_rng(1).uniform(-1, 1, (1, N, H)).astype("f4")
    expected = gru_xp.gru_inference(x.astype("f8"), wide, h0.astype("f8"), **given)
    floats = gru_xp.gru_inference(x, model.params, h0, **given)
    for got, float32, exact in zip(model(x, h0, **given), floats, expected, strict=True):
        assert np.abs(got - exact).max() <= 10 * np.abs(float32 - exact).max() + 1e-6


@pytest.mark.parametrize("activations", ["float32", "int8"])
def test_steps_of_a_stream_are_the_sequence(activations):
    model, x = case(7, 2, 20, 33, 0, activations, num_layers=2)
    y, _ = model(x)
    out = np.zeros((2, 33), "f4"), model.initial_state(2)
    for x_t, y_t in zip(x, y, strict=True):
        model.step(x_t, out[1], out=out)
        np.testing.assert_array_equal(out[0], y_t)
    beyond = np.full((2, 2, 33), 2.0, "f4")
    np.testing.assert_allclose(model.step(x[0], beyond)[0], model(x[:1], beyond)[0][0], atol=1e-6)


def test_padding_resets_directions_and_layers(monkeypatch):
    model, x = case(23, 5, 20, 33, num_layers=2, bidirectional=True)
    resets = np.random.default_rng(3).random((23, 5)) < 0.2
    x[20:, 1] = np.nan  # in the padding
    given = {"lengths": [23, 11, 0, 7, 20], "resets": resets}
    for got, expected in zip(model(x, **given), plain(monkeypatch, model, x, **given), strict=True):
        # a rounding that is decided otherwise moves what comes behind it by some thousandths
        assert np.abs(got - expected).max() < 5e-3
        assert (got == 0).sum() == (expected == 0).sum() > 0


def test_sums_of_the_largest_numbers_are_exact():
    """Columns of equal sign, whose sums of 16 bits would saturate."""
    H, I = 16, 4096
    W_ih = np.full((3 * H, I), 1e-3, "f4")
    W_ih[H:] = -1e-3
    w = gru_xp.CellParams(W_ih, np.zeros((3 * H, H), "f4"), np.zeros(3 * H, "f4"), np.zeros(3 * H, "f4"))
    y, _ = gru_xp.gru_inference(np.ones((1, 1, I), "f4"), gru_xp.quantize(((w,),), activations="int8"))
    z, n = 1 / (1 + np.exp(4.096)), np.tanh(-4.096)
    np.testing.assert_allclose(y, (1 - z) * n, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_stays_visible(bad):
    model, x = case(9, 3, 24, 40)
    x[4, 1, 3] = bad
    y, _ = model(x)
    assert np.isnan(y[4:, 1]).all() and np.isfinite(y[:4]).all() and np.isfinite(y[:, [0, 2]]).all()


def test_states_beyond_1_take_the_plain_path(monkeypatch):
    model, x = case(5, 3, 8, 20)
    h0 = np.full((1, 3, 20), 3.0, "f4")
    np.testing.assert_allclose(model(x, h0)[0], plain(monkeypatch, model, x, h0)[0], atol=1e-6)
    h0[0, 1, 2] = np.nan
    assert np.isnan(model(x, h0)[0][:, 1]).all()


def run_python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return done.stdout


CODE = """
import numpy as np, gru_xp
model = gru_xp.quantize(gru_xp.GRU(200, 300, num_layers=2, seed=0), activations="int8")
x = np.random.default_rng(0).normal(size=(60, {N}, 200)).astype("f4")
print(gru_xp.explain(x, model._own).kernel, hash(model(x)[0].tobytes() + model(x)[0].tobytes()))
"""


@pytest.mark.parametrize("N", [1, 13])
@pytest.mark.parametrize("activations", ["int8", "float32"])
def test_bits_do_not_depend_on_threads(N, activations):
    code = CODE.format(N=N).replace('"int8"', repr(activations))
    seen = {run_python(code, GRU_XP_NUM_THREADS=threads, PYTHONHASHSEED="0") for threads in ("1", "2", "3")}
    assert len(seen) == 1 and next(iter(seen)).startswith("cpu")


EXACT = """
import numpy as np, gru_xp
for N, I, H in ((1, 65, 70), (2, 3, 17), (9, 16, 33), (40, 130, 50)):
    rng = np.random.default_rng(N)
    model, x = gru_xp.GRU(I, H, seed=N), rng.normal(size=(1, N, I)).astype("f4")
    h0 = rng.uniform(-1, 1, (1, N, H)).astype("f4")
    for activations in ("float32", "int8"):
        narrow = gru_xp.quantize(model, activations=activations)
        assert gru_xp.explain(x, narrow._own).kernel == "cpu"
        got = narrow(x, h0)[0]
        with gru_xp.use_backend("array_api_strict"):  # by the plain path
            assert np.abs(got - narrow(x, h0)[0]).max() < 1e-6, (N, I, H, activations)
"""


@pytest.mark.parametrize("vnni", ["", "off"])
@pytest.mark.parametrize("width", ["", "256", "128"])
def test_other_widths_and_instructions_compute_the_same(width, vnni):
    run_python(EXACT, GRU_XP_CPU_WIDTH=width, GRU_XP_CPU_VNNI=vnni)


def test_a_narrower_vector_gives_the_same_numbers():
    code = CODE.format(N=3).replace("hash(model(x)[0].tobytes() + model(x)[0].tobytes())", "np.abs(model(x)[0]).sum()")
    wide, narrow = (run_python(code, **env).split() for env in ({}, {"GRU_XP_CPU_WIDTH": "256"}))
    assert wide[0] == "cpu"
    if narrow[0] == "cpu":
        assert abs(float(wide[1]) - float(narrow[1])) < 1.0
