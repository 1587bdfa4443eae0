"""`gru` on JAX arrays under every transform, against a loop over rows and steps; compilation; sharded batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_problem
from subprocesses import on_two_devices

import gru_xp
from gru_xp.params import map_params

T, N, I, H = 3, 3, 1, 2
PROBLEM = random_problem(3, T=T, N=N, I=I, H=H, L=1)
LENGTHS, BOUND = [3, 0, 2], 1e-11
X, H0, RESETS = (jnp.asarray(a) for a in (PROBLEM.x, PROBLEM.h0, PROBLEM.resets))
PARAMS = map_params(jnp.asarray, PROBLEM.params)
ARGS = (X, H0, PARAMS)
TANGENTS = jax.tree.map(lambda a: jnp.cos(3 * a), ARGS)


def ours(x: Any, h0: Any, params: Any) -> Any:
    return gru_xp.gru(x, params, h0, lengths=LENGTHS, resets=RESETS)


def loop(x: Any, h0: Any, params: Any) -> Any:
    """Row by row and step by step: nothing of padding or resets but Python's `if`."""
    states = []
    for layer, directions in enumerate(params):
        outs = []
        for d, w in enumerate(directions):
            rows, last = [], []
            for row in range(N):
                h, y = h0[layer * 2 + d, row], [jnp.zeros(H)] * T
                steps = range(LENGTHS[row])
                for t in reversed(steps) if d else steps:
                    boundary = t + 1 < LENGTHS[row] and PROBLEM.resets[t + 1, row] if d else PROBLEM.resets[t, row]
                    h = jnp.zeros(H) if boundary else h
                    i_r, i_z, i_n = jnp.split(w.W_ih @ x[t, row] + w.b_ih, 3)
                    h_r, h_z, h_n = jnp.split(w.W_hh @ h + w.b_hh, 3)
                    z = jax.nn.sigmoid(i_z + h_z)
                    y[t] = h = (1 - z) * jnp.tanh(i_n + jax.nn.sigmoid(i_r + h_r) * h_n) + z * h
                rows.append(jnp.stack(y))
                last.append(h)
            outs.append(jnp.stack(rows, 1))
            states.append(jnp.stack(last))
        x = jnp.concatenate(outs, -1)
    return x, jnp.stack(states)


def loss_of(f: Any) -> Any:
    def loss(*args: Any) -> Any:
        y, h_n = f(*args)
        return jnp.sum(y**2) + jnp.sum(jnp.sin(h_n))

    return loss


def of_h0(f: Any) -> Any:
    return lambda h0: loss_of(f)(X, h0, PARAMS)


def scanned(f: Any) -> Any:
    """Chunks of a sequence, one after another, inside `lax.scan`."""

    def chunk(h0: Any, x: Any) -> Any:
        y, h_n = f(x, h0, PARAMS)
        return h_n, y

    return lambda xs: sum(jnp.sum(a**2) for a in jax.lax.scan(chunk, H0, xs))


MANY = jnp.stack([X, -2.0 * X, 0.5 * X])
TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "jit": lambda f: jax.jit(f)(*ARGS),
    "value_and_grad": lambda f: jax.value_and_grad(loss_of(f), (0, 1, 2))(*ARGS),
    "jit of grad": lambda f: jax.jit(jax.grad(loss_of(f), (0, 1, 2)))(*ARGS),
    "grad of the weights alone": lambda f: jax.grad(lambda params: loss_of(f)(X, H0, params))(PARAMS),
    "jvp": lambda f: jax.jvp(f, ARGS, TANGENTS),
    "linearize": lambda f: jax.linearize(f, *ARGS)[1](*TANGENTS),
    "vmap": lambda f: jax.vmap(lambda x: f(x, H0, PARAMS))(MANY),
    "vmap of grad": lambda f: jax.vmap(jax.grad(loss_of(f), (0, 1, 2)), (0, None, None))(MANY, H0, PARAMS),
    "grad of vmap": lambda f: jax.grad(lambda p: jnp.sum(jax.vmap(lambda x: loss_of(f)(x, H0, p))(MANY)))(PARAMS),
    "hessian": lambda f: jax.hessian(of_h0(f))(H0),
    "jacfwd of jacfwd": lambda f: jax.jit(jax.jacfwd(jax.jacfwd(of_h0(f))))(H0),
    "Hessian-vector product": lambda f: jax.jvp(jax.grad(loss_of(f), (0, 1, 2)), ARGS, TANGENTS),
    "third order": lambda f: jax.jit(
        jax.grad(lambda h0: jnp.sum(jax.grad(lambda h0: jnp.sum(jax.grad(of_h0(f))(h0) ** 2))(h0) ** 2))
    )(H0),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(loss_of(f)), (0, 2))(*ARGS),
    "scan around it": lambda f: jax.jit(jax.grad(scanned(f)))(MANY),
}


@pytest.mark.parametrize("kernels", ["auto", "off"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform(name: str, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_XP_KERNELS", kernels)
    got, expected = (jax.tree.leaves(TRANSFORMS[name](f)) for f in (ours, loop))
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        assert jnp.max(jnp.abs(a - b)) <= BOUND * max(1.0, float(jnp.max(jnp.abs(b))))
    assert max(float(jnp.max(jnp.abs(b))) for b in expected) > 0.01


def test_finite_differences_to_second_order_with_the_reset_before_the_product() -> None:
    from jax.test_util import check_grads

    def run(x: Any, h0: Any, params: Any) -> Any:
        return gru_xp.gru(x, params, h0, lengths=LENGTHS, resets=RESETS, spec=gru_xp.GRUSpec(reset_after=False))

    check_grads(jax.jit(run), ARGS, order=2, modes=("fwd", "rev"), rtol=1e-3)


def test_traced_lengths_and_resets() -> None:
    @jax.jit
    def gradient(params: Any, lengths: Any, resets: Any) -> Any:
        return jax.grad(lambda p: jnp.sum(gru_xp.gru(X, p, H0, lengths=lengths, resets=resets)[0] ** 2))(params)

    expected = jax.grad(lambda p: jnp.sum(loop(X, H0, p)[0] ** 2))(PARAMS)
    for a, b in zip(*map(jax.tree.leaves, (gradient(PARAMS, jnp.asarray(LENGTHS), RESETS), expected)), strict=True):
        assert jnp.max(jnp.abs(a - b)) < BOUND


def test_the_program_does_not_grow_with_T() -> None:
    def lines(T: int) -> int:
        x = jnp.zeros((T, N, I))
        gradient = jax.jit(jax.grad(lambda p: jnp.sum(gru_xp.gru(x, p)[0])))
        return len(gradient.lower(PARAMS).as_text().splitlines())

    assert lines(300) == lines(30)


def test_one_large_product_for_each_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the program of a gradient, the loops hold one product a step and none with the shape of a weight."""
    monkeypatch.setenv("GRU_XP_KERNELS", "off")
    params = ((PARAMS[0][0],),)
    text = str(jax.make_jaxpr(jax.grad(lambda p: jnp.sum(gru_xp.gru(jnp.zeros((50, 4, I)), p)[0] ** 2)))(params))
    outside, inside = f"f64[{3 * H},{I}] = dot_general", f"f64[4,{H}] = dot_general"
    assert text.count(outside) + text.count(f"f64[{I},{3 * H}] = dot_general") == 1
    assert text.count(inside) == 1
    assert text.count(" = scan[") == 2  # nothing nested, and none that only computes what another then reads


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_a_sharded_batch_is_never_gathered(kind: str) -> None:
    """Two devices: NumPy's results; y sharded as x is; gradients summed by XLA, so that each device has them whole.

    On a mesh with explicit axes, which `jax.make_mesh` makes by default, the types of arrays say how they are sharded.
    """
    code = f"""
        import re
        import jax, numpy as np, gru_xp
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

        mesh, rng = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.{kind},)), np.random.default_rng(0)
        put = lambda a, *axes: jax.device_put(a, NamedSharding(mesh, P(*axes)))
        close = lambda a, b: np.max(np.abs(np.asarray(a) - b)) <= 1e-5 * np.max(np.abs(b))
        sizes = (1, True), (1, False), (2, True)
        both, one, two = (gru_xp.GRU(3, 4, num_layers=L, bidirectional=b, seed=0).params for L, b in sizes)
        T, N = 400, 6  # two whole blocks of time for the explicit backward, and a rest
        x, lengths, resets = rng.normal(size=(T, N, 3)).astype("f4"), [T, 300, 0, 1, T, 200], rng.random((T, N)) < 0.02
        padded = put(x, None, "batch"), put(np.array(lengths), "batch"), put(resets, None, "batch")
        whole = (padded[0], None, None)

        def explicit(save, spec, params, x, lengths, resets):
            y, _, tape = gru_xp.gru_forward(x, params, lengths=lengths, resets=resets, save=save, spec=spec)
            grads = gru_xp.gru_backward(tape, y)
            return (grads.params, grads.x), y

        def by_jax(save, spec, params, x, lengths, resets):
            def loss(params, x):
                y, _ = gru_xp.gru(x, params, lengths=lengths, resets=resets, spec=spec)
                return (y**2).sum() / 2, y
            return jax.grad(loss, (0, 1), has_aux=True)(params, x)

        after, before = gru_xp.GRUSpec(), gru_xp.GRUSpec(reset_after=False)
        for run, save, spec, params, given in (
            (by_jax, "", after, both, padded),
            (by_jax, "", before, one, padded),
            (by_jax, "", after, two, whole),
            (explicit, "all", after, one, padded),
            (explicit, "states", after, one, padded),
            (explicit, "states", after, two, whole),
        ):
            spread = jax.tree.map(put, params), *given
            compiled = jax.jit(run, static_argnums=(0, 1)).lower(save, spec, *spread).compile()
            (dparams, dx), y = found = compiled(*spread)
            expected = explicit("all", spec, params, x, *((lengths, resets) if given is padded else (None, None)))
            print(
                all(map(close, jax.tree.leaves(found), jax.tree.leaves(expected))),
                all(g.sharding.is_fully_replicated for g in jax.tree.leaves(dparams)),
                all(tuple(a.sharding.spec)[:2] == (None, "batch") for a in (dx, y)),
                set(re.findall(r" (all-[a-z]+|gather|reduce-scatter|[a-z]+-permute)[a-z-]*\\(", compiled.as_text())),
            )
    """
    assert on_two_devices(code) == ["True True True {'all-reduce'}"] * 6


def test_types_that_say_how_arrays_are_sharded() -> None:
    """Whole lengths, given states and masks, one row, no jit, a model; the types that come out; a Hessian's product."""
    code = """
        import jax, jax.numpy as jnp, numpy as np, gru_xp
        from jax.sharding import PartitionSpec as P

        jax.config.update("jax_enable_x64", True)
        jax.set_mesh(jax.make_mesh((2,), ("batch",)))
        rng = np.random.default_rng(0)
        model = gru_xp.GRU(3, 5, num_layers=2, bidirectional=True, seed=0, dtype="float64")
        x, h0 = rng.normal(size=(7, 4, 3)), rng.normal(size=(4, 4, 5))
        masks = (rng.random((1, 7, 4, 10)) < 0.5) * 2.0
        spread, states = (jax.device_put(a, P(None, "batch")) for a in (x, h0))
        params = jax.tree.map(lambda a: jax.device_put(a, P()), model.params)

        def close(found, expected):
            pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
            return all(bool(np.allclose(np.asarray(a), np.asarray(b), rtol=0, atol=1e-12)) for a, b in pairs)

        def loss(params, x):
            return jnp.sum(gru_xp.gru(x, params, lengths=[7, 0, 3, 5])[0] ** 2)

        given = {"h0": h0, "dropout_masks": masks, "lengths": [7, 0, 3, 5]}
        y, h_n = gru_xp.gru(spread, params, **given | {"h0": states, "dropout_masks": jax.device_put(masks)})
        print(close((y, h_n), gru_xp.gru(x, model.params, **given)), jax.typeof(y), jax.typeof(h_n))
        print(close(model(spread), model(x)), close(gru_xp.gru(jax.device_put(x[:, 0]), params), model(x[:, 0])))

        def times(params, x):
            return jax.jvp(jax.grad(loss), (params, x), (params, x))[1]

        print(close(jax.jit(times)(params, spread), jax.jit(times)(params, jax.device_put(x, P()))))
        print(*(jax.typeof(g) for g in jax.jit(jax.grad(loss))(params, spread)[0][0]))
    """
    assert on_two_devices(code) == [
        "True float64[7,4@batch,10] float64[4,4@batch,5]",
        "True True",
        "True",
        "float64[15,3] float64[15,5] float64[15] float64[15]",
    ]


def test_shard_map() -> None:
    """Each device its own rows; the gradients of what all of them share are summed by JAX, others by whoever asks."""
    code = """
        import jax, jax.numpy as jnp, numpy as np, gru_xp
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

        jax.config.update("jax_enable_x64", True)
        rng = np.random.default_rng(0)
        params = gru_xp.GRU(3, 5, bidirectional=True, seed=0, dtype="float64").params
        arrays = rng.normal(size=(7, 4, 3)), np.array([7, 0, 3, 5]), rng.random((7, 4)) < 0.3
        specs = P(None, "batch"), P("batch"), P(None, "batch")

        def loss(params, x, lengths=None, resets=None):
            y, h_n = gru_xp.gru(x, params, lengths=lengths, resets=resets)
            return jnp.sum(y**2) + jnp.sum(jnp.sin(h_n))

        def explicit(params, x, lengths=None, resets=None):
            y, _, tape = gru_xp.gru_forward(x, params, lengths=lengths, resets=resets)
            grads = gru_xp.gru_backward(tape, 2 * y)
            return jax.lax.psum(grads.params, "batch"), grads.x

        def close(found, expected):
            pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
            return all(bool(np.allclose(np.asarray(a), np.asarray(b), rtol=0, atol=1e-12)) for a, b in pairs)

        for kind, count in ((AxisType.Auto, 1), (AxisType.Explicit, 3)):
            mesh = jax.make_mesh((2,), ("batch",), axis_types=(kind,))
            put = lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec))
            shared, given = jax.tree.map(lambda a: put(a, P()), params), tuple(map(put, arrays[:count], specs))
            options = {"mesh": mesh, "in_specs": (P(), *specs[:count])}

            def summed(*given):
                return jax.lax.psum(loss(*given), "batch")

            gradient = jax.jit(jax.grad(jax.shard_map(summed, out_specs=P(), **options), (0, 1)))
            each = jax.jit(jax.shard_map(explicit, out_specs=(P(), P(None, "batch")), **options))
            alone = (jax.tree.map(jnp.asarray, params), *map(jnp.asarray, arrays[:count]))
            expected = jax.grad(loss, (0, 1))(*alone)
            y, _, tape = gru_xp.gru_forward(*reversed(alone[:2]), **dict(zip(("lengths", "resets"), alone[2:])))
            grads = gru_xp.gru_backward(tape, 2 * y)
            print(close(gradient(shared, *given), expected), close(each(shared, *given), (grads.params, grads.x)))
    """
    assert on_two_devices(code) == ["True True"] * 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_in_16_bits(dtype: str) -> None:
    params, x = jax.tree.map(lambda a: a.astype(dtype), (PARAMS, X))
    got = jax.grad(lambda p: jnp.sum(gru_xp.gru(x, p)[0].astype("float32")))(params)
    wide = jax.tree.map(lambda a: a.astype("float32"), params)
    expected = jax.grad(lambda p: jnp.sum(gru_xp.gru(x.astype("float32"), p)[0]))(wide)
    for a, b in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        assert str(a.dtype) == dtype
        assert np.max(np.abs(np.asarray(a, "f4") - np.asarray(b))) < 0.05 * max(1.0, float(jnp.max(jnp.abs(b))))
