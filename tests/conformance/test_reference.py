"""The reference is itself judged: by complex steps, by torch.nn.GRU and its autograd in float64, by its own laws."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from libraries import torch

from gru_xp_conformance import reference
from gru_xp_conformance.tolerance import OF_REFERENCE, STEP

A = npt.NDArray[Any]


def make(
    L: int = 2, D: int = 2, T: int = 5, N: int = 3, I: int = 2, H: int = 3, bias: bool = True, seed: int = 0
) -> Any:
    """Random parameters, x, h0, dy, dh_n, all different."""
    rng = np.random.default_rng(seed)

    def weights(K: int) -> tuple[A | None, ...]:
        biases = (rng.normal(size=3 * H), rng.normal(size=3 * H)) if bias else (None, None)
        return rng.normal(size=(3 * H, K)), rng.normal(size=(3 * H, H)), *biases

    params = tuple(tuple(weights(I if layer == 0 else D * H) for _ in range(D)) for layer in range(L))
    x, h0 = rng.normal(size=(T, N, I)), rng.normal(size=(L * D, N, H))
    return params, x, h0, rng.normal(size=(T, N, D * H)), rng.normal(size=(L * D, N, H))


def options_of(kind: str, T: int = 5, N: int = 3, width: int = 6) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    resets = rng.random((T, N)) < 0.3
    resets[0, 0] = resets[-1, 1] = True
    return {
        "plain": {},
        "lengths": {"lengths": [5, 0, 3]},
        "resets": {"resets": resets},
        "lengths and resets": {"lengths": [4, 5, 2], "resets": resets},
        "dropout": {"dropout_masks": (rng.random((1, T, N, width)) < 0.5) * 2.0},
        "mask": {"mask": rng.random((T, N)) < 0.6, "resets": resets},
        "held": {"mask": rng.random((T, N)) < 0.6, "resets": resets, "hold": True},
        "other activations": {"gate": ("hard_sigmoid", 0.3, 0.45), "candidate": ("softsign",), "clip": 0.9},
    }[kind]


@pytest.mark.parametrize("reset_after", [True, False], ids=["reset_after", "reset_before"])
@pytest.mark.parametrize(
    "kind", ["plain", "lengths", "resets", "lengths and resets", "dropout", "mask", "held", "other activations"]
)
def test_gradients_are_complex_steps_of_the_forward_pass(kind: str, reset_after: bool) -> None:
    params, x, h0, dy, dh_n = make()
    options = {**options_of(kind), "reset_after": reset_after}
    grads = reference.backward(reference.forward(x, params, h0, **options), dy, dh_n)

    def derivative(a: A, at: tuple[int, ...], rerun: Any) -> float:
        moved = a.astype(complex)
        moved[at] += 1j * STEP
        run = rerun(moved)
        return float((np.sum(run.y * dy) + np.sum(run.h_n * dh_n)).imag / STEP)

    def with_weight(layer: int, d: int, index: int, moved: A) -> Any:
        changed = [[list(w) for w in directions] for directions in params]
        changed[layer][d][index] = moved
        return reference.forward(x, changed, h0, **options)

    checks = [(x, grads.x, lambda a: reference.forward(a, params, h0, **options))]
    checks.append((h0, grads.h0, lambda a: reference.forward(x, params, a, **options)))
    for layer in range(2):
        for d in range(2):
            for index in range(4):
                got = grads.params[layer][d][index]
                rerun = lambda a, layer=layer, d=d, index=index: with_weight(layer, d, index, a)  # noqa: E731
                checks.append((params[layer][d][index], got, rerun))
    rng = np.random.default_rng(1)
    for a, got, rerun in checks:
        for flat in rng.choice(a.size, size=min(a.size, 6), replace=False):
            at = np.unravel_index(flat, a.shape)
            np.testing.assert_allclose(got[at], derivative(a, at, rerun), **OF_REFERENCE)


def torch_gru(params: Any, bias: bool) -> torch.nn.GRU:
    L, D = len(params), len(params[0])
    H, I = params[0][0][1].shape[1], params[0][0][0].shape[1]
    module = torch.nn.GRU(I, H, L, bias=bias, bidirectional=D == 2, dtype=torch.float64)
    with torch.no_grad():
        for layer, directions in enumerate(params):
            for d, w in enumerate(directions):
                for name, a in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), w, strict=True):
                    if a is not None:
                        getattr(module, f"{name}_l{layer}{'_reverse' * d}").copy_(torch.from_numpy(a))
    return module


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("D", [1, 2])
@pytest.mark.parametrize("L", [1, 3])
@pytest.mark.parametrize("lengths", [None, [5, 1, 3]], ids=["whole", "packed"])
def test_agrees_with_torch(L: int, D: int, bias: bool, lengths: list[int] | None) -> None:
    params, x, h0, dy, dh_n = make(L, D, bias=bias)
    run = reference.forward(x, params, h0, lengths=lengths)
    grads = reference.backward(run, dy, dh_n)

    module = torch_gru(params, bias)
    tx, th0 = torch.tensor(x, requires_grad=True), torch.tensor(h0, requires_grad=True)
    if lengths is None:
        y, h_n = module(tx, th0)
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(tx, torch.tensor(lengths), enforce_sorted=False)
        out, h_n = module(packed, th0)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(out, total_length=x.shape[0])
    np.testing.assert_allclose(run.y, y.detach().numpy(), **OF_REFERENCE)
    np.testing.assert_allclose(run.h_n, h_n.detach().numpy(), **OF_REFERENCE)

    torch.autograd.backward([y, h_n], [torch.tensor(dy), torch.tensor(dh_n)])
    np.testing.assert_allclose(grads.x, tx.grad.numpy(), **OF_REFERENCE)
    np.testing.assert_allclose(grads.h0, th0.grad.numpy(), **OF_REFERENCE)
    for layer in range(L):
        for d in range(D):
            for name, got in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), grads.params[layer][d], strict=True):
                if got is not None:
                    wanted = getattr(module, f"{name}_l{layer}{'_reverse' * d}").grad.numpy()
                    np.testing.assert_allclose(got, wanted, **OF_REFERENCE)


def test_saturated_gates_and_empty_inputs() -> None:
    params, x, h0, dy, dh_n = make()
    run = reference.forward(1e4 * x, params, h0)
    assert np.isfinite(run.y).all() and np.isfinite(reference.backward(run, dy, dh_n).x).all()
    for empty in (x[:0], x[:, :0]):
        run = reference.forward(empty, params, h0[:, : empty.shape[1]])
        assert run.y.shape == (*empty.shape[:2], 6)
        assert reference.backward(run).x.shape == empty.shape
    np.testing.assert_array_equal(reference.forward(x[:0], params, h0).h_n, h0)


def test_a_reset_before_step_t_cuts_both_directions_between_t_minus_1_and_t() -> None:
    params, x, _, _, _ = make(L=1)
    resets = np.zeros((5, 3), dtype=bool)
    resets[2] = True
    whole = reference.forward(x, params, resets=resets)
    first, second = reference.forward(x[:2], params), reference.forward(x[2:], params)
    np.testing.assert_array_equal(whole.y, np.concatenate([first.y, second.y]))
    np.testing.assert_array_equal(whole.h_n, np.stack([second.h_n[0], first.h_n[1]]))


def test_imports_nothing_that_it_judges() -> None:
    import ast
    import inspect

    modules = {
        name
        for node in ast.walk(ast.parse(inspect.getsource(reference)))
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")]
        )
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert not [name for name in modules if "gru_xp" in name or name == ""], modules
