"""Who computes: argument, context, variable; what is refused; what is loaded and when."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import LIBRARIES, WITHOUT_CUPY, random_params
from libraries import torch

import gru_xp
from gru_xp import discovery, errors
from gru_xp.backend import Backend

RNG = np.random.default_rng(0)
PARAMS = random_params(RNG, 3, 4)
X = RNG.normal(size=(5, 2, 3))


def computed_on(**options) -> str:
    return gru_xp.explain(X, PARAMS, **options).backend


def test_argument_before_context_before_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert computed_on() == "numpy"
    monkeypatch.setenv("GRU_XP_BACKEND", "torch")
    assert computed_on() == "torch"
    with gru_xp.use_backend("array_api_strict"):
        assert computed_on() == "array_api_strict"
        assert computed_on(backend="jax") == "jax"
        assert computed_on(backend="auto") == "numpy"
        with gru_xp.use_backend("auto"):
            assert computed_on() == "numpy"
    assert computed_on() == "torch"
    monkeypatch.setenv("GRU_XP_BACKEND", "")
    assert computed_on() == "numpy"


def test_variable_moves_the_computation_of_a_program_that_knows_only_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_XP_BACKEND", "torch:cpu")
    y, _h_n, tape = gru_xp.gru_forward(X, PARAMS)
    grads = gru_xp.gru_backward(tape, np.ones_like(y))
    assert isinstance(y, np.ndarray)
    assert isinstance(grads.params[0][0].W_ih, np.ndarray)
    assert y.flags.writeable
    assert grads.x.flags.writeable
    assert isinstance(tape.layers[0][0].x, torch.Tensor)  # it stays where it was computed


def test_a_namespace_of_the_standard_is_a_backend_in_two_lines_with_its_own_devices() -> None:
    import array_api_strict

    class Two(Backend):
        name = "array_api_strict"
        xp = array_api_strict

    backend = Two()
    assert [*backend.devices()][:2] == ["array_api_strict.Device('CPU_DEVICE')", "array_api_strict.Device('device1')"]
    assert backend.device(None) == array_api_strict.Device("CPU_DEVICE")
    assert backend.device([*backend.devices()][1]) == array_api_strict.Device("device1")
    for got, wanted in zip(gru_xp.gru(X, PARAMS, backend=backend), gru_xp.gru(X, PARAMS), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-13)


def test_a_namespace_that_does_not_tell_its_devices_has_one_named_cpu() -> None:
    backend = Backend("silent", SimpleNamespace())
    assert backend.devices() == {"cpu": "cpu"}
    assert backend.device(None) == backend.device("cpu") == "cpu"


def test_context_belongs_to_its_thread() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with gru_xp.use_backend("torch"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(computed_on).result() == "numpy"


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("tourch", "unknown backend 'tourch', perhaps 'torch' was meant; installed: .*numpy, torch"),
        ("torch:cuda:9", "torch has no device 'cuda:9' here; it has cpu"),
        ("numpy:gpu", "numpy has no device 'gpu' here; it has cpu"),
        ("array_api_strict:nowhere", "array_api_strict has no device 'nowhere' here; it has cpu, device1"),
        pytest.param("cupy", "backend 'cupy': its library is missing; install it", marks=WITHOUT_CUPY),
        ("Torch", "unknown backend 'Torch'"),
        (":cpu", "unknown backend ''"),
    ],
)
def test_unknown_backends_and_devices_are_errors(backend: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.BackendError, match=message):
        gru_xp.gru(X, PARAMS, backend=backend)
    with pytest.raises(errors.BackendError, match=message), gru_xp.use_backend(backend):
        pass
    monkeypatch.setenv("GRU_XP_BACKEND", backend)
    with pytest.raises(errors.BackendError, match="GRU_XP_BACKEND=.*" + message):
        gru_xp.gru(X, PARAMS)


def test_variables_are_read_at_call_time_and_strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_XP_KERNELS", "on")
    with pytest.raises(errors.VariableError, match="GRU_XP_KERNELS: expected one of auto, off, require, got 'on'"):
        gru_xp.gru(X, PARAMS)
    with pytest.raises(errors.StructureError, match='backend: expected "name" or "name:device", got 3'):
        gru_xp.gru(X, PARAMS, backend=3)


def test_backend_may_be_an_object() -> None:
    class Counting(type(discovery.load("array_api_strict"))):
        calls = 0

        def scan(self, *args, **options):
            Counting.calls += 1
            return super().scan(*args, **options)

    y, _, tape = gru_xp.gru_forward(X, PARAMS, backend=Counting())
    gru_xp.gru_backward(tape, np.ones_like(y))
    assert Counting.calls == 3  # one forward, one over blocks, one within
    np.testing.assert_allclose(y, gru_xp.gru(X, PARAMS)[0], rtol=0, atol=1e-14)


class Standard:
    """An array that says that it speaks the standard, of a library that NumPy stands for."""

    ndim, device = 3, "cpu"

    def __init__(self, shape: Any = (5, 2, 3), dtype: Any = np.float32):
        self.shape, self.dtype = shape, np.dtype(dtype)

    def __array_namespace__(self) -> Any:
        return np


class Unplaced(Standard):
    device = property()


def test_a_library_without_a_backend_takes_the_plain_path() -> None:
    """Anything with __array_namespace__ will do: here array-api-strict's arrays under another module's name."""
    import array_api_strict

    stranger = type("Stranger", (Standard,), {"__module__": "stranger.core"})
    array = stranger()
    array.__array_namespace__ = lambda: array_api_strict
    backend = discovery.owner(array, "x")
    assert backend.name == "stranger" and backend.xp.tensordot is array_api_strict.tensordot
    h, (out,) = backend.scan(
        lambda h, at: (h + at[0], (h,)), array_api_strict.zeros(2), (array_api_strict.ones((3, 2)),)
    )
    assert array_api_strict.all(h == 3.0)
    assert out.shape == (3, 2)


def test_arrays_that_speak_the_standard_but_for_something() -> None:
    params = gru_xp.GRU(3, 4, seed=0).params
    with pytest.raises(
        errors.StructureError,
        match=r"x: expected an array of the array API standard, got .*Unplaced without .device; its library needs",
    ):
        gru_xp.gru(Unplaced(), params)
    with pytest.raises(
        errors.ShapeError, match=r"x: expected sizes that are known, got \(None, 2, 3\); compute it first"
    ):
        gru_xp.gru(Standard((None, 2, 3)), params)
    message = r"x: .* could not give it to numpy \(.*Standard.*__array__.*\); compute where the arrays are"
    with pytest.raises(errors.BackendError, match=message):
        gru_xp.GRU(3, 4, seed=0)(Standard(), backend="numpy")


def test_explain_says_why_not_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gru_xp.explain(X, PARAMS).level is not None
    monkeypatch.setenv("GRU_XP_KERNELS", "off")
    off = gru_xp.explain(X, PARAMS)
    assert off.level is None
    assert "GRU_XP_KERNELS=off" in str(off)
    monkeypatch.setenv("GRU_XP_KERNELS", "auto")
    before = gru_xp.explain(X, PARAMS, spec=gru_xp.GRUSpec(reset_after=False))
    assert before.kernel == "plain"
    assert "reset_after=False" in str(before)


def python(code: str, **environment: str) -> str:
    """Run code in a fresh interpreter; what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={"PATH": "", **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_gru_xp_imports_no_library_and_nothing_that_takes_long() -> None:
    """Importing gru_xp costs little more than starting Python because it imports none of these."""
    libraries = {"numpy", "torch", "jax", "cupy", "array_api_strict", "array_api_compat", "llvmlite", "rich", "typer"}
    standard = {"asyncio", "concurrent.futures", "ctypes", "email", "importlib.metadata", "json", "logging"}
    standard |= {"multiprocessing", "socket", "subprocess", "tempfile", "unittest", "zipfile"}
    ours = {"gru_xp.formats", "gru_xp.cli", "gru_xp.files", "gru_xp.module", "gru_xp_numpy", "gru_xp_cpu"}
    imported = python("import sys, gru_xp; print(*sys.modules)").split()
    assert (libraries | standard | ours).isdisjoint(imported)
    assert "gru_xp.functional" in imported


def test_only_the_library_of_the_arrays_is_loaded() -> None:
    code = """
        import sys, numpy as np, gru_xp
        w = gru_xp.CellParams(np.zeros((12, 3)), np.zeros((12, 4)))
        gru_xp.gru(np.zeros((2, 1, 3)), ((w,),))
        gru_xp.available()
        print(sorted({"torch", "jax", "cupy", "array_api_strict"} & set(sys.modules)))
    """
    assert python(code).strip() == "[]"


def test_a_plug_in_is_found_by_its_entry_point(tmp_path: Path) -> None:
    """A stranger's library and backend, as an installed distribution: nothing of ours is touched."""
    (tmp_path / "mylib.py").write_text(
        "from array_api_strict import *\nimport array_api_strict\nclass Array:\n    pass\n"
    )
    (tmp_path / "gru_xp_mylib.py").write_text(
        "import mylib\nfrom gru_xp.backend import Backend\n"
        "class MyBackend(Backend):\n    name = 'mylib'\n    xp = mylib\n"
        "    def owns(self, array):\n        return isinstance(array, mylib.Array)\n"
    )
    info = tmp_path / "gru_xp_mylib-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gru-xp-mylib\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gru_xp.backends]\nmylib = gru_xp_mylib:MyBackend\n")
    code = """
        import sys, gru_xp
        from gru_xp import discovery
        print("mylib" in gru_xp.available(), "mylib" in sys.modules)
        import mylib
        print(discovery.owner(mylib.Array(), "x"))
    """
    assert python(code, PYTHONPATH=str(tmp_path)).splitlines() == ["True False", "<gru_xp backend mylib>"]


def test_every_promised_backend_is_installed() -> None:
    assert set(LIBRARIES) <= set(gru_xp.available())


def test_memo_key_covers_everything_a_caller_can_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found out about a kind of call is remembered; nothing that a caller can change must hide behind it."""
    rng = np.random.default_rng(0)
    w = gru_xp.CellParams(*(rng.normal(size=shape) for shape in ((12, 3), (12, 4), (12,), (12,))))
    x, h0 = rng.normal(size=(5, 2, 3)), np.zeros((1, 2, 4))

    def run() -> np.ndarray:
        y, _, tape = gru_xp.gru_forward(x, ((w,),), h0)
        gru_xp.gru_backward(tape, y)
        assert np.allclose(gru_xp.gru_inference(x, ((w,),), h0)[0], y, atol=1e-12)
        return y

    before = run()
    assert np.array_equal(run(), before)
    for wrong, name in (
        (((w._replace(W_hh=w.W_hh[:9]),),), "W_hh"),
        (((w._replace(b_hh=None),),), "b_hh"),
        (((w._replace(b_ih=w.b_ih.astype("f4")),),), "b_ih"),
        (((w, w),), "h0"),
        ((("no cell",),), "params"),
    ):
        with pytest.raises(gru_xp.GRUError, match=name):
            gru_xp.gru_inference(x, wrong, h0)
    with pytest.raises(errors.ShapeError, match="x: "):
        gru_xp.gru_inference(x[..., :2], ((w,),), h0)
    with pytest.raises(errors.StructureError, match="spec"):
        gru_xp.gru_inference(x, ((w,),), h0, spec="GRU")  # type: ignore[arg-type]
    other = gru_xp.gru_inference(x, ((w,),), h0, spec=gru_xp.GRUSpec(reset_after=False))[0]
    assert not np.allclose(other, before)
    _, _, tape = gru_xp.gru_forward(x, ((w,),), h0)
    for dy in (before[:4], before.astype("f4"), [1.0]):
        with pytest.raises(gru_xp.GRUError, match="dy: "):
            gru_xp.gru_backward(tape, dy)
    for name, error in (
        ("GRU_XP_KERNELS", errors.VariableError),
        ("GRU_XP_BACKEND", errors.BackendError),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, "nonsense")
            with pytest.raises(error, match=name):
                run()
        with monkeypatch.context() as patch:
            patch.setattr("os.environ", {name: "nonsense"})
            with pytest.raises(error, match=name):
                run()
    w.W_ih[...] *= 2.0
    assert not np.allclose(run(), before)
    assert np.array_equal(run(), gru_xp.gru_forward(x, ((gru_xp.CellParams(*(a.copy() for a in w)),),), h0)[0])
