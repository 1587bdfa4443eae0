"""Flax's and Equinox's cells and parameters, run by these and by gru_xp, and the way back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_params

import gru_xp
from gru_xp import errors, files
from gru_xp.params import map_params, weights_of
from gru_xp_jax import to_equinox, to_linen, to_nnx

pytest.importorskip("flax")
equinox = pytest.importorskip("equinox")
import flax.linen as nn  # noqa: E402
from flax import nnx  # noqa: E402

EPS = np.finfo("f4").eps
T, N, I, H = 9, 3, 4, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(T, N, I)).astype("f4")


def random_model(L: int = 1, D: int = 1, bias: bool = True, **options: Any) -> gru_xp.GRU:
    return gru_xp.GRU.from_params(random_params(RNG, I, H, L, D, bias, dtype="f4"), **options)


def drawn(make: Any, *arguments: Any, **options: Any) -> Any:
    """What `make` makes, all weights random and distinct, biases too; their own initial values are never computed."""
    return randomized(equinox.filter_eval_shape(make, *arguments, **options))


def randomized(tree: Any) -> Any:
    def draw(a: Any) -> Any:
        return jnp.asarray(RNG.normal(scale=0.5, size=a.shape).astype(a.dtype)) if hasattr(a, "shape") else a

    return jax.tree.map(draw, tree)


def assert_near(got: Any, expected: Any, steps: int = T) -> None:
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 4 * steps * EPS * max(1.0, np.abs(expected).max())


def without_r_z(model: gru_xp.GRU) -> gru_xp.GRU:
    """The same with b_hh zero for r and z, which is what a folded model comes back as."""
    keep = np.arange(3 * H) >= 2 * H
    params = tuple(
        tuple(w._replace(b_hh=np.where(keep, w.b_hh, 0).astype("f4")) for w in layer) for layer in model.params
    )
    return gru_xp.GRU.from_params(params)


def bits(params: Any) -> list[bytes]:
    return [np.asarray(a).tobytes() for a in weights_of(params)]


# ---- linen -----------------------------------------------------------------------------------------------------------


def test_linen_in() -> None:
    layer = nn.RNN(nn.GRUCell(H), time_major=True, return_carry=True)
    variables = drawn(layer.init, jax.random.key(0), X)
    h_n, y = layer.apply(variables, X)
    for tree, name in ((variables, None), (variables["params"], None), ({"a": [variables, 3]}, "cell")):
        model = gru_xp.from_framework(tree, name=name)
        assert model.backend == "numpy:cpu"
        assert_near(model(X)[0], y)
        assert_near(model(X)[1][0], h_n)


def reports(thing: Any) -> list[Any]:
    return [gru.report for gru in files.formats()["tree"].adopt(thing).grus]


def test_a_tree_does_not_tell_the_equation() -> None:
    """Two layers of one tree and other outputs: so what is read is no more than an assumption."""
    plain, other = (nn.RNN(nn.GRUCell(H, activation_fn=f), time_major=True) for f in (jnp.tanh, nn.relu))
    variables = drawn(plain.init, jax.random.key(0), X)
    assert np.abs(plain.apply(variables, X) - other.apply(variables, X)).max() > 0.1
    layer = nnx.RNN(random_nnx())
    both = {"forward_rnn": variables["params"], "backward_rnn": variables["params"]}
    for tree in (variables, both, nnx.state(layer), nnx.to_pure_dict(nnx.state(layer))):
        (report,) = reports(tree)
        assert [note.fate for note in report.notes] == ["exact", "assumed"] and not report.exact
        assert all(f"{word}=" in str(report) for word in ("gate_fn", "activation_fn", "reverse"))
    for live in (layer, layer.cell):
        (report,) = reports(live)
        assert report.exact


def test_linen_modules_hold_no_parameters() -> None:
    for module in (nn.GRUCell(H), nn.RNN(nn.GRUCell(H))):
        with pytest.raises(errors.ConversionError, match="holds no parameters; pass the variables that its init gave"):
            gru_xp.from_framework(module)


def test_linen_with_lengths() -> None:
    """What Flax puts out past the end is what its cell makes of the padding; up to there it is ours."""
    layer = nn.RNN(nn.GRUCell(H), time_major=True, return_carry=True)
    variables = drawn(layer.init, jax.random.key(0), X)
    lengths = np.array([T, 4, 1])
    h_n, y = layer.apply(variables, X, seq_lengths=lengths)
    own, own_h = gru_xp.from_framework(variables)(X, lengths=lengths)
    valid = np.arange(T)[:, None] < lengths
    assert_near(own, np.where(valid[..., None], y, 0))
    assert_near(own_h[0], h_n)


def test_linen_in_two_directions() -> None:
    layer = nn.Bidirectional(nn.RNN(nn.GRUCell(H)), nn.RNN(nn.GRUCell(H)), time_major=True)
    variables = drawn(layer.init, jax.random.key(0), X)
    model = gru_xp.from_framework(variables)
    assert model.bidirectional
    assert_near(model(X)[0], layer.apply(variables, X))


def test_linen_stacks_by_name() -> None:
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.RNN(nn.GRUCell(H), time_major=True)(x)
            x = nn.RNN(nn.GRUCell(H), time_major=True)(x)
            return x, nn.Dense(2)(nn.RNN(nn.OptimizedLSTMCell(3))(x))

    layer = Two()
    variables = drawn(layer.init, jax.random.key(0), X)
    with pytest.raises(errors.StructureError, match=r"several GRUs: .*GRUCell_0', .*GRUCell_1'; refused: .*an LSTM"):
        gru_xp.from_framework(variables)
    model = gru_xp.from_framework(variables, name="GRUCell_0+GRUCell_1")
    assert model.num_layers == 2
    assert_near(model(X)[0], layer.apply(variables, X)[0], 2 * T)


def test_linen_out_and_back() -> None:
    model = random_model(2, 2, dropout=0.5)
    cells, report = to_linen(model)
    assert [(note.fate, note.what) for note in report.notes] == [
        ("folded", "b_ih + b_hh of the gates r and z"),
        ("ignored", "dropout=0.5"),
    ]
    x = X
    for forward, backward in cells:
        layer = nn.Bidirectional(nn.RNN(nn.GRUCell(H)), nn.RNN(nn.GRUCell(H)), time_major=True)
        x = layer.apply({"params": {"forward_rnn": {"cell": forward}, "backward_rnn": {"cell": backward}}}, x)
    assert_near(model(X)[0], x, 2 * T)
    tree = {f"{n}": {"forward_rnn": a, "backward_rnn": b} for n, (a, b) in enumerate(cells)}
    back = gru_xp.from_framework(tree, name="0+1")
    assert_near(back(X)[0], model(X)[0], 2 * T)
    again = to_linen(back)
    assert again.report.exact
    jax.tree.map(np.testing.assert_array_equal, again.cells, cells)


def test_linen_without_biases() -> None:
    model = random_model(bias=False)
    ((cell,),), report = to_linen(model)
    assert [note.fate for note in report.notes] == ["exact", "changed"]
    y = nn.RNN(nn.GRUCell(H), time_major=True).apply({"params": {"cell": cell}}, X)
    assert_near(model(X)[0], y)


# ---- NNX -------------------------------------------------------------------------------------------------------------


def random_nnx(kind: Any = nnx.GRUCell, **options: Any) -> Any:
    cell = nnx.eval_shape(lambda: kind(I, H, rngs=nnx.Rngs(0), **options))
    nnx.update(cell, randomized(nnx.state(cell, nnx.Param)))
    return cell


def test_nnx_in() -> None:
    cell = random_nnx()
    layer = nnx.RNN(cell, time_major=True)
    for thing in (cell, layer, nnx.state(layer), nnx.to_pure_dict(nnx.state(layer))):
        model = gru_xp.from_framework(thing)
        assert_near(model(X)[0], layer(X))
    ((w,),) = model.params
    assert not np.asarray(w.b_hh).any()


def test_nnx_in_two_directions() -> None:
    both = [nnx.RNN(random_nnx()) for _ in range(2)]
    layer = nnx.Bidirectional(*both, time_major=True)
    model = gru_xp.from_framework(layer)
    assert model.bidirectional
    assert_near(model(X)[0], layer(X))


@pytest.mark.filterwarnings("ignore:.*differs from the original:gru_xp.errors.ConversionWarning")
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("keep_order", [None, False, True])
def test_nnx_says_how_it_runs(keep_order: bool | None, time_major: bool) -> None:
    """`reverse` and `time_major` belong to the layer above the cell."""
    backwards = keep_order is not None
    layer = nnx.RNN(random_nnx(), time_major=time_major, reverse=backwards, keep_order=keep_order is True)
    for thing, name in ((layer, None), (nnx.Sequential(nnx.Linear(I, I, rngs=nnx.Rngs(0)), layer), "layers.1.cell")):
        model = gru_xp.from_framework(thing, name=name)
        assert (model.spec.reverse, model.batch_first) == (backwards, not time_major)
        x = X if time_major else X.swapaxes(0, 1)
        y, expected = model(x)[0], layer(x)
        assert_near(np.flip(y, 0 if time_major else 1) if keep_order is False else y, expected)
    (gru,) = files.formats()["tree"].adopt(layer).grus
    assert ("keep_order=False" in str(gru.report)) is (keep_order is False)


def test_nnx_bidirectional_says_more_than_its_halves() -> None:
    halves = [nnx.RNN(random_nnx(), reverse=backwards) for backwards in (True, True)]
    layer = nnx.Bidirectional(*halves)
    x = X.swapaxes(0, 1)
    assert_near(gru_xp.from_framework(layer)(x)[0], layer(x))
    layer.merge_fn = jnp.add
    (gru,) = files.formats()["tree"].adopt(layer).grus
    assert "changed: merge_fn" in str(gru.report)


def test_nnx_halves_of_a_class_of_its_own() -> None:
    class Own(nnx.Module):
        def __init__(self) -> None:
            self.forward_rnn = nnx.RNN(random_nnx())
            self.backward_rnn = nnx.RNN(random_nnx(), reverse=True, keep_order=True)

    own, x = Own(), X.swapaxes(0, 1)
    for name in ("forward_rnn", "backward_rnn"):
        assert_near(gru_xp.from_framework(own, name=name)(x)[0], getattr(own, name)(x))


def test_nnx_with_other_activations() -> None:
    cell = random_nnx(gate_fn=jax.nn.hard_sigmoid, activation_fn=jax.nn.relu)
    assert_near(gru_xp.from_framework(cell)(X)[0], nnx.RNN(cell, time_major=True)(X))
    cell.activation_fn = lambda a: a
    with pytest.raises(errors.ConversionError, match="may be anything"):
        gru_xp.from_framework(cell)


def test_nnx_that_computes_in_another_type() -> None:
    cell = random_nnx(dtype=jnp.bfloat16)
    with pytest.warns(
        errors.ConversionWarning, match="dtype=bfloat16: everything is computed in the type of the weigh"
    ):
        model = gru_xp.from_framework(cell)
    assert model.dtype == "float32"
    assert np.abs(model(X)[0] - np.asarray(nnx.RNN(cell, time_major=True)(X), "f4")).max() > 100 * EPS
    (report,) = reports(random_nnx(dtype=jnp.float32))
    assert report.exact


def test_nnx_has_no_b_hn() -> None:
    model = random_model()
    with pytest.raises(errors.ConversionError, match="b_hh of the candidate n is not zero.*flax/issues/5594"):
        to_nnx(model)
    keep = np.arange(3 * H) < 2 * H
    params = map_params(lambda a: np.where(keep, a, 0).astype("f4") if a.ndim == 1 else a, model.params)
    params = ((params[0][0]._replace(b_ih=model.params[0][0].b_ih),),)
    model = gru_xp.GRU.from_params(params)
    ((cell,),), report = to_nnx(model)
    assert report.notes[0].fate == "folded"
    assert_near(model(X)[0], nnx.RNN(cell, time_major=True)(X))
    back = gru_xp.from_framework(cell)
    again = to_nnx(back)
    assert again.report.exact
    jax.tree.map(np.testing.assert_array_equal, nnx.state(again.cells[0][0]), nnx.state(cell))


def test_another_cell_with_nnx_names() -> None:
    tree = nnx.to_pure_dict(nnx.state(random_nnx())) | {"hn_bias": jnp.ones(H)}
    with pytest.raises(errors.ConversionError, match="as of 0.12, which has no hn_bias"):
        gru_xp.from_framework(tree)
    with pytest.raises(errors.ConversionError, match="an LSTM"):
        gru_xp.from_framework(random_nnx(nnx.OptimizedLSTMCell))


# ---- Equinox ---------------------------------------------------------------------------------------------------------


def run(cell: Any, x: Any) -> Any:
    """All sequences, step by step."""
    step = jax.vmap(cell)
    _, y = jax.lax.scan(lambda h, x_t: (step(x_t, h),) * 2, jnp.zeros((x.shape[1], cell.hidden_size)), x)
    return y


class Model(equinox.Module):
    cell: Any
    others: list[Any]

    def __init__(self, key: Any):
        self.cell = equinox.nn.GRUCell(I, H, key=key, dtype=jnp.float32)
        self.others = [equinox.nn.LSTMCell(I, H, key=key), equinox.nn.Linear(H, 2, key=key)]


@pytest.mark.parametrize("bias", [True, False])
def test_equinox_in(bias: bool) -> None:
    cell = drawn(equinox.nn.GRUCell, I, H, bias, jnp.float32, key=jax.random.key(0))
    model = gru_xp.from_framework(cell)
    assert model.bias is bias
    assert_near(model(X)[0], run(cell, X))
    ((again,),), report = to_equinox(model)
    assert report.exact
    assert equinox.tree_equal(again, cell)


def test_equinox_in_a_larger_model(tmp_path: Any) -> None:
    model = drawn(Model, jax.random.key(0))
    found = files.formats()["tree"].adopt(model)
    assert [gru.name for gru in found.grus] == ["cell"]
    assert [(refusal.name, refusal.reason[:7]) for refusal in found.refused] == [("others.0", "an LSTM")]
    assert "others.1.weight" in found.ignored
    path = tmp_path / "model.eqx"
    equinox.tree_serialise_leaves(path, model)
    live = equinox.tree_deserialise_leaves(path, drawn(Model, jax.random.key(1)))
    assert bits(gru_xp.from_framework(live, name="cell").params) == bits(
        gru_xp.from_framework(model, name="cell").params
    )


def test_equinox_modules_of_their_own() -> None:
    class Own(equinox.Module):
        weight_ih: Any
        weight_hh: Any

    with pytest.raises(errors.ConversionError, match="Own may compute anything with them"):
        gru_xp.from_framework(Own(jnp.zeros((15, 4)), jnp.zeros((15, 5))))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_equinox_out_and_back(dtype: str) -> None:
    model = gru_xp.GRU(I, H, num_layers=2, seed=0, dtype=dtype, backend="jax")
    cells, report = to_equinox(model)
    assert [note.fate for note in report.notes] == ["folded"]
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(cells)} == {dtype}
    tree = {str(n): layer[0] for n, layer in enumerate(cells)}
    back = gru_xp.from_framework(tree, name="0+1", backend="jax")
    eps = float(jnp.finfo(dtype).eps)
    x = jnp.asarray(X[:4], dtype)
    assert np.abs(np.asarray(back(x)[0] - model(x)[0], "f4")).max() <= 16 * eps
    assert to_equinox(back).report.exact
    if dtype == "float32":
        assert_near(model(X)[0], run(cells[1][0], run(cells[0][0], X)))


def test_what_flax_and_equinox_cannot_hold_is_refused() -> None:
    for convert in (to_linen, to_nnx, to_equinox):
        with pytest.raises(errors.ConversionError, match=r"reset_after=False: (Flax|Equinox).*GRUCell knows True only"):
            convert(gru_xp.GRU(I, H, reset_after=False))


def test_folded_biases_come_back_as_folded() -> None:
    model = random_model()
    back = gru_xp.from_framework({"cell": to_equinox(without_r_z(model)).cells[0][0]})
    assert bits(back.params) == bits(without_r_z(model).params)
