"""What ONNX says of a GRU, option by option; the reader goes by this table, and docs/options.md shows it."""

from __future__ import annotations

from collections.abc import Mapping

from gru_xp.files import Option
from gru_xp.formats.names import DTYPE, NAMES, read_as

__all__ = ["ATTRIBUTES", "OPTIONS"]

#: The attributes of the operator GRU in all opsets, and the field of AttributeProto that holds each.
ATTRIBUTES = {
    "hidden_size": "i",
    "direction": "s",
    "linear_before_reset": "i",
    "activations": "strings",
    "activation_alpha": "floats",
    "activation_beta": "floats",
    "clip": "f",
    "layout": "i",
    "output_sequence": "i",  # until opset 7
}
ARGUMENT = "an input of the model is an argument here too"
NODE = (
    *read_as("hidden_size, which R says too", "hidden_size"),
    *read_as("bidirectional, reverse", "direction"),
    *read_as("reset_after", "linear_before_reset"),
    *read_as("gate_activation, candidate_activation; one of each in both directions", "activations"),
    *read_as("the activations' constants", "activation_alpha", "activation_beta"),
    *read_as("clip", "clip"),
    *read_as("batch_first, as is a Transpose before the node", "layout"),
    *read_as("all its values give the same numbers: y and h_n always come both", "output_sequence"),
    *read_as("the weights, if they are in the file or computed of what is", "W", "R", "B"),
    DTYPE,
    Option("sequence_lens", "noted", f"where the file fixes them, pass them as lengths; {ARGUMENT}"),
    Option("initial_h", "noted", f"where the file fixes or computes it, pass it as h0; {ARGUMENT}, and zero is zero"),
)
ASSUMED = Option("nodes", "assumed", "a GRU of PyTorch's")
OPTIONS: Mapping[str, tuple[Option, ...]] = {
    "ONNX's GRU": NODE,
    **{
        f"{name}, in ONNX without a GRU node": (*options, ASSUMED)
        for name, options in NAMES.items()
        if name.startswith("a PyTorch cell")
    },
}
