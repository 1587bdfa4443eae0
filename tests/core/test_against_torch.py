"""Forward and all gradients against torch.nn.GRU in float64."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import random_params
from libraries import torch

import gru_xp

CONFIGURATIONS = 48
BOUND = 1e-12


@pytest.mark.parametrize("save", ["all", "states"])
@pytest.mark.parametrize("seed", range(CONFIGURATIONS))
def test_random_configuration(seed: int, save: str) -> None:
    rng = np.random.default_rng(seed)
    L, D, bias = int(rng.integers(1, 4)), int(rng.integers(1, 3)), bool(rng.random() < 0.7)
    T, N, I, H = (int(rng.integers(1, limit)) for limit in (14, 8, 12, 14))
    params = random_params(rng, I, H, L, D, bias)
    x, h0 = rng.normal(size=(T, N, I)), rng.normal(size=(L * D, N, H))
    dy, dh_n = rng.normal(size=(T, N, D * H)), rng.normal(size=(L * D, N, H))
    lengths = rng.integers(1, T + 1, size=N) if rng.random() < 0.5 else None

    module = torch_module(params, I, H)
    x_t, h0_t = (torch.tensor(a, requires_grad=True) for a in (x, h0))
    if lengths is None:
        y_t, h_n_t = module(x_t, h0_t)
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x_t, torch.tensor(lengths), enforce_sorted=False)
        packed_y, h_n_t = module(packed, h0_t)
        y_t, _ = torch.nn.utils.rnn.pad_packed_sequence(packed_y, total_length=T)
    torch.autograd.backward([y_t, h_n_t], [torch.tensor(dy), torch.tensor(dh_n)])

    y, h_n, tape = gru_xp.gru_forward(x, params, h0, lengths=lengths, save=save)
    grads = gru_xp.gru_backward(tape, dy, dh_n)
    assert_within(y, y_t, "y")
    assert_within(h_n, h_n_t, "h_n")
    assert_within(grads.x, x_t.grad, "dx")
    assert_within(grads.h0, h0_t.grad, "dh0")
    for layer, directions in enumerate(grads.params):
        for d, dw in enumerate(directions):
            for field, name in NAMES.items():
                if getattr(dw, field) is not None:
                    weight = getattr(module, f"{name}_l{layer}{'_reverse' if d else ''}")
                    assert_within(getattr(dw, field), weight.grad, f"d{field}[{layer}][{d}]")


def test_front_door_is_differentiable_by_autograd() -> None:
    """`gru` on tensors, differentiated by autograd, gives the explicit gradients."""
    rng = np.random.default_rng(0)
    params = random_params(rng, 5, 4, 2, 2)
    x, h0, dy = rng.normal(size=(6, 3, 5)), rng.normal(size=(4, 3, 4)), rng.normal(size=(6, 3, 8))
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, h0, *(a for layer in params for w in layer for a in w))]
    cells = [gru_xp.CellParams(*leaves[2 + 4 * i : 6 + 4 * i]) for i in range(4)]
    y, _ = gru_xp.gru(leaves[0], ((cells[0], cells[1]), (cells[2], cells[3])), leaves[1], lengths=[6, 2, 4])
    y.backward(torch.tensor(dy))
    _, _, tape = gru_xp.gru_forward(x, params, h0, lengths=[6, 2, 4])
    grads = gru_xp.gru_backward(tape, dy)
    explicit = [grads.x, grads.h0, *(a for layer in grads.params for w in layer for a in w)]
    for leaf, expected in zip(leaves, explicit, strict=True):
        assert_within(expected, leaf.grad, "gradient")


def test_explicit_functions_record_nothing() -> None:
    model = torch.nn.GRU(3, 4)
    w = gru_xp.CellParams(*model.parameters())
    x = torch.zeros(2, 1, 3, requires_grad=True)
    y, h_n = gru_xp.gru_inference(x, ((w,),))
    y2, _, tape = gru_xp.gru_forward(x, ((w,),))
    grads = gru_xp.gru_backward(tape, torch.ones_like(y2))
    assert not any(a.requires_grad for a in (y, h_n, y2, grads.x, grads.h0, *grads.params[0][0]))
    assert gru_xp.gru(x, ((w,),))[0].requires_grad


NAMES = {"W_ih": "weight_ih", "W_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}


def torch_module(params, I: int, H: int) -> torch.nn.GRU:
    module = torch.nn.GRU(
        I, H, len(params), bias=params[0][0].b_ih is not None, bidirectional=len(params[0]) == 2, dtype=torch.float64
    )
    with torch.no_grad():
        for layer, directions in enumerate(params):
            for d, w in enumerate(directions):
                for field, name in NAMES.items():
                    if getattr(w, field) is not None:
                        weight = getattr(module, f"{name}_l{layer}{'_reverse' if d else ''}")
                        weight.copy_(torch.tensor(getattr(w, field)))
    return module


def assert_within(got: np.ndarray, expected: torch.Tensor, name: str) -> None:
    reference = expected.detach().numpy()
    worst = np.max(np.abs(got - reference), initial=0.0) / max(1.0, np.max(np.abs(reference), initial=0.0))
    assert worst <= BOUND, f"{name}: off by {worst:.2e}"
