"""`gru-xp inspect`, `convert`, `verify`: what they print, write and return."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from libraries import onnx
from typer.testing import CliRunner, Result

import gru_xp
from gru_xp.cli import app


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model, its export, one that lost `linear_before_reset`, one whose only GRU cannot be had, and inputs."""
    monkeypatch.chdir(tmp_path)
    model = gru_xp.GRU(3, 4, 2, bidirectional=True, batch_first=True, dropout=0.25, seed=0)
    model.save("model.safetensors")
    model.save("model.onnx")
    lost = onnx.load("model.onnx")
    for node in lost.graph.node:
        for a in node.attribute:
            if a.name == "linear_before_reset":
                a.i = 0
    onnx.save(lost, "lost.onnx")
    for node in lost.graph.node:
        if node.op_type == "GRU":
            node.name = "\x1b[31m[bold]evil"
            node.input[1] = "nowhere"
    onnx.save(lost, "refused.onnx")
    np.save("x.npy", np.random.default_rng(0).normal(size=(9, 2, 3)))
    np.save("row.npy", np.ones((9, 3), "f4"))
    np.save("wide.npy", np.ones((9, 2, 5), "f4"))
    Path("words.bin").write_text("not a model, but long enough to be looked at, twice")


def invoke(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": None})  # which some runners of tests set
    assert isinstance(result.exception, SystemExit | None), repr(result.exception)
    assert result.exit_code == status, (result.exit_code, result.output, result.stderr)
    return result


CELL = {"weight_ih": (12, 3), "weight_hh": (12, 4)}


# ---- inspect ---------------------------------------------------------------------------------------------------------


def test_inspect_prints_a_table() -> None:
    said = invoke("inspect", "model.onnx").stdout
    for words in ("model.onnx (onnx)", "gru", "after the product", "sigmoid, tanh", "both", "float32", "exact: gru:"):
        assert words in said
    assert invoke("inspect", "lost.onnx").stdout.count("before the product") == 1
    assert "L layers, D directions, I inputs, H hidden units" in said
    assert "(N, T, I)" in said and "(T, N, I)" not in said
    gru_xp.GRU(3, 4).save("time_first.safetensors")
    assert "(T, N, I)" in invoke("inspect", "time_first.safetensors").stdout


def test_inspect_shows_twenty_grus_and_says_how_many_more_there_are() -> None:
    arrays = {f"{n}.{name}": np.zeros(shape) for n in range(25) for name, shape in CELL.items()}
    np.savez("many.npz", **arrays)
    said = invoke("inspect", "many.npz").stdout
    assert "5 more GRUs, which --json names" in said and said.count("exact: ") == 20
    assert len(json.loads(invoke("inspect", "--json", "many.npz").stdout)["grus"]) == 25


def test_inspect_prints_json() -> None:
    found = json.loads(invoke("inspect", "--json", "model.onnx").stdout)
    (gru,) = found["grus"]
    assert found["format"] == "onnx" and found["refused"] == []
    expected = {"input_size": 3, "hidden_size": 4, "num_layers": 2, "directions": 2, "bias": True, "batch_first": True}
    assert expected.items() <= gru.items()
    assert gru["spec"] == gru_xp.GRUSpec().as_dict()
    model = gru_xp.load("model.onnx")
    squares = [float((w.W_hh.astype("f8") ** 2).sum()) for layer in model.params for w in layer]
    assert gru["norms"]["W_hh"] == pytest.approx(sum(squares) ** 0.5)
    assert json.loads(invoke("inspect", "--json", "model.safetensors").stdout)["grus"][0]["dropout"] == 0.25


def test_inspect_says_what_is_refused_and_obeys_no_name() -> None:
    said = invoke("inspect", "refused.onnx", status=1).stdout
    assert "refused: \N{REPLACEMENT CHARACTER}[31m[bold]evil: W is not in the file as numbers" in said
    assert "\x1b" not in said
    assert json.loads(invoke("inspect", "--json", "refused.onnx", status=1).stdout)["grus"] == []


def test_inspect_says_which_weights_are_no_numbers() -> None:
    ((w,),) = gru_xp.GRU(3, 4, seed=0).params
    gru_xp.GRU.from_params(((w._replace(W_ih=w.W_ih * np.nan),),)).save("nan.safetensors")
    assert "not finite: weights hold NaN or infinities" in invoke("inspect", "nan.safetensors").stdout
    assert json.loads(invoke("inspect", "--json", "nan.safetensors").stdout)["grus"][0]["finite"] is False
    assert "not finite" not in invoke("inspect", "model.safetensors").stdout


@pytest.mark.parametrize("command", ["inspect", "convert", "verify"])
def test_what_a_user_can_put_right(command: str) -> None:
    more = {"inspect": (), "convert": ("out.onnx",), "verify": ("model.onnx",)}[command]
    status = 2 if command == "verify" else 1
    for file, words in (("none.onnx", "none.onnx: No such file"), ("words.bin", "expected a file of a known format")):
        error = invoke(command, file, *more, status=status).stderr
        assert words in error and error.count("\n") == 1


# ---- convert ---------------------------------------------------------------------------------------------------------


def test_convert_prints_the_report_of_both_ways() -> None:
    said = invoke("convert", "model.safetensors", "there.onnx").stdout
    assert said.splitlines() == [
        "read model.safetensors (safetensors): GRU, I=3, H=4, L=2, D=2, float32, x (N, T, I)",
        "exact: all of it",
        "wrote there.onnx (onnx)",
        "exact: weights and biases: bit for bit",
        "ignored: dropout: it acts in training alone, and this file does not train",
    ]
    invoke("convert", "there.onnx", "back.safetensors")
    for ours, theirs in zip(*(gru_xp.load(f"{n}.safetensors").params for n in ("model", "back")), strict=True):
        for w, v in zip(ours, theirs, strict=True):
            assert [a.tobytes() for a in w] == [a.tobytes() for a in v]


def test_convert_between_named_formats() -> None:
    Path("model.onnx").rename("model.data")
    invoke("convert", "model.data", "out.data", "--from", "onnx", "--to", "safetensors", "--name", "gru")
    assert gru_xp.load("out.data").hidden_size == 4
    assert "got 'onx'" in invoke("convert", "model.data", "out.data", "--from", "onx", status=1).stderr
    error = invoke("convert", "model.data", "out.data", "--from", "onnx", "--name", "lstm", status=1).stderr
    assert "expected a GRU called 'lstm', found: 'gru'" in error


# ---- verify ----------------------------------------------------------------------------------------------------------


def test_verify_agrees() -> None:
    said = invoke("verify", "model.safetensors", "model.onnx", "--input", "x.npy", "--input", "x.npy").stdout
    assert "A and B agree" in said and "onnxruntime" in said and "x.npy" in said
    invoke("verify", "model.safetensors", "model.onnx", "--input", "row.npy", "--steps", "3", "--seed", "5")


def test_verify_files_of_any_name() -> None:
    Path("model.onnx").rename("model.data")
    assert "expected a file of a known format" in invoke("verify", "model.data", "lost.onnx", status=2).stderr
    arguments = ("--format-a", "onnx", "--name-a", "gru", "--name-b", "gru")
    assert "onnxruntime" in invoke("verify", "model.data", "lost.onnx", *arguments, status=1).stdout


def test_verify_says_where_and_why() -> None:
    said = invoke("verify", "model.safetensors", "lost.onnx", status=1).stdout
    assert "they part: layer 0, forward direction, time step 0, in candidate n" in said
    assert "explained: B computes what A does with the reset gate before the recurrent product" in said
    assert "differs: reset_after: A has True, B has False" in said
    assert said.rstrip().endswith("A and B do not agree")


def test_verify_prints_json() -> None:
    verdict: dict[str, Any] = json.loads(invoke("verify", "--json", "model.onnx", "lost.onnx", status=1).stdout)
    assert verdict["agrees"] is False
    assert verdict["parting"] == {"layer": 0, "direction": "forward", "step": 0, "gates": ["candidate n"]}
    assert [case["by"] for case in verdict["cases"]] == [["onnxruntime", "onnxruntime"]] * 3
    assert json.loads(invoke("verify", "--json", "model.onnx", "lost.onnx", "--tolerance", "9").stdout)["agrees"]


def test_verify_wants_an_input_that_fits() -> None:
    error = invoke("verify", "model.onnx", "lost.onnx", "--input", "wide.npy", status=2).stderr
    assert "wide.npy: expected (T, N, I) = (T, N, 3), got (9, 2, 5)" in error


@pytest.mark.parametrize("command", ["run", "inspect", "convert", "export", "verify", "demo"])
def test_the_help_shows_booleans_as_flags(command: str) -> None:
    lines = [line for line in invoke(command, "--help").stdout.splitlines() if "<bool>" in line]
    assert all("--help" in line for line in lines)  # which is typer's own
