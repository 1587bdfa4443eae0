"""`gru_xp_keras.GRU` against keras.layers.GRU with the same weights, on PyTorch here and on JAX in a process below."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pytest

import gru_xp
import gru_xp_keras

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # Keras, of its own arrays
BACKEND = keras.backend.backend()
T, N, I, H = 9, 4, 3, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, I)).astype("f4")
HOLES = RNG.random((N, T)) < 0.6
HOLES[:, 0] = [False, True, False, True]
HOLES[0] = False


def pair(**options: Any) -> tuple[Any, Any]:
    """Keras's layer and ours, with weights that are all random."""
    theirs, ours = keras.layers.GRU(H, **options), gru_xp_keras.GRU(H, **options)
    for layer in (theirs, ours):
        layer.build((N, T, I))
    ours.set_weights([RNG.normal(scale=0.4, size=w.shape).astype(w.dtype) for w in theirs.get_weights()])
    theirs.set_weights(ours.get_weights())
    return theirs, ours


def values(out: Any) -> list[Any]:
    return [np.asarray(keras.ops.convert_to_numpy(a), "f8") for a in keras.tree.flatten(out)]


def assert_near(theirs: Any, ours: Any, *arguments: Any, atol: float = 4e-6, **options: Any) -> None:
    """Outputs, and the gradients of a weighted sum of them for the weights."""
    found = []
    for layer in (ours, theirs):
        out = layer(*arguments, **options)
        found.append([*values(out), *gradients(layer, arguments, options)])
    for a, b in zip(*found, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=atol, rtol=atol)


def gradients(layer: Any, arguments: Any, options: Any) -> list[Any]:
    def loss(out: Any) -> Any:
        flat = [keras.ops.reshape(a, (-1,)) for a in keras.tree.flatten(out)]
        return sum(keras.ops.sum(a * keras.ops.cos(keras.ops.arange(a.shape[0], dtype="float32"))) for a in flat)

    if BACKEND == "jax":
        import jax

        def run(trainable: Any) -> Any:
            out, _ = layer.stateless_call(
                trainable, [v.value for v in layer.non_trainable_variables], *arguments, **options
            )
            return loss(out)

        return values(jax.grad(run)([v.value for v in layer.trainable_variables]))
    layer.zero_grad()
    loss(layer(*arguments, **options)).backward()
    return values([v.value.grad for v in layer.trainable_variables])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_sequences": True, "return_state": True},
        {"go_backwards": True, "return_sequences": True, "return_state": True},
        {"use_bias": False, "return_sequences": True},
        {"reset_after": False, "return_sequences": True},
        {"activation": "relu", "recurrent_activation": "hard_sigmoid", "return_sequences": True},
        {"activation": None, "recurrent_activation": "sigmoid"},
        {"unroll": True, "return_state": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_outputs_and_gradients(options: dict[str, Any], masked: bool) -> None:
    """Masks with holes, at the beginning too, and a row that has no step."""
    state = keras.ops.convert_to_tensor(RNG.normal(size=(N, H)).astype("f4"))
    mask = keras.ops.convert_to_tensor(HOLES) if masked else None
    theirs, ours = pair(**options)
    assert_near(theirs, ours, keras.ops.convert_to_tensor(X), initial_state=state, mask=mask)


@pytest.mark.parametrize("backwards", [False, True])
def test_zero_output_for_mask(backwards: bool) -> None:
    theirs, ours = pair(zero_output_for_mask=True, return_sequences=True, return_state=True, go_backwards=backwards)
    assert_near(theirs, ours, keras.ops.convert_to_tensor(X), mask=keras.ops.convert_to_tensor(HOLES))


def test_dropout_draws_what_keras_draws() -> None:
    theirs, ours = pair(dropout=0.4, seed=3, return_sequences=True)
    x = keras.ops.convert_to_tensor(X)
    for _ in range(2):
        a, b = (values(layer(x, training=True))[0] for layer in (ours, theirs))
        np.testing.assert_allclose(a, b, atol=4e-6)
    assert np.abs(a - values(ours(x, training=False))[0]).max() > 0.01


def test_stateful() -> None:
    theirs, ours = (keras.layers.GRU(H, stateful=True), gru_xp_keras.GRU(H, stateful=True))
    for layer in (theirs, ours):
        layer(X)
        layer.reset_state()
    theirs.set_weights(ours.get_weights())
    for part in (X[:, :4], X[:, 4:]):
        np.testing.assert_allclose(*(values(layer(part))[0] for layer in (ours, theirs)), atol=4e-6)


def test_in_two_directions_over_an_embedding_with_a_mask() -> None:
    text = np.array([[1, 2, 3, 0, 0], [3, 0, 0, 0, 0], [2, 2, 1, 1, 3], [0, 0, 0, 0, 0]])
    models = []
    for kind in (keras.layers.GRU, gru_xp_keras.GRU):
        keras.utils.set_random_seed(0)
        inner = keras.layers.Bidirectional(kind(H, return_sequences=True))
        models.append(keras.Sequential([keras.layers.Embedding(4, I, mask_zero=True), inner, kind(2)]))
    a, b = (values(model(text))[0] for model in models)
    np.testing.assert_allclose(a, b, atol=4e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"][: 1 if BACKEND == "jax" else 2])
def test_types(policy: str) -> None:
    """In 16 bits Keras carries a state of 16 bits, which errs by some of its eps."""
    theirs, ours = pair(dtype=policy, return_sequences=True)
    a, b = (values(layer(X))[0] for layer in (ours, theirs))
    np.testing.assert_allclose(a, b, atol=0.03 if policy == "mixed_bfloat16" else 1e-13)
    assert keras.backend.standardize_dtype(ours(X).dtype) == ours.compute_dtype


def train(kind: type) -> tuple[list[float], Any]:
    """A script as users write it."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((T, I)), kind(16), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    x = np.random.default_rng(1).normal(size=(20, 32, T, I)).astype("f4")
    labels = (x[:, :, 2, 0] + x[:, :, -1, 1] > 0).astype(int)
    return [float(model.train_on_batch(*batch)) for batch in zip(x, labels, strict=True)], model


def test_twenty_steps_of_the_same_script() -> None:
    (ours, model), (theirs, other) = train(gru_xp_keras.GRU), train(keras.layers.GRU)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert theirs[-1] < theirs[0]
    assert [w.shape for w in model.get_weights()] == [w.shape for w in other.get_weights()]


def test_weights_to_and_from_gru_xp_and_files(tmp_path: Path) -> None:
    layer = gru_xp_keras.GRU(H, recurrent_activation="hard_sigmoid")
    model = keras.Sequential([keras.Input((None, I)), layer])
    path = tmp_path / "model.keras"
    model.save(path)
    np.testing.assert_allclose(values(keras.saving.load_model(path)(X))[0], values(model(X))[0], atol=4e-6)
    for ours in (gru_xp.load(path), gru_xp.from_framework(model), gru_xp.from_framework(layer)):
        assert ours.batch_first and ours.spec.gate_activation == gru_xp.Activation.keras("hard_sigmoid")
        np.testing.assert_allclose(ours(X)[1][0], values(model(X))[0], atol=4e-6)


def test_what_it_does_not_compute_is_refused() -> None:
    with pytest.raises(ValueError, match=r"recurrent_dropout: expected 0, got 0\.1; keras\.layers\.GRU has it"):
        gru_xp_keras.GRU(H, recurrent_dropout=0.1)
    with pytest.raises(ValueError, match="implementation: expected 2 where there is dropout"):
        gru_xp_keras.GRU(H, implementation=1, dropout=0.1)
    with pytest.raises(ValueError, match="activation: expected one of Keras's own, got <function"):
        gru_xp_keras.GRU(H, activation=lambda a: a)
    with pytest.raises(gru_xp.errors.StructureError, match="gelu"):
        gru_xp_keras.GRU(H, activation="gelu")


def test_on_another_backend_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(gru_xp.errors.BackendError, match=r"expected Keras on PyTorch or JAX, got tensorflow; set"):
        gru_xp_keras.GRU(H)


@pytest.mark.skipif(BACKEND == "jax", reason="this is that process")
def test_on_jax() -> None:
    """The same tests in another process, without float64 in JAX, with which Keras's own layer fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", __file__]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
