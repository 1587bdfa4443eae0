"""`gru-xp info`, `run`, `demo`, `warmup` and `conformance`."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from gru_xp import __version__
from gru_xp.atomic import write_whole
from gru_xp.backend import Backend
from gru_xp.convert import convert
from gru_xp.discovery import Place, available
from gru_xp.discovery import load as load_backend
from gru_xp.errors import BackendError, DTypeError, FileFormatError, GRUError
from gru_xp.files import format_of, read
from gru_xp.kernels import kernels_of
from gru_xp.loading import as_model
from gru_xp.selection import place_for, selection, use_backend
from gru_xp.threads import thread_limit

from .info import info
from .terminal import BatchFirstOption, DtypeOption, NameOption, errors, make_console, say, show_read

__all__ = ["app", "read_npy"]

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

BackendOption = Annotated[str | None, typer.Option("--backend", "-b", help="name or name:device; else GRU_XP_BACKEND")]


def _show_version(asked: bool) -> None:
    if asked:
        print(f"gru-xp {__version__}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_show_version, is_eager=True, help="print it and exit")
    ] = False,
) -> None:
    """One gated recurrent unit (GRU) for every array library."""


# ---- info ------------------------------------------------------------------------------------------------------------


app.command()(info)


# ---- run -------------------------------------------------------------------------------------------------------------


@app.command()
def run(
    model_file: Annotated[Path, typer.Argument(metavar="MODEL", help="a model file of any format")],
    input_file: Annotated[Path, typer.Argument(metavar="INPUT.npy", help="x (T, N, I), or (T, I) without a batch")],
    output_file: Annotated[Path, typer.Option("--output", "-o", metavar="OUTPUT.npy", help="y (T, N, D*H)")],
    backend: BackendOption = None,
    name: NameOption = None,
    lengths_file: Annotated[Path | None, typer.Option("--lengths", metavar="L.npy", help="(N,) integers")] = None,
    h0_file: Annotated[Path | None, typer.Option("--h0", metavar="H0.npy", help="first state (L*D, N, H)")] = None,
    state_out: Annotated[
        Path | None, typer.Option("--state-out", metavar="HN.npy", help="write the last state (L*D, N, H)")
    ] = None,
    batch_first: BatchFirstOption = None,
    dtype: DtypeOption = None,
    cast: Annotated[bool, typer.Option("--cast", metavar="", help="convert INPUT and H0 to the model's dtype")] = False,
) -> None:
    """Run a model over an array. A model with `batch_first` reads (N, T, I) and writes (N, T, D*H); stderr says so.

    The files appear whole or not at all. NumPy has no bfloat16, so such a model's results are written as float32.
    """
    with errors(), _selected(backend):
        _assert_writable(
            {"--output": output_file, "--state-out": state_out},
            {"MODEL": model_file, "INPUT": input_file, "--h0": h0_file, "--lengths": lengths_file},
        )
        stored = read(model_file, name=name, batch_first=batch_first, dtype=dtype)
        place = place_for(selection(), None)
        model = as_model(stored, place)
        x = _bring(input_file, model.dtype, place, cast)
        h0 = None if h0_file is None else _bring(h0_file, model.dtype, place, cast)
        lengths = None if lengths_file is None else read_npy(lengths_file).tolist()
        try:
            y, h_n = model(x, h0, lengths=lengths)
        except GRUError as error:
            files = {"x": input_file, "h0": h0_file, "lengths": lengths_file}
            argument = str(error).partition(":")[0]
            raise type(error)(f"{files[argument]}: {error}" if argument in files else str(error)) from None
        console = make_console(stderr=True)  # for y may go to stdout
        show_read(console, model_file, format_of(model_file).name, stored, "changed", "assumed")
        _write(output_file, y, place)
        say(console, f"wrote {output_file}: y {tuple(y.shape)}")
        if state_out is not None:
            _write(state_out, h_n, place)
            say(console, f"wrote {state_out}: h_n {tuple(h_n.shape)}")


@contextmanager
def _selected(backend: str | None) -> Iterator[None]:
    """Within `--backend`; a library that is there and cannot be imported is an error that says so."""
    thread_limit()  # calls look at it where they need threads, which small ones do not
    try:
        selection(backend)
    except GRUError as error:
        raise BackendError(str(error).replace("backend=", "--backend ", 1)) from None
    except Exception as error:
        raise BackendError(
            f"backend {backend or os.environ.get('GRU_XP_BACKEND')!r}: cannot be loaded: {error}"
        ) from None
    with nullcontext() if backend is None else use_backend(backend):
        yield


def read_npy(path: Path) -> npt.NDArray[Any]:
    """An array from an npy file. Nothing is ever unpickled."""
    with path.open("rb") as file:
        try:
            array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        except Exception as error:  # a damaged header fails in many ways
            raise FileFormatError(
                f"{path}: expected one array as numpy.save writes it (.npy); nothing is ever unpickled: {error}"
            ) from None
    return array


def _bring(path: Path, dtype: str, place: Place, cast: bool) -> Any:
    """A floating-point array from a file, in the model's dtype, where the model is."""
    array = read_npy(path)
    if array.dtype.kind not in ("f", "i", "u", "b"):
        raise DTypeError(f"{path}: expected {dtype}, as the model has, got {array.dtype}")
    if array.dtype.name != dtype and not cast:
        raise DTypeError(f"{path}: expected {dtype}, as the model has, got {array.dtype.name}; --cast converts it")
    backend = place.backend
    through = dtype if dtype != "bfloat16" else "float32"  # NumPy has no bfloat16
    native = array.astype(array.dtype.newbyteorder("=")).astype(through, copy=False)
    return backend.xp.astype(convert(native, load_backend("numpy"), place, str(path)), backend.dtype(dtype))


def _assert_writable(outputs: dict[str, Path | None], inputs: dict[str, Path | None]) -> None:
    """Before anything is computed: each output is a file of its own, in a folder that is there."""
    taken = {os.path.realpath(path): name for name, path in inputs.items() if path is not None}
    for name, path in outputs.items():
        if path is None:
            continue
        other = taken.setdefault(os.path.realpath(path), name)
        if other != name:
            raise FileFormatError(f"{path}: expected another file than {other}")
        if path.is_dir():
            raise FileFormatError(f"{path}: expected a file to write, got a folder")
        if not path.parent.is_dir():
            raise FileFormatError(f"{path}: expected a folder to write into, {path.parent} is none; create it first")


def _write(path: Path, array: Any, place: Place) -> None:
    backend: Backend = place.backend
    if backend.dtype_name(array.dtype) == "bfloat16":
        array = backend.xp.astype(array, backend.xp.float32)
    numpy = load_backend("numpy")
    data = io.BytesIO()
    np.save(data, convert(array, backend, Place(numpy, numpy.device(None)), str(path)), allow_pickle=False)
    write_whole(path, data.getvalue())


# ---- demo and conformance --------------------------------------------------------------------------------------------


@app.command()
def demo(
    backend: BackendOption = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="how often to go through the scans")] = None,
    out: Annotated[Path, typer.Option("--out", help="folder for the model and the picture")] = Path("gru_xp_demo"),
    quick: Annotated[bool, typer.Option("--quick", metavar="", help="a few epochs only, for a few seconds")] = False,
) -> None:
    """Train a GRU on handwritten digits, save it, and run it on every backend that is installed."""
    from . import demo as job  # needs scikit-learn and matplotlib

    with errors(), _selected(backend):
        job.run(make_console(), epochs=epochs, out=out, quick=quick)


@app.command()
def warmup() -> None:
    """Compile the fused kernels that are compiled at their first use, so that the first call does not wait."""
    console = make_console()
    with errors():
        thread_limit()
        kernels = {kernel.name: kernel for name in available() for kernel in kernels_of(name)}
        for name, kernel in kernels.items():
            if hasattr(kernel, "warmup"):
                console.print(f"{name}: {kernel.warmup()}", highlight=False, soft_wrap=True)


def _passed_on(module: str, name: str, context: typer.Context) -> None:
    """A command of the conformance suite, with all arguments."""
    with errors():
        try:
            import_module(f"gru_xp_conformance.{module}").app(context.args, prog_name=f"gru-xp {name}")
        except ModuleNotFoundError as error:
            raise GRUError(
                f"the conformance suite needs {error.name}, which is missing; "
                f"install it: python -m pip install 'gru-xp[test]'"
            ) from None


PASSED_ON: dict[str, Any] = {
    "add_help_option": False,  # all arguments go on, --help too
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
}


@app.command(**PASSED_ON)
def conformance(context: typer.Context) -> None:
    """Judge backends, devices and kernels against the reference; see `gru-xp conformance --help`."""
    _passed_on("app", "conformance", context)


@app.command(**PASSED_ON)
def bench(context: typer.Context) -> None:
    """Time backends and kernels at sizes of your own; see `gru-xp bench --help`."""
    _passed_on("bench", "bench", context)
