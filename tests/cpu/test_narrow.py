"""The fused kernel for 8-bit weights and activations, against the plain path and the definition in integers."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import gru_xp
from gru_xp_cpu.calling import layer

pytestmark = pytest.mark.skipif(layer.why_no_integers() is not None, reason=str(layer.why_no_integers()))


def case(T, N, I, H, seed=0, **options):
    rng = np.random.default_rng(seed)
    model = gru_xp.GRU(I, H, seed=seed, **options)
    return gru_xp.quantize(model, activations="int8"), rng.normal(size=(T, N, I)).astype("f4")


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
def test_bits_do_not_depend_on_threads(N):
    seen = {run_python(CODE.format(N=N), GRU_XP_NUM_THREADS=threads, PYTHONHASHSEED="0") for threads in ("1", "2", "3")}
    assert len(seen) == 1 and next(iter(seen)).startswith("cpu")


def test_a_narrower_vector_gives_the_same_numbers():
    code = CODE.format(N=3).replace("hash(model(x)[0].tobytes() + model(x)[0].tobytes())", "np.abs(model(x)[0]).sum()")
    wide, narrow = (run_python(code, **env).split() for env in ({}, {"GRU_XP_CPU_WIDTH": "256"}))
    assert wide[0] == "cpu"
    if narrow[0] == "cpu":
        assert abs(float(wide[1]) - float(narrow[1])) < 1.0
