"""JAX: under jit, traced lengths and resets, a tape through jit, compilation that does not grow with T."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from functools import partial

import jax
import jax.numpy as jnp
from helpers import assert_close, random_problem, run_everything

import gru_xp
from gru_xp.params import map_params

PROBLEM = random_problem(0)
EXPECTED = run_everything(PROBLEM, lambda a: a)
X, PARAMS, H0 = jnp.asarray(PROBLEM.x), map_params(jnp.asarray, PROBLEM.params), jnp.asarray(PROBLEM.h0)
RESETS, MASKS = jnp.asarray(PROBLEM.resets), jnp.asarray(PROBLEM.dropout_masks)


def test_forward_and_backward_with_every_argument_traced() -> None:
    @jax.jit
    def train(x, params, h0, lengths, resets, masks, dy, dh_n):
        y, h_n, tape = gru_xp.gru_forward(x, params, h0, lengths=lengths, resets=resets, dropout_masks=masks)
        grads = gru_xp.gru_backward(tape, dy, dh_n)
        return y, h_n, grads.x, grads.h0

    lengths = jnp.asarray(PROBLEM.lengths)
    found = train(X, PARAMS, H0, lengths, RESETS, MASKS, jnp.asarray(PROBLEM.dy), jnp.asarray(PROBLEM.dh_n))
    names = ("y", "h_n", "dx", "dh0")
    assert_close(dict(zip(names, found, strict=True)), {name: EXPECTED[name] for name in names}, 1e-13)


def test_a_tape_leaves_jit_and_enters_another() -> None:
    forward = jax.jit(partial(gru_xp.gru_forward, lengths=PROBLEM.lengths, resets=RESETS, dropout_masks=MASKS))
    _, _, tape = forward(X, PARAMS, H0)
    for backward in (gru_xp.gru_backward, jax.jit(gru_xp.gru_backward)):
        grads = backward(tape, jnp.asarray(PROBLEM.dy), jnp.asarray(PROBLEM.dh_n))
        assert_close({"dx": grads.x, "dh0": grads.h0}, {name: EXPECTED[name] for name in ("dx", "dh0")}, 1e-13)


def test_grad_through_the_front_door_is_the_explicit_gradient() -> None:
    def loss(x, params, h0):
        y, h_n = gru_xp.gru(x, params, h0, lengths=PROBLEM.lengths, resets=RESETS, dropout_masks=MASKS)
        return jnp.sum(y * PROBLEM.dy) + jnp.sum(h_n * PROBLEM.dh_n)

    dx, dparams, dh0 = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(X, PARAMS, H0)
    assert_close({"dx": dx, "dh0": dh0}, {name: EXPECTED[name] for name in ("dx", "dh0")}, 1e-12)
    assert isinstance(dparams[1][0], gru_xp.CellParams)
    assert_close({"W": dparams[1][1].W_hh}, {"W": EXPECTED["dW_hh[1][1]"]}, 1e-12)


def test_a_numpy_model_serves_jax_inside_and_outside_jit() -> None:
    """The parameters are brought to JAX once; they must not be tracers of the first call."""
    model = gru_xp.GRU(5, 3, seed=0, dtype="float64")
    first, second = (jax.jit(lambda x, factor=factor: factor * model(x)[0])(X) for factor in (1.0, 2.0))
    expected = model(PROBLEM.x)[0]
    assert_close(
        {"y": first, "y2": second, "y3": model(X)[0]}, {"y": expected, "y2": 2 * expected, "y3": expected}, 1e-13
    )


def test_several_devices() -> None:
    """Two devices are mixed up: an error that names both. A sharded batch: the unsharded numbers."""
    code = """
        import jax, jax.numpy as jnp, gru_xp
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        first, second = jax.devices()
        put = jax.device_put
        model = gru_xp.GRU(3, 4, seed=0, backend="jax")
        x, params = jnp.ones((5, 2, 3)), model.params
        try:
            gru_xp.gru(put(x, first), jax.tree.map(lambda a: put(a, second), params))
        except gru_xp.errors.MixedArraysError as error:
            print(error)
        expected = gru_xp.gru(x, params, lengths=[5, 3])[0]
        sharded = put(x, NamedSharding(Mesh([first, second], "b"), PartitionSpec(None, "b")))
        y = gru_xp.gru(sharded, params, lengths=[5, 3])[0]
        print(len(y.devices()), bool(jnp.max(jnp.abs(y - expected)) < 1e-6))
        print(gru_xp.gru(x, params, backend="jax:cpu:1")[0].devices() == x.devices())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        check=False,
    )
    assert done.stdout.splitlines() == [
        "params[0][0].W_ih: expected on cpu, where x is, got on cpu:1; move one of them",
        "2 True",
        "True",
    ], done.stderr


def test_vmap_over_the_front_door() -> None:
    batch = jnp.stack([X, 2.0 * X])
    y = jax.vmap(lambda x: gru_xp.gru(x, PARAMS, H0)[0])(batch)
    assert_close({"y": y[1]}, {"y": gru_xp.gru(2.0 * X, PARAMS, H0)[0]}, 1e-13)


def test_the_compiled_program_does_not_grow_with_the_number_of_steps() -> None:
    def lines(T: int) -> int:
        def train(x):
            y, _, tape = gru_xp.gru_forward(x, PARAMS, lengths=[T, 10, 5])
            return gru_xp.gru_backward(tape, jnp.ones_like(y)).x

        return len(jax.jit(train).lower(jnp.zeros((T, 3, 5))).as_text().splitlines())

    assert lines(1000) == lines(20)


def test_outside_jit_the_second_call_does_not_compile() -> None:
    gru_xp.gru(X, PARAMS)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    try:
        gru_xp.gru(X + 1.0, PARAMS)
        compiled.clear()
        gru_xp.gru(X + 2.0, PARAMS)
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []
