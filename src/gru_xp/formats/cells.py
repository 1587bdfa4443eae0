"""Cells of Keras and of TensorFlow 1 among arrays with names, whose equations are not all PyTorch's.

    Keras           gru.kernel, recurrent_kernel, bias
    GRUCell         rnn/gru_cell/gates/kernel, gates/bias, candidate/kernel, candidate/bias; before 1.2 weights, biases
    GRUBlockCell    rnn/gru_cell/w_ru, w_c, b_ru, b_c
    CudnnGRU        rnn/.../gates/kernel, gates/bias, candidate/input_projection/kernel, candidate/hidden_projection/...

TensorFlow 1's matrices have x's rows above the state's, and the gates in the order r, z (its u). GRUCell resets the
state before the product, as in the first paper on GRUs, CudnnCompatibleGRUCell after it, as cuDNN does
(tensorflow 1.15, rnn_cell_impl.py, gru_ops.py, cudnn_rnn_ops.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from gru_xp.errors import ConversionError
from gru_xp.formats.keras_arrays import is_cudnn, read_cell
from gru_xp.formats.layouts import UNFOLDED
from gru_xp.formats.names import KERAS_DEFAULTS
from gru_xp.params import CellParams, GRUSpec
from gru_xp.stored import Note, Tensor

__all__ = ["CELLS", "TENSORFLOW_1"]

Group = Mapping[str, Tensor]
Built = tuple[CellParams, Note, GRUSpec]
Own: TypeAlias = Callable[[Group], list[str]]
Build: TypeAlias = Callable[[Group], Built]

KERAS = ("kernel", "recurrent_kernel", "bias")
KERAS_UNTOLD = "arrays alone say none of these; outputs differ if the layer had others"


def untold_of_keras(group: Group) -> Note:
    """Without biases the arrays do not say `reset_after` either."""
    defaults = KERAS_DEFAULTS | (
        {} if "bias" in {leaf.removesuffix(":0") for leaf in group} else {"reset_after": "True"}
    )
    return Note("assumed", ", ".join(f"{name}={value}" for name, value in defaults.items()), KERAS_UNTOLD)


def own_keras(group: Group) -> list[str]:
    plain = {leaf.removesuffix(":0"): leaf for leaf in group}
    return [plain[name] for name in KERAS if name in plain] if {*KERAS[:2]} <= plain.keys() else []


def build_keras(group: Group) -> Built:
    tensors = [group[leaf] for leaf in own_keras(group)]
    w, reset_after, _ = read_cell(tensors)
    note = Note("exact", "the weights", "a CuDNNGRU's" if is_cudnn(tensors) else "")
    return w, note, GRUSpec(reset_after is not False, padding="hold")


TENSORFLOW_1 = (  # what stands behind the place of a cell
    r"(?:(?:gates|candidate|candidate[./](?:input|hidden)_projection)[./](?:kernel|bias|weights|biases)"
    r"|(?:w|b)_(?:ru|c))(?::0)?"
)
TENSORFLOW_UNTOLD = Note(
    "assumed",
    "activation=tanh, no wrapper around the cell",
    "arrays alone say neither; outputs differ if the cell had another, or a ResidualWrapper",
)
OLDER = {"weights": "kernel", "biases": "bias"}
BLOCK = {"w_ru": "gates kernel", "b_ru": "gates bias", "w_c": "candidate kernel", "b_c": "candidate bias"}


def own_tensorflow(group: Group) -> list[str]:
    own = [leaf for leaf in group if re.fullmatch(TENSORFLOW_1, leaf)]
    parts = {re.split(r"[./]", leaf)[0].removesuffix(":0") for leaf in own}
    return own if {"gates", "candidate"} <= parts or {"w_ru", "w_c"} <= parts else []


def build_tensorflow(group: Group) -> Built:
    found = {}
    for leaf, tensor in group.items():
        *parts, last = re.split(r"[./]", leaf.removesuffix(":0"))
        found[BLOCK.get(last) or " ".join([*parts, OLDER.get(last, last)])] = tensor
    reset_after = "candidate hidden_projection kernel" in found
    names = ["gates kernel", "gates bias", "candidate kernel", "candidate bias"]
    if reset_after:
        names[2:] = [
            f"candidate {side}_projection {kind}" for side in ("input", "hidden") for kind in ("kernel", "bias")
        ]
    if {*names} != found.keys():
        missing, more = sorted({*names} - found.keys()), sorted(found.keys() - {*names})
        wrong = f"expected {', '.join(missing)} too" if missing else f"got {', '.join(more)[:200]} too"
        raise ConversionError(f"incomplete or more than a GRU: {wrong}")
    gates, gates_bias, *candidate = (found[name] for name in names)
    H = candidate[1].shape[0] if len(candidate[1].shape) == 1 else 0
    rows = gates.shape[0] if len(gates.shape) == 2 else 0
    I = rows - H
    shapes = [(I, H), (H,), (H, H), (H,)] if reset_after else [(rows, H), (H,)]
    if min(H, I + 1) < 1 or [t.shape for t in (gates, gates_bias, *candidate)] != [(rows, 2 * H), (2 * H,), *shapes]:
        raise ConversionError(
            f"expected kernels (I + H, 2H) and {shapes} with their biases, got "
            f"{', '.join(str(tensor.shape) for tensor in (gates, gates_bias, *candidate))[:200]}"
        )
    kernel, b_gates = gates.read(), gates_bias.read()
    if reset_after:
        W_n, b_n, R_n, c_n = (tensor.read() for tensor in candidate)
    else:
        both, b_n = (tensor.read() for tensor in candidate)
        W_n, R_n, c_n = both[:I], both[I:], np.zeros_like(b_n)
    W_ih = np.concatenate([kernel[:I].T, W_n.T])
    W_hh = np.concatenate([kernel[I:].T, R_n.T])
    w = CellParams(
        np.ascontiguousarray(W_ih),
        np.ascontiguousarray(W_hh),
        np.concatenate([b_gates, b_n]),
        np.concatenate([np.zeros_like(b_gates), c_n]),
    )
    return w, Note("exact", "the weights", UNFOLDED), GRUSpec(reset_after)


CELLS: tuple[
    tuple[Own, Build, Callable[[Group], Note], bool | None], ...
] = (  # how they are recognised and built, what their arrays do not say, and batch_first
    (own_keras, build_keras, untold_of_keras, True),
    (own_tensorflow, build_tensorflow, lambda group: TENSORFLOW_UNTOLD, None),
)
