"""Batches of ragged sequences: padding against PyTorch's, and what batches promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import LIBRARIES, to_library, to_numpy

from gru_xp.errors import RangeError, ShapeError, StructureError
from gru_xp.training import batches, pad, valid_steps

LENGTHS = [int(n) for n in np.random.default_rng(0).integers(1, 60, size=203)]


@pytest.mark.parametrize("library", LIBRARIES)
def test_padding_is_torchs(library: str) -> None:
    rng = np.random.default_rng(1)
    sequences = [rng.normal(size=(n, 3)) for n in (4, 7, 1, 7)]
    x, lengths = pad([to_library(library, a) for a in sequences], value=-2.5)
    expected = torch.nn.utils.rnn.pad_sequence([torch.tensor(a) for a in sequences], padding_value=-2.5)
    np.testing.assert_array_equal(to_numpy(x), expected)
    assert lengths == [4, 7, 1, 7] and type(x) is type(to_library(library, sequences[0]))
    valid = to_numpy(valid_steps(x, lengths))
    np.testing.assert_array_equal(valid, to_numpy(x)[..., 0] != -2.5)


def test_labels_are_padded_too_and_length_0_is_a_length() -> None:
    labels, lengths = pad([np.array([3, 1]), np.array([], int)], value=-1)
    np.testing.assert_array_equal(labels, [[3, -1], [1, -1]])
    assert lengths == [2, 0] and labels.dtype == np.int64


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_each_sequence_is_in_one_batch(seed: int | None) -> None:
    found = batches(LENGTHS, 16, seed=seed, epoch=3)
    assert sorted(i for batch in found for i in batch) == list(range(203))
    assert sorted(map(len, found)) == [203 % 16, *[16] * 12]


def test_a_seed_and_an_epoch_decide_all() -> None:
    assert batches(LENGTHS, 16, seed=4, epoch=2) == batches(LENGTHS, 16, seed=4, epoch=2)
    others = [batches(LENGTHS, 16, seed=seed, epoch=epoch) for seed, epoch in ((4, 2), (4, 3), (5, 2), (42, 0))]
    assert all(a != b for i, a in enumerate(others) for b in others[:i])


def test_pools_of_more_batches_need_less_padding() -> None:
    def padded(pool: int) -> int:
        return sum(max(LENGTHS[i] for i in batch) * len(batch) for batch in batches(LENGTHS, 16, seed=0, pool=pool))

    assert sum(LENGTHS) < padded(13) < padded(4) < padded(1)


def test_the_batches_are_not_sorted_by_length() -> None:
    """Short sequences first in each epoch would be a curriculum that nobody asked for."""
    firsts = [max(LENGTHS[i] for i in batches(LENGTHS, 16, seed=seed)[0]) for seed in range(20)]
    assert min(firsts) < 20 and max(firsts) > 45


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: pad([]), StructureError, "at least one array"),
        (
            lambda: pad([[1.0, 2.0]]),
            StructureError,
            r"sequences\[0\]: expected an array \(T_i, ...\), got \[1.0, 2.0\]",
        ),
        (lambda: pad([np.zeros((2, 3)), np.zeros((2, 4))]), ShapeError, r"sequences\[1\]: expected \(T_i, 3\)"),
        (lambda: pad([np.zeros(2), np.zeros(2, "f4")]), ShapeError, "float64, as the first has, got .* float32"),
        (lambda: batches([1, 2], 0), RangeError, "size: expected at least 1, got 0"),
        (lambda: batches([1, 2], 1, seed=0.5), StructureError, "seed: expected an integer"),
        (lambda: valid_steps(np.zeros((2, 3, 1)), [2, 2]), ShapeError, r"lengths: expected \(N,\) = \(3,\)"),
        (lambda: valid_steps(np.zeros((2, 2, 1)), [2, 3]), RangeError, r"lengths: expected numbers from 0 to T = 2"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
