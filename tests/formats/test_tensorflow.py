"""TensorFlow's checkpoints, SavedModels and TensorFlow.js's layers, as TensorFlow itself wrote them, and by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_loop import VERSIONS, assert_near, keras_loop, outputs
from keras_loop import unpacked as keras_unpacked
from tensorflow_files import GRAPH, VALUE, block, entry, graph, message, table, unpacked, varint, write_checkpoint

import gru_xp
from gru_xp import Activation, errors, files
from gru_xp.stored import StoredGRU

HARD = Activation("hard_sigmoid", 0.2, 0.5)
N, T, I, H = 3, 6, 4, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, I)).astype("f4")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = unpacked(tmp_path_factory.mktemp("tensorflow"))
    with np.load(folder / "expected.npz") as expected:
        return folder, dict(expected)


def named(path: Path) -> dict[str, StoredGRU]:
    found = files.contents(path, batch_first=None)
    assert not found.refused
    return {gru.name: gru for gru in found.grus}


# ---- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", ["ckpt", "ckpt.index", "ckpt.data-00000-of-00001", "", "checkpoint"])
def test_a_checkpoint_by_each_of_its_names(tmp_path: Path, version: str, what: str) -> None:
    """That of a model which Adam has trained: its slots are no GRUs, and the layers' names are the variables'."""
    folder = keras_unpacked(version, tmp_path)
    grus = named(folder / "trained_checkpoint" / what)
    assert sorted(grus) == ["a", "b", "c"]
    with np.load(folder / "expected.npz") as expected:
        mask = expected["trained/mask"]
        assert_near(outputs(grus["a"], expected["trained/x"], mask=mask)[0], expected["trained/a"])
        assert_near(outputs(grus["b"], expected["trained/a"], mask=mask)[0], expected["trained/b"])
    for gru in grus.values():
        assert "recurrent_activation=sigmoid" in str(gru.report.assumed)  # c has hard_sigmoid, which arrays do not say
    with pytest.warns(errors.ConversionWarning, match="assumed: .*arrays alone do not tell"):
        gru_xp.load(folder / "trained_checkpoint" / what, name="c")


def test_a_checkpoint_of_an_own_class(saved: tuple[Path, Any]) -> None:
    found = files.contents(saved[0] / "own_checkpoint")
    assert [gru.name for gru in found.grus] == ["own/bidirectional", "own/gru_1"]
    assert [refusal.reason[:7] for refusal in found.refused] == ["an LSTM"]


def test_the_other_arrays_are_handed_out(saved: tuple[Path, Any]) -> None:
    found = files.contents(saved[0] / "tensorflow_1")
    assert found.arrays["beta1_power"].shape == ()
    assert "one/gru_cell/gates/kernel/Adam" in found.ignored and "one/gru_cell/gates/kernel" not in found.ignored


def test_cells_of_tensorflow_1(saved: tuple[Path, Any]) -> None:
    """Of tf.train.Saver: one cell, a MultiRNNCell, and bidirectional_dynamic_rnn, Adam's slots beside them."""
    folder, expected = saved
    found = files.contents(folder / "tensorflow_1", batch_first=True)
    grus = {gru.name: gru for gru in found.grus}
    stack = "+".join(f"stack/multi_rnn_cell/cell_{level}/gru_cell" for level in range(2))
    assert sorted(grus) == ["both", "one/gru_cell", stack]
    for name, key in (("both", "both"), ("one/gru_cell", "one"), (stack, "stack")):
        y, h_n = outputs(grus[name], expected["x"])
        assert_near(y, expected[f"tensorflow_1/{key}"], 20)
        assert_near(h_n, expected[f"tensorflow_1/{key}/state"], 20)
        assert not grus[name].spec.reset_after and "activation=tanh" in str(grus[name].report.assumed)
    unsaid = files.contents(folder / "tensorflow_1").grus[0]
    assert "batch_first=False" in unsaid.report.assumed


def gru_arrays(inputs: int = I, H: int = H) -> dict[str, Any]:
    shapes = {"kernel": (inputs, 3 * H), "recurrent_kernel": (H, 3 * H), "bias": (2, 3 * H)}
    return {name: RNG.normal(size=shape).astype("f4") for name, shape in shapes.items()}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("shards", [1, 3])
def test_shards_and_the_order_of_bytes(tmp_path: Path, order: str, shards: int) -> None:
    arrays = gru_arrays()
    write_checkpoint(tmp_path / "c", {f"gru/{name}": a for name, a in arrays.items()}, order=order, shards=shards)
    (gru,) = named(tmp_path / "c").values()
    assert_near(outputs(gru, X)[0], keras_loop(X, arrays.values()))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", {f"gru/{name}": a for name, a in gru_arrays().items()}, shards=2)
    (tmp_path / "c.data-00001-of-00002").unlink()
    with pytest.raises(errors.FileFormatError, match=r"its numbers are in c\.data-00001-of-00002, which is not beside"):
        gru_xp.load(tmp_path / "c")


@pytest.mark.parametrize("kind", ["block", "cudnn"])
def test_other_cells_of_tensorflow_1(tmp_path: Path, kind: str) -> None:
    """GRUBlockCell's names, and those of CudnnGRU, which resets after the product: TensorFlow 1's, by hand."""
    gates, candidate = RNG.normal(size=(I + H, 2 * H)).astype("f4"), RNG.normal(size=(I + H, H)).astype("f4")
    b, c, d = (RNG.normal(size=size).astype("f4") for size in (2 * H, H, H))
    if kind == "block":
        arrays = {"w_ru": gates, "b_ru": b, "w_c": candidate, "b_c": c}
        name = "rnn/gru_cell"
    else:
        arrays = {"gates/kernel": gates, "gates/bias": b, "candidate/input_projection/kernel": candidate[:I]}
        arrays |= {"candidate/input_projection/bias": c, "candidate/hidden_projection/kernel": candidate[I:]}
        arrays |= {"candidate/hidden_projection/bias": d}
        name = "rnn/multi_rnn_cell/cell_0/cudnn_compatible_gru_cell"
    write_checkpoint(tmp_path / "c", {f"{name}/{leaf}": array for leaf, array in arrays.items()})
    (gru,) = files.contents(tmp_path / "c", batch_first=True).grus
    assert gru.name == name
    h, ys = np.zeros((N, H)), []
    for x_t in X.astype("f8").swapaxes(0, 1):
        r, z = np.split(1 / (1 + np.exp(-(np.hstack([x_t, h]) @ gates + b))), 2, axis=1)
        if kind == "block":
            n = np.tanh(np.hstack([x_t, r * h]) @ candidate + c)
        else:
            n = np.tanh(x_t @ candidate[:I] + c + r * (h @ candidate[I:] + d))
        h = z * h + (1 - z) * n
        ys.append(h)
    assert_near(outputs(gru, X)[0], np.stack(ys, axis=1))


def cell(H: int = H, inputs: int = I) -> dict[str, Any]:
    shapes = {"gates/kernel": (inputs + H, 2 * H), "gates/bias": (2 * H,), "candidate/kernel": (inputs + H, H)}
    return {name: RNG.normal(size=shape).astype("f4") for name, shape in (shapes | {"candidate/bias": (H,)}).items()}


def test_a_stack_in_each_direction_is_no_bidirectional_stack(tmp_path: Path) -> None:
    """Its layers do not see one another's other direction; the one backwards says that it is assumed forwards."""
    arrays = {
        f"{way}/multi_rnn_cell/cell_{level}/gru_cell/{leaf}": array
        for way in ("fw", "bw")
        for level in range(2)
        for leaf, array in cell(inputs=H).items()
    }
    write_checkpoint(tmp_path / "c", arrays)
    grus = named(tmp_path / "c")
    assert len(grus) == 2 and all(len(gru.params) == 2 and len(gru.params[0]) == 1 for gru in grus.values())
    assert {name[:2]: "reverse=False" in gru.report.assumed for name, gru in grus.items()} == {"bw": True, "fw": False}


def test_stacked_layers_of_two_directions(tmp_path: Path) -> None:
    """As CudnnGRU and stack_bidirectional_dynamic_rnn name them."""
    arrays = {
        f"stack_bidirectional_rnn/cell_{level}/bidirectional_rnn/{way}/gru_cell/{leaf}": array
        for level in range(2)
        for way in ("fw", "bw")
        for leaf, array in cell(inputs=2 * H if level else I).items()
    }
    write_checkpoint(tmp_path / "c", arrays)
    (gru,) = named(tmp_path / "c").values()
    assert (len(gru.params), len(gru.params[0])) == (2, 2)


def test_a_cell_that_is_not_whole(tmp_path: Path) -> None:
    arrays = {f"rnn/gru_cell/{leaf}": array for leaf, array in cell().items() if leaf != "gates/bias"}
    write_checkpoint(tmp_path / "c", arrays)
    with pytest.raises(errors.ConversionError, match="expected gates bias too"):
        gru_xp.load(tmp_path / "c")


# ---- SavedModels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_saved_model_has_its_description(tmp_path: Path, version: str) -> None:
    folder = keras_unpacked(version, tmp_path)
    grus = named(folder / "saved_model")
    assert list(grus) == ["a+b", "c"]
    with np.load(folder / "expected.npz") as expected:
        mask = expected["trained/mask"]
        assert_near(outputs(grus["a+b"], expected["trained/x"], mask=mask)[0], expected["trained/b"], 20)
        assert_near(outputs(grus["c"], expected["trained/b"], mask=mask)[1][0], expected["trained/c"])
    assert grus["c"].spec.gate_activation == HARD
    assert not any(gru.report.assumed for gru in grus.values())


def test_a_saved_model_with_traces(saved: tuple[Path, Any]) -> None:
    """Which has other names for the variables."""
    folder, expected = saved
    for path in (folder / "traced", folder / "traced" / "saved_model.pb"):
        (gru,) = named(path).values()
        assert gru.report.exact
        assert_near(outputs(gru, expected["x"])[0], expected["traced/a"])


def test_a_saved_model_of_an_own_class(saved: tuple[Path, Any]) -> None:
    """Each layer describes itself, the model does not."""
    folder, expected = saved
    found = files.contents(folder / "own")
    assert [gru.name for gru in found.grus] == ["encoder", "blocks.0"]
    assert [(refusal.name, refusal.reason) for refusal in found.refused] == [("blocks.1", "a layer of the class LSTM")]
    encoder, block_ = found.grus
    assert_near(outputs(encoder, expected["x"])[0], expected["own/encoder"])
    assert_near(outputs(block_, expected["own/encoder"])[0][:, ::-1], expected["own/blocks.0"])


def test_descriptions_in_the_program_itself(saved: tuple[Path, Any], tmp_path: Path) -> None:
    """Where Keras wrote them until TensorFlow 2.4; by hand."""
    folder, expected = saved
    shutil.copytree(folder / "traced", tmp_path / "m")
    metadata = (tmp_path / "m" / "keras_metadata.pb").read_bytes()
    (tmp_path / "m" / "keras_metadata.pb").unlink()
    start, end = metadata.index(b'{"name": "sequential'), 0
    depth = 0
    for at in range(start, len(metadata)):
        depth += (metadata[at : at + 1] == b"{") - (metadata[at : at + 1] == b"}")
        if depth == 0:
            end = at + 1
            break
    root = metadata[start:end].decode()
    layer = json.loads(root)["config"]["layers"][-1]
    user = [message((4, message((3, json.dumps(layer | {"name": layer["config"]["name"]})))))]
    objects = [message((1, message((1, 1), (2, "layer_with_weights-0"))), (4, message((3, root)))), *user]
    (tmp_path / "m" / "saved_model.pb").write_bytes(message((2, message((7, message(*((1, o) for o in objects)))))))
    (gru,) = named(tmp_path / "m").values()
    assert gru.spec.gate_activation == HARD
    assert_near(outputs(gru, expected["x"])[0], expected["traced/a"])


UNREAD = {
    "tflite": "model.tflite",
    "frozen": "frozen.pb",
    "no variables": "empty",
}


@pytest.mark.parametrize("what", UNREAD)
def test_what_is_a_program_alone_is_named_with_the_way(saved: tuple[Path, Any], tmp_path: Path, what: str) -> None:
    shutil.copy(saved[0] / "model.tflite", tmp_path)
    shutil.copy(saved[0] / "model.tflite", tmp_path / "renamed")
    (tmp_path / "frozen.pb").write_bytes(b"\n\x05")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(
        errors.FileFormatError, match=r"a GRU is no layer any more; load .*model\.save\('model\.keras'\)"
    ):
        gru_xp.load(tmp_path / UNREAD[what])
    with pytest.raises(errors.FileFormatError, match="a TensorFlow Lite model"):
        gru_xp.load(tmp_path / "renamed")


def test_folders_and_names_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(errors.FileFormatError, match="a folder of a known format: shards, a SavedModel, a checkpoint"):
        gru_xp.load(tmp_path / "f")
    with pytest.raises(FileNotFoundError):
        gru_xp.load(tmp_path / "ckpt")


def test_nothing_is_written() -> None:
    with pytest.raises(errors.ConversionError, match="tensorflow cannot be written to files"):
        gru_xp.GRU(2, 3).save("m.index")


# ---- TensorFlow.js ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["js", "js_uint8", "js_uint16", "js_float16"])
def test_layers_of_tensorflow_js(saved: tuple[Path, Any], what: str) -> None:
    """Quantised numbers are what they stand for."""
    folder, expected = saved
    grus = named(folder / what / "model.json")
    assert sorted(grus) == ["a", "b"] and grus["a"].spec.gate_activation == HARD
    y = outputs(grus["a"], expected["x"])[0]
    assert_near(y, expected[f"{what}/a"])
    assert_near(outputs(grus["b"], expected[f"{what}/a"])[0], expected[f"{what}/b"])


def changed(saved: tuple[Path, Any], folder: Path, change: Any) -> Path:
    shutil.copytree(saved[0] / "js", folder / "m")
    path = folder / "m" / "model.json"
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))
    return path


def _first(content: Any) -> Any:
    return content["weightsManifest"][0]


JS_REFUSED: dict[str, tuple[Any, str]] = {
    "a graph": (lambda c: c.update(format="graph-model"), "a graph-model of TensorFlow.js, in which a GRU is no layer"),
    "upwards": (lambda c: _first(c).update(paths=["../a.bin"]), "expected the weights in a file beside"),
    "not there": (lambda c: _first(c).update(paths=["a.bin"]), "its weights are in 'a.bin', which is not beside it"),
    "twice": (lambda c: _first(c).update(paths=_first(c)["paths"] * 2), "expected each file of weights once"),
    "more": (lambda c: _first(c)["weights"].pop(), "expected 408 bytes of weights|expected [0-9]+ bytes of weights"),
    "less": (lambda c: _first(c)["weights"].append(_first(c)["weights"][0]), "its numbers are not all there"),
    "huge": (lambda c: _first(c)["weights"][0].update(shape=[2**40, 2**40]), "its numbers are not all there"),
    "text": (lambda c: _first(c)["weights"][0].update(dtype="string"), "expected numbers, got 'string'"),
}


@pytest.mark.parametrize("what", JS_REFUSED)
def test_what_tensorflow_js_may_not_say(saved: tuple[Path, Any], tmp_path: Path, what: str) -> None:
    change, words = JS_REFUSED[what]
    with pytest.raises(errors.FileFormatError, match=words):
        gru_xp.load(changed(saved, tmp_path, change))


def test_tensorflow_js_itself_wrote_it(saved: tuple[Path, Any], tmp_path: Path) -> None:
    """Its own version is no version of Keras's; it computes as Keras 2."""

    def change(content: Any) -> None:
        content["modelTopology"] |= {"keras_version": "tfjs-layers 4.22.0"}

    grus = named(changed(saved, tmp_path, change))
    assert grus["a"].spec.gate_activation == HARD and grus["b"].spec.padding == "hold"


# ---- hostile ---------------------------------------------------------------------------------------------------------


def test_objects_in_one_another(tmp_path: Path) -> None:
    """A circle of objects, and a layer whose cell is itself."""
    arrays = {f"{name}{VALUE}": array for name, array in gru_arrays().items()}
    nodes = [({"layer-0": 1, "root": 0}, ""), ({"cell": 1, "up": 0, "kernel": 2, "recurrent_kernel": 3, "bias": 4}, "")]
    nodes += [({}, key) for key in arrays]
    write_checkpoint(tmp_path / "c", arrays, graph(nodes))
    (gru,) = files.contents(tmp_path / "c").grus
    assert_near(outputs(gru, X)[0], keras_loop(X, [arrays[key] for key in arrays]))


INDICES = {
    "nothing": b"",
    "no magic": bytes(100),
    "compressed": table({b"": b""}, kind=1),
    "a row longer than its block": table({b"a": b""}).replace(b"\0\x01\0a", b"\0\x7f\0a"),
    "a handle that leads away": block({})[:-5] + bytes(5) + (b"\xff\x7f" * 4).ljust(40, b"\0") + table({})[-8:],
    "no message": table({b"": b"\xff\xff"}),
    "a huge shape": table({b"": b"", b"gru/kernel": entry(1, [2**60, 2**60], 0, 4)}),
    "100 dimensions": table({b"gru/kernel": entry(1, [1] * 100, 0, 4)}),
    "a graph that is no string": table({GRAPH.encode(): entry(1, [], 0, 4)}),
}


@pytest.mark.parametrize("what", INDICES)
def test_hostile_indices(tmp_path: Path, what: str) -> None:
    (tmp_path / "c.index").write_bytes(INDICES[what])
    (tmp_path / "c.data-00000-of-00001").write_bytes(bytes(64))
    with pytest.raises(errors.FileFormatError):
        gru_xp.load(tmp_path / "c")


def test_names_that_share_all_but_a_byte(tmp_path: Path) -> None:
    """Rows of a few bytes whose names are long."""
    rows = varint(0) + varint(9000) + varint(0) + b"n" * 9000
    rows += (varint(9000) + varint(1) + varint(0) + b"x") * 100_000
    data = rows + bytes(4) + (1).to_bytes(4, "little") + bytes(5)
    index = block({b"\xff": varint(0) + varint(len(data) - 5)})
    footer = varint(0) + varint(0) + varint(len(data)) + varint(len(index) - 5)
    (tmp_path / "c.index").write_bytes(data + index + footer.ljust(40, b"\0") + table({})[-8:])
    with pytest.raises(errors.FileFormatError, match="asks for more names than a file of its size can hold"):
        gru_xp.load(tmp_path / "c")


def test_a_variable_in_several_parts_is_refused(tmp_path: Path) -> None:
    rows = {b"": message((1, 1))}
    for name, array in sorted(gru_arrays().items()):
        rows[f"gru/{name}".encode()] = entry(1, array.shape, 0, 0, (7, b""))
    (tmp_path / "c.index").write_bytes(table(rows))
    (tmp_path / "c.data-00000-of-00001").write_bytes(b"")
    with pytest.raises(errors.FileFormatError, match="a variable in several parts, which is not read"):
        gru_xp.load(tmp_path / "c")
