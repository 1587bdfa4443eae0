"""What becomes of each option of Keras's layers: files that set each to a value that is not its default."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import pytest
from keras_loop import VERSIONS, unpacked

from gru_xp import files
from gru_xp.errors import GRUError
from gru_xp.formats.keras.options import OPTIONS
from gru_xp.params import weights_of
from gru_xp.stored import StoredGRU

keras = pytest.importorskip("keras")
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # Keras, of its own arrays
L = keras.layers
H = 3
OTHER: dict[str, Any] = {  # a value for each option that is not the one in the files
    "name": "other",
    "dynamic": True,
    "batch_input_shape": [None, 9, 2],
    "batch_shape": [None, 9, 2],
    "input_shape": [9, 2],
    "input_dim": 2,
    "input_length": 9,
    "batch_size": 7,
    "input_dtype": "float64",
    "ragged": True,
    "sparse": True,
    "trainable": False,
    "dtype": "mixed_float16",
    "return_sequences": False,
    "return_state": True,
    "go_backwards": True,
    "stateful": True,
    "time_major": True,
    "unroll": True,
    "activity_regularizer": "l2",
    "zero_output_for_mask": True,
    "num_constants": 1,
    "units": 4,
    **dict.fromkeys(("kernel_initializer", "recurrent_initializer", "bias_initializer"), "ones"),
    **dict.fromkeys(("kernel_regularizer", "recurrent_regularizer", "bias_regularizer"), "l1"),
    **dict.fromkeys(("kernel_constraint", "recurrent_constraint", "bias_constraint"), "non_neg"),
    "activation": "relu",
    "recurrent_activation": "hard_sigmoid",
    "use_bias": False,
    "reset_after": False,
    "dropout": 0.3,
    "recurrent_dropout": 0.4,
    "implementation": 1,
    "enable_caching_device": True,
    "use_cudnn": False,
    "seed": 5,
    "merge_mode": "ave",
    "reverse_state_order": True,
    "cell": {"class_name": "LSTMCell", "config": {}},
    "cells": [],
    "layer": None,
    "backward_layer": None,
}
INNER = ("cell", "layer", "backward_layer", "cells")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of Keras 3 with one layer of each class; the arrays are any."""
    made = {
        "GRU": L.GRU(H, return_sequences=True),
        "GRUCell": L.RNN(L.GRUCell(H), return_sequences=True),
        "RNN": L.RNN(L.GRUCell(H), return_sequences=True),
        "StackedRNNCells": L.RNN([L.GRUCell(H), L.GRUCell(H)], return_sequences=True),
        "Bidirectional": L.Bidirectional(L.GRU(H, return_sequences=True)),
    }
    paths = {}
    for kind, layer in made.items():
        paths[kind] = tmp_path_factory.mktemp("models") / "m.keras"
        keras.Sequential([keras.Input((None, 2)), layer]).save(paths[kind])
    return paths


def described(kind: str, layer: Any) -> Any:
    """The description of the class in that of the layer that holds it."""
    return layer["config"]["cell"]["config"] if kind in ("GRUCell", "StackedRNNCells") else layer["config"]


def changed(source: Path, target: Path, kind: str, **options: Any) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                described(kind, config["config"]["layers"][1]).update(options)
                data = json.dumps(config).encode()
            new.writestr(name, data)
    return target


def read(path: Path) -> StoredGRU | str:
    try:
        found = files.contents(path)
    except GRUError as error:
        return str(error)
    return found.grus[0] if found.grus else str(found.refused)


def outcome(gru: StoredGRU | str) -> Any:
    """Everything but the notes and the name."""
    if isinstance(gru, str):
        return gru
    return gru.spec, gru.batch_first, gru.dtype, gru.dropout, [a.tobytes() for a in weights_of(gru.params)]


CASES = [
    (kind, option) for kind in ("GRU", "GRUCell", "RNN", "StackedRNNCells", "Bidirectional") for option in OPTIONS[kind]
]


@pytest.mark.parametrize(("kind", "option"), CASES, ids=[f"{kind}.{option.name}" for kind, option in CASES])
def test_an_option_does_what_the_table_says(models: dict[str, Path], tmp_path: Path, kind: str, option: Any) -> None:
    plain = read(models[kind])
    other = read(changed(models[kind], tmp_path / "m.keras", kind, **{option.name: OTHER[option.name]}))
    assert isinstance(plain, StoredGRU)
    said = [] if isinstance(other, str) else [n.what for n in other.report.notes if n not in plain.report.notes]
    if option.fate == "noted":
        assert outcome(other) == outcome(plain)
        assert len(said) == 1 and said[0].startswith(f"{option.name}=")
    elif option.fate == "refused":
        assert isinstance(other, str) and f"{option.name}=1: {option.words}" in other
    elif option.words.startswith("all its values give the same numbers"):
        assert outcome(other) == outcome(plain) and not said
    elif option.name == "dtype":  # of the weights, and a policy that computes in another is said
        assert said == ["the policy mixed_float16"]
    elif option.name == "units":  # the shapes of the arrays say it, and the description may not contradict them
        assert isinstance(other, str)
    else:
        assert outcome(other) != outcome(plain) or isinstance(other, str)


def test_every_option_of_keras_3_is_in_the_table(models: dict[str, Path]) -> None:
    for kind, path in models.items():
        with zipfile.ZipFile(path) as archive:
            layer = json.loads(archive.read("config.json"))["config"]["layers"][1]
        known = {option.name for option in OPTIONS[kind]}
        assert described(kind, layer).keys() <= known


@pytest.mark.parametrize("version", VERSIONS)
def test_every_option_of_keras_2_is_in_the_table(tmp_path: Path, version: str) -> None:
    folder = unpacked(version, tmp_path)
    seen: dict[str, set[str]] = {}

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("class_name") in OPTIONS and isinstance(node.get("config"), dict):
                seen.setdefault(node["class_name"], set()).update(node["config"])
            node = list(node.values())
        for child in node if isinstance(node, list) else ():
            walk(child)

    for file in ("options.keras", "cudnn.keras"):
        data = (folder / file).read_bytes()
        if data[:2] == b"PK":
            with zipfile.ZipFile(folder / file) as archive:
                walk(json.loads(archive.read("config.json")))
    assert {"GRU", "GRUCell", "RNN", "StackedRNNCells", "Bidirectional"} <= seen.keys()
    for kind, options in seen.items():
        assert options <= {option.name for option in OPTIONS[kind]}


def test_no_option_is_there_twice() -> None:
    for options in OPTIONS.values():
        names = [option.name for option in options]
        assert len(names) == len({*names})
        assert {option.fate for option in options} <= {"read", "noted", "refused"}


def test_numbers_do_not_depend_on_how_they_are_computed(models: dict[str, Path], tmp_path: Path) -> None:
    """By Keras itself: implementation, unroll, seed."""
    x = np.random.default_rng(0).normal(size=(2, 5, 2)).astype("f4")
    model = keras.Sequential([keras.Input((5, 2)), L.GRU(H, return_sequences=True)])
    y = keras.ops.convert_to_numpy(model(x))
    for options in ({"implementation": 1}, {"unroll": True}, {"seed": 7}):
        other = keras.Sequential([keras.Input((5, 2)), L.GRU(H, return_sequences=True, **options)])
        other.set_weights(model.get_weights())
        np.testing.assert_allclose(keras.ops.convert_to_numpy(other(x)), y, rtol=1e-5, atol=1e-6)
