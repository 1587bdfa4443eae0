"""Files that tf.keras 2.12 and 2.15 saved, and what they computed then (data/make_keras_2.py)."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_loop import VERSIONS, assert_near, outputs, unpacked

import gru_xp
from gru_xp import Activation, errors, files
from gru_xp.stored import StoredGRU

OPTIONS = (
    *("plain", "hard", "elu", "leaky", "before", "bare", "bare_before", "backwards", "major", "zeroed", "everything"),
    *("version_1", "last", "cell", "cells", "both", "both_sum", "both_other", "both_cell", "both_major"),
)
HARD = Activation("hard_sigmoid", 0.2, 0.5)


@pytest.fixture(scope="module", params=VERSIONS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = unpacked(request.param, tmp_path_factory.mktemp("keras"))
    with np.load(folder / "expected.npz") as expected:
        return folder, dict(expected)


def named(path: Path) -> dict[str, StoredGRU]:
    found = files.contents(path)
    assert not found.refused
    return {gru.name: gru for gru in found.grus}


@pytest.mark.parametrize("file", ["options.h5", "options.keras"])
def test_every_option_is_what_tf_keras_computes(saved: tuple[Path, Any], file: str) -> None:
    folder, expected = saved
    grus = named(folder / file)
    assert sorted(grus) == sorted(OPTIONS)
    x, mask = expected["x"], expected["mask"]
    for name, gru in grus.items():
        time_first = name.endswith("major")
        assert gru.batch_first != time_first
        for key, given, x_there in (
            (f"options/{name}", {}, x),
            (f"options/{name}/masked", {"mask": mask.T if time_first else mask}, x.swapaxes(0, 1) if time_first else x),
        ):
            y, h_n = outputs(gru, x_there, **given)
            if name == "backwards":
                y = y[:, ::-1]
            elif name == "both_sum":
                y = y[..., :2] + y[..., 2:]
            elif name == "last":
                y = h_n[0]
            assert_near(y, expected[key])


def test_what_the_options_are_called(saved: tuple[Path, Any]) -> None:
    folder, _ = saved
    grus = named(folder / "options.keras")
    assert {name for name, gru in grus.items() if gru.spec.gate_activation == HARD} == {
        *("hard", "elu", "version_1", "cell", "both")
    }
    assert {name for name, gru in grus.items() if gru.spec.padding == "zero"} == {
        *("zeroed", "both", "both_sum", "both_other", "both_cell", "both_major")
    }
    notes = {name: [(note.fate, note.what) for note in gru.report.notes[1:]] for name, gru in grus.items()}
    assert {name: each for name, each in notes.items() if each} == {
        "leaky": [("assumed", "activation=leaky_relu")],
        "backwards": [("changed", "go_backwards")],
        "everything": [
            ("ignored", "trainable=False"),
            ("ignored", "kernel_regularizer=L2"),
            ("ignored", "activity_regularizer=L1"),
            ("ignored", "bias_constraint=MaxNorm"),
            ("ignored", "dropout=0.1"),
            ("ignored", "recurrent_dropout=0.2"),
        ],
        "last": [("ignored", "return_sequences=False")],
        "both_sum": [("changed", "merge_mode='sum'")],
        "both_other": [("ignored", "dropout=0.5")],
    }


@pytest.mark.parametrize("file", ["options_weights.h5", "options.weights.h5"])
def test_weights_alone_say_what_is_assumed(saved: tuple[Path, Any], file: str) -> None:
    """And are right where the layer has the options that are assumed."""
    folder, expected = saved
    grus = named(folder / file)
    for gru in grus.values():
        (assumed,) = [note for note in gru.report.notes if note.fate == "assumed"]
        assert "recurrent_activation=sigmoid, activation=tanh" in assumed.what
        assert not gru.report.exact
    if file == "options_weights.h5":  # which has the layers' names
        for name in ("plain", "before", "bare", "zeroed", "everything", "both_other", "both_cell"):
            assert_near(outputs(grus[name], expected["x"])[0], expected[f"options/{name}"])
        bare = str(grus["bare"].report)
        assert "use_bias=False, reset_after=True" in bare and "arrays alone do not tell" in bare


@pytest.mark.parametrize("file", ["trained.h5", "trained.keras"])
def test_what_adam_keeps_is_no_gru(saved: tuple[Path, Any], file: str) -> None:
    folder, expected = saved
    grus = named(folder / file)
    assert list(grus) == ["a+b", "c"]
    both, last = grus["a+b"], grus["c"]
    mask = expected["trained/mask"]
    assert_near(outputs(both, expected["trained/x"], mask=mask)[0], expected["trained/b"], 20)
    assert_near(outputs(last, expected["trained/b"], mask=mask)[1][0], expected["trained/c"])
    assert last.spec.gate_activation == HARD
    assert all("the mask" in [note.what for note in gru.report.notes] for gru in grus.values())
    assert any("optimizer" in name for name in files.contents(folder / file).ignored)


def test_a_part_of_a_stack_by_its_name(saved: tuple[Path, Any]) -> None:
    folder, expected = saved
    with pytest.warns(errors.ConversionWarning, match="the mask"):
        a = gru_xp.load(folder / "trained.h5", name="a")
    assert_near(np.asarray(a(expected["trained/x"], mask=expected["trained/mask"])[0]), expected["trained/a"])


@pytest.mark.parametrize("file", ["nested.h5", "nested.keras"])
def test_models_in_models(saved: tuple[Path, Any], file: str) -> None:
    """A mask goes through all that hand it on, which Keras 2 does not describe."""
    folder, expected = saved
    grus = named(folder / file)
    assert sorted(grus) == ["a", "around.inside", "decoder", "encoder", "inner.e+inner.f"]
    changed = {name: [n.what for n in gru.report.notes if n.fate == "changed"] for name, gru in grus.items()}
    assert changed == {
        "a": ["the mask"],
        "inner.e+inner.f": ["the mask"],
        "encoder": ["the mask"],
        "decoder": ["the first state"],
        "around.inside": [],
    }
    x = expected["x"]
    inner = expected["nested/f"]
    assert_near(outputs(grus["a"], x)[0], expected["nested/a"])
    assert_near(outputs(grus["inner.e+inner.f"], expected["nested/a"])[0], inner, 20)
    assert_near(outputs(grus["encoder"], inner)[0], expected["nested/encoder"])
    assert_near(outputs(grus["decoder"], x)[1][0], expected["nested/decoder"])
    inside = [outputs(grus["around.inside"], x[:, step, :, None])[1][0] for step in range(x.shape[1])]
    assert_near(np.stack(inside, axis=1), expected["nested/inside"])


@pytest.mark.parametrize("file", ["cudnn.h5", "cudnn.keras", "cudnn_weights.h5"])
def test_cudnn_layers(saved: tuple[Path, Any], file: str) -> None:
    folder, expected = saved
    grus = named(folder / file)
    assert sorted(grus) == ["one", "two"]
    for name, gru in grus.items():
        assert_near(outputs(gru, expected["x"])[0], expected[f"cudnn/{name}"])
        assert gru.report.exact == (file != "cudnn_weights.h5")


# ---- versions --------------------------------------------------------------------------------------------------------


def rewritten(source: Path, target: Path, **entries: Any) -> Path:
    """A .keras file with other JSON in it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            key = name.removesuffix(".json")
            data = entries[key](json.loads(old.read(name))) if key in entries else None
            new.writestr(name, old.read(name) if data is None else json.dumps(data))
    return target


def test_the_version_says_which_hard_sigmoid(saved: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = saved
    for version, constants in (("2.99.0", (0.2, 0.5)), ("3.0.0", (1 / 6, 0.5)), ("3.15.1", (1 / 6, 0.5))):
        other = rewritten(
            folder / "options.keras", tmp_path / "v.keras", metadata=lambda _, v=version: {"keras_version": v}
        )
        gate = named_or_refused(other)["hard"].spec.gate_activation
        assert (gate.alpha, gate.beta) == constants


def named_or_refused(path: Path) -> dict[str, StoredGRU]:
    return {gru.name: gru for gru in files.contents(path).grus}


@pytest.mark.parametrize("version", [None, "4.0", "", 3])
def test_an_unknown_keras_is_refused(saved: tuple[Path, Any], tmp_path: Path, version: Any) -> None:
    folder, _ = saved
    other = rewritten(folder / "options.keras", tmp_path / "v.keras", metadata=lambda _: {"keras_version": version})
    with pytest.raises(errors.FileFormatError, match="expected the version of Keras"):
        files.contents(other)


def test_a_bidirectional_of_keras_2_says_keras_3_would_be_refused(saved: tuple[Path, Any], tmp_path: Path) -> None:
    """Keras 3 always describes the backward layer; where it does not, nothing says what it is."""
    folder, _ = saved
    other = rewritten(folder / "options.keras", tmp_path / "v.keras", metadata=lambda _: {"keras_version": "3.0.0"})
    refused = {refusal.name: refusal.reason for refusal in files.contents(other).refused}
    assert "may compute anything" in refused["both"] and "both_other" not in refused


def test_keras_2_runs_by_tf_keras_alone(saved: tuple[Path, Any]) -> None:
    """Keras 3 loads the file without a word and computes other numbers."""
    folder, expected = saved
    format_ = files.formats()["keras"]
    gru = named(folder / "options.keras")["hard"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "tf_keras", None)
        with pytest.raises(errors.BackendError, match=r"Keras 2\.1\d\.\d wrote it.*tf_keras runs it"):
            format_.run(folder / "options.keras", gru, expected["x"].swapaxes(0, 1), None, None)
