"""The command line: what it writes, and that whatever a user can put right is one line on stderr."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import WITHOUT_CUPY
from typer.testing import CliRunner, Result

import gru_xp
from gru_xp import kernels
from gru_xp.cli import app, platforms
from gru_xp.formats.named import pytorch_names
from gru_xp.module import as_stored

X = np.random.default_rng(0).standard_normal((7, 2, 3), dtype=np.float32)  # T = 7, N = 2, I = 3


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model (I = 3, H = 4) and inputs, good and bad ones."""
    monkeypatch.chdir(tmp_path)
    gru_xp.GRU(3, 4, seed=0).save("model.safetensors")
    gru_xp.GRU(3, 4, seed=0, dtype="bfloat16", backend="torch").save("bfloat16.safetensors")
    good = {
        "x": X,
        "double": X.astype("f8"),
        "swapped": X.astype(">f4"),
        "fortran": np.asfortranarray(X),
        "row": X[:, 0],
        "short": X[:0],
        "lengths": np.array([7, 3]),
        "h0": np.ones((1, 2, 4), "f4"),
    }
    bad = {
        "two_inputs": X[:, :, :2],
        "vector": X[0, 0],
        "complex": X.astype("c8"),
        "text": np.array(["a"]),
        "records": np.zeros(3, [("a", "f4")]),
        "fractions": np.array([7.0, 3.0]),
        "too_long": np.array([7, 9]),
        "too_many": np.array([7, 3, 1]),
        "h0_two_layers": np.ones((2, 2, 4), "f4"),
    }
    for name, array in (good | bad).items():
        np.save(f"{name}.npy", array)
    np.save("objects.npy", np.array([Hostile()], dtype=object), allow_pickle=True)
    np.savez("archive.npz", x=X)
    whole = Path("x.npy").read_bytes()
    Path("cut.npy").write_bytes(whole[:150])
    Path("huge.npy").write_bytes(whole.replace(b"(7, 2, 3), ", b"(7, 2, 3" + b"0" * 40 + b"), "))
    Path("empty.npy").write_bytes(b"")
    Path("words.npy").write_text("hello\n" * 99)
    return tmp_path


class Hostile:
    """Tells if it is ever unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled",)


def invoke(*arguments: str, variables: dict[str, str] | None = None) -> Result:
    # without the width of a terminal, which some runners of tests set
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": None, **(variables or {})})


def ran(*arguments: str) -> Result:
    result = invoke("run", *arguments, "-o", "y.npy")
    assert result.exit_code == 0, result.stderr
    return result


# ---- run -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("name", ["x", "swapped", "fortran", "row", "short"])
@pytest.mark.parametrize("backend", ["numpy", "torch", "jax", "array_api_strict"])
def test_run_writes_what_the_model_gives(name: str, backend: str) -> None:
    ran("model.safetensors", f"{name}.npy", "--backend", backend, "--state-out", "h_n.npy")
    y, h_n = gru_xp.load("model.safetensors")(np.load(f"{name}.npy"))
    for file, expected in (("y.npy", y), ("h_n.npy", h_n)):
        written = np.load(file)
        assert written.dtype == np.float32 and written.shape == expected.shape
        np.testing.assert_allclose(written, expected, atol=1e-6)


@pytest.mark.usefixtures("files")
def test_run_takes_lengths_and_a_first_state() -> None:
    ran("model.safetensors", "x.npy", "--lengths", "lengths.npy", "--h0", "h0.npy")
    expected, _ = gru_xp.load("model.safetensors")(X, np.ones((1, 2, 4), "f4"), lengths=[7, 3])
    np.testing.assert_array_equal(np.load("y.npy"), expected)
    assert not np.load("y.npy")[3:, 1].any()


@pytest.mark.usefixtures("files")
def test_run_casts_x_with_cast() -> None:
    ran("model.safetensors", "double.npy", "--cast")
    np.testing.assert_array_equal(np.load("y.npy"), gru_xp.load("model.safetensors")(X)[0])


@pytest.mark.usefixtures("files")
def test_run_writes_bfloat16_as_float32() -> None:
    ran("bfloat16.safetensors", "x.npy", "--backend", "torch", "--cast")
    written = np.load("y.npy")
    assert written.dtype == np.float32
    np.testing.assert_allclose(written, gru_xp.load("model.safetensors")(X)[0], atol=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-o model.safetensors", "model.safetensors: expected another file than MODEL"),
        ("-o x.npy", "x.npy: expected another file than INPUT"),
        ("-o ./link.npy", "link.npy: expected another file than INPUT"),
        ("-o y.npy --state-out lengths.npy", "lengths.npy: expected another file than --lengths"),
        ("-o h0.npy", "h0.npy: expected another file than --h0"),
    ],
)
def test_run_replaces_nothing_that_it_reads(options: str, words: str, files: Path) -> None:
    (files / "link.npy").symlink_to("x.npy")
    before = {path: path.read_bytes() for path in files.iterdir()}
    given = ("model.safetensors", "x.npy", "--h0", "h0.npy", "--lengths", "lengths.npy")
    assert_error(invoke("run", *given, *options.split()), words)
    assert {path: path.read_bytes() for path in files.iterdir()} == before


@pytest.mark.usefixtures("files")
@pytest.mark.skipif(sys.platform == "win32", reason="/dev")
def test_run_writes_to_stdout() -> None:
    command = [sys.executable, "-m", "gru_xp", "run", "model.safetensors", "x.npy", "-o", "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, check=True)
    np.testing.assert_array_equal(np.load(io.BytesIO(done.stdout)), gru_xp.load("model.safetensors")(X)[0])


@pytest.mark.usefixtures("files")
def test_run_prints_on_stderr_where_the_model_differs() -> None:
    model = gru_xp.GRU(3, 4, seed=0)
    stored = replace(as_stored(model), h0=np.ones((1, 4), "f4"))
    gru_xp.files.formats()["onnx"].write(stored, Path("first.onnx"))
    result = ran("first.onnx", "x.npy")
    assert not result.stdout and result.stderr.splitlines() == [
        "read first.onnx (onnx): GRU 'gru', I=3, H=4, L=1, D=1, float32, x (T, N, I)",
        "changed: the first state: the file fixes one, here it is zero: pass `files.contents`' h0 as h0 (--h0)",
        "wrote y.npy: y (7, 2, 4)",
    ]
    np.testing.assert_array_equal(np.load("y.npy"), model(X)[0])


@pytest.mark.usefixtures("files")
def test_run_takes_one_of_several() -> None:
    model = gru_xp.GRU(3, 4, seed=1)
    arrays = {f"a.{name}": array for name, array in pytorch_names(gru_xp.GRU(3, 4, seed=0).params).items()}
    np.savez("two.npz", **arrays, **{f"b.{name}": array for name, array in pytorch_names(model.params).items()})
    assert_error(invoke("run", "two.npz", "x.npy", "-o", "y.npy"), "expected name= (--name) to say which")
    ran("two.npz", "x.npy", "--name", "b")
    np.testing.assert_array_equal(np.load("y.npy"), model(X)[0])


WRONG = {
    "no model": ("nothing.safetensors x.npy", "nothing.safetensors: No such file"),
    "no safetensors": ("x.npy x.npy", "x.npy: expected a file of a known format"),
    "a folder as model": (". x.npy", "expected a file, or a folder of a known format"),
    "no input": ("model.safetensors nothing.npy", "nothing.npy: No such file"),
    "a folder as input": ("model.safetensors .", "Is a directory"),
    "empty": ("model.safetensors empty.npy", "empty.npy: expected one array"),
    "cut off": ("model.safetensors cut.npy", "cut.npy: expected one array"),
    "more than there can be": ("model.safetensors huge.npy", "huge.npy: expected one array"),
    "words": ("model.safetensors words.npy", "words.npy: expected one array"),
    "an archive": ("model.safetensors archive.npz", "archive.npz: expected one array"),
    "Python objects": ("model.safetensors objects.npy", "objects.npy: expected one array"),
    "Python objects as h0": ("model.safetensors x.npy --h0 objects.npy", "nothing is ever unpickled"),
    "another dtype": (
        "model.safetensors double.npy",
        "double.npy: expected float32, as the model has, got float64; --cast",
    ),
    "complex numbers": ("model.safetensors complex.npy --cast", "complex.npy: expected float32"),
    "text": ("model.safetensors text.npy --cast", "text.npy: expected float32"),
    "records": ("model.safetensors records.npy --cast", "records.npy: expected float32"),
    "another I": (
        "model.safetensors two_inputs.npy",
        "two_inputs.npy: x: expected (T, N, I) = (7, 2, 3), got (7, 2, 2)",
    ),
    "no time": ("model.safetensors vector.npy", "vector.npy: x: expected (T, N, I)"),
    "fractional lengths": (
        "model.safetensors x.npy --lengths fractions.npy",
        "fractions.npy: lengths: expected integers",
    ),
    "a length past the end": (
        "model.safetensors x.npy --lengths too_long.npy",
        "too_long.npy: lengths: expected values",
    ),
    "too many lengths": (
        "model.safetensors x.npy --lengths too_many.npy",
        "too_many.npy: lengths: expected (N,) = (2,)",
    ),
    "another L": ("model.safetensors x.npy --h0 h0_two_layers.npy", "h0_two_layers.npy: h0: expected (L*D, N, H)"),
    "an unknown backend": ("model.safetensors x.npy --backend nothing", "unknown backend 'nothing'"),
    "an unknown device": ("model.safetensors x.npy --backend torch:nowhere", "torch has no device 'nowhere'"),
    "bfloat16 in NumPy": ("bfloat16.safetensors x.npy", "holds bfloat16, which numpy does not have"),
    "one file for two": ("model.safetensors x.npy --state-out y.npy", "expected another file than --output"),
    "no folder": ("model.safetensors x.npy --state-out nowhere/h_n.npy", "nowhere is none; create it first"),
    "a folder to write": ("model.safetensors x.npy --state-out .", "expected a file to write, got a folder"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_run_says_in_one_line_what_is_wrong(wrong: str, files: Path) -> None:
    arguments, words = WRONG[wrong]
    before = sorted(files.iterdir())
    result = invoke("run", *arguments.split(), "-o", "y.npy")
    assert_error(result, words)
    assert sorted(files.iterdir()) == before  # nothing was written, whole or in part


def assert_error(result: Result, words: str) -> None:
    assert result.exit_code == 1, result.exception
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert words in result.stderr
    assert not result.stdout


@pytest.mark.usefixtures("files")
def test_run_reads_the_variables() -> None:
    arguments = ("run", "model.safetensors", "x.npy", "-o", "y.npy")
    assert_error(
        invoke(*arguments, variables={"GRU_XP_BACKEND": "nothing"}), "GRU_XP_BACKEND='nothing': unknown backend"
    )
    assert_error(invoke(*arguments, variables={"GRU_XP_KERNELS": "sometimes"}), "GRU_XP_KERNELS: expected one of auto")
    assert invoke(*arguments, variables={"GRU_XP_BACKEND": "torch"}).exit_code == 0


# ---- info ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--devices",)])
def test_info_lists_what_is_installed(options: tuple[str, ...]) -> None:
    result = invoke("info", *options, variables={"GRU_XP_KERNELS": "off"})
    assert result.exit_code == 0
    for words in (f"gru_xp {gru_xp.__version__}", np.__version__, "gates", "GRU_XP_KERNELS=off"):
        assert words in result.stdout
    for name in ("numpy", "torch", "jax", "array_api_strict", "cupy"):
        assert f" {name} " in result.stdout
    assert ("numpy-gates (gates)" in result.stdout) == bool(options)


def test_info_imports_no_library_and_no_kernel_unless_asked() -> None:
    code = """
import runpy, sys
sys.argv = ["gru-xp", "info"]
try:
    runpy.run_module("gru_xp", run_name="__main__")
finally:
    assert not {"torch", "jax", "array_api_strict", "gru_xp_cpu", "gru_xp_torch", "llvmlite"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "torch" in done.stdout, done.stderr


def test_info_names_the_platform_and_what_becomes_of_compiled_kernels(tmp_path: Path) -> None:
    row = platforms.row_of(platforms.Machine.here())
    said = invoke("info", variables={"GRU_XP_CACHE_DIR": str(tmp_path / "new")}).stdout
    assert f"{row.status}: {row.name}; {row.words}\n" in said
    assert f"compiled kernels are kept in {tmp_path / 'new'}\n" in said
    (tmp_path / "file").touch()
    said = invoke("info", variables={"GRU_XP_CACHE_DIR": str(tmp_path / "file" / "new")}).stdout
    assert "compiled kernels cannot be kept: " in said and "every process compiles them anew" in said


HERE = platforms.Machine("CPython", (3, 11), False, 64, "Linux", "x86_64", True)


@pytest.mark.parametrize(
    ("machine", "status", "words"),
    [
        (HERE, "tried", "CPython 3.11"),
        (HERE._replace(version=(3, 10)), "not supported", "3.10"),
        (HERE._replace(version=(3, 13), free_threaded=True), "tried", "free-threaded"),
        (HERE._replace(version=(3, 12)), "expected", "3.12"),
        (HERE._replace(version=(3, 14), free_threaded=True), "expected", "3.12"),
        (HERE._replace(python="PyPy"), "expected", "PyPy"),
        (HERE._replace(bits=32), "expected", "32-bit"),
        (HERE._replace(processor="aarch64"), "expected", "ARM64"),
        (HERE._replace(system="Darwin", processor="arm64", glibc=False), "expected", "macOS"),
        (HERE._replace(glibc=False), "expected", "musl"),
        (HERE._replace(system="FreeBSD", glibc=False), "expected", "any other"),
    ],
)
def test_a_machine_finds_its_row_in_the_table_of_platforms(machine: platforms.Machine, status: str, words: str) -> None:
    row = platforms.row_of(machine)
    assert row.status == status and words in row.name


def test_the_page_has_the_table_of_platforms() -> None:
    page = (Path(__file__).parents[2] / "docs/platforms.md").read_text(encoding="utf-8")
    assert platforms.table() in page


def test_info_says_which_kernel_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        name, level = "sleepy", "layer"

        def refuses(self, call: Any) -> str:
            return f"no [{call.dtype}] today"

    monkeypatch.setattr("gru_xp.cli.info.kernels_of", lambda library: (Kernel(),))
    said = " ".join(invoke("info", "--devices").stdout.split())
    assert "sleepy (layer) not here: no [float32] today" in said


def test_info_says_which_kernel_answers_neither_none_nor_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        name, level = "sleepy", "layer"

        def refuses(self, call: Any) -> Any:
            return False

    monkeypatch.setattr("gru_xp.cli.info.kernels_of", lambda library: (Kernel(),))
    said = " ".join(invoke("info", "--devices").stdout.split())
    assert "broken" in said and "KernelError: sleepy.refuses:" in said


def test_info_says_what_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = kernels.Refusal("lost", "not loaded", "ImportError: [gone]")
    monkeypatch.setattr("gru_xp.cli.info.unusable", lambda library: (lost,))
    assert "lost (not loaded) ImportError: [gone]" in " ".join(invoke("info", "--devices").stdout.split())


def test_info_says_which_format_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gru_xp.cli.info.unusable_formats", lambda: {"lost": "ImportError: [gone]"})
    assert "\nImportError: [gone]\n" in invoke("info", "--devices").stdout


def test_info_shows_all_variables() -> None:
    said = invoke("info", variables={"GRU_XP_NUM_THREADS": "3", "GRU_XP_CACHE_DIR": "off"}).stdout
    assert "GRU_XP_NUM_THREADS=3\n" in said and "GRU_XP_CACHE_DIR=off\n" in said


@pytest.mark.usefixtures("files")
def test_a_wrong_number_of_threads_is_never_silent() -> None:
    wrong = {"GRU_XP_NUM_THREADS": "foo"}
    words = "GRU_XP_NUM_THREADS: expected a number from 1 to 64, got 'foo'"
    assert words in invoke("info", variables=wrong).stdout
    for command in (("warmup",), ("run", "model.safetensors", "x.npy", "-o", "y.npy")):
        assert_error(invoke(*command, variables=wrong), words)


def test_info_shows_a_wrong_variable() -> None:
    result = invoke("info", variables={"GRU_XP_BACKEND": "nothing"})
    assert result.exit_code == 0
    assert "unknown backend 'nothing'" in result.stdout


@WITHOUT_CUPY
def test_info_says_how_to_get_what_is_missing() -> None:
    result = invoke("info")
    assert "not installed" in result.stdout and "'gru-xp[cupy]'" in result.stdout


@WITHOUT_CUPY
def test_a_broken_library_is_a_row_and_an_error(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / "cupy.py").write_text("raise ImportError('[libcuda.so] is not there')\n")
    monkeypatch.syspath_prepend(files)
    result = invoke("info", "--devices")
    assert result.exit_code == 0
    assert "broken" in result.stdout and "ImportError" in result.stdout and "[libcuda.so]" in result.stdout
    result = invoke("run", "model.safetensors", "x.npy", "-o", "y.npy", "--backend", "cupy")
    assert_error(result, "backend 'cupy': its library is installed but cannot be imported: [libcuda.so] is not there")


# ---- the rest --------------------------------------------------------------------------------------------------------


def test_version() -> None:
    done = subprocess.run([sys.executable, "-m", "gru_xp", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"gru-xp {gru_xp.__version__}"


def test_conformance_gets_all_arguments() -> None:
    result = invoke("conformance", "--help")
    assert result.exit_code == 0 and "gru-xp conformance" in result.stdout and "reference" in result.stdout
    assert invoke("conformance", "numpy", "--no-such-option").exit_code == 2


def test_conformance_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gru_xp_conformance.app", None)
    assert_error(invoke("conformance"), "the conformance suite needs gru_xp_conformance.app, which is missing")


def test_without_its_libraries_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; from gru_xp.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "gru-xp: the library typer is missing; install it: python -m pip install 'gru-xp[cli]'\n"
