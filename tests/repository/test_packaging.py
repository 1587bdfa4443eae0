"""A plain install, an editable install and a wheel installed outside the checkout all work."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "gru_xp",
    "gru_xp_numpy",
    "gru_xp_torch",
    "gru_xp_cupy",
    "gru_xp_jax",
    "gru_xp_array_api_strict",
    "gru_xp_dask",
    "gru_xp_mlx",
    "gru_xp_ndonnx",
    "gru_xp_cpu",
    "gru_xp_cuda",
    "gru_xp_sklearn",
    "gru_xp_torchrl",
    "gru_xp_flax",
    "gru_xp_equinox",
    "gru_xp_keras",
    "gru_xp_conformance",
}
SMOKE = """
import importlib.util, sys
import gru_xp
from gru_xp import errors
assert not {"numpy", "torch"} & set(sys.modules)
import numpy as np
model = gru_xp.GRU(3, 4, num_layers=2, bidirectional=True, seed=0)
x = np.ones((5, 2, 3), "f4")
y, h_n, tape = model.forward(x)
grads = model.backward(tape, y)
assert grads.x.shape == x.shape
assert gru_xp.explain(x, model.params).kernel == "numpy-gates"
assert importlib.util.find_spec("gru_xp_conformance") is not None
try:
    gru_xp.gru(x, model.params, backend="jax")
except gru_xp.errors.BackendError as error:
    assert "its library is missing; install it (python -m pip install 'gru-xp[jax]')" in str(error), error
else:
    raise AssertionError("JAX is not installed here")
print(gru_xp.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by way of the source distribution, as it would be published."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT))
    (built,) = out.glob("*.whl")
    return built


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fresh_python(folder: Path) -> str:
    venv.create(folder, with_pip=True)
    return str(folder / "bin" / "python")


def test_wheel_holds_every_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} >= PACKAGES
    assert not any("tests/" in name or "benchmarks" in name for name in names)
    assert "gru_xp_cuda/gates.cu" in names
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)


def test_the_index_gets_links_that_work_there(wheel: Path) -> None:
    """The page of the package and its links are made from the repository's one address; none is relative."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    assert text.count("Project-URL: ") == 5 and "Author: " in text
    (address,) = re.findall(r"^Project-URL: Repository, (https://\S+)$", text, re.MULTILINE)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 20 and all(target.startswith("https://") for target in targets)
    assert f"{address}/raw/main/docs/images/digits.png" in targets
    assert f"{address}/blob/main/docs/install.md" in targets


def test_wheel_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    python = fresh_python(tmp_path / "venv")
    run(python, "-m", "pip", "install", "-q", str(wheel))
    where = run(python, "-W", "error", "-c", SMOKE, cwd=tmp_path)
    assert str(ROOT) not in where
    done = subprocess.run([str(tmp_path / "venv/bin/gru-xp"), "info"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "install it: python -m pip install 'gru-xp[cli]'" in done.stderr


def test_plain_install_from_the_checkout(tmp_path: Path) -> None:
    python = fresh_python(tmp_path / "venv")
    run(python, "-m", "pip", "install", "-q", str(ROOT), cwd=tmp_path)
    assert str(ROOT) not in run(python, "-W", "error", "-c", SMOKE, cwd=tmp_path)


def test_editable_install(tmp_path: Path) -> None:
    python = fresh_python(tmp_path / "venv")
    run(python, "-m", "pip", "install", "-q", "-e", str(ROOT), cwd=tmp_path)
    assert run(python, "-W", "error", "-c", SMOKE, cwd=tmp_path).strip() == str(ROOT / "src/gru_xp/__init__.py")
