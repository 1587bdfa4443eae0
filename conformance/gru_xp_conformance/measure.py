"""How the constants in `tolerance.py` came about: `python -m gru_xp_conformance.measure torch numpy jax --json F`.

Many problems, drawn anew for each seed, on every row; for each dtype and quantity the worst error in units of the
baseline.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from .cases import VARIANTS
from .environment import describe, variables
from .implementation import RefusedError
from .judge import Judge, MismatchError, Target
from .matrix import targets
from .problems import Config
from .tolerance import C

__all__ = ["CONFIGS", "measure"]

#: what is measured: every option, sizes next to powers of two, a long sequence, gates on their way to saturation
CONFIGS = (
    *(config for _, config, _, _, _ in VARIANTS),
    *(Config(T=3, N=n, I=i, H=h) for n, i, h in ((17, 31, 15), (3, 33, 65), (65, 63, 129))),
    Config(T=300, N=2, I=3, H=5),
    Config(scale=30.0),
)


def measure(target: Target, dtype: str, seeds: int) -> dict[str, dict[str, Any]]:
    """For each kind of quantity the worst error in units of the baseline, and where it was seen."""
    found: dict[str, dict[str, Any]] = {}
    for config in CONFIGS:
        for seed in range(seeds):
            judge, drawn = Judge(target, dtype), config.but(seed=seed)
            try:
                args = judge.arguments(drawn)
                y, h_n, tape = judge.forward(drawn, args)
                judge.assert_forward(drawn, y, h_n, tape)
                judge.assert_forward(drawn, *judge.inference(drawn, args))
                judge.assert_gradients(drawn, judge.gru.gru_backward(tape, args.dy, args.dh_n))
            except MismatchError:  # what is out of its bound is measured too
                pass
            except RefusedError:
                break
            for kind, fraction in judge.errors.items():
                if fraction * C[dtype] > found.get(kind, {"units": 0.0})["units"]:
                    found[kind] = {"units": float(f"{fraction * C[dtype]:.3g}"), "config": f"{drawn}, seed {seed}"}
    return found


def command(
    backends: Annotated[list[str] | None, typer.Argument()] = None,
    seeds: int = 20,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure the worst errors in units of the baseline."""
    console = Console()
    rows, _ = targets(backends or ())
    worst: dict[str, dict[str, Any]] = {}
    with variables(GRU_XP_BACKEND=None, GRU_XP_KERNELS="off"), np.errstate(all="ignore"):
        for target in rows:
            for dtype in target.place.backend.float_names():
                with target.place.backend.computing(target.place.device, recorded=True, precise=True):
                    found = measure(target, dtype, seeds)
                worst.setdefault(str(target), {})[dtype] = found
                largest = max((one["units"] for one in found.values()), default=0.0)
                console.print(f"{target} {dtype}: {largest:.2f} of at most {C[dtype]:g} units", highlight=False)
    if json_file is not None:
        environment = describe(target.name for target in rows)
        report = {"environment": environment, "seeds": seeds, "c": C, "worst": worst}
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(command)
