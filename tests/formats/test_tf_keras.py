"""Live layers and models of tf_keras, which is Keras 2, and its files, run by it. It comes with TensorFlow alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_loop import assert_near, outputs

import gru_xp
from gru_xp import errors, files

K = pytest.importorskip("tf_keras", reason="TensorFlow takes half a gigabyte")
tf = pytest.importorskip("tensorflow")
L = K.layers
N, T, I, H = 3, 6, 4, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, I)).astype("f4")
Y: dict[str, Any] = {"return_sequences": True}
LAYERS = {
    "plain": lambda: L.GRU(H, **Y),
    "hard": lambda: L.GRU(H, recurrent_activation="hard_sigmoid", **Y),
    "before": lambda: L.GRU(H, reset_after=False, **Y),
    "major": lambda: L.GRU(H, time_major=True, **Y),
    "both": lambda: L.Bidirectional(L.GRU(H, **Y)),
    "cells": lambda: L.RNN([L.GRUCell(H), L.GRUCell(H)], **Y),
}


def randomized(thing: Any) -> Any:
    thing.set_weights([RNG.normal(size=w.shape).astype(w.dtype) for w in thing.get_weights()])
    return thing


@pytest.mark.parametrize("what", LAYERS)
def test_live_layers(what: str) -> None:
    layer = LAYERS[what]()
    layer(X)
    y = randomized(layer)(X).numpy()
    (gru,) = files.formats()["keras"].adopt(layer).grus
    assert gru.batch_first == (what != "major") and gru.report.exact
    assert_near(outputs(gru, X)[0], y, 20)


def test_a_live_model_that_does_not_describe_itself() -> None:
    class Own(K.Model):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.other = L.Bidirectional(L.GRU(H, **Y), name="encoder"), L.LSTM(3, name="other")

        def call(self, x: Any) -> Any:
            return self.encoder(x), self.other(x)

    model = Own()
    model(X)
    assert_near(
        np.asarray(gru_xp.from_framework(randomized(model), name="encoder")(X)[0]), model.encoder(X).numpy(), 20
    )


def test_a_live_subclass_that_may_compute_anything() -> None:
    class Odd(L.GRU):
        def call(self, *arguments: Any, **options: Any) -> Any:
            return 2 * super().call(*arguments, **options)

    layer = Odd(H)
    layer(X)
    with pytest.raises(errors.ConversionError, match="a Odd may compute anything"):
        gru_xp.from_framework(layer)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize("file", ["m.keras", "m.h5"])
def test_tf_keras_runs_its_files(tmp_path: Path, file: str) -> None:
    layers = [L.Bidirectional(L.GRU(H, recurrent_activation="hard_sigmoid", **Y)) for _ in range(2)]
    randomized(K.Sequential([K.Input((T, I)), *layers])).save(tmp_path / file)
    (gru,) = files.contents(tmp_path / file).grus
    h0 = RNG.normal(size=(4, N, H)).astype("f4")
    for first, lengths in ((None, None), (h0, [T, 2, 5])):
        ran = files.formats()["keras"].run(tmp_path / file, gru, X.swapaxes(0, 1), first, lengths)
        assert ran is not None
        y, h_n = outputs(gru, X, h0=first, lengths=None if lengths is None else np.array(lengths))
        assert_near(ran[0], y.swapaxes(0, 1), 20)
        assert_near(ran[1], h_n, 20)
