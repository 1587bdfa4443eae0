"""Calls of every entry that reaches native code, with records and arrays that are wrong in one way or another.

    python tests/support/hostile_calls.py LIBRARY SEED FIRST LAST

makes the calls of these numbers; LIBRARY is numpy, torch, or xla: the native function that JAX calls. Each has to end
in a GRUError, or in the numbers of a float64 loop over the arrays that were given. The number of a call is printed
before it is made, so that whoever started the process knows which one killed it; the last line says how many ended in
which way.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import gru_xp
from gru_xp import CellParams, GRUError, errors
from gru_xp.interfaces import Options
from gru_xp.params import LayerTape


class WrongError(Exception):
    """The arrays of a call do not belong together."""


# ---- the mathematics, in float64 and one step at a time -------------------------------------------------------------


def real(a: Any, *shape: int) -> Any:
    """The array in float64, if it is one of real numbers with that shape."""
    given = np.asarray(a)
    if given.dtype.kind != "f" or given.shape != shape:
        raise WrongError
    return given.astype("f8")


def boolean(a: Any, *shape: int) -> Any:
    given = np.asarray(a)
    if given.dtype != bool or given.shape != shape:
        raise WrongError
    return given


def weights(w: Any, I: int, H: int) -> list[Any]:
    W_ih, W_hh, b_ih, b_hh = w
    if (b_ih is None) != (b_hh is None):
        raise WrongError
    biases = [np.zeros(3 * H)] * 2 if b_ih is None else [real(b_ih, 3 * H), real(b_hh, 3 * H)]
    return [real(W_ih, 3 * H, I), real(W_hh, 3 * H, H), *biases]


def sizes(x: Any, h: Any, dims: int = 2) -> tuple[int, int, int, int]:
    """T, N, I and H of what the arrays really are, whatever they say."""
    state = np.asarray(h).shape
    try:
        (T, N, I), H = np.asarray(x).shape, state[-1]
    except (ValueError, IndexError):
        raise WrongError from None
    if len(state) != dims:
        raise WrongError
    return T, N, I, H


def cuts(valid: Any, resets: Any, reverse: bool, T: int, N: int) -> Any:
    """Whether the state is zero before a step (T, N): where a reset lies between it and the valid step before it."""
    cut = np.zeros((T, N), bool)
    for row in range(N):
        crossed = False
        for t in range(T - 1, -1, -1) if reverse else range(T):
            if reverse:
                if valid[t, row]:
                    cut[t, row], crossed = crossed, bool(resets[t, row])
            elif valid[t, row]:
                cut[t, row] = resets[t, row]
    return cut


def sigmoid(a: Any) -> Any:
    return 0.5 + 0.5 * np.tanh(0.5 * a)


def forward(x: Any, h0: Any, w: Any, valid: Any, resets: Any, reverse: bool) -> tuple[Any, Any]:
    T, N, I, H = sizes(x, h0)
    kept = np.asarray(x).dtype  # the state is rounded to the caller's type after each step
    x, h = real(x, T, N, I), real(h0, N, H)
    W_ih, W_hh, b_ih, b_hh = weights(w, I, H)
    there = np.ones((T, N), bool) if valid is None else boolean(valid, T, N)
    cut = cuts(there, np.zeros((T, N), bool) if resets is None else boolean(resets, T, N), reverse, T, N)
    y = np.zeros((T, N, H))
    for t in range(T - 1, -1, -1) if reverse else range(T):
        h = np.where(cut[t][:, None], 0, h)
        gi, gh = x[t] @ W_ih.T + b_ih, h @ W_hh.T + b_hh
        r, z = sigmoid(gi[:, :H] + gh[:, :H]), sigmoid(gi[:, H : 2 * H] + gh[:, H : 2 * H])
        new = (1 - z) * np.tanh(gi[:, 2 * H :] + r * gh[:, 2 * H :]) + z * h
        h = np.where(there[t][:, None], new.astype(kept).astype("f8"), h)
        y[t] = np.where(there[t][:, None], h, 0)
    return y, h


def backward(tape: Any, dy: Any, dh_n: Any) -> list[Any]:
    """dx, dh0, dW_ih, dW_hh and the biases' gradients, of what a tape says and nothing else."""
    T, N, I, H = sizes(tape.x, tape.h_prev, 3)
    x, h_prev = real(tape.x, T, N, I), real(tape.h_prev, T, N, H)
    W_ih, W_hh, b_ih, b_hh = weights(tape.w, I, H)
    there = np.ones((T, N), bool) if tape.valid is None else boolean(tape.valid, T, N)
    resets = np.zeros((T, N), bool) if tape.resets is None else boolean(tape.resets, T, N)
    cut = cuts(there, resets, tape.reverse, T, N)
    dh = np.zeros((N, H)) if dh_n is None else real(dh_n, N, H)
    flow = np.zeros((T, N, H)) if dy is None else real(dy, T, N, H)
    if (tape.r is None) != all(a is None for a in (tape.r, tape.z, tape.n, tape.u)):
        raise WrongError
    if tape.r is None:
        gi, gh = x @ W_ih.T + b_ih, h_prev @ W_hh.T + b_hh
        r, z = sigmoid((gi + gh)[..., :H]), sigmoid((gi + gh)[..., H : 2 * H])
        z = np.where(there[..., None], z, 1)
        u = gh[..., 2 * H :]
        n = np.tanh(gi[..., 2 * H :] + r * u)
    else:
        r, z, n, u = (real(a, T, N, H) for a in (tape.r, tape.z, tape.n, tape.u))
    dx, dW_ih, dW_hh, db_ih, db_hh = np.zeros_like(x), 0 * W_ih, 0 * W_hh, 0 * b_ih, 0 * b_hh
    for t in range(T) if tape.reverse else range(T - 1, -1, -1):
        dh = dh + np.where(there[t][:, None], flow[t], 0)
        da_n = dh * (1 - z[t]) * (1 - n[t] ** 2)
        da_r, da_z = da_n * u[t] * r[t] * (1 - r[t]), dh * (h_prev[t] - n[t]) * z[t] * (1 - z[t])
        dgi, dgh = np.concatenate((da_r, da_z, da_n), 1), np.concatenate((da_r, da_z, da_n * r[t]), 1)
        dx[t] = dgi @ W_ih
        dW_ih, dW_hh = dW_ih + dgi.T @ x[t], dW_hh + dgh.T @ h_prev[t]
        db_ih, db_hh = db_ih + dgi.sum(0), db_hh + dgh.sum(0)
        dh = np.where(cut[t][:, None], 0, dh * z[t] + dgh @ W_hh)
    return [dx, dh, dW_ih, dW_hh, *([] if tape.w[2] is None else [db_ih, db_hh])]


# ---- arrays that are wrong, or right and unusual --------------------------------------------------------------------


class Liar(np.ndarray):
    """An array that says that it has another shape."""

    said: Any = ()

    @property
    def shape(self) -> Any:  # type: ignore[override]
        return self.said


def another_shape(rng: np.random.Generator, a: Any) -> Any:
    shape = list(a.shape)
    way = rng.integers(6)
    if way == 0 and shape:
        shape[rng.integers(len(shape))] = int(rng.choice([0, 1, 2, 3, 7, 50]))
    elif way == 1 and shape:
        axis = rng.integers(len(shape))
        shape[axis] = max(0, shape[axis] + int(rng.choice([-1, 1])))
    elif way == 2:
        shape = shape[::-1]
    elif way == 3:
        shape = [*shape, 1]
    elif way == 4:
        shape = shape[1:]
    else:
        shape = [int(np.prod(shape))]
    return np.asarray(rng.standard_normal(shape), a.dtype) if a.dtype != bool else np.asarray(rng.random(shape) < 0.5)


def another_dtype(rng: np.random.Generator, a: Any) -> Any:
    dtype = str(rng.choice(["f2", "f4", "f8", "i1", "i4", "i8", "?", "c8", "O", "U4"]))
    return a.astype(dtype) if a.dtype.kind in "fb" else a


def no_array(rng: np.random.Generator, a: Any) -> Any:
    things = [
        None,
        12345,
        -1,
        1.5,
        "text",
        b"bytes",
        [1.0] * 10,
        (),
        object(),
        np.float32(1),
        np.dtype("f4"),
        int,
        a.tolist(),
    ]
    return things[rng.integers(len(things))]


def a_liar(rng: np.random.Generator, a: Any) -> Any:
    lying = another_shape(rng, a).view(Liar)
    lying.said = a.shape
    return lying


def unusual(rng: np.random.Generator, a: Any) -> Any:
    """The same numbers, otherwise in memory."""
    a, way = np.asarray(a), rng.integers(9)
    if a.dtype.hasobject:
        return a
    if way == 0:
        return np.asfortranarray(a)
    if way == 1:
        return a.astype(a.dtype.newbyteorder())
    if way == 2:
        return a[::-1].copy()[::-1] if a.ndim else a
    if way == 3:
        raw = np.zeros(a.nbytes + 1, "u1")[1:].view(a.dtype) if a.nbytes else a.ravel()
        raw[...] = a.ravel()
        return raw.reshape(a.shape)
    if way == 4:
        wide = np.repeat(a, 2, axis=-1) if a.ndim else a
        return wide[..., ::2] if a.ndim else a
    if way == 5:
        a = a.copy()
        a.flags.writeable = False
        return a
    if way == 6:
        return a.view(type("Subclass", (np.ndarray,), {}))
    if way == 7:
        return np.array(a, np.dtype(a.dtype, metadata={"unit": "m"}))
    return np.broadcast_to(a[..., :1], a.shape).astype(a.dtype) if a.ndim and a.shape[-1] else a


MUTATIONS: tuple[Callable[[np.random.Generator, Any], Any], ...] = (
    another_shape, another_dtype, no_array, a_liar, unusual, unusual,
)  # fmt: skip


class Problem(NamedTuple):
    """What one layer is called with."""

    x: Any
    h0: Any
    w: CellParams
    valid: Any
    resets: Any
    reverse: bool
    dy: Any
    dh_n: Any


def draw(rng: np.random.Generator) -> Problem:
    large = rng.random() < 0.1
    T, N, I = (int(rng.integers(0 if rng.random() < 0.1 else 1, most)) for most in (7, 12, 20))
    H = int(rng.integers(1, 200 if large else 40))
    if large and rng.random() < 0.5:
        N = int(rng.integers(1, 70))
    dtype = str(rng.choice(["f4", "f8", "f2"]))

    def reals(*shape: int) -> Any:
        return (0.3 * rng.standard_normal(shape)).astype(dtype)

    bias = rng.random() < 0.8
    return Problem(
        reals(T, N, I),
        reals(N, H),
        CellParams(reals(3 * H, I), reals(3 * H, H), *((reals(3 * H), reals(3 * H)) if bias else (None, None))),
        rng.random((T, N)) < 0.7 if rng.random() < 0.4 else None,
        rng.random((T, N)) < 0.3 if rng.random() < 0.4 else None,
        bool(rng.random() < 0.3),
        reals(T, N, H) if rng.random() < 0.9 else None,
        reals(N, H) if rng.random() < 0.7 else None,
    )


def mutate(rng: np.random.Generator, arrays: Sequence[Any]) -> list[Any]:
    """The arrays, some of them changed; None may become an array."""
    changed = list(arrays)
    for _ in range(int(rng.choice([0, 1, 1, 1, 2, 3]))):
        i = int(rng.integers(len(changed)))
        if isinstance(changed[i], np.ndarray):
            changed[i] = MUTATIONS[rng.integers(len(MUTATIONS))](rng, changed[i])
        elif changed[i] is None and rng.random() < 0.3:
            changed[i] = rng.random((3, 2)) < 0.5
    return changed


# ---- the entries ----------------------------------------------------------------------------------------------------

Arrays = list[Any]
Outcome = tuple[Callable[[], Any], Callable[[], Any]]  # the call, and what is expected of it


def layer_call(layer: Any, lift: Callable[[Any], Any], rng: np.random.Generator) -> Outcome:
    """Inference or forward of one layer."""
    p = draw(rng)
    x, h0, *w, valid, resets = mutate(rng, (p.x, p.h0, *p.w, p.valid, p.resets))
    save = rng.choice(["all", "states", ""])

    def call() -> Any:
        options = Options(valid=lift(valid), resets=lift(resets), reverse=p.reverse, save=str(save) or None)
        arrays = lift(x), lift(h0), CellParams(*map(lift, w))
        return (layer.forward if save else layer.inference)(*arrays, options)[:2]

    return call, lambda: forward(x, h0, w, valid, resets, p.reverse)


def tape_call(layer: Any, lift: Callable[[Any], Any], rng: np.random.Generator) -> Outcome:
    """Backward of one layer over a tape that somebody changed."""
    p, save = draw(rng), str(rng.choice(["all", "states"]))
    from gru_xp_cpu import numpy_layer

    options = Options(valid=p.valid, resets=p.resets, reverse=p.reverse, save=save)
    tape = numpy_layer.forward(p.x, p.h0, p.w, options)[2]
    arrays = mutate(rng, (*tape[:6], *tape.w, tape.valid, tape.resets, p.dy, p.dh_n))
    *head, W_ih, W_hh, b_ih, b_hh, valid, resets, dy, dh_n = arrays
    w = CellParams(W_ih, W_hh, b_ih, b_hh)
    changed = LayerTape(*head, w, valid, resets, tape.spec, tape.reverse)

    def call() -> Any:
        lifted = LayerTape(
            *map(lift, head), CellParams(*map(lift, w)), lift(valid), lift(resets), tape.spec, tape.reverse
        )
        dx, dh0, dw = layer.backward(lifted, lift(dy), lift(dh_n))
        return [dx, dh0, *(a for a in dw if a is not None)]

    return call, lambda: backward(changed, dy, dh_n)


def public_tape_call(lift: Callable[[Any], Any], rng: np.random.Generator) -> Outcome:
    """`gru_backward` over such a tape."""
    p = draw(rng)
    lengths = None if p.valid is None else [int(n) for n in p.valid.sum(0)]
    _, _, tape = gru_xp.gru_forward(lift(p.x), ((CellParams(*map(lift, p.w)),),), lift(p.h0[None]), lengths=lengths)
    t = tape.layers[0][0]
    numpy = [None if a is None else np.asarray(a) for a in (*t[:6], *t.w, t.valid, t.resets, p.dy)]
    *head, W_ih, W_hh, b_ih, b_hh, valid, resets, dy = mutate(rng, numpy)
    w = CellParams(W_ih, W_hh, b_ih, b_hh)
    changed = LayerTape(*head, w, valid, resets, t.spec, t.reverse)

    def call() -> Any:
        layer = LayerTape(*map(lift, head), CellParams(*map(lift, w)), lift(valid), lift(resets), t.spec, t.reverse)
        grads = gru_xp.gru_backward(tape._replace(layers=((layer,),)), lift(dy))
        return [grads.x, grads.h0[0], *(a for a in grads.params[0][0] if a is not None)]

    return call, lambda: backward(changed, dy, None)


def prepared_call(lift: Callable[[Any], Any], rng: np.random.Generator) -> Outcome:
    """Inference with prepared weights that were made by hand."""
    import dataclasses

    p, other = draw(rng), draw(rng)
    prepared = gru_xp.prepare(((CellParams(*map(lift, p.w)),),))
    w = CellParams(*mutate(rng, p.w if rng.random() < 0.7 else other.w))
    x, h0 = (p.x, p.h0) if rng.random() < 0.8 else (other.x, other.h0)

    def call() -> Any:
        lifted = ((CellParams(*map(lift, w)),),)
        if rng.random() < 0.5:
            changed = dataclasses.replace(prepared, params=lifted)
        else:
            changed = type(prepared)(lifted, prepared.sizes, prepared.place)
        y, h_n = gru_xp.gru_inference(lift(x), changed, lift(h0[None]))
        return y, h_n[0]

    return call, lambda: forward(x, h0, w, None, None, False)


def stream_call(lift: Callable[[Any], Any], rng: np.random.Generator) -> Outcome:
    """A stream of two layers."""
    from gru_xp_cpu.calling.stream import Stream

    p, other = draw(rng), draw(rng)
    N, H = p.h0.shape
    top = CellParams(*(np.ascontiguousarray(np.resize(a, s)) for a, s in zip(
        (p.w.W_hh, p.w.W_hh, p.w.W_hh[:, 0], p.w.W_hh[:, 0]), ((3 * H, H), (3 * H, H), (3 * H,), (3 * H,)), strict=True
    )))  # fmt: skip
    low, high, which = p.w, top, rng.integers(4)
    x = p.x[0] if len(p.x) else np.zeros((N, p.x.shape[2]), p.x.dtype)
    if which == 0:
        low = CellParams(*mutate(rng, p.w))
    elif which == 1:
        high = CellParams(*mutate(rng, top))
    elif which == 2:
        high = other.w
    else:
        (x,) = mutate(rng, [x])

    def call() -> Any:
        return [Stream(((low,), (high,)), N).step(x)]

    def expected() -> Any:
        given = np.asarray(x)
        H0, H1 = np.shape(low[1])[-1:], np.shape(high[1])[-1:]
        if not H0 or not H1 or given.ndim != 2:
            raise WrongError
        y, _ = forward(given[None], np.zeros((N, *H0)), low, None, None, False)
        return [forward(y, np.zeros((N, *H1)), high, None, None, False)[0][0]]

    return call, expected


def native_call(rng: np.random.Generator) -> Outcome:
    """The custom call of XLA on buffers of other shapes and dtypes, and on the integers of another call."""
    from as_xla import called_as_by_xla

    from gru_xp_cpu.calling.xla import call
    from gru_xp_cpu.passes.fields import HEADER, SIZES, STEP

    p = draw(rng)
    T, N, I, H = sizes(p.x, p.h0)
    names = "x", "h0", *CellParams._fields, "valid"
    own, dtype = (0, T, p.reverse, STEP), p.x.dtype.name
    given = {name: a for name, a in zip(names, (p.x, p.h0, *p.w, p.valid), strict=True) if a is not None}
    made = {"y": np.full((T, N, H), np.nan, p.x.dtype), "h_n": np.full((N, H), np.nan, p.x.dtype)}
    if p.valid is not None:
        made["x_clean"] = np.empty_like(p.x)
    numbers = call("forward", dtype, (T, N, I, H), own, [*given, *made])  # type: ignore[arg-type]
    everything = {**given, **made}
    for name in rng.choice(list(everything), rng.choice([0, 0, 0, 1, 1, 2]), replace=False):
        change = (another_shape, another_dtype, another_dtype)[rng.integers(3)]
        changed = np.ascontiguousarray(change(rng, everything[name]))
        (given if name in given else made)[str(name)] = changed
    way = rng.integers(12)
    if way == 0:
        del given[str(rng.choice(list(given)))]
    elif way == 1:
        numbers = numbers[: rng.integers(len(numbers))]
    elif way == 2:
        numbers = numbers.astype("i4")
    elif way == 3:  # of another number of steps
        numbers[len(HEADER) + SIZES.index("T")] += int(rng.choice([-1, 1, 1000]))

    def run() -> Any:
        said = called_as_by_xla("forward", (T, N, I, H), own, given, made, dtype, numbers)
        if said:
            assert said.startswith("gru_xp: ")
            raise errors.StructureError(said)
        return made["y"], made["h_n"]

    def expected() -> Any:
        if way < 4 or list(given) != [name for name in names if name in everything]:
            raise WrongError
        for name, a in everything.items():
            real_or_boolean = boolean if name == "valid" else real
            changed = (given if name in given else made)[name]
            real_or_boolean(changed, *a.shape)
            if changed.dtype != a.dtype:
                raise WrongError
        w = CellParams(*(given.get(name) for name in CellParams._fields))
        return forward(given["x"], given["h0"], w, given.get("valid"), None, p.reverse)

    return run, expected


def operator_forward(lift: Callable[[Any], Any], rng: np.random.Generator) -> Outcome:
    """`torch.ops.gru_xp.forward` of one layer, as a saved program may call it."""
    from gru_xp_torch.operators import forward as operator

    p = draw(rng)
    x, h0, valid, resets, *w = mutate(rng, (p.x, p.h0, p.valid, p.resets, *(a for a in p.w if a is not None)))

    def call() -> Any:
        tensors = lift(x), lift(h0)[None], optional(lift, valid), optional(lift, resets)
        y, h_n, *_ = operator(1, len(w) == 4, gru_xp.GRUSpec(reverse=p.reverse).text, *tensors, None, [*map(lift, w)])
        return y, h_n[0]

    return call, lambda: forward(x, h0, CellParams(*w), valid, resets, p.reverse)


def operator_backward(lift: Callable[[Any], Any], rng: np.random.Generator) -> Outcome:
    """`torch.ops.gru_xp.backward` of one layer."""
    from gru_xp_cpu import numpy_layer
    from gru_xp_torch.operators import backward as operator

    p = draw(rng)
    options = Options(valid=p.valid, resets=p.resets, reverse=p.reverse, save="all")
    tape = numpy_layer.forward(p.x, p.h0, p.w, options)[2]
    dy, dh_n = np.zeros_like(tape.h_prev) if p.dy is None else p.dy, np.zeros_like(p.h0) if p.dh_n is None else p.dh_n
    arrays = *tape[:6], dy, dh_n, p.valid, p.resets, *(a for a in p.w if a is not None)
    x, h_prev, r, z, n, u, dy, dh_n, valid, resets, *w = mutate(rng, arrays)

    def call() -> Any:
        flows, masks = (lift(dy), lift(dh_n)[None]), (optional(lift, valid), optional(lift, resets), None)
        lists = [*map(lift, w)], [*map(lift, (h_prev, r, z, n, u))]
        spec = gru_xp.GRUSpec(reverse=p.reverse).text
        dx, dh0, *dw = operator(1, len(w) == 4, spec, lift(x), *flows, *masks, *lists)
        return [dx, dh0[0], *dw]

    def expected() -> Any:
        T, N, I, _ = sizes(x, h_prev, 3)
        clean = real(x, T, N, I) if valid is None else np.where(boolean(valid, T, N)[..., None], real(x, T, N, I), 0)
        given = LayerTape(clean, h_prev, r, z, n, u, CellParams(*w), valid, resets, tape.spec, p.reverse)
        if any(a is None for a in (r, z, n, u, dy, dh_n)):
            raise WrongError
        return backward(given, dy, dh_n)

    return call, expected


def optional(lift: Callable[[Any], Any], a: Any) -> Any:
    return None if a is None else lift(a)


def entries(library: str) -> tuple[Callable[[np.random.Generator], Outcome], ...]:
    """Those of a library's arrays."""
    if library == "torch":
        import torch

        def tensor(a: Any) -> Any:
            if not isinstance(a, np.ndarray):
                return a
            if a.dtype.kind not in "fib" or not a.dtype.isnative or min(a.strides, default=0) < 0:
                return torch.zeros(1)
            return torch.from_numpy(np.array(a) if type(a) is not np.ndarray or not a.flags.writeable else a)

        def always(a: Any) -> Any:  # what is no tensor PyTorch refuses before it calls an operator
            return tensor(a) if isinstance(a, np.ndarray) else torch.zeros(1)

        public = partial(public_tape_call, tensor), partial(prepared_call, tensor)
        return *public, partial(operator_forward, always), partial(operator_backward, always)
    if library == "xla":
        return (native_call,)
    from gru_xp_cpu import numpy_layer

    def same(a: Any) -> Any:
        return a

    calls: tuple[Any, ...] = layer_call, tape_call
    public: tuple[Any, ...] = public_tape_call, prepared_call, stream_call
    return (*(partial(call, numpy_layer, same) for call in calls), *(partial(call, same) for call in public))


def main(library: str, seed: int, first: int, last: int) -> None:
    """Make the calls."""
    count, made = Counter[str](), entries(library)
    for number in range(first, last):
        print(number, flush=True)
        rng = np.random.default_rng([seed, number])
        call, expected = made[rng.integers(len(made))](rng)
        try:
            want = expected()
        except WrongError:
            want = None
        except Exception as error:
            raise AssertionError(f"call {number}: the reference failed") from error
        try:
            got = call()
        except GRUError:
            count["refused" if want is None else "refused although it could be computed"] += 1
            continue
        except Exception as error:
            raise AssertionError(f"call {number}: {type(error).__name__} is no GRUError") from error
        assert want is not None, f"call {number}: computed from arrays that do not belong together"
        for a, b in zip(got, want, strict=True):
            a = np.asarray(a)
            tolerance = 2e-4 if a.dtype == np.float32 else 2e-3 if a.dtype == np.float16 else 1e-9
            assert np.allclose(a, b, rtol=tolerance, atol=tolerance * max(1, np.abs(b).max(initial=0))), (
                f"call {number}: wrong"
            )
        count["right"] += 1
    print(dict(count))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
