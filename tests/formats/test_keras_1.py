"""Keras 1 and keras-team's Keras 2, in the layouts that they wrote: made here by h5py, as neither runs any more.

The right values are a loop in float64 over the arrays. The layouts are from the sources of Keras 1.0.0, 1.2.2, 2.0.0,
2.1.4, 2.2.5 and 2.3.1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_loop import assert_near, keras_loop, outputs

import gru_xp
from gru_xp import errors, files
from gru_xp.stored import StoredGRU

h5py = pytest.importorskip("h5py")
N, T, I, H = 3, 6, 4, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, I)).astype("f4")


def drawn(inputs: int = I, *, two_biases: bool = False) -> list[Any]:
    """kernel, recurrent_kernel and bias of Keras 2, and so of `consume_less="gpu"` in Keras 1."""
    shapes = (inputs, 3 * H), (H, 3 * H), (2, 3 * H) if two_biases else (3 * H,)
    return [RNG.normal(scale=1.2, size=shape).astype("f4") for shape in shapes]


def keras_1_arrays(name: str, arrays: list[Any], *, gpu: bool = False) -> dict[str, Any]:
    if gpu:
        return {f"{name}_{letter}": array for letter, array in zip("WUb", arrays, strict=True)}
    gates = [np.split(array, 3, axis=-1) for array in arrays]
    return {f"{name}_{letter}_{gate}": gates[i][k] for k, gate in enumerate("zrh") for i, letter in enumerate("WUb")}


def write(path: Path, config: Any, layers: dict[str, dict[str, Any]], version: str | None = None) -> Path:
    """A whole model, or weights alone if there is no description."""
    with h5py.File(path, "w") as file:
        root = file
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
            root = file.create_group("model_weights")
        if version is not None:
            file.attrs["keras_version"] = version.encode()
            root.attrs["keras_version"] = version.encode()
        root.attrs["layer_names"] = [name.encode() for name in layers]
        for name, arrays in layers.items():
            group = root.create_group(name)
            group.attrs["weight_names"] = [each.encode() for each in arrays]
            for each, array in arrays.items():
                group[each] = array
    return path


def gru_1(name: str, **options: Any) -> dict[str, Any]:
    """How Keras 1.2.2 describes a GRU."""
    config = {
        "name": name,
        "trainable": True,
        "return_sequences": True,
        "go_backwards": False,
        "stateful": False,
        "unroll": False,
        "consume_less": "cpu",
        "input_dim": I,
        "input_length": None,
        "output_dim": H,
        "init": "glorot_uniform",
        "inner_init": "orthogonal",
        "activation": "tanh",
        "inner_activation": "hard_sigmoid",
        "W_regularizer": None,
        "U_regularizer": None,
        "b_regularizer": None,
        "dropout_W": 0.0,
        "dropout_U": 0.0,
    }
    assert not options.keys() - config.keys()
    return {"class_name": "GRU", "config": config | options}


def one(path: Path) -> StoredGRU:
    (gru,) = files.contents(path).grus
    return gru


@pytest.mark.parametrize("version", [None, "1.2.2"])
@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("gates", ["hard_sigmoid", "sigmoid"])
def test_a_gru_of_keras_1(tmp_path: Path, version: str | None, gpu: bool, gates: str) -> None:
    """Of a Sequential, which is described by the list of its layers; the first versions wrote no version."""
    arrays = drawn()
    layer = gru_1("gru_1", inner_activation=gates, consume_less="gpu" if gpu else "mem")
    config = {"class_name": "Sequential", "config": [layer]}
    gru = one(write(tmp_path / "m.h5", config, {"gru_1": keras_1_arrays("gru_1", arrays, gpu=gpu)}, version))
    assert gru.name == "gru_1" and gru.report.exact and gru.batch_first
    assert_near(outputs(gru, X)[0], keras_loop(X, arrays, gates, reset_after=False))


def test_the_options_of_keras_1(tmp_path: Path) -> None:
    arrays = drawn()
    layer = gru_1(
        "gru_1",
        activation="relu",
        go_backwards=True,
        dropout_W=0.25,
        dropout_U=0.5,
        W_regularizer={"name": "WeightRegularizer", "l1": 0.1},
        return_sequences=False,
        stateful=True,
    )
    config = {"class_name": "Sequential", "config": [layer]}
    gru = one(write(tmp_path / "m.h5", config, {"gru_1": keras_1_arrays("gru_1", arrays)}, "1.2.2"))
    expected = keras_loop(X, arrays, "hard_sigmoid", "relu", reset_after=False, backwards=True)
    assert_near(outputs(gru, X)[0], expected)
    assert {(note.fate, note.what) for note in gru.report.notes} == {
        ("exact", "the weights"),
        ("ignored", "return_sequences=False"),
        ("ignored", "stateful=True"),
        ("ignored", "dropout_W=0.25"),
        ("ignored", "dropout_U=0.5"),
        ("ignored", "W_regularizer=WeightRegularizer"),
        ("changed", "go_backwards"),
    }


def test_a_bidirectional_of_keras_1(tmp_path: Path) -> None:
    """Its halves lie in one list, the forward layer's first. In the padding y holds the last state."""
    forward, backward = drawn(), drawn()
    layer = {"class_name": "Bidirectional", "config": {"name": "b", "trainable": True, "merge_mode": "concat"}}
    layer["config"]["layer"] = gru_1("gru_1")
    layers = {"b": keras_1_arrays("forward_gru_1", forward) | keras_1_arrays("backward_gru_1", backward)}
    gru = one(write(tmp_path / "m.h5", {"class_name": "Sequential", "config": [layer]}, layers, "1.2.2"))
    expected = [
        keras_loop(X, arrays, "hard_sigmoid", reset_after=False, backwards=way)
        for way, arrays in ((False, forward), (True, backward))
    ]
    assert_near(outputs(gru, X)[0], np.concatenate(expected, axis=2))
    assert gru.spec.padding == "hold" and gru.report.exact


def test_a_model_of_keras_1_with_models_in_it(tmp_path: Path) -> None:
    """A functional model around a Sequential, masks and a stack; nodes are ["layer", 0, 0], dropout is `p`."""
    first, second, third = drawn(), drawn(H), drawn(H)
    inner = {"class_name": "Sequential", "name": "sequential_1", "config": [gru_1("gru_1"), gru_1("gru_2")]}
    layers = [
        {"class_name": "InputLayer", "name": "x", "config": {"name": "x"}, "inbound_nodes": []},
        {"class_name": "Masking", "name": "m", "config": {"name": "m"}, "inbound_nodes": [[["x", 0, 0]]]},
        inner | {"inbound_nodes": [[["m", 0, 0]]]},
        {"class_name": "Dropout", "name": "d", "config": {"name": "d", "p": 0.5}},
        gru_1("gru_3") | {"name": "gru_3", "inbound_nodes": [[["d", 0, 0]]]},
    ]
    layers[3]["inbound_nodes"] = [[["sequential_1", 1, 0]]]
    config = {"name": "model_1", "layers": layers, "input_layers": [["x", 0, 0]], "output_layers": [["gru_3", 0, 0]]}
    stored = {
        "sequential_1": keras_1_arrays("gru_1", first) | keras_1_arrays("gru_2", second),
        "gru_3": keras_1_arrays("gru_3", third),
    }
    found = files.contents(write(tmp_path / "m.h5", {"class_name": "Model", "config": config}, stored, "1.2.2"))
    grus = {gru.name: gru for gru in found.grus}
    assert sorted(grus) == ["gru_3", "sequential_1.gru_1+sequential_1.gru_2"]
    assert all([n.what for n in gru.report.notes if n.fate == "changed"] == ["the mask"] for gru in grus.values())
    y = keras_loop(X, first, "hard_sigmoid", reset_after=False)
    y = keras_loop(y, second, "hard_sigmoid", reset_after=False)
    assert_near(outputs(grus["sequential_1.gru_1+sequential_1.gru_2"], X)[0], y, 20)
    assert_near(outputs(grus["gru_3"], y.astype("f4"))[0], keras_loop(y, third, "hard_sigmoid", reset_after=False))


def test_a_sequential_without_a_name_in_another(tmp_path: Path) -> None:
    """As Keras described it before 2.2.3: the group in the file has a name that the description does not say."""
    first, second = drawn(), drawn(H)
    config = {"class_name": "Sequential", "config": [{"class_name": "Sequential", "config": [gru_1("a")]}, gru_1("b")]}
    layers = {"sequential_1": keras_1_arrays("a", first), "b": keras_1_arrays("b", second)}
    found = files.contents(write(tmp_path / "m.h5", config, layers, "1.2.2"))
    grus = {gru.name: gru for gru in found.grus}
    assert sorted(grus) == ["b", "sequential.a"]
    assert_near(outputs(grus["sequential.a"], X)[0], keras_loop(X, first, "hard_sigmoid", reset_after=False))


def test_a_merge_of_keras_1_holds_models(tmp_path: Path) -> None:
    """Its models' layers have groups of their own."""
    first, second = drawn(), drawn()
    models = [{"class_name": "Sequential", "config": [gru_1(name)]} for name in ("left", "right")]
    merge = {"class_name": "Merge", "config": {"layers": models, "mode": "concat", "name": "merge_1"}}
    layers = {"left": keras_1_arrays("left", first), "right": keras_1_arrays("right", second)}
    found = files.contents(write(tmp_path / "m.h5", {"class_name": "Sequential", "config": [merge]}, layers, "1.1.0"))
    for gru, arrays in zip(found.grus, (first, second), strict=True):
        assert_near(outputs(gru, X)[0], keras_loop(X, arrays, "hard_sigmoid", reset_after=False))


# ---- keras-team's Keras 2 --------------------------------------------------------------------------------------------


def gru_2(name: str, **options: Any) -> dict[str, Any]:
    """How Keras 2.1.4 describes a GRU; 2.1.5 and later say reset_after too."""
    zeros = {"class_name": "Zeros", "config": {}}
    config = {
        "name": name,
        "trainable": True,
        "return_sequences": True,
        "return_state": False,
        "go_backwards": False,
        "stateful": False,
        "unroll": False,
        "units": H,
        "activation": "tanh",
        "use_bias": True,
        "recurrent_activation": "hard_sigmoid",
        "dropout": 0.0,
        "recurrent_dropout": 0.0,
        "implementation": 1,
        **dict.fromkeys(("kernel_initializer", "recurrent_initializer", "bias_initializer"), zeros),
        **dict.fromkeys(("kernel_regularizer", "recurrent_regularizer", "bias_regularizer", "activity_regularizer")),
        **dict.fromkeys(("kernel_constraint", "recurrent_constraint", "bias_constraint")),
    }
    return {"class_name": "GRU", "config": config | options}


def keras_2_arrays(name: str, arrays: list[Any], end: str = ":0") -> dict[str, Any]:
    names = ("kernel", "recurrent_kernel", "bias")[: len(arrays)]
    return {f"{name}/{each}{end}": array for each, array in zip(names, arrays, strict=True)}


@pytest.mark.parametrize("end", [":0", ""])  # of TensorFlow, of Theano
def test_a_gru_before_reset_after(tmp_path: Path, end: str) -> None:
    """reset_after came with 2.1.5; without it the gate acts before the product."""
    arrays = drawn()
    path = write(
        tmp_path / "m.h5",
        {"class_name": "Sequential", "config": [gru_2("gru_1")]},
        {"gru_1": keras_2_arrays("gru_1", arrays, end)},
        "2.1.4",
    )
    gru = one(path)
    assert not gru.spec.reset_after and gru.report.exact
    assert_near(outputs(gru, X)[0], keras_loop(X, arrays, "hard_sigmoid", reset_after=False))


def test_a_gru_without_biases_before_reset_after(tmp_path: Path) -> None:
    """The shapes say nothing of reset_after."""
    arrays = drawn()[:2]
    config = {"class_name": "Sequential", "config": [gru_2("gru_1", use_bias=False)]}
    gru = one(write(tmp_path / "m.h5", config, {"gru_1": keras_2_arrays("gru_1", arrays)}, "2.0.9"))
    assert_near(outputs(gru, X)[0], keras_loop(X, arrays, "hard_sigmoid", reset_after=False))


def test_reset_after_of_keras_2_2(tmp_path: Path) -> None:
    arrays = drawn(two_biases=True)
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": [gru_2("gru_1", reset_after=True)]}}
    gru = one(write(tmp_path / "m.h5", config, {"gru_1": keras_2_arrays("gru_1", arrays)}, "2.2.5"))
    assert gru.spec.reset_after
    assert_near(outputs(gru, X)[0], keras_loop(X, arrays, "hard_sigmoid"))


def test_a_bidirectional_holds_in_the_padding_before_tf_keras(tmp_path: Path) -> None:
    """tf.keras makes both halves put zeros there; keras-team's Keras up to 2.3.1 and TensorFlow 1.12 do not."""
    arrays = {
        f"b/{half}_gru_1/{each}": array
        for half in ("forward", "backward")
        for each, array in zip(("kernel:0", "recurrent_kernel:0", "bias:0"), drawn(), strict=True)
    }
    layer = {"class_name": "Bidirectional", "config": {"name": "b", "merge_mode": "concat", "layer": gru_2("gru_1")}}
    for version, padding in (("2.3.1", "hold"), ("2.1.6-tf", "hold"), ("2.2.4-tf", "zero"), ("2.4.0", "zero")):
        config = {"class_name": "Sequential", "config": {"name": "s", "layers": [layer]}}
        assert one(write(tmp_path / "m.h5", config, {"b": arrays}, version)).spec.padding == padding


def test_stacked_cells_whose_states_are_reversed(tmp_path: Path) -> None:
    first, second = drawn(), drawn(H)
    cells = [{"class_name": "GRUCell", "config": cell} for cell in (gru_2("c")["config"], gru_2("d")["config"])]
    for cell in cells:
        for name in ("return_sequences", "return_state", "go_backwards", "stateful", "unroll", "activity_regularizer"):
            del cell["config"][name]
    stack = {"class_name": "StackedRNNCells", "config": {"name": "s", "cells": cells, "reverse_state_order": True}}
    rnn = {"class_name": "RNN", "config": {"name": "r", "return_sequences": True, "cell": stack}}
    arrays = keras_2_arrays("r/c", first) | keras_2_arrays("r/d", second)
    gru = one(write(tmp_path / "m.h5", {"class_name": "Sequential", "config": [rnn]}, {"r": arrays}, "2.3.1"))
    assert [note.what for note in gru.report.notes if note.fate == "changed"] == ["reverse_state_order=True"]
    y = keras_loop(X, first, "hard_sigmoid", reset_after=False)
    assert_near(outputs(gru, X)[0], keras_loop(y, second, "hard_sigmoid", reset_after=False), 20)


ALONE = (  # what wrote the weights, whether they have two biases, and the gates of a GRU that was told none
    ("1.2.2", False, "hard_sigmoid"),
    ("2.0.9", False, "hard_sigmoid"),
    ("2.1.6-tf", False, "hard_sigmoid"),
    ("2.2.4", True, "hard_sigmoid"),
    ("2.2.4-tf", False, "hard_sigmoid"),
    ("2.2.4-tf", True, "sigmoid"),
    ("2.3.1", False, "sigmoid"),
    ("2.3.0-tf", True, "sigmoid"),
    ("2.15.0", True, "sigmoid"),
)


@pytest.mark.parametrize(("version", "two_biases", "gates"), ALONE)
def test_weights_alone_get_the_defaults_of_their_keras(
    tmp_path: Path, version: str, two_biases: bool, gates: str
) -> None:
    arrays = drawn(two_biases=two_biases)
    layers = {"gru_1": keras_1_arrays("gru_1", arrays) if version < "2" else keras_2_arrays("gru_1", arrays)}
    path = write(tmp_path / "m.h5", None, layers, version)
    gru = one(path)
    assert gru.name == "gru_1"
    assert_near(outputs(gru, X)[0], keras_loop(X, arrays, gates, reset_after=two_biases))
    with pytest.warns(errors.ConversionWarning, match=f"assumed: .*recurrent_activation={gates}.*Keras {version}"):
        gru_xp.load(path)


def test_numbered_cells_make_one_bidirectional(tmp_path: Path) -> None:
    """tf.keras 2.0 to 2.12 number the cells, so that the two directions' have different names."""
    arrays = {
        f"bidirectional/{half}/{each}": array
        for half in ("forward_gru_1/gru_cell_2", "backward_gru_1/gru_cell_3")
        for each, array in zip(("kernel:0", "recurrent_kernel:0", "bias:0"), drawn(two_biases=True), strict=True)
    }
    gru = one(write(tmp_path / "m.h5", None, {"bidirectional": arrays}, "2.12.0"))
    assert gru.name == "bidirectional" and len(gru.params[0]) == 2
    halves = [list(arrays.values())[:3], list(arrays.values())[3:]]
    expected = [keras_loop(X, half, backwards=way) for way, half in zip((False, True), halves, strict=True)]
    assert_near(outputs(gru, X)[0], np.concatenate(expected, axis=2))


def test_arrays_without_any_attribute(tmp_path: Path) -> None:
    """As a script may write them, an optimiser's slots beside them."""
    arrays = drawn(two_biases=True)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for root in ("model_weights/gru", "optimizer_weights/Adam/m", "optimizer_weights/Adam/v"):
            for name, array in keras_2_arrays(f"{root}/gru/gru_cell", arrays).items():
                file[name] = array
    gru = one(tmp_path / "m.h5")
    assert gru.name == "gru" and not gru.report.exact
    assert_near(outputs(gru, X)[0], keras_loop(X, arrays))


REFUSED = (
    ({"peephole": True}, "peephole=True: an option of a GRU that gru_xp does not know; it may change its numbers"),
    ({"num_constants": 2}, "num_constants=2: its cell reads constants"),
    ({"activation": "scaled_tanh"}, "activation: expected one of .*, got 'scaled_tanh', which may be anybody's"),
    ({"recurrent_activation": "HardSigmoid"}, "got 'HardSigmoid', which may be anybody's function"),
    ({"activation": {"class_name": "PReLU", "config": {}}}, "the activation 'PReLU' is an object of its own"),
    ({"reset_after": True}, "its description and the shape of its bias do not agree"),
    ({"reset_after": 1}, "reset_after: expected True or False in its description, got 1"),
    ({"use_bias": False}, "its description and the shape of its bias do not agree"),
)


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_what_is_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    config = {"class_name": "Sequential", "config": [gru_2("gru_1", **options)]}
    path = write(tmp_path / "m.h5", config, {"gru_1": keras_2_arrays("gru_1", drawn())}, "2.2.5")
    with pytest.raises(errors.ConversionError, match=words):
        gru_xp.load(path)


def test_a_description_that_says_too_little(tmp_path: Path) -> None:
    """Keras 2.0.9 wrote of a GRUCell its name alone."""
    rnn = {"class_name": "RNN", "config": {"name": "r", "cell": {"class_name": "GRUCell", "config": {"name": "c"}}}}
    path = write(
        tmp_path / "m.h5", {"class_name": "Sequential", "config": [rnn]}, {"r": keras_2_arrays("r/c", drawn())}, "2.0.9"
    )
    with pytest.raises(errors.ConversionError, match="use_bias: expected True or False in its description, got None"):
        gru_xp.load(path)


def test_an_option_that_is_off_and_unknown_is_assumed_to_do_nothing(tmp_path: Path) -> None:
    config = {"class_name": "Sequential", "config": [gru_2("gru_1", peephole=False)]}
    path = write(tmp_path / "m.h5", config, {"gru_1": keras_2_arrays("gru_1", drawn())}, "2.2.5")
    with pytest.warns(errors.ConversionWarning, match="assumed: peephole=False: gru_xp does not know this option"):
        gru_xp.load(path)
