"""Live trees: parameters of Flax (linen and NNX), Equinox and MLX, modules or plain; dicts of anybody's arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np

from gru_xp.activations import Activation
from gru_xp.errors import ConversionError, GRUError
from gru_xp.files import Format, Option
from gru_xp.formats.named import grus_in
from gru_xp.formats.names import NAMES, read_as
from gru_xp.formats.trees import arrays_of, class_of, is_module, library_of, nodes_of, tensor_of
from gru_xp.params import GRUSpec
from gru_xp.stored import Contents, Note, Refusal, Report, StoredGRU, two_directions

__all__ = ["TreeFormat", "tree"]

NNX, RNN, BIDIRECTIONAL = (f"flax.nnx.nn.recurrent.{kind}" for kind in ("GRUCell", "RNN", "Bidirectional"))
EQUINOX, MLX = "equinox.nn._rnn.GRUCell", "mlx.nn.layers.recurrent.GRU"
HALVES = ("forward_rnn", "backward_rnn")  # of Flax's Bidirectional
SAME = "all its values give the same numbers"
OPTIONS = {  # the attributes of the classes that are known
    NNX: (
        *read_as("the sizes", "in_features", "hidden_features"),
        *read_as("the weights, in the type param_dtype", "dense_i", "dense_h", "param_dtype"),
        *read_as("gate_activation", "gate_fn"),
        *read_as("candidate_activation", "activation_fn"),
        Option("dtype", "noted", "everything is computed in the type of the weights here"),
        Option("promote_dtype", "refused", "a function of your own"),
        Option("carry_init", "noted", "the first state is zero here"),
        *read_as(SAME, "rngs"),
        Option("batch_first", "assumed", "batch_first=False; the layer around a cell says it"),
    ),
    RNN: (
        *read_as("batch_first", "time_major"),
        *read_as("reverse", "reverse"),
        Option("keep_order", "noted", "where False and reverse, y is in the order of the input here"),
        *read_as(SAME, "cell", "return_carry", "unroll", "state_axes", "broadcast_rngs", "rngs"),
    ),
    BIDIRECTIONAL: (
        *read_as("batch_first", "time_major"),
        *read_as("the two directions; their reverse, keep_order and time_major are not used there either", *HALVES),
        Option("merge_fn", "noted", "y holds both directions side by side here"),
        *read_as(SAME, "return_carry", "rngs"),
    ),
    EQUINOX: (
        *read_as("the weights", "weight_ih", "weight_hh", "bias", "bias_n"),
        *read_as("the sizes", "input_size", "hidden_size"),
        *read_as("bias", "use_bias"),
        Option("batch_first", "assumed", "batch_first=False; a cell has no axis of time"),
    ),
    MLX: (
        *read_as("the weights", "Wx", "Wh", "b", "bhn"),
        *read_as("the sizes", "hidden_size"),
        Option("batch_first", "fixed", "True"),
    ),
}
SOURCES = {**{f"a live {name}": options for name, options in OPTIONS.items()}, **NAMES}
KNOWN = (NNX, EQUINOX, MLX)


class TreeFormat(Format):
    """Trees of JAX's, MLX's and NumPy's arrays, and modules that hold them."""

    name = "tree"
    title = "Flax, Equinox, MLX: live modules and trees of parameters; dicts of NumPy arrays"
    options = SOURCES

    def adopts(self, thing: Any) -> bool:
        if is_module(thing):
            return True
        found = arrays_of(thing) if isinstance(thing, Mapping | list | tuple) else {}
        return bool(found) and all(library_of(array) not in ("torch", "keras") for array in found.values())

    def adopt(self, thing: Any) -> Contents:
        if any(cls.__module__.startswith("flax.linen.") for cls in type(thing).__mro__):
            raise ConversionError(
                f"a Flax linen {type(thing).__name__} holds no parameters; pass the variables that its init gave"
            )
        modules = {path: node for path, node in nodes_of(thing) if is_module(node) and not isinstance(node, Mapping)}
        modules |= {path: node for path, node in nodes_of(thing) if library_of(node) == "mlx" and is_module(node)}
        found = grus_in({name: tensor_of(array) for name, array in arrays_of(thing).items()})
        grus, refused = [], list(found.refused)
        for gru in found.grus:
            try:
                grus.append(_in_layer(_with_module(gru, modules.get(gru.name)), modules))
            except GRUError as error:
                refused.append(Refusal(gru.name, str(error)))
        return Contents(tuple(_paired(grus, modules)), tuple(refused), found.ignored, found.arrays)


tree = TreeFormat()


def _with_module(gru: StoredGRU, module: Any) -> StoredGRU:
    """With what a module says of its equation; one of its own may compute anything."""
    if module is None or (library_of(module) == "flax" and "statelib" in class_of(module)):
        return gru
    if class_of(module) not in KNOWN:
        raise ConversionError(
            f"has a GRU's weights, but a {class_of(module)} may compute anything with them; if it is a GRU, pass its "
            f"parameters as a dict"
        )
    gru = _with_unknown(gru, module)
    if class_of(module) == MLX and gru.params[0][0].b_ih is not None and _mlx_forgets():
        gru = gru.noted(FORGOTTEN)
    if class_of(module) != NNX:
        return gru
    spec = GRUSpec(gate_activation=_activation(module.gate_fn), candidate_activation=_activation(module.activation_fn))
    gru = replace(gru, spec=spec, report=Report(tuple(note for note in gru.report.notes if note.fate != "assumed")))
    if not str(getattr(module.promote_dtype, "__module__", "")).startswith("flax."):
        raise ConversionError("promote_dtype: a function of your own may change the numbers in any way")
    if module.carry_init is not None:
        gru = gru.noted(Note("changed", "carry_init", "the cell makes its own first state, here it is zero: pass h0"))
    computes = gru.dtype if module.dtype is None else np.dtype(module.dtype).name
    if computes != gru.dtype:
        gru = gru.noted(Note("changed", f"dtype={computes}", "everything is computed in the type of the weights here"))
    return gru


def _in_layer(gru: StoredGRU, modules: Mapping[str, Any]) -> StoredGRU:
    """With what the layers around a Flax NNX cell say of directions and axes."""
    layer = modules.get(_above(gru.name)) if gru.name.endswith("cell") else None
    if layer is None or class_of(layer) != RNN:
        return gru
    gru = _with_unknown(gru, layer)
    both = modules.get(_above(_above(gru.name)))
    if both is not None and class_of(both) == BIDIRECTIONAL:  # which says so itself, whatever its halves say
        gru = replace(_with_unknown(gru, both), batch_first=not both.time_major)
        if getattr(both.merge_fn, "__module__", "") != both.__module__ or both.merge_fn.__name__ != "_concatenate":
            gru = gru.noted(Note("changed", "merge_fn", "y holds both directions side by side here"))
        return gru
    gru = replace(gru, batch_first=not layer.time_major)
    if layer.reverse:
        gru = replace(gru, spec=_reversed(gru.spec))
        if not layer.keep_order:
            why = "y stands in the order of the input here, in the reverse order there"
            gru = gru.noted(Note("changed", "keep_order=False", why))
    return gru


def _with_unknown(gru: StoredGRU, module: Any) -> StoredGRU:
    """With a note for each attribute that is none of those known: of a newer framework, or of somebody's own."""
    known = {option.name for option in OPTIONS[class_of(module)]}
    for name in vars(module):
        if not name.startswith("_") and name not in known:
            gru = gru.noted(Note("changed", f"{name} of {class_of(module)}", "not known here, and not used"))
    return gru


FORGOTTEN = Note(
    "changed",
    "bhn at the first step",
    "MLX before 0.32 leaves it out where no state is passed; here it acts at every step, as in MLX since",
)


def _mlx_forgets() -> bool:
    """Whether the MLX that is installed is one of these (https://github.com/ml-explore/mlx/pull/3252)."""
    major, minor = version("mlx").split(".")[:2]
    return (int(major), int(minor)) < (0, 32)


def _above(name: str) -> str:
    return name.rpartition(".")[0]


def _reversed(spec: GRUSpec) -> GRUSpec:
    return GRUSpec.from_dict(spec.as_dict() | {"reverse": True})


def _activation(function: Any) -> Activation:
    home, name = str(getattr(function, "__module__", "")), str(getattr(function, "__name__", function))
    if not home.startswith(("jax.", "flax.")):
        raise ConversionError(f"the activation {name} of {home or 'nowhere'} may be anything")
    return Activation.keras(name) if name == "hard_sigmoid" else Activation(name)  # JAX's is relu6(a + 3) / 6 too


def _paired(grus: list[StoredGRU], modules: Mapping[str, Any]) -> list[StoredGRU]:
    """The two halves of a `Bidirectional` as one, under its name; other classes may have attributes called so."""
    by_name = {gru.name: gru for gru in grus}
    result = []
    for gru in grus:
        steps = gru.name.split(".")
        half = next((half for half in HALVES if half in steps), None)
        if half is None:
            result.append(gru)
            continue
        place = len(steps) - 1 - steps[::-1].index(half)
        name = ".".join(steps[:place])
        other = by_name.get(".".join([*steps[:place], HALVES[half == HALVES[0]], *steps[place + 1 :]]))
        if other is None or not _is_bidirectional(modules.get(name)):
            result.append(gru)
        elif half == HALVES[0]:
            result.append(two_directions(gru, other, name))
    return result


def _is_bidirectional(module: Any) -> bool:
    """Or no module, but a tree, which has no classes."""
    return module is None or "statelib" in class_of(module) or class_of(module) == BIDIRECTIONAL
