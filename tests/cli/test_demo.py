"""The main job: its parts against what others compute, and all of it with NumPy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import LIBRARIES
from typer.testing import CliRunner

import gru_xp
from gru_xp.cli import app, demo
from gru_xp.cli import digits as job
from gru_xp.discovery import entries
from gru_xp.selection import place_for, selection


@pytest.fixture(scope="module")
def digits() -> job.Digits:
    return job.load_digits()


def test_the_held_out_part_is_fixed_and_apart(digits: job.Digits) -> None:
    assert digits.x.shape == (1347, 8, 8) and digits.x_held_out.shape == (450, 8, 8)
    assert digits.x.dtype == np.float32 and abs(digits.x).max() == 1.0
    shares = [np.bincount(labels) / len(labels) for labels in (digits.labels, digits.labels_held_out)]
    np.testing.assert_allclose(*shares, atol=0.002)
    for a, b in zip(digits, job.load_digits(), strict=True):
        np.testing.assert_array_equal(a, b)
    rows = {x.tobytes() for x in digits.x}
    assert not any(x.tobytes() in rows for x in digits.x_held_out)


def test_cross_entropy_agrees_with_torch() -> None:
    import torch

    rng = np.random.default_rng(0)
    logits, labels = 5.0 * rng.normal(size=(6, 10)), rng.integers(10, size=6)
    loss, gradient = job.cross_entropy(np, logits, np.eye(10)[labels])
    theirs = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(theirs, torch.tensor(labels))
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-12)
    np.testing.assert_allclose(gradient, theirs.grad, atol=1e-14)


def test_adam_agrees_with_torch() -> None:
    import torch

    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(3, 4)), rng.normal(size=5)]
    theirs = [torch.tensor(w, requires_grad=True) for w in weights]
    adam, expected = job.Adam(np, weights), torch.optim.Adam(theirs, lr=0.01)
    for _ in range(20):
        gradients = [rng.normal(size=w.shape) for w in weights]
        weights = adam.step(weights, gradients, 0.01)
        for w, g in zip(theirs, gradients, strict=True):
            w.grad = torch.tensor(g)
        expected.step()
    for w, e in zip(weights, theirs, strict=True):
        np.testing.assert_allclose(w, e.detach().numpy(), atol=1e-7)  # PyTorch adds its epsilon in another place


def test_gradients_agree_with_a_central_difference(digits: job.Digits) -> None:
    """Along one direction in the space of all weights, by a central difference."""
    rng = np.random.default_rng(0)
    model = job.Classifier.drawn(place_for(None, None), seed=0)
    x, targets = digits.x[:16].astype("f8"), np.eye(10)[digits.labels[:16]]
    start = [w.astype("f8") for w in model.weights]
    model.weights = start
    _, _, gradients = model.loss_and_gradients(x, targets)
    direction = [rng.normal(size=w.shape) for w in start]

    def loss(step: float) -> float:
        model.weights = [w + step * d for w, d in zip(start, direction, strict=True)]
        return model.loss_and_gradients(x, targets)[0]

    slope = sum(float(np.sum(g * d)) for g, d in zip(gradients, direction, strict=True))
    assert (loss(1e-5) - loss(-1e-5)) / 2e-5 == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_backend_learns_the_same(library: str, digits: job.Digits) -> None:
    few = job.Digits(digits.x[:160], digits.labels[:160], digits.x_held_out[:20], digits.labels_held_out[:20])

    def losses() -> list[float]:
        model = job.Classifier.drawn(place_for(selection(), None), seed=1)
        return job.train(model, few, epochs=2, seed=1).loss

    with gru_xp.use_backend(library):
        got = losses()
    np.testing.assert_allclose(got, losses(), rtol=1e-4)
    assert got[1] < got[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_at_least_97_percent(seed: int, digits: job.Digits) -> None:
    model = job.Classifier.drawn(place_for(None, None), seed)
    with job.one_blas_thread():
        history = job.train(model, digits, demo.EPOCHS, seed)
    assert history.held_out[-1] >= 0.97


def test_the_command_writes_all_and_compares_all(tmp_path: Path, digits: job.Digits) -> None:
    out = tmp_path / "new" / "folder"
    result = CliRunner().invoke(app, ["demo", "--quick", "--out", str(out), "--epochs", "2"])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["digits.png", "digits.safetensors", "readout.npz"]
    assert (out / "digits.png").read_bytes().startswith(b"\x89PNG")
    with np.load(out / "readout.npz", allow_pickle=False) as readout:
        W, b = readout["W"], readout["b"]
    rows = demo.compare(out / "digits.safetensors", W, b, digits, calls=1)
    assert {row.backend for row in rows} >= set(LIBRARIES)
    for name in entries().keys() - {"dask", "ndonnx"}:  # whose arrays the scans are not
        assert name in result.stdout  # in the table, or as not installed
    for row in rows:
        if row.backend in LIBRARIES:
            assert not row.reason and row.difference < 1e-5 and row.accuracy == rows[0].accuracy > 0.5


def test_a_backend_that_fails_is_a_row(tmp_path: Path, digits: job.Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    gru_xp.GRU(8, job.H, bidirectional=True, batch_first=True, seed=0).save(tmp_path / "m")
    monkeypatch.setenv("GRU_XP_KERNELS", "require")
    few = digits._replace(x_held_out=digits.x_held_out[:2], labels_held_out=digits.labels_held_out[:2])
    W, b = np.zeros((10, 2 * job.H), "f4"), np.zeros(10, "f4")
    rows = {row.backend: row.reason for row in demo.compare(tmp_path / "m", W, b, few, calls=1)}
    assert "no fused kernel" in rows["array_api_strict"] and not rows["numpy"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], "epochs: expected at least 1, got 0"),
        (["--backend", "nothing"], "unknown backend 'nothing'"),
        (["--out", "file"], "File exists"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    result = CliRunner().invoke(app, ["demo", "--quick", *arguments])
    assert result.exit_code == 1
    assert words in result.stderr and result.stderr.count("\n") == 1


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert "scikit-learn, which is missing; install it: python -m pip install 'gru-xp[demo]'" in result.stderr


def test_the_demo_needs_no_more_than_its_extra() -> None:
    """What stands in the extra `test` alone is not imported on the way."""
    code = """
import json, sys
import gru_xp.cli, gru_xp.cli.demo
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: list[Any] = json.loads(done.stdout)
    assert not {"hypothesis", "pytest", "ml_dtypes", "torch", "jax", "matplotlib", "sklearn"} & set(found)
