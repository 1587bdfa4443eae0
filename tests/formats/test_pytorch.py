"""What torch.save wrote, read without PyTorch and without running anything; live modules; and the way back."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gru_xp
import gru_xp_torch
from gru_xp import errors, files
from gru_xp.params import map_params, weights_of
from gru_xp_torch import to_module

EPS = np.finfo("f4").eps
T = 9


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


class Larger(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(3, 4, 2, batch_first=True, dropout=0.25, bidirectional=True)
        self.own = gru_xp_torch.GRU(3, 5, bias=False)
        self.cell = torch.nn.GRUCell(3, 4)
        self.lstm = torch.nn.LSTM(3, 4)
        self.head = torch.nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        return self.head(self.gru(x)[0])


@pytest.fixture
def module() -> Larger:
    torch.manual_seed(0)
    return Larger()


def checkpoint(module: Any) -> dict[str, Any]:
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.randn(2, T, 3)).sum().backward()
    optimizer.step()
    return {
        "model": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "loss": [1.0, np.float64(0.5), None],
        "arguments": argparse.Namespace(rate=0.1, device=torch.device("cpu"), dtype=torch.float32),
    }


def assert_same_bits(model: gru_xp.GRU, tensors: Any) -> None:
    got, expected = [np.asarray(a) for a in weights_of(model.params)], [t.detach().numpy() for t in tensors]
    assert [a.tobytes() for a in got] == [np.ascontiguousarray(a).tobytes() for a in expected]


SAVED = {
    "a state_dict": (lambda m: m.state_dict(), ""),
    "a checkpoint": (checkpoint, "model."),
    "a list": (lambda m: [{"other": 1}, m.state_dict()], "1."),
    "a whole module": (lambda m: m, ""),
    "a module in a checkpoint": (lambda m: {"ema": {"model": m}}, "ema.model."),
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("what", SAVED)
def test_read_from_a_file(path: Path, module: Larger, what: str, old: bool) -> None:
    make, prefix = SAVED[what]
    torch.save(make(module), path, _use_new_zipfile_serialization=not old)
    found = files.contents(path)
    assert [gru.name for gru in found.grus] == [f"{prefix}{name}" for name in ("cell", "gru", "own")]
    assert [(refusal.name, refusal.reason[:7]) for refusal in found.refused] == [(f"{prefix}lstm", "an LSTM")]
    assert {f"{prefix}head.weight", f"{prefix}head.bias"} <= set(found.ignored)
    assert not any("_flat_weights" in name for name in found.ignored)
    unsaid = [gru.name.removeprefix(prefix) for gru in found.grus if "batch_first=False" in gru.report.assumed]
    assert unsaid == (["cell"] if "module" in what else ["cell", "gru", "own"])
    model = gru_xp.load(path, name=f"{prefix}gru")
    assert_same_bits(model, module.gru.parameters())
    if "module" in what:
        assert repr(found.grus[1].report) != "" and (model.batch_first, model.dropout) == (True, 0.25)
    x = torch.randn(2, T, 3)
    expected = module.eval().gru(x)
    got = model(x.numpy() if model.batch_first else x.numpy().transpose(1, 0, 2))
    y = got[0] if model.batch_first else got[0].transpose(1, 0, 2)
    for a, b in zip((y, got[1]), expected, strict=True):
        assert np.abs(a - b.detach().numpy()).max() <= 4 * T * EPS


@pytest.mark.parametrize("name", ["last.ckpt", "pytorch_model.bin", "best.pth.tar", "weights"])
def test_recognised_by_what_is_in_it(tmp_path: Path, name: str) -> None:
    layer = torch.nn.GRU(3, 4)
    for old in (False, True):
        torch.save({"state_dict": layer.state_dict()}, tmp_path / name, _use_new_zipfile_serialization=not old)
        assert_same_bits(gru_xp.load(tmp_path / name), layer.parameters())
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("readme.txt", "no data.pkl")
    with pytest.raises(
        errors.FileFormatError, match=r"expected a file of a known format, or format= to say which: .*torch"
    ):
        gru_xp.load(tmp_path / name)


def test_shared_storages_strides_and_dtypes(path: Path) -> None:
    flat = torch.randn(12 * 3 + 12 * 4 + 24, dtype=torch.float64)
    tensors = {
        "weight_ih_l0": flat[:36].view(3, 12).T,
        "weight_hh_l0": flat[36:84].view(12, 4),
        "bias_ih_l0": flat[84::2],
        "bias_hh_l0": flat[85::2],
    }
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        cast = flat.to(dtype)
        views = {name: torch.as_strided(cast, t.shape, t.stride(), t.storage_offset()) for name, t in tensors.items()}
        torch.save(views, path)
        model = gru_xp.load(path, backend="torch")
        for own, view in zip(weights_of(model.params), views.values(), strict=True):
            assert own.dtype == dtype and torch.equal(own, view)


def test_compiled_modules(path: Path, module: Larger) -> None:
    compiled = torch.compile(module, backend="eager")
    for saved in (compiled, {"a": compiled.state_dict()}):
        torch.save(saved, path)
        model = gru_xp.load(path, name="gru")
        assert_same_bits(model, module.gru.parameters())
    assert_same_bits(gru_xp.from_framework(compiled, name="gru"), module.gru.parameters())


@pytest.mark.parametrize("option", ["num_layers", "bidirectional", "bias", "input_size"])
def test_a_module_that_contradicts_its_arrays_is_refused(option: str, path: Path) -> None:
    layer = torch.nn.GRU(3, 4)
    setattr(layer, option, 5 if "_" in option else not getattr(layer, option))
    torch.save(layer, path)
    for read in (lambda: gru_xp.load(path), lambda: gru_xp.from_framework(layer)):
        with pytest.raises(errors.ConversionError, match=f"{option}: the module says .*, its arrays say"):
            read()


def test_without_pytorch(path: Path, module: Larger) -> None:
    torch.save(module.state_dict(), path)
    code = "import sys; sys.modules['torch'] = None; import gru_xp; print(gru_xp.load(sys.argv[1], name='gru'))"
    said = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    assert said.startswith("GRU(3, 4, num_layers=2, bidirectional=True")


# ---- live ------------------------------------------------------------------------------------------------------------


def test_live_modules(module: Larger) -> None:
    for name, part in (("gru", module.gru), ("own", module.own), ("cell", module.cell)):
        for thing, given in (
            (module, name),
            (part, None),
            (module.state_dict(), name),
            ({"a": part.state_dict()}, None),
        ):
            assert_same_bits(gru_xp.from_framework(thing, name=given), part.parameters())
    model = gru_xp.from_framework(module, name="gru", backend="torch")
    assert (model.batch_first, model.dropout, model.backend) == (True, 0.25, "torch:cpu")
    with pytest.raises(errors.ConversionError, match="Larger: lstm: an LSTM"):
        gru_xp.from_framework(module, name="lstm")


def test_what_computes_something_else_is_refused() -> None:
    class Own(torch.nn.GRU):
        def forward(self, *_: Any) -> Any:
            return None

    class Renamed(torch.nn.GRU):
        pass

    with pytest.raises(errors.ConversionError, match=r"Own may compute anything with them"):
        gru_xp.from_framework(Own(3, 4))
    assert gru_xp.from_framework(Renamed(3, 4)).hidden_size == 4
    assert gru_xp.from_framework(Own(3, 4).state_dict()).hidden_size == 4


def test_tensors_on_the_meta_device_are_refused() -> None:
    with torch.device("meta"), pytest.raises(errors.ConversionError, match="on the meta device has no numbers"):
        gru_xp.from_framework(torch.nn.GRU(3, 4))


def doubled(module: Any, given: Any, result: Any = None) -> Any:
    return tuple(2 * a for a in given) if result is None else (2 * result[0], result[1])


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_around_a_module_are_told(path: Path, register: str) -> None:
    layer = torch.nn.GRU(3, 4)
    handle = getattr(layer, register)(doubled)
    torch.save(layer, path)
    with pytest.warns(errors.ConversionWarning, match="assumed: forward hooks that change nothing"):
        loaded = gru_xp.load(path)
    for model in (gru_xp.from_framework(layer), loaded):
        assert model.report is not None and not model.report.exact
        assert "assumed: forward hooks that change nothing" in str(model.report)
    handle.remove()
    model = gru_xp.from_framework(layer)
    assert model.report is not None and model.report.exact


def test_a_forward_of_its_own_on_one_module() -> None:
    layer = torch.nn.GRU(3, 4)
    layer.forward = partial(doubled, layer)
    with pytest.raises(
        errors.ConversionError, match=r"forward was replaced .* if it is a GRU, pass its state_dict\(\)"
    ):
        gru_xp.from_framework(layer)
    assert_same_bits(gru_xp.from_framework(layer.state_dict()), layer.parameters())


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True, "dropout": 0.5, "batch_first": True},
    {"bias": False, "dtype": "float64"},
    {"dtype": "bfloat16", "backend": "torch", "num_layers": 3},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_there_and_back(path: Path, options: dict[str, Any]) -> None:
    model = gru_xp.GRU(3, 4, **options, seed=0)
    twin = to_module(model)
    assert (twin.batch_first, twin.dropout) == (model.batch_first, model.dropout)
    back = gru_xp.from_framework(twin, backend=options.get("backend"))
    assert repr(back) == repr(model)
    report = model.save(path)
    assert [note.fate for note in report.notes] == ["exact"] + ["ignored"] * (2 if "batch_first" in options else 0)
    twin.load_state_dict(torch.load(path, weights_only=True))
    again = gru_xp.load(path, backend=options.get("backend"))
    for one, two, three in zip(
        weights_of(model.params), weights_of(back.params), weights_of(again.params), strict=True
    ):
        assert one.tolist() == two.tolist() == three.tolist()
    if options.get("dtype") != "bfloat16":
        x = np.random.default_rng(0).normal(size=(T, T, 3)).astype(model.dtype)
        with torch.no_grad():
            y = twin.eval()(torch.tensor(x))[0].numpy()
        assert np.abs(model(x)[0] - y).max() <= 4 * T * EPS


def test_torch_runs_what_stands_in_a_file(path: Path, module: Larger) -> None:
    """Read by torch.load and run by torch.nn.GRU, both apart from gru_xp's reader."""
    torch.save(checkpoint(module) | {"arguments": None, "loss": None}, path)
    x, h0 = torch.randn(T, 3, 3), torch.randn(4, 3, 4)
    for name, h, lengths in (
        ("gru", None, None),
        ("gru", h0, [T, 2, 5]),
        ("own", None, [1, T, 3]),
        ("cell", None, None),
    ):
        gru = files.pick(files.contents(path), f"model.{name}", "")
        ran = files.formats()["torch"].run(path, gru, x.numpy(), None if h is None else h.numpy(), lengths)
        assert ran is not None
        model = gru_xp.GRU.from_params(gru.params)
        for got, expected in zip(model(x.numpy(), None if h is None else h.numpy(), lengths=lengths), ran, strict=True):
            assert np.abs(got - expected).max() <= 4 * T * EPS
    with pytest.raises(errors.BackendError, match="packs no sequences of length 0"):
        files.formats()["torch"].run(path, gru, x.numpy(), None, [0, 1, 2])
    torch.save(module, path)
    with pytest.raises(errors.BackendError, match="refuses the file"):
        files.formats()["torch"].run(path, gru, x.numpy(), None, None)


def test_what_pytorch_cannot_hold_is_not_written(path: Path) -> None:
    model = gru_xp.GRU(3, 4, reset_after=False)
    with pytest.raises(errors.ConversionError, match="reset_after=False: PyTorch's GRU knows True only"):
        model.save(path)
    with pytest.raises(errors.ConversionError, match=r"reset_after=False: torch.nn.GRU knows True only"):
        to_module(model)
    assert not path.exists()


# ---- hostile ---------------------------------------------------------------------------------------------------------


def rewritten(path: Path, name: str, change: Any, compression: int = zipfile.ZIP_STORED) -> None:
    """The same zip with one entry changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, change(data) if entry.endswith(name) else data)


class Bomb:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_nothing_is_executed(path: Path, module: Larger) -> None:
    target = path.parent / "executed"
    tree = {"bomb": Bomb(target), **module.state_dict(), "more": [Bomb(target)]}
    for old in (False, True):
        torch.save(tree, path, _use_new_zipfile_serialization=not old)
        assert_same_bits(gru_xp.load(path, name="gru"), module.gru.parameters())
    assert not target.exists()
    path.write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(errors.FileFormatError, match="expected a file that PyTorch wrote"):
        gru_xp.load(path)
    assert not target.exists()


PICKLES = {
    "calls what it made": b"(lcbuiltins\nlist\n)R)R.",
    "calls a string": b"Vprint\n)R.",
    "a class by instruction": b"(Vx\nios\nsystem\n.",
    "changes a function": b"ctorch._utils\n_rebuild_parameter\n(dV__defaults__\n(tsb.",
    "an endless byte array": pickle.BYTEARRAY8 + (1 << 40).to_bytes(8, "little") + b".",
    "endless bytes": pickle.BINBYTES8 + (1 << 40).to_bytes(8, "little") + b".",
    "an endless memo": b"N" + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f.",
    "an endless number": b"I" + b"9" * 100_000 + b"\n.",
    "a registered extension": b"\x82\x01.",
    "laughter": b"(l" + b"p0\n" + b"".join(b"(lp%d\n" % (n + 1) + b"g%d\na" % n * 10 for n in range(40)) + b".",
    "in itself": b"(lp0\ng0\na.",
    "no end": b"(l",
    "empty": b"",
    "depth": b"(" * 100_000 + b"l" * 100_000 + b".",
}


@pytest.mark.parametrize("what", PICKLES)
def test_hostile_pickles(path: Path, what: str) -> None:
    torch.save({}, path)
    rewritten(path, "data.pkl", lambda _: PICKLES[what])
    with pytest.raises(errors.FileFormatError, match=r"model.pt: expected a"):
        gru_xp.load(path)


def tensor_changed(path: Path, **changes: Any) -> None:
    """A file with one tensor that says something else of itself."""
    import torch._utils

    class Said:
        def __reduce__(self) -> Any:
            said = {
                "storage": torch.zeros(48).untyped_storage(),
                "offset": 0,
                "size": (12, 4),
                "stride": (4, 1),
            } | changes
            storage = torch.storage.TypedStorage(wrap_storage=said["storage"], dtype=torch.float32, _internal=True)
            return torch._utils._rebuild_tensor_v2, (storage, said["offset"], said["size"], said["stride"], False, {})

    cell = torch.nn.GRUCell(3, 4).state_dict()
    torch.save(cell | {"weight_hh": Said()}, path)


KINDS = {
    "sparse_tensor": torch.Tensor.to_sparse,
    "tensor_v3 of float8_e4m3fn": lambda a: a.to(torch.float8_e4m3fn),
    "meta_tensor_no_storage of float32": lambda a: a.to("meta"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_are_no_arrays_are_said_to_be_there(path: Path, kind: str) -> None:
    weights = torch.nn.GRU(3, 4).state_dict()
    for each in (weights | {"weight_hh_l0": KINDS[kind](weights["weight_hh_l0"])}, map_values(KINDS[kind], weights)):
        torch.save({"model": each}, path)
        with pytest.raises(errors.ConversionError, match=f"model: expected arrays of one of float16, .* got .*{kind}$"):
            gru_xp.load(path)
        with pytest.raises(errors.ConversionError, match="float8_e4m3fn|sparse_coo is no array|on the meta device"):
            gru_xp.from_framework(each)


def map_values(change: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: change(tensor) for name, tensor in tensors.items()}


def test_an_expanded_tensor(path: Path) -> None:
    weights = torch.nn.GRU(3, 4).state_dict() | {"bias_hh_l0": torch.ones(1).expand(12)}
    torch.save(weights, path)
    assert_same_bits(gru_xp.load(path), weights.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (12, 1 << 40)},
        {"size": (3 << 30, 1 << 30), "stride": (0, 0)},
        {"offset": 1},
        {"offset": -1},
        {"stride": (4, -1)},
        {"stride": (400, 1)},
        {"stride": (1,)},
        {"size": (12, 4.0)},
        {"size": "twelve"},
        {"size": (-12, -4)},
    ],
)
def test_tensors_that_reach_beyond_their_storage_are_refused(path: Path, changes: dict[str, Any]) -> None:
    tensor_changed(path)
    assert gru_xp.load(path).hidden_size == 4
    tensor_changed(path, **changes)
    with pytest.raises(errors.FileFormatError, match=r"model.pt: expected a"):
        gru_xp.load(path)


def test_storages_of_another_length_are_refused(path: Path) -> None:
    cell = torch.nn.GRUCell(3, 4)
    for change in (lambda data: data[:-4], lambda data: data + b"\0" * 4, lambda data: b""):
        torch.save(cell.state_dict(), path)
        rewritten(path, "data/1", change)
        with pytest.raises(errors.FileFormatError, match="model.pt: expected a"):
            gru_xp.load(path)


def test_names_in_the_archive_lead_nowhere(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(torch.nn.GRUCell(3, 4).state_dict(), buffer)
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(path, "w") as changed:
        for info in archive.infolist():
            changed.writestr(info.filename.replace("archive/", "../../"), archive.read(info))
    before = sorted(path.parent.parent.iterdir())
    with pytest.raises(errors.FileFormatError, match=r"lacks data\.pkl"):
        gru_xp.load(path)
    assert sorted(path.parent.parent.iterdir()) == before


def test_a_copy_has_its_own_memory(path: Path) -> None:
    layer = torch.nn.GRU(3, 4)
    model = gru_xp.from_framework(layer)
    before = map_params(np.array, model.params)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    assert all(np.array_equal(a, b) for a, b in zip(weights_of(before), weights_of(model.params), strict=True))
