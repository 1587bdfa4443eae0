"""ONNX in and out: against onnxruntime, with models that PyTorch exported, made by hand, and our own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import assert_close, random_params
from onnx import helper
from onnx_nodes import H, I, N, T, constant, node_model, read, session

import gru_xp
from gru_xp import Activation, GRUSpec, errors, files
from gru_xp.formats.onnx.operator import ACTIVATIONS
from gru_xp.params import weights_of
from gru_xp.stored import StoredGRU

RNG = np.random.default_rng(0)
EPS = float(np.finfo("f4").eps)


def only(path: Path) -> StoredGRU:
    (gru,) = files.contents(path).grus
    return gru


def assert_same_bits(a: Any, b: Any) -> None:
    for left, right in zip(weights_of(a), weights_of(b), strict=True):
        assert left.dtype == right.dtype
        assert left.tobytes() == right.tobytes()


def assert_near(got: Any, expected: Any) -> None:
    """Within a few eps times the length of the sequence."""
    assert_close({"y": got[0], "h_n": got[1]}, {"y": expected[0], "h_n": expected[1]}, 4 * EPS * T)


# ---- out -------------------------------------------------------------------------------------------------------------

SPECS = {
    "PyTorch's": GRUSpec(),
    "reset before": GRUSpec(reset_after=False),
    "reverse": GRUSpec(reverse=True),
    "clip": GRUSpec(clip=0.7),
    "others": GRUSpec(True, "hard_sigmoid", Activation("scaled_tanh", 0.9, 0.8)),
    "all of it": GRUSpec(False, Activation("hard_sigmoid", 0.15, 0.4), "softsign", clip=1.5),
}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("layers", "D"), [(1, 1), (3, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("spec", SPECS)
def test_onnxruntime_runs_what_was_written(
    spec: str, layers: int, D: int, bias: bool, batch_first: bool, tmp_path: Path
) -> None:
    """To the same numbers, for any batch and length of time, with and without what is optional; and the way back."""
    if SPECS[spec].reverse and D == 2:
        pytest.skip("one direction has no reverse")
    params = random_params(RNG, I, H, layers, D, bias, "f4")
    model = gru_xp.GRU.from_params(params, spec=SPECS[spec], batch_first=batch_first)
    path = tmp_path / "model.onnx"
    assert model.save(path).exact
    runtime = session(path)
    for T_, N_ in ((T, N), (2, 1)):
        x = RNG.normal(size=(N_, T_, I) if batch_first else (T_, N_, I)).astype("f4")
        h0 = RNG.normal(size=(layers * D, N_, H)).astype("f4")
        lengths = np.array([T_, 0, 3, 1][:N_], "i4")
        for given in ({}, {"h0": h0}, {"lengths": lengths}, {"h0": h0, "lengths": lengths}):
            assert_near(runtime.run(["y", "h_n"], {"x": x, **given}), model(x, **given))
    stored = only(path)
    assert stored.report.exact
    assert_same_bits(stored.params, params)
    again = gru_xp.load(path)
    assert (again.spec, again.batch_first) == (model.spec, batch_first)
    ours = model(x, h0, lengths=lengths)
    theirs = again(x, h0, lengths=lengths)
    assert ours[0].tobytes() == theirs[0].tobytes() and ours[1].tobytes() == theirs[1].tobytes()


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_types_keep_their_bits(dtype: str, tmp_path: Path) -> None:
    model = gru_xp.GRU(I, H, 2, bidirectional=True, dtype=dtype, seed=0, backend="torch")
    report = model.save(tmp_path / "m.onnx")
    assert report.exact
    assert ("onnxruntime has no GRU" in str(report)) == (dtype != "float16")
    onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"), full_check=True)
    again = gru_xp.load(tmp_path / "m.onnx", backend="torch")
    assert again.dtype == dtype
    for a, b in zip(weights_of(again.params), weights_of(model.params), strict=True):
        assert torch.equal(a, b)


def test_float16_runs(tmp_path: Path) -> None:
    params = random_params(RNG, I, H, 2, 2, dtype="f2")
    gru_xp.GRU.from_params(params).save(tmp_path / "m.onnx")
    x = RNG.normal(size=(T, N, I)).astype("f2")
    got = session(tmp_path / "m.onnx").run(None, {"x": x})
    expected = gru_xp.gru(x.astype("f8"), gru_xp.params.map_params(lambda a: a.astype("f8"), params))
    assert_close({"y": got[0]}, {"y": expected[0]}, 2 * T * float(np.finfo("f2").eps))


def test_a_first_state_is_written_as_the_default_of_h0(tmp_path: Path) -> None:
    h0 = RNG.normal(size=(2, H)).astype("f4")
    stored = StoredGRU(random_params(RNG, I, H, 1, 2, dtype="f4"), h0=h0, name="a.b")
    files.formats()["onnx"].write(stored, tmp_path / "m.onnx")
    x = RNG.normal(size=(T, N, I)).astype("f4")
    got = session(tmp_path / "m.onnx").run(None, {"x": x})
    assert_near(got, gru_xp.gru(x, stored.params, np.repeat(h0[:, None], N, 1)))
    again = only(tmp_path / "m.onnx")
    assert again.name == "a.b"
    np.testing.assert_array_equal(again.h0, h0)
    assert [note.what for note in again.report.notes if note.fate == "changed"] == ["the first state"]
    with pytest.warns(
        errors.ConversionWarning, match="m.onnx, a.b: differs from the original, the first state: the file"
    ):
        assert gru_xp.load(tmp_path / "m.onnx").report == again.report


def test_what_onnx_cannot_hold_is_reported_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(errors.ConversionError, match="swish: ONNX's GRU has only"):
        gru_xp.GRU.from_params(random_params(RNG, I, H), spec=GRUSpec(gate_activation="swish")).save(path)
    assert not path.exists()
    model = gru_xp.GRU.from_params(random_params(RNG, I, H), spec=GRUSpec(padding="hold", clip=1 / 3), dropout=0.5)
    assert {(note.fate, note.what) for note in model.save(path).notes} == {
        ("exact", "weights and biases"),
        ("changed", "constants"),
        ("changed", "padding"),
        ("ignored", "dropout"),
    }


# ---- PyTorch's own files ---------------------------------------------------------------------------------------------


class Encoder(torch.nn.Module):
    """A GRU by a name of its own."""

    def __init__(self, rnn: Any):
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Any, h0: Any) -> Any:
        return self.rnn(x, h0)


class Tagger(torch.nn.Module):
    """A GRU inside of something."""

    def __init__(self, layers: int, D: int, batch_first: bool, bias: bool = True):
        super().__init__()
        self.embed = torch.nn.Linear(I, I)
        rnn = torch.nn.GRU(I, H, layers, bidirectional=D == 2, batch_first=batch_first, bias=bias)
        self.encoder = Encoder(rnn)
        self.head = torch.nn.Linear(D * H, 2)

    def forward(self, x: Any, h0: Any = None) -> Any:
        y, h_n = self.encoder(self.embed(x), h0)
        return self.head(y), h_n


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize(
    ("layers", "D", "batch_first", "bias", "with_h0", "dynamic"),
    [(2, 2, False, True, False, True), (3, 1, True, True, True, False), (1, 2, True, False, False, False)],
)
def test_what_pytorch_exports(
    dynamo: bool, layers: int, D: int, batch_first: bool, bias: bool, with_h0: bool, dynamic: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = Tagger(layers, D, batch_first, bias).eval()
    x, h0 = torch.randn((N, T, I) if batch_first else (T, N, I)), torch.randn(layers * D, N, H)
    export(module, (x, h0) if with_h0 else (x,), tmp_path / "m.onnx", dynamo, dynamic)
    stored = only(tmp_path / "m.onnx")
    assert (stored.name, stored.batch_first) == ("encoder.rnn", batch_first)
    assert stored.report.exact, str(stored.report)
    state = {name.removeprefix("encoder.rnn."): value for name, value in module.state_dict().items()}
    assert len(weights_of(stored.params)) == sum(name.startswith(("weight_", "bias_")) for name in state)
    for layer, directions in enumerate(stored.params):
        for d, w in enumerate(directions):
            for field, array in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), w, strict=True):
                if array is not None:
                    key = f"{field}_l{layer}{'_reverse' * d}"
                    np.testing.assert_array_equal(array, state[key].numpy())
    model = gru_xp.load(tmp_path / "m.onnx", name="rnn")
    with torch.no_grad():
        expected = module.encoder(x, h0)
    assert_near(model(x.numpy(), h0.numpy()), [a.numpy() for a in expected])


def export(module: Any, arguments: Any, path: Path, dynamo: bool, dynamic: bool) -> None:
    options: dict[str, Any] = {"dynamo": dynamo}
    if dynamo:
        # PyTorch 2.13 remembers from an earlier torch.export that aten::gru stays whole, and then fixes T.
        torch.ops.aten.gru.input._dispatch_cache.clear()
        sizes = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)
        options |= {"verbose": False, "dynamic_shapes": sizes if dynamic else None}
    else:
        options |= {"input_names": ["x", "h0"][: len(arguments)]}
        options |= {"dynamic_axes": {"x": {0: "time", 1: "batch"}} if dynamic else None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporters warn of themselves
        torch.onnx.export(module, arguments, str(path), **options)


@pytest.mark.parametrize("dynamic", [False, True])
def test_what_pytorch_exports_without_optimising(dynamic: bool, tmp_path: Path) -> None:
    """Weights are cut at H, which is taken from the shape of the first state."""
    torch.manual_seed(0)
    module, x = Decoder().eval(), torch.randn(N, T, I)
    sizes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), path, dynamo=True, optimize=False, verbose=False, dynamic_shapes=sizes)
    found = {gru.name: gru for gru in files.contents(path).grus}
    assert list(found) == ["encoder", "decoder"]
    assert [note.what for note in found["decoder"].report.notes if note.fate == "changed"] == ["the first state"]
    for name, gru in found.items():
        again = gru_xp.from_framework(module, name=name)
        assert_same_bits(gru.params, again.params)


class Decoder(torch.nn.Module):
    """Two GRUs, the second of which begins with what something else computes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.GRU(I, H, 2, bidirectional=True, batch_first=True)
        self.decoder = torch.nn.GRU(2 * H, H, batch_first=True)
        self.first = torch.nn.Linear(I, H)

    def forward(self, x: Any) -> Any:
        return self.decoder(self.encoder(x)[0], torch.tanh(self.first(x[:, 0]))[None])[0]


class Packed(torch.nn.Module):
    """Rows of different lengths, as PyTorch packs them."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(I, H, 2, bidirectional=True)

    def forward(self, x: Any, lengths: Any) -> Any:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, h_n = self.gru(packed)
        return torch.nn.utils.rnn.pad_packed_sequence(y)[0], h_n


def test_packed_sequences_of_pytorch(tmp_path: Path) -> None:
    """The older exporter writes them as `sequence_lens`, the newer one refuses them; they are an argument here."""
    torch.manual_seed(0)
    module, x, lengths = Packed().eval(), torch.randn(T, N, I), torch.tensor([T, 5, 2, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x, lengths), str(tmp_path / "m.onnx"), dynamo=False, input_names=["x", "lengths"])
    stored = only(tmp_path / "m.onnx")
    assert stored.report.exact and len(stored.params) == 2
    with torch.no_grad():
        expected = module(x, lengths)
    model = gru_xp.load(tmp_path / "m.onnx")
    assert_near(model(x.numpy(), lengths=lengths.tolist()), [a.numpy() for a in expected])


def test_an_infinite_clip_is_no_clip(tmp_path: Path) -> None:
    onnx.save(node_model(clip=float("inf")), tmp_path / "m.onnx")
    assert only(tmp_path / "m.onnx").spec.clip is None
    x = RNG.normal(size=(T, N, I)).astype("f4")
    y, h_n = session(tmp_path / "m.onnx").run(["Y", "Y_h"], {"x": x})
    assert_near(gru_xp.load(tmp_path / "m.onnx")(x), [y[:, 0], h_n])


def test_fixed_lengths_of_all_steps_are_no_lengths(tmp_path: Path) -> None:
    for fixed, told in ((T, []), (T - 1, ["the lengths"])):
        nodes = [constant("all", np.full(N, fixed, "i4"))]
        (gru,) = read(node_model(inputs={"sequence_lens": "all"}, nodes=nodes, x_shape=(T, N, I)), tmp_path).grus
        assert [note.what for note in gru.report.notes if note.fate == "changed"] == told


# ---- nodes made by hand ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("linear_before_reset", [0, 1])
def test_every_option_of_a_node(direction: str, linear_before_reset: int, tmp_path: Path) -> None:
    D = 2 if direction == "bidirectional" else 1
    model = node_model(
        D=D,
        inputs={"sequence_lens": "lens", "initial_h": "h0"},
        direction=direction,
        linear_before_reset=linear_before_reset,
        clip=0.9,
        activations=["HardSigmoid", "LeakyRelu"] * D,
        activation_alpha=[0.15, 0.3] * D,
        activation_beta=[0.45] * D,
    )
    (gru,) = read(model, tmp_path).grus
    assert gru.report.exact
    spec = GRUSpec(
        bool(linear_before_reset),
        Activation("hard_sigmoid", 0.15, 0.45),
        Activation("leaky_relu", 0.3),
        0.9,
        direction == "reverse",
    )
    assert gru.spec == spec
    x, h0 = RNG.normal(size=(T, N, I)).astype("f4"), RNG.normal(size=(D, N, H)).astype("f4")
    lengths = np.array([T, 1, 3, 2], "i4")
    y, h_n = session(tmp_path / "node.onnx").run(None, {"x": x, "h0": h0, "lens": lengths})
    expected = gru_xp.gru(x, gru.params, h0, lengths=lengths, spec=gru.spec)
    assert_near((y.transpose(0, 2, 1, 3).reshape(T, N, D * H), h_n), expected)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("place", [0, 1])
def test_every_activation_in_both_places(place: int, name: str, tmp_path: Path) -> None:
    """With constants of its own: they are handed out in order to those that have any."""
    names = ["Sigmoid", "Tanh"]
    names[place] = name
    constants = {letter: [value] for letter, value in (("alpha", 0.3), ("beta", 0.6)) if letter in ACTIVATIONS[name]}
    shrunk = {"W": RNG.normal(scale=0.2, size=(1, 3 * H, I)).astype("f4"), "R": np.zeros((1, 3 * H, H), "f4")}
    options = {f"activation_{letter}": value for letter, value in constants.items()}
    model = node_model(weights=shrunk, linear_before_reset=1, activations=names, **options)
    (gru,) = read(model, tmp_path).grus
    x = RNG.normal(size=(T, N, I)).astype("f4")
    y, h_n = session(tmp_path / "node.onnx").run(None, {"x": x})
    assert_near((y[:, 0], h_n), gru_xp.gru(x, gru.params, spec=gru.spec))
    if "required" in ACTIVATIONS[name]:
        (refusal,) = read(node_model(activations=names), tmp_path).refused
        assert "which have no default in ONNX" in refusal.reason


def test_the_batch_first_in_a_node(tmp_path: Path) -> None:
    """`layout=1`, which onnxruntime lacks: the same numbers as `layout=0`."""
    h0 = RNG.normal(size=(N, 2, H)).astype("f4")
    options: dict[str, Any] = {"D": 2, "direction": "bidirectional", "inputs": {"initial_h": "state"}}
    (first,) = read(node_model(**options, layout=1, weights={"state": h0}), tmp_path).grus
    (second,) = read(node_model(**options, weights={"state": h0.transpose(1, 0, 2)}), tmp_path).grus
    assert (first.batch_first, second.batch_first) == (True, False)
    np.testing.assert_array_equal(first.h0, second.h0)
    assert_same_bits(first.params, second.params)


def sliced_weights() -> tuple[Any, dict[str, Any]]:
    """W as exporters leave it without constant folding: cut into gates, put together in another order."""
    W = random_params(np.random.default_rng(1), I, H, dtype="f4")[0][0].W_ih
    nodes = [constant("axis", [0]), constant("torch_W", W)]
    for index, gate in enumerate("rzn"):
        nodes += [constant(f"from_{gate}", [index * H]), constant(f"to_{gate}", [(index + 1) * H])]
        nodes.append(helper.make_node("Slice", ["torch_W", f"from_{gate}", f"to_{gate}", "axis"], [f"W_{gate}"]))
    nodes.append(helper.make_node("Concat", ["W_z", "W_r", "W_n"], ["W_zrn"], axis=0))
    nodes.append(helper.make_node("Unsqueeze", ["W_zrn", "axis"], ["W_done"]))
    return nodes, {"W": W}


def test_weights_that_are_moved_about_first(tmp_path: Path) -> None:
    nodes, made = sliced_weights()
    (gru,) = read(node_model(nodes=nodes, inputs={"W": "W_done"}, weights={"W": None}), tmp_path).grus
    np.testing.assert_array_equal(gru.params[0][0].W_ih, made["W"])


def test_weights_without_biases_and_as_constant_nodes(tmp_path: Path) -> None:
    W = RNG.normal(size=(1, 3 * H, I)).astype("f4")
    model = node_model(nodes=[constant("made", W)], inputs={"W": "made", "B": ""}, weights={"W": None})
    (gru,) = read(model, tmp_path).grus
    assert gru.params[0][0].b_ih is gru.params[0][0].b_hh is None
    np.testing.assert_array_equal(gru.params[0][0].W_ih[:H], W[0, H : 2 * H])


def test_weights_beside_the_model(tmp_path: Path) -> None:
    expected = read(node_model(), tmp_path).grus[0]
    model = node_model()
    onnx.save_model(model, tmp_path / "big.onnx", save_as_external_data=True, location="big.bin", size_threshold=0)
    assert (tmp_path / "big.bin").exists()
    assert_same_bits(only(tmp_path / "big.onnx").params, expected.params)
    (tmp_path / "big.bin").unlink()
    with pytest.raises(errors.ConversionError, match=r"rnn: its numbers lie in 'big.bin', which is not there"):
        gru_xp.load(tmp_path / "big.onnx")


def in_a_branch() -> Any:
    """The node in both branches of an If, with weights of the graph around it."""
    model = node_model(x_shape=(T, N, I))
    (node,) = model.graph.node
    del model.graph.node[:]
    outputs = list(model.graph.output)
    branches = [helper.make_graph([node], name, [], outputs) for name in ("then", "else")]
    model.graph.node.extend([constant("yes", True)])
    both = helper.make_node("If", ["yes"], ["Y", "Y_h"], "choice", then_branch=branches[0], else_branch=branches[1])
    model.graph.node.append(both)
    return model


def test_nodes_in_subgraphs_and_functions(tmp_path: Path) -> None:
    found = read(in_a_branch(), tmp_path)
    assert {gru.name for gru in found.grus} == {"choice.then.rnn", "choice.else.rnn"}
    assert_same_bits(found.grus[0].params, read(node_model(), tmp_path).grus[0].params)
    model = node_model()
    model.functions.append(
        helper.make_function("own", "Layer", ["a"], ["b"], list(model.graph.node), [helper.make_opsetid("", 17)])
    )
    del model.graph.node[:]
    (refusal,) = read(model, tmp_path).refused
    assert refusal.reason.startswith("stands in the function 'Layer'; inline it")


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "weights of an input": (lambda: node_model(inputs={"R": "x"}), "R is not in the file as numbers: 'x' is an input"),
    "weights that are computed": (
        lambda: node_model(nodes=[helper.make_node("Tanh", ["W"], ["tanh"])], inputs={"W": "tanh"}),
        "W is not in the file as numbers: 'tanh' is computed by Tanh while the model runs",
    ),
    "no weights": (lambda: node_model(inputs={"W": "nowhere"}), "'nowhere' is not in the file"),
    "other activations backwards": (
        lambda: node_model(D=2, direction="bidirectional", activations=["Sigmoid", "Tanh", "Sigmoid", "Relu"]),
        "the directions have different ones, sigmoid, tanh, sigmoid, relu",
    ),
    "an unknown activation": (lambda: node_model(activations=["Sigmoid", "Gelu"]), "got 'Gelu'"),
    "activations for one direction of two": (
        lambda: node_model(D=2, direction="bidirectional", activations=["Sigmoid", "Tanh"]),
        "expected 4 names",
    ),
    "a bound of minus infinity": (lambda: node_model(clip=-float("inf")), "clip: expected"),
    "a bound of zero": (lambda: node_model(clip=0.0), "clip: expected a number above 0"),
    "weights for one direction of two": (lambda: node_model(direction="bidirectional"), "with D = 2, got W"),
    "a bias for the input alone": (lambda: node_model(weights={"B": np.zeros((1, 3 * H), "f4")}), "got W"),
    "weights of two types": (lambda: node_model(weights={"B": np.zeros((1, 6 * H))}), "of different types"),
    "whole numbers": (lambda: node_model(weights={"R": np.zeros((1, 3 * H, H), "i4")}), "R: expected one of float32"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_the_reason(what: str, tmp_path: Path) -> None:
    make, words = REFUSED[what]
    found = read(make(), tmp_path)
    assert not found.grus
    assert words in found.refused[0].reason
    with pytest.raises(errors.ConversionError, match="node.onnx: rnn: "):
        gru_xp.load(tmp_path / "node.onnx")


# ---- stacks ----------------------------------------------------------------------------------------------------------


def layers_of(change: Callable[[Any], None], tmp_path: Path) -> list[int]:
    """How many layers each GRU has, after a change to a model of three."""
    gru_xp.GRU(I, H, 3, seed=0).save(tmp_path / "stack.onnx")
    model = onnx.load(tmp_path / "stack.onnx")
    change(model.graph)
    (tmp_path / "stack.onnx").write_bytes(model.SerializeToString())
    return [len(gru.params) for gru in files.contents(tmp_path / "stack.onnx").grus]


def grus(graph: Any) -> list[Any]:
    return [node for node in graph.node if node.op_type == "GRU"]


def residual(graph: Any) -> None:
    """What goes from the first layer to the second goes elsewhere, too."""
    graph.node.append(helper.make_node("Relu", [grus(graph)[1].input[0]], ["elsewhere"]))


def another_equation(graph: Any) -> None:
    for a in grus(graph)[1].attribute:
        if a.name == "linear_before_reset":
            a.i = 0


def negated(graph: Any) -> None:
    graph.node.append(helper.make_node("Neg", [grus(graph)[1].input[0]], ["negated"]))
    grus(graph)[1].input[0] = "negated"


def flipped(graph: Any) -> None:
    """The second layer reads time backwards: numbers are only moved about, but to other places."""
    for name, value in (("start", -1), ("end", -100), ("axis", 0), ("step", -1)):
        graph.node.append(constant(name, [value]))
    graph.node.append(helper.make_node("Slice", [grus(graph)[1].input[0], "start", "end", "axis", "step"], ["turned"]))
    grus(graph)[1].input[0] = "turned"


def lengths_for_each_layer(graph: Any) -> None:
    """As tf2onnx has it: every layer computes from its own input that all steps count."""
    for layer, node in enumerate(grus(graph)):
        for axis, name in enumerate(("steps", "rows")):
            graph.node.append(helper.make_node("Shape", [node.input[0]], [f"{name}{layer}"], start=axis, end=axis + 1))
        graph.node.append(helper.make_node("Cast", [f"steps{layer}"], [f"int{layer}"], to=onnx.TensorProto.INT32))
        graph.node.append(helper.make_node("Tile", [f"int{layer}", f"rows{layer}"], [f"lengths{layer}"]))
        node.input[4] = f"lengths{layer}"


def other_lengths(graph: Any) -> None:
    lengths_for_each_layer(graph)
    graph.node.append(constant("one", np.int32(1)))
    graph.node.append(helper.make_node("Sub", ["lengths1", "one"], ["fewer"]))
    grus(graph)[1].input[4] = "fewer"


def an_output(graph: Any) -> None:
    graph.output.append(helper.make_tensor_value_info(grus(graph)[0].output[0], onnx.TensorProto.FLOAT, None))


def dropped_out(graph: Any) -> None:
    graph.node.append(helper.make_node("Dropout", [grus(graph)[1].input[0]], ["dropped"]))
    grus(graph)[1].input[0] = "dropped"


def test_layers_are_joined_only_where_they_are_layers(tmp_path: Path) -> None:
    assert layers_of(lambda graph: None, tmp_path) == [3]
    assert layers_of(dropped_out, tmp_path) == [3]
    assert layers_of(lengths_for_each_layer, tmp_path) == [3]
    assert layers_of(other_lengths, tmp_path) == [1, 1, 1]
    for change in (residual, negated, flipped, an_output):
        assert layers_of(change, tmp_path) == [1, 2], change
    assert layers_of(another_equation, tmp_path) == [1, 1, 1]


# ---- what onnxruntime does differently, as docs/onnx-conventions.md says ---------------------------------------------


def test_onnxruntime_forgets_the_first_state_of_an_empty_row(tmp_path: Path) -> None:
    model = node_model(inputs={"sequence_lens": "lens", "initial_h": "h0"}, linear_before_reset=1)
    (gru,) = read(model, tmp_path).grus
    x, h0 = RNG.normal(size=(T, 2, I)).astype("f4"), RNG.normal(size=(1, 2, H)).astype("f4")
    _, h_n = session(tmp_path / "node.onnx").run(None, {"x": x, "h0": h0, "lens": np.array([T, 0], "i4")})
    assert not h_n[0, 1].any()
    np.testing.assert_array_equal(gru_xp.gru(x, gru.params, h0, lengths=[T, 0])[1][0, 1], h0[0, 1])


def test_the_runtime_runs_the_nodes_of_the_file(tmp_path: Path) -> None:
    """Whatever stands around them; also `layout=1`, which onnxruntime itself refuses."""
    for layout in (0, 1):
        (gru,) = read(node_model(D=2, direction="bidirectional", layout=layout), tmp_path).grus
        x = RNG.normal(size=(T, N, I)).astype("f4")
        ran = files.formats()["onnx"].run(tmp_path / "node.onnx", gru, x, None, np.array([T, 1, 2, 3]))
        assert ran is not None
        assert_near(ran, gru_xp.gru(x, gru.params, lengths=[T, 1, 2, 3], spec=gru.spec))
    with pytest.raises(errors.BackendError, match="aborts the process"):
        files.formats()["onnx"].run(tmp_path / "node.onnx", gru, x[:0], None, None)


def test_two_modules_that_lie_on_one_another(tmp_path: Path) -> None:
    """Joined under both names, "lower+upper", and each to be had alone; the runtime runs what has a name."""
    gru_xp.GRU(I, H, 2, seed=0).save(tmp_path / "node.onnx")
    model = onnx.load(tmp_path / "node.onnx")
    for node, name in zip(grus(model.graph), ("lower", "upper"), strict=True):
        node.name = f"/{name}/GRU"
    (stack,) = read(model, tmp_path).grus
    assert (stack.name, len(stack.params)) == ("lower+upper", 2)
    path = tmp_path / "node.onnx"
    upper = gru_xp.load(path, name="upper")
    x = RNG.normal(size=(T, N, H)).astype("f4")
    np.testing.assert_array_equal(upper.params[0][0].W_ih, stack.params[1][0].W_ih)
    runtime = files.formats()["onnx"]
    assert runtime.run(path, stack, RNG.normal(size=(T, N, I)).astype("f4"), None, None) is not None
    with pytest.raises(errors.BackendError, match="'upper' is no node of the file, but a part of one"):
        runtime.run(path, stack.renamed("upper"), x, None, None)
    grus(model.graph)[1].attribute.append(helper.make_attribute("clip", 3.0))
    assert [gru.name for gru in read(model, tmp_path).grus] == ["lower", "upper"]
