"""Write keras-2.NN.zip beside this file: models that tf.keras saved, and what it computes with them.

Run once with each TensorFlow, which needs NumPy 1 and so an environment that has no gru_xp:

    python -m pip install tensorflow==2.12.*      # and 2.15.*
    python make_keras_2.py

Each archive has, of tf.keras's own making, options.* (a model with a layer for each option), trained.* (a stack that
was trained with Adam), nested.*, cudnn.*, a SavedModel and a checkpoint; and expected.npz, each layer's y for the
same x. Keras 2.12 writes HDF5 into .keras unless it is asked for "keras_v3": options and trained are that.
"""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf

K, L = tf.keras, tf.keras.layers
N, T, I, H = 2, 5, 3, 2
ZIP = "keras_v3" if tf.__version__.startswith("2.12.") else "keras"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, I)).astype("f4")
MASK = np.array([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1]], bool)
EVERYTHING: dict[str, Any] = {
    "implementation": 1,
    "unroll": True,
    "dropout": 0.1,
    "recurrent_dropout": 0.2,
    "kernel_regularizer": "l2",
    "bias_constraint": "max_norm",
    "activity_regularizer": "l1",
    "trainable": False,
}
Y = {"return_sequences": True}
LAYERS = {
    "plain": lambda: L.GRU(H, **Y),
    "hard": lambda: L.GRU(H, recurrent_activation="hard_sigmoid", **Y),
    "elu": lambda: L.GRU(H, activation="elu", recurrent_activation="hard_sigmoid", reset_after=False, **Y),
    "leaky": lambda: L.GRU(H, activation=tf.nn.leaky_relu, **Y),
    "before": lambda: L.GRU(H, reset_after=False, **Y),
    "bare": lambda: L.GRU(H, use_bias=False, **Y),
    "bare_before": lambda: L.GRU(H, use_bias=False, reset_after=False, **Y),
    "backwards": lambda: L.GRU(H, go_backwards=True, **Y),
    "major": lambda: L.GRU(H, time_major=True, **Y),
    "zeroed": lambda: L.GRU(H, zero_output_for_mask=True, **Y),
    "everything": lambda: L.GRU(H, **EVERYTHING, **Y),
    "version_1": lambda: tf.compat.v1.keras.layers.GRU(H, **Y),
    "last": lambda: L.GRU(H, return_state=True),
    "cell": lambda: L.RNN(L.GRUCell(H, recurrent_activation="hard_sigmoid"), **Y),
    "cells": lambda: L.RNN([L.GRUCell(H), L.GRUCell(H)], **Y),
    "both": lambda: L.Bidirectional(L.GRU(H, recurrent_activation="hard_sigmoid", **Y)),
    "both_sum": lambda: L.Bidirectional(L.GRU(H, **Y), merge_mode="sum"),
    "both_other": lambda: L.Bidirectional(
        L.GRU(H, **Y), backward_layer=L.GRU(H, go_backwards=True, dropout=0.5, name="other", **Y)
    ),
    "both_cell": lambda: L.Bidirectional(L.RNN(L.GRUCell(H), **Y)),
    "both_major": lambda: L.Bidirectional(L.GRU(H, time_major=True, **Y)),
}
EXPECTED: dict[str, Any] = {"x": X, "mask": MASK}


def randomized(model: Any) -> Any:
    """All weights random and distinct, and large enough to reach the ends of hard_sigmoid."""
    model.set_weights([RNG.normal(scale=1.2, size=w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def computed(layer: Any, x: Any, **options: Any) -> Any:
    y = layer(x, **options)
    return (y[0] if isinstance(y, list | tuple) else y).numpy()


def options(folder: Path) -> None:
    x = K.Input((T, I), name="x")
    layers = {name: make() for name, make in LAYERS.items()}
    for name, layer in layers.items():
        layer._name = name
    ys = [layer(x) for layer in layers.values()]
    model = randomized(K.Model(x, [y[0] if isinstance(y, list) else y for y in ys]))
    for name, layer in layers.items():
        major = name.endswith("major")
        EXPECTED[f"options/{name}"] = computed(layer, X)
        EXPECTED[f"options/{name}/masked"] = (
            computed(layer, X.swapaxes(0, 1), mask=MASK.T) if major else computed(layer, X, mask=MASK)
        )
    model.save(folder / "options.h5")
    model.save(folder / "options.keras", save_format=ZIP)
    model.save_weights(folder / "options_weights.h5")
    model.save_weights(folder / "options.weights.h5")


def trained(folder: Path) -> None:
    model = K.Sequential(
        [
            L.Embedding(7, I, mask_zero=True, input_length=T),
            L.Bidirectional(L.GRU(H, **Y), name="a"),
            L.Dropout(0.25),
            L.Bidirectional(L.GRU(H, **Y), name="b"),
            L.GRU(H, recurrent_activation="hard_sigmoid", name="c"),
            L.Dense(1),
        ]
    )
    tokens = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 1, 0]])
    model.build((None, T))
    randomized(model)
    model.compile("adam", "mse")
    model.fit(tokens, np.ones((N, 1)), epochs=2, verbose=0)
    mask = tokens > 0
    y = model.layers[0](tokens)
    EXPECTED["trained/x"], EXPECTED["trained/mask"] = y.numpy(), mask
    for layer in model.layers[1:5]:
        if "dropout" not in layer.name:
            y = layer(y, mask=mask)
            EXPECTED[f"trained/{layer.name}"] = y.numpy()
    model.save(folder / "trained.h5")
    model.save(folder / "trained.keras", save_format=ZIP)
    model.save_weights(folder / "trained_checkpoint" / "ckpt")
    model.save(folder / "saved_model", save_format="tf", save_traces=False)


def nested(folder: Path) -> None:
    """Models in models, a first state, a wrapper, and a mask that goes through all of them."""
    x = K.Input((T, I), name="x")
    inner = K.Sequential([K.Input((T, 2 * H)), L.GRU(H, name="e", **Y), L.GRU(H, name="f", **Y)], name="inner")
    masked = L.Masking(0.0)(x)
    a = L.Bidirectional(L.GRU(H, **Y), name="a")(masked)
    b, state = L.GRU(H, return_state=True, name="encoder", **Y)(inner(a))
    c = L.GRU(H, name="decoder")(x, initial_state=state)
    d = L.TimeDistributed(L.GRU(H, activation="relu", name="inside"), name="around")(L.Reshape((T, I, 1))(x))
    model = randomized(K.Model(x, [b, c, d]))
    y = computed(model.get_layer("a"), X)
    EXPECTED["nested/a"] = y
    for layer in inner.layers:
        EXPECTED[f"nested/{layer.name}"] = y = computed(layer, y)
    EXPECTED["nested/encoder"] = computed(model.get_layer("encoder"), y)
    EXPECTED["nested/decoder"] = computed(model.get_layer("decoder"), X)  # without its first state
    EXPECTED["nested/inside"] = computed(model.get_layer("around"), X[..., None])
    for name in ("nested.h5", "nested.keras"):
        model.save(folder / name)


def cudnn(folder: Path) -> None:
    """Keras's own conversion to a GRU says what a CuDNNGRU computes, which itself runs on GPUs alone."""
    x = K.Input((T, I), name="x")
    old = tf.compat.v1.keras.layers
    made = {"one": old.CuDNNGRU(H, **Y), "two": L.Bidirectional(old.CuDNNGRU(H, **Y))}
    alike = {"one": L.GRU(H, **Y), "two": L.Bidirectional(L.GRU(H, **Y))}
    for layers in (made, alike):
        for name, layer in layers.items():
            layer._name = name
    model = randomized(K.Model(x, [layer(x) for layer in made.values()]))
    other = K.Model(x, [layer(x) for layer in alike.values()])
    model.save_weights(folder / "cudnn_weights.h5")
    model.save(folder / "cudnn.h5")
    model.save(folder / "cudnn.keras")
    other.load_weights(folder / "cudnn_weights.h5")
    for name, layer in alike.items():
        EXPECTED[f"cudnn/{name}"] = computed(layer, X)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for make in (options, trained, nested, cudnn):
            make(folder)
        packed = io.BytesIO()
        np.savez(packed, **EXPECTED)
        (folder / "expected.npz").write_bytes(packed.getvalue())
        version = ".".join(tf.__version__.split(".")[:2])
        archive = Path(__file__).with_name(f"keras-{version}.zip")
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    out.write(file, file.relative_to(folder))


if __name__ == "__main__":
    main()
