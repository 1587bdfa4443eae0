"""Losses and their gradients against PyTorch's, which knows masks as `ignore_index`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import LIBRARIES, to_library, to_numpy

from gru_xp.errors import DTypeError, MixedArraysError, RangeError, ShapeError
from gru_xp.training import cross_entropy, squared_error

T, N, K = 5, 3, 4
RNG = np.random.default_rng(0)
LOGITS, LABELS = 4.0 * RNG.normal(size=(T, N, K)), RNG.integers(K, size=(T, N))
TARGETS, MASK = RNG.normal(size=(T, N, K)), RNG.random((T, N)) < 0.6


def put(library: str, array: Any) -> Any:
    """As `to_library`, integers and booleans as well."""
    return None if array is None else to_library(library, array)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_cross_entropy_is_torchs(library: str, mask: Any) -> None:
    loss, gradient = cross_entropy(put(library, LOGITS), put(library, LABELS), put(library, mask))
    logits = torch.tensor(LOGITS, requires_grad=True)
    labels = torch.tensor(LABELS if mask is None else np.where(mask, LABELS, -100))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-12)
    np.testing.assert_allclose(to_numpy(gradient), logits.grad, atol=1e-15)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_squared_error_is_torchs(library: str, mask: Any) -> None:
    loss, gradient = squared_error(put(library, LOGITS), put(library, TARGETS), put(library, mask))
    y, rows = torch.tensor(LOGITS, requires_grad=True), torch.tensor(np.ones((T, N), bool) if mask is None else mask)
    expected = torch.nn.functional.mse_loss(y[rows], torch.tensor(TARGETS)[rows])
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-12)
    np.testing.assert_allclose(to_numpy(gradient), y.grad, atol=1e-15)


def test_what_the_mask_hides_may_be_anything() -> None:
    hidden = ~MASK
    logits, labels, targets = LOGITS.copy(), LABELS.copy(), TARGETS.copy()
    logits[hidden], labels[hidden], targets[hidden] = np.nan, -7, np.inf
    for got, expected in (
        (cross_entropy(logits, labels, MASK), cross_entropy(LOGITS, LABELS, MASK)),
        (squared_error(logits, targets, MASK), squared_error(LOGITS, TARGETS, MASK)),
    ):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_large_logits_do_not_overflow() -> None:
    loss, gradient = cross_entropy(np.array([[1e4, 0.0], [0.0, 1e4]], "f4"), np.array([0, 0]))
    assert float(loss) == 5000.0
    np.testing.assert_array_equal(gradient, np.array([[0, 0], [-0.5, 0.5]], "f4"))


def test_sixteen_bits_are_summed_in_thirty_two() -> None:
    """A float16 ends at 65504, and the sum of the losses of so many entries would not."""
    logits, labels = np.zeros((100_000, 2), "f2"), np.zeros(100_000, "i8")
    loss, gradient = cross_entropy(logits, labels)
    assert float(loss) == pytest.approx(np.log(2), rel=1e-6) and gradient.dtype == np.float16
    loss, gradient = squared_error(logits + np.float16(1), logits)
    assert float(loss) == 1.0 and gradient.dtype == np.float16


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: cross_entropy(LOGITS, LABELS[:2]), ShapeError, r"labels: expected \(5, 3\), .* got \(2, 3\)"),
        (lambda: cross_entropy(LOGITS, LABELS * 1.0), DTypeError, "labels: expected integers, got float64"),
        (lambda: cross_entropy(LOGITS, LABELS + 1), RangeError, "labels: expected integers from 0 to K - 1 = 3"),
        (lambda: cross_entropy(LOGITS, LABELS, MASK[0]), ShapeError, r"mask: expected \(5, 3\)"),
        (lambda: cross_entropy(LOGITS, LABELS, MASK * 1), DTypeError, "mask: expected booleans, got int64"),
        (lambda: cross_entropy(LOGITS, LABELS, MASK & False), RangeError, "at least one entry that counts"),
        (lambda: squared_error(LOGITS[:0], TARGETS[:0]), RangeError, "at least one entry that counts"),
        (lambda: squared_error(LOGITS, TARGETS[..., :1]), ShapeError, r"targets: expected \(5, 3, 4\), as y has"),
        (lambda: cross_entropy(LOGITS, torch.tensor(LABELS)), MixedArraysError, "logits, labels: .* one library"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
