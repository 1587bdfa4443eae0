"""Parameters that were checked once, copied, and brought to where they are computed with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from .checks import canonical, check_agree, sizes_of, structured
from .convert import convert
from .discovery import Place, owner
from .errors import StructureError
from .integers import integer_params
from .narrow import Narrow
from .params import Params, Sizes, map_params, names_of, weights_of

__all__ = ["PreparedParams", "own", "owned_at", "place_of"]


@dataclass(frozen=True, eq=False)
class PreparedParams:
    """Parameters that `prepare` has checked, copied and brought to a place; the functions take them as `params`.

    Those of a model are `movable`: they go wherever a call computes, and are kept there. Those that `quantize` made are
    `narrow`.
    """

    params: Params
    sizes: Sizes
    place: Place  # where they are
    movable: bool = False
    narrow: Narrow | None = None
    _packed: dict[Any, Params] = field(default_factory=dict, repr=False)
    _elsewhere: dict[tuple[str, str], PreparedParams] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> Any:
        """Pickle and copy without what is packed, which holds addresses of this process."""
        return PreparedParams, (self.params, self.sizes, self.place, self.movable, self.narrow)

    @cached_property
    def kind(self) -> object:
        """All of them that a call's plan depends on, as an object that is the same for the same kind.

        Anybody can make such an object of anything, so it is checked here, once.
        """
        if sizes_of(structured(self.params)) != self.sizes or place_of(self.params) != self.place:
            raise StructureError("params: expected parameters as prepare() made them, got others with their sizes")
        narrow = None if self.narrow is None else self.narrow.kind
        traced = self.place.device is None and self.place.backend.recorded(weights_of(self.params))
        about = self.sizes, self.place, self.params[0][0].W_hh.dtype, self.movable, narrow, traced
        return _kinds.setdefault(about, object())

    def at(self, place: Place) -> PreparedParams:
        """The same parameters where a call computes."""
        if place == self.place or (self.place.device is None and self.place.backend is place.backend):
            return self  # what is traced or sharded is brought by its library
        traced = place.device is None and place.backend is self.place.backend  # as constants of what is traced
        if not self.movable and not traced:
            what_to_do = "call prepare(params, backend=...) for where you compute"
            if self.narrow is not None:
                what_to_do = "GRU.from_params(params) computes anywhere"
            raise StructureError(
                f"params: expected parameters prepared for {place}, got some prepared for {self.place}; {what_to_do}"
            )
        key = (place.backend.name, place.backend.device_name(place.device))
        found = self._elsewhere.get(key)
        if found is None:
            params, narrow = owned_at(place, self.params, self.place), _narrow_at(place, self.narrow, self.place)
            found = PreparedParams(params, self.sizes, place, narrow=narrow)
            self._elsewhere[key] = found
        return found

    def packed_for(self, kernel: Any) -> Params:
        """The parameters as this kernel wants them for inference, packed once; as they are for None."""
        try:
            return self._packed[kernel]
        except KeyError:
            packed = self._packed[kernel] = self._packed_anew(kernel)
            return packed

    def _packed_anew(self, kernel: Any) -> Params:
        params, narrow, pack = self.params, self.narrow, getattr(kernel, "pack", None)
        if narrow is not None and hasattr(kernel, "pack_narrow"):
            return tuple(
                tuple(map(kernel.pack, layer))
                if index in narrow.kept
                else tuple(kernel.pack_narrow(w, narrow, narrow.scales_of(index, d)) for d, w in enumerate(layer))
                for index, layer in enumerate(params)
            )
        if narrow is not None and narrow.activations == "int8":
            with self.place.backend.constant():
                return integer_params(params, narrow, self.place.backend.xp)
        return params if pack is None else tuple(tuple(map(pack, layer)) for layer in params)


_kinds: dict[Any, object] = {}  # hashed once, where a call would hash it again and again


def own(params: Any) -> PreparedParams:
    """Copy a model's parameters, where they are."""
    if isinstance(params, PreparedParams):  # which are copies
        return PreparedParams(params.params, params.sizes, params.place, movable=True, narrow=params.narrow)
    layers = structured(params)
    sizes = sizes_of(layers)
    place = place_of(layers)
    return PreparedParams(owned_at(place, layers, place), sizes, place, movable=True)


def _narrow_at(place: Place, narrow: Narrow | None, before: Place) -> Narrow | None:
    if narrow is None or narrow.scales is None:
        return narrow
    return replace(narrow, scales=owned_at(place, narrow.scales, before))


def place_of(params: Params) -> Place:
    """Where parameters are that belong to one library, have one dtype and lie on one device."""
    arrays = weights_of(params)
    source = owner(arrays[0], names_of(params)[0])
    check_agree(names_of(params)[0], arrays[0], arrays, lambda index: names_of(params)[index], source)
    return Place(source, source.device_of(arrays[0]))


def owned_at(place: Place, params: Params, caller: Place) -> Params:
    """Copies of the parameters at another place, or at their own."""
    names = iter(names_of(params))

    def copied(array: Any) -> Any:
        array = canonical(array, next(names), caller.backend)
        if place != caller:
            array = convert(array, caller.backend, place, "params")
        return place.backend.owned(array)

    with place.backend.computing(place.device, recorded=False):
        return map_params(copied, params)
