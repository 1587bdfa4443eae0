"""Makes tf2onnx-1.17.zip: Keras GRUs as tf2onnx writes them, a GRU node where it finds one and a Loop where not.

In an environment with tensorflow-cpu 2.15.1, tf2onnx 1.17.0 and onnx 1.16.2:

    python make_tf2onnx.py tf2onnx-1.17.zip

The zip also holds x.npy, and plain.npy, which is y of the first model by Keras's own `predict`.
"""

import io
import sys
import zipfile

import numpy as np
import tensorflow as tf
import tf2onnx

layers = tf.keras.layers
MODELS = {
    "plain": [layers.GRU(2, return_sequences=True, bias_initializer="random_normal")],
    "hard_sigmoid": [layers.GRU(2, recurrent_activation="hard_sigmoid")],
    "reset_before": [layers.GRU(2, reset_after=False)],
    "no_bias": [layers.GRU(2, use_bias=False)],
    "masked": [layers.Masking(), layers.GRU(2)],
    "bidirectional": [layers.Bidirectional(layers.GRU(2, recurrent_activation="hard_sigmoid"))],
    "cell": [layers.RNN(layers.GRUCell(2))],
    "lstm": [layers.LSTM(2)],
}


def as_npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


tf.keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("f4")
with zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("x.npy", as_npy(x))
    for name, stack in MODELS.items():
        model = tf.keras.Sequential([tf.keras.Input((5, 3)), *stack])
        proto, _ = tf2onnx.convert.from_keras(model, opset=15)
        archive.writestr(f"{name}.onnx", proto.SerializeToString())
        if name == "plain":
            archive.writestr("plain.npy", as_npy(model.predict(x, verbose=0)))
