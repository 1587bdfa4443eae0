"""Arrays that are more than their numbers, or less than they seem, are kept as they are or refused with a way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch

import gru_xp
from gru_xp import errors

rng = np.random.default_rng(0)
T, N, I, H = 7, 4, 3, 5
X = rng.standard_normal((T, N, I)).astype("float32")
W = gru_xp.CellParams(*(rng.standard_normal(shape).astype("float32") for shape in ((3 * H, I), (3 * H, H), 15, 15)))
PARAMS = ((W,),)
MODEL = gru_xp.GRU.from_params(PARAMS)
Y = MODEL(X)[0]


class Tagged(np.ndarray):
    """Somebody's subclass, as units and masks are made."""


class MaskedNDArray(np.ndarray):
    """As astropy calls its own."""


def test_a_memory_map_gives_an_ndarray(tmp_path: Any) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X)
    x = np.load(path, mmap_mode="r")
    y, _ = gru_xp.gru(x, PARAMS)
    assert type(x) is np.memmap
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, Y)


@pytest.mark.parametrize("argument", ["x", "h0", "W_hh"])
def test_a_subclass_of_ndarray_is_refused_with_a_view_that_works(argument: str) -> None:
    h0 = np.zeros((1, N, H), "float32")
    arguments = {"x": X, "h0": h0, "W_hh": W.W_hh}
    arguments[argument] = arguments[argument].view(Tagged)
    with pytest.raises(errors.StructureError, match=rf"{argument}: .*Tagged.*{argument}.view\(numpy.ndarray\)"):
        gru_xp.gru(arguments["x"], ((W._replace(W_hh=arguments["W_hh"]),),), arguments["h0"])
    np.testing.assert_array_equal(gru_xp.gru(X.view(Tagged).view(np.ndarray), PARAMS)[0], Y)


@pytest.mark.parametrize("masked", [np.ma.masked_array(X), X.view(MaskedNDArray)], ids=["numpy.ma", "astropy's name"])
def test_a_mask_is_refused_with_the_argument_that_takes_it(masked: Any) -> None:
    with pytest.raises(errors.StructureError, match=r"x: .*fill what is masked, and say by mask="):
        MODEL(masked)


def test_astropy() -> None:
    units = pytest.importorskip("astropy.units", reason="astropy is not installed; its subclasses have a stand-in")
    from astropy.utils.masked import Masked

    with pytest.raises(errors.StructureError, match=r"x\.view\(numpy\.ndarray\)"):
        MODEL(X * units.mV)
    with pytest.raises(errors.StructureError, match="mask="):
        MODEL(Masked(X, mask=X > 0))


class Wrapped:
    """An array of the standard around array_api_strict's, and its namespace: `carried` is what it has besides."""

    def __init__(self, array: Any, **carried: Any):
        self.array = array
        vars(self).update(carried)

    dtype = property(lambda self: self.array.dtype)
    shape = property(lambda self: self.array.shape)
    ndim = property(lambda self: self.array.ndim)
    device = property(lambda self: self.array.device)
    T = property(lambda self: Wrapped(self.array.T))

    def __array_namespace__(self, *, api_version: Any = None) -> Any:
        return NAMESPACE

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(np.from_dlpack(self.array), dtype=dtype)


def _operator(name: str) -> Callable[..., Any]:
    def operation(self: Wrapped, *others: Any) -> Any:
        return _wrapped(getattr(self.array, name)(*(getattr(a, "array", a) for a in others)))

    return operation


ARITHMETIC = ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "matmul", "neg")
for _name in (*ARITHMETIC, "getitem", "invert", "gt"):
    setattr(Wrapped, f"__{_name}__", _operator(f"__{_name}__"))


def _wrapped(result: Any) -> Any:
    if isinstance(result, tuple | list):
        return type(result)(map(_wrapped, result))
    return Wrapped(result) if hasattr(result, "__array_namespace__") else result


def _unwrapped(a: Any) -> Any:
    if isinstance(a, list | tuple):
        return type(a)(map(_unwrapped, a))
    return a.array if isinstance(a, Wrapped) else a


class _Namespace:
    """Of a library without DLPack; not hashable, as `types.SimpleNamespace` is not."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __getattr__(self, name: str) -> Any:
        if name in ("from_dlpack", "__array_namespace_info__"):
            raise AttributeError(name)
        found = getattr(array_api_strict, name)
        if not callable(found) or isinstance(found, type(array_api_strict.float32)):
            return found

        def function(*arguments: Any, **options: Any) -> Any:
            options.pop("device", None)
            return _wrapped(found(*map(_unwrapped, arguments), **options))

        return function

    def asarray(self, a: Any, **options: Any) -> Wrapped:
        options = {key: value for key, value in options.items() if key != "device"}
        return Wrapped(array_api_strict.asarray(_unwrapped(a), **options))


NAMESPACE = _Namespace()


def wrap(a: Any, **carried: Any) -> Wrapped:
    return Wrapped(array_api_strict.asarray(a), **carried)


def test_a_library_without_dlpack_whose_namespace_has_no_hash() -> None:
    params = gru_xp.map_params(wrap, PARAMS)
    y, _ = gru_xp.gru(wrap(X), params)
    assert type(y) is Wrapped
    np.testing.assert_allclose(np.asarray(y), Y, atol=1e-6)


def test_a_model_a_selection_and_a_file_go_through_the_host_where_there_is_no_dlpack(tmp_path: Any) -> None:
    y, _ = MODEL(wrap(X))
    np.testing.assert_allclose(np.asarray(y), Y, atol=1e-6)
    y, _ = gru_xp.gru(wrap(X), gru_xp.map_params(wrap, PARAMS), backend="numpy")
    assert type(y) is Wrapped
    np.testing.assert_allclose(np.asarray(y), Y, atol=1e-6)
    gru_xp.GRU.from_params(gru_xp.map_params(wrap, PARAMS)).save(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(gru_xp.load(tmp_path / "a.safetensors").params[0][0].W_hh, W.W_hh)


@pytest.mark.parametrize(
    ("carried", "message"),
    [({"mask": X > 0}, "carries a mask"), ({"units": "mV"}, "carries a unit"), ({"compute": None}, r"\.compute\(\)")],
)
def test_what_would_be_dropped_on_the_way_to_another_library_is_refused(carried: Any, message: str) -> None:
    x = wrap(X, **carried)
    np.testing.assert_allclose(np.asarray(MODEL(x)[0]), Y, atol=1e-6)
    for function in (gru_xp.gru, gru_xp.gru_inference, gru_xp.gru_forward):
        with pytest.raises(errors.NotDifferentiableError, match=rf"x: .*{message}"):
            function(x, gru_xp.map_params(wrap, PARAMS), backend="numpy")


def test_a_library_that_wants_to_be_told_the_device() -> None:
    class Namespace:
        @staticmethod
        def from_dlpack(a: Any, *, device: Any = None) -> Any:
            if device is None:
                raise ValueError("device")
            return np.from_dlpack(a)

    backend = gru_xp.backend.Backend("strange", Namespace)
    np.testing.assert_array_equal(backend.from_dlpack(X, "cpu"), X)


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_a_tensor_without_memory_of_its_own_is_not_read_by_others(backend: str) -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    x = torch.from_numpy(X)
    both = TwoTensor(x, x.clone())
    with pytest.raises(errors.NotDifferentiableError, match="x: is a TwoTensor, whose numbers are not in memory"):
        MODEL(both, backend=backend)
    np.testing.assert_allclose(MODEL(both)[0].a.numpy(), Y, atol=1e-6)


def _masked_tensor() -> Any:
    return torch.masked.masked_tensor(torch.from_numpy(X), torch.ones(T, N, I, dtype=torch.bool))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.nested.nested_tensor([torch.ones(7, 3), torch.ones(3, 3)]), "to_padded_tensor"),
        (lambda: torch.nested.nested_tensor([torch.ones(7, 3)] * 2, layout=torch.jagged), "to_padded_tensor"),
        (lambda: torch.ones(7, 3).to_sparse_csr(), r"to_dense\(\)"),
        (lambda: torch.ones(7, 4, 3).to_sparse(), r"to_dense\(\)"),
        (_masked_tensor, r"to_tensor\(0\), and its mask as mask="),
    ],
    ids=["nested", "jagged", "CSR", "COO", "MaskedTensor"],
)
def test_tensors_that_are_not_dense_are_refused_with_what_makes_them_so(make: Any, message: str) -> None:
    x = make()
    for call in (MODEL, lambda x: gru_xp.gru(x, gru_xp.map_params(torch.from_numpy, PARAMS))):
        with pytest.raises(errors.StructureError, match=rf"x: expected a .*{message}"):
            call(x)
