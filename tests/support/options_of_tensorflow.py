"""Arrays under Keras's names and TensorFlow 1's, and what the layers that they may come from compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras_loop import keras_loop
from option_case import Case, H, I, N, T, X, rows

Made = Callable[[], Case]


def keras(size: int = I, hidden: int = H, dtype: str = "f4", biases: int = 2, **options: Any) -> Made:
    """`biases`: 2, 1 as where the state is reset before the product, or none."""

    def made() -> Case:
        rng = np.random.default_rng(2)
        shapes = [(size, 3 * hidden), (hidden, 3 * hidden), {2: (2, 3 * hidden), 1: (3 * hidden,)}.get(biases)]
        arrays = [rng.uniform(-0.7, 0.7, shape).astype(dtype) for shape in shapes if shape]
        x = rows(np.resize(X, (T, N, size)))
        y = rows(keras_loop(x, arrays, reset_after=biases != 1, **options))
        names = ("kernel", "recurrent_kernel", "bias")
        return Case({f"gru/{name}": a for name, a in zip(names, arrays, strict=False)}, y, np.dtype(dtype).name)

    return made


def sigmoid(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


def cell(
    hidden: int = H, dtype: str = "f4", after: bool = False, activation: Any = np.tanh, residual: bool = False
) -> Made:
    """A GRUCell, or a CudnnCompatibleGRUCell, which resets the state after the product."""

    def made() -> Case:
        rng = np.random.default_rng(3)
        size = hidden if residual else I

        def drawn(*shape: int) -> Any:
            return rng.uniform(-0.7, 0.7, shape).astype(dtype)

        gates, b = drawn(size + hidden, 2 * hidden), drawn(2 * hidden)
        candidate, c, d = drawn(size + hidden, hidden), drawn(hidden), drawn(hidden)
        arrays = {"gates/kernel": gates, "gates/bias": b}
        if after:
            arrays |= {"candidate/input_projection/kernel": candidate[:size], "candidate/input_projection/bias": c}
            arrays |= {"candidate/hidden_projection/kernel": candidate[size:], "candidate/hidden_projection/bias": d}
        else:
            arrays |= {"candidate/kernel": candidate, "candidate/bias": c}
        h, ys = np.zeros((N, hidden)), []
        for x_t in np.resize(X, (T, N, size)).astype("f8"):
            r, z = np.split(sigmoid(np.hstack([x_t, h]) @ gates + b), 2, axis=1)
            inner = h @ candidate[size:] + d
            n = x_t @ candidate[:size] + c + (r * inner if after else (r * h) @ candidate[size:])
            h = z * h + (1 - z) * activation(n)
            ys.append(h + x_t if residual else h)
        return Case({f"rnn/gru_cell/{name}": a for name, a in arrays.items()}, np.stack(ys), np.dtype(dtype).name)

    return made


CASES: dict[str, dict[str, Made]] = {
    "Keras's names: recurrent_kernel": {
        "units": keras(hidden=5),
        "use_bias": keras(biases=0),
        "dtype": keras(dtype="f8"),
        "reset_after": keras(biases=1),
        "recurrent_activation": keras(gates="hard_sigmoid"),
        "activation": keras(candidate="relu"),
        "go_backwards": keras(backwards=True),
        "time_major": keras(),
        "zero_output_for_mask": keras(),
    },
    "TensorFlow 1's names: gates/kernel": {
        "num_units": cell(hidden=5),
        "dtype": cell(dtype="f8"),
        "the class of the cell": cell(after=True),
        "activation": cell(activation=lambda a: np.maximum(a, 0)),
        "a wrapper": cell(residual=True),
        "time_major": cell(),
    },
}
