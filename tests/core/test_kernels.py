"""The registry of kernels and their choice; the fused gates of NumPy and PyTorch against the plain ones."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.metadata import EntryPoint
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import assert_close, random_problem, to_library
from libraries import torch

import gru_xp
from gru_xp import discovery, errors, kernels
from gru_xp.cell import Gates
from gru_xp.interfaces import Call, Kernel
from gru_xp.kernels import ordinary_call
from gru_xp.layer import Layer

FUSED = [("numpy", "gru_xp_numpy.gates"), ("torch", "gru_xp_torch.gates")]
LIBRARIES = (f"lib{n}" for n in count())  # kernels are looked up once for each library
ROUNDING = {"float64": 1e-15, "float32": 5e-7}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 3, 5), (2, 0)])
@pytest.mark.parametrize(("library", "module"), FUSED)
def test_gates_pair_equals_the_plain_one(library: str, module: str, shape: tuple[int, ...], dtype: str) -> None:
    kernel, plain = import_module(module).kernel, Gates(discovery.load(library).xp)
    rng = np.random.default_rng(0)
    H = shape[-1]
    wide = (*shape[:-1], 3 * H)

    def draw(*, scale: float = 1.0, of: tuple[int, ...] = shape):
        return to_library(library, rng.normal(scale=scale, size=of).astype(dtype))

    gi, gh, h, dh1 = draw(scale=3.0, of=wide), draw(of=wide), draw(), draw()
    names = ("h1", "r", "z", "n", "u")
    expected = dict(zip(names, plain.forward(gi, gh, h), strict=True))
    assert_close(dict(zip(names, kernel.forward(gi, gh, h), strict=True)), expected, ROUNDING[dtype])
    assert_close({"h1": kernel.inference(gi, gh, h)}, {"h1": expected["h1"]}, ROUNDING[dtype])
    gates = (h, expected["r"], expected["z"], expected["n"], expected["u"])
    names = ("dgi", "dgh", "dh")
    assert_close(
        dict(zip(names, kernel.backward(dh1, *gates), strict=True)),
        dict(zip(names, plain.backward(dh1, *gates), strict=True)),
        ROUNDING[dtype],
    )


@pytest.mark.parametrize(("library", "module"), FUSED)
def test_saturated_gates_stand_still_and_keep_nan(library: str, module: str) -> None:
    kernel = import_module(module).kernel
    gi = to_library(library, np.array([[-1e4, np.inf, 3.0], [1e4, -1e4, 1e4], [0.0, np.nan, 0.0]]))
    gh = to_library(library, np.zeros((3, 3)))
    h = to_library(library, np.array([[0.3], [0.3], [0.3]]))
    h1 = np.asarray(kernel.forward(gi, gh, h)[0])
    assert h1[0, 0] == 0.3  # z = 1: exactly
    assert h1[1, 0] == 1.0  # z = 0: the candidate
    assert np.isnan(h1[2, 0])


def test_require_says_what_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(0)
    monkeypatch.setenv("GRU_XP_KERNELS", "require")
    with pytest.raises(errors.KernelError, match=r"numpy-gates \(gates\): with reset_after=False"):
        gru_xp.gru(problem.x, problem.params, spec=gru_xp.GRUSpec(reset_after=False))
    with pytest.raises(errors.KernelError, match="none is installed"):
        gru_xp.gru(problem.x, problem.params, backend="array_api_strict")


def test_kernels_are_asked_in_order_of_level_and_failures_are_not_hidden() -> None:
    class Failing:
        name, level = "failing", "stack"

        def refuses(self, call):
            asked.append(call)

        def inference(self, *args, **options):
            raise ZeroDivisionError("a bug")

    class Declining(Failing):
        name = "declining"

        def refuses(self, call):
            return "it is Tuesday"

    asked: list[Call] = []
    problem = random_problem(0)

    class Backend(type(discovery.load("numpy"))):
        def kernels(self):
            return (Declining(), Failing())

    backend = Backend()
    with pytest.raises(ZeroDivisionError, match="a bug"):
        gru_xp.gru(problem.x, problem.params, lengths=problem.lengths, backend=backend)
    (call,) = asked
    assert (call.T, call.N, call.I, call.H, call.L, call.D) == (7, 4, 5, 3, 2, 2)
    assert (call.function, call.dtype, call.lengths, call.resets) == ("inference", "float64", True, False)
    assert "it is Tuesday" in str(gru_xp.explain(problem.x, problem.params, backend=backend))


def test_kernels_serve_autograd_and_forward_mode_takes_the_plain_path() -> None:
    w = gru_xp.CellParams(torch.zeros(12, 3), torch.zeros(12, 4), torch.zeros(12), torch.zeros(12))
    x = torch.zeros(2, 1, 3)
    watched = w._replace(b_hh=torch.zeros(12, requires_grad=True))
    for function in ("gru", "inference"):
        for params in (((w,),), ((watched,),)):
            assert gru_xp.explain(x, params, function=function).kernel != "plain"
    with torch.autograd.forward_ad.dual_level():
        assert gru_xp.explain(x, ((w,),), function="gru").kernel == "plain"


# ---- what is installed as a kernel and is none -----------------------------------------------------------------------


class Installed:
    """What every kernel has, and no more."""

    name, level = "stranger", "layer"

    def refuses(self, call):
        return None

    inference = forward = backward = refuses


def installed(monkeypatch: pytest.MonkeyPatch, **objects: object) -> tuple[Kernel, ...]:
    """The kernels of a new library `lib<n>` for which these objects are installed, as `strangers:<name>`."""
    monkeypatch.setitem(sys.modules, "strangers", SimpleNamespace(**objects))
    library = next(LIBRARIES)
    found = tuple(EntryPoint(f"{library}.{name}", f"strangers:{name}", "gru_xp.kernels") for name in objects)
    monkeypatch.setattr(kernels, "entries", lambda: found)
    return kernels.kernels_of(library)


def fault_of(monkeypatch: pytest.MonkeyPatch, **objects: object) -> str:
    """Why one of these objects is left out as a kernel; nobody else must notice."""
    usable = installed(monkeypatch, **objects)
    assert len(usable) == len(objects) - 1
    library = kernels.entries()[0].name.partition(".")[0]
    (refusal,) = kernels.unusable(library)
    assert refusal.level == "not loaded"
    return refusal.reason


def changed(**attributes: object) -> object:
    return type("Changed", (Installed,), attributes)()


def test_kernels_of_one_level_are_in_the_order_of_their_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = changed(name="z"), changed(name="y"), changed(name="x", level="stack")
    assert installed(monkeypatch, a=a, b=b, c=c) == (c, a, b)


@pytest.mark.parametrize(
    ("stranger", "words"),
    [
        (changed(name="plain"), "expected its name to be a string other than 'plain'"),
        (changed(name=None), "expected its name to be a string"),
        (type("Mine", (Layer,), {"level": "layer"})(discovery.load("numpy"), None), "got 'plain'"),
        (changed(level="cell"), "expected its level to be one of 'stack', 'layer', 'gates', got 'cell'"),
        (changed(level=None), "expected its level to be one of 'stack', 'layer', 'gates', got None"),
        (Installed, "expected an object, got the class Installed"),
        (changed(backward=None), "got none called backward"),
        (changed(__hash__=None), "got none called __hash__"),
    ],
)
def test_what_is_no_kernel_is_left_out_and_named(stranger: object, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = fault_of(monkeypatch, stranger=stranger)
    assert words in fault and "uninstall" in fault
    assert re.match(r'gru_xp\.kernels: "lib\d+\.stranger" = "strangers:stranger": expected', fault)


def test_a_kernel_that_is_there_no_more_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    library = next(LIBRARIES)
    gone = EntryPoint(f"{library}.gone", "no_such_module:kernel", "gru_xp.kernels")
    monkeypatch.setattr(kernels, "entries", lambda: (gone,))
    assert kernels.kernels_of(library) == ()
    assert re.search('.gone" = "no_such_module:kernel".*ModuleNotFoundError', kernels.unusable(library)[0].reason)


def test_of_two_kernels_of_one_name_the_second_is_left_out_and_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = fault_of(monkeypatch, a=Installed(), b=changed(level="gates"))
    assert re.search(r'\.b" = .*\'stranger\', as .*\.a" = ', fault) and "rename or uninstall one of them" in fault


@pytest.mark.parametrize("answer", [False, True, ""])
def test_an_answer_that_is_neither_none_nor_words_is_an_error(answer: object) -> None:
    backend = discovery.load("numpy")
    call = ordinary_call(backend, backend.device(None))
    assert kernels.refusal(changed(refuses=lambda self, call: "not today"), call) == "not today"
    assert kernels.refusal(Installed(), call) is None
    with pytest.raises(errors.KernelError, match=f"stranger.refuses: expected None .* got {answer!r}"):
        kernels.refusal(changed(refuses=lambda self, call: answer), call)
