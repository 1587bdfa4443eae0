"""`gru_xp_torchrl.GRUModule` against torchrl's own, over the same rollouts and from the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchrl.modules
from tensordict import TensorDict
from torchrl.modules import set_recurrent_mode

from gru_xp_torch import GRU
from gru_xp_torchrl import GRUModule

I, H = 3, 5
KEYS = {"in_keys": ["observation", "state"], "out_keys": ["features", ("next", "state")]}


def pair(**options: Any) -> tuple[Any, Any]:
    theirs = torchrl.modules.GRUModule(I, H, **options, **KEYS)
    ours = GRUModule(I, H, **options, **KEYS)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def rollout(*shape: int, L: int = 1, seed: int = 0, states: bool = True) -> TensorDict:
    """Episodes that end at random; the state is zero where one begins, as the primer and the collectors have it."""
    generator = torch.Generator().manual_seed(seed)
    is_init = torch.rand(*shape, 1, generator=generator) < 0.2
    found = {"observation": torch.randn(*shape, I, generator=generator), "is_init": is_init}
    if states:
        found["state"] = torch.where(is_init[..., None], 0.0, torch.randn(*shape, L, H, generator=generator))
    return TensorDict(found, shape)


def assert_same(ours: Any, theirs: Any, data: TensorDict, *, recurrent: bool = True) -> None:
    """Outputs, states, and the gradients of both."""
    found = []
    for module in (ours, theirs):
        module.zero_grad()
        with set_recurrent_mode(recurrent):
            result = module(data.clone())
        outputs = result["features"], result["next", "state"]
        weights = (torch.arange(a.numel()).reshape(a.shape).cos() for a in outputs)
        sum((a * w).sum() for a, w in zip(outputs, weights, strict=True)).backward()
        found.append([*outputs, *(p.grad for p in module.parameters())])
    for a, b in zip(*found, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", [(12,), (4, 12), (2, 3, 12), (4, 1)])
@pytest.mark.parametrize("states", [True, False])
def test_a_rollout_over_the_ends_of_episodes(shape: tuple[int, ...], states: bool) -> None:
    theirs, ours = pair()
    assert_same(ours, theirs, rollout(*shape, states=states))


def test_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = pair()
    data = rollout(4, 12)
    data["is_init"][:] = False
    assert_same(ours, theirs, data)


def test_one_call_for_a_whole_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pieces, no padding: what is faster must not be lost in silence."""
    calls: list[tuple[Any, ...]] = []
    forward = GRU.forward
    monkeypatch.setattr(
        GRU,
        "forward",
        lambda self, x, *rest, **options: calls.append((x.shape, *options)) or forward(self, x, *rest, **options),
    )
    _, ours = pair()
    with set_recurrent_mode(True):
        ours(rollout(4, 12))
    assert calls == [((4, 12, I), "resets")]


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}, {"bias": False}], ids=str)
def test_other_modules(options: dict[str, Any]) -> None:
    theirs, ours = pair(**options)
    L = options.get("num_layers", 1) * (2 if "bidirectional" in options else 1)
    data = rollout(4, 12, L=L)
    assert_same(ours, theirs, data)


def test_a_state_that_is_not_zero_at_a_beginning_is_kept() -> None:
    """A primer may begin episodes with another state."""
    theirs, ours = pair()
    data = rollout(4, 12)
    data["state"] = torch.randn(4, 12, 1, H)
    assert_same(ours, theirs, data)


@pytest.mark.parametrize("shape", [(), (6,), (2, 3)])
def test_single_steps(shape: tuple[int, ...]) -> None:
    theirs, ours = pair()
    data = rollout(*shape)
    data["state"] = torch.randn(*shape, 1, H)  # is_init zeroes it here
    assert_same(ours, theirs, data, recurrent=False)


def test_keyword_arguments_and_state_dicts() -> None:
    theirs, ours = pair()
    theirs.load_state_dict(ours.state_dict())
    data = rollout(4, 12)
    with set_recurrent_mode(True):
        features, state = ours(observation=data["observation"], state=data["state"], is_init=data["is_init"])
        expected = theirs(data.clone())
    torch.testing.assert_close(features, expected["features"], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(state, expected["next", "state"], atol=2e-6, rtol=1e-5)


def test_a_module_that_is_there_shares_its_parameters() -> None:
    for kind in (torch.nn.GRU, GRU):
        theirs = kind(I, H, batch_first=True)
        ours = GRUModule(gru=theirs, **KEYS)
        assert [p.data_ptr() for p in ours.parameters()] == [p.data_ptr() for p in theirs.parameters()]
        assert type(ours.gru) is GRU
    reference = torchrl.modules.GRUModule(gru=torch.nn.GRU(I, H, batch_first=True), **KEYS)
    reference.load_state_dict(ours.state_dict())
    assert_same(ours, reference, rollout(4, 12))


def test_torchrls_own_module_takes_ours() -> None:
    """Its way with pieces and a mask."""
    theirs = torchrl.modules.GRUModule(I, H, num_layers=2, **KEYS)
    mixed = torchrl.modules.GRUModule(gru=GRU(I, H, num_layers=2, batch_first=True), **KEYS)
    mixed.load_state_dict(theirs.state_dict())
    assert_same(mixed, theirs, rollout(4, 12, L=2))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="gru: expected either a module or input_size"):
        GRUModule(I, H, gru=GRU(I, H, batch_first=True), **KEYS)
    with pytest.raises(ValueError, match="gru: expected a module, or input_size"):
        GRUModule(**KEYS)
    with pytest.raises(ValueError, match="batch_first=True"):
        GRUModule(gru=GRU(I, H), **KEYS)
    with set_recurrent_mode(True), pytest.raises(KeyError, match="is_init"):
        GRUModule(I, H, **KEYS)(rollout(4, 12).exclude("is_init"))
