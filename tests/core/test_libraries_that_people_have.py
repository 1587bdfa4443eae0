"""Real libraries around arrays, and what a beginner types: right, or refused with something that works when typed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import random_params
from libraries import Library, jax, jnp, ml_dtypes, torch

import gru_xp
from gru_xp import errors
from gru_xp.params import map_params
from gru_xp_conformance.cases import all_cases
from gru_xp_conformance.matrix import PASSED, judge_case, targets

rng = np.random.default_rng(0)
X = rng.normal(size=(7, 4, 3)).astype("f4")
PARAMS = random_params(rng, 3, 5, dtype="f4")
MODEL = gru_xp.GRU.from_params(PARAMS)
Y = MODEL(X)[0]
BACKENDS = (None, "numpy", "torch", "jax")

units, masked = Library("astropy.units"), Library("astropy.utils.masked")
cubed, ndonnx, sparse = Library("cubed.array_api"), Library("ndonnx"), Library("sparse")
dask, marray, pandas = Library("dask.array"), Library("marray"), Library("pandas")
pint, unyt, xarray = Library("pint"), Library("unyt"), Library("xarray")


def close(y: Any, expected: Any = Y, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(np.asarray(y, "f4"), expected, rtol=0, atol=tolerance)


# ---- numbers with something besides ----------------------------------------------------------------------------------

CARRIERS: dict[str, tuple[Callable[[], Any], str, Callable[[Any], Any]]] = {
    "astropy Quantity": (lambda: X * units.m, r"x\.view\(numpy\.ndarray\)", lambda x: x.view(np.ndarray)),
    "astropy Masked": (
        lambda: masked.Masked(X, mask=np.zeros(X.shape, bool)),
        "fill what is masked, and say by mask=",
        lambda x: x.filled(0),
    ),
    "unyt": (lambda: unyt.unyt_array(X, "m"), r"x\.view\(numpy\.ndarray\)", lambda x: x.view(np.ndarray)),
    "pint": (lambda: pint.UnitRegistry().Quantity(X, "m"), r"x\.magnitude", lambda x: x.magnitude),
    "xarray": (lambda: xarray.DataArray(X), r"numpy.asarray\(x.compute\(\)\)", lambda x: np.asarray(x.compute())),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", CARRIERS)
def test_what_results_would_lose_is_refused_and_the_message_works(kind: str, backend: str | None) -> None:
    make, message, instead = CARRIERS[kind]
    with pytest.raises(errors.StructureError, match=f"^x: expected an array of .*{message}"):
        MODEL(make(), backend=backend)
    close(MODEL(instead(make()), backend=backend)[0])


def test_a_registered_subclass_is_taken_as_its_numbers() -> None:
    import gru_xp_numpy

    class Named(np.ndarray):
        pass

    with pytest.raises(errors.StructureError, match=r"gru_xp_numpy.register\(Named\)"):
        MODEL(X.view(Named))
    assert gru_xp_numpy.register(Named) is Named
    for backend in BACKENDS:
        y = MODEL(X.view(Named), backend=backend)[0]
        assert type(y) is np.ndarray
        close(y)
    for wrong in (np.ma.MaskedArray, np.matrix, list, X):
        with pytest.raises(errors.StructureError, match=r"kind: expected a subclass of numpy.ndarray, without a mask"):
            gru_xp_numpy.register(wrong)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_mask_of_marray_propagates_where_it_is_and_does_not_cross(backend: str) -> None:
    namespace = marray.masked_namespace(np)
    lost = np.zeros(X.shape, bool)
    lost[2, 1] = True
    x = namespace.asarray(X, mask=lost)
    y = MODEL(x)[0]
    close(np.asarray(y.data)[:, [0, 2, 3]], Y[:, [0, 2, 3]])
    assert np.asarray(y.mask)[2:, 1].all()
    assert not np.asarray(y.mask)[:2].any()
    with pytest.raises(errors.NotDifferentiableError, match="^x: carries a mask, which would be dropped"):
        MODEL(x, backend=backend)


def test_lengths_masks_and_resets_are_asked_too() -> None:
    for name, values in (("lengths", np.ma.ones(4, int)), ("mask", np.ma.ones((7, 4), bool))):
        with pytest.raises(errors.StructureError, match=f"^{name}: expected an array of .*fill what is masked"):
            MODEL(X, **{name: values})


# ---- libraries without DLPack ----------------------------------------------------------------------------------------

LIBRARIES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], bool]] = {
    "cubed": (lambda a: cubed.asarray(a), lambda a: a.compute(), True),
    "ndonnx": (lambda a: ndonnx.asarray(a), lambda a: a.unwrap_numpy(), False),
    "sparse": (lambda a: sparse.COO.from_numpy(np.asarray(a)), lambda a: a.todense(), False),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_models_selections_and_files_without_dlpack(library: str, tmp_path: Any) -> None:
    put, host, lazy = LIBRARIES[library]
    x = put(X)
    y = MODEL(x)[0]
    assert type(y) is type(x)
    close(host(y))
    for backend in ("numpy", "torch"):
        if lazy:
            with pytest.raises(errors.NotDifferentiableError, match=r"^x: is lazy: .compute\(\) makes an array of it"):
                MODEL(x, backend=backend)
        else:
            close(host(MODEL(x, backend=backend)[0]))
    if library == "ndonnx":
        with pytest.raises(errors.BackendError, match="ndonnx only takes over calls with its own arrays"):
            MODEL(X, backend=library)
    else:
        close(MODEL(X, backend=library)[0])  # selected by the name of its root module
    own = gru_xp.GRU.from_params(gru_xp.to(PARAMS, like=x))
    own.save(tmp_path / "a.npz")
    for a, b in zip(gru_xp.weights(gru_xp.load(tmp_path / "a.npz").params), gru_xp.weights(PARAMS), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_a_library_lacks_is_named_with_the_way_round() -> None:
    """sparse has no arange, with which lengths become a mask."""
    put, host, _ = LIBRARIES["sparse"]
    x, lengths = put(X), [3] * X.shape[1]
    with pytest.raises(errors.BackendError, match="sparse lacks arange, .*; give arrays of another library"):
        MODEL(x, lengths=lengths)
    np.testing.assert_array_equal(MODEL(host(x), lengths=lengths)[0], MODEL(X, lengths=lengths)[0])


@pytest.mark.parametrize("library", ["cubed", "sparse"])
def test_a_library_without_a_backend_is_judged_by_the_name_of_its_root_module(library: str) -> None:
    pytest.importorskip(library)
    (row,), missing = targets((library,))
    assert (row.name, row.device, row.kernel, missing) == (library, "cpu", "plain", ())
    case = next(case for case in all_cases() if str(case) == "inference: h0 left out")
    assert judge_case(row, case, "float32").status == PASSED


def test_what_is_traced_says_so_under_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that it requires a gradient: nobody asked for one."""
    x = jnp.asarray(X)
    monkeypatch.setenv("GRU_XP_BACKEND", "numpy")
    with pytest.raises(errors.NotDifferentiableError, match=r"^x: is traced \(by jit, .*backend='auto'") as caught:
        jax.jit(MODEL)(x)
    assert "gradient" not in str(caught.value)
    close(jax.jit(lambda x: MODEL(x, backend="auto"))(x)[0])  # as the message says


# ---- bfloat16 of NumPy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_bfloat16_of_numpy_where_the_backend_has_it(backend: str) -> None:
    """Compared with the same numbers in float32: products of bfloat16 are summed in float32, and states rounded."""
    narrow = ml_dtypes.bfloat16
    x, params = X.astype(narrow), map_params(lambda a: a.astype(narrow), PARAMS)
    h0, dy = np.full((1, 4, 5), 0.25, narrow), np.ones((7, 4, 5), narrow)
    wide = map_params(lambda a: a.astype("f4"), params)
    y, _, tape = gru_xp.gru_forward(x.astype("f4"), wide, h0.astype("f4"))
    gradients = gru_xp.gru_backward(tape, dy.astype("f4"))

    got, h_n, tape = gru_xp.gru_forward(x, params, h0, backend=backend)
    found = gru_xp.gru_backward(tape, dy)
    for a in (got, h_n, found.x, found.h0, *found.params[0][0]):
        assert type(a) is np.ndarray
        assert a.dtype == narrow
    close(got, y, 0.02)
    close(found.x, gradients.x, 0.05)
    close(found.params[0][0].W_hh, gradients.params[0][0].W_hh, 0.1)
    for model in (gru_xp.GRU.from_params(params), gru_xp.GRU.from_params(gru_xp.to(params, like=torch.zeros(1)))):
        assert model.dtype == "bfloat16"
        close(model(x, h0, backend=backend)[0], y, 0.02)
        close(model.step(x[0], h0, backend=backend)[0], y[0], 0.02)
    with pytest.raises(errors.DTypeError, match="x: expected a floating-point dtype of numpy .* got bfloat16; .*torch"):
        gru_xp.gru(x, params)
    with pytest.raises(errors.DTypeError, match="x: expected float32, as the model has, got bfloat16"):
        MODEL(x, backend=backend)


def test_bfloat16_crosses_without_a_change() -> None:
    bits = np.arange(1 << 16, dtype="u2")
    every = bits[(bits & 0x7F80) != 0x7F80].view(ml_dtypes.bfloat16)  # all that are finite
    w = gru_xp.CellParams(every[:48].reshape(12, 4), every[-48:].reshape(12, 4))
    there = gru_xp.to(((w,),), like=torch.zeros(1))
    assert there[0][0].W_ih.dtype == torch.bfloat16
    back = gru_xp.to(there, like=X)
    for a, b in zip(back[0][0][:2], w[:2], strict=True):
        np.testing.assert_array_equal(a.view("u2"), b.view("u2"))


# ---- what a beginner types -------------------------------------------------------------------------------------------


def test_lists_become_arrays_as_the_message_says() -> None:
    for x in (X.tolist(), tuple(X.tolist())):
        with pytest.raises(errors.StructureError, match=r"pass numpy.asarray\(x, dtype='float32'\)"):
            MODEL(x)
        close(MODEL(np.asarray(x, dtype="float32"))[0])


@pytest.mark.parametrize("thing", [None, "x", {"x": 1}, (i for i in range(3)), 1.0])
def test_what_is_no_array_at_all_is_not_told_to_become_one(thing: Any) -> None:
    with pytest.raises(errors.StructureError, match="^x: expected an array of .*numpy") as caught:
        MODEL(thing)
    assert "asarray" not in str(caught.value)


def test_a_frame_becomes_an_array_as_the_message_says() -> None:
    with pytest.raises(errors.StructureError, match=r"pass numpy.asarray\(x\)"):
        MODEL(pandas.DataFrame(X[:, 0]))
    close(MODEL(np.asarray(pandas.DataFrame(X[:, 0])))[0], Y[:, 0])


@pytest.mark.parametrize("make", [lambda: torch.nn.GRU(3, 5).state_dict(), lambda: torch.nn.GRU(3, 5)])
def test_parameters_of_a_framework_are_taken_as_the_message_says(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    given = make()
    with pytest.raises(errors.StructureError, match=r"^params: .* gru_xp.from_framework\(...\).params"):
        gru_xp.gru(torch.tensor(X), given)
    module = torch.nn.GRU(3, 5)
    module.load_state_dict(given if isinstance(given, dict) else given.state_dict())
    expected = module(torch.tensor(X))[0].detach()
    params = gru_xp.from_framework(given, batch_first=False).params
    close(gru_xp.gru(torch.tensor(X), gru_xp.to(params, like=torch.tensor(X)))[0], expected)


def test_parameters_of_another_library_are_brought_as_the_message_says() -> None:
    x, w = torch.tensor(X), PARAMS[0][0]
    for params in (PARAMS, ((w._replace(b_hh=torch.tensor(w.b_hh)),),)):
        with pytest.raises(errors.MixedArraysError, match=r"convert one of them: gru_xp.to\(params, like=x\)"):
            gru_xp.gru(x, params)
        close(gru_xp.gru(x, gru_xp.to(params, like=x))[0])


def test_a_tensor_that_a_transform_has_made_functional_does_not_cross() -> None:
    with pytest.raises(errors.NotDifferentiableError, match="^x: .* not in memory of its own"):
        MODEL(torch._to_functional_tensor(torch.tensor(X)), backend="numpy")


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
def test_parameters_that_are_not_dense_are_named() -> None:
    w = gru_xp.to(PARAMS, like=torch.zeros(1))[0][0]
    with pytest.raises(errors.StructureError, match=r"^params\[0\]\[0\].W_hh: .*to_dense\(\)"):
        gru_xp.GRU.from_params(((w._replace(W_hh=w.W_hh.to_sparse_csr()),),))


@pytest.mark.skipif(sys.platform == "win32", reason="gloo by a file is for Linux and macOS")
def test_the_parts_of_a_distributed_tensor_are_computed_as_the_message_says(tmp_path: Any) -> None:
    if not torch.distributed.is_available():
        pytest.skip("this PyTorch has no torch.distributed")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        x = distribute_tensor(torch.tensor(X), init_device_mesh("cpu", (1,)), [Replicate()])
        for backend in BACKENDS:
            with pytest.raises(errors.StructureError, match=r"DTensor; use its full_tensor\(\), or its to_local\(\)"):
                MODEL(x, backend=backend)
        for whole in (x.to_local(), x.full_tensor()):
            close(MODEL(whole)[0])
    finally:
        torch.distributed.destroy_process_group()


def test_what_models_of_other_libraries_have_is_named_and_what_the_message_says_works() -> None:
    import gru_xp_torch

    for name, hint in (
        ("parameters", r"gru_xp.weights\(model.params\)"),
        ("state_dict", r"gru_xp_torch.to_module\(model\)"),
        ("eval", "calling it is inference"),
        ("cuda", r"gru_xp.to\(params, like=x\)"),
    ):
        assert not hasattr(MODEL, name)
        with pytest.raises(AttributeError, match=f"gru_xp.GRU has no {name}: .*{hint}"):
            getattr(MODEL, name)
    with pytest.raises(AttributeError, match="gru_xp.GRU has no nothing$"):
        _ = MODEL.nothing
    assert [w.shape for w in gru_xp.weights(MODEL.params)] == [(15, 3), (15, 5), (15,), (15,)]
    state = gru_xp_torch.to_module(MODEL).state_dict()
    np.testing.assert_array_equal(state["weight_hh_l0"].numpy(), PARAMS[0][0].W_hh)


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_writing_into_the_parameters_of_a_model_changes_nothing_and_assigning_does(backend: str) -> None:
    model = gru_xp.GRU(3, 5, seed=0, backend=backend)
    before = model(X)[0]
    (w,) = model.params[0]
    if backend != "torch":  # whose tensors, which are copies, cannot be locked
        with pytest.raises((TypeError, ValueError), match="read-only|immutable"):
            w.W_ih[...] = 0
    else:
        w.W_ih[...] = 0
    close(model(X)[0], before)
    model.params = gru_xp.map_params(lambda a: 0 * a, model.params)
    close(model(X)[0], np.zeros_like(before))
