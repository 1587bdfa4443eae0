"""HDF5 in all the layouts that people have, and in some that nobody should have."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp import errors, files
from gru_xp.formats.hdf5 import UnreadKindError, read
from gru_xp.formats.hdf5 import file as hdf5_file
from gru_xp.formats.hdf5.reader import read_plain
from gru_xp.formats.regions import Region

h5py = pytest.importorskip("h5py")
RNG = np.random.default_rng(0)
ARRAYS = {
    name: RNG.normal(size=shape).astype("f4")
    for name, shape in (("kernel:0", (4, 15)), ("recurrent_kernel:0", (5, 15)), ("bias:0", (2, 15)))
}


def written(fill: Callable[[Any], Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **options) as file:
        fill(file)
    return buffer.getvalue()


def weights(file: Any, **options: Any) -> None:
    for name, array in ARRAYS.items():
        file.create_dataset(f"gru/gru/gru_cell/{name}", data=array, **options)
    file["gru"].attrs["weight_names"] = [f"gru/gru_cell/{name}".encode() for name in ARRAYS]
    file.attrs["layer_names"] = [b"gru"]
    file.attrs["keras_version"] = "2.15.0"


LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it is": ({}, {}),
    "gzip": ({}, {"compression": "gzip", "shuffle": True, "fletcher32": True}),
    "lzf": ({}, {"compression": "lzf"}),
    "chunks": ({}, {"chunks": (2, 4)}),
    "latest": ({"libver": "latest"}, {}),
    "latest, gzip": ({"libver": "latest"}, {"compression": "gzip"}),
    "v108": ({"libver": "v108"}, {}),
    "big-endian": ({}, {"dtype": ">f4"}),
}


@pytest.mark.parametrize("what", LAYOUTS)
def test_every_layout_is_read(tmp_path: Path, what: str) -> None:
    file_options, options = LAYOUTS[what]
    path = tmp_path / "m.h5"
    path.write_bytes(written(lambda file: weights(file, **options), **file_options))
    (gru,) = files.contents(path).grus
    assert gru.name == "gru"
    ((w,),) = gru.params
    z, r, n = np.split(ARRAYS["kernel:0"], 3, axis=1)
    np.testing.assert_array_equal(w.W_ih, np.concatenate([r, z, n], axis=1).T)
    np.testing.assert_array_equal(w.b_hh[:5], ARRAYS["bias:0"][1, 5:10])


@pytest.mark.parametrize("what", [what for what in LAYOUTS if what not in ("as it is", "big-endian")])
def test_what_needs_h5py_is_called_so_where_it_is_not(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_options, options = LAYOUTS[what]
    path = tmp_path / "m.h5"
    path.write_bytes(written(lambda file: weights(file, **options), **file_options))
    monkeypatch.setattr(hdf5_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.FileFormatError, match=r"m\.h5: .*which needs h5py: python -m pip install") as told:
        gru_xp.load(path)
    assert "damaged" not in str(told.value)


def test_files_of_the_usual_kind_need_no_h5py() -> None:
    """Not even for the description, which is a string of variable length."""
    stored = read_plain(Region(written(lambda file: (weights(file), file.attrs.update(model_config="{}" * 50_000)))))
    assert stored.attributes[""]["model_config"] == "{}" * 50_000
    assert stored.attributes["gru"] == {"weight_names": [f"gru/gru_cell/{name}" for name in ARRAYS]}


TEXTS: dict[str, tuple[Any, Any]] = {
    "a string": ("2.15.0", "2.15.0"),
    "bytes": (b"2.15.0", "2.15.0"),
    "a fixed string": (np.bytes_("2.15.0"), "2.15.0"),
    "fixed strings": (np.array([b"a", b"bcd"]), ["a", "bcd"]),
    "strings": (["a", "bcd"], ["a", "bcd"]),
    "none": (np.array([]), []),
    "letters": ("Größe", "Größe"),
}


@pytest.mark.parametrize("library", [None, "latest"])
@pytest.mark.parametrize("what", TEXTS)
def test_both_readers_read_the_same_text(what: str, library: str | None) -> None:
    value, expected = TEXTS[what]
    data = written(lambda file: file.attrs.__setitem__("keras_version", value), libver=library)
    assert read(Region(data)).attributes[""]["keras_version"] == expected


def test_both_readers_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(file: Any) -> None:
        weights(file)
        file["a/f2"] = np.arange(6, dtype="f2").reshape(2, 3)
        file["a/f8"] = np.arange(6.0)
        file["a/bf16"] = np.array([0x3F80, 0xC000], "u2").view("V2")
        file["a/int"] = np.arange(3)
        file["a/scalar"] = np.float32(3)
        file["b"] = h5py.SoftLink("/a")
        file["again"] = file["a/f8"]

    data = written(fill)
    plain = read_plain(Region(data))
    child = hdf5_file._by_h5py(data)
    assert plain.datasets.keys() == child.datasets.keys() and sorted(plain.groups) == sorted(child.groups)
    assert plain.attributes == child.attributes
    for path, tensor in plain.datasets.items():
        other = child.datasets[path]
        assert tensor.shape == other.shape
        if path != "a/int":
            assert tensor.dtype == other.dtype
            np.testing.assert_array_equal(tensor.read(), other.read())
    assert plain.datasets["a/bf16"].read().tolist() == [1.0, -2.0]


def test_links_into_other_files_are_not_followed(tmp_path: Path) -> None:
    """One of them makes the group around it one of the newer kind."""
    (tmp_path / "other.h5").write_bytes(written(lambda file: file.update({"x/kernel:0": ARRAYS["kernel:0"]})))

    def fill(file: Any) -> None:
        weights(file)
        file["away"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")

    assert {path.partition("/")[0] for path in read(Region(written(fill))).datasets} == {"gru"}
    with pytest.raises(UnreadKindError, match="groups of a newer kind"):
        read_plain(Region(written(fill)))


def test_values_in_other_files_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(1000))
    for library in (None, "latest"):

        def fill(file: Any) -> None:
            weights(file)
            del file["gru/gru/gru_cell/bias:0"]
            file.create_dataset("gru/gru/gru_cell/bias:0", (2, 15), "f4", external=[(str(secret), 0, 120)])

        path = tmp_path / "m.h5"
        path.write_bytes(written(fill, libver=library))
        with pytest.raises(errors.FileFormatError, match="its values stand in another file"):
            gru_xp.load(path)


def test_a_virtual_dataset_is_not_followed(tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((4, 15), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "a", (4, 15))

    def fill(file: Any) -> None:
        weights(file)
        del file["gru/gru/gru_cell/kernel:0"]
        file.create_virtual_dataset("gru/gru/gru_cell/kernel:0", layout)

    path = tmp_path / "m.h5"
    path.write_bytes(written(fill, libver="latest"))
    with pytest.raises(errors.FileFormatError, match="its values stand in another file"):
        gru_xp.load(path)


def test_damage_that_only_h5py_meets(tmp_path: Path) -> None:
    data = bytearray(written(lambda file: weights(file, compression="gzip")))
    where = data.index(b"\x78\x5e") if b"\x78\x5e" in data else data.index(b"\x78\x01")
    data[where : where + 40] = bytes(40)
    path = tmp_path / "m.h5"
    path.write_bytes(data)
    with pytest.raises(errors.FileFormatError, match=r"m\.h5: .*h5py cannot read it"):
        gru_xp.load(path)


def test_a_bomb_of_chunks(tmp_path: Path) -> None:
    """1 GiB of zeros, of which the file holds a thousandth."""

    def fill(file: Any) -> None:
        file.create_dataset("a", (1 << 14, 1 << 14), "f4", compression="gzip", fillvalue=0.0)

    path = tmp_path / "m.h5"
    path.write_bytes(written(fill))
    with pytest.raises(errors.FileFormatError, match="asks for more numbers than a file of its size can hold"):
        gru_xp.load(path)


def test_h5py_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_file, "SECONDS", 0.05)
    with pytest.raises(errors.FileFormatError, match=r"h5py did not read it within 0\.05 s"):
        read(Region(written(weights, libver="latest")))


def test_h5py_that_dies_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    died = subprocess.CompletedProcess([], -11, b"", b"")
    monkeypatch.setattr(hdf5_file.subprocess, "run", lambda *_, **__: died)
    with pytest.raises(errors.FileFormatError, match="h5py cannot read it: exit status -11"):
        read(Region(written(weights, libver="latest")))


def test_h5py_is_not_imported_here(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    path.write_bytes(written(lambda file: weights(file, compression="gzip")))
    code = "import sys, gru_xp; gru_xp.load(sys.argv[1]); print('h5py' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_names_without_an_end_cost_no_more_than_the_file() -> None:
    """A heap of a megabyte without a zero byte, named by every entry of a group again and again."""

    def fill(file: Any) -> None:
        group = file.create_group("g")
        for index in range(200):
            group.create_dataset(f"{'n' * 500}{index:04}", data=[1.0])

    good = written(fill)
    names = bytearray(good)
    for start in range(len(names) - 1):
        if names[start : start + 2] == b"n\0" or (names[start] == 0 and names[start - 1 : start].isdigit()):
            names[start] = ord("n")

    def seconds(read: Callable[[], Any]) -> float:
        began = time.process_time()
        read()
        return time.process_time() - began

    def refused() -> None:
        with pytest.raises(errors.FileFormatError, match="expected names of at most 1000 bytes"):
            read_plain(Region(bytes(names)))

    assert seconds(refused) < 20 * min(seconds(lambda: read_plain(Region(good))) for _ in range(3))  # seen: 0.1 times


def test_one_string_cannot_be_had_more_often_than_the_file_is_long() -> None:
    """A list whose entries all name one long string in the file."""
    long = "x" * 100_000
    data = bytearray(written(lambda file: file.attrs.__setitem__("layer_names", [long] + ["y"] * 200)))
    heaps = [at for at in range(len(data)) if data[at : at + 4] == b"GCOL"]
    first = next(at for heap in heaps if (at := data.find(struct.pack("<IQ", len(long), heap))) >= 0)
    entry = bytes(data[first : first + 16])
    for index in range(201):
        data[first + 16 * index : first + 16 * (index + 1)] = entry
    with pytest.raises(errors.FileFormatError, match="asks for more"):
        read_plain(Region(bytes(data)))


def test_an_unread_kind_is_a_file_format_error() -> None:
    assert issubclass(UnreadKindError, errors.FileFormatError)
