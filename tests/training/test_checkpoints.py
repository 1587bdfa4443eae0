"""Saved states: every bit of them comes back, and what is no such state is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import LIBRARIES, random_params, to_library, to_numpy

from gru_xp.errors import BackendError, DTypeError, FileFormatError, StructureError
from gru_xp.training import Adam, leaves, load, map_tree, save

FILES = ("state.npz", "state.safetensors")


def state() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    weights = {"gru": random_params(rng, 3, 4, L=2, D=2, bias=False), "b": rng.normal(size=5).astype("f4")}
    adam = Adam()
    weights, optimizer = adam.update(weights, map_tree(np.ones_like, weights), adam.init(weights))
    return {
        "weights": weights,
        "optimizer": optimizer,
        "rng": rng.bit_generator.state,  # integers of 128 bits among them
        "epoch": 7,
        "best": 0.1 + 0.2,
        "lowest": float("inf"),
        "done": False,
        "counts": [np.arange(6).reshape(2, 3).T, np.array([True, False]), np.float32(0.1)],
        "nothing": None,
    }


@pytest.mark.parametrize("file", FILES)
def test_every_bit_comes_back(file: str, tmp_path: Path) -> None:
    save(tmp_path / file, state())
    again = load(tmp_path / file, like=map_tree(lambda a: np.zeros_like(a) if hasattr(a, "shape") else a, state()))
    for a, b in zip(leaves(again), leaves(state()), strict=True):
        assert type(a) is type(b) or isinstance(b, np.generic)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        else:
            assert a == b
    generators = np.random.default_rng(), np.random.default_rng()
    generators[0].bit_generator.state, generators[1].bit_generator.state = again["rng"], state()["rng"]
    assert generators[0].random() == generators[1].random()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_arrays_of_every_library(library: str, file: str, tmp_path: Path) -> None:
    original = {"a": np.float64([[0.1, -np.inf], [np.nan, -0.0]]), "n": np.arange(5), "m": np.array([True, False])}
    original["z"] = np.zeros((0, 3))
    put = map_tree(lambda a: to_library(library, a), original)
    save(tmp_path / file, put)
    again = load(tmp_path / file, like=put)
    for name, a in again.items():
        assert type(a) is type(put[name]) and to_numpy(a).tobytes() == original[name].tobytes()
    from_numpy = load(tmp_path / file, like=original)  # a file knows no library
    assert type(from_numpy["a"]) is np.ndarray and from_numpy["a"].tobytes() == original["a"].tobytes()


def test_the_types_of_optax_come_back(tmp_path: Path) -> None:
    import jax.numpy as jnp
    import optax

    weights = {"w": jnp.arange(3.0)}
    optimizer = optax.adam(0.1)
    first = optimizer.init(weights)
    _, second = optimizer.update({"w": jnp.ones(3)}, first, weights)
    save(tmp_path / "s.npz", second)
    again = load(tmp_path / "s.npz", like=first)
    assert type(again) is type(second) and type(again[0]) is type(second[0]) and int(again[0].count) == 1
    np.testing.assert_array_equal(again[0].mu["w"], second[0].mu["w"])


@pytest.mark.parametrize("file", FILES)
def test_another_state_is_refused(file: str, tmp_path: Path) -> None:
    path = tmp_path / file
    save(path, {"W": np.ones((2, 3), "f4"), "epoch": 3})

    def refused(words: str, **like: Any) -> None:
        with pytest.raises(FileFormatError, match=words):
            load(path, like=like)

    refused("missing: b; not expected: W", b=np.ones(2), epoch=0)
    refused(
        r"W: expected \(3, 2\) and float32, as like has, got \(2, 3\) and float32", W=np.ones((3, 2), "f4"), epoch=0
    )
    refused("W: expected .* float64, as like has, got .* float32", W=np.ones((2, 3)), epoch=0)
    refused("epoch: expected a float, as like has, got 3", W=np.ones((2, 3), "f4"), epoch=0.0)
    refused("epoch: expected a ndarray, as like has, got 3", W=np.ones((2, 3), "f4"), epoch=np.ones(2))
    refused("W: expected a int, as like has, got array", W=3, epoch=0)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"\x00" * len(b)])
def test_a_damaged_file_is_refused(file: str, damage: Any, tmp_path: Path) -> None:
    path = tmp_path / file
    save(path, {"W": np.ones(100)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FileFormatError, match="expected what save of gru_xp.training wrote"):
        load(path, like={"W": np.ones(100)})


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", W=np.array([object()], dtype=object), **{"gru_xp.state": np.asarray("{}")})
    with pytest.raises(FileFormatError, match="allow_pickle"):
        load(tmp_path / "x.npz", like={"W": np.ones(1)})


def test_a_file_that_is_not_there_is_pythons_error(tmp_path: Path) -> None:
    for file in FILES:
        with pytest.raises(FileNotFoundError):
            load(tmp_path / file, like={})


def test_what_cannot_be_saved_is_refused_before_writing(tmp_path: Path) -> None:
    import jax.numpy as jnp

    path = tmp_path / "s.npz"
    with pytest.raises(StructureError, match="ends in .safetensors or .npz, got"):
        save(tmp_path / "s.pt", {})
    with pytest.raises(StructureError, match="state: x: expected an array"):
        save(path, {"x": object()})
    with pytest.raises(StructureError, match="got 'a.b' twice"):
        save(path, {"a.b": 1, "a": {"b": 2}})
    with pytest.raises(DTypeError, match="state: x: expected a dtype that NumPy has, got bfloat16"):
        save(path, {"x": jnp.ones(2, jnp.bfloat16)})
    assert not path.exists()


def test_without_safetensors_npz_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(BackendError, match=r"gru-xp\[files\]'\) or use .npz"):
        save(tmp_path / "s.safetensors", {"W": np.ones(2)})
    save(tmp_path / "s.npz", {"W": np.ones(2)})
