"""Keras's arrays by hand: dicts, archives, `get_weights()`, TensorFlow 1's names, and weights in several files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import pytest
from keras_loop import assert_near, keras_loop, outputs

import gru_xp
from gru_xp import errors, files

N, T, I, H = 3, 6, 4, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, I)).astype("f4")
IGNORE_KERAS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def drawn(bias: tuple[int, ...] | None = (2, 3 * H), inputs: int = I) -> list[Any]:
    shapes = [(inputs, 3 * H), (H, 3 * H), *([bias] if bias else [])]
    return [RNG.normal(size=shape).astype("f4") for shape in shapes]


def keys(arrays: list[Any], end: str = "") -> dict[str, Any]:
    return {f"{name}{end}": a for name, a in zip(("kernel", "recurrent_kernel", "bias"), arrays, strict=False)}


BIASES: dict[str, tuple[Any, bool]] = {"two": ((2, 3 * H), True), "one": ((3 * H,), False), "none": (None, True)}


@pytest.mark.parametrize("end", ["", ":0"])
@pytest.mark.parametrize("what", BIASES)
def test_a_dict_of_kerass_names(what: str, end: str) -> None:
    bias, reset_after = BIASES[what]
    arrays = drawn(bias)
    model = gru_xp.from_framework({f"encoder/gru/{name}": a for name, a in keys(arrays, end).items()})
    assert model.batch_first and model.spec.reset_after == reset_after
    assert model.report is not None and "recurrent_activation=sigmoid" in str(model.report.assumed)
    assert ("reset_after=True" in str(model.report.assumed)) == (what == "none")  # which biases alone would say
    assert_near(np.asarray(model(X)[0]), keras_loop(X, arrays, reset_after=reset_after))


def test_an_archive_of_kerass_names(tmp_path: Path) -> None:
    arrays = drawn()
    np.savez(tmp_path / "m.npz", **keys(arrays), dense=np.zeros((5, 2)))
    with pytest.warns(errors.ConversionWarning, match="assumed: recurrent_activation=sigmoid"):
        model = gru_xp.load(tmp_path / "m.npz")
    assert_near(np.asarray(model(X)[0]), keras_loop(X, arrays))


def test_cudnns_arrays_in_a_dict() -> None:
    """The bytes of cuDNN's own matrices, (H, I) and (H, H) for each gate, whatever their shapes say."""
    arrays = drawn((6 * H,))
    model = gru_xp.from_framework(keys(arrays))
    kernel = np.hstack([gate.copy().reshape(H, I).T for gate in np.split(arrays[0], 3, axis=1)])
    recurrent = np.hstack([gate.T for gate in np.split(arrays[1], 3, axis=1)])
    assert_near(np.asarray(model(X)[0]), keras_loop(X, [kernel, recurrent, arrays[2].reshape(2, -1)]))


@pytest.mark.parametrize(("rows", "words"), [(4, "an LSTM: four gates"), (1, "a plain RNN: no gates")])
def test_other_layers_in_a_dict(rows: int, words: str) -> None:
    arrays = [RNG.normal(size=(I, rows * H)), RNG.normal(size=(H, rows * H)), RNG.normal(size=rows * H)]
    with pytest.raises(errors.ConversionError, match=words):
        gru_xp.from_framework(keys(arrays))


@pytest.mark.parametrize("names", ["kernel", "weights"])
def test_names_of_tensorflow_1_in_a_dict(names: str) -> None:
    """The second are those before 1.2. The gates stand in the order r, z; the state is reset before the product."""
    end = {"kernel": ("kernel", "bias"), "weights": ("weights", "biases")}[names]
    shapes = {"gates": (I + H, 2 * H), "candidate": (I + H, H)}
    made = {f"rnn/gru_cell/{part}/{end[0]}": RNG.normal(size=shape).astype("f4") for part, shape in shapes.items()}
    made |= {f"rnn/gru_cell/{part}/{end[1]}": RNG.normal(size=s[1]).astype("f4") for part, s in shapes.items()}
    gates, candidate, b, c = made.values()
    model = gru_xp.from_framework(made, batch_first=True)
    kernel = np.concatenate([gates[:, H:], gates[:, :H], candidate], axis=1)
    arrays = [kernel[:I], kernel[I:], np.concatenate([b[H:], b[:H], c])]
    assert_near(np.asarray(model(X)[0]), keras_loop(X, arrays, reset_after=False))


def test_gates_of_other_layers_are_ignored() -> None:
    """A mixture of experts has gates too."""
    weights = {"gru.weight_ih": np.zeros((15, 4), "f4"), "gru.weight_hh": np.zeros((15, 5), "f4")}
    found = files.formats()["tree"].adopt(weights | {"moe.gates.kernel": np.zeros((4, 4), "f4")})
    assert [gru.name for gru in found.grus] == ["gru"] and not found.refused


# ---- get_weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", BIASES)
def test_the_weights_of_a_layer(what: str) -> None:
    bias, reset_after = BIASES[what]
    arrays = drawn(bias)
    for given in (arrays, tuple(arrays)):
        model = gru_xp.from_framework(given)
        assert_near(np.asarray(model(X)[0]), keras_loop(X, arrays, reset_after=reset_after))


def test_the_weights_of_a_layer_of_keras_1() -> None:
    arrays = drawn((3 * H,))
    gates = [np.split(array, 3, axis=-1) for array in arrays]
    (gru,) = files.formats()["keras"].adopt([gates[i][k] for k in range(3) for i in range(3)]).grus
    assert_near(outputs(gru, X)[0], keras_loop(X, arrays, reset_after=False))


def test_the_weights_of_two_directions() -> None:
    """Both read x, which the second layer of a stack cannot, as I is not H."""
    forward, backward = drawn(), drawn()
    model = gru_xp.from_framework([*forward, *backward])
    expected = [keras_loop(X, forward), keras_loop(X, backward, backwards=True)]
    assert_near(np.asarray(model(X)[0]), np.concatenate(expected, axis=2))


def test_the_weights_of_a_stack_are_told_apart_by_their_places() -> None:
    embedding, dense = RNG.normal(size=(7, I)).astype("f4"), RNG.normal(size=(H, 2)).astype("f4")
    first, second = drawn(), drawn(inputs=H)
    weights = [embedding, *first, *second, dense, np.zeros(2, "f4")]
    with pytest.raises(errors.StructureError, match="several GRUs: '1', '4'"):
        gru_xp.from_framework(weights)
    model = gru_xp.from_framework(weights, name="1+4")
    assert_near(np.asarray(model(X)[0]), keras_loop(keras_loop(X, first), second), 20)
    assert files.formats()["keras"].adopt(weights).ignored == ("0", "7", "8")


def test_lists_that_are_no_grus() -> None:
    keras_format = files.formats()["keras"]
    for thing in ([], [np.zeros(3)], [np.zeros((4, 20)), np.zeros((5, 20)), np.zeros(20)], ["a"], [1.0, 2.0], [None]):
        assert not keras_format.adopts(thing)


# ---- several files ---------------------------------------------------------------------------------------------------


@IGNORE_KERAS
def test_weights_in_several_files(tmp_path: Path) -> None:
    """Keras 3 splits a layer's arrays, so that a single file has a part of a GRU."""
    keras = pytest.importorskip("keras")
    L = keras.layers
    layers = [L.GRU(20, return_sequences=True), L.Bidirectional(L.GRU(20, return_sequences=True)), L.Dense(3)]
    model = keras.Sequential([keras.Input((T, I)), *layers])
    model.set_weights([RNG.normal(scale=0.3, size=w.shape) for w in model.get_weights()])
    index = tmp_path / "m.weights.json"
    model.save_weights(index, max_shard_size=8e-6)
    shards = sorted(tmp_path.glob("*.h5"))
    assert len(shards) > 2
    for path in (index, tmp_path):
        gru, both = files.contents(path).grus
        y = outputs(gru, X)[0]
        assert_near(y, keras.ops.convert_to_numpy(model.layers[0](X)))
        assert_near(outputs(both, y)[0], keras.ops.convert_to_numpy(model.layers[1](y)), 20)
    for shard in shards:
        with pytest.raises(errors.FileFormatError, match=r"one of the files of m\.weights\.json; load that"):
            gru_xp.load(shard)
    shards[1].unlink()
    with pytest.raises(errors.FileFormatError, match=f"its weights are in '{shards[1].name}', which is not beside it"):
        gru_xp.load(index)


@IGNORE_KERAS
def test_a_numbered_file_that_is_whole(tmp_path: Path) -> None:
    """As a callback names the epochs."""
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((T, I)), keras.layers.GRU(H)])
    model.save_weights(tmp_path / "m_00003.weights.h5")
    assert len(files.contents(tmp_path / "m_00003.weights.h5").grus) == 1
