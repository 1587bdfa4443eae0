"""Calls on ndonnx's arrays: one GRU node for each layer, which onnxruntime runs with any T and N."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import random_params
from libraries import Library

import gru_xp
from gru_xp import errors
from gru_xp_conformance import reference

ndonnx, onnxruntime = Library("ndonnx"), Library("onnxruntime")

I, H = 3, 5
RNG = np.random.default_rng(0)
OF_OTHERS = ((7, 4), (2, 1))  # T and N that a model was not traced with


def params(L: int = 1, D: int = 1, **options: Any) -> Any:
    return random_params(RNG, I, H, L, D, dtype="f4", **options)


def argument(shape: tuple[Any, ...] = ("T", "N", I), dtype: str = "float32") -> Any:
    return ndonnx.argument(shape=shape, dtype=getattr(ndonnx, dtype))


def constants(weights: Any) -> Any:
    return gru_xp.to(weights, like=ndonnx.asarray(np.zeros(1, "f4")))


def draw(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype("f4")


class Model:
    """An ONNX model of named inputs, as onnxruntime runs it."""

    def __init__(self, inputs: dict[str, Any], y: Any, h_n: Any) -> None:
        self.proto = ndonnx.build(inputs, {"y": y, "h_n": h_n})
        self.session = onnxruntime.InferenceSession(self.proto.SerializeToString(), providers=["CPUExecutionProvider"])

    @property
    def nodes(self) -> int:
        return [node.op_type for node in self.proto.graph.node].count("GRU")

    def __call__(self, **inputs: Any) -> Any:
        return self.session.run(["y", "h_n"], inputs)


def assert_close(got: Any, x: Any, weights: Any, h0: Any = None, **options: Any) -> None:
    wide = gru_xp.map_params(lambda a: a.astype("f8"), weights)
    run = reference.forward(x.astype("f8"), wide, None if h0 is None else h0.astype("f8"), **options)
    for a, b in zip(got, (run.y, run.h_n), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)


def test_two_layers_of_two_directions_are_two_nodes_and_run_with_other_sizes() -> None:
    model = gru_xp.GRU(I, H, num_layers=2, bidirectional=True, seed=0)
    x = argument()
    made = Model({"x": x}, *model(x))
    assert made.nodes == 2
    for T, N in OF_OTHERS:
        given = draw(T, N, I)
        assert_close(made(x=given), given, model.params)


@pytest.mark.parametrize("D", [1, 2])
@pytest.mark.parametrize("L", [1, 3])
def test_a_state_and_lengths_are_inputs(L: int, D: int) -> None:
    """Also of length 0, where h_n is h0, and with NaN in the padding."""
    weights = params(L, D)
    x, h0, lengths = argument(), argument((L * D, "N", H)), argument(("N",), "int64")
    made = Model({"x": x, "h0": h0, "lengths": lengths}, *gru_xp.gru(x, constants(weights), h0, lengths=lengths))
    assert made.nodes == L
    for T, counted in ((7, [7, 0, 3, 1]), (2, [0])):
        given, state = draw(T, len(counted), I), draw(L * D, len(counted), H)
        for n, length in enumerate(counted):
            given[length:, n] = np.nan
        got = made(x=given, h0=state, lengths=np.asarray(counted))
        assert_close(got, np.nan_to_num(given), weights, state, lengths=counted)


@pytest.mark.parametrize(
    "spec",
    [
        gru_xp.GRUSpec(reset_after=False),
        gru_xp.GRUSpec(reverse=True),
        gru_xp.GRUSpec(gate_activation=gru_xp.Activation("hard_sigmoid", 0.3, 0.45), clip=1.1),
        gru_xp.GRUSpec(gate_activation="softsign", candidate_activation=gru_xp.Activation("elu", 0.7)),
    ],
    ids=["reset before the product", "reversed", "hard sigmoid, clipped", "softsign and elu"],
)
@pytest.mark.parametrize("bias", [True, False])
def test_specs(spec: gru_xp.GRUSpec, bias: bool) -> None:
    weights, x = params(bias=bias), argument()
    made = Model({"x": x}, *gru_xp.gru_inference(x, constants(weights), spec=spec, lengths=[5, 2]))
    given = draw(5, 2, I)
    words = {
        "reset_after": spec.reset_after,
        "reverse": spec.reverse,
        "clip": spec.clip,
        "gate": (spec.gate_activation.name, *_constants(spec.gate_activation)),
        "candidate": (spec.candidate_activation.name, *_constants(spec.candidate_activation)),
    }
    assert_close(made(x=given), given, weights, lengths=[5, 2], **words)


def _constants(activation: gru_xp.Activation) -> list[float]:
    return [a for a in (activation.alpha, activation.beta) if a is not None]


def test_weights_may_be_inputs_of_the_model() -> None:
    weights = params(1, 2)
    names = [f"w{index}" for index in range(8)]
    given = dict(zip(names, gru_xp.weights(weights), strict=True))
    arguments = {name: argument(a.shape) for name, a in given.items()}
    each = iter(arguments.values())
    traced = gru_xp.map_params(lambda _: next(each), weights)
    x = argument()
    made = Model({"x": x, **arguments}, *gru_xp.gru(x, traced))
    assert made.nodes == 1
    values = draw(4, 3, I)
    assert_close(made(x=values, **given), values, weights)


def test_dropout_masks_act_between_the_layers() -> None:
    weights, x, masks = params(2), argument(), argument((1, "T", "N", H))
    made = Model({"x": x, "m": masks}, *gru_xp.gru(x, constants(weights), dropout_masks=masks))
    given, values = draw(4, 3, I), (RNG.random((1, 4, 3, H)) < 0.5).astype("f4") * 2
    assert_close(made(x=given, m=values), given, weights, dropout_masks=values)


def test_without_a_batch_and_batch_first() -> None:
    model = gru_xp.GRU(I, H, seed=0, batch_first=True)
    given = draw(4, 3, I)
    x = argument(("N", "T", I))
    y, h_n = Model({"x": x}, *model(x))(x=given)
    assert_close((np.swapaxes(y, 0, 1), h_n), np.swapaxes(given, 0, 1), model.params)
    x = argument(("T", I))
    y, h_n = Model({"x": x}, *gru_xp.gru(x, constants(model.params), lengths=3))(x=given[0])
    assert_close((y[:, None], h_n[:, None]), given[0][:, None], model.params, lengths=[3])


def test_a_step_and_a_cell() -> None:
    model = gru_xp.GRU(I, H, num_layers=2, seed=0)
    x, state = argument(("N", I)), argument((2, "N", H))
    given, before = draw(3, I), draw(2, 3, H)
    y, after = Model({"x": x, "h": state}, *model.step(x, state))(x=given, h=before)
    assert_close((y[None], after), given[None], model.params, before)
    (w,) = params()[0]
    h1 = gru_xp.gru_cell(x, state[0, ...], constants(((w,),))[0][0])
    made = Model({"x": x, "h": state}, h1, h1)
    assert_close((made(x=given, h=before)[0][None],) * 2, given[None], ((w,),), before[:1])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_constants_are_computed_at_once(dtype: str) -> None:
    weights = gru_xp.map_params(lambda a: a.astype(dtype), params(2))
    given = draw(4, 3, I).astype(dtype)
    y, h_n = gru_xp.gru(ndonnx.asarray(given), constants(weights), lengths=np.asarray([4, 2, 0]))
    assert y.dtype == getattr(ndonnx, dtype)
    wide = gru_xp.map_params(lambda a: a.astype("f4"), weights)
    want = gru_xp.gru(given.astype("f4"), wide, lengths=[4, 2, 0])
    for got, right in zip((y, h_n), want, strict=True):
        np.testing.assert_allclose(got.unwrap_numpy(), right, rtol=0, atol=2e-6 if dtype == "float32" else 4e-3)


@pytest.mark.parametrize(("T", "N"), [(0, 2), (3, 0)])
def test_no_steps_or_no_rows(T: int, N: int) -> None:
    x = ndonnx.asarray(np.zeros((T, N, I), "f4"))
    h0 = draw(4, N, H)
    y, h_n = gru_xp.gru(x, constants(params(2, 2)), ndonnx.asarray(h0))
    assert y.shape == (T, N, 2 * H)
    np.testing.assert_array_equal(h_n.unwrap_numpy(), h0)


def test_a_mask_without_holes_is_lengths() -> None:
    weights, x = params(1, 2), argument()
    mask = np.arange(5)[:, None] < np.asarray([5, 0, 2])
    given = draw(5, 3, I)
    for form in (mask, mask.tolist(), ndonnx.asarray(mask)):
        made = Model({"x": x}, *gru_xp.gru(x, constants(weights), mask=form))
        assert_close(made(x=given), given, weights, lengths=[5, 0, 2])


@pytest.mark.parametrize("activations", ["float32", "int8"])
def test_narrow_weights(activations: Any) -> None:
    narrow = gru_xp.quantize(gru_xp.GRU(I, H, seed=0), activations=activations)
    x, given = argument(), draw(4, 3, I)
    if activations == "int8":
        with pytest.raises(errors.StructureError, match="int8 activations"):
            narrow(x)
    else:
        assert_close(Model({"x": x}, *narrow(x))(x=given), given, narrow.params)


def test_what_is_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = gru_xp.GRU(I, H, seed=0), draw(4, 3, I)
    want = model(given)[0]
    for name in ("numpy", "ndonnx"):
        monkeypatch.setenv("GRU_XP_BACKEND", name)
        np.testing.assert_allclose(model(ndonnx.asarray(given))[0].unwrap_numpy(), want, rtol=0, atol=1e-6)
    model = gru_xp.GRU(I, H, seed=0)  # with parameters of ndonnx
    monkeypatch.setenv("GRU_XP_BACKEND", "numpy")
    np.testing.assert_allclose(model(ndonnx.asarray(given))[0].unwrap_numpy(), want, rtol=0, atol=1e-6)
    with pytest.raises(errors.NotDifferentiableError, match="x: is traced, .* from ndonnx to numpy"):
        model(argument())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w: gru_xp.gru_forward(x, w), "gru_forward: ndonnx makes ONNX models, .*gru_xp.to"),
        (lambda x, w: gru_xp.gru(x, w, resets=[[True]]), "resets: expected None"),
        (lambda x, w: gru_xp.gru(x, w, mask=[[True], [False], [True]]), "mask: expected padding at the end alone"),
        (lambda x, w: gru_xp.gru(x, w, mask=argument(("T", "N"), "bool")), "mask: expected lengths"),
        (lambda x, w: gru_xp.gru(x, w, mask=[[True]], lengths=[1]), "mask: expected lengths or mask, got both"),
        (lambda x, w: gru_xp.gru(x, w, lengths=[2, -1]), "lengths: expected values from 0 to T, got -1"),
        (lambda x, w: gru_xp.gru(x, w, lengths=argument(("N",))), "lengths: expected integers, got float32"),
        (lambda x, w: gru_xp.gru(x, w, spec=gru_xp.GRUSpec(padding="hold"), lengths=[1]), "spec: .*padding='zero'"),
        (lambda x, w: gru_xp.gru(x, w, spec=gru_xp.GRUSpec(gate_activation="swish")), "swish: ONNX's GRU has only"),
        (lambda x, w: gru_xp.gru(argument(("T", "N", 4)), w), r"x: expected \(T, N, I\) = \(None, None, 3\)"),
        (lambda x, w: gru_xp.gru(x, w, argument((2, "N", H))), r"h0: expected \(L\*D, N, H\) = \(1, None, 5\)"),
        (lambda x, w: gru_xp.gru(argument(dtype="float64"), w), "x: expected float32 or float16, got float64"),
        (lambda x, w: gru_xp.gru(argument(dtype="nfloat32"), w), "x: expected a floating-point dtype"),
        (lambda x, w: gru_xp.gru(draw(4, 2, I), params(), backend="ndonnx"), "only takes over calls with its own"),
        (lambda x, w: gru_xp.explain(x, w), "x: ndonnx takes over whole calls"),
    ],
)
def test_what_onnx_lacks_is_refused(call: Any, message: str) -> None:
    with pytest.raises(errors.GRUError, match=message):
        call(argument(), constants(params()))
