"""`gru-xp look`: the numbers on the page are those of the equations, and mistakes are errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import gru_xp
import gru_xp.training
from gru_xp.cli import app


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, gru_xp.GRU, np.ndarray]:
    model = gru_xp.GRU(3, 5, num_layers=2, bidirectional=True, batch_first=True, dtype="float64", seed=0)
    model.save(tmp_path / "m.safetensors")
    x = np.random.default_rng(0).normal(size=(2, 7, 3))  # (N, T, I)
    np.save(tmp_path / "x.npy", x)
    return tmp_path / "m.safetensors", tmp_path / "x.npy", model, x


def test_the_page_has_the_gates_of_the_equations(files, tmp_path: Path) -> None:
    """Those of the first layer, both directions, by a loop; those of the last layer have its states."""
    path, x_path, model, x = files
    out = tmp_path / "p.html"
    result = CliRunner().invoke(app, ["look", str(path), str(x_path), "-o", str(out), "--row", "1", "--units", "0,2-4"])
    assert result.exit_code == 0, result.output
    text = out.read_text()
    found = re.search(r"id='data'>(.*?)</script>", text, re.DOTALL)
    assert found is not None and "http" not in text
    parts = json.loads(found[1])
    assert len(parts) == 4 and parts[0]["units"] == [0, 2, 3, 4]
    for direction in range(2):
        w, h = model.params[0][direction], np.zeros(5)
        for t in range(7) if direction == 0 else reversed(range(7)):
            gi, gh = np.split(w.W_ih @ x[1, t] + w.b_ih, 3), np.split(w.W_hh @ h + w.b_hh, 3)
            r, z = (1 / (1 + np.exp(-(gi[k] + gh[k]))) for k in range(2))
            n = np.tanh(gi[2] + r * gh[2])
            h = (1 - z) * n + z * h
            for kind, values in (("r", r), ("z", z), ("n", n), ("h", h)):
                np.testing.assert_allclose(parts[direction][kind][t], values[[0, 2, 3, 4]], atol=6e-5)
    y, _ = model(x)
    np.testing.assert_allclose(parts[3]["h"], y[1][:, 5:][:, [0, 2, 3, 4]], atol=6e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--row", "2"], "--row: expected less than N = 2, got 2"),
        (["--units", "5"], "--units: expected numbers below H = 5, got '5'"),
        (["--units", "a"], "--units: expected numbers and ranges such as 0,3,8-11, got 'a'"),
        (["--no-batch-first"], ""),
    ],
)
def test_a_mistake_is_an_error_and_writes_nothing(files, tmp_path: Path, arguments: list[str], words: str) -> None:
    path, x_path, _, _ = files
    result = CliRunner().invoke(app, ["look", str(path), str(x_path), "-o", str(tmp_path / "p.html"), *arguments])
    assert result.exit_code == 1 and words in " ".join(result.output.split())
    assert not (tmp_path / "p.html").exists()


def test_the_page_has_the_norms_of_a_training_log(files, tmp_path: Path) -> None:
    """The norm of all gradients first; of a log that is longer than the page is wide, the largest of several steps."""
    path, x_path, _, _ = files
    log, out, rng = tmp_path / "run.jsonl", tmp_path / "p.html", np.random.default_rng(0)
    gradients = [{"W": rng.normal(size=(3, 4)) * 10.0 ** (step % 7), "b": rng.normal(size=3)} for step in range(1500)]
    gradients[701]["b"][1] = np.nan
    for step, each in enumerate(gradients):
        gru_xp.training.log_step(log, step, each, loss=step / 4)
    result = CliRunner().invoke(app, ["look", str(path), str(x_path), "-o", str(out), "--log", str(log)])
    assert result.exit_code == 0, result.output
    found = re.search(r"id='data'>(.*?)</script>", out.read_text(), re.DOTALL)
    assert found is not None
    part = json.loads(found[1])[-1]
    assert part["lines"] == ["all", "W", "b"] and part["steps"] == list(range(1, 1500, 2))
    assert part["figures"][3] == ["loss = 1.75"]
    each = [
        np.array([np.sqrt((g["W"] ** 2).sum() + (g["b"] ** 2).sum()), *map(np.linalg.norm, g.values())])
        for g in gradients
    ]
    expected = np.maximum(each[::2], each[1::2])
    shown = np.array(part["norm"], dtype=float)
    np.testing.assert_array_equal(np.isnan(shown), np.isnan(expected))
    np.testing.assert_allclose(shown, expected, rtol=1e-3)
    assert np.argwhere(np.isnan(shown)).tolist() == [[350, 0], [350, 2]]


def test_what_is_no_training_log_is_an_error(files, tmp_path: Path) -> None:
    path, x_path, _, _ = files
    log = tmp_path / "run.jsonl"
    for text, words in (("", "got one without a line"), ('{"step": 1}\n', "line 1 is no line of a training log")):
        log.write_text(text)
        result = CliRunner().invoke(
            app, ["look", str(path), str(x_path), "-o", str(tmp_path / "p.html"), "--log", str(log)]
        )
        assert result.exit_code == 1 and words in " ".join(result.output.split())
