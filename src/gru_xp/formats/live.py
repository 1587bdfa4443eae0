"""Live trees: parameters of Flax (linen and NNX), Equinox and MLX, modules or plain; dicts of anybody's arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gru_xp.activations import Activation
from gru_xp.errors import ConversionError, GRUError
from gru_xp.formats.named import grus_in
from gru_xp.formats.registry import Format
from gru_xp.formats.stored import Contents, Refusal, StoredGRU, two_directions
from gru_xp.formats.trees import arrays_of, class_of, is_module, library_of, nodes_of, tensor_of
from gru_xp.params import GRUSpec

__all__ = ["TreeFormat", "tree"]

KNOWN = ("equinox.nn._rnn.GRUCell", "flax.nnx.nn.recurrent.GRUCell", "mlx.nn.layers.recurrent.GRU")
HALVES = ("forward_rnn", "backward_rnn")  # of Flax's Bidirectional


class TreeFormat(Format):
    """Trees of JAX's, MLX's and NumPy's arrays, and modules that hold them."""

    name = "tree"
    title = "Flax, Equinox, MLX: live modules and trees of parameters; dicts of NumPy arrays"

    def adopts(self, thing: Any) -> bool:
        if is_module(thing):
            return True
        found = arrays_of(thing) if isinstance(thing, Mapping | list | tuple) else {}
        return bool(found) and all(library_of(array) not in ("torch", "keras") for array in found.values())

    def adopt(self, thing: Any) -> Contents:
        modules = {path: node for path, node in nodes_of(thing) if is_module(node) and not isinstance(node, Mapping)}
        modules |= {path: node for path, node in nodes_of(thing) if library_of(node) == "mlx" and is_module(node)}
        found = grus_in({name: tensor_of(array) for name, array in arrays_of(thing).items()})
        grus, refused = [], list(found.refused)
        for gru in found.grus:
            try:
                grus.append(_with_module(gru, modules.get(gru.name)))
            except GRUError as error:
                refused.append(Refusal(gru.name, str(error)))
        return Contents(tuple(_paired(grus)), tuple(refused), found.ignored)


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
    if not hasattr(module, "gate_fn"):
        return gru
    spec = GRUSpec(gate_activation=_activation(module.gate_fn), candidate_activation=_activation(module.activation_fn))
    return replace(gru, spec=spec)


def _activation(function: Any) -> Activation:
    home, name = str(getattr(function, "__module__", "")), str(getattr(function, "__name__", function))
    if not home.startswith(("jax.", "flax.")):
        raise ConversionError(f"the activation {name} of {home or 'nowhere'} may be anything")
    return Activation.keras(name) if name == "hard_sigmoid" else Activation(name)  # JAX's is relu6(a + 3) / 6 too


def _paired(grus: list[StoredGRU]) -> list[StoredGRU]:
    """The two halves of a `Bidirectional` as one, under its name."""
    by_name = {gru.name: gru for gru in grus}
    result = []
    for gru in grus:
        steps = gru.name.split(".")
        half = next((half for half in HALVES if half in steps), None)
        if half is None:
            result.append(gru)
            continue
        place = len(steps) - 1 - steps[::-1].index(half)
        other = by_name.get(".".join([*steps[:place], HALVES[half == HALVES[0]], *steps[place + 1 :]]))
        if other is None:
            result.append(gru)
        elif half == HALVES[0]:
            result.append(two_directions(gru, other, ".".join(steps[:place])))
    return result
