"""What PyTorch's modules say of the GRUs among their arrays, and what makes one no GRU at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeGuard

from gru_xp.checks import sizes_of
from gru_xp.formats.named import BIASES, grus_in
from gru_xp.formats.pytorch import quantised
from gru_xp.formats.pytorch.calls import Call
from gru_xp.stored import Contents, Note, Refusal, Report, StoredGRU, Tensor

__all__ = ["COMPILED", "Module", "judged"]

GRUS = ("GRU", "GRUCell")  # the classes whose equation is known, and where they live
QUANTISED = ("torch.ao.nn.quantized.dynamic.modules.rnn", "torch.nn.quantized.dynamic.modules.rnn")
HOMES = ("torch.nn.modules.rnn", "gru_xp_torch.modules", *QUANTISED)
COMPUTING = ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm", "torch.nn.utils.prune")  # hooks
COMPILED = "torch._dynamo.eval_frame.OptimizedModule"  # what torch.compile makes of a module
RECURRENT = (*GRUS, "LSTM", "LSTMCell", "RNN", "RNNCell")
HOOKED = Note(
    "assumed",
    "forward hooks that change nothing",
    "the module has some, and what they do with x and y is not done here",
)


class Module:
    """What is known of a module: its class by its whole name, and its attributes."""

    def __init__(self, origin: str, attributes: Any):
        self.origin = origin  # in scripts and traces "__torch__.torch.nn.modules.rnn.___torch_mangle_3.GRU"
        plain = re.sub(r"\.___torch_mangle_[0-9]+", "", origin.removeprefix("__torch__."))
        self.home, _, self.kind = plain.rpartition(".")
        self.attributes = attributes if isinstance(attributes, Mapping) else {}

    @property
    def is_recurrent(self) -> bool:
        return self.home in HOMES and self.kind in RECURRENT

    @property
    def is_gru(self) -> bool:
        return self.home in HOMES and self.kind in GRUS

    @property
    def is_hooked(self) -> bool:
        """Whether something may happen to x and y; those hooks that compute weights are none of that kind."""
        found = (self.attributes.get(name) for name in ("_forward_hooks", "_forward_pre_hooks"))
        hooks = [hook for each in found if isinstance(each, Mapping) for hook in each.values()]
        return not all(getattr(hook, "origin", type(hook).__module__).startswith(COMPUTING) for hook in hooks)

    @property
    def is_quantised(self) -> bool:
        return self.home in QUANTISED and self.kind in RECURRENT


def judged(
    tensors: Mapping[str, Tensor], modules: Mapping[str, Module], calls: Mapping[str, list[Call]] | None = None
) -> Contents:
    """The GRUs among the arrays, with what their modules and a program's calls say of them.

    Args:
        tensors: by name.
        modules: by name; a class that is not known may compute anything with its arrays.
        calls: of a program, by the name of the module whose arrays they take.
    """
    directions = {name: 1 + (module.attributes.get("bidirectional") is True) for name, module in modules.items()}
    named, packed = quantised.of_modules(tensors, directions)
    found = grus_in(named)
    made = [_with_module(gru, modules.get(gru.name), (calls or {}).get(gru.name, [])) for gru in found.grus]
    refused = [*found.refused, *packed, *(each for each in made if isinstance(each, Refusal))]
    grus = tuple(quantised.noted(each, named) for each in made if isinstance(each, StoredGRU))
    return Contents(grus, tuple(refused), found.ignored, found.arrays)


def _with_module(gru: StoredGRU, module: Module | None, calls: list[Call]) -> StoredGRU | Refusal:
    if module is not None and not module.is_gru:
        reason = f"has a GRU's weights, but a {module.home}.{module.kind} may compute anything with them; if it is "
        return Refusal(gru.name, reason + "a GRU, save its state_dict() and load that")
    if calls:
        return _with_calls(gru, calls)
    if module is None or "input_size" not in module.attributes:
        return gru  # a name alone, or a program without a call
    if "forward" in module.attributes:
        reason = "its forward was replaced by another, which may compute anything with the weights"
        return Refusal(gru.name, f"{reason}; if it is a GRU, pass its state_dict()")
    I, H, L, D, bias = sizes_of(gru.params)
    sizes = {"input_size": I, "hidden_size": H, "num_layers": L, "bidirectional": D == 2, "bias": bias}
    for option, value in sizes.items():
        if (said := module.attributes.get(option, value)) != value:
            return Refusal(gru.name, f"{option}: the module says {str(said)[:40]}, its arrays say {value}")
    notes = [Note("exact", "the weights"), HOOKED] if module.is_hooked else [Note("exact", "all of it")]
    notes += [note for note in gru.report.notes if note.fate != "exact"]
    batch_first, dropout = (module.attributes.get(name) for name in ("batch_first", "dropout"))
    return replace(
        gru,
        batch_first=batch_first if isinstance(batch_first, bool) else None,  # a cell has none
        dropout=float(dropout) if _is_probability(dropout) else 0.0,
        report=Report(tuple(notes)),
    )


def _with_calls(gru: StoredGRU, calls: list[Call]) -> StoredGRU | Refusal:
    """With what a program says in its calls, which all have to say the same."""
    for call in calls:
        if call.unlike:
            return Refusal(gru.name, call.unlike)
    orders = {call.batch_first for call in calls if call.batch_first is not None}
    if len(orders) > 1:
        return Refusal(gru.name, "is called with batch_first=True and with batch_first=False in one program")
    dropout = max(call.dropout for call in calls)
    dropout = dropout if _is_probability(dropout) else 0.0
    kept = [note for note in gru.report.notes if note.fate != "exact" and note != BIASES]  # the call has `has_biases`
    notes = [Note("exact", "all of it"), *kept]
    if dropout and len(gru.params) > 1 and any(call.train for call in calls):
        why = "the program was made in training and drops out in every call; here dropout acts in training alone"
        notes.append(Note("changed", f"dropout={dropout}", why))
    for state in dict.fromkeys(call.state for call in calls if call.state):
        notes.append(Note("changed", "the first state", f"it {state} in the program, here it is zero: pass it as h0"))
    batch_first = orders.pop() if orders else None
    return replace(gru, batch_first=batch_first, dropout=dropout, report=Report(tuple(notes)))


def _is_probability(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and 0 <= value <= 1
