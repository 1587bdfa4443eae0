"""Programs for NumPy: they run where nothing else is, and give what gru_xp gives."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import assert_close, random_params
from typer.testing import CliRunner

import gru_xp
from gru_xp import Activation, GRUSpec, errors
from gru_xp.activations import FUNCTIONS
from gru_xp.cli import app
from gru_xp.formats.program import program
from gru_xp.module import as_stored
from gru_xp.stored import StoredGRU

RNG = np.random.default_rng(0)
T, N, I, H = 6, 3, 4, 5


def model(L: int = 1, D: int = 1, dtype: str = "f4", bias: bool = True, **options: Any) -> StoredGRU:
    params = random_params(RNG, I, H, L, D, bias, dtype)
    return StoredGRU(params, dtype=str(np.dtype(dtype)), **options)


def small(*args: Any, **options: Any) -> StoredGRU:
    """With weights so small that activations without bounds do not leave all bounds."""
    gru = model(*args, **options)
    return replace(gru, params=gru_xp.params.map_params(lambda a: a / 4, gru.params))


def quantised(weights: str, L: int, D: int, **options: Any) -> StoredGRU:
    return as_stored(gru_xp.quantize(gru_xp.GRU(I, H, L, bidirectional=D == 2, seed=0, **options), weights))


MODELS = {
    "one_layer": model(),
    "stack": model(3, 1),
    "both_ways": model(2, 2),
    "double": model(2, 2, "f8"),
    "no_biases": model(2, 1, bias=False),
    "reset_before": model(2, 1, "f8", spec=GRUSpec(False)),
    "reset_before_no_biases": model(1, 1, "f8", bias=False, spec=GRUSpec(False)),
    "reverse": model(2, 1, "f8", spec=GRUSpec(reverse=True)),
    "clip": model(1, 2, "f8", spec=GRUSpec(clip=0.75)),
    "hold": model(2, 2, "f8", spec=GRUSpec(padding="hold")),
    "batch_first": model(2, 2, batch_first=True),
    "first_state": model(2, 1, h0=RNG.normal(size=(2, H)).astype("f4")),
    "half": model(1, 1, "f2"),
    "int8": quantised("int8", 2, 2),
    "int8_stream": quantised("int8", 2, 1, bias=False),
    "weights_of_16_bits": quantised("float16", 1, 1),
    "weights_of_bfloat16": quantised("bfloat16", 2, 1),
    **{
        f"with_{name}": small(1, 1, "f8", spec=GRUSpec(True, Activation(name), "tanh"))
        for name in FUNCTIONS
        if name not in ("softplus", "exponential")  # as gates they leave all bounds
    },
    **{f"and_{name}": small(1, 1, "f4", spec=GRUSpec(True, "sigmoid", Activation(name))) for name in FUNCTIONS},
    "constants": model(1, 1, "f8", spec=GRUSpec(False, Activation("hard_sigmoid", 0.15, 0.4), Activation("elu", 0.7))),
}

RUNNER = """
import json, sys
sys.path.insert(0, sys.argv[1])  # NumPy and nothing else
sys.path.insert(0, sys.argv[2])
import numpy as np
for name in ("gru_xp", "torch", "onnx", "array_api_compat", "pip"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(name)
given = np.load(sys.argv[3])
results = {}
with np.errstate(over="ignore"):
    for name in json.loads(sys.argv[4]):
        module = __import__(name)
        x, h0, lengths = (given[f"{name}.{part}"] for part in ("x", "h0", "lengths"))
        cases = {"x": (x,), "h0": (x, h0), "lengths": (x, None, lengths), "all": (x, h0, lengths)}
        for case, arguments in cases.items():
            results[f"{name}.{case}.y"], results[f"{name}.{case}.h_n"] = module.gru(*arguments)
        if hasattr(module, "step"):
            h, ys = h0, []
            for x_t in x if "batch_first" not in name else x.swapaxes(0, 1):
                y_t, h = module.step(x_t, h)
                ys.append(y_t)
            results[f"{name}.steps.y"], results[f"{name}.steps.h_n"] = np.stack(ys), h
np.savez(sys.argv[5], **results)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every program on the same inputs, in a Python that has the standard library and NumPy."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "only").mkdir()
    for part in Path(np.__file__).parent.parent.glob("numpy*"):
        if part.name in ("numpy", "numpy.libs"):
            (folder / "only" / part.name).symlink_to(part)
    given = {}
    for name, gru in MODELS.items():
        program.write(gru, folder / f"{name}.py")
        for part, array in zip(("x", "h0", "lengths"), inputs(gru), strict=True):
            given[f"{name}.{part}"] = array
    np.savez(folder / "given.npz", **given)
    arguments = ["only", ".", "given.npz", json.dumps(list(MODELS)), "results.npz"]
    command = [sys.executable, "-I", "-S", "-W", "error", "-c", RUNNER, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in MODELS:
        subprocess.run(
            [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "120", folder / f"{name}.py"],
            check=True,
            capture_output=True,
        ) if name in (
            "both_ways",
            "clip",
            "reset_before",
            "first_state",
            "batch_first",
            "int8",
            "weights_of_bfloat16",
        ) else None
    return dict(np.load(folder / "results.npz"))


def inputs(gru: StoredGRU) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(1)
    L, D, dtype = len(gru.params), len(gru.params[0]), "f8" if gru.dtype == "float64" else "f4"
    x, h0 = rng.normal(size=(T, N, I)), rng.normal(size=(L * D, N, H))
    return (x.swapaxes(0, 1) if gru.batch_first else x).astype(dtype), h0.astype(dtype), np.array([T, 0, 2])


@pytest.mark.parametrize("name", MODELS)
def test_a_program_gives_what_gru_xp_gives(name: str, results: dict[str, Any]) -> None:
    gru = MODELS[name]
    x, h0, lengths = inputs(gru)
    params = gru_xp.params.map_params(lambda a: a.astype(x.dtype), gru.params)
    host = gru_xp.GRU.from_params(params, spec=gru.spec, batch_first=gru.batch_first is True)
    default = None if gru.h0 is None else np.repeat(gru.h0[:, None], N, 1)
    tolerance = 8 * T * float(np.finfo(x.dtype).eps)
    for case, (state, ends) in {
        "x": (default, None),
        "h0": (h0, None),
        "lengths": (default, lengths),
        "all": (h0, lengths),
    }.items():
        y, h_n = host(x, state, lengths=ends)
        got = {part: results[f"{name}.{case}.{part}"] for part in ("y", "h_n")}
        assert got["y"].dtype == got["h_n"].dtype == x.dtype
        assert_close(got, {"y": y, "h_n": h_n}, tolerance)
    streams = len(gru.params[0]) == 1 and not gru.spec.reverse
    assert (f"{name}.steps.y" in results) == streams
    if streams:
        y, h_n = host(x, h0)
        got = {part: results[f"{name}.steps.{part}"] for part in ("y", "h_n")}
        assert_close(got, {"y": y, "h_n": h_n}, tolerance)


def test_only_what_the_model_has_is_written(tmp_path: Path) -> None:
    path = tmp_path / "small.py"
    program.write(model(bias=False), path)
    text = path.read_text()
    assert "b_ih" not in text and "clip" not in text and "reverse" not in text and "concatenate" not in text
    assert len(text.splitlines()) < 120
    with np.load(path.with_name("small_weights.npz"), allow_pickle=False) as file:
        assert sorted(file) == ["layer0_forward_W_hh", "layer0_forward_W_ih"]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gru_xp.GRU(3, 4, dropout=0.5, dtype="float16", seed=0).save("model.safetensors")
    said = CliRunner().invoke(app, ["export", "--numpy", "model.safetensors", "small.py"])
    assert said.exit_code == 0
    assert "exact: weights and biases: bit for bit, in small_weights.npz" in said.stdout
    assert "changed: rounding: the program computes in float32" in said.stdout
    assert "ignored: dropout" in said.stdout
    for arguments, words in (
        (["model.safetensors", "small.py"], "expected --numpy"),
        (["--numpy", "model.safetensors", "a-model.py"], "expected the name of a module"),
        (["--numpy", "model.safetensors", "class.py"], "expected the name of a module"),
        (["--numpy", "model.safetensors", "numpy.py"], "numpy.py: expected another name, for `import numpy` beside it"),
        (["--numpy", "model.safetensors", "random.py"], "random.py: expected another name"),  # NumPy imports it
        (["--numpy", "small.py", "other.py"], "numpy cannot be read from files"),
    ):
        wrong = CliRunner().invoke(app, ["export", *arguments])
        assert wrong.exit_code == 1 and words in wrong.stderr


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    """The weights of a program lie beside it, where the model itself may lie."""
    path = tmp_path / "small_weights.npz"
    given = gru_xp.GRU(3, 4, seed=0)
    given.save(path)
    before = path.read_bytes()
    said = CliRunner().invoke(app, ["export", "--numpy", str(path), str(tmp_path / "small.py")])
    assert (
        said.exit_code == 1 and "small_weights.npz: is there and holds something else, so small.py needs" in said.stderr
    )
    path.with_name("other_weights.npz").write_bytes(b"no archive")
    with pytest.raises(errors.ConversionError, match="other_weights.npz: is there and holds something else"):
        given.save(tmp_path / "other.py")
    assert path.read_bytes() == before and not (tmp_path / "small.py").exists()
    for _ in range(2):  # a program may be written again
        given.save(tmp_path / "third.py")


@pytest.mark.parametrize("order", [("a.py", "a.npz"), ("a.npz", "a.py")])
def test_a_program_and_an_archive_of_one_name_live_together(order: tuple[str, str], tmp_path: Path) -> None:
    given = gru_xp.GRU(3, 4, seed=0)
    for name in order:
        given.save(tmp_path / name)
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("f4")
    code = "import a, numpy, sys; numpy.save('y.npy', a.gru(numpy.load('x.npy'))[0])"
    np.save(tmp_path / "x.npy", x)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), given(x)[0], atol=1e-6)
    np.testing.assert_array_equal(gru_xp.load(tmp_path / "a.npz", batch_first=False)(x)[0], given(x)[0])


@pytest.mark.parametrize("format", ["npz", "safetensors", "mlx", None])
def test_the_weights_of_a_program_are_not_replaced(format: str | None, tmp_path: Path) -> None:  # noqa: A002
    given = gru_xp.GRU(3, 4, batch_first=True, seed=0)
    given.save(tmp_path / "a.py")
    before = (tmp_path / "a_weights.npz").read_bytes()
    with pytest.raises(errors.ConversionError, match=r"a_weights.npz: a.py beside it needs what is there"):
        given.save(tmp_path / "a_weights.npz", format=format)
    assert (tmp_path / "a_weights.npz").read_bytes() == before
    (tmp_path / "a.py").unlink()
    given.save(tmp_path / "a_weights.npz", format=format)


def test_bfloat16_stands_there_as_float32(tmp_path: Path) -> None:
    gru = replace(model(), dtype="bfloat16")
    assert not program.write(gru, tmp_path / "small.py").exact
    with np.load(tmp_path / "small_weights.npz") as file:
        np.testing.assert_array_equal(file["layer0_forward_W_ih"], gru.params[0][0].W_ih)


@pytest.mark.parametrize(("weights", "factor"), [("int8", 3.8), ("bfloat16", 1.9), ("float16", 1.9)])
def test_narrow_weights_stay_narrow(weights: str, factor: float, tmp_path: Path) -> None:
    given = gru_xp.GRU(256, 256, seed=0)
    given.save(tmp_path / "wide.py")
    report = gru_xp.quantize(given, weights).save(tmp_path / "narrow.py")
    assert report.exact and f"{weights} weights" in str(report)
    wide, narrow = ((tmp_path / f"{name}_weights.npz").stat().st_size for name in ("wide", "narrow"))
    assert wide / narrow >= factor


def test_integer_activations_are_said_to_be_lost(tmp_path: Path) -> None:
    report = gru_xp.quantize(gru_xp.GRU(3, 4, seed=0), activations="int8").save(tmp_path / "narrow.py")
    assert [note.what for note in report.notes if note.fate == "changed"] == ["int8 activations"]
