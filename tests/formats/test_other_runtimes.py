"""Specs against the runtimes that trained models come from: onnxruntime and Keras."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp import Activation, CellParams, GRUSpec

# Keras on PyTorch, of its own arrays: in one process with other tests that is what there is
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

T, N, I, H = 6, 3, 3, 5
LENGTHS = [6, 0, 4]
TOLERANCE = 4 * T * float(np.finfo("f4").eps)


def arrays(D: int = 1) -> Any:
    """x, h0 and the parameters of D directions, float32."""
    rng = np.random.default_rng(3)

    def draw(*shape: int) -> Any:
        return (0.6 * rng.normal(size=shape)).astype("f4")

    params = tuple(CellParams(draw(3 * H, I), draw(3 * H, H), draw(3 * H), draw(3 * H)) for _ in range(D))
    return 2.0 * draw(T, N, I), draw(D, N, H), (params,)


# ---- onnxruntime -----------------------------------------------------------------------------------------------------


def by_onnxruntime(x: Any, h0: Any, params: Any, lengths: Any = None, direction: str = "forward", **attributes: Any):
    """One GRU node, its gates stacked z, r, h; y (T, N, D*H), h_n."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper, F4, I4 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT32

    def stacked(*names: str) -> Any:
        def zrh(a: Any) -> Any:
            return np.concatenate([a[H : 2 * H], a[:H], a[2 * H :]])

        return np.stack([np.concatenate([zrh(getattr(w, name)) for name in names]) for w in params[0]])

    weights = {"W": stacked("W_ih"), "R": stacked("W_hh"), "B": stacked("b_ih", "b_hh")}
    feeds = {"X": x, "h0": h0}
    inputs = ["X", "W", "R", "B", "", "h0"]
    if lengths is not None:
        feeds["L"], inputs[4] = np.asarray(lengths, "i4"), "L"
    node = helper.make_node("GRU", inputs, ["Y", "Y_h"], hidden_size=H, direction=direction, **attributes)
    graph = helper.make_graph(
        [node],
        "gru",
        [helper.make_tensor_value_info(name, I4 if name == "L" else F4, None) for name in feeds],
        [helper.make_tensor_value_info(name, F4, None) for name in ("Y", "Y_h")],
        [onnx.numpy_helper.from_array(a, name) for name, a in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    y, h_n = session.run(None, feeds)
    return np.concatenate([y[:, d] for d in range(y.shape[1])], axis=-1), h_n


ONNX = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "Affine": (0.6, 0.2),
    "LeakyRelu": (0.3,),
    "ThresholdedRelu": (0.2,),
    "ScaledTanh": (0.7, 0.8),
    "HardSigmoid": (0.3, 0.45),
    "Elu": (0.6,),
    "Softsign": (),
    "Softplus": (),
}
DEFAULTS = ("LeakyRelu", "HardSigmoid", "Elu")


def onnx_attributes(spec: GRUSpec, names: tuple[str, str], D: int = 1) -> dict[str, Any]:
    both = (spec.gate_activation, spec.candidate_activation) * D
    found: dict[str, Any] = {"activations": list(names) * D, "linear_before_reset": int(spec.reset_after)}
    found["activation_alpha"] = [a.alpha for a in both if a.alpha is not None]
    found["activation_beta"] = [a.beta for a in both if a.beta is not None]
    if spec.clip is not None:
        found["clip"] = spec.clip
    return {name: value for name, value in found.items() if value != []}


def assert_same(got: Any, wanted: Any) -> None:
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * max(1.0, np.abs(b).max()))


@pytest.mark.parametrize("clip", [None, 0.7])
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("place", [0, 1], ids=["gates", "candidate"])
@pytest.mark.parametrize("name", ONNX)
def test_activations_of_onnxruntime(name: str, place: int, reset_after: bool, clip: float | None) -> None:
    names = (name, "Tanh") if place == 0 else ("Sigmoid", name)
    x, h0, params = arrays()
    x = x[:3]  # gates that nothing bounds let the state grow until onnxruntime's softplus overflows
    f, g = (Activation(each, *(ONNX[each] if each == name else ())) for each in names)
    spec = GRUSpec(reset_after, f, g, clip)
    wanted = by_onnxruntime(x, h0, params, **onnx_attributes(spec, names))
    assert_same(gru_xp.gru(x, params, h0, spec=spec), wanted)


@pytest.mark.parametrize("name", DEFAULTS)
def test_constants_that_are_left_out(name: str) -> None:
    x, h0, params = arrays()
    wanted = by_onnxruntime(x, h0, params, activations=[name, "Tanh"], linear_before_reset=1)
    assert_same(gru_xp.gru(x, params, h0, spec=GRUSpec(gate_activation=name)), wanted)


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lengths_and_directions_of_onnxruntime(direction: str, reset_after: bool) -> None:
    D = 2 if direction == "bidirectional" else 1
    x, h0, params = arrays(D)
    names = ("HardSigmoid", "Softsign")
    f, g = (Activation(each, *ONNX[each]) for each in names)
    spec = GRUSpec(reset_after, f, g, 0.9, reverse=direction == "reverse")
    attributes = onnx_attributes(spec, names, D)
    y, h_n = by_onnxruntime(x, h0, params, LENGTHS, direction, **attributes)
    assert not h_n[:, 1].any()  # onnxruntime's answer for a row of length 0, where ONNX's text says nothing
    h_n[:, 1] = h0[:, 1]
    assert_same(gru_xp.gru(x, params, h0, lengths=LENGTHS, spec=spec), (y, h_n))


# ---- Keras -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras")


def kept(keras: Any, a: Any) -> Any:
    return np.asarray(keras.ops.convert_to_numpy(a))


def by_keras(keras: Any, x: Any, h0: Any, params: Any, mask: Any = None, zero: bool = False, **options: Any) -> Any:
    """One layer, batch first, its gates stacked z, r, h."""

    def zrh(a: Any) -> Any:
        return np.concatenate([a[..., H : 2 * H], a[..., :H], a[..., 2 * H :]], axis=-1)

    w = params[0][0]
    layer = keras.layers.GRU(H, return_sequences=True, return_state=True, **options)
    layer.build((N, T, I))
    bias = np.stack([zrh(w.b_ih), zrh(w.b_hh)])
    if not options.get("reset_after", True):
        bias = bias.sum(axis=0)
    layer.set_weights([zrh(w.W_ih.T), zrh(w.W_hh.T), bias])
    layer.zero_output_for_mask = zero
    y, h_n = layer(x.swapaxes(0, 1), mask=mask.T if mask is not None else None, initial_state=h0[0])
    return kept(keras, y).swapaxes(0, 1), kept(keras, h_n)[None]


KERAS = (
    *("relu", "tanh", "sigmoid", "linear", "leaky_relu", "elu", "selu", "hard_sigmoid"),
    *("softsign", "softplus", "swish", "silu", "exponential"),
)


@pytest.mark.parametrize("name", KERAS)
def test_activations_of_keras(name: str, keras: Any) -> None:
    a = np.linspace(-7.0, 7.0, 301).astype("f4")
    wanted = kept(keras, getattr(keras.activations, name)(a))
    xp = np
    np.testing.assert_allclose(Activation.keras(name).value(a, xp), wanted, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("gate", "candidate", "reset_after"),
    [("hard_sigmoid", "tanh", True), ("hard_sigmoid", "relu", False), ("softsign", "elu", True)],
)
def test_layers_of_keras(gate: str, candidate: str, reset_after: bool, keras: Any) -> None:
    x, h0, params = arrays()
    options = {"recurrent_activation": gate, "activation": candidate, "reset_after": reset_after}
    spec = GRUSpec(reset_after, Activation.keras(gate), Activation.keras(candidate))
    assert_same(gru_xp.gru(x, params, h0, spec=spec), by_keras(keras, x, h0, params, **options))


@pytest.mark.parametrize("zero", [True, False], ids=["zero", "hold"])
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "go_backwards"])
@pytest.mark.parametrize("initial", [False, True], ids=["from zero", "from h0"])
def test_masks_of_keras(initial: bool, backwards: bool, zero: bool, keras: Any) -> None:
    """With holes, and with padding before the first valid step."""
    x, h0, params = arrays()
    h0 = h0 if initial else np.zeros_like(h0)
    mask = np.asarray([[0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]], bool)
    y, h_n = by_keras(keras, x, h0, params, mask, zero, go_backwards=backwards)
    spec = GRUSpec(reverse=backwards, padding="zero" if zero else "hold")
    ours, last = gru_xp.gru(x, params, h0, mask=mask, spec=spec)
    if backwards:  # Keras puts y out in the order in which it was computed
        y = y[::-1]
    if initial and not zero and keras.backend.backend() != "jax":
        pytest.skip("before the first valid step Keras holds h0 on JAX and 0 on PyTorch")
    assert_same((ours, last), (y, h_n))
