"""Trees against JAX's pytrees, which have the same nodes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from helpers import LIBRARIES, random_params, to_library, to_numpy

from gru_xp import CellParams
from gru_xp.errors import StructureError
from gru_xp.training import flatten, leaves, map_tree, names, unflatten


def tree(dtype: Any = "f4") -> dict[str, Any]:
    rng = np.random.default_rng(0)
    params = random_params(rng, 3, 4, L=2, D=2, bias=False, dtype=dtype)
    return {"gru": params, "b": rng.normal(size=5).astype(dtype), "a": [rng.normal(size=()).astype(dtype), None]}


def test_leaves_and_their_order_are_those_of_jax() -> None:
    ours, theirs = leaves(tree()), jax.tree.leaves(tree())
    assert len(ours) == len(theirs) == 10
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_map_keeps_the_structure() -> None:
    mapped = map_tree(lambda a, b: a - 2 * b, tree(), tree())
    assert jax.tree.structure(mapped) == jax.tree.structure(tree())
    assert type(mapped["gru"][1][0]) is CellParams
    np.testing.assert_array_equal(mapped["gru"][1][0].W_hh, -tree()["gru"][1][0].W_hh)


def test_names_lead_to_the_leaves() -> None:
    found = dict(zip(names(tree()), leaves(tree()), strict=True))
    assert list(found)[:3] == ["a.0", "b", "gru.0.0.W_ih"]
    np.testing.assert_array_equal(found["gru.1.0.W_hh"], tree()["gru"][1][0].W_hh)


def test_the_order_of_keys_does_not_matter() -> None:
    a, b = {"x": np.ones(2), "y": np.zeros(3)}, {"y": np.zeros(3), "x": np.ones(2)}
    np.testing.assert_array_equal(flatten(a), flatten(b))
    np.testing.assert_array_equal(unflatten(flatten(a), b)["y"], a["y"])


@pytest.mark.parametrize("library", LIBRARIES)
def test_flatten_and_unflatten_are_inverse(library: str) -> None:
    original = map_tree(lambda a: to_library(library, a), tree())
    vector = flatten(original)
    expected = np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree())])
    np.testing.assert_array_equal(to_numpy(vector), expected)
    again = unflatten(vector * 2.0, original)
    assert type(again["b"]) is type(original["b"])
    for a, b in zip(leaves(again), leaves(tree()), strict=True):
        np.testing.assert_array_equal(to_numpy(a), 2 * b)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"b": 1}, "tree: expected a dict of a, b, got a dict of b"),
        ({"a": [1, 2, 3], "b": 1}, "a: expected a list of 0, 1, got a list of 0, 1, 2"),
        ({"a": [1, (2,)], "b": 1}, "a.1: expected a leaf, got a tuple of 0"),
        ({"a": [1, None], "b": 1}, "a.1: expected a leaf, got None"),
    ],
)
def test_another_structure_is_refused_with_its_place(other: Any, words: str) -> None:
    with pytest.raises(StructureError, match=words):
        map_tree(lambda a, b: a, {"a": [1, 2], "b": 3}, other)


def test_what_is_no_vector_of_the_tree_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vector: expected \(P,\) = \(101,\), got \(7,\)"):
        unflatten(np.zeros(7, "f4"), {"W": np.zeros((10, 10)), "b": np.zeros(())})
    with pytest.raises(StructureError, match="b: expected float32, as the first array has, got float64"):
        flatten({"a": np.zeros(2, "f4"), "b": np.zeros(2)})
    with pytest.raises(StructureError, match="expected at least one array"):
        flatten({})
    with pytest.raises(StructureError, match="names for keys"):
        leaves({0: np.zeros(2)})
