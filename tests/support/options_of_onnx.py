"""ONNX models that set each attribute and input of a GRU to a value that is not its default; onnxruntime runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx_nodes import constant, node_model, session
from option_case import Case, H, I, N, T, X

Made = Callable[[Path], Case]


def weights(D: int = 1, size: int = I, hidden: int = H, dtype: str = "f4") -> dict[str, Any]:
    rng = np.random.default_rng(1)
    shapes = {"W": (D, 3 * hidden, size), "R": (D, 3 * hidden, hidden), "B": (D, 6 * hidden)}
    return {name: rng.uniform(-0.7, 0.7, shape).astype(dtype) for name, shape in shapes.items()}


def node(
    D: int = 1, size: int = I, hidden: int = H, dtype: str = "f4", said: str = "", without: str = "", **options: Any
) -> Made:
    """A model of one GRU node, and onnxruntime's Y."""

    def made(folder: Path) -> Case:
        arrays = weights(D, size, hidden, dtype) | ({without: None} if without else {})
        inputs = options.pop("inputs", {}) | ({without: ""} if without else {})
        given = {"opset": 14} | options
        model = node_model(
            D=D, weights=arrays, inputs=inputs, dtype=dtype, x_shape=("T", "N", size), hidden_size=hidden, **given
        )
        (folder / "m.onnx").write_bytes(model.SerializeToString())
        x = np.resize(X, (T, N, size)).astype(dtype)
        attributes = model.graph.node[-1].attribute
        layout = next((a for a in attributes if a.name == "layout"), None)
        if layout is not None:  # which onnxruntime lacks, so it runs the same node without
            attributes.remove(layout)
        (y,) = session(model.SerializeToString()).run(["Y"], {"x": x})
        y = y.swapaxes(1, 2).reshape(T, N, -1)
        return Case(folder / "m.onnx", y, np.dtype(dtype).name, said=said)

    return made


class Cell(torch.nn.Module):
    """A GRUCell's parameters, and another equation."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.GRUCell(I, H)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return self.cell(x, h)


class Other(Cell):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        c = self.cell
        gates = torch.nn.functional.linear(x, c.weight_ih, c.bias_ih) + torch.nn.functional.linear(
            h, c.weight_hh, c.bias_hh
        )
        return torch.relu(gates[:, :H])


def cell(kind: Any = Cell, dtype: torch.dtype = torch.float32, **options: Any) -> Made:
    def made(folder: Path) -> Case:
        torch.manual_seed(0)
        module = kind()
        size, hidden = options.get("size", I), options.get("hidden", H)
        module.cell = torch.nn.GRUCell(size, hidden, bias=options.get("bias", True))
        module = module.to(dtype).eval()
        state = torch.zeros(N, hidden, dtype=dtype)
        x = torch.tensor(np.resize(X, (T, N, size)), dtype=dtype)
        torch.onnx.export(module, (x[0], state), folder / "m.onnx", verbose=False)
        states = []
        with torch.no_grad():
            for x_t in x:
                states.append(state := module(x_t, state))
        return Case(folder / "m.onnx", torch.stack(states).numpy(), str(dtype).rpartition(".")[2])

    return made


H0 = np.full((1, N, H), 0.5, "f4")
LENGTHS = np.array([T, 2][:N], "i4")
CASES: dict[str, dict[str, Any]] = {
    "ONNX's GRU": {
        "hidden_size": node(hidden=5),
        "direction": node(D=2, direction="bidirectional"),
        "linear_before_reset": node(linear_before_reset=1),
        "activations": node(activations=["Relu", "Softsign"]),
        "activation_alpha": node(activations=["HardSigmoid", "LeakyRelu"], activation_alpha=[0.3, 0.2]),
        "activation_beta": node(activations=["HardSigmoid", "Tanh"], activation_alpha=[0.3], activation_beta=[0.4]),
        "clip": node(clip=0.25),
        "layout": node(layout=1),
        "output_sequence": None,
        "W": node(size=5),
        "R": node(hidden=5),
        "B": node(without="B"),
        "dtype": node(dtype="f2"),
        "sequence_lens": node(
            inputs={"sequence_lens": "fixed"}, nodes=[constant("fixed", LENGTHS)], said="the lengths"
        ),
        "initial_h": node(inputs={"initial_h": "fixed"}, nodes=[constant("fixed", H0)], said="the first state"),
    },
    "a PyTorch cell's names: weight_ih, in ONNX without a GRU node": {
        "input_size": cell(size=5),
        "hidden_size": cell(hidden=5),
        "bias": cell(bias=False),
        "dtype": cell(dtype=torch.float64),
        "batch_first": cell(),
        "nodes": cell(Other),
    },
}


def before_opset_7(folder: Path) -> Case:
    """`output_sequence` is of opset 1, which onnxruntime does not run: it runs the same node of opset 14 without it."""
    case = node()(folder)
    model = onnx.load(folder / "m.onnx")
    model.graph.node[-1].attribute.append(onnx.helper.make_attribute("output_sequence", 1))
    model.opset_import[0].version = 1
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return case


CASES["ONNX's GRU"]["output_sequence"] = before_opset_7
