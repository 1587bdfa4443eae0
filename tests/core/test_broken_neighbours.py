"""Packages of others that register kernels, backends or formats and cannot be imported: named, and in nobody's way."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

FAULTS = {
    "missing": "import no_such_module",
    "raises": "raise RuntimeError('no GPU on this Tuesday')",
    "wrong": "1 / 0",
    "exits": "raise SystemExit(3)",
    "syntax": "def (",
    "library": "import ctypes; ctypes.CDLL('/no/such/library.so')",
}


@pytest.fixture(params=FAULTS)
def neighbour(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder for sys.path with a distribution whose one module fails when it is imported."""
    (tmp_path / "broken_neighbour.py").write_text(f"print('imported'); {FAULTS[request.param]}")
    (tmp_path / "fine_library.py").touch()
    distribution = tmp_path / "broken_neighbour-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-neighbour\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text(
        textwrap.dedent(
            """
            [gru_xp.kernels]
            numpy.neighbour = broken_neighbour:kernel

            [gru_xp.backends]
            fine_library = broken_neighbour:Backend

            [gru_xp.formats]
            neighbour = broken_neighbour:format
            """
        )
    )
    return tmp_path


def run(neighbour: Path, *command: str, **variables: str) -> str:
    """What a Python beside such a distribution prints."""
    environment = {**os.environ, "PYTHONPATH": str(neighbour), "COLUMNS": "300", **variables}
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=neighbour, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


CALLS = """
import fine_library
import numpy as np, gru_xp
from gru_xp import errors

x = np.ones((5, 2, 3), np.float32)
model = gru_xp.GRU(3, 4, seed=0)
y, h_n, tape = model.forward(x)
model.backward(tape, y)
model.save("model.npz")
assert np.array_equal(gru_xp.load("model.npz")(x)[0], y)
print("called")
print(gru_xp.explain(x, model.params))
for call in (lambda: gru_xp.load("model.npz", format="neighbour"), lambda: model(x, backend="fine_library")):
    try:
        call()
    except errors.GRUError as error:
        print(error)
"""


def test_calls_that_do_not_need_it_work_and_the_others_name_it(neighbour: Path) -> None:
    told = run(neighbour, "-c", CALLS)
    assert "called" in told
    for words in (
        '  not neighbour (not loaded): gru_xp.kernels: "numpy.neighbour" = "broken_neighbour:kernel": expected',
        "format: 'neighbour' cannot be loaded: gru_xp.formats: ",
        "backend 'fine_library': ",
    ):
        assert words in told


def test_off_loads_no_kernel(neighbour: Path) -> None:
    code = """
import sys
import numpy as np, gru_xp
x = np.ones((5, 2, 3), np.float32)
model = gru_xp.GRU(3, 4, seed=0)
model.backward(model.forward(x)[2], model(x)[0])
found = gru_xp.explain(x, model.params)
assert not {"gru_xp_cpu", "llvmlite", "gru_xp_numpy.gates", "broken_neighbour"} & set(sys.modules), set(sys.modules)
print(found)
"""
    told = run(neighbour, "-c", code, GRU_XP_KERNELS="off")
    assert "imported" not in told
    for name in ("cpu", "gates", "neighbour"):
        assert f"  not {name} (not loaded): GRU_XP_KERNELS=off" in told
