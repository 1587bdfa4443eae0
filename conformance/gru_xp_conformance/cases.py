"""The cases, in groups; each says in one line which mistake it catches.

A case is a function of a `Judge`. It raises `MismatchError` where a result is wrong, and `NotRunError` where there is
nothing to judge.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

import gru_xp
from gru_xp.discovery import Place
from gru_xp.params import GRUSpec

from . import tolerance
from .environment import variables
from .implementation import Arguments, Assembled, public
from .judge import Judge, MismatchError, NotRunError, Target
from .problems import ON_TAPE, Config, Quantity, expected, of_forward, of_gradients, problem

__all__ = ["BASE", "EVERYTHING", "GROUPS", "Case", "all_cases"]

#: the columns of the matrix
GROUPS = {
    "forward": "outputs and tape of gru_forward",
    "inference": "gru and gru_inference",
    "backward": "gradients of gru_backward",
    "cell": "one step",
    "streaming": "a sequence in pieces",
    "sizes": "1, primes, next to powers of two, nothing at all, very long",
    "ragged": "lengths and resets",
    "extremes": "saturation, denormals, NaN and infinity",
    "memory": "views, inputs unchanged, repetition, threads, devices",
    "laws": "laws over random configurations (Hypothesis)",
    "conversion": "computed here for the arrays of others",
}

BASE = Config()
EVERYTHING = Config(L=2, D=2, lengths=(5, 0, 3), resets=((0, 0), (4, 0), (2, 2), (4, 2)), dropout=True)
EMPTY = Config(L=2, D=2)
RAGGED = Config(D=2, lengths=(5, 0, 3))
ACTIVATED = RAGGED.but(gate=("hard_sigmoid", 0.3, 0.45), candidate=("elu", 0.7), clip=1.1, resets=((2, 0), (1, 2)))
HOLES = ((0, 0), (2, 0), (3, 1), (4, 1), (0, 2), (1, 2), (3, 2))
MASKED = Config(L=2, reverse=True, masked=HOLES, resets=((3, 0), (2, 0), (2, 1), (4, 2)))
HELD = MASKED.but(D=2, reverse=False, hold=True)


@dataclass(frozen=True)
class Case:
    """One case. `each_dtype`: in all dtypes of the backend, else in float32 alone. `quick`: part of a quick run too.

    `rows`: the front doors are judged on the plain rows, for they are the same whichever kernel stands behind them.
    """

    group: str
    name: str
    catches: str
    check: Callable[[Judge], None]
    each_dtype: bool = False
    quick: bool = True
    rows: Literal["every", "plain", "kernels"] = "every"

    def is_for(self, target: Target) -> bool:
        """Whether there is anything to judge on that row."""
        return self.rows in ("every", "plain" if target.kernel == "plain" else "kernels")

    def __str__(self) -> str:
        return f"{self.group}: {self.name}"


def all_cases() -> tuple[Case, ...]:
    """Every case, in the order of the columns."""
    from .conversion import conversion_cases
    from .laws import law_cases
    from .narrow import narrow_cases

    makers = (options, narrow_cases, cells, streaming, sizes, ragged, extremes, memory, law_cases, conversion_cases)
    cases = [case for maker in makers for case in maker()]
    return tuple(sorted(cases, key=lambda case: list(GROUPS).index(case.group)))


# ---- forward, inference, backward: every option ----------------------------------------------------------------------

VARIANTS: tuple[tuple[str, Config, str, str, bool], ...] = (
    # name, config, the mistakes that it catches forward and backward, quick
    (
        "one layer",
        BASE,
        "gates swapped, a bias dropped, the reset gate on the wrong side, z the wrong way round",
        "a term of the gradient missing or with a wrong sign",
        True,
    ),
    (
        "h0 left out",
        BASE.but(h0=False),
        "b_hh skipped at the first step because there is no state",
        "the first step left out of db_hh, or dh0 None",
        True,
    ),
    ("no biases", BASE.but(bias=False), "a bias made up where there is none", "gradients of biases made up", False),
    (
        "reset before the product",
        BASE.but(reset_after=False),
        "the other equation taken, or b_hn put inside r",
        "dW_hn from h where it is r * h, or the path through q forgotten",
        True,
    ),
    (
        "two directions",
        BASE.but(D=2),
        "directions swapped, or one direction's weights used for both",
        "the reverse direction walked back the wrong way, or its part of dx forgotten",
        True,
    ),
    (
        "three layers",
        BASE.but(L=3),
        "states of the layers in another order, or the input given to every layer",
        "a gradient that ends at a layer, or dW of the layers in another order",
        False,
    ),
    (
        "dropout in three layers",
        BASE.but(L=3, dropout=True),
        "a mask after the last layer, before the first, or the masks in another order",
        "masks forgotten on the way back",
        False,
    ),
    ("lengths", RAGGED, "a length off by one, h_n taken at T", "gradients from or into the padding", False),
    (
        "resets",
        BASE.but(D=2, resets=((0, 0), (4, 0), (2, 1), (2, 2), (3, 2))),
        "a reset after its step, or at another step in the reverse direction",
        "resets ignored on the way back",
        False,
    ),
    (
        "everything at once",
        EVERYTHING,
        "options that are right one by one and wrong together",
        "options that are right one by one and wrong together",
        True,
    ),
    (
        "everything, reset before the product",
        EVERYTHING.but(reset_after=False, h0=False),
        "options that the other equation does not follow",
        "options that the other equation does not follow",
        False,
    ),
)

# where trained models differ from cuDNN's; in float32 alone, because their arithmetic is that of the others
OTHER_SPECS: tuple[tuple[str, Config, str, str, bool], ...] = (
    (
        "other activations, clipped",
        ACTIVATED,
        "an activation with other constants, a clip after it, or z that is not 1 in the padding",
        "a derivative at the wrong place, a gradient through what was clipped",
        True,
    ),
    (
        "other activations, reset before the product",
        BASE.but(L=2, reset_after=False, gate=("softsign",), candidate=("softplus",), clip=2.0),
        "an equation that has sigmoid and tanh built in",
        "a derivative that takes the value for the argument",
        False,
    ),
    (
        "one direction, reversed",
        BASE.but(L=2, reverse=True, resets=((0, 0), (2, 1), (4, 2))),
        "y in the order of the walk, or a layer that runs the other way",
        "a reversed direction that is walked back as if it were not",
        False,
    ),
)


def options() -> Iterator[Case]:
    """Each option alone, and all of them together."""

    def forward(config: Config) -> Callable[[Judge], None]:
        def check(judge: Judge) -> None:
            judge.assert_forward(config, *judge.forward(config))

        return check

    def inference(config: Config) -> Callable[[Judge], None]:
        def check(judge: Judge) -> None:
            judge.assert_forward(config, *judge.inference(config))

        return check

    def backward(config: Config, save: str = "all") -> Callable[[Judge], None]:
        def check(judge: Judge) -> None:
            judge.assert_gradients(config, judge.gradients(config, save=save))

        return check

    for name, config, mistake, _, quick in VARIANTS:
        yield Case("forward", name, mistake, forward(config), True, quick)
    for name, config, mistake, _, quick in OTHER_SPECS:
        yield Case("forward", name, mistake, forward(config), quick=quick)
        yield Case("inference", name, f"{mistake}, where nothing is saved", inference(config), quick=False)
    yield Case(
        "forward",
        "a tape of states alone",
        "save='states' that keeps the gates, or changes the results",
        _states_alone,
        quick=False,
    )
    yield Case(
        "forward",
        "by the doors, with GRU_XP_KERNELS=auto",
        "a kernel chosen for what it does not serve, a tape that the other path cannot read, packed weights",
        _by_the_doors,
        each_dtype=True,
        rows="kernels",
    )
    for name, config, mistake, _, quick in VARIANTS:
        yield Case("inference", name, f"{mistake}, where nothing is saved", inference(config), True, quick)
    yield Case(
        "inference",
        "gru",
        "the front door that goes another way than gru_inference",
        lambda judge: judge.assert_forward(EVERYTHING, *judge.inference(EVERYTHING, function="gru")),
    )
    yield Case(
        "inference",
        "prepared parameters",
        "a layout of prepared weights that is read in another way",
        _prepared,
        quick=False,
        rows="plain",
    )
    for name, config in (("one layer", BASE), ("no biases", BASE.but(bias=False)), ("everything at once", EVERYTHING)):
        yield Case(
            "inference",
            f"weights that the kernel has packed, {name}",
            "packed weights that are read in another way, or written to",
            _packed(config),
            each_dtype=True,
            rows="kernels",
        )
    yield Case(
        "inference", "without a batch", "an axis lost or left over for x (T, I)", _unbatched, quick=False, rows="plain"
    )

    for name, config, _, mistake, quick in VARIANTS:
        yield Case("backward", name, mistake, backward(config), True, quick)
    for name, config, _, mistake, quick in OTHER_SPECS:
        yield Case("backward", name, mistake, backward(config), quick=quick)
    for name, config in (("one layer", BASE), ("everything at once", EVERYTHING)):
        yield Case(
            "backward",
            f"{name}, gates computed again",
            "a recomputation from another state or without the padding's rule",
            backward(config, "states"),
            each_dtype=name == "one layer",
            quick=name == "one layer",
        )
    yield Case(
        "backward",
        "gates computed again, reset before the product",
        "a recomputation by the other equation",
        backward(EVERYTHING.but(reset_after=False), "states"),
        quick=False,
    )
    for flows, other in (("dy", "dh_n"), ("dh_n", "dy")):
        yield Case(
            "backward",
            f"only {flows} flows in",
            f"{other}=None that is taken for ones, or for what came last",
            backward(EVERYTHING.but(flows=flows)),
            quick=False,
        )
    yield Case("backward", "a tape used again", "a backward pass that uses up or changes its tape", _tape_again)
    yield Case(
        "backward",
        "without a batch",
        "an axis lost or left over in the gradients",
        _unbatched_backward,
        quick=False,
        rows="plain",
    )


def _by_the_doors(judge: Judge) -> None:
    doors, mine = Judge(judge.target, judge.dtype, public), judge.target.kernel
    ran, seen = False, set[str]()
    with variables(GRU_XP_KERNELS="auto"):
        for config in (*(variant[1] for variant in VARIANTS), ACTIVATED, MASKED, HELD):
            args = doors.arguments(config)
            taken = {_taken(args, config, function) for function in ("inference", "forward")}
            ran, seen = ran or mine in taken, seen | taken
            if taken - {mine, "plain"}:
                continue
            y, h_n, tape = doors.forward(config, args)
            doors.assert_forward(config, y, h_n, tape)
            doors.assert_forward(config, *doors.inference(config, args))
            packed = replace(args, params=public.prepare(args.params))
            doors.assert_forward(config, *doors.inference(config, packed))
            doors.assert_gradients(config, doors.gru.gru_backward(tape, args.dy, args.dh_n))
    if not ran:
        raise NotRunError(f"GRU_XP_KERNELS=auto takes {', '.join(sorted(seen))}")
    judge.errors.update(doors.errors)


def _taken(args: Arguments, config: Config, function: Any = "inference") -> str:
    """The name of the kernel that such a call takes by the doors."""
    return gru_xp.explain(*args.positional, **args.options(config.spec), function=function).kernel


def _states_alone(judge: Judge) -> None:
    y, h_n, tape = judge.forward(EVERYTHING, save="states")
    if any(getattr(one, gate) is not None for layer in tape.layers for one in layer for gate in "rznu"):
        raise MismatchError("tape: expected no gates with save='states', got some")
    judge.assert_forward(EVERYTHING, y, h_n, tape)


def _prepared(judge: Judge) -> None:
    args = judge.arguments(EVERYTHING)
    args = replace(args, params=judge.gru.prepare(args.params))
    judge.assert_forward(EVERYTHING, *judge.inference(EVERYTHING, args))


def _packed(config: Config) -> Callable[[Judge], None]:
    def check(judge: Judge) -> None:
        pack = _of_kernel(judge, "pack")
        args = judge.arguments(config)
        judge.inference(config, args)  # a kernel packs for what it does not decline
        args = replace(args, params=tuple(tuple(map(pack, layer)) for layer in args.params))
        for _ in range(2):
            judge.assert_forward(config, *judge.inference(config, args))

    return check


def _of_kernel(judge: Judge, method: str) -> Any:
    """A method that a kernel may have."""
    found = getattr(getattr(judge.gru, "kernel", None), method, None)
    if found is None:
        raise NotRunError(f"the kernel has no {method}")
    return found


def _row(args: Arguments, row: int) -> tuple[Any, dict[str, Any]]:
    """The arguments of one row of the batch, without the batch."""
    options = args.options(GRUSpec())
    options["lengths"] = int(args.lengths[row])
    options["resets"] = args.resets[:, row]
    options["dropout_masks"] = args.dropout_masks[:, :, row, :]
    return (args.x[:, row, :], args.params, args.h0[:, row, :]), options


def _unbatched(judge: Judge) -> None:
    arrays, options = _row(judge.arguments(EVERYTHING), 2)
    y, h_n = judge.gru.gru_inference(*arrays, **options)
    judge.assert_belongs(y, "y", (EVERYTHING.T, 2 * EVERYTHING.H))
    judge.assert_belongs(h_n, "h_n", (4, EVERYTHING.H))
    wanted = expected(EVERYTHING, judge.dtype)
    for quantity, got in ((Quantity("y"), y), (Quantity("h_n"), h_n)):
        ref = wanted[quantity]
        assert ref is not None
        judge.assert_agree(EVERYTHING, quantity, judge.host(got), ref[:, 2], f"{quantity} of one row without a batch")


def _unbatched_backward(judge: Judge) -> None:
    args = judge.arguments(EVERYTHING)
    arrays, options = _row(args, 2)
    _, _, tape = judge.gru.gru_forward(*arrays, **options)
    grads = judge.gru.gru_backward(tape, args.dy[:, 2, :], args.dh_n[:, 2, :])
    wanted = expected(EVERYTHING, judge.dtype)
    for quantity, got in ((Quantity("dx"), grads.x), (Quantity("dh0"), grads.h0)):
        ref = wanted[quantity]
        assert ref is not None
        judge.assert_belongs(got, str(quantity), ref[:, 2].shape)
        judge.assert_agree(EVERYTHING, quantity, judge.host(got), ref[:, 2], f"{quantity} of one row without a batch")


def _tape_again(judge: Judge) -> None:
    args = judge.arguments(EVERYTHING)
    _, _, tape = judge.forward(EVERYTHING, args)
    first = judge.gru.gru_backward(tape, args.dy, args.dh_n)
    judge.gru.gru_backward(tape, args.dy * 2.0, None)
    again = judge.gru.gru_backward(tape, args.dy, args.dh_n)
    judge.assert_gradients(EVERYTHING, first)
    for (quantity, one), (_, other) in zip(of_gradients(first), of_gradients(again), strict=True):
        judge.assert_identical(one, other, f"{quantity} from one tape, twice")


# ---- one step --------------------------------------------------------------------------------------------------------


def cells() -> Iterator[Case]:
    """The cell's functions: a config of one step and one layer."""
    one_step = BASE.but(T=1, flows="dh_n")

    def inference(config: Config, function: str) -> Callable[[Judge], None]:
        def check(judge: Judge) -> None:
            args = judge.arguments(config)
            h1 = getattr(judge.gru, function)(args.x[0, ...], args.h0[0, ...], args.params[0][0], **_spec(config))
            judge.assert_quantities(config, [(Quantity("h_n"), h1[None, ...])])

        return check

    def backward(config: Config) -> Callable[[Judge], None]:
        def check(judge: Judge) -> None:
            args = judge.arguments(config)
            h1, tape = judge.gru.gru_cell_forward(args.x[0, ...], args.h0[0, ...], args.params[0][0], **_spec(config))
            grads = judge.gru.gru_cell_backward(tape, args.dh_n[0, ...])
            judge.assert_belongs(grads.x, "dx", (config.N, config.I))
            judge.assert_belongs(grads.h, "dh", (config.N, config.H))
            got = [
                (Quantity("h_n"), h1[None, ...]),
                (Quantity("dx"), grads.x[None, ...]),
                (Quantity("dh0"), grads.h[None, ...]),
            ]
            got += [(Quantity(f"d{name}"), a) for name, a in zip(grads.params._fields, grads.params, strict=True)]
            judge.assert_quantities(config, got)

        return check

    for name, config in (
        ("one step", one_step),
        ("reset before the product", one_step.but(reset_after=False)),
        ("no biases", one_step.but(bias=False)),
    ):
        line = "a cell whose equations are not those of the sequence"
        yield Case(
            "cell", f"gru_cell_inference, {name}", line, inference(config, "gru_cell_inference"), True, config.bias
        )
        yield Case(
            "cell",
            f"gru_cell_forward and gru_cell_backward, {name}",
            "a cell's gradient that lacks a term or has a wrong sign",
            backward(config),
            True,
            config.bias,
        )
    yield Case("cell", "gru_cell", "the front door that goes another way", inference(one_step, "gru_cell"), quick=False)


def _spec(config: Config) -> dict[str, Any]:
    return {"spec": config.spec}


# ---- streaming -------------------------------------------------------------------------------------------------------


def streaming() -> Iterator[Case]:
    """A sequence in pieces is the whole."""
    case = partial(Case, "streaming")
    stacked = BASE.but(L=2, resets=((0, 1), (2, 0), (3, 2)))

    def chunks(judge: Judge) -> None:
        args = judge.arguments(stacked)
        h, ys = args.h0, []
        for start, stop in ((0, 2), (2, 2), (2, 3), (3, 5)):  # one of them empty
            piece = replace(args, x=args.x[start:stop, ...], h0=h, resets=args.resets[start:stop, ...])
            y, h = judge.inference(stacked, piece)
            ys.append(y)
        judge.assert_forward(stacked, judge.backend.xp.concat(ys, axis=0), h)

    def backward(judge: Judge) -> None:
        args = judge.arguments(stacked)
        h, tapes, spans = args.h0, [], ((0, 2), (2, 3), (3, 5))
        for start, stop in spans:
            piece = replace(args, x=args.x[start:stop, ...], h0=h, resets=args.resets[start:stop, ...])
            _, h, tape = judge.forward(stacked, piece)
            tapes.append(tape)
        dh, dxs = args.dh_n, list[Any]()
        for (start, stop), tape in reversed(list(zip(spans, tapes, strict=True))):
            grads = judge.gru.gru_backward(tape, args.dy[start:stop, ...], dh)
            dh = grads.h0
            dxs.insert(0, grads.x)
        dx = judge.backend.xp.concat(dxs, axis=0)
        judge.assert_quantities(stacked, [(Quantity("dx"), dx), (Quantity("dh0"), dh)])

    def steps_of_the_cell(judge: Judge) -> None:
        args = judge.arguments(BASE)
        h, ys = args.h0[0, ...], []
        for t in range(BASE.T):
            h = judge.gru.gru_cell_inference(args.x[t, ...], h, args.params[0][0])
            ys.append(h)
        judge.assert_forward(BASE, judge.backend.xp.stack(ys), h[None, ...])

    def steps_of_the_model(config: Config) -> Callable[[Judge], None]:
        def check(judge: Judge) -> None:
            plain = judge.target.kernel == "plain"
            doors = judge if plain else Judge(judge.target, judge.dtype, public)
            with variables(GRU_XP_KERNELS="off" if plain else "auto"):
                args = doors.arguments(config)
                taken = "plain" if plain else _taken(replace(args, x=args.x[:1, ...], resets=None), config)
                if taken != judge.target.kernel:
                    raise NotRunError(f"GRU_XP_KERNELS=auto takes {taken}")
                model = doors.gru.GRU.from_params(args.params)
                state, ys = args.h0, []
                for t in range(config.T):
                    reset = None if args.resets is None else args.resets[t, ...]
                    y, state = model.step(args.x[t, ...], state, reset=reset)
                    ys.append(y)
                doors.assert_forward(config, doors.backend.xp.stack(ys), state)
            judge.errors.update(doors.errors)

        return check

    def steps_of_the_kernel(judge: Judge) -> None:
        stream, config = _of_kernel(judge, "stream"), BASE.but(L=2)
        args = judge.arguments(config)
        judge.inference(config, replace(args, x=args.x[:1, ...]))  # a kernel streams what it does not decline
        pack = getattr(stream.__self__, "pack", lambda w: w)
        steps = stream(tuple(tuple(map(pack, layer)) for layer in args.params), config.N)
        if steps is None:
            raise NotRunError("the kernel has no stream for such a call")
        state, ys, states = args.h0, [], []
        for t in range(config.T):
            y, state = steps.advance(args.x[t, ...], state)
            ys.append(y)
            states.append(state)
        judge.assert_forward(config, judge.backend.xp.stack(ys), state)
        for t, (y, state) in enumerate(zip(ys, states, strict=True)):
            judge.assert_identical(state[-1, ...], y, f"the last layer's state after step {t} and y")
        if steps.advance(args.x[0, :, :-1], state) is not None:
            raise MismatchError("a stream: expected None for an x with one input less, got results")

    yield case("chunks", "a chunk that forgets its h0, or an empty one that changes the state", chunks, True)
    yield case(
        "chunks on the way back", "dh0 of a chunk that is not what flows into the one before", backward, quick=False
    )
    yield case(
        "step by step with the cell",
        "a cell that differs from the loop, or a state that is rounded elsewhere",
        steps_of_the_cell,
        True,
        quick=False,
    )
    yield case(
        "step by step with the kernel's stream",
        "a layer left out, an output or a state that the next step writes to",
        steps_of_the_kernel,
        each_dtype=True,
        rows="kernels",
    )
    for name, config in (("GRU.step", BASE.but(L=2)), ("GRU.step and resets", stacked)):
        yield case(
            f"step by step with {name}",
            "a reset that comes one step late, an output that the next step writes to",
            steps_of_the_model(config),
            each_dtype=True,
            quick=name == "GRU.step",
        )


# ---- sizes -----------------------------------------------------------------------------------------------------------


def sizes() -> Iterator[Case]:
    """Odd and awkward sizes, forward and backward."""
    case = partial(Case, "sizes", each_dtype=True)
    edge = "elements past the last whole vector, tile or block"
    for T, N, I, H in (
        (1, 1, 1, 1),
        (3, 1, 2, 3),
        (2, 17, 31, 15),
        (3, 15, 33, 17),
        (2, 33, 17, 31),
        (3, 31, 15, 33),
        (2, 65, 127, 63),
        (3, 63, 129, 65),
        (2, 129, 63, 127),
        (3, 127, 65, 129),
        (37, 2, 13, 11),
    ):
        config = Config(T=T, N=N, I=I, H=H, seed=H)
        yield case(f"T={T} N={N} I={I} H={H}", edge, _both_ways(config), quick=H == 17 or N == 65)
    yield case(
        "T=0",
        "h_n that is not h0, or gradients that are not zero",
        _both_ways(EMPTY.but(T=0, lengths=(0, 0, 0), resets=())),
    )
    yield case("N=0", "a shape that is lost where there is no row", _both_ways(EMPTY.but(N=0, resets=())), quick=False)
    yield case(
        "T=2000",
        "blocks of time that do not meet, errors that grow",
        _both_ways(Config(T=2000, N=2, I=3, H=5, lengths=(2000, 1777))),
        quick=False,
    )
    yield case(
        "T=2000, gates computed again",
        "blocks of time that do not meet where gates are computed again",
        _both_ways(Config(T=2000, N=2, I=3, H=5, lengths=(2000, 1777)), "states"),
        quick=False,
    )


def _both_ways(config: Config, save: str = "all") -> Callable[[Judge], None]:
    """Forward, inference and backward."""

    def check(judge: Judge) -> None:
        args = judge.arguments(config)
        y, h_n, tape = judge.forward(config, args, save)
        judge.assert_forward(config, y, h_n, tape)
        judge.assert_forward(config, *judge.inference(config, args))
        judge.assert_gradients(config, judge.gru.gru_backward(tape, args.dy, args.dh_n))

    return check


# ---- lengths and resets ----------------------------------------------------------------------------------------------


def ragged() -> Iterator[Case]:
    """Rows that end early, and rows that begin anew."""
    case = partial(Case, "ragged", each_dtype=True)
    both = Config(D=2, L=2)

    def poisoned(config: Config, save: str = "all") -> Callable[[Judge], None]:
        def check(judge: Judge) -> None:
            args, p = judge.arguments(config), problem(config, judge.dtype)
            assert config.lengths is not None and p.dy is not None
            padding = np.arange(config.T)[:, None] >= np.asarray(config.lengths)
            x, dy = (judge.native(np.where(padding[..., None], np.nan, a)) for a in (p.x, p.dy))
            args = replace(args, x=x, dy=dy)
            y, h_n, tape = judge.forward(config, args, save)
            judge.assert_forward(config, y, h_n, tape)
            judge.assert_forward(config, *judge.inference(config, args))
            judge.assert_gradients(config, judge.gru.gru_backward(tape, args.dy, args.dh_n))

        return check

    def forms(judge: Judge) -> None:
        args = judge.arguments(RAGGED)
        for name, lengths in (
            ("a list", [int(n) for n in args.lengths]),
            ("NumPy int32", np.asarray(args.lengths, dtype=np.int32)),
            ("the library's own", judge.native(args.lengths)),
        ):
            try:
                judge.assert_forward(RAGGED, *judge.inference(RAGGED, replace(args, lengths=lengths)))
            except MismatchError as mismatch:
                raise MismatchError(f"lengths as {name}: {mismatch}") from None

    off_by_one = "a length off by one, or the reverse direction that begins in the padding"
    yield case(
        "all lengths 0",
        "h_n that is not h0, gradients that are not zero",
        _both_ways(both.but(lengths=(0, 0, 0))),
        quick=False,
    )
    yield case("all lengths T", "a last step that is lost", _both_ways(both.but(lengths=(5, 5, 5))), quick=False)
    yield case("lengths 1 and T-1", off_by_one, _both_ways(both.but(lengths=(1, 4, 5))), quick=False)
    yield case(
        "NaN in the padding",
        "padding that is multiplied by zero, not left out",
        poisoned(both.but(lengths=(5, 0, 3))),
    )
    yield case(
        "NaN in the padding, gates computed again",
        "padding that gets in where gates are computed again",
        poisoned(both.but(lengths=(2, 5, 0), reset_after=False), "states"),
        quick=False,
    )
    yield case(
        "resets at the first and the last step",
        "h0 that passes a reset at step 0, or the reverse direction cut one step off",
        _both_ways(both.but(resets=((0, 0), (4, 1), (0, 2), (4, 2)))),
    )
    yield case(
        "a reset at every step",
        "a state that leaks from one step into the next",
        _both_ways(both.but(resets=tuple((t, n) for t in range(5) for n in range(3)))),
        quick=False,
    )
    yield case(
        "resets in the padding",
        "a reset behind the end that wipes h_n or cuts the reverse direction",
        _both_ways(both.but(lengths=(3, 0, 5), resets=((3, 0), (4, 0), (0, 1), (2, 1), (1, 2)))),
        quick=False,
    )
    yield Case(
        "ragged",
        "a mask with holes, reversed",
        "padding that is looked for at the end alone, a reset in a hole",
        _both_ways(MASKED),
    )
    yield Case(
        "ragged",
        "the state held in the padding",
        "y that is zero in the padding, or a gradient that does not flow from there",
        _both_ways(HELD),
        quick=False,
    )
    yield case(
        "lengths as lists and as arrays", "lengths that are right in one form alone", forms, quick=False, rows="plain"
    )


# ---- extremes --------------------------------------------------------------------------------------------------------


def extremes() -> Iterator[Case]:
    """Values at the ends of what a dtype holds."""
    case = partial(Case, "extremes", each_dtype=True)

    def denormals(judge: Judge) -> None:
        _both_ways(Config(scale=tolerance.TINY[judge.dtype] / 8))(judge)

    def stranger(value: float) -> Callable[[Judge], None]:
        def check(judge: Judge) -> None:
            config = BASE.but(D=2)
            args, p = judge.arguments(config), problem(config, judge.dtype)
            x = p.x.copy()
            x[2, 1, 4] = value
            args = replace(args, x=judge.native(x))
            y, h_n, tape = judge.forward(config, args)
            grads = judge.gru.gru_backward(tape, args.dy, args.dh_n)
            wanted, others = expected(config, judge.dtype), [0, 2]
            for quantity, got in (("y", y), ("h_n", h_n), ("dx", grads.x), ("dh0", grads.h0)):
                ref = wanted[Quantity(quantity)]
                assert ref is not None
                what = f"{quantity} of the rows beside one with {value}"
                judge.assert_agree(config, Quantity(quantity), judge.host(got)[:, others], ref[:, others], what)
            if np.isnan(value) and not np.isnan(judge.host(y)[2, 1]).all():
                raise MismatchError("y: expected NaN at t = 2 of the row with NaN, got numbers")

        return check

    # with this seed every argument of a gate is above 300: a sigmoid of -20 may be 0 or not, which nobody promises
    overflow = "exp that overflows, 0 * infinity, NaN in the gradient"
    yield case("saturated gates", overflow, _both_ways(Config(scale=1e4, seed=175)))
    yield case("half-saturated gates", "a sigmoid or tanh that is rough in its tails", _both_ways(Config(scale=30.0)))
    yield case("denormal inputs", "a division by what underflows", denormals, quick=False)
    leak = "a value that leaks from one row into another"
    yield case("NaN in one row", leak, stranger(np.nan))
    yield case("infinity in one row", leak, stranger(np.inf), quick=False)


# ---- memory ----------------------------------------------------------------------------------------------------------


def memory() -> Iterator[Case]:
    """Whose memory is read and written, when, by whom and where."""
    case = partial(Case, "memory")
    yield case("views", "strides that are not looked at", _views)
    yield case("read-only arrays", "a write to what the caller has locked", _read_only, quick=False)
    yield case("inputs unchanged", "a write to the caller's arrays", _inputs_unchanged)
    yield case("the same bits again", "results that depend on chance, or on what came before", _same_bits)
    yield case("results are kept", "a workspace that is handed out, then used again", _results_kept)
    yield case(
        "results have memory of their own", "a result that is an input, or a part of another result", _own_memory
    )
    yield case(
        "parameters are owned",
        "a model that changes with the arrays that it was made from, or with what it hands out",
        _owned,
        rows="plain",
    )
    yield case("two threads", "a workspace that two calls share", _threads)
    yield case("another device", "results on the default device, not where the inputs are", _devices)


def _views(judge: Judge) -> None:
    xp, config = judge.backend.xp, BASE

    def permuted(a: Any) -> Any:
        axes = tuple(reversed(range(a.ndim)))
        return xp.permute_dims(judge.native(np.ascontiguousarray(np.transpose(judge.host(a), axes))), axes)

    def every_other(a: Any) -> Any:
        wide = np.repeat(judge.host(a), 2, axis=-1)
        wide[..., 1::2] = np.nan
        return judge.native(wide)[..., ::2]

    def backwards(a: Any) -> Any:
        return judge.native(np.ascontiguousarray(judge.host(a)[::-1]))[::-1, ...]

    def inner(a: Any) -> Any:
        wide = np.pad(judge.host(a), [(1, 2)] * a.ndim, constant_values=np.nan)
        return judge.native(wide)[tuple(slice(1, -2) for _ in range(a.ndim))]

    seen = []
    for name, view in (
        ("permuted", permuted),
        ("every other", every_other),
        ("backwards", backwards),
        ("inner", inner),
    ):
        args = judge.arguments(config)
        try:
            made = Arguments.of(args, view)
        except ValueError:  # PyTorch has no negative strides
            continue
        seen.append(name)
        try:
            y, h_n, tape = judge.forward(config, made)
            judge.assert_forward(config, y, h_n, tape)
            judge.assert_forward(config, *judge.inference(config, made))
            judge.assert_gradients(config, judge.gru.gru_backward(tape, made.dy, made.dh_n))
        except MismatchError as mismatch:
            raise MismatchError(f"views, {name}: {mismatch}") from None
    if len(seen) < 3:
        raise MismatchError(f"views: expected at least three kinds to be possible, got {seen}")
    empty = judge.arguments(config)
    y, h_n = judge.inference(config, replace(empty, x=empty.x[2:2, ...]))
    judge.assert_belongs(y, "y of a zero-size view", (0, config.N, config.H))
    judge.assert_identical(h_n, empty.h0, "h_n of a zero-size view")


def _read_only(judge: Judge) -> None:
    args = judge.arguments(EVERYTHING)
    if not hasattr(args.x, "flags") or not hasattr(args.x.flags, "writeable"):
        raise NotRunError(f"{judge.backend.name} has no read-only arrays")

    def locked(a: Any) -> Any:
        a.flags.writeable = False
        return a

    args = Arguments.of(args, locked)
    y, h_n, tape = judge.forward(EVERYTHING, args)
    judge.assert_forward(EVERYTHING, y, h_n, tape)
    judge.assert_forward(EVERYTHING, *judge.inference(EVERYTHING, args))
    judge.assert_gradients(EVERYTHING, judge.gru.gru_backward(tape, args.dy, args.dh_n))


def _inputs_unchanged(judge: Judge) -> None:
    args = judge.arguments(EVERYTHING)
    before = {name: judge.host(a).copy() for name, a in args.named()}

    def assert_unchanged(call: str) -> None:
        for name, a in args.named():
            if not np.array_equal(judge.host(a), before[name]):
                raise MismatchError(f"{name}: expected to be as before {call}, got written to")

    judge.inference(EVERYTHING, args)
    assert_unchanged("gru_inference")
    y, h_n, tape = judge.forward(EVERYTHING, args)
    kept = {str(q): judge.host(a).copy() for q, a in of_forward(y, h_n, tape.layers)}
    assert_unchanged("gru_forward")
    judge.gru.gru_backward(tape, args.dy, args.dh_n)
    assert_unchanged("gru_backward")
    for quantity, a in of_forward(y, h_n, tape.layers):
        if not np.array_equal(judge.host(a), kept[str(quantity)], equal_nan=True):
            raise MismatchError(f"{quantity}: expected to be as before gru_backward, got written to")


def _all_results(judge: Judge, config: Config) -> list[tuple[Quantity, Any]]:
    args = judge.arguments(config)
    y, h_n, tape = judge.forward(config, args)
    grads = judge.gru.gru_backward(tape, args.dy, args.dh_n)
    return [*of_forward(*judge.inference(config, args)), *of_forward(y, h_n), *of_gradients(grads)]


def _same_bits(judge: Judge) -> None:
    first = _all_results(judge, EVERYTHING)
    _all_results(judge, EVERYTHING.but(seed=1))
    for (quantity, one), (_, other) in zip(first, _all_results(judge, EVERYTHING), strict=True):
        judge.assert_identical(one, other, f"{quantity} of the same call, with another in between")


def _results_kept(judge: Judge) -> None:
    results = _all_results(judge, EVERYTHING)
    kept = [judge.host(a).copy() for _, a in results]
    _all_results(judge, EVERYTHING.but(seed=1))
    for (quantity, a), before in zip(results, kept, strict=True):
        if not np.array_equal(judge.host(a), before):
            raise MismatchError(f"{quantity}: expected to be kept, got written to by the next call")


def _assert_writable(judge: Judge) -> None:
    if not _written(judge.native(np.zeros((1, 1)))):
        raise NotRunError(f"{judge.backend.name} has no arrays that can be written to")


def _written(a: Any) -> bool:
    """Whether -7 could be written to all of an array, which is nobody's result."""
    try:
        a[...] = -7.0
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def _own_memory(judge: Judge) -> None:
    _assert_writable(judge)
    for config in (BASE, BASE.but(T=1), BASE.but(T=0), BASE.but(lengths=(0, 0, 0)), EVERYTHING):
        args = judge.arguments(config)
        y, h_n, tape = judge.forward(config, args)
        grads = judge.gru.gru_backward(tape, args.dy, args.dh_n)
        results = {f"{q} of gru_inference": a for q, a in of_forward(*judge.inference(config, args))}
        results |= {f"{q} of gru_forward": a for q, a in of_forward(y, h_n)}
        results |= {str(q): a for q, a in of_gradients(grads)}
        others = {**dict(args.named()), **{str(q): a for q, a in of_forward(y, h_n, tape.layers) if q.kind in ON_TAPE}}
        everything = {name: a for name, a in {**others, **results}.items() if a is not None and math.prod(a.shape) > 0}
        kept = {name: judge.host(a).copy() for name, a in everything.items()}
        for name in [name for name in results if name in everything]:
            if not _written(everything[name]):
                raise MismatchError(f"{name}: expected an array that can be written to, got another, in {config}")
            del kept[name]
            for other, before in kept.items():
                if not np.array_equal(judge.host(everything[other]), before):
                    raise MismatchError(f"{name}: expected memory of its own, got that of {other}, in {config}")


def _owned(judge: Judge) -> None:
    _assert_writable(judge)
    args = judge.arguments(BASE)
    model, prepared = judge.gru.GRU.from_params(args.params), judge.gru.prepare(args.params)
    (w,) = args.params[0]
    (handed,) = model.params[0]

    def held(what: str) -> None:
        try:
            judge.assert_forward(BASE, *model(args.x, args.h0))
            judge.assert_forward(BASE, *judge.inference(BASE, replace(args, params=prepared)))
        except MismatchError as mismatch:
            raise MismatchError(f"expected to compute the same after a write to {what}: {mismatch}") from None

    for name, mine, given in zip(w._fields, w, handed, strict=True):
        _written(given)  # it may be read-only
        held(f"model.params[0][0].{name}")
        _written(mine)
        held(f"the {name} that the model was made from")


def _threads(judge: Judge) -> None:
    configs = (EVERYTHING, EVERYTHING.but(seed=1))
    alone = [[judge.host(a).copy() for _, a in _all_results(judge, config)] for config in configs]

    def rounds(config: Config, wanted: list[Any]) -> None:
        until = time.monotonic() + 0.2
        while True:
            for (quantity, got), ref in zip(_all_results(judge, config), wanted, strict=True):
                if not np.array_equal(judge.host(got), ref):
                    raise MismatchError(f"{quantity}: expected the same bits with another thread at work, got others")
            if time.monotonic() > until:
                break

    with ThreadPoolExecutor(len(configs)) as pool:
        for done in [pool.submit(rounds, config, wanted) for config, wanted in zip(configs, alone, strict=True)]:
            done.result()


def _devices(judge: Judge) -> None:
    here = judge.backend.device_name(judge.place.device)
    others = [name for name in judge.backend.devices() if name != here]
    if not others:
        raise NotRunError(f"{judge.backend.name} has one device here, {here}")
    ran = False
    for name in others:
        try:
            place = Place(judge.backend, judge.backend.device(name))
            gru = Assembled(place, judge.gru.kernel) if isinstance(judge.gru, Assembled) else judge.gru
            there = Judge(replace(judge.target, device=name), judge.dtype, gru)
            args = there.arguments(EVERYTHING)
        except (TypeError, ValueError, RuntimeError):  # a device without this dtype
            continue
        ran = True
        y, h_n, tape = there.forward(EVERYTHING, args)
        there.assert_forward(EVERYTHING, y, h_n, tape)
        there.assert_gradients(EVERYTHING, there.gru.gru_backward(tape, args.dy, args.dh_n))
    if not ran:
        raise NotRunError(f"none of {', '.join(others)} has {judge.dtype}")
