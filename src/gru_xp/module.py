"""`GRU`: a model that owns its parameters, runs, trains, streams and saves."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any, Literal

from . import files
from .activations import SIGMOID, TANH, Activation
from .backend import Backend
from .checks import assert_floating, assert_shape, steps_first, whole_number
from .convert import convert
from .discovery import Place, owner
from .discovery import load as load_backend
from .errors import RangeError, StructureError
from .functional import gru_backward, gru_forward
from .interfaces import Save
from .owned import Owned
from .params import (
    A,
    ArrayLike,
    GRUGrads,
    GRUSpec,
    Lengths,
    Padding,
    Params,
    ParamsLike,
    Sizes,
    Steps,
    Tape,
    map_params,
)
from .plan import infer
from .prepared import PreparedParams
from .selection import place_for, selection
from .stored import Report, StoredGRU, dtype_name

__all__ = ["GRU", "as_stored", "of_leaves"]


class GRU(Owned):
    """A gated recurrent unit with torch.nn.GRU's arguments, on any array library.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: L.
        bias: with both biases or with neither.
        batch_first: x and y are (N, T, ...); `h0`, `h_n` and `dropout_masks` are not affected, as in PyTorch; `mask`
            and `resets` are (N, T).
        dropout: the probability with which `forward` drops what goes from one layer to the next.
        bidirectional: D = 2.
        reset_after: False applies the reset gate before the recurrent product. This and the five that follow are those
            of `GRUSpec`.
        gate_activation: of the gates r and z, an `Activation` or its name.
        candidate_activation: of the candidate n.
        clip: a bound for the arguments of r, z and n, or None.
        reverse: the one direction runs backwards in time; y stays in input order.
        padding: "zero", or "hold" for a y that repeats the state in the padding.
        dtype: "float32", "float64", "float16" or "bfloat16", where the library has it.
        initializer: "pytorch", "keras" or "arraymancer": how these draw their initial weights.
        seed: of the initial weights; one seed gives one model with every backend.
        backend: where the parameters live, as `name[:device]`; by default what is selected, else NumPy.

    >>> import numpy as np, gru_xp
    >>> model = gru_xp.GRU(3, 4, num_layers=2, bidirectional=True, seed=0)
    >>> y, h_n = model(np.zeros((7, 2, 3), np.float32))
    >>> y.shape, h_n.shape
    ((7, 2, 8), (4, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reset_after: bool = True,
        gate_activation: Activation | str = SIGMOID,
        candidate_activation: Activation | str = TANH,
        clip: float | None = None,
        reverse: bool = False,
        padding: Padding = "zero",
        dtype: Any = "float32",
        initializer: Literal["pytorch", "keras", "arraymancer"] = "pytorch",
        seed: int | None = None,
        backend: str | Backend | None = None,
    ):
        input_size = whole_number(input_size, "input_size", least=0)
        hidden_size = whole_number(hidden_size, "hidden_size", least=1)
        num_layers = whole_number(num_layers, "num_layers", least=1)
        if 8 * 3 * hidden_size * max(input_size, 2 * hidden_size) > sys.maxsize:
            raise RangeError(
                f"input_size, hidden_size: expected weights (3H, I) and (3H, H) that memory can hold, "
                f"got I = {input_size}, H = {hidden_size}"
            )
        for name, value in (("bias", bias), ("bidirectional", bidirectional)):
            if type(value) is not bool:
                raise StructureError(f"{name}: expected True or False, got {value!r}")
        seed = None if seed is None else whole_number(seed, "seed", least=0)
        spec = GRUSpec(reset_after, gate_activation, candidate_activation, clip, reverse, padding)
        from . import drawing  # needs NumPy

        sizes = Sizes(input_size, hidden_size, num_layers, 2 if bidirectional else 1, bias)
        params = drawing.params(seed, sizes, initializer, place_for(selection(backend), None), dtype_name(dtype))
        self._setup(params, spec, batch_first=batch_first, dropout=dropout)

    @classmethod
    def from_params(
        cls,
        params: ParamsLike | PreparedParams,
        *,
        spec: GRUSpec = GRUSpec(),  # noqa: B008 - frozen
        batch_first: bool = False,
        dropout: float = 0.0,
    ) -> GRU:
        """A model around a copy of `params`, of their library, device and dtype; quantised if they are."""
        model = cls.__new__(cls)
        model._setup(params, spec, batch_first=batch_first, dropout=dropout)
        return model

    def __reduce__(self) -> Any:
        """For pickle and copy: what it owns, without what it has brought elsewhere."""
        params = self.params if self._own.narrow is None else self._own
        return _rebuilt, (params, self.spec, self.batch_first, self.dropout, self.report)

    # ---- sequences --------------------------------------------------------------------------------------------------

    def __call__(
        self,
        x: A,
        h0: A | None = None,
        *,
        lengths: Lengths | None = None,
        mask: Steps | None = None,
        resets: Steps | None = None,
        backend: str | Backend | None = None,
    ) -> tuple[A, A]:
        """Inference: as `gru`, with x (N, T, I), y (N, T, D*H), mask and resets (N, T) if `batch_first`. No dropout."""
        held, batch_first = self._held, self._batch_first
        if batch_first:
            x, mask, resets = self._sequences(x, mask, resets)
        y, h_n = infer("gru", (x, held.own, h0, lengths, mask, resets, None), held.spec, backend)
        return self._time_first(y) if batch_first else y, h_n

    def forward(
        self,
        x: A,
        h0: A | None = None,
        *,
        lengths: Lengths | None = None,
        mask: Steps | None = None,
        resets: Steps | None = None,
        dropout_masks: A | None = None,
        dropout_seed: int | None = None,
        save: Save = "all",
        backend: str | Backend | None = None,
    ) -> tuple[A, A, Tape]:
        """Training: as `gru_forward`. Where `dropout` acts, give the masks or a seed to draw them from."""
        x, mask, resets = self._sequences(x, mask, resets)
        if dropout_masks is None and self.dropout > 0.0 and self.num_layers > 1:
            if dropout_seed is None:
                raise StructureError(
                    "dropout_seed: expected an integer, because dropout is on, got None; give a new one at each step, "
                    "or dropout_masks"
                )
            from . import drawing  # needs NumPy

            seed = whole_number(dropout_seed, "dropout_seed", least=0)
            dropout_masks = drawing.dropout_masks(seed, self.dropout, self._own.sizes, x)
        y, h_n, tape = gru_forward(
            x,
            self._own,
            h0,
            lengths=lengths,
            mask=mask,
            resets=resets,
            spec=self.spec,
            dropout_masks=dropout_masks,
            backend=backend,
            save=save,
        )
        return self._time_first(y), h_n, tape

    def backward(self, tape: Tape, dy: ArrayLike | None = None, dh_n: ArrayLike | None = None) -> GRUGrads:
        """As `gru_backward`; dy and `.x` are (N, T, ...) if `batch_first`."""
        if self.batch_first and dy is not None and isinstance(tape, Tape) and tape.batched:
            owner(dy, "dy")
            (T, N, H), D = tape.layers[0][0].h_prev.shape, len(tape.layers[0])
            assert_shape(dy, "dy", "(N, T, D*H)", (N, T, D * H), "as forward returned it; the model is batch_first")
        grads = gru_backward(tape, self._time_first(dy), dh_n)
        return grads._replace(x=self._time_first(grads.x))

    def _sequences(self, x: Any, mask: Any, resets: Any) -> tuple[Any, Any, Any]:
        """x, mask and resets with time first; what does not fit is said in the caller's own order of axes."""
        if not self.batch_first or owner(x, "x") is None or x.ndim != 3:
            return x, mask, resets
        N, T, _ = x.shape
        assert_shape(x, "x", "(N, T, I)", (N, T, self.input_size), "I comes from W_ih; the model is batch_first")
        return self._time_first(x), *(
            None if values is None else steps_first(values, name, N, T)
            for name, values in (("mask", mask), ("resets", resets))
        )

    def _time_first(self, a: Any) -> Any:
        """(N, T, K) <-> (T, N, K) if `batch_first` and there is a batch."""
        if not self.batch_first or a is None or owner(a, "x") is None or a.ndim < 3:
            return a
        return owner(a, "x").xp.permute_dims(a, (1, 0, 2))

    # ---- streaming --------------------------------------------------------------------------------------------------

    def initial_state(self, batch_size: int | None = None, *, like: Any = None) -> Any:
        """Zeros (L, N, H), or (L, H) without a batch size; of the library of `like`, by default of the parameters'."""
        own = self._own
        like = own.params[0][0].W_hh if like is None else like
        backend = owner(like, "like")
        assert_floating(like.dtype, "like", backend, "pass x as it will come")
        rows = () if batch_size is None else (whole_number(batch_size, "batch_size", least=0),)
        shape = (own.sizes.L * own.sizes.D, *rows, own.sizes.H)
        with backend.computing(backend.device_of(like), recorded=True):
            return backend.zeros(shape, like)

    def step(
        self,
        x_t: A,
        state: A | None,
        *,
        reset: Any = None,
        out: tuple[A, A] | None = None,
        backend: str | Backend | None = None,
    ) -> tuple[A, A]:
        """One step of a stream: x_t (N, I), state (L, N, H) -> y_t (N, H), next state. Without a batch (I,), (L, H).

        `reset` (N,) booleans set a row's state to zero before the step. Step by step is the same as the whole sequence.
        `out` is a pair of arrays to write y_t and the next state to; the second may be `state` itself. Any thread may
        make any step, several at the same time if they write to different arrays.

        >>> import numpy as np, gru_xp
        >>> model = gru_xp.GRU(3, 4, seed=0)
        >>> x_t, y_t, state = np.ones((1, 3), np.float32), np.empty((1, 4), np.float32), model.initial_state(1)
        >>> for _ in range(100):
        ...     _ = model.step(x_t, state, out=(y_t, state))
        >>> np.array_equal(y_t, state[0])
        True
        """
        return self._held.step(x_t, state, reset, out, backend)

    # ---- files ------------------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str], *, format: str | None = None, **options: Any) -> Report:  # noqa: A002
        """Write the model, as safetensors with a header that describes it, or in the format of the file's ending.

        The file appears whole or not at all. The report says what the format cannot hold. `options` are the format's
        own; ONNX has `inputs`, such as "x,h0", for a graph with these inputs and no defaults, and `opset`.
        """
        return files.write(as_stored(self), path, format=format, **options)


def of_leaves(params: Any, spec: GRUSpec, batch_first: bool, dropout: float) -> GRU:
    """A model whose parameters are looked at when they are needed: JAX rebuilds trees with placeholders as leaves."""
    model = GRU.__new__(GRU)
    model._spec, model._batch_first, model._dropout, model._sizes = spec, batch_first, dropout, None
    model._leaves = params
    return model


def _rebuilt(
    params: Params | PreparedParams, spec: GRUSpec, batch_first: bool, dropout: float, report: Report | None = None
) -> GRU:
    model = GRU.from_params(params, spec=spec, batch_first=batch_first, dropout=dropout)
    model._report = report
    return model


def as_stored(model: GRU) -> StoredGRU:
    """The model as a record in host memory, which formats write."""
    own = model._own
    host = partial(_to_host, backend=own.place.backend)
    narrow = own.narrow
    if narrow is not None and narrow.scales is not None:
        narrow = replace(narrow, scales=map_params(host, narrow.scales))
    params = map_params(host, own.params)
    return StoredGRU(params, model.spec, "", model.dtype, model.batch_first, model.dropout, narrow=narrow)


def _to_host(array: Any, backend: Backend) -> Any:
    """The values as a contiguous NumPy array; bfloat16 as float32."""
    numpy = load_backend("numpy")
    if backend.dtype_name(array.dtype) == "bfloat16":
        array = backend.xp.astype(array, backend.xp.float32)
    host = convert(array, backend, Place(numpy, numpy.device(None)), "params")
    return numpy.xp.asarray(host, order="C")
