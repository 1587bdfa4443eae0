"""`GRU`: torch.nn.GRU's arguments, parameters that are its own, initialisers, streaming."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import LIBRARIES, WITHOUT_CUPY, assert_close, to_library, to_numpy
from libraries import torch

import gru_xp
from gru_xp import convert, errors, prepared
from gru_xp.arraymancer import from_arraymancer, to_arraymancer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3, 4)).astype("f4")


def torch_twin(model: gru_xp.GRU) -> torch.nn.GRU:
    twin = torch.nn.GRU(
        model.input_size,
        model.hidden_size,
        model.num_layers,
        bias=model.bias,
        batch_first=model.batch_first,
        bidirectional=model.bidirectional,
    )
    weights = [a for layer in model.params for w in layer for a in w if a is not None]
    with torch.no_grad():
        for parameter, weight in zip(twin.parameters(), weights, strict=True):
            parameter.copy_(torch.tensor(np.array(weight)))
    return twin


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_arguments_are_torchs(num_layers: int, bias: bool, batch_first: bool, bidirectional: bool) -> None:
    model = gru_xp.GRU(4, 5, num_layers, bias, batch_first, bidirectional=bidirectional, seed=1)
    twin = torch_twin(model)
    D = 2 if bidirectional else 1
    h0 = RNG.normal(size=(num_layers * D, 6 if batch_first else 3, 5)).astype("f4")
    for state in (None, h0):
        x = torch.tensor(X, requires_grad=True)
        y_t, h_n_t = twin(x, None if state is None else torch.tensor(state))
        y, h_n = model(X, state)
        found, expected = {"y": y, "h_n": h_n}, {"y": y_t, "h_n": h_n_t}
        y, h_n, tape = model.forward(X, state)
        y_t.sum().backward()
        grads = model.backward(tape, np.ones_like(y))
        found |= {"y2": y, "h_n2": h_n, "dx": grads.x}
        assert_close(found, expected | {"y2": y_t, "h_n2": h_n_t, "dx": x.grad}, 2e-6)
    y_t, h_n_t = twin(torch.tensor(X[:, 0]))  # without a batch
    y, h_n = model(X[:, 0])
    assert_close({"y": y, "h_n": h_n}, {"y": y_t, "h_n": h_n_t}, 2e-6)


def test_batch_first_carries_resets_and_lengths() -> None:
    first = gru_xp.GRU(4, 5, batch_first=True, seed=0)
    usual = gru_xp.GRU(4, 5, seed=0)
    resets = RNG.random((6, 3)) < 0.3
    expected, _ = usual(X, lengths=[6, 2, 0], resets=resets)
    for given in (resets.T, resets.T.tolist()):
        y, _ = first(X.transpose(1, 0, 2), lengths=[6, 2, 0], resets=given)
        np.testing.assert_array_equal(y, expected.transpose(1, 0, 2))


@pytest.mark.parametrize("initializer", ["pytorch", "keras", "arraymancer"])
def test_one_seed_gives_one_model_everywhere(initializer: str) -> None:
    models = [gru_xp.GRU(4, 5, 2, initializer=initializer, seed=3, backend=name) for name in LIBRARIES]
    expected = models[0].params
    for model, library in zip(models, LIBRARIES, strict=True):
        assert model.backend == f"{library}:cpu"
        for layer, layer_expected in zip(model.params, expected, strict=True):
            for got, wanted in zip(layer[0], layer_expected[0], strict=True):
                np.testing.assert_array_equal(to_numpy(got), wanted)
    other = gru_xp.GRU(4, 5, 2, initializer=initializer, seed=4)
    assert not np.array_equal(other.params[0][0].W_hh, expected[0][0].W_hh)


def test_initialisers_draw_what_they_are_named_after() -> None:
    I, H, L = 40, 50, 3
    bound = 1 / np.sqrt(H)
    for w in (layer[0] for layer in gru_xp.GRU(I, H, L, seed=0).params):
        for a in w:
            assert 0.9 * bound < np.abs(a).max() <= bound
    for index, layer in enumerate(gru_xp.GRU(I, H, L, initializer="keras", seed=0, dtype="float64").params):
        (w,) = layer
        limit = np.sqrt(6 / ((I if index == 0 else H) + 3 * H))
        assert 0.9 * limit < np.abs(w.W_ih).max() <= limit
        np.testing.assert_allclose(w.W_hh.T @ w.W_hh, np.eye(H), atol=1e-12)
        assert not w.b_ih.any()
        assert not w.b_hh.any()
    for index, layer in enumerate(gru_xp.GRU(I, H, L, initializer="arraymancer", seed=0, dtype="float64").params):
        (w,) = layer
        limit = np.sqrt(6 / (I + 3 * H if index == 0 else (3 * H + L - 1) * H))
        assert 0.9 * limit < np.abs(w.W_ih).max() <= limit
        np.testing.assert_allclose(w.W_hh.std(), 1 / (np.sqrt(3) * H), rtol=0.05)


def test_parameters_belong_to_the_model() -> None:
    model = gru_xp.GRU(4, 5, seed=0)
    y, _ = model(X)
    with pytest.raises(ValueError, match="read-only"):
        model.params[0][0].W_hh[0, 0] = 1.0
    mine = np.zeros((15, 5), "f4")
    model.params = ((model.params[0][0]._replace(W_hh=mine),),)
    changed, _ = model(X)
    assert not np.array_equal(y, changed)
    mine[...] = 1.0
    np.testing.assert_array_equal(model(X)[0], changed)
    tensors = gru_xp.GRU(4, 5, seed=0, backend="torch")
    before = tensors(torch.tensor(X))[0]
    tensors.params[0][0].W_hh.zero_()  # a copy
    assert torch.equal(tensors(torch.tensor(X))[0], before)
    with pytest.raises(errors.ShapeError, match="params: expected the sizes"):
        model.params = gru_xp.GRU(4, 6).params


def test_arrays_of_another_library_bring_the_parameters_there_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = gru_xp.GRU(4, 5, seed=0)
    expected, _ = model(X)
    for library in LIBRARIES:
        y, _ = model(to_library(library, X))
        assert_close({"y": y}, {"y": expected}, 1e-6)
    crossings = []
    monkeypatch.setattr(prepared, "convert", lambda *given: crossings.append(given) or convert.convert(*given))
    model(torch.tensor(X))
    assert not crossings
    model.params = gru_xp.GRU(4, 5, seed=1).params  # nothing stale
    y, _ = model(torch.tensor(X))
    assert_close({"y": y}, {"y": model(X)[0]}, 1e-6)


def test_dropout_acts_in_training_and_between_layers_only() -> None:
    model = gru_xp.GRU(4, 5, 3, dropout=0.5, seed=0)
    y, _ = model(X)
    np.testing.assert_array_equal(y, model(X)[0])
    with pytest.raises(errors.StructureError, match="dropout_seed: expected an integer, because dropout is on"):
        model.forward(X)
    a, b, c = (model.forward(X, dropout_seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a[0], b[0])
    assert not np.array_equal(a[0], c[0])
    assert not np.array_equal(a[0], y)
    masks = a[2].dropout_masks
    assert masks.shape == (2, 6, 3, 5)
    assert set(np.unique(masks)) == {np.float32(0.0), np.float32(2.0)}
    for library in LIBRARIES[1:]:
        drawn = model.forward(to_library(library, X), dropout_seed=1)
        np.testing.assert_array_equal(to_numpy(drawn[2].dropout_masks), masks)
    assert gru_xp.GRU(4, 5, 1, dropout=0.5).forward(X)[0].shape == (6, 3, 5)  # never after the last
    everything = gru_xp.GRU(4, 5, 2, dropout=1.0).forward(X, dropout_seed=0)[2].dropout_masks
    assert not everything.any()


@pytest.mark.parametrize("library", LIBRARIES)
def test_step_by_step_is_the_whole_sequence(library: str) -> None:
    model = gru_xp.GRU(4, 5, 2, seed=0)
    x = to_library(library, X)
    resets = RNG.random((6, 3)) < 0.3
    expected, h_n = model(x, resets=resets)
    state = model.initial_state(3, like=x)
    outs = []
    for t in range(6):
        y_t, state = model.step(x[t, ...], state, reset=to_library(library, resets[t]))
        outs.append(to_numpy(y_t))
    tolerance = 0.0 if library in ("numpy", "array_api_strict") else 1e-6
    assert_close({"y": np.stack(outs), "h": state}, {"y": expected, "h": h_n}, tolerance)


def test_steps_in_several_threads_and_through_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fused kernel keeps for streaming serves one thread, one selection and one set of parameters."""
    from concurrent.futures import ThreadPoolExecutor

    model = gru_xp.GRU(4, 5, 2, seed=0)
    streams = RNG.normal(size=(8, 50, 3, 4)).astype("f4")
    expected = [model(x)[0] for x in streams]

    def stream(x: np.ndarray) -> np.ndarray:
        state, outs = model.initial_state(3), []
        for x_t in x:
            before = state.copy()
            y_t, following = model.step(x_t, state)
            np.testing.assert_array_equal(state, before)
            state = following
            outs.append(y_t)
        return np.stack(outs)

    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(pool.map(stream, streams), expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
    for kernels in ("off", "auto"):
        monkeypatch.setenv("GRU_XP_KERNELS", kernels)
        np.testing.assert_allclose(stream(streams[0]), expected[0], rtol=0, atol=1e-6)
    monkeypatch.setenv("GRU_XP_KERNELS", "nonsense")
    with pytest.raises(errors.VariableError):
        stream(streams[0])
    monkeypatch.delenv("GRU_XP_KERNELS")
    model.params = gru_xp.GRU(4, 5, 2, seed=1).params
    np.testing.assert_allclose(stream(streams[0]), model(streams[0])[0], rtol=0, atol=1e-6)
    with pytest.raises(errors.DTypeError):
        model.step(streams[0, 0].astype("f8"), model.initial_state(3))


def test_copies_and_pickles() -> None:
    import copy
    import pickle

    for library in ("numpy", "torch", "jax"):
        model = gru_xp.GRU(4, 5, 2, batch_first=True, dropout=0.25, seed=0, backend=library)
        x = to_library(library, X)
        expected, _ = model(x)
        for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
            assert repr(twin) == repr(model)
            np.testing.assert_array_equal(to_numpy(twin(x)[0]), to_numpy(expected))


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_tapes_and_prepared_parameters_can_be_copied(library: str) -> None:
    import copy
    import pickle

    model, x = gru_xp.GRU(4, 5, 2, seed=0), to_library(library, X)
    y, _, tape = model.forward(x)
    expected = to_numpy(model.backward(tape, y).x)
    for twin in (copy.deepcopy(tape), pickle.loads(pickle.dumps(tape))):
        np.testing.assert_array_equal(to_numpy(model.backward(twin, y).x), expected)
    params = gru_xp.GRU(4, 5, 2, seed=0, backend=library).params
    prepared, unused = gru_xp.prepare(params), gru_xp.prepare(params)
    gru_xp.gru(x, prepared)  # a kernel may have packed them: addresses of this process, which must not travel
    assert len(pickle.dumps(copy.deepcopy(prepared))) == len(pickle.dumps(unused))
    y, _ = gru_xp.gru(x, pickle.loads(pickle.dumps(prepared)))
    np.testing.assert_array_equal(to_numpy(y), to_numpy(model(x)[0]))


def test_step_without_a_batch() -> None:
    model = gru_xp.GRU(4, 5, 2, seed=0)
    expected, h_n = model(X[:, 0])
    state = model.initial_state()
    for t in range(6):
        y_t, state = model.step(X[t, 0], state, reset=False)
        np.testing.assert_allclose(y_t, expected[t], rtol=0, atol=1e-7)
    assert state.shape == h_n.shape == (2, 5)


def test_chunks_are_the_whole_sequence() -> None:
    model = gru_xp.GRU(4, 5, 2, seed=0)
    expected, h_n = model(X)
    first, state = model(X[:2])
    second, state = model(X[2:], state)
    np.testing.assert_array_equal(np.concatenate([first, second]), expected)
    np.testing.assert_array_equal(state, h_n)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((4.0, 5), {}, errors.StructureError, "input_size: expected an integer, got 4.0"),
        ((4, 0), {}, errors.RangeError, "hidden_size: expected at least 1, got 0"),
        (
            (4, 10**9),
            {},
            errors.RangeError,
            r"expected weights \(3H, I\) and \(3H, H\) that memory can hold, got I = 4",
        ),
        ((10**18, 5), {}, errors.RangeError, "input_size, hidden_size: expected weights"),
        ((4, 5, 0), {}, errors.RangeError, "num_layers: expected at least 1, got 0"),
        ((4, 5), {"dropout": 1.5}, errors.RangeError, "dropout: expected a probability from 0 to 1, got 1.5"),
        ((4, 5), {"dtype": "int32"}, errors.DTypeError, "dtype: expected float32, .* got 'int32'"),
        (
            (4, 5),
            {"dtype": "bfloat16"},
            errors.BackendError,
            "numpy has no dtype bfloat16; it has float16, float32, float64",
        ),
        (
            (4, 5),
            {"initializer": "lecun"},
            errors.StructureError,
            "initializer: expected one of 'pytorch', .* got 'lecun'",
        ),
        pytest.param((4, 5), {"backend": "cupy"}, errors.BackendError, "its library is missing", marks=WITHOUT_CUPY),
        ((4, 5), {"seed": "x"}, errors.StructureError, "seed: expected an integer, got 'x'"),
        ((4, 5), {"seed": -1}, errors.RangeError, "seed: expected at least 0, got -1"),
        ((4, True), {}, errors.StructureError, "hidden_size: expected an integer, got True"),
        ((4, 5), {"dropout": "a"}, errors.StructureError, "dropout: expected a number, got 'a'"),
        ((4, 5), {"bidirectional": 1}, errors.StructureError, "bidirectional: expected True or False, got 1"),
        ((4, 5), {"reset_after": 0}, errors.StructureError, "reset_after: expected True or False, got 0"),
        ((4, 5), {"batch_first": None}, errors.StructureError, "batch_first: expected True or False, got None"),
        ((4, 5), {"initializer": []}, errors.StructureError, "initializer: expected one of"),
    ],
)
def test_bad_arguments(arguments, options, error, message) -> None:
    with pytest.raises(error, match=message):
        gru_xp.GRU(*arguments, **options)


def test_bad_steps() -> None:
    two = gru_xp.GRU(4, 5, bidirectional=True)
    with pytest.raises(errors.StructureError, match="step: expected a model in one direction"):
        two.step(X[0], two.initial_state(3))
    model = gru_xp.GRU(4, 5)
    with pytest.raises(errors.ShapeError, match=r"x_t: expected \(N, I\), or \(I,\) without a batch, got \(6, 3, 4\)"):
        model.step(X, model.initial_state(3))
    with pytest.raises(errors.ShapeError, match=r"state: expected \(L, N, H\) = \(1, 3, 5\), got \(1, 2, 5\)"):
        model.step(X[0], model.initial_state(2))
    with pytest.raises(errors.DTypeError, match="x: expected float32, as the model has, got float64"):
        model(X.astype("f8"))


@pytest.mark.parametrize("policy", ["auto", "off"])
def test_steps_take_any_byte_order(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_XP_KERNELS", policy)
    model, x = gru_xp.GRU(4, 5, seed=0), RNG.normal(size=(6, 3, 4)).astype("f4")
    state = swapped = model.initial_state(3)
    for step in x:
        y, state = model.step(step, state)
        other, swapped = model.step(step.astype(">f4"), swapped)
        np.testing.assert_array_equal(other, y)
        swapped = swapped.astype(">f4")


def test_errors_call_the_arguments_of_a_step_by_their_names() -> None:
    model = gru_xp.GRU(4, 5, seed=0)
    x, state = np.zeros((3, 4), "f4"), model.initial_state(3)
    for _ in range(2):
        for x_t, before, reset, error, message in (
            (x, state.astype("f8"), None, errors.DTypeError, "state: expected float32, as x_t has, got float64"),
            (
                x.astype("f8"),
                state,
                None,
                errors.DTypeError,
                "x_t: expected float32, as the model has, got float64",
            ),
            (x.astype(int), state, None, errors.DTypeError, "x_t: expected a floating-point dtype"),
            (x, state, [True], errors.ShapeError, r"reset: expected \(N,\) = \(3,\), got 1 values; as x_t has"),
            (
                x[0],
                state[:, 0],
                [True],
                errors.ShapeError,
                r"reset: expected \(\) = \(\), got 1 values; as x_t has",
            ),
            (x, state, [1, 0, 1], errors.DTypeError, "reset: expected booleans, got 1, an int"),
            (x, state, np.ones(3), errors.DTypeError, "reset: expected booleans, got float64"),
        ):
            with pytest.raises(error, match=message):
                model.step(x_t, before, reset=reset)
        model.step(x, state)


def test_a_state_is_floating_point() -> None:
    with pytest.raises(errors.DTypeError, match=r"like: expected a floating-point dtype .*, got int64; pass x"):
        gru_xp.GRU(4, 5).initial_state(2, like=np.zeros(1, "i8"))


def test_parameters_assigned_in_the_middle_of_a_step_are_those_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    model = gru_xp.GRU(3, 4, seed=0)
    other, x, state = gru_xp.GRU(3, 4, seed=1), np.ones((2, 3), "f4"), np.zeros((1, 2, 4), "f4")
    layer = pytest.importorskip("gru_xp_cpu").CpuLayer
    made = layer.stream

    def interrupted(self: Any, *arguments: Any) -> Any:
        model.params = other.params  # as another thread might
        return made(self, *arguments)

    monkeypatch.setattr(layer, "stream", interrupted)
    model.step(x, state)
    monkeypatch.undo()
    for _ in range(3):
        np.testing.assert_allclose(model.step(x, state)[0], gru_xp.gru(x[None], other.params)[0][0], atol=1e-6)


def test_batch_first_takes_masks_and_resets_as_lists_too() -> None:
    model = gru_xp.GRU(4, 5, batch_first=True, bidirectional=True, seed=0)
    x, marks = RNG.normal(size=(3, 3, 4)).astype("f4"), np.array([[1, 0, 1], [1, 1, 0], [0, 0, 1]], dtype=bool)
    for name in ("mask", "resets"):
        expected = model(x, **{name: marks})[0]
        for given in (list(marks), marks.tolist(), tuple(map(tuple, marks.tolist()))):
            np.testing.assert_array_equal(model(x, **{name: given})[0], expected)
        with pytest.raises(errors.ShapeError, match=rf"{name}: expected \(N, T\) = \(3, 3\), got a row of 1; as x has"):
            model(x, **{name: [[True, True, True], [True], [True, True, True]]})
        with pytest.raises(errors.ShapeError, match=rf"{name}: expected \(N, T\) = \(3, 3\), got 2 rows"):
            model(x, **{name: list(marks[:2])})


def test_batch_first_errors_are_in_the_callers_order() -> None:
    model = gru_xp.GRU(4, 5, batch_first=True)
    with pytest.raises(errors.ShapeError, match=r"x: expected \(N, T, I\) = \(3, 6, 4\), got \(3, 6, 7\)"):
        model(np.zeros((3, 6, 7), "f4"))
    with pytest.raises(errors.ShapeError, match=r"resets: expected \(N, T\) = \(3, 6\), got \(6, 3\)"):
        model(np.zeros((3, 6, 4), "f4"), resets=np.zeros((6, 3), bool))
    y, _, tape = model.forward(np.zeros((3, 6, 4), "f4"))
    with pytest.raises(
        errors.ShapeError, match=r"dy: expected \(N, T, D\*H\) = \(3, 6, 5\), got \(6, 3, 5\); as forward"
    ):
        model.backward(tape, y.transpose(1, 0, 2))
    with pytest.raises(errors.StructureError, match="dy: expected an array"):
        model.backward(tape, y.tolist())
    with pytest.raises(errors.StructureError, match="tape: expected what gru_forward returned last"):
        model.backward(y, y)


def test_numbers_of_numpy_will_do() -> None:
    model = gru_xp.GRU(np.int64(4), np.int32(5), np.int8(2), dropout=np.float32(0.5), seed=np.int64(3))
    y, _ = model(X, lengths=list(np.array([6, 2, 0])), resets=[list(row) for row in np.zeros((6, 3), bool)])
    np.testing.assert_array_equal(y, gru_xp.GRU(4, 5, 2, seed=3)(X, lengths=[6, 2, 0])[0])
    model.forward(X, dropout_seed=np.int64(1))
    for length in (np.int64(4), np.array(4), 4, [4]):
        np.testing.assert_array_equal(model(X[:, 0], lengths=length)[0][4:], 0.0)


def test_options_do_not_change_behind_its_back() -> None:
    model = gru_xp.GRU(4, 5)
    for name, value in (("dropout", 5), ("batch_first", "x"), ("spec", None)):
        with pytest.raises(AttributeError):
            setattr(model, name, value)


def test_what_it_owns_cannot_be_written_to() -> None:
    model = gru_xp.GRU(4, 5, seed=0)
    _, _, tape = model.forward(X)
    for weight in (tape.params[0][0].W_hh, tape.layers[0][0].w.W_hh, model.params[0][0].W_hh):
        with pytest.raises(ValueError, match="read-only"):
            weight[...] = 0.0
    with pytest.raises(ValueError, match="WRITEABLE"):
        model.params[0][0].W_hh.flags.writeable = True


def test_a_call_in_inference_mode_does_not_spoil_later_ones() -> None:
    model, x = gru_xp.GRU(4, 5, seed=0), torch.tensor(X)
    with torch.inference_mode():
        model(x)
    x = x.clone().requires_grad_()
    model(x)[0].sum().backward()
    assert x.grad is not None


def test_dtypes_and_repr() -> None:
    for dtype in (np.float64, np.dtype("f8"), torch.float64, "float64"):
        assert gru_xp.GRU(4, 5, dtype=dtype).dtype == "float64"
    assert gru_xp.GRU(4, 5, dtype="bfloat16", backend="torch", seed=0).params[0][0].W_hh.dtype == torch.bfloat16
    model = gru_xp.GRU(4, 5, 2, batch_first=True, dropout=0.25, reset_after=False)
    assert repr(model) == (
        "GRU(4, 5, num_layers=2, batch_first=True, dropout=0.25, reset_after=False, "
        "dtype='float32', backend='numpy:cpu')"
    )


def test_arraymancer_both_ways() -> None:
    for L in (1, 3):
        params = gru_xp.GRU(4, 5, L, seed=0).params
        stacked = to_arraymancer(params)
        assert [a.shape for a in stacked] == [(15, 4), (L - 1, 15, 5), (L, 15, 5), (L, 1, 15), (L, 1, 15)]
        back = from_arraymancer(*stacked)
        for layer, expected in zip(back, params, strict=True):
            for a, b in zip(layer[0], expected[0], strict=True):
                np.testing.assert_array_equal(a, b)
    with pytest.raises(errors.StructureError, match="expected one direction"):
        to_arraymancer(gru_xp.GRU(4, 5, bidirectional=True).params)
    with pytest.raises(errors.StructureError, match="expected biases"):
        to_arraymancer(gru_xp.GRU(4, 5, bias=False).params)
    with pytest.raises(errors.ShapeError, match=r"bU3s: expected \(L, 1, 3H\) = \(3, 1, 15\), got \(3, 15\)"):
        from_arraymancer(*stacked._replace(bU3s=stacked.bU3s[:, 0]))
