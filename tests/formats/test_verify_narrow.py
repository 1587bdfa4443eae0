"""Comparing quantised models: with the right side rounded, and mistakes that a tolerance would hide."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import gru_xp
from gru_xp.cli import app
from gru_xp.module import as_stored
from gru_xp.stored import StoredGRU
from gru_xp.verify import Side, side_of, verify
from gru_xp.verify.suspects import CELL_CHANGES

KINDS = [("int8", "float32"), ("int8", "int8"), ("bfloat16", "float32"), ("float16", "float32")]
MODEL = gru_xp.GRU(24, 40, num_layers=2, seed=0)
SWAPPED = "the gates r and z swapped"


def narrow(*kind: str, of: StoredGRU | None = None) -> StoredGRU:
    model = MODEL if of is None else gru_xp.GRU.from_params(of.params)
    return as_stored(gru_xp.quantize(model, *kind))  # type: ignore[arg-type, call-overload]


def changed(gru: StoredGRU, change: Any) -> StoredGRU:
    return replace(gru, params=tuple(tuple(map(change, layer)) for layer in gru.params))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [True, False])
def test_a_model_and_its_narrow_self_agree(kind: tuple[str, str], first: bool) -> None:
    both = [as_stored(MODEL), narrow(*kind)]
    verdict = verify(*(Side(label, each) for label, each in zip("AB", both if first else both[::-1], strict=True)))
    assert verdict.agrees and not verdict.differences
    whole, small = verdict.compared
    assert f"{'AB'[not first]} has float32 weights, rounded here as those of {'AB'[first]} are" in whole
    assert small.startswith(f"{'AB'[first]} has {kind[0]} weights")
    assert (
        1e-5 < float(whole.split("differ by ")[1].split()[0]) < 0.02
    )  # what rounding costs, which would not pass as rounding of float32


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2], KINDS[3]])
def test_one_wrong_scale_is_found(kind: tuple[str, str]) -> None:
    """That of one row in 240, of which the difference is smaller than that of rounding all of them."""

    def change(w: Any) -> Any:
        W = np.array(w.W_hh)
        W[7] *= np.float32(1.01)
        return w._replace(W_hh=W)

    verdict = verify(Side("A", as_stored(MODEL)), Side("B", changed(narrow(*kind), change)))
    assert not verdict.agrees and "other numbers in W_hh" in verdict.differences[0]
    if kind[0] == "int8":
        cost = verify(Side("A", as_stored(MODEL)), Side("B", narrow(*kind)), tolerance=1.0).cases[0].difference
        assert verdict.cases[0].difference < cost


@pytest.mark.parametrize("kind", KINDS)
def test_a_mistake_before_the_rounding_is_explained(kind: tuple[str, str]) -> None:
    wrong = narrow(*kind, of=changed(as_stored(MODEL), CELL_CHANGES[SWAPPED]))
    verdict = verify(Side("A", as_stored(MODEL)), Side("B", wrong))
    assert not verdict.agrees and verdict.explanation == f"B computes what A does with {SWAPPED}"


def test_a_given_tolerance_compares_them_as_they_are() -> None:
    sides = Side("A", as_stored(MODEL)), Side("B", narrow("int8"))
    y, other = (gru_xp.GRU.from_params(side.stored.params)(np.ones((5, 1, 24), "f4"))[0] for side in sides)
    assert 1e-4 < np.abs(y - other).max() < 0.02
    assert verify(*sides, tolerance=0.02).agrees and not verify(*sides, tolerance=1e-5).agrees


def test_two_kinds_of_weights_do_not_agree() -> None:
    verdict = verify(Side("A", narrow("int8")), Side("B", narrow("float16")))
    assert not verdict.agrees and verdict.differences[0] == "A has int8 weights, B has float16 weights"


def test_what_float16_cannot_hold_is_compared_as_it_is() -> None:
    large = changed(as_stored(MODEL), lambda w: w._replace(W_ih=1e6 * w.W_ih))
    assert not verify(Side("A", large), Side("B", narrow("float16"))).agrees


def test_files_each_by_its_own_runtime(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    for name, model in (("whole", MODEL), ("narrow", gru_xp.quantize(MODEL))):
        for ending in ("onnx", "safetensors"):
            model.save(tmp_path / f"{name}.{ending}")
    for a, b in (("whole.onnx", "narrow.onnx"), ("narrow.safetensors", "narrow.onnx")):
        verdict = verify(side_of("A", tmp_path / a), side_of("B", tmp_path / b))
        assert verdict.agrees and verdict.cases[0].by[1] == "onnxruntime"
        assert verdict.cases[0].allowed < 1e-4
    said = CliRunner().invoke(app, ["verify", str(tmp_path / "whole.onnx"), str(tmp_path / "narrow.onnx")])
    assert said.exit_code == 0 and "A has float32 weights, rounded here as those of B are" in said.stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")
@pytest.mark.parametrize("of", ["a matrix", "a row"])
def test_a_model_and_what_pytorch_made_of_it_agree(of: str, tmp_path: Path) -> None:
    """Rounded by scales of PyTorch's, which differ from ours; a mistake before or after it shows."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.GRU(24, 40, num_layers=2, bidirectional=True))
    quantization = torch.ao.quantization
    how = quantization.default_dynamic_qconfig if of == "a matrix" else quantization.per_channel_dynamic_qconfig
    torch.save(quantization.quantize_dynamic(net, {torch.nn.GRU: how}), tmp_path / "q.pt")
    whole = as_stored(gru_xp.from_framework(net))
    other = side_of("B", tmp_path / "q.pt")
    verdict = verify(Side("A", whole), other)
    assert verdict.agrees and not verdict.differences, str(verdict)
    assert not verify(Side("A", changed(whole, CELL_CHANGES[SWAPPED])), other).agrees
    for factor in (1.001, 0.999):
        wrong = changed(whole, lambda w: w._replace(W_hh=w.W_hh * np.float32(factor)))  # noqa: B023
        assert not verify(Side("A", wrong), other).agrees


def test_inspect_says_how_weights_are_stored(tmp_path: Path) -> None:
    path = tmp_path / "narrow.safetensors"
    model = gru_xp.quantize(MODEL, activations="int8")
    model.save(path)
    scales = gru_xp.weights(as_stored(model).narrow.scales)  # type: ignore[union-attr, arg-type]
    size = 120 * (24 + 40 + 40 + 40) + 4 * 2 * (2 * 120 + 2 * 120)
    (found,) = json.loads(CliRunner().invoke(app, ["inspect", "--json", str(path)]).stdout)["grus"]
    assert found["narrow"] == {
        "weights": "int8",
        "activations": "int8",
        "float32_layers": [],
        "scales": [float(min(map(np.min, scales))), float(max(map(np.max, scales)))],
        "bytes": size,
        "bytes_in_float32": 4 * 120 * (24 + 40 + 40 + 40) + 4 * 4 * 120,
    }
    assert (
        "int8 weights, int8 activations, scales of rows from" in CliRunner().invoke(app, ["inspect", str(path)]).stdout
    )
    assert f"{size:,} bytes" in CliRunner().invoke(app, ["inspect", str(path)]).stdout
    MODEL.save(path)
    (found,) = json.loads(CliRunner().invoke(app, ["inspect", "--json", str(path)]).stdout)["grus"]
    assert found["narrow"] is None
