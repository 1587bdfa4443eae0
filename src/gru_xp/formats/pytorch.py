"""PyTorch: files that `torch.save` wrote (.pt, .pth), state_dicts and live modules. Only writing imports PyTorch."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from gru_xp.atomic import write_whole
from gru_xp.errors import BackendError, ConversionError, FileFormatError
from gru_xp.files import Format
from gru_xp.formats.named import Tensor, grus_in
from gru_xp.formats.trees import DEEPEST, arrays_of, library_of, tensor_of
from gru_xp.formats.unpickled import Thing, is_saved_by_torch, saved_by_torch
from gru_xp.stored import Contents, Note, Refusal, Report, StoredGRU, assert_spec

__all__ = ["PyTorchFormat", "pytorch"]

GRUS = ("GRU", "GRUCell")  # the classes whose equation is known, and where they live
HOMES = ("torch.nn.modules.rnn", "gru_xp_torch.modules")
QUANTISED = ("torch.ao.nn.quantized.", "torch.nn.quantized.")
COMPILED = "torch._dynamo.eval_frame.OptimizedModule"  # what torch.compile makes of a module
RECURRENT = (*GRUS, "LSTM", "LSTMCell", "RNN", "RNNCell")


class PyTorchFormat(Format):
    """state_dicts, checkpoints that hold one, and modules."""

    name = "torch"
    title = "PyTorch: state_dict, checkpoint or whole module (.pt, .pth, .ckpt, .bin), a live module or state_dict"
    suffixes = (".pt", ".pth")
    runtime = "torch"

    def recognises(self, path: Path, head: bytes) -> bool:
        return super().recognises(path, head) or is_saved_by_torch(head)  # .ckpt, .bin, .pth.tar

    def read(self, path: Path) -> Contents:
        with path.open("rb") as file:
            try:
                return _judged(*_of_tree(saved_by_torch(file)))
            except MemoryError:
                raise
            except Exception as error:  # what a damaged pickle leads to is of any kind
                raise FileFormatError(
                    f"{path}: expected a file that torch.save wrote, but it is damaged or something else: "
                    f"{type(error).__name__}: {str(error)[:200]}"
                ) from None

    def write(self, gru: StoredGRU, path: Path) -> Report:
        torch, state_dict = _torch()
        notes = assert_spec(gru, "PyTorch's GRU")
        buffer = io.BytesIO()
        torch.save(state_dict(gru), buffer)
        write_whole(path, buffer.getvalue())
        lost = [
            Note("ignored", name, "a state_dict holds arrays only; give it to torch.nn.GRU")
            for name, value in (("batch_first", gru.batch_first), ("dropout", gru.dropout))
            if value
        ]
        return Report((Note("exact", "the weights"), *notes, *lost))

    def run(self, path: Path, gru: StoredGRU, x: Any, h0: Any, lengths: Any) -> tuple[Any, Any] | None:
        try:
            from gru_xp_torch.convert import run_saved
        except ImportError:
            return None
        return run_saved(path, gru, x, h0, lengths)

    def adopts(self, thing: Any) -> bool:
        if isinstance(thing, Mapping):
            return any(library_of(array) == "torch" for array in arrays_of(thing).values())
        return library_of(thing) == "torch" and hasattr(thing, "named_modules")

    def adopt(self, thing: Any) -> Contents:
        if isinstance(thing, Mapping):
            return _judged({name: tensor_of(array) for name, array in arrays_of(thing).items()}, {})
        modules = {name: _Module(_class_of(module), vars(module)) for name, module in thing.named_modules()}
        tensors = {name: tensor_of(array) for name, array in arrays_of(dict(thing.state_dict())).items()}
        for name, module in thing.named_modules():
            # A parametrization computes a weight when it is asked for. The hooks of weight_norm and prune do so when
            # the module is called, and leave it as a plain attribute, which may be out of date.
            if modules[name].is_recurrent:
                leaves = [leaf for names in getattr(module, "_all_weights", [CELL]) for leaf in names]
                leaves = [leaf for leaf in leaves if leaf not in vars(module)]
                found = {leaf: getattr(module, leaf, None) for leaf in leaves}
                tensors |= {_joined(name, leaf): tensor_of(a) for leaf, a in found.items() if a is not None}
        return _judged(tensors, modules)


pytorch = PyTorchFormat()
CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
HOOKED = Note(
    "assumed",
    "forward hooks that change nothing",
    "the module has some, and what they do with x and y is not done here",
)


class _Module:
    """What is known of a module: its class by its whole name, and its attributes."""

    def __init__(self, origin: str, attributes: Any):
        origin = re.sub(r"\.___torch_mangle_[0-9]+", "", origin.removeprefix("__torch__."))  # in scripts and traces
        self.home, _, self.kind = origin.rpartition(".")
        self.attributes = attributes if isinstance(attributes, Mapping) else {}

    @property
    def is_recurrent(self) -> bool:
        return self.home in HOMES and self.kind in RECURRENT

    @property
    def is_gru(self) -> bool:
        return self.home in HOMES and self.kind in GRUS

    @property
    def is_hooked(self) -> bool:
        return any(self.attributes.get(name) for name in ("_forward_hooks", "_forward_pre_hooks"))

    @property
    def is_quantised(self) -> bool:
        return self.home.startswith(QUANTISED) and self.kind in RECURRENT


def _class_of(module: Any) -> str:
    """The class that says what is computed."""
    chosen = next((cls for cls in type(module).__mro__ if "forward" in vars(cls)), type(module))
    return f"{chosen.__module__}.{chosen.__qualname__}"


def _judged(tensors: Mapping[str, Tensor], modules: Mapping[str, _Module]) -> Contents:
    """The GRUs among the arrays, with what their modules say of them; none where a class of its own computes."""
    found = grus_in(tensors)
    grus, refused = [], list(found.refused)
    for gru in found.grus:
        module = modules.get(gru.name)
        if module is None or (module.is_gru and "input_size" not in module.attributes):
            grus.append(gru)  # a name alone, or a scripted module, whose options are part of its code
        elif module.is_gru and "forward" in module.attributes:
            reason = "its forward was replaced by another, which may compute anything with the weights"
            refused.append(Refusal(gru.name, f"{reason}; if it is a GRU, pass its state_dict()"))
        elif module.is_gru:
            notes = (Note("exact", "the weights"), HOOKED) if module.is_hooked else (Note("exact", "all of it"),)
            batch_first, dropout = (module.attributes.get(name) for name in ("batch_first", "dropout"))
            grus.append(
                replace(
                    gru,
                    batch_first=batch_first if isinstance(batch_first, bool) else None,  # a cell has none
                    dropout=float(dropout) if _is_probability(dropout) else 0.0,
                    report=Report(notes),
                )
            )
        else:
            reason = f"has a GRU's weights, but a {module.home}.{module.kind} may compute anything with them; if it is "
            refused.append(Refusal(gru.name, reason + "a GRU, save its state_dict() and load that"))
    quantised = dict.fromkeys(name for name, module in modules.items() if module.is_quantised)
    quantised |= dict.fromkeys(match[1][:-1] for name in tensors if (match := PACKED.match(name)))
    refused += [
        Refusal(name, "a quantised layer; convert the model from before quantize_dynamic") for name in quantised
    ]
    return Contents(tuple(grus), tuple(refused), found.ignored, found.arrays)


# What a quantised GRU or LSTM has in the place of its weights.
PACKED = re.compile(r"(.*\.|)(?:_all_weight_values\.[0-9]+\.param|_packed_weight_[ih]h)(?![^.])", re.DOTALL)


def _is_probability(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and 0 <= value <= 1


# ---- what stands in a file -------------------------------------------------------------------------------------------


# A small pickle can make a tree of many branches by naming one of them again and again.
MOST_NODES, LONGEST = 200_000, 500
CHEAP = 50  # as much as so many numbers in a list costs a node
INNER = ("_parameters", "_buffers", "_modules")  # no part of names
REBUILT = "torch._utils._rebuild_"  # what makes tensors of other kinds, for those of numbers are `Tensor`s by now


def _of_tree(tree: Any) -> tuple[dict[str, Tensor], dict[str, _Module]]:
    """The tensors and modules of a tree, by name."""
    tensors: dict[str, Tensor] = {}
    modules: dict[str, _Module] = {}
    left = MOST_NODES

    def walk(node: Any, path: str, above: tuple[int, ...]) -> None:
        nonlocal left
        if isinstance(node, Tensor):
            left -= 1
            tensors[path] = node
        is_thing = isinstance(node, Thing)
        if is_thing and node.origin.startswith(REBUILT):
            left -= 1
            tensors[path] = Tensor((), _kind_of(node), _unreadable)
        inside = node.state if is_thing else node
        if is_thing and node.origin == COMPILED and node.args:
            inside = {"_orig_mod": node.args[0]}
        if not isinstance(inside, dict | list | tuple) or len(above) >= DEEPEST or id(node) in above:
            return
        left -= 1 + len(inside) // CHEAP
        if left < 0 or len(path) > LONGEST:
            raise FileFormatError(f"expected at most {MOST_NODES} objects, with names of at most {LONGEST} characters")
        if is_thing:
            modules[path] = _Module(node.origin, node.state)
        registered = is_thing and "_parameters" in inside  # then plain attributes are what a hook left, maybe stale
        for key, child in inside.items() if isinstance(inside, dict) else enumerate(inside):
            if registered and (isinstance(child, Tensor) or key == "_flat_weights"):  # an RNN's own list of them
                continue
            if isinstance(child, dict | list | tuple | Thing | Tensor):
                inner = is_thing and key in INNER
                walk(child, path if inner else _joined(path, str(key)[:LONGEST]), (*above, id(node)))

    walk(tree, "", ())
    return tensors, modules


def _kind_of(tensor: Thing) -> str:
    """What a tensor is that is no array of plain numbers: "sparse_tensor", "tensor_v3 of float8_e4m3fn"."""
    named = (each.origin for each in tensor.args if isinstance(each, type) and issubclass(each, Thing))
    dtypes = [origin.rpartition(".")[2] for origin in named]
    return " of ".join([tensor.origin.removeprefix(REBUILT), *dtypes])


def _unreadable() -> NoReturn:
    raise ConversionError("a tensor that is no array of plain numbers")


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


# ---- out -------------------------------------------------------------------------------------------------------------


def _torch() -> tuple[Any, Any]:
    try:
        import torch

        from gru_xp_torch.convert import state_dict
    except ImportError:
        raise BackendError(
            "the library torch is missing, which writing its files needs; install it: "
            "python -m pip install 'gru-xp[torch]'"
        ) from None
    return torch, state_dict
