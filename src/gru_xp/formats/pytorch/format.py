"""PyTorch: files that `torch.save` wrote (.pt, .pth), state_dicts and live modules. Only writing imports PyTorch."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gru_xp.atomic import write_whole
from gru_xp.errors import BackendError, ConversionError
from gru_xp.files import Format
from gru_xp.formats.damage import reading
from gru_xp.formats.pytorch.archive import Archive, is_of_torch, tree_of_old
from gru_xp.formats.pytorch.calls import CELL, CONSTANTS, joined, named_by_calls
from gru_xp.formats.pytorch.exported import calls_in_export, graph_of, tensors_of_export
from gru_xp.formats.pytorch.modules import Module, judged
from gru_xp.formats.pytorch.options import OPTIONS
from gru_xp.formats.pytorch.quantised import UNREADABLE, dequantised
from gru_xp.formats.pytorch.script import calls_in_script, calls_quantised
from gru_xp.formats.pytorch.storages import Budget, unreadable
from gru_xp.formats.pytorch.tree import found_in
from gru_xp.formats.shards import grus_of_file
from gru_xp.formats.trees import arrays_of, class_of, library_of, tensor_of
from gru_xp.stored import Contents, Note, Refusal, Report, StoredGRU, Tensor, assert_spec

__all__ = ["PyTorchFormat", "pytorch"]


class PyTorchFormat(Format):
    """state_dicts, checkpoints that hold one, and modules."""

    name = "torch"
    title = (
        "PyTorch: state_dict, checkpoint or whole module (.pt, .pth, .ckpt, .bin), TorchScript (.pt), torch.export "
        "(.pt2), a live module or state_dict"
    )
    suffixes = (".pt", ".pth", ".pt2")
    runtime = "torch"
    options = OPTIONS

    def recognises(self, path: Path, head: bytes) -> bool:
        return super().recognises(path, head) or is_of_torch(head)  # .ckpt, .bin, .pth.tar

    def read(self, path: Path) -> Contents:
        with reading(path, "a file that PyTorch wrote", ConversionError):
            return _contents(path)

    def write(self, gru: StoredGRU, path: Path) -> Report:
        notes = assert_spec(gru, "PyTorch's GRU")
        runtime = _runtime()
        if runtime is None:
            raise BackendError(
                "the library torch is missing, which writing its files needs; install it: "
                "python -m pip install 'gru-xp[torch]'"
            )
        write_whole(path, runtime.saved(gru))
        lost = [
            Note("ignored", name, "a state_dict holds arrays only; give it to torch.nn.GRU")
            for name, value in (("batch_first", gru.batch_first), ("dropout", gru.dropout))
            if value
        ]
        return Report((Note("exact", "the weights"), *notes, *lost))

    def run(self, path: Path, gru: StoredGRU, x: Any, h0: Any, lengths: Any) -> tuple[Any, Any] | None:
        runtime = _runtime()
        return None if runtime is None else runtime.run_saved(path, gru, x, h0, lengths)

    def adopts(self, thing: Any) -> bool:
        if isinstance(thing, Mapping):
            return any(library_of(array) == "torch" for array in (*arrays_of(thing).values(), *thing.values()))
        return library_of(thing) == "torch" and hasattr(thing, "named_modules")

    def adopt(self, thing: Any) -> Contents:
        if isinstance(thing, Mapping):
            packed = {name: Tensor((), PACKED, unreadable) for name, each in thing.items() if class_of(each) == PACKED}
            return judged({name: tensor_of(array) for name, array in arrays_of(thing).items()} | packed, {})
        modules = {name: Module(_class_of(module), vars(module)) for name, module in thing.named_modules()}
        tensors = {name: tensor_of(array) for name, array in arrays_of(dict(thing.state_dict())).items()}
        for name, module in thing.named_modules():
            # A parametrization computes a weight when it is asked for. The hooks of weight_norm and prune do so when
            # the module is called, and leave it as a plain attribute, which may be out of date.
            if modules[name].is_quantised:
                arrays = {**module.get_weight(), **module.get_bias()}
                tensors |= {joined(name, leaf): _dequantised(array) for leaf, array in arrays.items()}
            elif modules[name].is_recurrent:
                leaves = [leaf for names in getattr(module, "_all_weights", [CELL]) for leaf in names]
                leaves = [leaf for leaf in leaves if leaf not in vars(module)]
                found = {leaf: getattr(module, leaf, None) for leaf in leaves}
                sources = tuple(joined(name, f"parametrizations.{leaf}.") for leaf, a in found.items() if a is not None)
                tensors = {each: tensor for each, tensor in tensors.items() if not each.startswith(sources)}
                tensors |= {joined(name, leaf): tensor_of(a) for leaf, a in found.items() if a is not None}
        return judged(tensors, modules)


pytorch = PyTorchFormat()

PACKED = "torch.ScriptObject"  # what quantised weights are in a live state_dict


def _dequantised(array: Any) -> Tensor:
    if not array.is_quantized:
        return tensor_of(array)
    kind = SimpleNamespace(origin=str(array.qscheme()))
    if kind.origin == "torch.per_tensor_affine":
        scheme: tuple[Any, ...] = kind, array.q_scale(), array.q_zero_point()
    else:
        scales, zeros = map(tensor_of, (array.q_per_channel_scales(), array.q_per_channel_zero_points()))
        scheme = kind, scales, zeros, array.q_per_channel_axis()
    return dequantised(tensor_of(array.int_repr()), scheme)


def _class_of(module: Any) -> str:
    """The class that says what is computed."""
    chosen = next((cls for cls in type(module).__mro__ if "forward" in vars(cls)), type(module))
    return f"{chosen.__module__}.{chosen.__qualname__}"


def _contents(path: Path) -> Contents:
    """Of a file of torch.save, torch.jit.save or torch.export.save."""
    budget = Budget(path.stat().st_size)
    if not zipfile.is_zipfile(path):
        contents = _of_tree(path, tree_of_old(path, budget), budget)
    else:
        archive = Archive(path, budget)
        if "data.pkl" in archive:
            is_program = "constants.pkl" in archive
            contents = _of_script(archive) if is_program else _of_tree(path, archive.tree(), budget)
        else:
            model, graph = graph_of(archive)
            calls, modules = calls_in_export(graph)
            tensors, by_place = named_by_calls(calls, tensors_of_export(archive, model))
            contents = judged(tensors, modules, by_place)
    budget.is_reading = False
    return contents


def _of_tree(path: Path, tree: Any, budget: Budget) -> Contents:
    """What torch.save was given."""
    tensors, modules = found_in(tree, budget)
    return grus_of_file(path, tensors, lambda found: judged(found, modules))


def _of_script(archive: Archive) -> Contents:
    """A program of torch.jit: its arrays, the constants that torch.jit.freeze makes of them, and its code."""
    tensors, modules = found_in(archive.tree(), archive.budget)
    constants, _ = found_in(archive.tree("constants.pkl", "constants"), archive.budget)
    sources = {name: archive.text(name).decode() for name in archive.under("code/") if name.endswith(".py")}
    packed = {name for name in constants if "." in name}  # of a quantised layer, which torch.jit.freeze takes apart
    tensors |= {f"{CONSTANTS}{name}": tensor for name, tensor in constants.items() if name not in packed}
    named, by_place = named_by_calls(calls_in_script(sources, modules), tensors)
    found = judged(named, modules, by_place)
    if packed and calls_quantised(sources):
        return replace(found, refused=(*found.refused, Refusal("", UNREADABLE)))
    return found


def _runtime() -> Any:
    """What saves and runs with PyTorch, from the entry-point group `gru_xp.runtimes`; None where it is missing."""
    for entry in entry_points(group="gru_xp.runtimes", name="torch"):
        with contextlib.suppress(ImportError):
            return entry.load()
    return None
