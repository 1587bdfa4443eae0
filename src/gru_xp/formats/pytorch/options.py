"""What PyTorch's files and objects say of a GRU, option by option; docs/options.md shows it."""

from __future__ import annotations

from collections.abc import Mapping

from gru_xp.files import Option
from gru_xp.formats.names import BY_ARRAYS, DTYPE, NAMES, ORDER, REPARAMETRIZED, read_as

__all__ = ["OPTIONS"]

SAME = "all its values give the same numbers: where it was"
OWN = (
    DTYPE,
    *read_as(SAME, "device"),
    *read_as("dropout acts here in calls that are said to be training", "training"),
    Option("forward hooks", "assumed", "forward hooks that change nothing"),
    Option("forward", "refused", "another function in place of the class's may compute anything"),
    *REPARAMETRIZED,
    Option("quantize_dynamic", "noted", "read as what integers and scales mean; x and the state are not rounded here"),
)
CALL = (
    *read_as("by the arrays' shapes", "input_size", "hidden_size"),
    *read_as("bias", "has_biases"),
    *read_as("num_layers", "num_layers"),
    *read_as("bidirectional", "bidirectional"),
    *read_as("batch_first; a call with a packed sequence does not say it", "batch_first"),
    DTYPE,
    *read_as("dropout", "dropout"),
    Option("train", "noted", "where it is True, the program drops out in each call"),
    Option("hx", "noted", "where the program makes it, pass it as h0; an argument is one here too, and zero is zero"),
)
OPTIONS: Mapping[str, tuple[Option, ...]] = {
    "a whole torch.nn.GRU, saved or live": (
        *read_as(BY_ARRAYS, "input_size", "hidden_size", "num_layers", "bias", "bidirectional"),
        *read_as("batch_first", "batch_first"),
        *read_as("dropout", "dropout"),
        *OWN,
        Option("proj_size", "fixed", "0"),
    ),
    "a whole torch.nn.GRUCell, saved or live": (
        *read_as(BY_ARRAYS, "input_size", "hidden_size", "bias"),
        ORDER,
        *OWN,
    ),
    "aten::gru in TorchScript": CALL,
    "aten.gru in torch.export": CALL,
    "gru_xp.forward in torch.export": (
        *read_as("by the arrays' shapes", "weights"),
        *read_as("bidirectional", "D"),
        *read_as("bias", "bias"),
        *read_as("batch_first, where x is transposed before it in the same module", "x"),
        Option("spec", "refused", "equations that are not PyTorch's"),
        Option("masks", "refused", "dropout that the program draws in each call"),
        Option("h0", "noted", "where the program makes it, pass it as h0; an argument is one here too"),
        Option("valid", "refused", "lengths or a mask that the program fixes; those made of its inputs are arguments"),
        Option("resets", "refused", "resets that the program fixes; those made of its inputs are arguments"),
    ),
    **{name: options for name, options in NAMES.items() if "PyTorch" in name},
}
