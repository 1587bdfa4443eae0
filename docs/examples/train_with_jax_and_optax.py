"""JAX and optax: parameters are ordinary pytrees, and the training step is one compiled function.

The adding problem: of a sequence of numbers two are marked, and their sum is asked for at the end.

    python docs/examples/train_with_jax_and_optax.py
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gru_xp

T, N, H, STEPS = 12, 64, 32, 600
optimizer = optax.adam(optax.cosine_decay_schedule(0.02, STEPS))


def batch(key: Any) -> tuple[Any, Any]:
    """x (T, N, 2), the numbers and their marks; the sums (N,)."""
    for_numbers, for_marks = jax.random.split(key)
    numbers = jax.random.uniform(for_numbers, (T, N))
    marks = jnp.argsort(jax.random.uniform(for_marks, (T, N)), axis=0) < 2
    return jnp.stack([numbers, marks.astype(numbers.dtype)], axis=-1), (numbers * marks).sum(0)


def loss(weights: Any, x: Any, sums: Any) -> Any:
    """The mean squared error."""
    _, h_n = gru_xp.gru(x, weights["gru"])
    return jnp.mean((h_n[0] @ weights["read"] + weights["bias"] - sums) ** 2)


@partial(jax.jit, donate_argnums=(0, 1))
def train(weights: Any, state: Any, keys: Any) -> Any:
    """A step for each key: the weights, the optimizer's state and the losses."""

    def step(carry: Any, key: Any) -> Any:
        weights, state = carry
        value, gradients = jax.value_and_grad(loss)(weights, *batch(key))
        updates, state = optimizer.update(gradients, state, weights)
        return (optax.apply_updates(weights, updates), state), value

    return jax.lax.scan(step, (weights, state), keys)


if __name__ == "__main__":
    weights = {
        "gru": gru_xp.GRU(2, H, seed=0, backend="jax").params,
        "read": jnp.zeros(H),
        "bias": jnp.ones(()),
    }
    first, last = jax.random.split(jax.random.key(0))
    print(f"{sum(a.size for a in jax.tree.leaves(weights))} weights in {len(jax.tree.leaves(weights))} arrays")
    (weights, _), losses = train(weights, optimizer.init(weights), jax.random.split(first, STEPS))
    print(f"loss from {losses[0]:.4f} to {losses[-20:].mean():.4f}; always to say 1 costs {1 / 6:.4f}")
    print(f"on new sequences: {loss(weights, *batch(last)):.4f}")
