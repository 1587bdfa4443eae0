"""Every option that Keras describes a recurrent layer with, and what becomes of it here.

The reader goes by this table, the documentation prints it, and the tests go through it. An option that is not in it is
one of a Keras that is not known, or of a class of somebody's own that has the name of one of Keras's: see `notes_on`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gru_xp.errors import ConversionError
from gru_xp.files import Option
from gru_xp.stored import Note

__all__ = ["IN_TRAINING", "OPTIONS", "SOURCES", "notes_on"]

IN_TRAINING = "it acts in training alone"


def _read(words: str, *names: str) -> tuple[Option, ...]:
    return tuple(Option(name, "read", words) for name in names)


def _noted(words: str, *names: str) -> tuple[Option, ...]:
    return tuple(Option(name, "noted", words) for name in names)


SAME = "all its values give the same numbers: "
COMMON = (
    *_read(f"{SAME}a name", "name", "dynamic"),
    *_read(f"{SAME}what x is", "batch_input_shape", "batch_shape", "input_shape", "input_dim", "input_length"),
    *_read(f"{SAME}what x is", "batch_size", "input_dtype", "ragged", "sparse"),
    *_noted(IN_TRAINING, "trainable"),
    *_read("dtype", "dtype"),
)
SEQUENCES = (
    *_noted("y and h_n always come both; its output is h_n", "return_sequences"),
    *_read(f"{SAME}y and h_n always come both", "return_state"),
    *_read("reverse; y is in the order of x here, in the reverse order there", "go_backwards"),
    *_noted("pass h_n of one call as h0 of the next", "stateful"),
    *_read("batch_first", "time_major"),
    *_noted(IN_TRAINING, "activity_regularizer"),
)
CONSTANTS = Option("num_constants", "refused", "its cell reads constants, which a GRU does not")
RECURRENT = (
    *SEQUENCES,
    *_read(f"{SAME}how they are computed", "unroll"),
    *_read("padding", "zero_output_for_mask"),
    CONSTANTS,
)
WEIGHTS = (
    *_read("hidden_size", "units"),
    *_read(f"{SAME}the first weights", "kernel_initializer", "recurrent_initializer", "bias_initializer"),
    *_noted(IN_TRAINING, "kernel_regularizer", "recurrent_regularizer", "bias_regularizer"),
    *_noted(IN_TRAINING, "kernel_constraint", "recurrent_constraint", "bias_constraint"),
)
CELL = (
    *WEIGHTS,
    *_read("candidate_activation", "activation"),
    *_read("gate_activation", "recurrent_activation"),
    *_read("bias", "use_bias"),
    *_read("reset_after", "reset_after"),
    *_noted(IN_TRAINING, "dropout", "recurrent_dropout"),
    *_read(f"{SAME}how they are computed", "implementation", "enable_caching_device", "use_cudnn", "seed"),
)

OPTIONS: dict[str, tuple[Option, ...]] = {  # by the class of a layer; "Keras 1's GRU" is GRU there
    "GRU": (*COMMON, *RECURRENT, *CELL),
    "GRUCell": (*COMMON, *CELL),
    "RNN": (*COMMON, *RECURRENT, *_read("the layers", "cell")),
    "StackedRNNCells": (
        *COMMON,
        *_read("the layers", "cells"),
        *_noted("h0 and h_n have the lowest layer first here, the highest there", "reverse_state_order"),
    ),
    "CuDNNGRU": (*COMMON, *SEQUENCES, *WEIGHTS),
    "Bidirectional": (
        *COMMON,
        *_read("the direction", "layer", "backward_layer"),
        *_noted("y holds both directions side by side here", "merge_mode"),
        *_noted(IN_TRAINING, "activity_regularizer"),
        CONSTANTS,
    ),
    "Keras 1's GRU": (
        *COMMON,
        *_read("hidden_size", "output_dim"),
        *_read("candidate_activation", "activation"),
        *_read("gate_activation", "inner_activation"),
        *(option for option in SEQUENCES if option.name in ("return_sequences", "go_backwards", "stateful")),
        *_read(f"{SAME}the first weights", "init", "inner_init"),
        *_noted(IN_TRAINING, "W_regularizer", "U_regularizer", "b_regularizer", "dropout_W", "dropout_U"),
        *_read(f"{SAME}how they are computed", "unroll", "consume_less"),
    ),
}
SOURCES = {f"Keras's {kind}".replace("Keras's Keras", "Keras"): options for kind, options in OPTIONS.items()}
KNOWN = {kind: {option.name: option for option in options} for kind, options in OPTIONS.items()}
SILENT = {"trainable": True, "return_sequences": True, "merge_mode": "concat"}  # no note; of the others 0, None, False
DIFFERENT = ("merge_mode", "reverse_state_order")  # those whose outputs are not Keras's


def notes_on(kind: str, config: Mapping[str, Any]) -> Iterator[Note]:
    """What is to be said of a layer's options beside what is read of them.

    Raises:
        ConversionError: an option says what cannot be had, or is none that Keras was known to have.
    """
    for name, value in config.items():
        silent = value == SILENT[name] if name in SILENT else not value
        told = f"{str(name)[:60]}={_brief(value)}"
        option = KNOWN[kind].get(name)
        if name == "dtype" and _policy(value).startswith("mixed"):
            why = "everything is computed in the type of the weights here"
            yield Note("changed", f"the policy {_policy(value)}", why)
        if option is None and not silent:
            raise ConversionError(f"{told}: an option of a {kind} that gru_xp does not know; it may change its numbers")
        if option is None:
            yield Note("assumed", told, f"gru_xp does not know this option of a {kind}; off, it is taken to do nothing")
        elif option.fate == "refused" and not silent:
            raise ConversionError(f"{told}: {option.words}")
        elif option.fate == "noted" and not silent:
            yield Note("changed" if name in DIFFERENT else "ignored", told, option.words)


def _policy(dtype: Any) -> str:
    """The name of a policy, which is that of a type where it computes in that of the weights."""
    if isinstance(dtype, Mapping):
        inner = dtype.get("config")
        dtype = inner.get("name") if isinstance(inner, Mapping) else None
    return str(dtype)[:40]


def _brief(value: Any) -> str:
    """An option's value in a few words."""
    if isinstance(value, Mapping):
        return str(value.get("class_name") or value.get("name") or "an object")[:60]
    return repr(value)[:60]
