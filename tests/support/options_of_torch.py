"""Files and objects of PyTorch that set each option of a GRU to a value that is not its default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from option_case import Case, H, I, N, T, X, rows
from torch.nn.utils import parametrize, prune, spectral_norm, weight_norm

import gru_xp
import gru_xp_torch

Made = Callable[[Path], Case]
STATE = "the first state"


def run(layer: Any) -> Any:
    """(T, N, D*H) of a GRU or a cell."""
    x = torch.tensor(np.resize(X, (T, N, layer.input_size)), dtype=next(layer.parameters()).dtype)
    with torch.no_grad():
        if isinstance(layer, torch.nn.GRUCell):
            state, states = None, []
            for x_t in x:
                states.append(state := layer(x_t, state))
            return torch.stack(states).numpy()
        return rows(layer(x.swapaxes(0, 1))[0]) if layer.batch_first else layer(x)[0].numpy()


def layer_of(kind: Any, *, size: int = I, hidden: int = H, **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(size, hidden, **options).eval()


def dtype_of(layer: Any) -> str:
    return str(next(layer.parameters()).dtype).rpartition(".")[2]


# ---- whole modules and state_dicts -----------------------------------------------------------------------------------


def whole(kind: Any, change: Callable[[Any], Any] = lambda layer: layer, *, live: bool = False, **options: Any) -> Made:
    def made(folder: Path) -> Case:
        layer = change(layer_of(kind, **options))
        y, dtype = run(layer), dtype_of(layer)
        if live:
            return Case(layer, y, dtype)
        torch.save(layer, folder / "m.pt")
        return Case(folder / "m.pt", y, dtype)

    return made


def state_dict(change: Callable[[Any], Any]) -> Callable[[], Case]:
    def made() -> Case:
        layer = change(layer_of(torch.nn.GRU))
        return Case(layer.state_dict(), run(layer))

    return made


def hooked(layer: Any) -> Any:
    layer.register_forward_hook(
        lambda module, args, output: 2 * output if torch.is_tensor(output) else (2 * output[0],)
    )
    return layer


def replaced(layer: Any) -> Any:
    layer.forward = lambda *args: type(layer).forward(layer, *(-a for a in args if a is not None))
    return layer


def computed(how: Any, name: str = "weight_hh", **options: Any) -> Callable[[Any], Any]:
    def change(layer: Any) -> Any:
        how(layer, name if hasattr(layer, name) else f"{name}_l0", **options)
        run(layer)
        return layer

    return change


class Doubled(torch.nn.Module):
    def forward(self, weight: Any) -> Any:
        return 2 * weight


def doubled(layer: Any, name: str) -> None:
    parametrize.register_parametrization(layer, name, Doubled())


def quantised(kind: Any) -> Made:
    def made(folder: Path) -> Case:
        layer = torch.nn.Sequential(layer_of(kind))
        layer = torch.ao.quantization.quantize_dynamic(layer, {kind: torch.ao.quantization.default_dynamic_qconfig})
        torch.save(layer, folder / "m.pt")
        return Case(folder / "m.pt", None)

    return made


COMPUTED: dict[str, Callable[[Any], Any]] = {
    "weight_norm": computed(weight_norm),
    "spectral_norm": computed(spectral_norm),
    "prune": computed(prune.l1_unstructured, amount=0.5),
}
SIZES: dict[str, dict[str, Any]] = {"input_size": {"size": 5}, "hidden_size": {"hidden": 5}, "bias": {"bias": False}}
OPTIONS: dict[str, dict[str, Any]] = {
    **SIZES,
    "num_layers": {"num_layers": 3},
    "bidirectional": {"bidirectional": True},
    "batch_first": {"batch_first": True},
    "dropout": {"num_layers": 2, "dropout": 0.5},
    "dtype": {"dtype": torch.float64},
}


def own(kind: Any) -> dict[str, Made]:
    return {
        "dtype": whole(kind, dtype=torch.float64),
        "device": whole(kind, device="cpu"),
        "training": whole(kind, lambda layer: layer.train()),
        "forward hooks": whole(kind, hooked, live=True),
        "forward": whole(kind, replaced, live=True),
        **{name: whole(kind, change) for name, change in COMPUTED.items()},
        "quantize_dynamic": quantised(kind),
    }


# ---- programs --------------------------------------------------------------------------------------------------------


class Program(torch.nn.Module):
    """A GRU in a program, which takes x (T, N, I) or (N, T, I)."""

    def __init__(self, layer: Any):
        super().__init__()
        self.gru = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(x)[0]


class FromSums(Program):
    """With a first state that it computes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(x, x.sum(0)[None, :, :1].expand(-1, -1, 4).contiguous())[0]


class WithLengths(Program):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(x, lengths=torch.tensor([5, 3]))[0]


class WithResets(Program):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(x, resets=torch.arange(6)[:, None].expand(6, 2) == 3)[0]


class OwnEquation(Program):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        params = ((gru_xp.CellParams(*self.gru.parameters()),),)
        return gru_xp.gru(x, params, spec=gru_xp.GRUSpec(reset_after=False))[0]


def program(
    exported: bool, kind: Any = torch.nn.GRU, outer: Any = Program, said: str = "", train: bool = False, **options: Any
) -> Made:
    def made(folder: Path) -> Case:
        layer = layer_of(kind, **options)
        y = run(layer) if outer is Program else None
        x = torch.tensor(np.resize(X, (T, N, layer.input_size)), dtype=next(layer.parameters()).dtype)
        x = x.swapaxes(0, 1).contiguous() if layer.batch_first else x
        module = outer(layer).train(train)
        if exported:
            torch.export.save(torch.export.export(module, (x,)), folder / "m.pt2")
            return Case(folder / "m.pt2", y, dtype_of(layer), said=said)
        torch.jit.save(torch.jit.trace(module, (x,), check_trace=False), folder / "m.pt")
        return Case(folder / "m.pt", y, dtype_of(layer), said=said)

    return made


def calls(exported: bool) -> dict[str, Made]:
    made = {name: program(exported, **options) for name, options in OPTIONS.items()}
    made["has_biases"] = made.pop("bias")
    dropping = {"num_layers": 2, "dropout": 0.5}
    return {
        **made,
        "train": program(exported, train=True, **dropping),
        "hx": program(exported, outer=FromSums, said=STATE),
    }


OURS = gru_xp_torch.GRU
CASES: dict[str, dict[str, Any]] = {
    "a whole torch.nn.GRU, saved or live": {
        **{name: whole(torch.nn.GRU, **options) for name, options in OPTIONS.items()},
        **own(torch.nn.GRU),
    },
    "a whole torch.nn.GRUCell, saved or live": {
        **{name: whole(torch.nn.GRUCell, **options) for name, options in SIZES.items()},
        "batch_first": whole(torch.nn.GRUCell),
        **own(torch.nn.GRUCell),
    },
    "aten::gru in TorchScript": calls(exported=False),
    "aten.gru in torch.export": calls(exported=True),
    "gru_xp.forward in torch.export": {
        "weights": program(True, OURS, size=5),
        "D": program(True, OURS, bidirectional=True),
        "bias": program(True, OURS, bias=False),
        "x": program(True, OURS, batch_first=True),
        "spec": program(True, OURS, OwnEquation),
        "masks": program(True, OURS, train=True, num_layers=2, dropout=0.5),
        "h0": program(True, OURS, FromSums, said=STATE),
        "valid": program(True, OURS, WithLengths),
        "resets": program(True, OURS, WithResets),
    },
}
#: Beside those of plain state_dicts.
NAMES = {
    **{name: state_dict(change) for name, change in COMPUTED.items()},
    "parametrizations": state_dict(computed(doubled)),
}
