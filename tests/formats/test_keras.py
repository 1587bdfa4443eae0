"""Keras's models in files and live, run by Keras itself and by gru_xp, and the way back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import pytest

import gru_xp
from gru_xp import Activation, errors, files
from gru_xp.params import weights_of

keras = pytest.importorskip("keras")
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # Keras, of its own arrays
L = keras.layers
EPS = np.finfo("f4").eps
T, N, I, H = 9, 3, 4, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, I)).astype("f4")


def randomized(model: Any) -> Any:
    """All weights random and distinct, biases too, which Keras starts with zeros."""
    model.set_weights([RNG.normal(scale=0.3, size=w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def sequential(*layers: Any) -> Any:
    return randomized(keras.Sequential([keras.Input((None, I)), *layers]))


def values(array: Any) -> Any:
    """An array of Keras's backend as NumPy's."""
    return keras.ops.convert_to_numpy(array)


def every_way(model: Any, folder: Path, name: str | None = None) -> list[gru_xp.GRU]:
    """The model from its file and live."""
    path = folder / "model.keras"
    model.save(path)
    return [gru_xp.load(path, name=name), gru_xp.from_framework(model, name=name)]


def assert_near(got: Any, expected: Any, steps: int = T) -> None:
    expected = values(expected)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 4 * steps * EPS * max(1.0, np.abs(expected).max())


CELLS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "reset before": {"reset_after": False},
    "no biases": {"use_bias": False},
    "reset before, no biases": {"use_bias": False, "reset_after": False},
    "other activations": {"activation": "relu", "recurrent_activation": "hard_sigmoid"},
    "none": {"activation": None, "recurrent_activation": "sigmoid"},
    "elu": {"activation": "leaky_relu", "recurrent_activation": "sigmoid", "reset_after": False},
}


@pytest.mark.parametrize("what", CELLS)
@pytest.mark.parametrize("kind", ["layer", "cell", "both"])
def test_one_layer(tmp_path: Path, what: str, kind: str) -> None:
    options = CELLS[what]
    layer = (
        L.RNN(L.GRUCell(H, **options), return_sequences=True)
        if kind == "cell"
        else L.GRU(H, return_sequences=True, **options)
    )
    model = sequential(L.Bidirectional(layer) if kind == "both" else layer)
    for own in every_way(model, tmp_path):
        assert own.batch_first
        assert_near(own(X)[0], model(X))
    path = tmp_path / "back.keras"
    report = own.save(path)
    back = keras.models.load_model(path)
    assert [a.tobytes() for a in back.get_weights()] == [a.tobytes() for a in model.get_weights()]
    assert_near(own(X)[0], back(X))
    assert all(note.fate == "exact" or kind == "both" for note in report.notes)


def test_the_file_says_what_became_of_it(tmp_path: Path) -> None:
    model = sequential(L.GRU(H, dropout=0.1, recurrent_dropout=0.2, stateful=False, name="odd"))
    model.save(tmp_path / "m.keras")
    (gru,) = files.contents(tmp_path / "m.keras").grus
    assert gru.name == "odd"
    assert [(note.fate, note.what) for note in gru.report.notes] == [
        ("exact", "the weights"),
        ("ignored", "return_sequences=False"),
        ("ignored", "dropout=0.1"),
        ("ignored", "recurrent_dropout=0.2"),
    ]
    assert_near(gru_xp.load(tmp_path / "m.keras")(X)[1][0], model(X))


@pytest.mark.filterwarnings("ignore:.*differs from the original:gru_xp.errors.ConversionWarning")
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("kind", ["forwards", "backwards", "both"])
def test_masks_of_any_pattern(tmp_path: Path, kind: str, zero: bool) -> None:
    options = {"return_sequences": True, "return_state": True, "zero_output_for_mask": zero}
    layer = L.GRU(H, go_backwards=kind == "backwards", **options)
    if kind == "both":
        layer = L.Bidirectional(layer)
    layer(X)
    randomized(layer)
    model = gru_xp.from_framework(layer)
    mask = RNG.random((N, T)) < 0.6
    mask[0], mask[1, 3:] = True, False  # all of it, and a sequence that ends early
    y, *states = layer(X, mask=mask)
    own, h_n = model(X, mask=mask)
    y = values(y)
    if kind == "backwards":
        y = y[:, ::-1]
        assert model.spec.reverse
    if kind != "both" or zero:
        assert model.spec.padding == ("zero" if layer.get_config().get("zero_output_for_mask", zero) else "hold")
    assert_near(own, y)
    assert_near(h_n, np.stack([values(state) for state in states]))


def test_padding_before_the_first_step_with_a_first_state() -> None:
    """The one place where Keras's masks and ours differ: there y is zero, here the state that stands still."""
    layer = L.GRU(H, return_sequences=True)
    layer(X)
    randomized(layer)
    mask, h0 = np.arange(T) >= np.array([[0], [3], [T]]), RNG.normal(size=(N, H)).astype("f4")
    y = values(layer(X, mask=mask, initial_state=[h0]))
    own, h_n = gru_xp.from_framework(layer)(X, h0[None], mask=mask)
    assert_near(own[mask], y[mask])
    assert not y[~mask].any()
    np.testing.assert_array_equal(own[~mask], np.broadcast_to(h0[:, None], own.shape)[~mask])
    np.testing.assert_array_equal(h_n[0, 2], h0[2])


def test_stacks_are_recognised(tmp_path: Path) -> None:
    several = lambda **o: L.Bidirectional(L.GRU(H, return_sequences=True), **o)  # noqa: E731
    model = sequential(
        several(name="a"), L.Dropout(0.25), several(name="b"), L.Dropout(0.25), several(name="c"), L.Dense(2)
    )
    for own in every_way(model, tmp_path):
        assert (own.num_layers, own.bidirectional, own.dropout) == (3, True, 0.25)
        assert_near(values(model.layers[-1](own(X)[0])), model(X), 3 * T)
    assert [gru.name for gru in files.contents(tmp_path / "model.keras").grus] == ["a+b+c"]
    one = gru_xp.load(tmp_path / "model.keras", name="b")
    two = gru_xp.load(tmp_path / "model.keras", name="a+b")
    assert_near(one(values(model.layers[0](X)))[0], two(X)[0])
    ignored = files.contents(tmp_path / "model.keras").ignored
    assert ignored == ("layers/dense/vars/0", "layers/dense/vars/1")


def test_layers_with_other_readers_between_them_are_no_stack(tmp_path: Path) -> None:
    x = keras.Input((None, I))
    a = L.GRU(H, return_sequences=True, name="a")(x)
    b = L.GRU(H, return_sequences=True, name="b")(a)
    c = L.GRU(H, return_sequences=True, name="c")(b)  # b is read by two
    d = L.GRU(H, name="d")(b)
    inner = keras.Sequential([keras.Input((None, H)), L.GRU(3, name="e"), L.Dense(2)], name="inner")
    model = randomized(keras.Model(x, [c, d, inner(c), L.LSTM(3, name="f")(x), L.SimpleRNN(3, name="g")(x)]))
    model.save(tmp_path / "m.keras")
    for found in (files.contents(tmp_path / "m.keras"), files.formats()["keras"].adopt(model)):
        assert sorted(gru.name for gru in found.grus) == ["a+b", "c", "d", "inner.e"]
        assert {refusal.name for refusal in found.refused} == {"f", "g"}
    full = keras.Model(x, [b, c, d])
    expected = [values(y) for y in full(X)]
    b_own = gru_xp.load(tmp_path / "m.keras", name="a+b")(X)[0]
    assert_near(b_own, expected[0], 2 * T)
    assert_near(gru_xp.load(tmp_path / "m.keras", name="c")(b_own)[0], expected[1], 3 * T)
    assert_near(gru_xp.load(tmp_path / "m.keras", name="d")(b_own)[1][0], expected[2], 3 * T)
    with pytest.raises(errors.ConversionError, match="f: a layer of the class LSTM"):
        gru_xp.load(tmp_path / "m.keras", name="f")


def masked(how: str) -> Any:
    """A model that makes a mask of its input: a stack of two and a third GRU get it, and a last one does not."""
    both = [L.Bidirectional(L.GRU(H, return_sequences=True), name=name) for name in ("a", "b")]
    third, last = L.GRU(H, return_sequences=True, name="c"), L.GRU(3, name="d")
    front = [L.Embedding(7, I, mask_zero=True)] if how == "embedding" else [L.Masking(0.0)]
    if how == "nested":
        inner = keras.Sequential([keras.Input((T, I)), *both, third], name="inner")
        return keras.Sequential([keras.Input((T, I)), *front, inner, last])
    given = keras.Input((T,), dtype="int32") if how == "embedding" else keras.Input((T, I))
    if how == "sequential":
        return keras.Sequential([given, *front, both[0], L.Dropout(0.5), both[1], third, L.Conv1D(3, 1), last])
    x = given
    for layer in [*front, both[0], L.Dropout(0.5), both[1], third, L.Conv1D(3, 1), last]:
        x = layer(x)
    return keras.Model(given, x)


@pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning")
@pytest.mark.filterwarnings("ignore:Layer 'conv1d.* was passed a mask:UserWarning")
@pytest.mark.parametrize("how", ["functional", "sequential", "embedding", "nested"])
def test_masks_that_the_model_makes(tmp_path: Path, how: str) -> None:
    """They are no part of a layer: the report says where they act, and they do not keep layers from being a stack."""
    model = randomized(masked(how))
    model.save(tmp_path / "m.keras")
    for found in (files.contents(tmp_path / "m.keras"), files.formats()["keras"].adopt(model)):
        inner = "inner." if how == "nested" else ""
        reports = {gru.name: [note.what for note in gru.report.notes if note.fate == "changed"] for gru in found.grus}
        assert {name: whats for name, whats in reports.items() if name != "d"} == {
            f"{inner}a+{inner}b": ["the mask"],
            f"{inner}c": ["the mask"],
        }
        assert reports["d"] == []  # a convolution knows no mask, and no more does a model in a model
    with pytest.warns(errors.ConversionWarning, match="the mask: the model makes one, here every step counts"):
        own = gru_xp.load(tmp_path / "m.keras", name=f"{inner}a+{inner}b")
    if how != "functional":
        return
    x = X.copy()
    x[0, 7:] = x[1, 2:5] = 0
    y = keras.Model(model.input, model.get_layer("b").output)(x)
    assert_near(own(x, mask=x.any(axis=2))[0], y, 2 * T)


def test_a_first_state_that_the_model_computes(tmp_path: Path) -> None:
    x, other = keras.Input((None, I)), keras.Input((None, I))
    y, state = L.GRU(H, return_sequences=True, return_state=True, name="encoder")(x)
    decoded = L.GRU(H, return_sequences=True, name="decoder")(other, initial_state=state)
    model = randomized(keras.Model([x, other], [y, decoded]))
    model.save(tmp_path / "m.keras")
    for found in (files.contents(tmp_path / "m.keras"), files.formats()["keras"].adopt(model)):
        changed = {gru.name: [note.what for note in gru.report.notes if note.fate == "changed"] for gru in found.grus}
        assert changed == {"encoder": [], "decoder": ["the first state"]}


def test_stacked_cells(tmp_path: Path) -> None:
    model = sequential(L.RNN([L.GRUCell(H), L.GRUCell(H), L.GRUCell(H)], return_sequences=True))
    for own in every_way(model, tmp_path):
        assert own.num_layers == 3
        assert_near(own(X)[0], model(X), 3 * T)


@keras.saving.register_keras_serializable("tests")
class Own(keras.Model):
    """A subclassed model, whose description says nothing of its layers."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.encoder = L.Bidirectional(L.GRU(H, return_sequences=True))
        self.decoder = L.GRU(H)
        self.other = L.LSTM(3)

    def call(self, x: Any) -> Any:
        return self.decoder(self.encoder(x)), self.other(x)


@pytest.mark.filterwarnings("ignore:.*assumed:gru_xp.errors.ConversionWarning")
def test_a_model_of_its_own(tmp_path: Path) -> None:
    model = Own()
    model(X)
    randomized(model)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    expected = values(model.encoder(X))
    for file in ("m.keras", "m.weights.h5"):
        found = files.contents(tmp_path / file)
        assert sorted(gru.name for gru in found.grus) == ["decoder", "encoder"]
        assert [refusal.reason[:7] for refusal in found.refused] == ["an LSTM"]
        assert not found.grus[0].report.exact and "arrays alone do not tell" in str(found.grus[0].report)
        assert_near(gru_xp.load(tmp_path / file, name="encoder")(X)[0], expected)
    assert_near(gru_xp.from_framework(model, name=model.encoder.name)(X)[0], expected)


@pytest.mark.filterwarnings("ignore:.*assumed:gru_xp.errors.ConversionWarning")
def test_weights_alone(tmp_path: Path) -> None:
    for options in ({}, {"reset_after": False}):
        model = sequential(L.GRU(H, return_sequences=True, **options), L.Dense(2))
        model.save_weights(tmp_path / "m.weights.h5")
        own = gru_xp.load(tmp_path / "m.weights.h5")
        assert own.spec.reset_after is options.get("reset_after", True)
        assert_near(own(X)[0], model.layers[0](X))


H5: dict[str, dict[str, Any]] = {
    **CELLS,
    "backwards": {"go_backwards": True},
    "zeroes": {"zero_output_for_mask": True},
}


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.filterwarnings("ignore:.*differs from the original, go_backwards:gru_xp.errors.ConversionWarning")
@pytest.mark.parametrize("what", H5)
def test_the_older_h5_has_a_description(tmp_path: Path, what: str) -> None:
    """Keras 3 still writes it; what it says of a layer is an attribute."""
    model = sequential(
        L.GRU(H, return_sequences=True, name="a", **H5[what]),
        L.Bidirectional(L.GRU(3, return_sequences=True), name="b"),
    )
    model.save(tmp_path / "m.h5")
    a, b = (gru_xp.load(tmp_path / "m.h5", name=name) for name in "ab")
    y = values(model.layers[0](X))
    assert_near(a(X)[0], y[:, ::-1] if what == "backwards" else y)
    assert_near(b(y)[0], model(X))
    assert b.report is not None and b.report.exact
    assert a.spec.padding == ("zero" if what == "zeroes" else "hold")


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_the_older_h5_of_a_class_of_ones_own(tmp_path: Path) -> None:
    """Its options are Keras's, its name is not."""
    sequential(OwnGRU(H, name="odd")).save(tmp_path / "m.h5")
    found = files.contents(tmp_path / "m.h5")
    assert not found.grus and [refusal.name for refusal in found.refused] == ["odd"]
    with pytest.raises(errors.ConversionError, match="odd: .*may compute anything"):
        gru_xp.load(tmp_path / "m.h5")
    sequential(Block()).save(tmp_path / "m.h5")
    (gru,) = files.contents(tmp_path / "m.h5").grus
    assert [note.fate for note in gru.report.notes] == ["exact", "assumed"]


def test_what_training_leaves_in_a_file(tmp_path: Path) -> None:
    model = sequential(L.GRU(H))
    for optimizer in (keras.optimizers.Adam(), keras.optimizers.SGD(momentum=0.9)):
        model.compile(optimizer, "mse")
        model.train_on_batch(X, np.ones((N, H), "f4"))
        model.save(tmp_path / "m.keras")
        assert_near(gru_xp.load(tmp_path / "m.keras")(X)[1][0], model(X))


@pytest.mark.filterwarnings("ignore:.*differs from the original:gru_xp.errors.ConversionWarning")
@pytest.mark.parametrize("policy", ["float64", "float16", "bfloat16", "mixed_bfloat16"])
def test_other_dtypes(tmp_path: Path, policy: str) -> None:
    model = sequential(L.GRU(H, return_sequences=True, dtype=policy, recurrent_initializer="glorot_uniform"))
    dtype = "float32" if policy.startswith("mixed") else policy
    for own in [gru_xp.load((model.save(tmp_path / "m.keras"), tmp_path / "m.keras")[1], backend="torch")]:
        assert own.dtype == dtype
        own.save(tmp_path / "back.keras")
        back = keras.models.load_model(tmp_path / "back.keras")
        assert [a.tobytes() for a in back.get_weights()] == [a.tobytes() for a in model.get_weights()]
    found = files.contents(tmp_path / "m.keras").grus[0].report
    assert ("the policy" in str(found)) == policy.startswith("mixed")


def test_merge_modes(tmp_path: Path) -> None:
    model = sequential(L.Bidirectional(L.GRU(H, return_sequences=True), merge_mode="sum"), L.GRU(H))
    with pytest.warns(errors.ConversionWarning, match="differs from the original, merge_mode='sum': y holds") as told:
        ways = every_way(model, tmp_path, model.layers[0].name)
    ours = [warning.filename for warning in told if warning.category is errors.ConversionWarning]
    assert ours == [__file__] * 2
    for own in ways:
        assert own.report is not None and "changed: merge_mode='sum'" in str(own.report)
        y = own(X)[0]
        assert_near(y[..., :H] + y[..., H:], model.layers[0](X))
    assert "changed: merge_mode='sum'" in str(files.contents(tmp_path / "model.keras").grus[0].report)


def test_lookalikes_are_refused(tmp_path: Path) -> None:
    @keras.saving.register_keras_serializable("tests")
    class GRU(L.GRU):
        pass

    layer = GRU(H)
    layer(X)
    assert_near(gru_xp.from_framework(layer)(X)[1][0], layer(X))  # by its cell
    odd = L.GRU(H, activation=L.LeakyReLU(0.3))
    odd(X)
    with pytest.raises(errors.ConversionError, match="'LeakyReLU' is an object of its own"):
        gru_xp.from_framework(odd)
    odd = L.GRU(H, activation=lambda a: a)
    odd(X)
    with (
        pytest.warns(UserWarning, match="lambda"),
        pytest.raises(errors.ConversionError, match="'lambda' is an object of its own"),
    ):
        gru_xp.from_framework(odd)
    gelu = L.GRU(H, activation="gelu")
    gelu(X)
    with pytest.raises(errors.ConversionError, match="activation: expected one of .*, got 'gelu'"):
        gru_xp.from_framework(gelu)
    with pytest.raises(errors.ConversionError, match="never built"):
        gru_xp.from_framework(L.GRU(H))


def test_a_gru_in_a_wrapper(tmp_path: Path) -> None:
    """Its description stands in the wrapper's."""
    layer = L.GRU(H, activation="relu", return_sequences=True, name="inner")
    model = randomized(keras.Sequential([keras.Input((2, T, I)), L.TimeDistributed(layer, name="outer")]))
    x = RNG.normal(size=(N, 2, T, I)).astype("f4")
    for own in every_way(model, tmp_path):
        assert_near(np.stack([own(x[:, step])[0] for step in range(2)], axis=1), model(x))
    (gru,) = files.contents(tmp_path / "model.keras").grus
    assert gru.name == "outer.inner" and gru.report.exact


@keras.saving.register_keras_serializable("tests")
class OwnCell(L.Layer):
    """No GRU, with a GRU's arrays."""

    def __init__(self, units: int, **options: Any):
        super().__init__(**options)
        self.units = self.state_size = units

    def build(self, shape: Any) -> None:
        for name, *size in (("a", shape[-1], 3 * self.units), ("b", self.units, 3 * self.units), ("c", 3 * self.units)):
            self.add_weight(shape=size, name=name)

    def call(self, x: Any, states: Any) -> Any:
        a, b, c = self.weights
        state = (x @ a + states[0] @ b + c)[:, : self.units]
        return state, [state]

    def get_config(self) -> Any:
        return super().get_config() | {"units": self.units}


@keras.saving.register_keras_serializable("tests")
class OwnGRU(L.GRU):
    """May compute anything."""


@keras.saving.register_keras_serializable("tests")
class Block(L.Layer):
    """A layer whose description says nothing of the one in it."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.inside = L.GRU(H, recurrent_activation="hard_sigmoid", go_backwards=True)

    def call(self, x: Any) -> Any:
        return self.inside(x)


UNKNOWN = {
    "RNN": lambda: L.RNN(OwnCell(H), name="odd"),
    "Bidirectional": lambda: L.Bidirectional(L.RNN(OwnCell(H)), name="odd"),
    "OwnGRU": lambda: OwnGRU(H, name="odd"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_layers_that_may_compute_anything(tmp_path: Path, kind: str) -> None:
    """Arrays as a GRU's below a description that is not one's are not taken for a GRU."""
    sequential(UNKNOWN[kind]()).save(tmp_path / "m.keras")
    found = files.contents(tmp_path / "m.keras")
    assert not found.grus and [refusal.name for refusal in found.refused] == ["odd"]
    with pytest.raises(errors.ConversionError, match=f"odd: .*a {kind} that is described so may compute anything"):
        gru_xp.load(tmp_path / "m.keras")


def test_live_layers_that_may_compute_anything() -> None:
    class Odd(L.GRU):
        def call(self, sequences: Any, initial_state: Any = None, **options: Any) -> Any:
            return 2 * super().call(sequences, initial_state, **options)

    class OddCell(L.GRUCell):
        def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
            y, states = super().call(inputs, states, training)
            return 2 * y, states

    class Both(L.Bidirectional):
        def call(self, sequences: Any, initial_state: Any = None, **options: Any) -> Any:
            return 2 * super().call(sequences, initial_state, **options)

    class Around(L.RNN):
        def inner_loop(self, *args: Any, **options: Any) -> Any:
            return super().inner_loop(*args, **options)

    with keras.saving.custom_object_scope({"Odd": Odd}):
        odd_halves = L.Bidirectional(Odd(H))
    for layer, kind in (
        (Odd(H), "Odd"),
        (OddCell(H), "OddCell"),
        (Both(L.GRU(H)), "Both"),
        (Around(L.GRUCell(H)), "Around"),
        (L.RNN(OddCell(H)), "RNN"),
        (L.RNN([L.GRUCell(H), OddCell(H)]), "RNN"),
        (odd_halves, "Bidirectional"),
    ):
        layer(X[:, 0], [np.zeros((N, H), "f4")]) if kind == "OddCell" else layer(X)
        model = keras.Sequential([L.Identity(), layer]) if kind != "OddCell" else layer
        for thing in (layer, model):
            with pytest.raises(errors.ConversionError, match=f"GRU's weights, but a {kind} may compute anything"):
                gru_xp.from_framework(thing)


def test_a_live_subclass_that_computes_as_keras_does() -> None:
    class Named(L.GRU):
        def __init__(self, **options: Any):
            super().__init__(H, return_sequences=True, go_backwards=True, **options)

        def get_config(self) -> Any:
            return {"name": self.name}

    layer = Named(activation="relu")
    layer(X)
    with pytest.warns(errors.ConversionWarning, match="go_backwards"):
        model = gru_xp.from_framework(layer)
    assert_near(model(X)[0], values(layer(X))[:, ::-1])


def test_arrays_that_only_keras_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's, whose dtype is no name: a stand-in."""

    class Foreign:
        def __init__(self, array: Any):
            self._array, self.dtype = array, "<dtype: 'float32'>"

    layer = L.GRU(H, return_sequences=True)
    expected = values(layer(X))
    variable, read = type(layer.weights[0]), keras.ops.convert_to_numpy
    value = variable.value.fget
    monkeypatch.setattr(variable, "value", property(lambda self: Foreign(value(self))))
    monkeypatch.setattr("keras.ops.convert_to_numpy", lambda a: read(a._array))
    model = gru_xp.from_framework(layer)
    monkeypatch.undo()
    assert_near(model(X)[0], expected)


def test_live_bfloat16() -> None:
    layer = L.GRU(H, dtype="bfloat16", recurrent_initializer="glorot_uniform")
    layer(X)
    model = gru_xp.from_framework(layer, backend="torch")
    assert model.dtype == "bfloat16"
    ((w,),) = model.params
    z, r, n = np.split(values(layer.weights[0]).astype("f4"), 3, axis=1)
    np.testing.assert_array_equal(w.W_ih.float().numpy(), np.concatenate([r, z, n], axis=1).T)


def test_what_a_layer_of_its_own_holds_is_a_guess(tmp_path: Path) -> None:
    sequential(Block()).save(tmp_path / "m.keras")
    (gru,) = files.contents(tmp_path / "m.keras").grus
    assert [note.fate for note in gru.report.notes] == ["exact", "assumed"]
    assert not gru.report.exact


def test_keras_does_not_agree_with_itself_on_unrolled_padding(tmp_path: Path) -> None:
    for unroll in (False, True):
        layer = L.Bidirectional(L.GRU(H, return_sequences=True, unroll=unroll))
        randomized(keras.Sequential([keras.Input((T, I)), layer])).save(tmp_path / "m.keras")
        (gru,) = files.contents(tmp_path / "m.keras").grus
        assert ("unrolled GRU repeats the last output" in str(gru.report)) == unroll


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 3, "dropout": 0.5, "bidirectional": True},
    {"bias": False, "num_layers": 2},
    {"reverse": True},
    {"gate_activation": Activation.keras("hard_sigmoid"), "candidate_activation": "relu", "padding": "hold"},
]


@pytest.mark.filterwarnings("ignore:.*differs from the original:gru_xp.errors.ConversionWarning")
@pytest.mark.parametrize("options", OPTIONS)
def test_out_and_back(tmp_path: Path, options: dict[str, Any]) -> None:
    model = gru_xp.GRU(I, H, **options, batch_first=True, seed=0)
    path, weights = tmp_path / "m.keras", tmp_path / "m.weights.h5"
    model.save(path)
    model.save(weights)
    assert repr(gru_xp.load(path)) == repr(model)
    assert [a.tobytes() for a in weights_of(gru_xp.load(path).params)] == [
        a.tobytes() for a in weights_of(model.params)
    ]
    there = keras.models.load_model(path)
    y = values(there(X))
    assert_near(model(X)[0], y[:, ::-1] if model.spec.reverse else y, model.num_layers * T)
    there.set_weights([w * 0 for w in there.get_weights()])
    there.load_weights(weights)
    np.testing.assert_array_equal(values(there(X)), y)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_stack_in_a_file_of_arrays_says_how_it_is_loaded(tmp_path: Path, bidirectional: bool) -> None:
    model = gru_xp.GRU(I, H, 2, bidirectional=bidirectional, batch_first=True, seed=0)
    said = str(model.save(tmp_path / "m.weights.h5"))
    name = said.partition("or load it here with name='")[2].partition("'")[0]
    with pytest.warns(errors.ConversionWarning, match="assumed: go_backwards=False"):
        again = gru_xp.load(tmp_path / "m.weights.h5", name=name)
    assert [a.tobytes() for a in weights_of(again.params)] == [a.tobytes() for a in weights_of(model.params)]
    assert "name=" not in str(gru_xp.GRU(I, H, batch_first=True).save(tmp_path / "one.weights.h5"))


def test_two_biases_become_one(tmp_path: Path) -> None:
    model = gru_xp.GRU(I, H, reset_after=False, batch_first=True, seed=0)
    report = model.save(tmp_path / "m.keras")
    assert [(note.fate, note.what) for note in report.notes] == [("folded", "b_ih + b_hh of all gates")]
    assert_near(model(X)[0], keras.models.load_model(tmp_path / "m.keras")(X))
    again = gru_xp.load(tmp_path / "m.keras")
    assert again.save(tmp_path / "n.keras").exact


def test_what_keras_cannot_hold_is_not_written(tmp_path: Path) -> None:
    for options, words in (
        ({"clip": 1.0}, "clip=1.0: Keras's GRU knows None only"),
        ({"num_layers": 2, "reverse": True}, "reverse=True in several layers"),
        ({"gate_activation": "hard_sigmoid"}, r"hard_sigmoid\(alpha=0.2, beta=0.5\) has no name in Keras"),
    ):
        with pytest.raises(errors.ConversionError, match=words):
            gru_xp.GRU(I, H, **options).save(tmp_path / "m.keras")


def test_without_keras_and_h5py(tmp_path: Path) -> None:
    model = sequential(L.GRU(H, return_sequences=True))
    model.save(tmp_path / "m.keras")
    code = (
        "import sys; sys.modules['keras'] = sys.modules['h5py'] = None; import gru_xp; print(gru_xp.load(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m.keras")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith(
        "GRU(4, 5, batch_first"
    )


RUN = {
    "one": lambda: [L.GRU(H)],
    "both and a stack": lambda: [L.Bidirectional(L.GRU(H, return_sequences=True)) for _ in range(2)],
    "backwards": lambda: [L.GRU(H, go_backwards=True, reset_after=False)],
    "cells": lambda: [L.RNN([L.GRUCell(H), L.GRUCell(H)])],
    "inside": lambda: [keras.Sequential([keras.Input((None, I)), L.GRU(H)])],
}


@pytest.mark.parametrize("what", RUN)
def test_keras_runs_what_stands_in_a_file(tmp_path: Path, what: str) -> None:
    """Loaded and run by Keras, apart from gru_xp's reader."""
    path = tmp_path / "m.keras"
    sequential(*RUN[what]()).save(path)
    (gru,) = files.contents(path).grus
    rows = len(gru.params) * len(gru.params[0])
    h0 = RNG.normal(size=(rows, N, H)).astype("f4")
    x = X.transpose(1, 0, 2)
    model = gru_xp.GRU.from_params(gru.params, spec=gru.spec)
    for first, lengths in ((None, None), (h0, None), (None if what == "backwards" else h0, [T, 2, 5])):
        ran = files.formats()["keras"].run(path, gru, x, first, lengths)
        assert ran is not None
        for got, expected in zip(model(x, first, lengths=lengths), ran, strict=True):
            assert_near(got, expected, 2 * T)


@pytest.mark.parametrize("mode", ["sum", None])
def test_keras_runs_merged_and_stateful_layers(tmp_path: Path, mode: str | None) -> None:
    """As the two directions that they are, and for any batch."""
    path, given = tmp_path / "m.keras", keras.Input(batch_shape=(N, T, I))
    layer = L.Bidirectional(L.GRU(H, return_sequences=True, stateful=True), merge_mode=mode)
    randomized(keras.Model(given, layer(given))).save(path)
    (gru,) = files.contents(path).grus
    x = X.transpose(1, 0, 2)[:, :2]
    model = gru_xp.GRU.from_params(gru.params, spec=gru.spec)
    for _ in range(2):
        ran = files.formats()["keras"].run(path, gru, x, None, None)
        assert ran is not None
        for got, expected in zip(model(x), ran, strict=True):
            assert_near(got, expected)


def test_what_keras_refuses_to_run(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    sequential(L.GRU(H, return_sequences=True), L.Lambda(lambda y: 2 * y, output_shape=(None, H))).save(path)
    (gru,) = files.contents(path).grus
    with pytest.raises(errors.BackendError, match=r"Keras 3.* refuses: \w+: .*[Ll]ambda"):
        files.formats()["keras"].run(path, gru, X.transpose(1, 0, 2), None, None)


# ---- hostile ---------------------------------------------------------------------------------------------------------


def rewritten(path: Path, changes: dict[str, Any], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            change = changes.get(name, lambda data: data)
            if change is not None:
                archive.writestr(name, change(data))


def config_changed(data: bytes, **changes: Any) -> bytes:
    config = json.loads(data)
    config["config"]["layers"][1]["config"] |= changes
    return json.dumps(config).encode()


CHANGES: dict[str, dict[str, Any]] = {
    "no weights": {"model.weights.h5": None},
    "no description": {"config.json": None},
    "deep JSON": {"config.json": lambda _: b"[" * 1_000_000},
    "a bomb": {"model.weights.h5": lambda _: bytes(1 << 26)},
    "a description of another": {"config.json": lambda data: config_changed(data, units=3, use_bias=False)},
    "another equation": {"config.json": lambda data: config_changed(data, reset_after=False)},
    "a number for a flag": {"config.json": lambda data: config_changed(data, reset_after=1, go_backwards="yes")},
    "a list for a name": {"config.json": lambda data: config_changed(data, activation=["tanh"])},
}


@pytest.mark.parametrize("what", CHANGES)
def test_hostile_archives(tmp_path: Path, what: str) -> None:
    path = tmp_path / "m.keras"
    gru_xp.GRU(I, H, seed=0).save(path)
    rewritten(path, CHANGES[what], zipfile.ZIP_DEFLATED)
    with pytest.raises((errors.FileFormatError, errors.ConversionError), match=r"m\.keras"):
        gru_xp.load(path)
