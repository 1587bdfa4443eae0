"""The laws: what must hold between calls, whatever the configuration. Hypothesis draws those, always the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .cases import Case
from .implementation import Arguments, Assembled, RefusedError
from .judge import Judge, MismatchError, compiles
from .problems import Config, Quantity, of_gradients

__all__ = ["law_cases"]

A = npt.NDArray[Any]
EXAMPLES, EXAMPLES_OF_COMPILERS = 50, 4
Y, H_N, DX, DH0 = (Quantity(kind) for kind in ("y", "h_n", "dx", "dh0"))


@st.composite
def configs(draw: st.DrawFn, *, ragged: bool = True, D: int | None = None, L: int | None = None) -> Config:
    """Small sizes, and each option or not. Few sizes, so that compilers meet the same ones again."""
    T, N = draw(st.sampled_from([4, 1, 6])), draw(st.sampled_from([3, 1]))
    lengths = draw(st.none() | st.tuples(*[st.integers(0, T)] * N)) if ragged else None
    steps = st.tuples(st.integers(0, T - 1), st.integers(0, N - 1))
    resets = draw(st.none() | st.lists(steps, max_size=4, unique=True).map(sorted).map(tuple)) if ragged else None
    return Config(
        T=T,
        N=N,
        L=draw(st.sampled_from([1, 2])) if L is None else L,
        D=draw(st.sampled_from([1, 2])) if D is None else D,
        bias=draw(st.booleans()),
        reset_after=draw(st.sampled_from([True, True, False])),
        h0=True,
        lengths=lengths,
        resets=resets,
        seed=draw(st.integers(0, 3)),
    )


def law_cases() -> Iterator[Case]:
    """A case for each law."""

    def law(
        name: str, catches: str, strategy: Any, holds: Callable[[Judge, Config], None], quick: bool = False
    ) -> Case:
        def check(judge: Judge) -> None:
            refusals: list[RefusedError | None] = []

            @settings(
                derandomize=True,
                database=None,
                deadline=None,
                max_examples=EXAMPLES_OF_COMPILERS if compiles(judge.backend) else EXAMPLES,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.generate,),
                print_blob=False,
            )
            @given(strategy)
            def everywhere(config: Config) -> None:
                try:
                    holds(judge, config)
                    refusals.append(None)
                except RefusedError as refusal:  # the kernel does not take this one
                    refusals.append(refusal)

            everywhere()
            if all(refusals):
                raise refusals[0]  # type: ignore[misc]

        return Case("laws", name, catches, check, quick=quick)

    one_way = configs(ragged=True, D=1)
    yield law("chunks are the whole", "a state that is lost between chunks", one_way, chunks)
    yield law("rows alone are the batch", "rows that see one another, or their order", configs(), rows)
    yield law("lengths are cutting", "padding that is seen", configs(), lengths_cut)
    yield law("resets are separate sequences", "a state that passes a boundary", configs(D=1), resets_separate)
    yield law(
        "two directions are two runs and a flip",
        "directions that share something",
        configs(ragged=False, D=2),
        directions,
    )
    yield law("a stack is its layers one by one", "layers that share something", configs(L=2), stack_of_layers)
    yield law(
        "the reverse direction reads backwards",
        "a reverse that is no reverse",
        configs(ragged=False, D=2),
        reversed_input,
    )
    yield law("gradients are linear in what flows in", "a gradient that depends on dy", configs(), linear)
    yield law("forward here, backward there", "a tape that only its maker can read", configs(), two_paths, quick=True)


def _host(judge: Judge, results: Any) -> dict[Quantity, A]:
    return {quantity: judge.host(a) for quantity, a in results if a is not None}


def chunks(judge: Judge, config: Config) -> None:
    """A sequence in two chunks, the second starting from the first one's h_n, is the whole sequence."""
    args = judge.arguments(config)
    y, h_n = judge.inference(config, args)
    half, T = config.T // 2, config.T
    h, ys = args.h0, []
    for start, stop in ((0, half), (half, T)):
        y_part, h = judge.inference(config, _steps(args, start, stop, h))
        ys.append(judge.host(y_part))
    judge.assert_agree(config, Y, np.concatenate(ys), judge.host(y), "y in chunks and as a whole")
    judge.assert_agree(config, H_N, judge.host(h), judge.host(h_n), "h_n in chunks and as a whole")


def _steps(args: Arguments, start: int, stop: int, h0: Any) -> Arguments:
    return replace(
        args,
        x=args.x[start:stop, ...],
        h0=h0,
        lengths=None if args.lengths is None else np.clip(args.lengths - start, 0, stop - start),
        resets=None if args.resets is None else args.resets[start:stop, ...],
        dy=None if args.dy is None else args.dy[start:stop, ...],
    )


def rows(judge: Judge, config: Config) -> None:
    """A batch is its rows one at a time, last one first; the weights' gradients are their sum."""
    args = judge.arguments(config)
    y, h_n, _ = judge.forward(config, args)
    grads = _host(judge, of_gradients(judge.gradients(config, args)))
    total: dict[Quantity, A] = {}
    for row in reversed(range(config.N)):
        one = _row(args, row)
        for quantity, whole, part in zip((Y, H_N), (y, h_n), judge.forward(config, one)[:2], strict=True):
            what = f"{quantity} of row {row} alone and in the batch"
            judge.assert_agree(config, quantity, judge.host(part)[:, 0], judge.host(whole)[:, row], what)
        for quantity, part in _host(judge, of_gradients(judge.gradients(config, one))).items():
            if quantity in (DX, DH0):
                what = f"{quantity} of row {row} alone and in the batch"
                judge.assert_agree(config, quantity, part[:, 0], grads[quantity][:, row], what)
            else:
                total[quantity] = total.get(quantity, 0.0) + part
    for quantity, summed in total.items():
        judge.assert_agree(
            config, quantity, summed, grads[quantity], f"{quantity} of the rows, summed, and of the batch"
        )


def _row(args: Arguments, row: int) -> Arguments:
    def picked(a: Any, axis: int = 1) -> Any:
        return None if a is None else a[(slice(None),) * axis + (slice(row, row + 1), ...)]

    return replace(
        args,
        x=picked(args.x),
        h0=picked(args.h0),
        lengths=None if args.lengths is None else args.lengths[row : row + 1],
        resets=picked(args.resets),
        dy=picked(args.dy),
        dh_n=picked(args.dh_n),
    )


def lengths_cut(judge: Judge, config: Config) -> None:
    """A row of some length is that row cut off there."""
    lengths = config.lengths if config.lengths is not None else (config.T // 2,) * config.N
    config = config.but(lengths=lengths)
    args = judge.arguments(config)
    y, h_n, _ = judge.forward(config, args)
    dx = judge.gradients(config, args).x
    for row, length in enumerate(lengths):
        cut = replace(_steps(_row(args, row), 0, length, args.h0[:, row : row + 1, ...]), lengths=None)
        y_row, h_row, _ = judge.forward(config, cut)
        dx_row = judge.gradients(config, cut).x
        for quantity, whole, part in ((Y, y, y_row), (DX, dx, dx_row)):
            what = f"{quantity} of row {row} cut off at {length} and with that length"
            judge.assert_agree(config, quantity, judge.host(part)[:, 0], judge.host(whole)[:length, row], what)
            if judge.host(whole)[length:, row].any():
                raise MismatchError(f"{quantity}: expected zeros past the length {length} of row {row}, got others")
        judge.assert_agree(
            config,
            H_N,
            judge.host(h_row)[:, 0],
            judge.host(h_n)[:, row],
            f"h_n of row {row} cut off at {length} and with that length",
        )


def resets_separate(judge: Judge, config: Config) -> None:
    """What comes after a reset of all rows is a sequence of its own, from a state of zeros."""
    if config.T < 2:
        return
    at = config.T // 2
    earlier = tuple(reset for reset in config.resets or () if reset[0] != at)
    config = config.but(resets=tuple(sorted((*earlier, *((at, row) for row in range(config.N))))))
    args = judge.arguments(config)
    y, h_n = judge.inference(config, args)
    first, second = _steps(args, 0, at, args.h0), _steps(args, at, config.T, None)
    y_first, h_first = judge.inference(config, first)
    y_second, h_second = judge.inference(config, second)
    ys = np.concatenate([judge.host(y_first), judge.host(y_second)])
    judge.assert_agree(config, Y, ys, judge.host(y), "y of separate sequences and of one with a reset")
    ended = np.asarray(config.lengths if config.lengths is not None else (config.T,) * config.N) <= at
    separate = np.where(ended[None, :, None], judge.host(h_first), judge.host(h_second))
    judge.assert_agree(config, H_N, separate, judge.host(h_n), "h_n of separate sequences and of one with a reset")


def _one_direction(args: Arguments, d: int) -> Arguments:
    """The first layer in one direction as a model of its own."""
    return replace(args, params=((args.params[0][d],),), h0=args.h0[d : d + 1, ...])


def directions(judge: Judge, config: Config) -> None:
    """Two directions are a run, and a run over the reversed input reversed again."""
    config = config.but(L=1)
    args = judge.arguments(config)
    y, h_n = judge.inference(config, args)
    y_there, h_there = judge.inference(config, _one_direction(args, 0))
    back = _one_direction(args, 1)
    y_back, h_back = judge.inference(config, replace(back, x=judge.flipped(back.x)))
    both = np.concatenate([judge.host(y_there), judge.host(y_back)[::-1]], axis=-1)
    judge.assert_agree(config, Y, both, judge.host(y), "y of two runs and a flip and of two directions")
    states = np.concatenate([judge.host(h_there), judge.host(h_back)])
    judge.assert_agree(config, H_N, states, judge.host(h_n), "h_n of two runs and of two directions")


def stack_of_layers(judge: Judge, config: Config) -> None:
    """Two layers are the second over what the first puts out."""
    args = judge.arguments(config)
    y, h_n = judge.inference(config, args)
    x, states = args.x, []
    for layer in range(config.L):
        rows = slice(layer * config.D, (layer + 1) * config.D)
        x, h = judge.inference(config, replace(args, x=x, params=(args.params[layer],), h0=args.h0[rows, ...]))
        states.append(judge.host(h))
    judge.assert_agree(config, Y, judge.host(x), judge.host(y), "y of the layers one by one and of the stack")
    judge.assert_agree(
        config, H_N, np.concatenate(states), judge.host(h_n), "h_n of the layers one by one and of the stack"
    )


def reversed_input(judge: Judge, config: Config) -> None:
    """The reverse direction over the reversed input is the forward direction, with its gradients."""
    config = config.but(L=1)
    args, xp, H = judge.arguments(config), judge.backend.xp, config.H
    w, v = args.params[0]
    swapped = replace(
        args,
        x=judge.flipped(args.x),
        params=((v, w),),
        h0=judge.flipped(args.h0),
        dy=xp.concat([judge.flipped(args.dy[..., H:]), judge.flipped(args.dy[..., :H])], axis=-1),
        dh_n=judge.flipped(args.dh_n),
    )
    y, h_n, _ = judge.forward(config, args)
    y_swapped, h_swapped, _ = judge.forward(config, swapped)
    values = judge.host(y_swapped)[::-1]
    values = np.concatenate([values[..., H:], values[..., :H]], axis=-1)
    judge.assert_agree(config, Y, values, judge.host(y), "y of the mirrored problem and of the problem")
    judge.assert_agree(
        config, H_N, judge.host(h_swapped)[::-1], judge.host(h_n), "h_n of the mirrored problem and of the problem"
    )
    grads, mirrored = judge.gradients(config, args), judge.gradients(config, swapped)
    what = "dx of the mirrored problem and of the problem"
    judge.assert_agree(config, DX, judge.host(mirrored.x)[::-1], judge.host(grads.x), what)


def linear(judge: Judge, config: Config) -> None:
    """The gradient of dy and dh_n is that of dy plus that of dh_n, and twice as much gives twice as much."""
    args = judge.arguments(config)
    _, _, tape = judge.forward(config, args)
    both = _host(judge, of_gradients(judge.gru.gru_backward(tape, args.dy, args.dh_n)))
    one = _host(judge, of_gradients(judge.gru.gru_backward(tape, args.dy, None)))
    other = _host(judge, of_gradients(judge.gru.gru_backward(tape, None, args.dh_n)))
    twice = _host(judge, of_gradients(judge.gru.gru_backward(tape, args.dy * 2.0, args.dh_n * 2.0)))
    for quantity, whole in both.items():
        summed = one[quantity] + other[quantity]
        judge.assert_agree(config, quantity, summed, whole, f"{quantity} of dy plus that of dh_n, and of both")
        judge.assert_agree(
            config, quantity, twice[quantity] / 2.0, whole, f"{quantity} of twice as much, halved, and of once"
        )


def two_paths(judge: Judge, config: Config) -> None:
    """The plain path and this one read each other's tapes."""
    args = judge.arguments(config)
    plain = Assembled(judge.place, None)
    options = args.options(config.spec)
    wanted = _host(judge, of_gradients(judge.gradients(config, args)))
    for name, there, here in (("plain path", plain, judge.gru), ("path that is judged", judge.gru, plain)):
        _, _, tape = there.gru_forward(*args.positional, **options)
        grads = here.gru_backward(tape, args.dy, args.dh_n)
        for quantity, got in _host(judge, of_gradients(grads)).items():
            what = f"{quantity} with a tape of the {name}, and all on one path"
            judge.assert_agree(config, quantity, got, wanted[quantity], what)
