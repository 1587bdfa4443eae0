"""weight_norm, spectral_norm and pruning: the weights in use, computed from what was saved instead of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import gru_xp
from gru_xp import errors, files

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
T, N, I, H = 9, 2, 3, 4

Change = Callable[..., Any]
COMPUTED: dict[str, tuple[Change, str]] = {
    "weight_norm": (weight_norm, "folded"),
    "weight_norm of columns": (partial(weight_norm, dim=1), "folded"),
    "weight_norm of all": (partial(weight_norm, dim=None), "folded"),
    "pruned": (partial(prune.l1_unstructured, amount=0.5), "folded"),
    "rows pruned": (partial(prune.ln_structured, amount=0.5, n=2, dim=0), "folded"),
    "spectral_norm": (spectral_norm, "folded"),
    "a parametrization by weight_norm": (parametrizations.weight_norm, "assumed"),
    "a parametrization by weight_norm of columns": (partial(parametrizations.weight_norm, dim=1), "assumed"),
    "a parametrization by weight_norm of all": (partial(parametrizations.weight_norm, dim=None), "assumed"),
    "a parametrization by spectral_norm": (parametrizations.spectral_norm, "folded"),
    "a parametrization by spectral_norm of columns": (partial(parametrizations.spectral_norm, dim=1), "folded"),
}


def changed(change: Change, leaf: str = "weight_hh_l0", dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A GRU in a model, one weight of which is computed, from numbers that are not those it began with."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"enc": torch.nn.GRU(I, H, dtype=dtype, **options), "head": torch.nn.Linear(H, 2)})
    change(model["enc"], leaf)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.7 + 0.5 * torch.rand_like(parameter))
    model["enc"](torch.randn(T, N, I, dtype=dtype))  # in training, which moves the vectors of spectral_norm
    return model.eval()


def assert_runs_as(model: gru_xp.GRU, layer: Any) -> None:
    x = torch.randn(T, N, I, dtype=getattr(torch, model.dtype))
    with torch.no_grad():
        expected = layer(x)
    for got, right in zip(model(x.numpy()), expected, strict=True):
        assert np.abs(got - right.numpy()).max() <= 4 * T * np.finfo(model.dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("what", COMPUTED)
def test_computed_from_what_was_saved(tmp_path: Path, what: str, dtype: torch.dtype) -> None:
    change, fate = COMPUTED[what]
    model = changed(change, dtype=dtype)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "m.safetensors")
    for found in (
        files.contents(tmp_path / "m.pt"),
        files.contents(tmp_path / "m.safetensors"),
        files.formats()["torch"].adopt(model.state_dict()),
    ):
        (gru,) = found.grus
        assert (gru.name, sorted(found.ignored)) == ("enc", ["head.bias", "head.weight"])
        notes = {note.what: note for note in gru.report.notes}
        assert notes["weight_hh_l0"].fate == fate
        assert_runs_as(gru_xp.GRU.from_params(gru.params), model["enc"])


@pytest.mark.parametrize("what", COMPUTED)
def test_of_live_modules_the_weights_in_use(what: str) -> None:
    """The framework computes a parametrization; what a hook left at the last call is out of date."""
    model = changed(COMPUTED[what][0])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    live = gru_xp.from_framework(model, name="enc")
    assert live.report is not None and str(live.report).count("\n") == ("parametrization" not in what)
    assert_runs_as(live, model["enc"])


@pytest.mark.parametrize("leaf", ["weight_ih_l1_reverse", "bias_hh_l0"])
def test_every_weight_and_bias(tmp_path: Path, leaf: str) -> None:
    for change in (partial(prune.random_unstructured, amount=0.3), weight_norm):
        model = changed(change, leaf, num_layers=2, bidirectional=True)
        torch.save(model, tmp_path / "m.pt")
        assert_runs_as(gru_xp.load(tmp_path / "m.pt"), model["enc"])


def test_two_weights_at_once(tmp_path: Path) -> None:
    model = changed(weight_norm, bias=False)
    weight_norm(model["enc"], "weight_ih_l0")
    torch.save(model.state_dict(), tmp_path / "m.pt")
    model["enc"](torch.zeros(T, N, I))
    assert_runs_as(gru_xp.load(tmp_path / "m.pt"), model["enc"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounded_once_to_the_type_of_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    """As float64 has it, rounded by PyTorch."""
    model = changed(weight_norm).to(dtype)
    state = model["enc"].state_dict()
    torch.save(state, tmp_path / "m.pt")
    g, v = state["weight_hh_l0_g"].double(), state["weight_hh_l0_v"].double()
    expected = (g * v / v.norm(dim=1, keepdim=True)).to(dtype)
    assert torch.equal(gru_xp.load(tmp_path / "m.pt", backend="torch").params[0][0].W_hh, expected)


class Half(torch.nn.Module):
    def forward(self, w: Any) -> Any:
        return w / 2


UNKNOWN: dict[str, Change] = {
    "a parametrization of its own": lambda layer, leaf: parametrize.register_parametrization(layer, leaf, Half()),
    "orthogonal": parametrizations.orthogonal,
    "two parametrizations": lambda layer, leaf: (
        parametrizations.weight_norm(layer, leaf),
        parametrizations.spectral_norm(layer, leaf),
    ),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_else_computes_weights_is_refused(tmp_path: Path, what: str) -> None:
    """Where the framework itself does not compute them."""
    model = changed(UNKNOWN[what])
    torch.save(model.state_dict(), tmp_path / "m.pt")
    said = r"enc: weight_hh_l0 is computed anew in each call, from parametrizations\.weight_hh_l0\..*; undo that"
    with pytest.raises(errors.ConversionError, match=said):
        gru_xp.load(tmp_path / "m.pt")
    assert_runs_as(gru_xp.from_framework(model), model["enc"])


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = changed(weight_norm)["enc"].state_dict()
    for change in ({"weight_hh_l0_g": torch.ones(3 * H)}, {"weight_hh_l0_g": torch.ones(3 * H, 1, dtype=torch.int64)}):
        torch.save(state | change, tmp_path / "m.pt")
        with pytest.raises(errors.ConversionError, match="weight_hh_l0 is computed anew in each call"):
            gru_xp.load(tmp_path / "m.pt")


def test_a_weight_beside_what_it_may_be_computed_from(tmp_path: Path) -> None:
    tensors = torch.nn.GRU(I, H).state_dict()
    torch.save(tensors | {"weight_hh_l0_raw": tensors["weight_hh_l0"]}, tmp_path / "m.pt")
    (gru,) = files.contents(tmp_path / "m.pt").grus
    assert not gru.report.exact and "from weight_hh_l0_raw" in str(gru.report)


def test_the_runtime_says_why_it_does_not_run_them(tmp_path: Path) -> None:
    torch.save(changed(weight_norm).state_dict(), tmp_path / "m.pt")
    (gru,) = files.contents(tmp_path / "m.pt").grus
    with pytest.raises(errors.BackendError, match=r"computed or named otherwise: \['enc.weight_hh_l0'\]"):
        files.formats()["torch"].run(tmp_path / "m.pt", gru, np.zeros((T, N, I), "f4"), None, None)
