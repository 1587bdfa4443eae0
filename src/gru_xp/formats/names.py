"""What arrays with names say of a GRU, option by option, by whose names they are; docs/options.md shows it.

`named` reads them, whichever file or tree they are in.
"""

from __future__ import annotations

from collections.abc import Mapping

from gru_xp.files import Option

__all__ = ["BY_ARRAYS", "DTYPE", "KERAS_DEFAULTS", "NAMES", "ORDER", "REPARAMETRIZED", "read_as"]


def read_as(words: str, *names: str) -> tuple[Option, ...]:
    """Options that are said, and read as `words`."""
    return tuple(Option(name, "read", words) for name in names)


BY_ARRAYS = "by the arrays' shapes and names"
ORDER = Option("batch_first", "assumed", "batch_first=False; batch_first=True (--batch-first) says otherwise")
DTYPE = Option("dtype", "read", "dtype")
REPARAMETRIZED = tuple(
    Option(name, "noted", "computed from what is saved instead") for name in ("weight_norm", "spectral_norm", "prune")
)
DEFAULTS = {"gate_fn": "sigmoid", "activation_fn": "tanh", "reverse": "False", "carry_init": "zeros"}
KERAS_DEFAULTS = {
    "recurrent_activation": "sigmoid",
    "activation": "tanh",
    "go_backwards": "False",
    "time_major": "False",
    "zero_output_for_mask": "False",
}
FLAX = (
    *read_as("dtype", "param_dtype"),
    *(Option(name, "assumed", f"{name}={value}") for name, value in DEFAULTS.items()),
    ORDER._replace(name="time_major"),
)

NAMES: Mapping[str, tuple[Option, ...]] = {
    "PyTorch's names: weight_ih_l0": (
        *read_as(BY_ARRAYS, "input_size", "hidden_size", "num_layers", "bias", "bidirectional"),
        DTYPE,
        ORDER,
        Option("dropout", "noted", "it is no part of the names, and acts in training alone"),
        Option("proj_size", "refused", "it is an LSTM's"),
        *REPARAMETRIZED,
        Option("parametrizations", "refused", "what is saved of others does not say what they compute"),
    ),
    "a PyTorch cell's names: weight_ih": (
        *read_as(BY_ARRAYS, "input_size", "hidden_size", "bias"),
        DTYPE,
        ORDER,
    ),
    "Equinox's names: weight_ih, bias_n": (
        *read_as(BY_ARRAYS, "input_size", "hidden_size", "use_bias"),
        DTYPE,
        ORDER,
    ),
    "Flax linen's names: ir.kernel": (
        *read_as(BY_ARRAYS, "features"),
        *FLAX,
    ),
    "Flax NNX's names: dense_i.kernel": (
        *read_as(BY_ARRAYS, "in_features", "hidden_features"),
        *FLAX,
    ),
    "MLX's names: Wx": (
        *read_as(BY_ARRAYS, "input_size", "hidden_size", "bias"),
        DTYPE,
        Option("batch_first", "fixed", "True"),
    ),
    "Keras's names: recurrent_kernel": (
        *read_as(BY_ARRAYS, "units", "use_bias"),
        DTYPE,
        *read_as("reset_after, by the shape of the bias; without one it is assumed to be True", "reset_after"),
        *(Option(name, "assumed", f"{name}={value}") for name, value in KERAS_DEFAULTS.items()),
    ),
    "TensorFlow 1's names: gates/kernel": (
        *read_as(BY_ARRAYS, "num_units"),
        DTYPE,
        *read_as("reset_after: a CudnnCompatibleGRUCell has it, by its names", "the class of the cell"),
        Option("activation", "assumed", "activation=tanh"),
        Option("a wrapper", "assumed", "no wrapper around the cell"),
        ORDER._replace(name="time_major"),
    ),
    "Arraymancer's names: W3s0": (
        *read_as("by the arrays' shapes", "input_size", "hidden_size", "num_layers"),
        DTYPE,
        Option("batch_first", "fixed", "False"),
        Option("bias", "fixed", "True"),
    ),
}
