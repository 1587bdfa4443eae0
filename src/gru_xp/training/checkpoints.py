"""The state of a training run in a file, to go on from bit for bit: weights, the optimiser's state, counters, seeds.

A `.safetensors` file where the library safetensors is installed, or an `.npz` file, which needs NumPy alone. Arrays are
stored under the names of their places in the tree, and what is no array as JSON under `STATE`. Neither kind of file can
contain code.
"""

from __future__ import annotations

import io
import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.atomic import write_whole
from gru_xp.errors import BackendError, FileFormatError, StructureError

from .host import from_host, to_host
from .trees import leaves, map_tree, names

__all__ = ["load", "save"]

STATE = "gru_xp.state"
SCALARS = (bool, int, float, str)


def save(path: str | PathLike[str], state: Any) -> None:
    """Write a tree whose leaves are arrays of any library, numbers, strings and booleans; whole or not at all.

    Args:
        path: ends in .safetensors or .npz.
        state: the tree.

    >>> import numpy as np, tempfile
    >>> path = tempfile.mkdtemp() + "/state.npz"
    >>> save(path, {"W": np.ones(2), "epoch": 3})
    >>> load(path, like={"W": np.zeros(2), "epoch": 0})
    {'W': array([1., 1.]), 'epoch': 3}
    """
    write = {".safetensors": _safetensors_bytes, ".npz": _npz_bytes}[_suffix(path)]
    arrays: dict[str, np.ndarray] = {}
    scalars: dict[str, Any] = {}
    for name, leaf in zip(names(state), leaves(state), strict=True):
        if name == STATE or name in arrays or name in scalars:
            raise StructureError(f"state: expected one name for each place, got {name!r} twice; rename a key")
        if type(leaf) in SCALARS:
            scalars[name] = leaf
        else:
            arrays[name] = to_host(_array(leaf), f"state: {name}")
    write_whole(path, write(arrays, json.dumps(scalars)))


def load(path: str | PathLike[str], *, like: Any) -> Any:
    """Read what `save` wrote.

    Args:
        path: of the file.
        like: a tree of the same structure, such as the state before the first step: its arrays say of which library,
            device, dtype and shape those of the file become.

    Raises:
        FileFormatError: the file is damaged, or holds something else than `like` says.
    """
    read = {".safetensors": _from_safetensors, ".npz": _from_npz}[_suffix(path)]
    try:
        arrays, text = read(path)
        scalars = json.loads(text)
    except (OSError, BackendError):
        raise
    except Exception as error:
        raise FileFormatError(
            f"{path}: expected what save of gru_xp.training wrote, got something else: {error}"
        ) from None
    found = {**arrays, **scalars}
    expected = names(like)
    if sorted(found) != sorted(expected):
        missing, others = set(expected) - set(found), set(found) - set(expected)
        raise FileFormatError(
            f"{path}: expected what like has; missing: {_some(missing)}; not expected: {_some(others)}"
        )
    following = iter(expected)
    return map_tree(lambda leaf: _restored(found[name := next(following)], leaf, f"{path}: {name}"), like)


def _restored(value: Any, like: Any, where: str) -> Any:
    if type(like) in SCALARS or type(value) in SCALARS:
        if type(value) is not type(like):
            raise FileFormatError(f"{where}: expected a {type(like).__name__}, as like has, got {value!r:.80}")
        return value
    like = _array(like)
    restored = from_host(value, like, where)
    if tuple(restored.shape) != tuple(like.shape) or restored.dtype != like.dtype:
        raise FileFormatError(
            f"{where}: expected {tuple(like.shape)} and {like.dtype}, as like has, got {value.shape} and {value.dtype}"
        )
    return restored


def _array(leaf: Any) -> Any:
    """NumPy makes a scalar of what has the shape (): as the array that it was."""
    return np.asarray(leaf) if isinstance(leaf, np.generic) else leaf


# ---- the two kinds of files ------------------------------------------------------------------------------------------


def _suffix(path: str | PathLike[str]) -> str:
    suffix = Path(path).suffix
    if suffix not in (".safetensors", ".npz"):
        raise StructureError(f"path: expected a name that ends in .safetensors or .npz, got {str(path)!r}")
    return suffix


def _npz_bytes(arrays: dict[str, np.ndarray], text: str) -> bytes:
    data = io.BytesIO()
    np.savez(data, **arrays, **{STATE: np.asarray(text)})  # type: ignore[arg-type]
    return data.getvalue()


def _from_npz(path: Any) -> tuple[dict[str, Any], str]:
    data = io.BytesIO(Path(path).read_bytes())  # given a damaged file by its path, NumPy 2.4 leaves it open
    with np.load(data, allow_pickle=False) as file:
        arrays = dict(file)
    return arrays, str(arrays.pop(STATE))


def _safetensors_bytes(arrays: dict[str, np.ndarray], text: str) -> bytes:
    # Seen with safetensors 0.8: `save` writes the values of a non-contiguous array in the order of its memory.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return bytes(_library().save(contiguous, {STATE: text}))


def _from_safetensors(path: Any) -> tuple[dict[str, Any], str]:
    _library()
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()[STATE]  # noqa: SIM118


def _library() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise BackendError(
            "the library safetensors is missing, which .safetensors files need; install it (python -m pip install "
            "'gru-xp[files]') or use .npz"
        ) from None
    return safetensors.numpy


def _some(names: set[str]) -> str:
    """A few names, for an error."""
    shown = sorted(names)[:5]
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if shown else "nothing"
