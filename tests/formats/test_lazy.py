"""Of a large file only what is needed is in memory: the arrays of its GRU, not those beside it."""

from __future__ import annotations

import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import pytest
import torch
from tensorflow_files import write_checkpoint

import gru_xp
from gru_xp import errors, files
from gru_xp.params import weights_of

ROWS, COLUMNS = 1 << 12, 1 << 10  # 16 MiB of float32
I, H = 4, 5
RNG = np.random.default_rng(0)
KERAS = {"kernel": (I, 3 * H), "recurrent_kernel": (H, 3 * H), "bias": (2, 3 * H)}


def table() -> Any:
    return np.arange(ROWS * COLUMNS, dtype="f4").reshape(ROWS, COLUMNS)


def state() -> dict[str, Any]:
    torch.manual_seed(0)
    return {f"gru.{name}": a for name, a in torch.nn.GRU(I, H).state_dict().items()} | {"a": torch.tensor(table())}


def keras_arrays() -> dict[str, Any]:
    return {f"gru/{name}": RNG.normal(size=shape).astype("f4") for name, shape in KERAS.items()} | {"a": table()}


def flat_storage(path: Path) -> None:
    """All weights in one storage, as cuDNN wants them."""
    made = state()
    small = {name: a for name, a in made.items() if name != "a"}
    flat = torch.cat([a.flatten() for a in small.values()])
    parts = flat.split([a.numel() for a in small.values()])
    made |= {name: part.view(a.shape) for (name, a), part in zip(small.items(), parts, strict=True)}
    torch.save(made, path, _use_new_zipfile_serialization=False)


def hdf5(path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, a in keras_arrays().items():
            file[name] = a


def keras(path: Path) -> None:
    """The weights of a .keras are one entry of a zip, which is not compressed."""
    keras = pytest.importorskip("keras")
    layers = keras.layers
    model = keras.Sequential([keras.Input((None,)), layers.Embedding(ROWS, COLUMNS), layers.GRU(H)])
    model.layers[0].set_weights([table()])
    model.save(path)


def safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file(state(), path)


WRITERS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {  # the file, the array beside the GRU, who writes it
    "npz": ("m.npz", "a", lambda path: np.savez(path, **{name: np.asarray(a) for name, a in state().items()})),
    "torch": ("m.pt", "a", lambda path: torch.save(state(), path)),
    "torch before 1.6": (
        "m.pt",
        "a",
        lambda path: torch.save(state(), path, _use_new_zipfile_serialization=False),
    ),
    "torch, one storage": ("m.pt", "a", flat_storage),
    "HDF5": ("m.weights.h5", "a", hdf5),
    "keras": ("m.keras", "layers/embedding/vars/0", keras),
    "safetensors": ("m.safetensors", "a", safetensors),
    "checkpoint": ("m", "a", lambda path: write_checkpoint(path, keras_arrays())),
}


@pytest.mark.filterwarnings("ignore:.*:gru_xp.errors.ConversionWarning")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("what", WRITERS)
def test_memory_is_that_of_the_gru_and_not_of_the_file(what: str, tmp_path: Path) -> None:
    name, beside, write = WRITERS[what]
    write(tmp_path / name)
    gru_xp.load(tmp_path / name)  # which imports what is needed
    tracemalloc.start()
    try:
        model = gru_xp.load(tmp_path / name)
        found = files.contents(tmp_path / name)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    large = table()
    assert peak < large.nbytes / 4
    np.testing.assert_array_equal(found.arrays[beside], large)
    assert len(weights_of(model.params)) == 4


def test_weights_of_a_zip_are_compared_with_their_checksum(tmp_path: Path) -> None:
    """Though they are read where they are, and not unpacked."""
    pytest.importorskip("keras")
    path = tmp_path / "m.keras"
    gru_xp.GRU(I, H, seed=0).save(path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("model.weights.h5")
    data[info.header_offset + info.file_size] ^= 1  # near the end of the entry, among the numbers
    path.write_bytes(data)
    with pytest.raises(errors.FileFormatError, match="Bad CRC"):
        gru_xp.load(path)


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    hdf5(tmp_path / "m.weights.h5")
    found = files.contents(tmp_path / "m.weights.h5")
    os.truncate(tmp_path / "m.weights.h5", 1000)
    with pytest.raises(errors.FileFormatError, match="the file has become shorter"):
        found.arrays["a"]
