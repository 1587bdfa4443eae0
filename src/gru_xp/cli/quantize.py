"""`gru-xp quantize`: a model's weights in 8 or 16 bits, with an account of the error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

import gru_xp
from gru_xp.account import QuantizationAccount
from gru_xp.discovery import Place
from gru_xp.discovery import load as load_backend
from gru_xp.files import format_of, read, write
from gru_xp.loading import as_model
from gru_xp.module import as_stored
from gru_xp.stored import with_dtype

from .main import read_npy
from .terminal import BatchFirstOption, NameOption, errors, make_console, say, show_read, show_report

__all__ = ["quantize"]


def quantize(
    model: Annotated[Path, typer.Argument(metavar="IN", help="a model file of any format")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="a .safetensors, .onnx or .py file")],
    weights: Annotated[Literal["int8", "bfloat16", "float16"], typer.Option(help="how weights are stored")] = "int8",
    activations: Annotated[
        Literal["float32", "int8"], typer.Option(help="int8: x and the state are rounded before each product, too")
    ] = "float32",
    keep_below: Annotated[
        float | None, typer.Option(metavar="D", help="leave layers in float32 whose y differs by more, such as 1e-2")
    ] = None,
    on: Annotated[Path | None, typer.Option(metavar="X.NPY", help="input to compare on, instead of random")] = None,
    picture: Annotated[Path | None, typer.Option(metavar="PNG", help="draw the difference over time")] = None,
    name: NameOption = None,
    batch_first: BatchFirstOption = None,
) -> None:
    """Store a model's weights in 8 or 16 bits, and say what that costs.

    Both are run on the input of --on, or on 10,000 random steps. It prints sizes, differences by layer and over time,
    and the rows of the weights that lose most.
    """
    console = make_console()
    with errors():
        origin = format_of(model).name  # before it may be replaced
        stored = read(model, name=name, batch_first=batch_first)
        if stored.narrow is None:
            stored = with_dtype(stored, "float32")
        whole = as_model(stored, Place(load_backend("numpy"), "cpu"))
        x = None if on is None else read_npy(on)
        narrow = gru_xp.quantize(
            whole, weights, activations, keep_below=keep_below, x=None if keep_below is None else x
        )
        account = gru_xp.quantization_account(whole, narrow, x)
        if picture is not None:
            _draw(account, picture)
        report = write(replace(as_stored(narrow), h0=stored.h0), out)
    show_read(console, model, origin, stored)
    console.print(str(account), highlight=False, soft_wrap=True)
    written = format_of(out, writing=True).name
    size = f"{out.stat().st_size:,} bytes" if written != "numpy" else "with its weights beside it"
    say(console, f"wrote {out} ({written}), {size}")
    show_report(console, report)


def _draw(account: QuantizationAccount, path: Path) -> None:
    """The mean difference of each layer's y over the steps, in means over a 200th of them."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise gru_xp.GRUError("the picture needs matplotlib: python -m pip install 'gru-xp[demo]'") from None
    figure = Figure(figsize=(7, 3.2), layout="tight")
    axis = figure.subplots()
    for index, layer in enumerate(account.layers):
        width = max(1, len(layer.over_time) // 200)
        starts = range(0, len(layer.over_time) - width + 1, width)
        means = [sum(layer.over_time[start : start + width]) / width for start in starts]
        axis.plot(starts, means, linewidth=1.2, label=f"layer {index}")
    axis.legend(frameon=False, ncols=4)
    axis.set_xlabel("step")
    axis.set_ylabel("mean |difference| of y")
    axis.set_title(f"{account.stored}, beside float32")
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=130)
    except ValueError as error:  # of an ending that it does not know
        raise gru_xp.GRUError(f"{path}: {error}") from None
