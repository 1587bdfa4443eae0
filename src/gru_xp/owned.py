"""What a model owns: parameters, and the options that it was made with."""

from __future__ import annotations

from dataclasses import fields
from numbers import Real
from typing import Any

from .checks import assert_directions
from .errors import RangeError, ShapeError, StructureError
from .params import GRUSpec, Params, Sizes, map_params
from .prepared import PreparedParams, own
from .stored import Report
from .streams import Stepping

__all__ = ["Owned"]

#: what a model of other libraries has, and what to use here
ELSEWHERE = {
    "parameters": "gru_xp.weights(model.params) lists the arrays; gru_xp_torch.GRU is a torch.nn.Module",
    "named_parameters": "model.params has layers of directions of CellParams",
    "state_dict": "model.save writes files; gru_xp_torch.to_module(model) is a torch.nn.GRU, which has one",
    "load_state_dict": "gru_xp.from_framework(state_dict) makes a model of one",
    "weights": "gru_xp.weights(model.params) lists the arrays",
    "get_weights": "gru_xp.weights(model.params) lists the arrays",
    "train": "a model has no modes; model.forward and model.backward train, with dropout_seed= for dropout",
    "eval": "a model has no modes; calling it is inference",
    "to": "a call computes where its arrays are; gru_xp.to(params, like=x) brings parameters to a library or device",
    "cuda": "a call computes where its arrays are; gru_xp.to(params, like=x) brings parameters to a library or device",
    "predict": "model(x) returns y and h_n",
    "fit": "gru_xp_sklearn.GRUClassifier has it",
}


class Owned:
    """The parameters and the options of a model, to read, and the parameters to assign."""

    _spec: GRUSpec
    _batch_first: bool
    _dropout: float
    _report: Report | None = None
    _leaves: Any

    def _setup(self, params: Any, spec: GRUSpec, *, batch_first: bool, dropout: float) -> None:
        if isinstance(dropout, bool) or not isinstance(dropout, Real):
            raise StructureError(f"dropout: expected a number, got {dropout!r}")
        if not 0.0 <= dropout <= 1.0:
            raise RangeError(f"dropout: expected a probability from 0 to 1, got {dropout!r}")
        if type(spec) is not GRUSpec:
            raise StructureError(f"spec: expected a GRUSpec, got {spec!r}")
        if type(batch_first) is not bool:
            raise StructureError(f"batch_first: expected True or False, got {batch_first!r}")
        self._spec, self._batch_first, self._dropout = spec, batch_first, float(dropout)
        self._sizes: Sizes | None = None
        self.params = params

    @property
    def params(self) -> Params:
        """A tuple of layers, each a tuple of directions, each `CellParams`; read-only, or copies where that cannot be.

        Assigning copies, from any library, and keeps the sizes.
        """
        own = self._own
        return map_params(own.place.backend.handed_out, own.params)

    @params.setter
    def params(self, params: Any) -> None:
        prepared = own(params)
        assert_directions(self._spec, prepared.sizes)
        if self._sizes not in (None, prepared.sizes):
            raise ShapeError(
                f"params: expected the sizes {self._sizes}, got {prepared.sizes}; for others make a new GRU"
            )
        self._sizes = prepared.sizes
        self._held = Stepping(prepared, self._spec)  # replaced as one, so that no thread ever mixes old with new

    @property
    def _own(self) -> PreparedParams:
        return self._held.own

    def __getattr__(self, name: str) -> Any:
        """Asked for what is missing: the parameters of a model that JAX has rebuilt; or what other libraries have."""
        leaves = vars(self).pop("_leaves", None) if name == "_held" else None
        if leaves is None:
            hint = ELSEWHERE.get(name)
            raise AttributeError(f"gru_xp.GRU has no {name}{f': {hint}' if hint else ''}", name=name, obj=self)
        self.params = leaves
        return self._held

    @property
    def spec(self) -> GRUSpec:
        return self._spec

    @property
    def batch_first(self) -> bool:
        return self._batch_first

    @property
    def dropout(self) -> float:
        return self._dropout

    @property
    def report(self) -> Report | None:
        """What became of the numbers on the way in from a file or a framework; None for a model that was made here."""
        return self._report

    @property
    def input_size(self) -> int:
        return self._own.sizes.I

    @property
    def hidden_size(self) -> int:
        return self._own.sizes.H

    @property
    def num_layers(self) -> int:
        return self._own.sizes.L

    @property
    def bidirectional(self) -> bool:
        return self._own.sizes.D == 2

    @property
    def bias(self) -> bool:
        return self._own.sizes.bias

    @property
    def dtype(self) -> str:
        """The name of the parameters' dtype."""
        return self._own.place.backend.dtype_name(self._own.params[0][0].W_hh.dtype)

    @property
    def backend(self) -> str:
        """Where the parameters live, as `name:device`."""
        return str(self._own.place)

    def __repr__(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        if self.num_layers > 1:
            parts.append(f"num_layers={self.num_layers}")
        parts += [
            f"{name}={value!r}"
            for name, value, default in (
                ("bias", self.bias, True),
                ("batch_first", self.batch_first, False),
                ("dropout", self.dropout, 0.0),
                ("bidirectional", self.bidirectional, False),
            )
            if value != default
        ]
        parts += [
            f"{each.name}={value!r}"
            for each in fields(GRUSpec)
            if each.init and (value := getattr(self.spec, each.name)) != each.default
        ]
        if self._own.narrow is not None:
            parts.append(f"weights={self._own.narrow.weights!r}, activations={self._own.narrow.activations!r}")
        return f"GRU({', '.join(parts)}, dtype={self.dtype!r}, backend={self.backend!r})"
