"""Write tensorflow.zip beside this file: what TensorFlow 2.15 and TensorFlow.js's converter save, and what it computes.

Run once, in an environment that has no gru_xp (the converter's own dependencies are not needed for layers):

    python -m pip install tensorflow==2.15.* && python -m pip install --no-deps tensorflowjs==4.17.0 tensorflow_hub
    python make_tensorflow.py

expected.npz has y and h_n of TensorFlow 1's cells, and each layer's y elsewhere.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import types
import zipfile
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf


class Absent(types.ModuleType):
    """Parts of the converter that need what is not there and is not used."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


for part in ("jax_conversion", "tf_saved_model_conversion_v2"):
    sys.modules[f"tensorflowjs.converters.{part}"] = Absent(part)
sys.modules["tensorflow_decision_forests"] = Absent("tensorflow_decision_forests")

import tensorflowjs as tfjs  # noqa: E402

K, L, V1 = tf.keras, tf.keras.layers, tf.compat.v1
N, T, I, H = 2, 5, 3, 2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, I)).astype("f4")
EXPECTED: dict[str, Any] = {"x": X}
Y = {"return_sequences": True}


def randomized(model: Any) -> Any:
    model.set_weights([RNG.normal(scale=1.2, size=w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def tensorflow_1(folder: Path) -> None:
    """Variables of tf.nn.rnn_cell, saved by tf.train.Saver, with Adam's slots beside them."""
    with tf.Graph().as_default(), V1.Session() as session:
        x = tf.constant(X)
        cell = V1.nn.rnn_cell.GRUCell
        made = {"one": V1.nn.dynamic_rnn(cell(H), x, dtype="float32", scope="one")}
        stack = V1.nn.rnn_cell.MultiRNNCell([cell(H), cell(H)])
        made["stack"] = V1.nn.dynamic_rnn(stack, x, dtype="float32", scope="stack")
        made["both"] = V1.nn.bidirectional_dynamic_rnn(cell(H), cell(H), x, dtype="float32", scope="both")
        loss = tf.reduce_sum(made["one"][0] ** 2)
        train = V1.train.AdamOptimizer().minimize(loss)
        session.run(V1.global_variables_initializer())
        for variable in V1.trainable_variables():
            session.run(variable.assign(RNG.normal(scale=1.2, size=variable.shape).astype("f4")))
        session.run(train)
        for name, (y, state) in made.items():
            y, state = session.run((y, state))
            EXPECTED[f"tensorflow_1/{name}"] = np.concatenate(y, axis=-1) if name == "both" else y
            EXPECTED[f"tensorflow_1/{name}/state"] = np.stack(state) if isinstance(state, tuple) else state[None]
        path = str(folder / "tensorflow_1" / "model.ckpt")
        V1.train.Saver().save(session, path, global_step=7, write_meta_graph=False)


def layers(name: str) -> Any:
    made = [L.GRU(H, recurrent_activation="hard_sigmoid", name="a", **Y), L.Bidirectional(L.GRU(H, **Y), name="b")]
    model = randomized(K.Sequential([K.Input((T, I)), *made]))
    y = X
    for layer in model.layers:
        y = layer(y)
        EXPECTED[f"{name}/{layer.name}"] = y.numpy()
    return model


def saved_models(folder: Path) -> None:
    """One with its traces, where variables have other names, and one of a class that does not describe itself."""
    one = randomized(K.Sequential([K.Input((T, I)), L.GRU(H, recurrent_activation="hard_sigmoid", name="a", **Y)]))
    EXPECTED["traced/a"] = one(X).numpy()
    one.save(folder / "traced", save_format="tf")

    class Own(K.Model):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = L.Bidirectional(L.GRU(H, recurrent_activation="hard_sigmoid", **Y))
            self.blocks = [L.GRU(H, go_backwards=True, **Y), L.LSTM(H)]

        def call(self, x: Any) -> Any:
            y = self.blocks[0](self.encoder(x))
            return y, self.blocks[1](y)

    own = Own()
    own(X)
    randomized(own)
    EXPECTED["own/encoder"] = own.encoder(X).numpy()
    EXPECTED["own/blocks.0"] = own.blocks[0](own.encoder(X)).numpy()
    own.save(folder / "own", save_format="tf", save_traces=False)
    own.save_weights(folder / "own_checkpoint" / "ckpt")


def javascript(folder: Path) -> None:
    model = layers("js")
    for name, kind in (("js", None), ("js_uint8", "uint8"), ("js_uint16", "uint16"), ("js_float16", "float16")):
        packed = {kind: "*"} if kind else None
        tfjs.converters.save_keras_model(model, str(folder / name), quantization_dtype_map=packed)
        y, read = X, tfjs.converters.load_keras_model(str(folder / name / "model.json"))
        for layer in read.layers:
            y = layer(y)
            EXPECTED[f"{name}/{layer.name}"] = y.numpy()


def lite(folder: Path) -> None:
    model = K.Sequential([K.Input((T, I), batch_size=1), L.GRU(H, unroll=True)])
    (folder / "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for make in (tensorflow_1, saved_models, javascript, lite):
            make(folder)
        packed = io.BytesIO()
        np.savez(packed, **EXPECTED)
        (folder / "expected.npz").write_bytes(packed.getvalue())
        archive = Path(__file__).with_name("tensorflow.zip")
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    out.write(file, file.relative_to(folder))


if __name__ == "__main__":
    main()
