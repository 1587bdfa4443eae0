"""`quantize`: weights in 8 and 16 bits, wherever prepared parameters go, in files, and what is refused."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

import gru_xp
from gru_xp import errors

KINDS = [("int8", "float32"), ("int8", "int8"), ("bfloat16", "float32"), ("float16", "float32")]
RNG = np.random.default_rng(0)


def model(**options):
    return gru_xp.GRU(24, 40, num_layers=2, seed=1, **options)


def inputs(T=9, N=3, I=24):
    return np.random.default_rng(2).normal(size=(T, N, I)).astype("f4")


def by_hand(x, W_ih, W_hh, b_ih, b_hh, product):
    """One layer in float64, step by step, row by row; `product` (row, matrix, of a state) makes the products."""
    T, N, _ = x.shape
    H = W_hh.shape[1]
    y = np.zeros((T, N, H))
    for n in range(N):
        h = np.zeros(H)
        for t in range(T):
            gi, gh = product(x[t, n], W_ih, False) + b_ih, product(h, W_hh, True) + b_hh
            r, z = (1 / (1 + np.exp(-(gi[k : k + H] + gh[k : k + H]))) for k in (0, H))
            h = (1 - z) * np.tanh(gi[2 * H :] + r * gh[2 * H :]) + z * h
            y[t, n] = h
    return y


def whole(W):
    """Python's integers and one scale for each row, found by another way than `quantize` has."""
    rows = []
    for row in W.astype("f8"):
        s = np.float64(np.float32(max(map(abs, row)) / 127))
        rows.append(([int(np.rint(w / s)) for w in row], s))
    return rows


def test_int8_weights_are_those_of_a_scale_for_each_row():
    w, narrow = model().params[1][0], gru_xp.quantize(model().params)
    for W, got in zip(w[:2], narrow.params[1][0][:2], strict=True):
        for row, (integers, s), there in zip(W, whole(W), got, strict=True):
            np.testing.assert_allclose(there, np.asarray(integers) * s, rtol=1e-6)
            assert abs(there - row).max() <= 0.5001 * s
            assert max(map(abs, integers)) == 127


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax", "array_api_strict"])
def test_int8_activations_are_products_of_integers(backend):
    """Against Python's own integers, which have no limit."""
    w = gru_xp.GRU(24, 40, seed=3).params[0][0]
    x = inputs()

    def product(a, W, of_a_state):
        m = max(1.0 if of_a_state else 0.0, max(map(abs, a)))
        k = [int(np.rint(v * (127 / m))) for v in a]
        return np.array([sum(p * q for p, q in zip(row, k, strict=True)) * s * m / 127 for row, s in whole(W)])

    expected = by_hand(x, w.W_ih, w.W_hh, w.b_ih, w.b_hh, product)
    y, _ = gru_xp.gru_inference(x, gru_xp.prepare(gru_xp.quantize(((w,),), activations="int8").params), backend="numpy")
    got, _ = gru_xp.quantize(gru_xp.GRU.from_params(((w,),)), activations="int8")(x, backend=backend)
    # one rounding that float32 and float64 decide differently moves a sum by one step of one weight
    assert np.abs(got - expected).max() < 2e-4
    assert np.abs(y - expected).max() > 1e-3  # without rounding the activations it is something else


def test_sums_of_more_columns_than_float32_holds_are_exact():
    from gru_xp.integers import IntegerMatrix

    K = 5000
    q = np.full((3, K), 127.0, "f4")
    q[1] = RNG.integers(-127, 128, K)
    a = np.full((2, K), 1.0, "f4")
    a[1] = RNG.integers(-127, 128, K) / 127
    got = IntegerMatrix(q, np.full(3, 127.0, "f4"), 1.0, np).times(a)
    k = np.rint(a.astype("f8") * 127).astype("i8")
    np.testing.assert_array_equal(got, (k @ q.astype("i8").T).astype("f4"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_stays_visible(bad):
    narrow, x = gru_xp.quantize(model(), activations="int8"), inputs()
    x[4, 1, 3] = bad
    y, _ = narrow(x)
    assert np.isnan(y[4:, 1]).all() and np.isfinite(y[:4]).all() and np.isfinite(y[:, [0, 2]]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_wherever_prepared_parameters_go(kind):
    whole_model, x = model(bidirectional=True), inputs()
    narrow, params = gru_xp.quantize(whole_model, *kind), gru_xp.quantize(whole_model.params, *kind)
    y, h_n = narrow(x, lengths=[9, 4, 0])
    assert 0 < np.abs(y - whole_model(x, lengths=[9, 4, 0])[0]).max() < 0.05
    for got in (
        gru_xp.gru_inference(x, params, lengths=[9, 4, 0]),
        gru_xp.gru(x, params, lengths=[9, 4, 0]),
        gru_xp.GRU.from_params(params)(x, lengths=[9, 4, 0]),
        pickle.loads(pickle.dumps(narrow))(x, lengths=[9, 4, 0]),
    ):
        np.testing.assert_array_equal(got[0], y)
        np.testing.assert_array_equal(got[1], h_n)


@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_is_the_whole_sequence(kind):
    narrow, x = gru_xp.quantize(model(), *kind), inputs()
    state, y = narrow.initial_state(3), []
    for x_t in x:
        y_t, state = narrow.step(x_t, state)
        y.append(y_t)
    np.testing.assert_allclose(np.stack(y), narrow(x)[0], atol=2e-6)


@pytest.mark.parametrize("spec", [{"reset_after": False}, {"gate_activation": "hard_sigmoid", "clip": 3.0}])
def test_other_equations(spec):
    m, x = model(**spec), inputs()
    for kind in KINDS:
        assert 0 < np.abs(gru_xp.quantize(m, *kind)(x)[0] - m(x)[0]).max() < 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", [{}, {"bias": False}, {"clip": 2.0, "padding": "hold"}])
def test_files_keep_every_bit(tmp_path, kind, spec):
    pytest.importorskip("safetensors")
    narrow, x = gru_xp.quantize(model(**spec), *kind), inputs()
    narrow.save(tmp_path / "narrow.safetensors")
    again = gru_xp.load(tmp_path / "narrow.safetensors")
    assert repr(again) == repr(narrow) and again.report.exact
    np.testing.assert_array_equal(again(x)[0], narrow(x)[0])
    again.save(tmp_path / "again.safetensors")
    before, after = (gru_xp.files.contents(tmp_path / f"{name}.safetensors") for name in ("narrow", "again"))
    assert len(before.arrays) == len(after.arrays) > 0
    for name, array in before.arrays.items():
        np.testing.assert_array_equal(array, after.arrays[name])


@pytest.mark.parametrize(("kind", "factor"), [("int8", 3.8), ("bfloat16", 1.9), ("float16", 1.9)])
@pytest.mark.parametrize(
    ("I", "H", "L", "D"), [(256, 256, 1, 1), (384, 128, 4, 2), (8, 12, 1, 1), (8, 12, 5, 2), (100, 3, 100, 2)]
)
def test_files_are_smaller(tmp_path, kind, factor, I, H, L, D):
    """From I + H = 512 on by the factor; always weights, scales and biases to the byte, and a header of 1 KB."""
    pytest.importorskip("safetensors")
    m = gru_xp.GRU(I, H, L, bidirectional=D == 2, gate_activation="hard_sigmoid", batch_first=True, seed=0)
    m.save(tmp_path / "wide.safetensors")
    gru_xp.quantize(m, kind).save(tmp_path / "narrow.safetensors")
    wide, size = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("wide", "narrow"))
    if I + H >= 512:
        assert wide / size >= factor
    each, scales = (1, 2 * 3 * H * 4) if kind == "int8" else (2, 0)
    weights = D * 3 * H * (I + H + (L - 1) * (D * H + H)) * each
    assert 0 <= size - (weights + L * D * (scales + 2 * 3 * H * 4)) <= 1024


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_inputs(tmp_path, kind):
    narrow, x = gru_xp.quantize(gru_xp.GRU(0, 5, seed=0), *kind), np.zeros((4, 2, 0), "f4")
    assert np.abs(narrow(x)[0]).max() > 0
    for name in ("narrow.safetensors", "narrow.onnx"):
        narrow.save(tmp_path / name)
        again = gru_xp.load(tmp_path / name)(x)[0]
        if name == "narrow.onnx" and kind[1] == "int8":  # where the report says that products are of float32
            np.testing.assert_allclose(again, narrow(x)[0], atol=0.01)
        else:
            np.testing.assert_allclose(again, narrow(x)[0], atol=1e-6)


def test_the_header_stays_small_where_layers_are_kept(tmp_path):
    pytest.importorskip("safetensors")
    low, high = (w[0] for w in model().params)
    layers = [(low,), *((high._replace(W_hh=high.W_hh * (10 if layer % 9 == 3 else 1)),) for layer in range(60))]
    spec = gru_xp.GRUSpec(reset_after=False, gate_activation="hard_sigmoid")
    m = gru_xp.GRU.from_params(tuple(layers), spec=spec, batch_first=True, dropout=0.125)
    narrow = gru_xp.quantize(m, "int8", keep_below=0.1, x=inputs().swapaxes(0, 1))
    assert 0 < len(narrow._own.narrow.kept) < 60
    narrow.save(tmp_path / "narrow.safetensors")
    content = (tmp_path / "narrow.safetensors").read_bytes()
    assert int.from_bytes(content[:8], "little") + 8 <= 1024
    again = gru_xp.load(tmp_path / "narrow.safetensors")
    assert repr(again) == repr(narrow)
    np.testing.assert_array_equal(again(inputs().swapaxes(0, 1))[0], narrow(inputs().swapaxes(0, 1))[0])


def test_damaged_files_are_refused(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "narrow.safetensors"
    gru_xp.quantize(gru_xp.GRU(3, 4, seed=0)).save(path)
    with pytest.importorskip("safetensors").safe_open(path, "numpy") as opened:
        metadata, arrays = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    changes = {
        r"scales: expected float32 \(1, 1, 2, 12\), got float32 \(5,\)": {"scales": np.ones(5, "f4")},
        "not negative": {"scales": np.full((1, 1, 2, 12), -1, "f4")},
        "weight_hh: expected int8": {"weight_hh": np.zeros((1, 1, 12, 4), "f4")},
        "other: expected nothing": {"other": np.ones(12, "f4")},
    }
    for words, change in changes.items():
        library.save_file(arrays | change, path, metadata)
        with pytest.raises(errors.FileFormatError, match=words):
            gru_xp.load(path)
    held = json.loads(metadata["narrow"])
    least = arrays | {"weight_hh": np.full((1, 1, 12, 4), -128, "i1")}
    library.save_file(least, path, metadata | {"narrow": json.dumps(held | {"activations": "int8"})})
    with pytest.raises(errors.FileFormatError, match="from -127 to 127 beside int8 activations"):
        gru_xp.load(path)
    library.save_file(least, path, metadata)
    W = gru_xp.load(path).params[0][0].W_hh
    np.testing.assert_array_equal(W, -128 * np.repeat(arrays["scales"][0, 0, 1, :, None], 4, axis=1))
    for change in ({"activations": "int4"}, {"weights": "int4"}, {"kept": [0]}, {"kept": [1]}, {"kept": None}):
        library.save_file(arrays, path, metadata | {"narrow": json.dumps(held | change)})
        with pytest.raises(errors.FileFormatError, match="activations that fit and the layers that are kept"):
            gru_xp.load(path)
    for spec in ("[]", '{"clip": -1}', '{"clap": 1.0}', '{"reset_after": false}'):
        library.save_file(arrays, path, metadata | {"spec": spec})
        with pytest.raises(errors.FileFormatError, match="spec"):
            gru_xp.load(path)
    many = json.loads(metadata["model"]) | {"num_layers": 10**12}
    library.save_file(arrays, path, metadata | {"model": json.dumps(many)})
    with pytest.raises(errors.FileFormatError, match="layers, got fewer numbers"):
        gru_xp.load(path)


def test_refusals(tmp_path):
    m, x = model(), inputs()
    narrow = gru_xp.quantize(m)
    with pytest.raises(errors.NotDifferentiableError, match="can be trained, got int8 weights"):
        narrow.forward(x)
    with pytest.raises(errors.StructureError, match="not quantised yet"):
        gru_xp.quantize(narrow)
    with pytest.raises(errors.StructureError, match="weights: expected one of 'int8'"):
        gru_xp.quantize(m, "int4")
    with pytest.raises(errors.StructureError, match="activations: expected 'float32' beside"):
        gru_xp.quantize(m, "float16", "int8")
    with pytest.raises(errors.ConversionError, match="a format that holds int8 weights, such as .*safetensors"):
        narrow.save(tmp_path / "narrow.npz")
    with pytest.raises(errors.DTypeError, match="x: expected float32, as the model has"):
        narrow(x.astype("f8"))
    w = m.params[0][0]
    for value, kind in ((np.nan, "int8"), (np.inf, "bfloat16"), (1e6, "float16")):
        W = w.W_ih.copy()
        W[0, 0] = value
        with pytest.raises(errors.RangeError, match=r"params\[0\]\[0\].W_ih"):
            gru_xp.quantize(((w._replace(W_ih=W),),), kind)


def test_functions_of_trees_refuse_what_would_lose_how_weights_are_stored():
    narrow = gru_xp.quantize(model().params, activations="int8")
    for function in (
        gru_xp.prepare,
        gru_xp.weights,
        gru_xp.fake_quantize,
        lambda params: gru_xp.to(params, like=np.zeros(1)),
    ):
        with pytest.raises(errors.StructureError, match="quantised ones with int8 weights, int8 .*GRU.from_params"):
            function(narrow)
    with pytest.raises(errors.StructureError, match=r"some prepared for numpy:cpu; GRU.from_params\(params\) computes"):
        gru_xp.gru_inference(inputs(), narrow, backend="array_api_strict")
    with pytest.raises(errors.StructureError, match="params: expected a tuple of layers, got PreparedParams"):
        gru_xp.map_params(lambda a: a, narrow)
    for params in (model().params[0][0], (model().params[0][0],)):
        with pytest.raises(errors.StructureError, match=r"params.*: expected .*\(\(w,\),\)"):
            gru_xp.quantize(params)


def test_no_gradient_goes_through_rounded_activations():
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(inputs()).requires_grad_()
    params = gru_xp.to(model().params, like=x)
    with pytest.raises(errors.NotDifferentiableError, match="int8 activations, which have none"):
        gru_xp.gru(x, gru_xp.quantize(params, activations="int8"))
    y, _ = gru_xp.gru(x, gru_xp.quantize(params))
    y.sum().backward()
    assert x.grad.abs().max() > 0


def test_assigning_parameters_makes_a_float_model_of_it():
    narrow = gru_xp.quantize(model())
    narrow.params = model().params
    assert repr(narrow) == repr(model())


@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_lose_more_stay_float32(tmp_path, kind):
    """A layer with large weights, whose errors are large too, is left out; the other is not."""
    low, high = model(bidirectional=True).params
    m = gru_xp.GRU.from_params((low, (high[0], high[1]._replace(W_ih=10 * high[1].W_ih))))
    x = inputs()
    first = gru_xp.GRU.from_params(m.params[:1])
    alone = np.abs(gru_xp.quantize(first, *kind)(x)[0] - first(x)[0]).max()
    second = gru_xp.GRU.from_params(m.params[1:])
    worse = np.abs(gru_xp.quantize(second, *kind)(first(x)[0])[0] - second(first(x)[0])[0]).max()
    assert worse > 1.5 * alone
    narrow = gru_xp.quantize(m, *kind, keep_below=float(1.2 * alone), x=x)
    held = narrow._own.narrow
    assert held.kept == (1,) and "layer 1 in float32" in str(held)
    for a, b in zip(gru_xp.weights(narrow.params[1:]), gru_xp.weights(m.params[1:]), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(narrow.params[0][0].W_hh, gru_xp.quantize(first, *kind).params[0][0].W_hh)
    expected = second(gru_xp.quantize(first, *kind)(x)[0])[0]
    for backend in ("numpy", "torch", "jax", "array_api_strict"):
        np.testing.assert_allclose(narrow(x, backend=backend)[0], expected, atol=1e-5 if kind[1] == "float32" else 1e-3)
    account = gru_xp.quantization_account(m, narrow, x)
    assert account.bytes_after > gru_xp.quantization_account(m, gru_xp.quantize(m, *kind), x).bytes_after
    for name in ("narrow.safetensors", "narrow.onnx", "narrow.py"):
        narrow.save(tmp_path / name)
        if name == "narrow.py" or (kind[1] == "int8" and name == "narrow.onnx"):
            continue
        again = gru_xp.load(tmp_path / name)
        assert str(again._own.narrow) == str(held)
        np.testing.assert_array_equal(again(x)[0], narrow(x)[0])
    assert gru_xp.quantize(m, *kind, keep_below=2.0, x=x)._own.narrow.kept == ()
    with pytest.raises(errors.RangeError, match="keep_below: expected at least .* nothing would be quantised"):
        gru_xp.quantize(m, *kind, keep_below=1e-9, x=x)


@pytest.mark.parametrize("bad", [0, -1.0, np.nan, True, "1e-2"])
def test_what_is_no_bound_is_refused(bad):
    with pytest.raises(errors.RangeError, match="keep_below: expected a finite number above 0"):
        gru_xp.quantize(model(), keep_below=bad, x=inputs())


def test_the_same_rounding_in_every_library():
    """Of activations: PyTorch has 127.0 / m as 127 times a rounded 1 / m, which is another number for each fourth m."""
    from gru_xp.integers import IntegerMatrix

    torch = pytest.importorskip("array_api_compat.torch")
    size = np.random.default_rng(0).uniform(0.1, 4, (4000, 1)).astype("f4")
    steps = np.arange(1, 127, 4, dtype="f4") + np.float32(0.5)  # halves: any other factor rounds some of them elsewhere
    a = np.concatenate([size, steps * (size / np.float32(127))], axis=1)
    q = np.eye(a.shape[1], dtype="f4")
    ours, theirs = (
        IntegerMatrix(xp.asarray(q), xp.asarray(np.full(len(q), 127, "f4")), 2.0**-100, xp).times(xp.asarray(a))
        for xp in (np, torch)
    )
    np.testing.assert_array_equal(ours, theirs.numpy())
