"""The fused CPU layer against the plain layer and against the reference, at every width of vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import array_api_compat.numpy as xp
import ml_dtypes  # noqa: F401 # tells NumPy the name of its bfloat16

from gru_xp.backend import Backend
from gru_xp.cell import Gates
from gru_xp.errors import DTypeError, ShapeError
from gru_xp.interfaces import Options
from gru_xp.layer import Layer
from gru_xp.params import CellParams, GRUSpec, LayerTape
from gru_xp_conformance import reference, tolerance
from gru_xp_cpu import CpuLayer, reset_for_tests
from gru_xp_cpu.emit.target import widths

PLAIN, FUSED = Layer(Backend("numpy", xp), Gates(xp)), CpuLayer()
QUANTITIES = ["y", "h_n", "h_prev", "r", "z", "n", "u", "dx", "dh0", "dW_ih", "dW_hh", "db_ih", "db_hh"]
SIZES = [  # T, N, I, H
    (1, 1, 1, 1),
    (1, 1, 5, 70),
    (1, 1, 130, 64),
    (1, 2, 17, 33),
    (1, 3, 70, 16),
    (1, 5, 1, 130),
    (1, 8, 130, 65),
    (1, 13, 90, 50),
    (1, 16, 33, 130),
    (1, 17, 17, 33),
    (5, 1, 3, 7),
    (4, 3, 33, 16),
    (7, 9, 20, 33),
    (3, 17, 5, 50),
    (2, 8, 16, 64),
    (0, 3, 4, 5),
    (3, 0, 4, 5),
    (9, 33, 30, 40),
    (3, 2, 1, 130),
]

KNOWN: dict[
    Any, Any
] = {}  # what the plain layer says, in the case's dtype and in long double, for all widths and threads


@pytest.fixture(params=[f"{bits}" for bits in widths()])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("GRU_XP_CPU_WIDTH", request.param)
    reset_for_tests()
    yield str(request.param)
    reset_for_tests()


class Case:
    """Random arrays for one call; padding is NaN."""

    def __init__(
        self,
        sizes: tuple[int, int, int, int],
        dtype: str,
        *,
        bias: bool = True,
        lengths: bool = False,
        resets: bool = False,
        reverse: bool = False,
        save: str = "all",
        dy: bool = True,
        dh_n: bool = True,
    ):
        T, N, I, H = sizes
        rng = np.random.default_rng([*sizes, lengths, resets])
        self.key = sizes, dtype, bias, lengths, resets, reverse, dy, dh_n
        k = H**-0.5

        def normal(*shape: int) -> Any:
            return rng.standard_normal(shape).astype(dtype)

        def weight(*shape: int) -> Any:
            return rng.uniform(-k, k, shape).astype(dtype)

        biases = (weight(3 * H), weight(3 * H)) if bias else (None, None)
        self.w = CellParams(weight(3 * H, I), weight(3 * H, H), *biases)
        self.x, self.h0, self.dy, self.dh_n = normal(T, N, I), normal(N, H), normal(T, N, H), normal(N, H)
        self.lengths = rng.integers(0, T + 1, N) if lengths else None
        self.valid = None if self.lengths is None else np.arange(T)[:, None] < self.lengths
        self.resets = rng.random((T, N)) < 0.3 if resets else None
        if self.valid is not None:
            self.x[~self.valid] = self.dy[~self.valid] = np.nan
        self.dtype, self.reverse, self.save = dtype, reverse, save
        self.dy, self.dh_n = self.dy if dy else None, self.dh_n if dh_n else None

    def run(self, layer: Any, dtype: str) -> dict[str, Any]:
        def of(a: Any) -> Any:
            return None if a is None else a.astype(dtype)

        options = Options(GRUSpec(), self.valid, self.resets, self.reverse)
        w = CellParams(*map(of, self.w))
        y, h_n, tape = layer.forward(of(self.x), of(self.h0), w, options._replace(save=self.save))
        dx, dh0, dw = layer.backward(tape, of(self.dy), of(self.dh_n))
        again = layer.inference(of(self.x), of(self.h0), w, options)
        np.testing.assert_array_equal(y, again[0])
        np.testing.assert_array_equal(h_n, again[1])
        return dict(zip(QUANTITIES, [y, h_n, tape.h_prev, tape.r, tape.z, tape.n, tape.u, dx, dh0, *dw], strict=True))

    def check(self) -> None:
        if self.key not in KNOWN:
            KNOWN[self.key] = self.run(PLAIN, self.dtype), self.run(PLAIN, "longdouble")
        got, (plain, ref) = self.run(FUSED, self.dtype), KNOWN[self.key]
        for name in QUANTITIES:
            if not (self.save == "states" and name in "rznu"):
                assert got[name] is None or got[name].dtype == plain[name].dtype, name
                close(name, got[name], plain[name], ref[name], self.dtype)


def close(name: str, got: Any, plain: Any, ref: Any, dtype: str) -> None:
    if ref is None:
        assert got is None, name
        return
    assert got.shape == ref.shape, name
    if ref.size:
        # a single small number may come from the difference of numbers near one: they set the scale too
        plain, got = plain.astype(ref.dtype), got.astype(ref.dtype)
        bound = tolerance.bound(float(np.max(np.abs(plain - ref))), np.append(ref, 1.0), dtype)
        assert np.max(np.abs(got - ref)) <= bound, name


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_option_equals_the_plain_layer(sizes: tuple[int, int, int, int], dtype: str, width: str) -> None:
    for lengths in (False, True):
        for resets in (False, True):
            for reverse in (False, True):
                for save in ("all", "states"):
                    Case(sizes, dtype, lengths=lengths, resets=resets, reverse=reverse, save=save).check()
    Case(sizes, dtype, bias=False).check()
    Case(sizes, dtype, bias=False, save="states", dy=False).check()
    Case(sizes, dtype, dh_n=False).check()
    Case(sizes, dtype, lengths=True, dy=False, dh_n=False).check()


@pytest.mark.parametrize("threads", ["1", "2", "3", "7"])
@pytest.mark.parametrize(
    "sizes",
    [
        (80, 8, 64, 96),
        (50, 33, 64, 96),
        (30, 1, 300, 257),
        (60, 5, 100, 40),
        (600, 17, 20, 30),
        (1, 7, 333, 257),
        (1, 16, 333, 257),
    ],
    ids=str,
)
def test_threads_and_blocks_of_time(
    sizes: tuple[int, int, int, int], threads: str, width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRU_XP_NUM_THREADS", threads)
    for options in ({}, {"save": "states"}, {"lengths": True, "resets": True, "reverse": True, "save": "states"}):
        case = Case(sizes, "float32", **options)  # type: ignore[arg-type]
        case.check()
        first, second = case.run(FUSED, "float32"), case.run(FUSED, "float32")
        for name in QUANTITIES:
            np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "sizes", [(80, 8, 64, 96), (30, 1, 300, 257), (600, 17, 20, 30), (1, 16, 333, 257), (3, 600, 5, 20)], ids=str
)
def test_threads_and_blocks_of_time_in_16_bits(
    sizes: tuple[int, int, int, int], dtype: str, width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums over blocks are kept in float32: rounded after each of them, they would lose what is small."""
    monkeypatch.setenv("GRU_XP_NUM_THREADS", "3")
    for options in ({}, {"lengths": True, "resets": True, "reverse": True, "save": "states"}):
        case = Case(sizes, dtype, **options)  # type: ignore[arg-type]
        case.check()
        first, second = case.run(FUSED, dtype), case.run(FUSED, dtype)
        for name in QUANTITIES:
            np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_state_is_rounded_after_each_step(dtype: str, width: str) -> None:
    """Where a step moves it by less than half a unit in the last place it does not move, however many there are."""
    T, N, H = 400, 3, 21
    one = np.ones((N, H), dtype)
    for moves in (False, True):
        z = np.log(tolerance.EPS[dtype]) * (0.5 if moves else 2)  # 1 - z of the update gate, about
        bias = np.repeat(np.array([0.0, -z, 0.0], dtype), H)
        zeros = np.zeros((3 * H, H), dtype)
        y, h_n = FUSED.inference(np.zeros((T, N, H), dtype), one, CellParams(zeros, zeros, bias, 0 * bias), Options())
        assert np.array_equal(h_n, one) != moves and np.array_equal(y[-1], h_n)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("save", ["all", "states"])
def test_the_weights_gradients_are_rounded_once(save: Any, dtype: str, width: str) -> None:
    """Sums over blocks of time that each add less than half a unit in the last place: all of them together count."""
    T, N, I, H = 2000, 17, 5, 21
    w = CellParams(*(np.zeros(shape, dtype) for shape in ((3 * H, I), (3 * H, H), 3 * H, 3 * H)))
    w.b_ih[H : 2 * H] = -30  # the update gate is closed, so the state is the candidate: zero
    dy = np.full((T, N, H), tolerance.EPS[dtype], dtype)
    dy[-200:] = 1.0
    options = Options(save=save)
    *_, tape = FUSED.forward(np.ones((T, N, I), dtype), np.zeros((N, H), dtype), w, options)
    _, _, dw = FUSED.backward(tape, dy, None)
    total = np.sum(dy[:, :, 0], dtype="f8")
    assert np.array_equal(dw.W_ih[2 * H :], np.full((H, I), total, dtype))
    assert np.array_equal(dw.b_ih[2 * H :], np.full(H, total, dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_long_calls_in_pieces(dtype: str, width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call goes into native code several times, so that Ctrl-C is seen; the result does not show it."""
    from gru_xp_cpu.calling import plan

    case = Case((700, 9, 6, 20), dtype, lengths=True, resets=True, reverse=True)
    whole = case.run(FUSED, dtype)
    monkeypatch.setattr(plan, "SEGMENT", 1.0)
    reset_for_tests()
    try:
        pieces = case.run(FUSED, dtype)
    finally:
        reset_for_tests()
    for name in QUANTITIES:
        np.testing.assert_array_equal(whole[name], pieces[name])


def test_against_the_reference() -> None:
    """A loop over rows, steps and gates, written without a look at the layer."""
    for reverse in (False, True):
        case = Case((6, 3, 5, 9), "float64", lengths=True, resets=True, reverse=reverse)
        options = reference.Options(lengths=list(case.lengths), resets=case.resets)  # type: ignore[arg-type]
        x, dy = np.nan_to_num(case.x), np.nan_to_num(case.dy)
        w = reference.Weights(*case.w)
        run = reference.walk(x, case.h0, w, options, reverse)
        dx, dh0, dw = reference.walk_back(run, dy, case.dh_n, w, options, reverse)  # type: ignore[arg-type]
        got = case.run(FUSED, "float64")
        for name, want in zip(("y", "h_n", "dx", "dh0", *QUANTITIES[-4:]), (run.y, run.h_n, dx, dh0, *dw), strict=True):
            close(name, got[name], want, want, "float64")


@pytest.mark.parametrize("change", [lambda a: a.astype("float16"), lambda a: a[:3]], ids=["type", "steps"])
@pytest.mark.parametrize(
    ("save", "names"),
    [("all", ["h_prev"]), ("all", ["u"]), ("all", ["h_prev", "r", "z", "n", "u"]), ("states", ["h_prev"])],
    ids=str,
)
def test_a_tape_that_was_changed_is_not_read(change: Any, save: str, names: list[str]) -> None:
    """A kernel would go on behind the end of an array."""
    case = Case((5, 2, 3, 4), "float32")
    options = Options()
    *_, tape = FUSED.forward(case.x, case.h0, case.w, options._replace(save=save))
    changed = tape._replace(**{name: change(getattr(tape, name)) for name in names})
    with pytest.raises((DTypeError, ShapeError), match=rf"tape\.({'|'.join(names)}): expected .*, got"):
        FUSED.backward(changed, case.dy, None)


def odd(a: Any) -> Any:
    """The same numbers, which neither begin at the array's address nor follow each other; a bias with strides."""
    return np.asfortranarray(a)[..., ::-1].copy(order="F")[..., ::-1]


@pytest.mark.parametrize("sizes", [(1, 1, 6, 10), (5, 3, 6, 10), (40, 16, 40, 64)], ids=str)
def test_arrays_of_any_layout(sizes: tuple[int, int, int, int]) -> None:
    """Strides, read-only memory, foreign byte order: taken as they are or copied, never written to."""
    case = Case(sizes, "float32")
    T, N, _, H = sizes
    options = Options()
    y, h_n, tape = FUSED.forward(case.x, case.h0, case.w, options._replace(save="all"))
    dx, dh0, dw = FUSED.backward(tape, case.dy, case.dh_n)
    for a in (case.x, case.h0, case.dy, case.dh_n, *case.w):
        a.flags.writeable = False

    def same(got: tuple[Any, ...], wanted: tuple[Any, ...]) -> None:
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(a, b)

    wide = np.zeros((T, N, 3 * H), np.float32)
    wide[..., H : 2 * H] = case.dy
    views = CellParams(*map(odd, case.w))
    y2, h2, tape2 = FUSED.forward(odd(case.x), odd(case.h0), views, options._replace(save="all"))
    same((y2, h2), (y, h_n))
    dx2, dh2, dw2 = FUSED.backward(tape2, wide[..., H : 2 * H], odd(case.dh_n))
    same((dx2, dh2, *dw2), (dx, dh0, *dw))
    swapped = CellParams(*(a.astype(a.dtype.newbyteorder()) for a in case.w))
    same(FUSED.inference(case.x.astype(">f4"), case.h0, swapped, options), (y, h_n))
    assert y.flags.c_contiguous and y.flags.writeable

    swapped_tape = tape._replace(x=case.x.astype(">f4"), h_prev=tape.h_prev.astype(">f4"), w=swapped)
    gates = {name: getattr(tape, name).astype(">f4") for name in "rznu"}
    grads = FUSED.backward(swapped_tape._replace(**gates), case.dy.astype(">f4"), case.dh_n.astype(">f4"))
    same((*grads[:2], *grads[2]), (dx, dh0, *dw))
    for odd_tape in (tape2, tape):
        grads = FUSED.backward(odd_tape._replace(w=views), None, case.dh_n)
        wanted = FUSED.backward(tape, None, case.dh_n)
        same((*grads[:2], *grads[2]), (*wanted[:2], *wanted[2]))

    # one at a time, so that each is looked at
    for name in ("x", "h0", *CellParams._fields):
        given = {"x": case.x, "h0": case.h0, **case.w._asdict()}
        given[name] = odd(given[name])
        x, h0, *weights = given.values()
        same(FUSED.inference(x, h0, CellParams(*weights), options), (y, h_n))
    for name in ("x", "h_prev", "r", "z", "n", "u"):
        grads = FUSED.backward(tape._replace(**{name: odd(getattr(tape, name))}), case.dy, case.dh_n)
        same((*grads[:2], *grads[2]), (dx, dh0, *dw))
    for name in CellParams._fields:
        w = case.w._replace(**{name: odd(getattr(case.w, name))})
        grads = FUSED.backward(tape._replace(w=w), case.dy, case.dh_n)
        same((*grads[:2], *grads[2]), (dx, dh0, *dw))


def test_tapes_are_exchanged_with_the_plain_path() -> None:
    case = Case((6, 3, 5, 9), "float64", lengths=True, resets=True, reverse=True)
    options = Options(GRUSpec(), case.valid, case.resets, reverse=True)
    tapes: list[LayerTape] = [
        layer.forward(case.x, case.h0, case.w, options._replace(save="all"))[2] for layer in (PLAIN, FUSED)
    ]
    results = [layer.backward(tape, case.dy, case.dh_n) for layer in (PLAIN, FUSED) for tape in tapes]
    for dx, dh0, dw in results[1:]:
        for got, want in zip((dx, dh0, *dw), (*results[0][:2], *results[0][2]), strict=True):
            close("gradient", got, want, want, "float64")
