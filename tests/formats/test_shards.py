"""Checkpoints in several files: the index or the folder gives the whole, and no single file gives a part as a GRU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import gru_xp
from gru_xp import errors, files
from gru_xp.cli import app

T, N, I, H = 7, 2, 4, 5


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(7, I)
        self.gru = torch.nn.GRU(I, H, 2)
        self.head = torch.nn.Linear(H, 3)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def split(folder: Path, net: Net, parts: list[Any], ending: str = "safetensors", *, index: bool = True) -> list[Path]:
    """The arrays in one file for each list of names, and the index of Hugging Face's libraries."""
    stem = "model" if ending == "safetensors" else "pytorch_model"
    paths = [folder / f"{stem}-{n + 1:05}-of-{len(parts):05}.{ending}" for n in range(len(parts))]
    state = {name: array.detach().clone() for name, array in net.state_dict().items()}
    for path, names in zip(paths, parts, strict=True):
        own = {name: state[name] for name in names}
        save_file(own, path) if ending == "safetensors" else torch.save(own, path)
    where = {name: path.name for path, names in zip(paths, parts, strict=True) for name in names}
    if index:
        content = {"metadata": {"total_size": 1}, "weight_map": where}
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(content))
    return paths


def biases_first(net: Net) -> list[list[str]]:
    names = list(net.state_dict())
    return [[n for n in names if "bias" in n], [n for n in names if "bias" not in n]]


def layers_apart(net: Net) -> list[list[str]]:
    names = list(net.state_dict())
    return [[n for n in names if "l1" not in n], [n for n in names if "l1" in n]]


def is_the_whole(model: gru_xp.GRU, net: Net) -> None:
    x = torch.randn(T, N, I)
    np.testing.assert_allclose(model(x.numpy())[0], net.gru(x)[0].detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("parts", [biases_first, layers_apart])
def test_the_index_and_the_folder_give_the_whole(tmp_path: Path, net: Net, parts: Any, ending: str) -> None:
    (index,) = [
        path for path in (split(tmp_path, net, parts(net), ending), *tmp_path.glob("*.json")) if type(path) is not list
    ]
    for path in (index, tmp_path):
        is_the_whole(gru_xp.load(path, batch_first=False), net)
        found = files.contents(path)
        assert sorted(found.ignored) == ["embed.weight", "head.bias", "head.weight"]
        np.testing.assert_array_equal(found.arrays["head.weight"], net.head.weight.detach().numpy())
        assert set(found.arrays) == set(net.state_dict())


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("parts", [biases_first, layers_apart])
def test_one_shard_names_the_index_and_what_is_missing(tmp_path: Path, net: Net, parts: Any, ending: str) -> None:
    shards = split(tmp_path, net, parts(net), ending)
    for number, shard in enumerate(shards):
        other = parts(net)[1 - number]
        missing = next(name for name in sorted(other) if name.startswith("gru.")).removeprefix("gru.")
        with pytest.raises(errors.ConversionError) as caught:
            gru_xp.load(shard)
        words = str(caught.value)
        assert f"gru: incomplete: {missing}, " in words and f"in {shards[1 - number].name}; load " in words
        assert f"{ending}.index.json or the folder" in words
        found = files.contents(shard)
        assert not found.grus and set(found.arrays) == set(parts(net)[number])


def test_a_shard_that_holds_all_of_a_gru_is_read(tmp_path: Path, net: Net) -> None:
    names = list(net.state_dict())
    first, second = split(tmp_path, net, [[n for n in names if "gru" in n], [n for n in names if "gru" not in n]])
    is_the_whole(gru_xp.load(first, batch_first=False), net)
    assert files.contents(first, batch_first=False).grus[0].report.exact
    with pytest.raises(errors.ConversionError, match=f"gru: incomplete: all of it is in {first.name}; load model"):
        gru_xp.load(second)
    second.unlink()
    is_the_whole(gru_xp.load(tmp_path, batch_first=False), net)  # what is missing holds nothing of the GRU


def test_a_shard_is_not_replaced_by_another_model(tmp_path: Path, net: Net) -> None:
    first, _ = split(tmp_path, net, biases_first(net))
    before = first.read_bytes()
    with pytest.raises(errors.ConversionError, match="model.safetensors.index.json beside it needs what is there"):
        gru_xp.GRU(I, H).save(first)
    assert first.read_bytes() == before


def test_a_shard_without_its_index_is_not_said_to_be_whole(tmp_path: Path, net: Net) -> None:
    """Its GRU may have biases, or more layers, in the other files."""
    _, second = split(tmp_path, net, biases_first(net), index=False)
    with pytest.warns(errors.ConversionWarning, match="assumed: all of the GRU is in this file: .* one of 2 files"):
        model = gru_xp.load(second, batch_first=False)
    assert model.report is not None and not model.report.exact
    is_the_whole(gru_xp.load(tmp_path, batch_first=False), net)  # by the files' names
    assert "assumed: gru: all of the GRU is in this file" in CliRunner().invoke(app, ["inspect", str(second)]).stdout


def test_a_missing_shard_is_named(tmp_path: Path, net: Net) -> None:
    first, second = split(tmp_path, net, biases_first(net))
    first.unlink()
    with pytest.raises(errors.ConversionError, match=f"bias_hh_l0, .* in {first.name}, which is missing beside"):
        gru_xp.load(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(errors.FileFormatError, match=f"of 2 shards 1 are missing: .'{first.name}'"):
        gru_xp.load(tmp_path)
    assert second.exists()


def test_gru_without_biases_beside_ones_with_biases_is_not_exact(tmp_path: Path) -> None:
    state = {f"a.{name}": array.detach() for name, array in torch.nn.GRU(I, H).state_dict().items()}
    state |= {f"b.{name}": array.detach() for name, array in torch.nn.GRU(I, H, bias=False).state_dict().items()}
    save_file(state, tmp_path / "m.safetensors")
    a, b = files.contents(tmp_path / "m.safetensors", batch_first=False).grus
    assert a.report.exact and b.report.assumed == ("bias=False",)
    with pytest.warns(errors.ConversionWarning, match="b: assumed: bias=False: other GRUs beside it have biases"):
        gru_xp.load(tmp_path / "m.safetensors", name="b")
    only = {name: array for name, array in state.items() if name.startswith("b.")}
    save_file(only, tmp_path / "m.safetensors")
    assert files.contents(tmp_path / "m.safetensors", batch_first=False).grus[0].report.exact


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"weight_map": {"a": "../secret"}}', "expected names of files beside it, got '../secret'"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "expected names of files beside it"),
        ('{"weight_map": {"a": ".."}}', "expected names of files beside it"),
        ('{"weight_map": {"a": ["b"]}}', "expected names of files beside it"),
        ('{"weight_map": {}}', "with a `weight_map` of names to files"),
        ('{"weight_map": [1]}', "with a `weight_map` of names to files"),
        ("[" * 100_000, "expected JSON, but it is damaged"),
        ('{"weight_map"', "expected JSON, but it is damaged"),
        ('{"weight_map": {"a": "model.index.json"}}', "expected a file of arrays, got an index"),
        ('{"weight_map": {"nothing": "m.safetensors"}}', r"says that it holds \['nothing'\], which it does not"),
    ],
)
def test_a_bad_index_is_an_error(content: str, words: str, tmp_path: Path) -> None:
    gru_xp.GRU(I, H).save(tmp_path / "m.safetensors")
    (tmp_path / "model.index.json").write_text(content)
    with pytest.raises(errors.FileFormatError, match=words):
        gru_xp.load(tmp_path / "model.index.json")
    gru_xp.load(tmp_path / "m.safetensors")  # whatever is beside it


def test_folders_that_are_none_of_shards(tmp_path: Path, net: Net) -> None:
    with pytest.raises(errors.FileFormatError, match="expected a file, or a folder of a known format"):
        gru_xp.load(tmp_path)
    split(tmp_path, net, biases_first(net))
    split(tmp_path, net, biases_first(net), "bin")
    with pytest.raises(errors.FileFormatError, match="expected one index, got several"):
        gru_xp.load(tmp_path)


def test_a_large_checkpoint_is_not_read_whole(tmp_path: Path, net: Net) -> None:
    """A file of 64 GiB, most of it a hole, gives its GRU and the last numbers at its end."""
    state = {name: array.detach() for name, array in net.gru.state_dict().items()} | {"last": torch.arange(3)}
    save_file(state, tmp_path / "small.safetensors")
    small = (tmp_path / "small.safetensors").read_bytes()
    size = int.from_bytes(small[:8], "little")
    header, data = json.loads(small[8 : 8 + size]), small[8 + size :]
    hole = 2**36
    entries = {name: entry for name, entry in header.items() if name not in ("__metadata__", "last")}
    numbers = sorted(entries, key=lambda name: entries[name]["data_offsets"][0])
    gru = b"".join(data[slice(*entries[name]["data_offsets"])] for name in numbers)
    start, placed = 0, {}
    for name in numbers:
        length = entries[name]["data_offsets"][1] - entries[name]["data_offsets"][0]
        placed[name] = entries[name] | {"data_offsets": [start, start + length]}
        start += length
    placed["embedding"] = {"dtype": "U8", "shape": [hole], "data_offsets": [start, start + hole]}
    placed["last"] = {"dtype": "I64", "shape": [3], "data_offsets": [start + hole, start + hole + 24]}
    text = json.dumps(placed).encode()
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + gru)
        file.seek(hole, 1)
        file.write(np.arange(3).tobytes())
    is_the_whole(gru_xp.load(tmp_path / "large.safetensors", batch_first=False), net)
    arrays = files.contents(tmp_path / "large.safetensors").arrays
    assert arrays["last"].tolist() == [0, 1, 2] and arrays.tensors["embedding"].shape == (hole,)
