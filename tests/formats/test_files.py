"""Model files: whole or not at all, the same bits everywhere, and a clear error for everything that is not a model."""

from __future__ import annotations

import copy
import json
import os
import pickle
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import LIBRARIES, to_library, to_numpy
from libraries import torch

import gru_xp
from gru_xp import errors
from gru_xp.files import contents

X = np.random.default_rng(0).normal(size=(6, 3, 4)).astype("f4")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False, "num_layers": 2, "bidirectional": True},
        {"batch_first": True, "dropout": 0.3, "num_layers": 3, "reset_after": False},
        {"dtype": "float64"},
        {"dtype": "float16"},
        {"dtype": "bfloat16"},
    ],
)
def test_saved_here_and_loaded_there(path: Path, library: str, options: dict[str, Any]) -> None:
    dtype = options.get("dtype", "float32")
    backend = gru_xp.discovery.load(library)
    if dtype not in backend.float_names():
        pytest.skip(f"{library} has no {dtype}")
    model = gru_xp.GRU(4, 5, **options, seed=0, backend=library)
    model.save(path)
    for other in LIBRARIES:
        there = gru_xp.discovery.load(other)
        if dtype not in there.float_names():
            with pytest.raises(errors.BackendError, match=f"holds {dtype}, which {other} does not have"):
                gru_xp.load(path, backend=other)
            continue
        loaded = gru_xp.load(path, backend=other)
        assert repr(loaded).partition(", backend")[0] == repr(model).partition(", backend")[0]
        assert loaded.backend == f"{other}:cpu"
        for a, b in zip(weights(loaded, there), weights(model, backend), strict=True):
            np.testing.assert_array_equal(a, b)


def weights(model: gru_xp.GRU, backend: Any) -> list[np.ndarray]:
    wide = backend.xp.float32 if model.dtype == "bfloat16" else backend.dtype(model.dtype)
    found = [a for layer in model.params for w in layer for a in w if a is not None]
    return [to_numpy(backend.xp.astype(a, wide)) for a in found]


def test_torch_reads_the_values_under_its_own_names(path: Path) -> None:
    from safetensors.torch import load_file

    model = gru_xp.GRU(4, 5, 2, bidirectional=True, seed=0)
    model.save(path)
    twin = torch.nn.GRU(4, 5, 2, bidirectional=True)
    twin.load_state_dict(load_file(path))
    np.testing.assert_allclose(model(X)[0], twin(torch.tensor(X))[0].detach(), rtol=0, atol=1e-6)


def test_the_variable_says_where_a_model_is_loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gru_xp.GRU(4, 5, seed=0).save(path)
    monkeypatch.setenv("GRU_XP_BACKEND", "torch")
    model = gru_xp.load(path)
    assert model.backend == "torch:cpu"
    assert isinstance(model(X)[0], np.ndarray)
    assert isinstance(model(to_library("jax", X))[0], type(to_library("jax", X)))


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gru_xp.GRU(4, 5, seed=0).save(path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        gru_xp.GRU(4, 5, seed=1).save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_permissions_are_those_of_any_new_file(path: Path) -> None:
    gru_xp.GRU(4, 5).save(path)
    (path.parent / "other").touch()
    assert path.stat().st_mode == (path.parent / "other").stat().st_mode


def test_a_private_file_stays_private_and_a_link_a_link(path: Path) -> None:
    gru_xp.GRU(4, 5, seed=0).save(path)
    path.chmod(0o600)
    link = path.parent / "link"
    link.symlink_to(path)
    gru_xp.GRU(4, 5, seed=1).save(link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    np.testing.assert_array_equal(gru_xp.load(link)(X)[0], gru_xp.GRU(4, 5, seed=1)(X)[0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_what_is_no_file_is_written_into_and_stays(path: Path) -> None:
    pipe, model = path.parent / "pipe.safetensors", gru_xp.GRU(4, 5, seed=0)
    os.mkfifo(pipe)
    link = path.parent / "link.safetensors"
    link.symlink_to(pipe)
    for target in (pipe, link):
        with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:  # the system holds what is written
            model.save(target)
            path.write_bytes(reader.read())
        np.testing.assert_array_equal(gru_xp.load(path)(X)[0], model(X)[0])
    assert pipe.is_fifo() and link.is_symlink()


@pytest.mark.skipif(not hasattr(os, "mknod"), reason="devices of POSIX")
def test_a_device_stays_a_device(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.read_bytes()
    except PermissionError:
        pytest.skip("only root makes devices")
    gru_xp.GRU(4, 5).save(device, format="safetensors")
    assert device.is_char_device() and os.listdir(tmp_path) == ["null"]


def test_any_kind_of_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model", b"bytes", "x" * 250):
        gru_xp.GRU(4, 5).save(name)
        assert gru_xp.load(name).hidden_size == 5
    with pytest.raises(IsADirectoryError, match="expected a file, got a folder"):
        gru_xp.GRU(4, 5).save(tmp_path)
    with pytest.raises(
        errors.FileFormatError, match=r"model.unknown: expected a name with the ending of a known format"
    ):
        gru_xp.GRU(4, 5).save("model.unknown")


def test_what_names_no_file_and_no_gru(path: Path) -> None:
    gru_xp.GRU(4, 5).save(path)
    for wrong in ("a\0.pt", b"a\0.safetensors", 3):
        for call in (gru_xp.load, gru_xp.GRU(4, 5).save):
            with pytest.raises(errors.StructureError, match="path: expected the name of a file"):
                call(wrong)
    for given, call in ((path, gru_xp.load), (torch.nn.GRU(4, 5), gru_xp.from_framework)):
        with pytest.raises(errors.StructureError, match="name: expected a string or None, got 3"):
            call(given, name=3)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        gru_xp.load(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError):
        gru_xp.GRU(4, 5).save(tmp_path / "none" / "model.safetensors")


def test_truncated_at_every_length(path: Path) -> None:
    gru_xp.GRU(2, 2, seed=0).save(path)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(errors.FileFormatError):
            gru_xp.load(path)


def test_flipped_bits_are_an_error_or_a_model(path: Path) -> None:
    """2,000 random flips: never anything but a clear error or a model of the same sizes."""
    gru_xp.GRU(2, 2, seed=0).save(path)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    loaded = 0
    for _ in range(2000):
        broken = bytearray(data)
        broken[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(broken))
        try:
            model = gru_xp.load(path)
        except gru_xp.GRUError:
            continue
        loaded += 1
        assert (model.input_size, model.hidden_size) == (2, 2)
    assert 0 < loaded < 2000


def header_changed(data: bytes, **changes: Any) -> bytes:
    """The file with other metadata; `model` is changed option by option."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata = header["__metadata__"]
    model = json.loads(metadata["model"])
    for name, value in changes.items():
        if name in ("format", "version", "model"):
            metadata[name] = value
        else:
            model[name] = value
            metadata["model"] = json.dumps(model)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


class Bomb:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('executed')",))


FOREIGN = {
    "empty": lambda data: b"",
    "text": lambda data: b"not a model at all, but text that is long enough",
    "a pickle": lambda data: pickle.dumps(Bomb()),
    "a zip": lambda data: b"PK\x03\x04" + bytes(100),
    "npy": lambda data: b"\x93NUMPY\x01\x00" + bytes(100),
    "an absurd header": lambda data: (2**63).to_bytes(8, "little") + data[8:],
    "nested JSON": lambda data: (100_000).to_bytes(8, "little") + b"[" * 100_000 + data,
    "a newer version": lambda data: header_changed(data, version="2"),
    "no JSON": lambda data: header_changed(data, model="{"),
    "deep JSON": lambda data: header_changed(data, model="[" * 50_000),
    "not an object": lambda data: header_changed(data, model="[]"),
    "more layers": lambda data: header_changed(data, num_layers=2),
    "endless layers": lambda data: header_changed(data, num_layers=10**18),
    "no layers": lambda data: header_changed(data, num_layers=0),
    "two directions": lambda data: header_changed(data, bidirectional=True),
    "no biases": lambda data: header_changed(data, bias=False),
    "another I": lambda data: header_changed(data, input_size=3),
    "another H": lambda data: header_changed(data, hidden_size=3),
    "text for a number": lambda data: header_changed(data, dropout="0.5"),
    "dropout": lambda data: header_changed(data, dropout=2.0),
    "NaN": lambda data: header_changed(data, dropout=float("nan")),
    "unknown option": lambda data: header_changed(data, colour=1),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_no_model(path: Path, what: str) -> None:
    gru_xp.GRU(2, 2, seed=0).save(path)
    path.write_bytes(FOREIGN[what](path.read_bytes()))
    with pytest.raises(errors.FileFormatError, match=path.name):
        gru_xp.load(path)


def test_a_header_by_hand(path: Path) -> None:
    from safetensors.numpy import save_file

    model = gru_xp.GRU(2, 2)
    w = model.params[0][0]
    metadata = {
        "format": "gru_xp",
        "version": "1",
        "model": json.dumps(
            {"input_size": 2, "hidden_size": 2, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0}
            | {"bidirectional": False, "reset_after": True}
        ),
    }
    arrays = {"weight_ih_l0": w.W_ih, "weight_hh_l0": w.W_hh, "bias_ih_l0": w.b_ih, "bias_hh_l0": w.b_hh}
    save_file({name: np.array(a) for name, a in arrays.items()}, path, metadata)
    assert gru_xp.load(path).hidden_size == 2
    save_file({name: a.astype("i4") for name, a in arrays.items()}, path, metadata)
    with pytest.raises(errors.FileFormatError, match="expected one of float16, bfloat16, float32, float64, got int32"):
        gru_xp.load(path)
    save_file({name: np.array(a, "f8" if "bias" in name else "f4") for name, a in arrays.items()}, path, metadata)
    with pytest.raises(errors.FileFormatError, match="the arrays do not make a model: .* expected float32"):
        gru_xp.load(path)


def test_a_model_has_the_report_of_its_way_in(tmp_path: Path) -> None:
    model = gru_xp.GRU(3, 4, seed=0)
    assert model.report is None
    model.save(tmp_path / "m.safetensors")
    read = gru_xp.load(tmp_path / "m.safetensors")
    for each in (read, copy.copy(read), copy.deepcopy(read), pickle.loads(pickle.dumps(read))):
        assert each.report is not None and each.report.exact


def test_contents_are_shown_as_a_summary_however_large_they_are(tmp_path: Path) -> None:
    """A file's contents at the end of a notebook's cell are a line and not every weight."""
    gru_xp.GRU(64, 128, num_layers=2, seed=0).save(tmp_path / "m.safetensors")
    shown = repr(contents(tmp_path / "m.safetensors"))
    assert "I=64, H=128, L=2" in shown and len(shown) < 200
