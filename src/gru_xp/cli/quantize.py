"""`gru-xp quantize`: a model's weights in 8 or 16 bits, with an account of the error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

import gru_xp
from gru_xp.account import QuantizationAccount

from .main import read_npy
from .terminal import errors, make_console, printable

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
) -> None:
    """Store a model's weights in 8 or 16 bits, and say what that costs.

    Both are run on the input of --on, or on 10,000 random steps. It prints sizes, differences by layer and over time,
    and the rows of the weights that lose most.
    """
    console = make_console()
    with errors():
        whole = gru_xp.load(model)
        x = None if on is None else read_npy(on)
        narrow = gru_xp.quantize(
            whole, weights, activations, keep_below=keep_below, x=None if keep_below is None else x
        )
        account = gru_xp.quantization_account(whole, narrow, x)
        narrow.save(out)
        if picture is not None:
            _draw(account, picture)
    console.print(str(account), highlight=False, soft_wrap=True)
    console.print(f"wrote {printable(str(out))}, {out.stat().st_size:,} bytes", highlight=False, soft_wrap=True)


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
    figure.savefig(path, dpi=130)
