"""The two that are compared: a GRU, what it is run on, and who runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gru_xp.checks import sizes_of
from gru_xp.errors import BackendError
from gru_xp.files import Format, format_of, read
from gru_xp.functional import gru_inference
from gru_xp.params import map_params, weights_of
from gru_xp.stored import StoredGRU
from gru_xp.verify.narrow import has_integer_products, run_with_integers

__all__ = ["Inputs", "Run", "Side", "is_finite", "own_result", "random_inputs", "side_of"]


class Inputs(NamedTuple):
    """What both are run on: x (T, N, I), h0 (L*D, N, H) or None, lengths (N,) or None."""

    name: str
    x: Any
    h0: Any = None
    lengths: Any = None


class Run(NamedTuple):
    """y (T, N, D*H) and h_n (L*D, N, H), who computed them, and why not its own runtime."""

    y: Any
    h_n: Any
    by: str
    why: str = ""


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two: a GRU, where it comes from, and who can run it."""

    label: str  # "A"
    stored: StoredGRU
    path: Path | None = None
    format: Format | None = None

    @property
    def dtype(self) -> str:
        """What it computes in where NumPy runs it."""
        return "float32" if self.stored.dtype == "bfloat16" else self.stored.dtype

    def run(self, inputs: Inputs) -> Run:
        """By its own runtime, or by gru_xp with the reason."""
        x, h0 = (None if a is None else a.astype(self.dtype) for a in (inputs.x, inputs.h0))
        why = ""
        if self.path is not None and self.format is not None and self.format.runtime:
            try:
                ran = self.format.run(self.path, self.stored, x, h0, inputs.lengths)
            except BackendError as error:
                ran, why = None, str(error)
            if ran is not None:
                y, h_n = (np.asarray(a, "f8") for a in ran)
                return Run(y, h_n, self.format.runtime)
            why = why or f"{self.format.runtime} is not installed"
        return Run(*own_result(self.stored, inputs, self.dtype), "gru_xp", why)


def side_of(
    label: str,
    path: str | Path,
    name: str | None = None,
    format: str | None = None,  # noqa: A002
    *,
    batch_first: bool | None = None,
) -> Side:
    """One GRU of a file; `label` is what the verdict calls it."""
    path = Path(path)
    gru = read(path, name=name, format=format, batch_first=batch_first)
    return Side(label, gru, path, format_of(path, format))


def random_inputs(stored: StoredGRU, steps: int = 16, rows: int = 3, seed: int = 0) -> list[Inputs]:
    """A sequence, the same with a first state, and with lengths, none of them zero; numbers that every type holds."""
    sizes, rng = sizes_of(stored.params), np.random.default_rng(seed)
    x, h0 = rng.normal(size=(steps, rows, sizes.I)), rng.uniform(-1, 1, size=(sizes.L * sizes.D, rows, sizes.H))
    x, h0 = (np.round(32 * a) / 32 for a in (x, h0))
    lengths = np.array([max(1, steps - (row * steps) // rows) for row in range(rows)])
    return [Inputs("random x", x), Inputs("and h0", x, h0), Inputs("and lengths", x, h0, lengths)]


def is_finite(stored: StoredGRU) -> bool:
    """Whether no weight is NaN or infinite."""
    return all(np.isfinite(array).all() for array in weights_of(stored.params))


def own_result(stored: StoredGRU, inputs: Inputs, dtype: str) -> tuple[Any, Any]:
    """y and h_n by gru_xp in this type, as float64; in float32 where products are of integers."""
    if has_integer_products(stored):
        x, h0 = (None if array is None else array.astype("f4") for array in (inputs.x, inputs.h0))
        y, h_n = run_with_integers(stored, x, h0, inputs.lengths)
        return y.astype("f8"), h_n.astype("f8")
    params = map_params(lambda array: array.astype(dtype), stored.params)
    x, h0 = (None if array is None else array.astype(dtype) for array in (inputs.x, inputs.h0))
    with np.errstate(all="ignore"):
        y, h_n = gru_inference(x, params, h0, lengths=inputs.lengths, spec=stored.spec, backend="numpy")
    return y.astype("f8"), h_n.astype("f8")
