"""TorchScript and torch.export: what a program says of its GRUs, which their arrays do not."""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gru_xp
import gru_xp_torch
from gru_xp import errors, files
from gru_xp.params import weights_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning"),  # of torch.nn.GRU in torch.export
]
EPS = np.finfo("f4").eps
T, N, I, H = 9, 3, 4, 5


class Tagger(torch.nn.Module):
    """GRUs under names and in lists, a cell, and a layer that is none of either."""

    def __init__(self, kind: Any = torch.nn.GRU, **options: Any):
        super().__init__()
        self.encoder = torch.nn.Sequential(kind(I, H, **options))
        self.cell = torch.nn.GRUCell(I, H)
        self.head = torch.nn.Linear(H, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encoder(x)[0], self.head(self.cell(x[0]))


def tagger(**options: Any) -> Tagger:
    torch.manual_seed(0)
    return Tagger(**options).eval()


X = torch.randn(N, T, I, generator=torch.Generator().manual_seed(1))
WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "scripted": lambda module, path: torch.jit.save(torch.jit.script(module), path),
    "traced": lambda module, path: torch.jit.save(torch.jit.trace(module, (X,)), path),
    "frozen": lambda module, path: torch.jit.save(torch.jit.freeze(torch.jit.script(module)), path),
    "traced and frozen": lambda module, path: torch.jit.save(torch.jit.freeze(torch.jit.trace(module, (X,))), path),
    "exported": lambda module, path: torch.export.save(torch.export.export(module, (X,)), path),
    "exported before 2.8": lambda module, path: save_as_before(torch.export.export(module, (X,)), path),
}


def save_as_before(program: Any, path: Path) -> None:
    """The layout of torch.export.save in PyTorch 2.2 to 2.7, which torch.export.load of 2.13 still takes."""
    from torch._export.serde.serialize import serialize

    made = serialize(program)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", made.exported_program)
        archive.writestr("serialized_state_dict.pt", made.state_dict)
        archive.writestr("serialized_constants.pt", made.constants)
        archive.writestr("serialized_example_inputs.pt", made.example_inputs)
        archive.writestr("version", "8.20")


def assert_runs_as(model: gru_xp.GRU, layer: torch.nn.GRU, x: torch.Tensor) -> None:
    """On the same x, in whatever order both have it."""
    with torch.no_grad():
        expected = layer(x)
    for got, right in zip(model(x.numpy()), expected, strict=True):
        assert np.abs(got - right.numpy()).max() <= 4 * T * EPS


OPTIONS = {
    "batch first": {"batch_first": True},
    "time first": {},
    "all of them": {"batch_first": True, "num_layers": 2, "bidirectional": True, "dropout": 0.25, "bias": False},
}


@pytest.mark.parametrize("what", OPTIONS)
@pytest.mark.parametrize("how", WRITERS)
def test_a_program_says_batch_first_and_dropout(how: str, what: str, tmp_path: Path) -> None:
    module, path = tagger(**OPTIONS[what]), tmp_path / ("m.pt2" if "exported" in how else "m.pt")
    WRITERS[how](module, path)
    found = {gru.name.replace("encoder_0", "encoder.0"): gru for gru in files.contents(path).grus}
    name = next(name for name in found if name != "cell")
    model = gru_xp.load(path, name=found[name].name)
    assert name == "encoder.0" or how == "traced and frozen"  # whose constants have no names
    assert model.report is not None and model.report.exact and str(model.report) == "exact: all of it"
    assert (model.batch_first, model.dropout) == (module.encoder[0].batch_first, module.encoder[0].dropout)
    assert_runs_as(model, module.encoder[0], X)
    if how != "traced and frozen":  # where it is a product with constants, and no cell any more
        cell = [np.asarray(a) for a in weights_of(found["cell"].params)]
        assert all(np.array_equal(a, b.detach().numpy()) for a, b in zip(cell, module.cell.parameters(), strict=True))


def test_recognised_by_what_is_in_it(tmp_path: Path) -> None:
    for how in WRITERS:
        WRITERS[how](tagger(batch_first=True), tmp_path / "m.pt")
        (tmp_path / "m.pt").rename(tmp_path / "weights")
        assert any(gru.batch_first for gru in files.contents(tmp_path / "weights").grus), how


def test_a_program_of_gru_xp_says_batch_first(tmp_path: Path) -> None:
    for batch_first in (False, True):
        module = tagger(kind=gru_xp_torch.GRU, batch_first=batch_first)
        WRITERS["exported"](module, tmp_path / "m.pt2")
        model = gru_xp.load(tmp_path / "m.pt2", name="encoder.0")
        assert model.batch_first is batch_first
        assert_runs_as(model, module.encoder[0], X)


class Zero(torch.nn.Module):
    """A GRU whose first state the module around it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(I, H)
        self.learned = torch.nn.Parameter(torch.randn(1, 1, H))

    def forward(self, x: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return self.gru(x, torch.zeros(1, x.shape[1], self.learned.shape[2]))[0]


class Learned(Zero):
    def forward(self, x: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return self.gru(x, self.learned.expand(1, x.shape[1], -1).contiguous())[0]


class Computed(Zero):
    def forward(self, x: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return self.gru(x, torch.tanh(given))[0]


class Given(Zero):
    def forward(self, x: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return self.gru(x, given)[0]


class Moved(Zero):
    def forward(self, x: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return self.gru(x, given.clone().transpose(0, 1).transpose(0, 1).contiguous())[0]


@pytest.mark.parametrize("kind", [Learned, Computed, Given, Moved, Zero])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_first_state_that_is_no_argument_is_said(writer: str, kind: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, path = kind().eval(), tmp_path / "m.pt"
    x, given = torch.randn(T, N, I), torch.randn(1, N, H)
    if "exported" in writer:
        program = torch.export.export(module, (x, given))
        save_as_before(program, path) if "before" in writer else torch.export.save(program, path)
    else:
        program = torch.jit.trace(module, (x, given)) if "traced" in writer else torch.jit.script(module)
        torch.jit.save(torch.jit.freeze(program) if "frozen" in writer else program, path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", errors.ConversionWarning)
        model = gru_xp.load(path)
    said = [str(each.message) for each in caught if each.category is errors.ConversionWarning]
    if kind in (Learned, Computed):
        what = "is computed" if kind is Computed else r"is the array '(learned|constants\.c\d)'"
        assert len(said) == 1 and re.search(
            f"the first state: it {what} in the program, here it is zero: pass", said[0]
        )
    else:
        assert not said and model.report is not None and model.report.exact
    with torch.no_grad():
        expected = module(x, given).numpy()
        h0 = {Learned: module.learned.expand(1, N, H), Computed: given.tanh(), Zero: 0 * given}.get(kind, given)
    assert np.abs(model(x.numpy(), h0.detach().contiguous().numpy())[0] - expected).max() <= 4 * T * EPS


def test_equations_that_are_not_pytorchs_are_refused(tmp_path: Path) -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = torch.nn.GRU(I, H)

        def forward(self, x: Any) -> Any:
            params = ((gru_xp.CellParams(*(getattr(self.own, name) for name in self.own._all_weights[0])),),)
            return gru_xp.gru(x, params, spec=gru_xp.GRUSpec(reset_after=False))

    WRITERS["exported"](Own().eval(), tmp_path / "m.pt2")
    with pytest.raises(errors.ConversionError, match="own: computed by gru_xp with other equations than PyTorch's"):
        gru_xp.load(tmp_path / "m.pt2")


class Packed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(I, H, batch_first=True)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]


def test_packed_sequences_have_no_batch_first(tmp_path: Path) -> None:
    """A script holds the code for both kinds of input; a trace and a frozen program only that which is used."""
    module, path = Packed().eval(), tmp_path / "m.pt"
    lengths = torch.tensor([T, 4, 6])
    traced, scripted = torch.jit.trace(module, (X, lengths)), torch.jit.script(module)
    for program, known in ((scripted, True), (traced, False), (torch.jit.freeze(scripted), False)):
        torch.jit.save(program, path)
        (gru,) = files.contents(path).grus
        assert gru.batch_first is known
        assert gru.report.assumed == (() if known else ("batch_first=False",))
        model = gru_xp.GRU.from_params(gru.params, batch_first=True)
        with torch.no_grad():
            expected = module(X, lengths).numpy()
        assert np.abs(model(X.numpy(), lengths=lengths.tolist())[0] - expected).max() <= 4 * T * EPS


@pytest.mark.parametrize("how", ["traced", "exported"])
@pytest.mark.filterwarnings("ignore:.*dropout:UserWarning")
def test_a_program_made_in_training_drops_out(how: str, tmp_path: Path) -> None:
    module, path = tagger(dropout=0.5, num_layers=2).train(), tmp_path / "m.pt2"
    if how == "traced":
        torch.jit.save(torch.jit.trace(module, (X,), check_trace=False), path)
    else:
        WRITERS[how](module, path)
    with pytest.warns(errors.ConversionWarning, match=r"dropout=0\.5: the program was made in training"):
        assert gru_xp.load(path, name="encoder").dropout == 0.5


def test_a_program_within_no_grad(tmp_path: Path) -> None:
    """The exported program holds a graph within a graph."""

    class Still(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = torch.nn.GRU(I, H, batch_first=True)

        def forward(self, x: Any) -> Any:
            with torch.no_grad():
                return self.gru(2 * x)[0]

    WRITERS["exported"](Still().eval(), tmp_path / "m.pt2")
    assert gru_xp.load(tmp_path / "m.pt2").batch_first


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PyTorch's own
def test_a_decomposed_program_says_no_options(tmp_path: Path) -> None:
    module = tagger(batch_first=True)
    torch.export.save(torch.export.export(module, (X,)).run_decompositions(), tmp_path / "m.pt2")
    found = {gru.name: gru for gru in files.contents(tmp_path / "m.pt2").grus}
    assert found["encoder.0"].report.assumed == ("batch_first=False",)


def test_classes_of_their_own_are_refused(tmp_path: Path) -> None:
    class Own(torch.nn.GRU):
        def forward(self, x: Any) -> Any:
            return torch.nn.GRU.forward(self, -x)

    WRITERS["exported"](torch.nn.Sequential(Own(I, H)).eval(), tmp_path / "m.pt2")
    with pytest.raises(errors.ConversionError, match="Own may compute anything with them"):
        gru_xp.load(tmp_path / "m.pt2")


@pytest.mark.filterwarnings("ignore:No complete tensor:UserWarning")
def test_types_and_shared_arrays_of_an_export(tmp_path: Path) -> None:
    class Shared(torch.nn.Module):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__()
            self.a, self.b = (torch.nn.GRU(I, H, dtype=dtype) for _ in range(2))
            self.b.weight_hh_l0 = self.a.weight_hh_l0
            flat = torch.nn.Parameter(torch.randn(2, 3 * H, dtype=dtype))
            self.a.bias_ih_l0, self.b.bias_ih_l0 = (torch.nn.Parameter(flat.detach()[k]) for k in range(2))

        def forward(self, x: Any) -> Any:
            return self.a(x)[0], self.b(x)[0]

    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        module, path = Shared(dtype).eval(), tmp_path / "m.pt2"
        torch.export.save(torch.export.export(module, (X.to(dtype),)), path)
        for name in "ab":
            own = weights_of(gru_xp.load(path, name=name, backend="torch").params)
            theirs = [getattr(getattr(module, name), leaf) for leaf in module.a._all_weights[0]]
            assert all(mine.dtype == dtype and torch.equal(mine, a) for mine, a in zip(own, theirs, strict=True))


def test_a_runtime_refuses_programs(tmp_path: Path) -> None:
    for how in WRITERS:
        WRITERS[how](tagger(), tmp_path / "m.pt")
        gru = files.contents(tmp_path / "m.pt").grus[0]
        with pytest.raises(errors.BackendError, match="refuses the file"):
            files.formats()["torch"].run(tmp_path / "m.pt", gru, np.ones((T, N, I), "f4"), None, None)


def test_second_programs_of_a_process(tmp_path: Path) -> None:
    """Their classes are renamed: torch.nn.modules.rnn.___torch_mangle_1.GRU."""
    for batch_first in (True, False):
        for how in ("traced", "scripted"):
            WRITERS[how](tagger(batch_first=batch_first), tmp_path / "m.pt")
            assert gru_xp.load(tmp_path / "m.pt", name="encoder").batch_first is batch_first
    with zipfile.ZipFile(tmp_path / "m.pt") as archive:
        (pickled,) = [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]
    assert b"___torch_mangle_" in pickled


# ---- what a program may not be trusted with --------------------------------------------------------------------------


def rewritten(path: Path, ending: str, change: Callable[[bytes], bytes]) -> None:
    """The same zip with the entries changed whose names end so."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    changed = {name: change(data) if name.endswith(ending) else data for name, data in entries.items()}
    assert changed != entries
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in changed.items():
            archive.writestr(name, data)


def test_both_orders_in_one_program_are_refused(tmp_path: Path) -> None:
    WRITERS["scripted"](torch.nn.Sequential(torch.nn.GRU(I, H)), tmp_path / "m.pt")
    call = b"torch.gru(input0, hx7, _flat_weights, True, 1, 0., training, False, False)"
    both = call + b"\n    _14, _15 = " + call.replace(b"False, False", b"False, True")
    rewritten(tmp_path / "m.pt", ".py", lambda text: text.replace(call, both))
    with pytest.raises(errors.ConversionError, match="batch_first=True and with batch_first=False in one program"):
        gru_xp.load(tmp_path / "m.pt")


CODE = {
    "brackets without end": b"torch.gru(" + b"(" * 200_000,
    "calls in calls": b"torch.gru(" * 20_000,
    "names of names": b"x = y\n    y = x\n    torch.gru(a, b, x, True, 1, 0., False, False, True)",
    "text without end": b'"' + b"\\" * 200_000,
    "words": b"torch.gru(a, b, [self.w], maybe, 1, 0., False, False, True)",
    "states of states": b"a0, b0 = b1, a1\n    "
    + b"".join(
        b"a%d = (a%d)[0]\n    a%d = b%d\n    b%d = a%d\n    " % (n, n + 1, n, n + 1, n, n + 1) for n in range(60)
    )
    + b"torch.gru(a, a0, _flat_weights, True, 1, 0., False, False, True)",
    "10**9 layers": b"torch.gru(a, b, _flat_weights, True, 1000000000, 0., False, False, True)",
}


@pytest.mark.filterwarnings("ignore:.*the first state:gru_xp.errors.ConversionWarning")
@pytest.mark.parametrize("what", CODE)
def test_hostile_code_changes_no_numbers(what: str, tmp_path: Path) -> None:
    """What cannot be read of it is not known."""
    layer = torch.nn.GRU(I, H, batch_first=True)
    WRITERS["scripted"](torch.nn.Sequential(layer), tmp_path / "m.pt")
    rewritten(tmp_path / "m.pt", ".py", lambda text: text.replace(b"torch.gru(input0", CODE[what] + b"("))
    try:
        model = gru_xp.load(tmp_path / "m.pt")
    except errors.FileFormatError:
        return
    for own, array in zip(weights_of(model.params), layer.parameters(), strict=True):
        assert np.array_equal(own, array.detach().numpy())


def test_hostile_tables_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    for change in (
        {"sizes": [{"as_int": 1 << 40}, {"as_int": 4}]},
        {"sizes": [{"as_expr": "s0"}]},
        {"strides": [{"as_int": -1}, {"as_int": 1}]},
        {"storage_offset": {"as_int": 10}},
    ):
        WRITERS["exported"](torch.nn.Sequential(torch.nn.GRU(I, H)).eval(), path)

        def changed(table: bytes, change: Any = change) -> bytes:
            read = json.loads(table)
            read["config"]["0.weight_hh_l0"]["tensor_meta"] |= change
            return json.dumps(read).encode()

        rewritten(path, "weights_config.json", changed)
        with pytest.raises(errors.FileFormatError, match="damaged or something else"):
            gru_xp.load(path)


def test_compiled_packages_say_what_to_do(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/data/aotinductor/model/model.so", b"\x7fELF")
    (tmp_path / "m.pt2").write_bytes(buffer.getvalue())
    with pytest.raises(errors.ConversionError, match=r"m\.pt2: holds compiled code; export the model again"):
        gru_xp.load(tmp_path / "m.pt2")
