"""`quantization_account`: what storing the weights of a model in 8 or 16 bits costs, measured by running both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from .checks import assert_floating, canonical
from .convert import convert
from .discovery import Place, owner
from .discovery import load as load_backend
from .errors import RangeError, ShapeError, StructureError
from .loading import as_model
from .module import GRU, as_stored
from .params import A, weights_of
from .stored import StoredGRU

__all__ = ["LayerDifference", "QuantizationAccount", "RowLoss", "bytes_of", "losses", "quantization_account"]

#: steps of random numbers where no input is given, and rows that are named
STEPS, ROWS = 10_000, 10
GATES = "rzn"


class LayerDifference(NamedTuple):
    """How far what a layer puts out is from float32: the largest and the mean absolute difference, and (T,) means."""

    largest: float
    mean: float
    over_time: tuple[float, ...]

    @property
    def drift(self) -> float:
        """The mean difference over the last tenth of the steps, over that of the first tenth."""
        tenth = max(1, len(self.over_time) // 10)
        first, last = sum(self.over_time[:tenth]), sum(self.over_time[-tenth:])
        return last / first if first > 0 else 1.0


class RowLoss(NamedTuple):
    """A row of W_ih or W_hh, and the 2-norm of what it lost over its own."""

    layer: int
    direction: int
    matrix: str
    gate: str
    unit: int
    loss: float


@dataclass(frozen=True)
class QuantizationAccount:
    """What `quantization_account` found; `str()` says it in words."""

    stored: str  # "int8 weights", say
    bytes_before: int
    bytes_after: int
    layers: tuple[LayerDifference, ...]
    rows: tuple[RowLoss, ...]  # those that lose most

    @property
    def over_time(self) -> tuple[float, ...]:
        """The mean absolute difference of y at each step, (T,)."""
        return self.layers[-1].over_time

    @property
    def drift(self) -> float:
        """The mean difference of y over the last tenth of the steps, over that of the first tenth."""
        return self.layers[-1].drift

    def __str__(self) -> str:
        lines = [f"{self.stored}: {self.bytes_before / self.bytes_after:.2f} times smaller"]
        lines.append(f"  {self.bytes_before:,} bytes in float32, {self.bytes_after:,} now")
        lines.append(f"over {len(self.over_time):,} steps")
        for index, layer in enumerate(self.layers):
            lines.append(f"  layer {index}: y differs by {layer.largest:.2g} at most, {layer.mean:.2g} in the mean;")
            lines.append(f"    the last tenth of the steps {layer.drift:.2f} times as much as the first")
        lines.append("rows of the weights, and what they lose of their norm")
        lines += [
            f"  {row.loss:6.2%} layer {row.layer}{' reverse' * row.direction}, {row.matrix}, gate {row.gate}, "
            f"unit {row.unit}"
            for row in self.rows
        ]
        return "\n".join(lines)


def quantization_account(model: GRU, narrow: GRU, x: A | None = None) -> QuantizationAccount:
    """Run a model as it is and with narrow weights, on NumPy, and compare what comes out.

    Args:
        model: as it was.
        narrow: what `quantize` made of it.
        x: (T, N, I), or (N, T, I) if the model is batch_first, of any library and floating-point dtype, which is
            rounded to float32; by default 10,000 steps of one row of random numbers.

    Returns:
        Sizes, differences of y by layer (each layer reads what its own kind put out) and over time, and the rows of the
        weights that lose most.

    Raises:
        StructureError, ShapeError: the two are not a model and its quantised self; or x has no steps or no rows.
        RangeError: x holds NaN or infinity.

    >>> import gru_xp
    >>> model = gru_xp.GRU(64, 128, seed=0)
    >>> account = gru_xp.quantization_account(model, gru_xp.quantize(model))
    >>> account.bytes_before // account.bytes_after, account.layers[0].largest < 0.01, account.drift < 2
    (3, True, True)
    """
    if not isinstance(model, GRU) or not isinstance(narrow, GRU):
        raise StructureError("model, narrow: expected two models, the second by gru_xp.quantize(model)")
    wide, small = as_stored(model), as_stored(narrow)
    if small.narrow is None:
        raise StructureError("narrow: expected what gru_xp.quantize(model) returned, got a model that is not quantised")
    if wide.narrow is not None:
        raise StructureError(f"model: expected it as it was before, in float32, got {wide.narrow}")
    if wide.spec != small.spec:
        raise StructureError("narrow: expected the equations of model, got others; quantise the same model")
    if [w.shape for w in weights_of(wide.params)] != [w.shape for w in weights_of(small.params)]:
        raise ShapeError("narrow: expected the sizes of model, got others; quantise the same model")
    xp = load_backend("numpy").xp
    ours: Any = _given(x, model.batch_first, wide)
    theirs: Any = ours
    layers = []
    for index in range(len(wide.params)):
        ours, theirs = _layer(wide, index)(ours)[0], _layer(small, index)(theirs)[0]
        layers.append(_difference(ours, theirs))
    before, after = (bytes_of(stored) for stored in (replace(wide, dtype="float32"), small))
    return QuantizationAccount(str(small.narrow), before, after, tuple(layers), _rows(wide, small, xp))


def losses(whole: StoredGRU, narrow: StoredGRU, x: Any = None) -> list[LayerDifference]:
    """How far each layer of a narrow model puts out something else, where all layers read what they do in float32.

    `x` is as `quantization_account` takes it.
    """
    y, found = _given(x, whole.batch_first is True, whole), []
    for index in range(len(whole.params)):
        other = _layer(narrow, index)(y)[0]
        y = _layer(whole, index)(y)[0]
        found.append(_difference(y, other))
    return found


def _given(x: Any, batch_first: bool, stored: StoredGRU) -> Any:
    """x with time first as NumPy's float32, or random numbers."""
    xp = load_backend("numpy").xp
    if x is None:
        I = stored.params[0][0].W_ih.shape[1]
        return xp.random.default_rng(0).standard_normal((STEPS, 1, I), dtype=xp.float32)
    source = owner(x, "x")
    x = canonical(x, "x", source)
    assert_floating(x.dtype, "x", source, "cast it first")
    x = convert(source.cast(x, "float32"), source, Place(load_backend("numpy"), "cpu"), "x")
    if 0 in x.shape[:-1]:
        raise ShapeError(f"x: expected at least one step and one row, got {x.shape}")
    if not bool(xp.all(xp.isfinite(x))):
        raise RangeError("x: expected finite numbers, got NaN or infinity")
    return xp.swapaxes(x, 0, 1) if batch_first and x.ndim == 3 else x


def _difference(ours: Any, theirs: Any) -> LayerDifference:
    xp = load_backend("numpy").xp
    apart = xp.abs(ours - theirs)
    over_time = xp.mean(apart, axis=tuple(range(1, apart.ndim))) if apart.size else xp.zeros(apart.shape[0])
    mean = float(xp.mean(apart)) if apart.size else 0.0
    return LayerDifference(float(xp.max(apart, initial=0.0)), mean, tuple(map(float, over_time)))


def _layer(stored: StoredGRU, index: int) -> GRU:
    """One layer as a model."""
    one = replace(
        stored,
        params=stored.params[index : index + 1],
        narrow=None if stored.narrow is None else stored.narrow.of_layers(index, index + 1),
        dtype="float32",
        batch_first=False,
        dropout=0.0,
    )
    return as_model(one, Place(load_backend("numpy"), "cpu"))


def bytes_of(stored: StoredGRU) -> int:
    """What the weights, their scales and the biases take."""
    narrow, total = stored.narrow, 0
    for index, layer in enumerate(stored.params):
        wide = narrow is None or index in narrow.kept
        item = 4 if wide or narrow is None else {"int8": 1}.get(narrow.weights, 2)
        total += sum(w.size * (item if w.ndim == 2 else 4) for w in weights_of((layer,)))
    scales = () if narrow is None or narrow.scales is None else weights_of(narrow.scales)
    return int(total + 4 * sum(scale.size for scale in scales))


def _rows(wide: StoredGRU, small: StoredGRU, xp: Any) -> tuple[RowLoss, ...]:
    """The rows that lose most."""
    found = []
    for layer, pairs in enumerate(zip(wide.params, small.params, strict=True)):
        for direction, (before, after) in enumerate(zip(*pairs, strict=True)):
            for matrix in ("W_ih", "W_hh"):
                a, b = (xp.asarray(getattr(w, matrix), dtype=xp.float64) for w in (before, after))
                size = xp.linalg.norm(a, axis=1)
                loss = xp.linalg.norm(a - b, axis=1) / xp.where(size > 0, size, 1.0)
                H = a.shape[0] // 3
                for row in xp.argsort(-loss)[:ROWS]:
                    unit = int(row) % H
                    found.append(RowLoss(layer, direction, matrix, GATES[int(row) // H], unit, float(loss[row])))
    return tuple(sorted(found, key=lambda row: -row.loss)[:ROWS])
