"""The graphs of calls on Dask arrays.

A call is one task for each chunk of the batch, and in it for each chunk of time: these are chained by the state, in the
order in which the layers run. Two directions need the whole of time in each layer, so they take one chunk of time.

    call[t, b] = public function(x[t, b], params, state of call[t - 1, b], steps[t, b], ...)    -> (y, h_n[, tape])
    backward[t, b] = gru_backward(tape of call[t, b], dy[t, b], dh0 of backward[t + 1, b])       -> gradients

The parameters are one node of the graph. Their gradients are summed over all blocks, in a tree.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

import gru_xp
from gru_xp.arguments import SEQUENCE, Arguments, check
from gru_xp.checks import structured
from gru_xp.discovery import Place, owner
from gru_xp.errors import RangeError, ShapeError, StructureError
from gru_xp.params import GRUGrads, GRUSpec, Sizes, Tape, map_params, names_of, weights_of
from gru_xp.prepared import PreparedParams

if TYPE_CHECKING:
    from gru_xp.backend import Backend

__all__ = ["backward", "forward"]

#: gradients that one task adds up
TOGETHER = 8


class Grid(NamedTuple):
    """The blocks of a call; a layer of the lazy tape, whose tasks have the tapes of the blocks."""

    name: str  # of the tasks: (name, t, b)
    graph: Any
    times: tuple[int, ...]  # the sizes of the chunks of time, and of the batch
    batches: tuple[int, ...]
    reverse: bool
    sizes: Sizes
    meta: Any  # an empty array of the chunks' library and dtype
    x: Any  # (T, N, I), a shape without memory
    h_prev: Any  # (T, N, H), a shape without memory

    @property
    def order(self) -> list[int]:
        """The chunks of time in the order of computation."""
        order = range(len(self.times))
        return [*reversed(order)] if self.reverse else [*order]


def forward(
    backend: Backend, function: str, a: Arguments, spec: GRUSpec, where: str | None, save: Any
) -> tuple[Any, ...]:
    """y (T, N, D*H) and h_n (L*D, N, H), for "forward" the tape too; lazy."""
    if isinstance(a.params, PreparedParams) and a.params.place.backend is backend:
        a = a._replace(params=a.params.params)  # prepared of Dask arrays
    x: Any = a.x
    batched = x.ndim == 3
    sizes = _checked(a, function, spec, where, save)
    if not batched:
        a = _with_batch(a)
        x = a.x
    if len(x.chunks[2]) > 1:
        raise ShapeError(f"x: expected one chunk along I, got {len(x.chunks[2])}; x.rechunk({{2: -1}})")
    if len(x.chunks[0]) > 1 and (sizes.D == 2 or (spec.reverse and a.resets is not None)):
        # a reset cuts a reversed sequence behind the chunk that it is in
        why = "for two directions" if sizes.D == 2 else "for resets of a reversed sequence"
        raise ShapeError(f"x: expected one chunk along T {why}, got {len(x.chunks[0])}; x.rechunk({{0: -1}})")
    times, batches = x.chunks[0], x.chunks[1]
    given = {
        "x": x,
        "h0": _chunked(a.h0, x, {1: batches}),
        "lengths": _lengths(a.lengths, x, batches),
        "mask": _chunked(a.mask, x, {0: times, 1: batches}),
        "resets": _chunked(a.resets, x, {0: times, 1: batches}),
        "dropout_masks": _chunked(a.dropout_masks, x, {1: times, 2: batches}),
    }
    params, lazy = _params_node(a.params)
    token = tokenize(function, *given.values(), params, spec.text, where, save)
    name, weights = f"gru-{function}-{token}", f"gru-params-{token}"
    tasks: dict[Any, Any] = {weights: params}
    options = {"spec": spec, "backend": where, **({"save": save} if function == "forward" else {})}
    x_shape, h_shape = (np.broadcast_to(np.empty(()), (*x.shape[:2], size)) for size in (sizes.I, sizes.H))
    grid = Grid(name, None, times, batches, spec.reverse, sizes, x._meta, x_shape, h_shape)
    starts = [0, *np.cumsum(times)]
    for b in range(len(batches)):
        before: Any = None if given["h0"] is None else (given["h0"].name, 0, b, 0)
        for t in grid.order:
            keys = {
                "mask": _key(given["mask"], t, b),
                "resets": _key(given["resets"], t, b),
                "dropout_masks": _key(given["dropout_masks"], 0, t, b, 0),
                "lengths": _key(given["lengths"], b),
            }
            start = int(starts[t])
            tasks[name, t, b] = (
                _block, function, (x.name, t, b, 0), weights, before, *keys.values(), start, sum(times),
                len(batches) > 1, options,
            )  # fmt: skip
            before = (operator.itemgetter(1), (name, t, b))
    collections = [array for array in given.values() if array is not None] + lazy
    grid = grid._replace(graph=HighLevelGraph.from_collections(name, tasks, collections))
    last = grid.order[-1]
    y = _array(grid, "y", 0, (times, batches, (sizes.D * sizes.H,)), lambda t, b, _: (t, b))
    h_n = _array(grid, "h_n", 1, ((sizes.L * sizes.D,), batches, (sizes.H,)), lambda _, b, __: (last, b))
    if not batched:
        y, h_n = y[:, 0, :], h_n[:, 0, :]
    if function != "forward":
        return y, h_n
    place = Place(backend, "cpu")
    given_params = a.params.params if isinstance(a.params, PreparedParams) else structured(a.params)
    layers: Any = ((grid,) * sizes.D,)
    tape = Tape(layers, given_params, None, None, None, spec, batched, place, place)
    return y, h_n, tape


def backward(tape: Tape, dy: Any, dh_n: Any) -> GRUGrads:
    """The gradients; lazy, those of the parameters too."""
    grid = tape.layers[0][0]
    if not isinstance(grid, Grid):
        raise StructureError("tape: expected what gru_forward returned for Dask arrays, got another")
    if dy is None and dh_n is None:
        raise StructureError("dy: expected dy or dh_n or both, got neither")
    sizes, (times, batches) = grid.sizes, (grid.times, grid.batches)
    if not tape.batched:
        dy, dh_n = (None if a is None else a[:, None, :] for a in (dy, dh_n))
    T, N, D, H = sum(times), sum(batches), sizes.D, sizes.H
    for name, array, letters, shape in (
        ("dy", dy, "(T, N, D*H)", (T, N, D * H)),
        ("dh_n", dh_n, "(L*D, N, H)", (sizes.L * D, N, H)),
    ):
        if array is not None and tuple(array.shape) != shape:
            raise ShapeError(f"{name}: expected {letters} = {shape}, got {tuple(array.shape)}, as gru_forward gave")
    dy = _chunked(dy, grid.meta, {0: times, 1: batches})
    dh_n = _chunked(dh_n, grid.meta, {1: batches})
    name = f"gru-backward-{tokenize(grid.name, dy, dh_n)}"
    graph: dict[Any, Any] = {}
    for b in range(len(batches)):
        after: Any = None if dh_n is None else (dh_n.name, 0, b, 0)
        for t in reversed(grid.order):
            tape_key = (operator.itemgetter(2), (grid.name, t, b))
            graph[name, t, b] = (_block_backward, tape_key, _key(dy, t, b, 0), after, len(batches) > 1)
            after = (operator.itemgetter(1), (name, t, b))
    total = _summed(graph, name, [(name, t, b) for t in range(len(times)) for b in range(len(batches))])
    parents = [array for array in (dy, dh_n) if array is not None]
    whole = HighLevelGraph.from_collections(name, graph, parents)
    whole = HighLevelGraph.merge(grid.graph, whole)
    whole.dependencies[name] = {*whole.dependencies[name], grid.name}
    done = grid._replace(name=name, graph=whole)
    dx = _array(done, "dx", 0, (times, batches, (sizes.I,)), lambda t, b, _: (t, b))
    dh0 = _array(done, "dh0", 1, ((sizes.L * D,), batches, (H,)), lambda _, b, __: (grid.order[0], b))
    if not tape.batched:
        dx, dh0 = dx[:, 0, :], dh0[:, 0, :]
    weights = iter(range(len(weights_of(tape.params))))

    def gradient(w: Any) -> Any:
        index = next(weights)
        key = f"{name}-w{index}"
        task = {(key, *(0,) * len(w.shape)): (_weight, total, index)}
        chunks = tuple((size,) for size in w.shape)
        return da.Array(_beside(whole, name, key, task), key, chunks, meta=_meta(grid.meta, len(w.shape)))

    return GRUGrads(dx, dh0, map_params(gradient, tape.params))


# ---- tasks ----------------------------------------------------------------------------------------------------------


def _block(
    function: str, x: Any, params: Any, h0: Any, mask: Any, resets: Any, masks: Any, lengths: Any, start: int, T: int,
    beside_others: bool, options: dict[str, Any],
) -> Any:  # fmt: skip
    call = gru_xp.gru_forward if function == "forward" else gru_xp.gru_inference
    if lengths is not None:
        if np.any((np.asarray(lengths) < 0) | (np.asarray(lengths) > T)):
            raise RangeError(f"lengths: expected 0 to T = {T}, got {np.min(lengths)} to {np.max(lengths)}")
        lengths = np.clip(np.asarray(lengths) - start, 0, len(x)).tolist()
    with _threads(beside_others):
        return call(x, params, h0, lengths=lengths, mask=mask, resets=resets, dropout_masks=masks, **options)


def _block_backward(tape: Any, dy: Any, dh_n: Any, beside_others: bool) -> Any:
    with _threads(beside_others):
        return gru_xp.gru_backward(tape, dy, dh_n)


def _threads(beside_others: bool) -> AbstractContextManager[None]:
    """Where there are other blocks Dask computes several at once, in threads or processes: then one thread for each."""
    return gru_xp.num_threads(1) if beside_others else nullcontext()


def _sum(grads: Sequence[Any]) -> Any:
    return gru_xp.add(*(one.params if isinstance(one, GRUGrads) else one for one in grads))


def _weight(params: Any, index: int) -> Any:
    return weights_of(params)[index]


def _structured(arrays: Sequence[Any], shape: Any) -> Any:
    """Parameters again of their arrays."""
    each = iter(arrays)
    return map_params(lambda _: next(each), shape)


# ---- graphs ---------------------------------------------------------------------------------------------------------


def _summed(graph: dict[Any, Any], name: str, keys: list[Any]) -> Any:
    """Add tasks that sum, some at a time; the key of the last."""
    level = 0
    while True:
        groups = [keys[i : i + TOGETHER] for i in range(0, len(keys), TOGETHER)]
        sums: list[Any] = [(f"{name}-sum", level, i) for i in range(len(groups))]
        graph.update({key: (_sum, group) for key, group in zip(sums, groups, strict=True)})
        if len(sums) == 1:
            return sums[0]
        keys, level = sums, level + 1


def _array(grid: Grid, what: str, index: int, chunks: Any, block_of: Any) -> Any:
    """One of the results of all blocks as a Dask array."""
    name = f"{grid.name}-{what}"
    places = [range(len(sizes)) for sizes in chunks]
    tasks = {
        (name, i, j, k): (operator.itemgetter(index), (grid.name, *block_of(i, j, k)))
        for i in places[0]
        for j in places[1]
        for k in places[2]
    }
    return da.Array(_beside(grid.graph, grid.name, name, tasks), name, chunks, meta=_meta(grid.meta, 3))


def _beside(graph: Any, parent: str, name: str, tasks: dict[Any, Any]) -> Any:
    return HighLevelGraph({**graph.layers, name: tasks}, {**graph.dependencies, name: {parent}})


def _meta(like: Any, ndim: int) -> Any:
    return da.utils.meta_from_array(like, ndim=ndim, dtype=like.dtype)


def _key(array: Any, *place: int) -> Any:
    return None if array is None else (array.name, *place)


def _chunked(array: Any, x: Any, chunks: dict[int, Any]) -> Any:
    """An argument as a Dask array that is chunked as x is, and whole along its other axes."""
    if array is None:
        return None
    if not isinstance(array, da.Array):
        array = da.from_array(np.asarray(array) if isinstance(array, list | tuple) else array, chunks=-1)
    return array.rechunk({axis: chunks.get(axis, -1) for axis in range(array.ndim)})


def _lengths(lengths: Any, x: Any, batches: Any) -> Any:
    if lengths is None:
        return None
    if not isinstance(lengths, da.Array):
        lengths = np.asarray(lengths, dtype=np.int64)
    return _chunked(lengths, x, {0: batches})


def _with_batch(a: Arguments) -> Arguments:
    """The arguments with a batch of one."""
    x, params, h0, lengths, mask, resets, masks = a

    def added(array: Any) -> Any:
        array = np.asarray(array) if isinstance(array, list | tuple) else array
        return None if array is None else array[:, None]

    return Arguments(
        x[:, None, :],
        params,
        None if h0 is None else h0[:, None, :],
        None if lengths is None else np.reshape(np.asarray(lengths), (1,)),
        added(mask),
        added(resets),
        None if masks is None else masks[:, :, None, :],
    )


def _params_node(params: Any) -> tuple[Any, list[Any]]:
    """What the graph has as the parameters, and the Dask arrays among them."""
    if isinstance(params, PreparedParams):
        return params, []
    layers = structured(params)
    arrays = weights_of(layers)
    lazy = [array for array in arrays if isinstance(array, da.Array)]
    if not lazy:
        return layers, []
    whole = [array.rechunk(-1) if isinstance(array, da.Array) else array for array in arrays]
    keys = [(w.name, *(0,) * w.ndim) if isinstance(w, da.Array) else w for w in whole]
    shape = map_params(lambda _: 0, layers)
    return (_structured, keys, shape), [w for w in whole if isinstance(w, da.Array)]


def _checked(a: Arguments, function: Any, spec: GRUSpec, where: str | None, save: Any) -> Sizes:
    """Check the arguments by their shapes and dtypes alone, on arrays without memory."""
    x, params, h0, lengths, mask, resets, masks = a
    if not isinstance(params, PreparedParams):
        names = iter(names_of(structured(params)))
        params = map_params(lambda w: _shape_of(w, next(names)), structured(params))
    rows, steps = tuple(x.shape[1:-1]), tuple(x.shape[:-1])
    if isinstance(lengths, da.Array):
        _assert_lazy(lengths, "lengths", "integers (N,)", rows, "iu")
        lengths = None
    if isinstance(mask, da.Array):
        _assert_lazy(mask, "mask", "booleans (T, N)", steps, "b")
        mask = None
    if isinstance(resets, da.Array):
        _assert_lazy(resets, "resets", "booleans (T, N)", steps, "b")
        resets = None
    shown = _shape_of(x, "x"), params, _shape_of(h0, "h0"), lengths, mask, resets, _shape_of(masks, "dropout_masks")
    return check(function, Arguments(*shown), spec, where, save if function == "forward" else None, SEQUENCE).sizes


def _shape_of(array: Any, name: str) -> Any:
    """An array of the chunks' library, of the shape and dtype of a Dask array; it has one number of memory."""
    if not isinstance(array, da.Array):
        return array
    if any(math.isnan(size) for size in array.shape):
        raise ShapeError(f"{name}: expected sizes that are known, got {array.shape}; use {name}.compute_chunk_sizes()")
    xp = owner(array._meta, name).xp
    return xp.broadcast_to(xp.zeros((1,) * array.ndim, dtype=array.dtype), array.shape)


def _assert_lazy(array: Any, name: str, expected: str, shape: tuple[int, ...], kinds: str) -> None:
    if array.dtype.kind not in kinds or tuple(array.shape) != shape:
        raise ShapeError(f"{name}: expected {expected} = {shape}, as x has, got {array.dtype} {tuple(array.shape)}")
