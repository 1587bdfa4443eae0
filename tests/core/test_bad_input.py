"""Bad input: each a clear error, which names the argument, what was expected, what came and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import random_params, to_library
from libraries import array_api_strict, jnp, torch

import gru_xp
from gru_xp import CellParams, errors
from gru_xp.params import map_params

F = np.zeros
W = CellParams(F((12, 3)), F((12, 4)), F(12), F(12))  # I = 3, H = 4
UP = CellParams(F((12, 4)), F((12, 4)), F(12), F(12))
X = F((5, 2, 3))


def one(**changes: Any) -> tuple[Any, ...]:
    return ((W._replace(**changes),),)


def call(**changes: Any) -> dict[str, Any]:
    return {"x": X, "params": ((W,),), **changes}


# arguments, or what makes them where that imports a library
TABLE: dict[str, tuple[dict[str, Any] | Callable[[], dict[str, Any]], type[gru_xp.GRUError], str]] = {
    # x
    "x a list": (call(x=[[1.0]]), errors.StructureError, "x: expected an array of .*numpy.*, got list"),
    "x None": (call(x=None), errors.StructureError, "x: expected an array .* got NoneType"),
    "x a scalar": (call(x=1.0), errors.StructureError, "x: expected an array .* got float"),
    "x a matrix": (
        call(x=F((2, 3)).view(np.matrix)),
        errors.StructureError,
        "x: expected an array .* got numpy.matrix",
    ),
    "x masked": (call(x=np.ma.zeros((5, 2, 3))), errors.StructureError, "x: expected an array .* got numpy.ma"),
    "x one axis": (call(x=F(3)), errors.ShapeError, r"x: expected \(T, N, I\), or \(T, I\) .* got \(3,\)"),
    "x four axes": (call(x=F((1, 5, 2, 3))), errors.ShapeError, r"x: expected \(T, N, I\)"),
    "x another I": (
        call(x=F((5, 2, 7))),
        errors.ShapeError,
        r"= \(5, 2, 3\), got \(5, 2, 7\); I = 3 comes from W_ih",
    ),
    "x integers": (
        call(x=X.astype(int)),
        errors.DTypeError,
        "x: expected a floating-point dtype .* got int64; cast it",
    ),
    "x complex": (
        call(x=X.astype(complex)),
        errors.DTypeError,
        "x: expected a floating-point dtype .* got complex128",
    ),
    "x objects": (
        call(x=X.astype(object)),
        errors.DTypeError,
        "x: expected a floating-point dtype .* got object",
    ),
    "x long double": (call(x=X.astype(np.longdouble)), errors.DTypeError, "x: expected a floating-point dtype"),
    "x float32": (
        call(x=X.astype("f4")),
        errors.DTypeError,
        r"x: expected float64, as the parameters have, got float32; x.astype",
    ),
    "x a tensor": (
        lambda: call(x=torch.zeros(5, 2, 3)),
        errors.MixedArraysError,
        "W_ih: expected an array of torch, as x is, got one of numpy",
    ),
    # params
    "params bare": (
        call(params=W),
        errors.StructureError,
        r"params: .* got a bare CellParams; wrap it: \(\(w,\),\)",
    ),
    "params one level": (
        call(params=(W,)),
        errors.StructureError,
        r"params\[0\]: expected a tuple of one or two directions",
    ),
    "params empty": (
        call(params=()),
        errors.StructureError,
        "params: expected a tuple of layers, .* got a tuple of 0",
    ),
    "params None": (
        call(params=None),
        errors.StructureError,
        "params: expected a tuple of layers, .* got None",
    ),
    "params a dict": (
        call(params={"W_ih": 1}),
        errors.StructureError,
        "params: expected a tuple of layers, got a dict; gru_xp.from_framework",
    ),
    "params three directions": (
        call(params=((W, W, W),)),
        errors.StructureError,
        r"params\[0\]: .* got a tuple of 3",
    ),
    "params ragged": (
        call(params=((W,), (UP, UP))),
        errors.StructureError,
        r"params\[1\]: expected 1 directions",
    ),
    "params no cell": (call(params=(("ab",),)), errors.StructureError, r"params\[0\]\[0\]: expected CellParams"),
    "W_ih flat": (
        call(params=one(W_ih=F(36))),
        errors.ShapeError,
        r"W_ih: expected \(3H, I\) = \(12, I\), got \(36,\); H = 4",
    ),
    "W_ih transposed": (
        call(params=one(W_ih=F((3, 12)))),
        errors.ShapeError,
        r"W_ih: expected \(3H, I\) = \(12, I\), got \(3, 12\)",
    ),
    "W_ih None": (call(params=one(W_ih=None)), errors.StructureError, "W_ih: expected an array, got None"),
    "W_hh four gates": (
        call(params=one(W_hh=F((16, 4)))),
        errors.ShapeError,
        r"W_hh: expected \(3H, H\) .* got \(16, 4\)",
    ),
    "W_hh empty": (
        call(params=one(W_hh=F((0, 0)))),
        errors.ShapeError,
        r"W_hh: expected \(3H, H\) with H of at least 1",
    ),
    "W_hh a list": (
        call(params=one(W_hh=[[1.0]])),
        errors.StructureError,
        "W_hh: expected an array, got a list",
    ),
    "b_hh short": (
        call(params=one(b_hh=F(8))),
        errors.ShapeError,
        r"b_hh: expected \(3H,\) = \(12,\), got \(8,\); H = 4 comes from",
    ),
    "b_ih column": (
        call(params=one(b_ih=F((12, 1)))),
        errors.ShapeError,
        r"b_ih: expected \(3H,\) = \(12,\), got \(12, 1\)",
    ),
    "one bias": (
        call(params=one(b_hh=None)),
        errors.StructureError,
        "b_hh: expected an array, because b_ih is given",
    ),
    "biases here and there": (
        call(params=((W,), (UP._replace(b_ih=None, b_hh=None),))),
        errors.StructureError,
        r"params\[1\]\[0\].b_ih: expected an array as in params\[0\]\[0\], got None",
    ),
    "second layer": (
        call(params=((W,), (W,))),
        errors.ShapeError,
        r"params\[1\]\[0\].W_ih: expected \(3H, D\*H\) = \(12, 4\), got \(12, 3\)",
    ),
    "dtype of one": (
        call(params=one(b_hh=F(12, "f4"))),
        errors.DTypeError,
        r"params\[0\]\[0\].b_hh: expected float64, as x has, got float32",
    ),
    "library of one": (
        lambda: call(params=one(b_hh=torch.zeros(12, dtype=torch.float64))),
        errors.MixedArraysError,
        r"params\[0\]\[0\].b_hh: expected an array of numpy, as x is, got one of torch; convert one of them",
    ),
    # h0
    "h0 two axes": (
        call(h0=F((2, 4))),
        errors.ShapeError,
        r"h0: expected \(L\*D, N, H\) = \(1, 2, 4\), got \(2, 4\)",
    ),
    "h0 another N": (
        call(h0=F((1, 3, 4))),
        errors.ShapeError,
        r"h0: .* got \(1, 3, 4\); L, D and H come from params and N from x",
    ),
    "h0 float32": (
        call(h0=F((1, 2, 4), "f4")),
        errors.DTypeError,
        "h0: expected float64, as x has, got float32",
    ),
    "h0 of JAX": (
        lambda: call(h0=jnp.zeros((1, 2, 4))),
        errors.MixedArraysError,
        "h0: expected an array of numpy, as x is, got one of jax",
    ),
    "h0 a number": (call(h0=0), errors.StructureError, "h0: expected an array, got an int"),
    "h0 unbatched": (
        call(x=F((5, 3)), h0=F((1, 1, 4))),
        errors.ShapeError,
        r"h0: expected \(L\*D, H\) = \(1, 4\)",
    ),
    # lengths
    "lengths too long": (
        call(lengths=[6, 1]),
        errors.RangeError,
        "lengths: expected values from 0 to T = 5, got 6; T comes from x",
    ),
    "lengths negative": (
        call(lengths=[-1, 1]),
        errors.RangeError,
        "lengths: expected values from 0 to T = 5, got -1",
    ),
    "lengths floats": (
        call(lengths=[1.0, 2.0]),
        errors.DTypeError,
        "lengths: expected integers, got 1.0, a float",
    ),
    "lengths booleans": (
        call(lengths=[True, False]),
        errors.DTypeError,
        "lengths: expected integers, got True, a bool",
    ),
    "lengths float array": (call(lengths=F(2)), errors.DTypeError, "lengths: expected integers, got 0.0"),
    "lengths too many": (
        call(lengths=[1, 2, 3]),
        errors.ShapeError,
        r"lengths: expected \(N,\) = \(2,\), got \(3,\); N comes from x",
    ),
    "lengths two axes": (
        call(lengths=np.ones((2, 1), int)),
        errors.ShapeError,
        r"lengths: expected \(N,\) = \(2,\), got more than one axis; N comes from x",
    ),
    "lengths one number": (
        call(lengths=3),
        errors.ShapeError,
        r"lengths: expected \(N,\) = \(2,\), got the number 3",
    ),
    "lengths a string": (
        call(lengths="12"),
        errors.StructureError,
        "lengths: expected an array .* got str",
    ),
    "lengths a tensor": (
        lambda: call(lengths=torch.tensor([1, 2])),
        errors.MixedArraysError,
        "lengths: expected an array of numpy, as x is",
    ),
    # resets
    "resets integers": (
        call(resets=F((5, 2), int)),
        errors.DTypeError,
        "resets: expected booleans, got int64; compare with zero",
    ),
    "resets transposed": (
        call(resets=F((2, 5), bool)),
        errors.ShapeError,
        r"resets: expected \(T, N\) = \(5, 2\), got \(2, 5\)",
    ),
    "resets ragged": (
        call(resets=[[True], [False, True]] * 2 + [[True]]),
        errors.ShapeError,
        r"resets: expected \(T, N\)",
    ),
    "params a model": (
        call(params=gru_xp.GRU(3, 4)),
        errors.StructureError,
        "params: .* got a GRU; pass its .params",
    ),
    "resets numbers": (call(resets=[[0, 1]] * 5), errors.DTypeError, "resets: expected booleans, got 0, an int"),
    "resets a tensor": (
        lambda: call(resets=torch.zeros(5, 2, dtype=torch.bool)),
        errors.MixedArraysError,
        "resets: expected an array of numpy",
    ),
    # the rest
    "masks for one layer": (
        call(dropout_masks=F((1, 5, 2, 4))),
        errors.ShapeError,
        r"dropout_masks: expected \(L-1, T, N, D\*H\) = \(0, 5, 2, 4\)",
    ),
    "spec a string": (call(spec="cudnn"), errors.StructureError, "spec: expected a GRUSpec, got 'cudnn'"),
    "backend a number": (call(backend=1), errors.StructureError, "backend: expected"),
    "backend unknown": (
        call(backend="np"),
        errors.BackendError,
        "unknown backend 'np', perhaps 'numpy' was meant; installed: .*numpy",
    ),
}


@pytest.mark.parametrize("case", TABLE)
@pytest.mark.parametrize("door", [gru_xp.gru, gru_xp.gru_inference, gru_xp.gru_forward, gru_xp.explain])
def test_bad_arguments_of_a_sequence(door: Any, case: str) -> None:
    arguments, error, message = TABLE[case]
    with pytest.raises(error, match=message):
        door(**(arguments() if callable(arguments) else arguments))


EXACTLY = r"^b_hh: expected \(3H,\) = \(12,\), got \(8,\); H = 4 comes from W_hh$"

CELLS: dict[str, tuple[tuple[Any, ...], type[gru_xp.GRUError], str]] = {
    "x three axes": (
        (X, F((2, 4)), W),
        errors.ShapeError,
        r"x: expected \(N, I\), or \(I,\) .* got \(5, 2, 3\)",
    ),
    "x a list": (([1.0], F(4), W), errors.StructureError, "x: expected an array"),
    "h another N": (
        (F((2, 3)), F((3, 4)), W),
        errors.ShapeError,
        r"h: expected \(N, H\) = \(2, 4\), got \(3, 4\)",
    ),
    "h unbatched": ((F(3), F((1, 4)), W), errors.ShapeError, r"h: expected \(H,\) = \(4,\), got \(1, 4\)"),
    "params wrapped": ((F((2, 3)), F((2, 4)), ((W,),)), errors.StructureError, "params: expected CellParams"),
    "b_hh short": ((F((2, 3)), F((2, 4)), W._replace(b_hh=F(8))), errors.ShapeError, EXACTLY),
}


@pytest.mark.parametrize("case", CELLS)
@pytest.mark.parametrize("door", [gru_xp.gru_cell, gru_xp.gru_cell_inference, gru_xp.gru_cell_forward])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_bad_arguments_of_a_cell(door: Any, case: str, library: str) -> None:
    def of_kind(a: Any) -> Any:
        if isinstance(a, tuple):
            return CellParams(*map(of_kind, a)) if isinstance(a, CellParams) else tuple(map(of_kind, a))
        return to_library(library, a) if isinstance(a, np.ndarray) else a

    arguments, error, message = CELLS[case]
    for _ in range(2):  # what a call may remember of right ones does not help a wrong one
        door(*of_kind((F((2, 3)), F((2, 4)), W)))
        with pytest.raises(error, match=message):
            door(*of_kind(arguments))


def test_bad_arguments_of_backward() -> None:
    y, h_n, tape = gru_xp.gru_forward(X, ((W,),))
    for arguments, error, message in (
        ((None, y), errors.StructureError, "tape: expected what gru_forward returned last, got None"),
        ((tape,), errors.StructureError, "dy: expected dy or dh_n or both, got neither"),
        (
            (tape, h_n),
            errors.ShapeError,
            r"dy: expected \(T, N, D\*H\) = \(5, 2, 4\), got \(1, 2, 4\); as gru_forward",
        ),
        ((tape, None, y), errors.ShapeError, r"dh_n: expected \(L\*D, N, H\) = \(1, 2, 4\), got \(5, 2, 4\)"),
        (
            (tape, y.astype("f4")),
            errors.DTypeError,
            "dy: expected float64, as the input of gru_forward has, got float32",
        ),
        (
            (tape, torch.tensor(y)),
            errors.MixedArraysError,
            "dy: expected an array of numpy, as the input of gru_forward is",
        ),
        ((tape, y.tolist()), errors.StructureError, "dy: expected an array, got a list"),
    ):
        with pytest.raises(error, match=message):
            gru_xp.gru_backward(*arguments)
    with pytest.raises(errors.StructureError, match="tape: expected what gru_cell_forward returned last"):
        gru_xp.gru_cell_backward(tape, h_n[0])
    _, cell_tape = gru_xp.gru_cell_forward(X[0], None, W)
    with pytest.raises(errors.ShapeError, match=r"dh1: expected \(N, H\) = \(2, 4\), got \(1, 2, 4\)"):
        gru_xp.gru_cell_backward(cell_tape, h_n)
    with pytest.raises(errors.StructureError, match="save: expected one of 'all', 'states', got 'some'"):
        gru_xp.gru_forward(X, ((W,),), save="some")


def test_parameters_prepared_for_another_library_are_refused() -> None:
    prepared = gru_xp.prepare(((W,),), backend="torch")
    with pytest.raises(
        errors.StructureError, match="params: expected parameters prepared for numpy:cpu, got .* torch:cpu"
    ):
        gru_xp.gru(X, prepared)
    assert isinstance(gru_xp.gru(X, prepared, backend="torch")[0], np.ndarray)
    with pytest.raises(errors.DTypeError, match="x: expected float64, as the parameters have, got float32"):
        gru_xp.gru(X.astype("f4"), gru_xp.prepare(((W,),)))


def test_other_devices_of_one_library() -> None:
    xps = array_api_strict
    x = xps.zeros((5, 2, 3), device=xps.Device("device1"))
    w = CellParams(*(xps.zeros(a.shape) for a in W))
    message = r"params\[0\]\[0\].W_ih: expected on device1, where x is, got on cpu; move one of them"
    with pytest.raises(errors.MixedArraysError, match=message):
        gru_xp.gru(x, ((w,),))


def test_nan_is_passed_through_and_stays_in_its_row() -> None:
    rng = np.random.default_rng(0)
    params = random_params(rng, 3, 4)
    x = rng.normal(size=(5, 2, 3))
    x[2, 1, 0] = np.nan
    y, h_n, tape = gru_xp.gru_forward(x, params)
    grads = gru_xp.gru_backward(tape, np.ones_like(y))
    assert np.isnan(y[2:, 1]).all()
    assert not np.isnan(y[:2]).any()
    assert not np.isnan(y[:, 0]).any()
    assert np.isnan(h_n[0, 1]).all()
    assert not np.isnan(grads.x[:, 0]).any()


def test_every_error_is_a_gru_error_and_a_value_error() -> None:
    for name in gru_xp.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(gru_xp, name), gru_xp.GRUError)
    assert issubclass(gru_xp.GRUError, ValueError)


@pytest.mark.parametrize("kernels", ["auto", "off"])
@pytest.mark.parametrize("library", ["numpy", "torch", "array_api_strict"])  # XLA cannot even make such zeros
def test_an_empty_batch_takes_no_time_however_many_steps_it_has(
    library: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays without a byte, whose steps nobody could walk through."""
    monkeypatch.setenv("GRU_XP_KERNELS", kernels)
    T = 2**31 - 1
    params = random_params(np.random.default_rng(0), 3, 4, L=2, D=2, bias=True, dtype="f4")
    given = {"resets": to_library(library, np.zeros((T, 0), bool)), "mask": to_library(library, np.ones((T, 0), bool))}
    for options in ({}, given):
        x, weights = (
            to_library(library, np.zeros((T, 0, 3), "f4")),
            map_params(lambda a: to_library(library, a), params),
        )
        for function in (gru_xp.gru, gru_xp.gru_inference):
            y, h_n = function(x, weights, **options)
            assert y.shape == (T, 0, 8) and h_n.shape == (4, 0, 4)
