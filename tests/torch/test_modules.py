"""`gru_xp_torch.GRU` and `GRUCell` in the place of torch.nn's: the same numbers, states, errors; and what is new."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import gru_xp
from gru_xp.discovery import load
from gru_xp.params import map_params
from gru_xp_torch import GRU, GRUCell
from gru_xp_torch.flat import flat_tape
from gru_xp_torch.small import MOST_SAVED

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.*jit.script.*:DeprecationWarning")

T, N, I, H = 6, 4, 3, 5
BOUND = 1e-12


def pair(cls: Any = torch.nn.GRU, *args: Any, **options: Any) -> tuple[Any, Any]:
    """Theirs and ours, from one seed."""
    torch.manual_seed(1)
    theirs = cls(*(args or (I, H)), **options, dtype=torch.float64)
    torch.manual_seed(1)
    ours = {torch.nn.GRU: GRU, torch.nn.GRUCell: GRUCell}[cls](*(args or (I, H)), **options, dtype=torch.float64)
    return theirs, ours


def flat(result: Any) -> list[torch.Tensor]:
    """Tensors, through PackedSequences."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [] if result is None else [a for part in result for a in flat(part)]


def assert_same(theirs: Any, ours: Any, run: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    """Results and all gradients."""
    found = []
    for module in (theirs, ours):
        given = tuple(a.clone().requires_grad_() for a in inputs)
        results = flat(run(module, *given))
        module.zero_grad()
        sum((a.sin() * a).sum() for a in results if a.is_floating_point()).backward()
        found.append([*results, *(a.grad for a in given), *(p.grad for p in module.parameters())])
    assert len(found[0]) == len(found[1])
    for a, b in zip(*found, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert torch.all((a - b).abs() <= BOUND)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("L", "bias"), [(1, True), (3, False)])
def test_padded_unbatched_and_packed(L: int, bias: bool, bidirectional: bool, batch_first: bool) -> None:
    theirs, ours = pair(num_layers=L, bias=bias, bidirectional=bidirectional, batch_first=batch_first)
    x, hx = randn(N, T, I) if batch_first else randn(T, N, I), randn(L * (1 + bidirectional), N, H)
    assert_same(theirs, ours, lambda m, x: m(x), (x,))
    assert_same(theirs, ours, lambda m, x, hx: m(x, hx), (x, hx))
    assert_same(theirs, ours, lambda m, x, hx: m(input=x, hx=hx), (randn(T, I), hx[:, 0]))
    rows = tuple(randn(n, I) for n in (2, 6, 1, 6))
    assert_same(theirs, ours, lambda m, hx, *rows: m(pack_sequence(rows, enforce_sorted=False), hx), (hx, *rows))
    assert_same(theirs, ours, lambda m, *rows: m(pack_sequence(rows)), (rows[1], rows[0], rows[2]))


def test_state_dict_goes_both_ways() -> None:
    theirs, ours = pair(num_layers=2, bidirectional=True)
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))  # same draws
    assert list(theirs.state_dict()) == list(ours.state_dict())
    for p in theirs.parameters():
        torch.nn.init.normal_(p)
    ours.load_state_dict(theirs.state_dict())
    x = randn(T, N, I)
    assert (theirs(x)[0] - ours(x)[0]).abs().max() < BOUND
    for p in ours.parameters():
        torch.nn.init.normal_(p)
    theirs.load_state_dict(ours.state_dict())
    assert (theirs(x)[0] - ours(x)[0]).abs().max() < BOUND
    with pytest.raises(RuntimeError, match="size mismatch"):
        ours.load_state_dict(torch.nn.GRU(I, H + 1, 2, bidirectional=True).state_dict())


def test_attributes_and_repr() -> None:
    options = {"num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.5, "bidirectional": True}
    theirs, ours = pair(**options)
    assert repr(theirs) == repr(ours)
    for name in ("mode", "input_size", "hidden_size", "proj_size", *options):
        assert getattr(theirs, name) == getattr(ours, name)
    assert [[tuple(w.shape) for w in layer] for layer in theirs.all_weights] == [
        [tuple(w.shape) for w in layer] for layer in ours.all_weights
    ]
    ours.flatten_parameters()
    assert repr(torch.nn.GRUCell(3, 4, bias=False)) == repr(GRUCell(3, 4, bias=False))
    y, _ = gru_xp.gru(randn(T, N, I), ours.params)  # they are what the functions take
    assert y.shape == (T, N, 2 * H)


def test_dropout_drops_what_torch_drops() -> None:
    theirs, ours = pair(num_layers=3, dropout=0.4, bidirectional=True)
    x = randn(T, N, I)

    def seeded(module: Any, x: Any) -> Any:
        torch.manual_seed(5)
        return module(x)

    assert_same(theirs, ours, seeded, (x,))
    assert not torch.equal(seeded(ours, x)[0], ours(x)[0])
    ours.eval()
    assert torch.equal(ours(x)[0], ours(x)[0])
    with pytest.warns(UserWarning, match="num_layers greater than 1"):
        GRU(I, H, dropout=0.1)


def test_copies_and_files() -> None:
    model, x = pair(num_layers=2)[1], randn(T, N, I)
    expected = model(x)[0]
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for copied in (
        copy.deepcopy(model),
        copy.copy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(buffer, weights_only=False),
    ):
        assert torch.equal(copied(x)[0], expected)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.weight_hh_l1.zero_()
    assert torch.equal(model(x)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_and_gradients_have_the_modules_dtype(dtype: torch.dtype) -> None:
    model = GRU(I, H, 2).to(dtype)
    x = torch.randn(T, N, I, dtype=dtype)
    y, h_n = model(x)
    (y.sum() + h_n.sum()).backward()
    assert y.dtype == h_n.dtype == model.weight_ih_l0.grad.dtype == dtype
    assert (y.double() - copy.deepcopy(model).double()(x.double())[0]).abs().max() < 30 * torch.finfo(dtype).eps
    assert GRU(I, H).half().weight_ih_l0.dtype == torch.float16


def test_a_module_on_another_device() -> None:
    """On `meta` nothing is computed, but all shapes come out."""
    model = GRU(I, H, bidirectional=True, device="meta")
    assert model.weight_hh_l0_reverse.is_meta
    model = model.to_empty(device="cpu")
    assert model(torch.zeros(T, N, I))[0].shape == (T, N, 2 * H)


@pytest.mark.parametrize("of_state", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("of_input", [torch.float32, torch.bfloat16])
def test_autocast_is_as_in_torch(of_input: torch.dtype, of_state: torch.dtype | None) -> None:
    modules = [*(m.float() for m in pair(num_layers=2)), *(m.float() for m in pair(torch.nn.GRUCell))]
    x, hx = torch.randn(T, N, I, dtype=of_input), torch.randn(2, N, H, dtype=of_state or of_input)
    packed = pack_sequence([x[:, 0], x[:2, 1]])
    for theirs, ours, given, states in (
        (*modules[:2], x, hx),
        (*modules[:2], x[:, 0], hx[:, 0]),
        (*modules[:2], packed, hx[:, :2]),
        (*modules[2:], x[0], hx[0]),
    ):
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = (flat(m(given, None if of_state is None else states)) for m in (ours, theirs))
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == b.dtype and (a.double() - b.double()).abs().max() < 0.04
        found[0].float().sum().backward()
        assert all(p.grad.dtype == torch.float32 for p in ours.parameters())
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="hx dtype"):
        modules[1](x, hx.long())


# ---- what torch.nn.GRU has not ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
def test_resets_and_masks_of_a_last_axis_of_one_as_torchrl_gives_them(batch_first: bool) -> None:
    """Row by row and piece by piece: an episode that begins anew is a sequence from zero."""
    torch.manual_seed(0)
    model, whole = GRU(I, H, batch_first=batch_first), torch.randn(T, 1, I)
    is_init = torch.zeros(T, 1, 1, dtype=torch.bool)
    is_init[2] = is_init[5] = True
    turn = (lambda a: a.transpose(0, 1)) if batch_first else (lambda a: a)
    y, h_n = model(turn(whole), resets=turn(is_init))
    pieces = [model(turn(whole[a:b])) for a, b in ((0, 2), (2, 5), (5, T))]
    torch.testing.assert_close(turn(y), torch.cat([turn(piece) for piece, _ in pieces]))
    torch.testing.assert_close(h_n, pieces[-1][1])
    valid = torch.arange(T)[:, None] < T - 2
    y, h_n = model(turn(whole), resets=turn(is_init), mask=turn(valid))
    assert not turn(y)[T - 2 :].any()
    torch.testing.assert_close(h_n[0], turn(y)[T - 3])


@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_and_resets(batch_first: bool) -> None:
    """Against the same model over each row by itself."""
    model = pair(num_layers=2, bidirectional=True, batch_first=batch_first)[1]
    lengths, x, hx = [4, 0, 6, 1], randn(T, N, I), randn(4, N, H)
    resets = torch.zeros(T, N, dtype=torch.bool)
    resets[2, 2] = True
    turn = (lambda a: a.transpose(0, 1)) if batch_first else (lambda a: a)
    for given in (lengths, torch.tensor(lengths)):
        for cuts in (turn(resets), turn(resets).tolist()):
            y, h_n = model(turn(x), hx, lengths=given, resets=cuts)
            y = turn(y)
            for row, length in ((0, 4), (3, 1)):
                one, last = model(x[:length, row], hx[:, row])
                assert (y[:length, row] - one).abs().max() < BOUND and not y[length:, row].any()
                assert (h_n[:, row] - last).abs().max() < BOUND
            assert torch.equal(h_n[:, 1], hx[:, 1]) and not y[:, 1].any()


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_mask_skips_the_steps_where_it_is_false(batch_first: bool) -> None:
    """Against the same model over the steps of each row that are left."""
    model = pair(num_layers=2, bidirectional=True, batch_first=batch_first)[1]
    x, hx = randn(T, N, I), randn(4, N, H)
    mask = torch.rand(T, N, generator=torch.Generator().manual_seed(0)) < 0.6
    turn = (lambda a: a.transpose(0, 1)) if batch_first else (lambda a: a)
    for given in (turn(mask), turn(mask).tolist()):
        y, h_n = model(turn(x), hx, mask=given)
        for row in range(N):
            one, last = model(x[mask[:, row], row], hx[:, row])
            assert (turn(y)[mask[:, row], row] - one).abs().max() < BOUND and not turn(y)[~mask[:, row], row].any()
            assert (h_n[:, row] - last).abs().max() < BOUND


def test_streamed_steps_agree_with_the_whole_sequence() -> None:
    model, x = pair(num_layers=2)[1], randn(T, N, I)
    y, h_n = model(x)
    state, outs = model.initial_state(N), []
    for x_t in x:
        y_t, state = model.step(x_t, state)
        outs.append(y_t)
    assert (torch.stack(outs) - y).abs().max() < BOUND and (state - h_n).abs().max() < BOUND
    _, again = model.step(x[0], state, reset=[True] * N)
    assert (again - model.step(x[0], model.initial_state(N))[1]).abs().max() < BOUND
    with pytest.raises(ValueError, match="reverse"):
        GRU(I, H, bidirectional=True).step(x[0], state)


@pytest.mark.parametrize("batch_first", [False, True])
def test_compile(batch_first: bool) -> None:
    torch._dynamo.reset()
    model = pair(num_layers=2, dropout=0.5, batch_first=batch_first)[1].eval()
    x = randn(T, T, I)
    for options in ({}, {"lengths": torch.tensor([1, 2, 3, 4, 5, 6])}):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        found = []
        for run in (model, compiled):
            model.zero_grad()
            y, h_n = run(x, **options)
            (y.sin().sum() + h_n.sum()).backward()
            found.append([y, *(p.grad for p in model.parameters())])
        assert all((a - b).abs().max() < BOUND for a, b in zip(*found, strict=True))
    model.train()
    assert torch.compile(model, fullgraph=True, backend="aot_eager")(x)[0].shape == (T, T, H)
    cell = GRUCell(I, H, dtype=torch.float64)
    assert (torch.compile(cell, fullgraph=True, backend="aot_eager")(x[0]) - cell(x[0])).abs().max() < BOUND


def test_export() -> None:
    model, x = pair(num_layers=2, batch_first=True)[1], randn(N, T, I)
    exported = torch.export.export(model, (x,))
    assert torch.equal(exported.module()(x)[0], model(x)[0])


def test_per_sample_gradients() -> None:
    model, x = pair(num_layers=2)[1], randn(T, N, I)
    weights = dict(model.named_parameters())

    def loss(weights: Any, row: Any) -> Any:
        return torch.func.functional_call(model, weights, row)[0].sin().sum()

    grads = torch.func.vmap(torch.func.grad(loss), (None, 1))(weights, x)
    for row in range(N):
        model.zero_grad()
        model(x[:, row])[0].sin().sum().backward()
        for name, p in model.named_parameters():
            assert (grads[name][row] - p.grad).abs().max() < BOUND


# ---- torch's own description of its modules --------------------------------------------------------------------------

INFOS = [(info, {torch.nn.GRU: GRU, torch.nn.GRUCell: GRUCell}[info.module_cls])
         for info in module_db if info.module_cls in (torch.nn.GRU, torch.nn.GRUCell)]  # fmt: skip


def samples(info: Any, dtype: torch.dtype, training: bool = False) -> list[Any]:
    options = {} if info.module_cls is torch.nn.GRUCell else {"with_packed_sequence": True}
    found = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=dtype == torch.float64, training=training, **options
    )
    assert len(found) >= 2
    return found


@pytest.mark.parametrize(("info", "cls"), INFOS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_module_info(info: Any, cls: Any, dtype: torch.dtype) -> None:
    """For each sample: forward against torch's module and its reference, factory keywords, state, pickle, modes."""
    for training in (False, True):
        for sample in samples(info, dtype, training):
            args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
            module = cls(*args, **kwargs, device="cpu", dtype=dtype)
            theirs = info.module_cls(*args, **kwargs, device="cpu", dtype=dtype)
            theirs.load_state_dict(module.state_dict())
            for m in (module, theirs):
                m.train(training)
            given, named = sample.forward_input.args, sample.forward_input.kwargs
            results, expected = flat(module(*given, **named)), flat(theirs(*given, **named))
            if sample.reference_fn is not None and not isinstance(given[0], PackedSequence):
                expected += flat(sample.reference_fn(module, *given, **named))
                results *= 2
            for a, b in zip(results, expected, strict=True):
                assert a.dtype == b.dtype
                torch.testing.assert_close(a, b)
            assert str(module) == str(theirs)
            again = flat(pickle.loads(pickle.dumps(module))(*given, **named))
            assert all(torch.equal(a, b) for a, b in zip(again, results, strict=False))
            if not isinstance(given[0], PackedSequence):
                strided = [a.detach().repeat_interleave(2, dim=-1)[..., ::2] for a in given]
                assert all(torch.equal(a, b) for a, b in zip(flat(module(*strided)), results, strict=False))


@pytest.mark.parametrize(("info", "cls"), INFOS)
def test_module_info_gradients(info: Any, cls: Any) -> None:
    """gradcheck and gradgradcheck over inputs and parameters, as torch does for its modules."""
    for index, sample in enumerate(samples(info, torch.float64)):
        args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
        module, given = cls(*args, **kwargs, dtype=torch.float64), sample.forward_input.args
        names, weights = zip(*module.named_parameters(), strict=True)
        if isinstance(given[0], PackedSequence):
            sizes, given = given[0].batch_sizes, (given[0].data,)
        else:
            sizes = None

        def run(*arrays: Any, module=module, names=names, sizes=sizes) -> Any:
            count = len(arrays) - len(names)
            inputs = (PackedSequence(arrays[0], sizes),) if sizes is not None else arrays[:count]
            call = torch.func.functional_call(module, dict(zip(names, arrays[count:], strict=True)), inputs)
            return tuple(a for a in flat(call) if a.requires_grad)

        assert torch.autograd.gradcheck(run, (*given, *weights), fast_mode=True)
        if index % 4 == 0:  # it takes long
            assert torch.autograd.gradgradcheck(run, (*given, *weights), fast_mode=True)


@pytest.mark.parametrize(("info", "cls"), INFOS)
def test_module_info_errors(info: Any, cls: Any) -> None:
    errors = info.module_error_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=False)
    count = 0
    for error in errors:
        sample = error.module_error_input
        args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
        if "relu" in args or "tanh" in args:  # of RNNCell, with which GRUCell shares the list
            continue
        count += 1
        if error.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type, match=error.error_regex):
                cls(*args, **kwargs)
        else:
            module = cls(*args, **kwargs)
            with pytest.raises(error.error_type, match=error.error_regex):
                module(*sample.forward_input.args, **sample.forward_input.kwargs)
    assert count >= 4


CELL, FIRST = GRUCell(I, H, dtype=torch.float64), GRU(I, H, batch_first=True, dtype=torch.float64)


def nested(layout: Any) -> torch.Tensor:
    return torch.nested.nested_tensor([randn(T, I), randn(T - 1, I)], layout=layout)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m(randn(2, 2, 2, I)), ValueError, "Expected input to be 2D or 3D, got 4D"),
        (lambda m: m(randn(T, N, I + 1)), RuntimeError, "Expected 3, got 4"),
        (lambda m: m(randn(T, N, I), randn(1, H)), RuntimeError, "hx should also be 3-D but got 2-D"),
        (lambda m: m(randn(T, I), randn(1, N, H)), RuntimeError, "hx should also be 2-D but got 3-D"),
        (
            lambda m: m(randn(T, N, I), randn(1, N + 1, H)),
            RuntimeError,
            r"Expected hidden size \(1, 4, 5\), got \[1, 5",
        ),
        (
            lambda m: m(randn(T, N, I), lengths=[T + 1] * N),
            gru_xp.errors.RangeError,
            "lengths: expected values from 0 to T = 6",
        ),
        (lambda m: m(randn(T, N, I), lengths=[1]), gru_xp.errors.ShapeError, "lengths"),
        (
            lambda m: m(randn(T, N, I), lengths=torch.tensor([T + 1] * N)),
            gru_xp.errors.RangeError,
            "from 0 to T = 6, got 7",
        ),
        (lambda m: m(randn(T, N, I), lengths=torch.tensor([-1] * N)), gru_xp.errors.RangeError, "got -1"),
        (lambda m: m(randn(T, N, I), lengths=torch.ones(N)), gru_xp.errors.DTypeError, "lengths: expected integers"),
        (
            lambda m: FIRST(randn(N, T, I), resets=[[True] * T] * (N - 1)),
            gru_xp.errors.ShapeError,
            r"\(4, 6\), got 3 rows",
        ),
        (lambda m: FIRST(randn(N, T, I), resets=[[True] * T, [True]] * 2), gru_xp.errors.ShapeError, "got a row of 1"),
        (lambda m: FIRST(randn(N, T, I), resets=torch.ones(T) > 0), gru_xp.errors.ShapeError, r"\(4, 6\), got \(6,\)"),
        (lambda m: FIRST(randn(N, T, I), resets=True), gru_xp.errors.StructureError, "resets: expected an array"),
        (lambda m: m.step([0.0] * I, randn(1, H)), TypeError, "input to be a tensor, got a list"),
        (lambda m: m.step(randn(N, I), [0.0] * H), TypeError, "hx to be a tensor, got a list"),
        (lambda m: m.step(randn(1, N, I), randn(1, N, H)), ValueError, "input to be 1D or 2D, got 3D"),
        (lambda m: m.step(randn(N, I), randn(1, N + 1, H)), RuntimeError, r"hidden size \(1, 4, 5\), got \[1, 5, 5\]"),
        (lambda m: m(pack_sequence([randn(2, I)]), lengths=[2]), ValueError, "its own lengths"),
        (lambda m: m(pack_sequence([randn(2, I)]), mask=[[True]] * 2), ValueError, "its own lengths"),
        (lambda m: GRU(I, H, proj_size=2), ValueError, "proj_size argument is only supported for LSTM"),
        (lambda m: GRU(I, H, dropout=1.5), ValueError, "dropout"),
        (lambda m: GRU(I, H, nonlinearity="relu"), TypeError, "unexpected keyword argument 'nonlinearity'"),
        (lambda m: m(randn(T, N, I).float()), ValueError, r"input dtype \(torch.float32\) does not match weight dtype"),
        (
            lambda m: m(randn(T, N, I), randn(1, N, H).float()),
            RuntimeError,
            r"hx dtype \(torch.float32\) does not match",
        ),
        (lambda m: m(randn(T, N, I), torch.zeros(1, N, H, dtype=torch.int64)), RuntimeError, "hx dtype"),
        (lambda m: m(randn(T, N, I).to("meta")), RuntimeError, "not at the same device, found input tensor at meta"),
        (lambda m: m(randn(T, N, I), randn(1, N, H).to("meta")), RuntimeError, "hidden tensor at meta"),
        (lambda m: m(randn(T, N, I).to_sparse()), TypeError, r"dense tensor, got torch.sparse_coo; use to_dense\(\)"),
        (lambda m: m(nested(torch.strided)), TypeError, "dense tensor, got a nested one; pad it"),
        (lambda m: m(nested(torch.jagged)), TypeError, "dense tensor, got a nested one; pad it"),
        (lambda m: m(pack_sequence([randn(3, 2, I)])), RuntimeError, "input must have 2 dimensions, got 3"),
        (lambda m: m(pack_sequence([randn(2, I)]), randn(1, 2, H)), RuntimeError, r"Expected hidden size \(1, 1, 5\)"),
        (lambda m: m(randn(T, N, I) * 1j), ValueError, "input dtype"),
        (lambda m: m(None), TypeError, "input to be a tensor, got None"),
        (lambda m: CELL(randn(N, I).float()), ValueError, "input dtype"),
        (lambda m: CELL(randn(N, I), randn(N, H).float()), RuntimeError, "hx dtype"),
        (lambda m: CELL(randn(N, I).to("meta")), RuntimeError, "not at the same device"),
        (lambda m: CELL(randn(N, I), randn(H)), RuntimeError, "hidden to be 2D as input is, got 1D"),
        (lambda m: CELL(randn(N, I).to_sparse()), TypeError, "dense tensor"),
        (lambda m: CELL(pack_sequence([randn(2, I)])), TypeError, "input to be a tensor, got a PackedSequence"),
        (lambda m: gru_xp.gru(randn(T, N, I).to_sparse(), m.params), gru_xp.errors.StructureError, "dense tensor"),
    ],
)
def test_wrong_arguments_are_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(GRU(I, H, dtype=torch.float64))


def test_packed_output_unpacks() -> None:
    model = GRU(I, H)
    y, _ = model(pack_sequence([torch.randn(n, I) for n in (2, 5, 3)], enforce_sorted=False))
    assert isinstance(y, PackedSequence)
    padded, lengths = pad_packed_sequence(y)
    assert padded.shape == (5, 3, H) and lengths.tolist() == [2, 5, 3]


# ---- small calls, which go a shorter way -----------------------------------------------------------------------------


def small_grads(model: Any, x: torch.Tensor, hx: torch.Tensor | None = None) -> list[torch.Tensor]:
    """Results and gradients of a loss to second order."""
    given = [a.clone().requires_grad_() for a in (x, hx) if a is not None]
    y, h_n = model(*given)
    watched = [*given, *model.parameters()]
    first = torch.autograd.grad(y.sin().sum() + (h_n**3).sum(), watched, create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), watched)
    model.zero_grad()
    model(*given)[1].sin().sum().backward()
    return [y, h_n, *first, *second, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_small_calls_agree_with_the_plain_path(bidirectional: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """First and second order, with the tape used twice; the long way is forced by a plain path."""
    model = pair(num_layers=2, bidirectional=bidirectional)[1]
    x, hx = randn(1, 2, I), randn(2 + 2 * bidirectional, 2, H)
    for given in ((x, hx), (x,)):
        found = small_grads(model, *given)
        assert "Small" in str(model(x.clone().requires_grad_())[0].grad_fn)
        monkeypatch.setenv("GRU_XP_KERNELS", "off")
        assert "Small" not in str(model(x.clone().requires_grad_())[0].grad_fn)
        expected = small_grads(model, *given)
        monkeypatch.delenv("GRU_XP_KERNELS")
        assert all((a - b).abs().max() < BOUND for a, b in zip(found, expected, strict=True))


def test_autograd_checks_the_tensors_of_small_calls() -> None:
    """A weight changed in place, a graph used up, weights of a wrong shape or type, frozen weights, checkpoints."""
    model, x = pair()[1], randn(1, 2, I)
    y, _ = model(x)
    with torch.no_grad():
        model.weight_hh_l0.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    y, _ = model(x)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()
    other = copy.deepcopy(model)
    other.weight_hh_l0 = torch.nn.Parameter(randn(3 * H, H + 1))
    with pytest.raises(gru_xp.errors.ShapeError, match="W_hh"):
        other(x)
    other.weight_hh_l0 = torch.nn.Parameter(torch.randn(3 * H, H))
    with pytest.raises(gru_xp.errors.DTypeError, match="W_hh"):
        other(x)
    with torch.no_grad():
        assert not model(x)[0].requires_grad
    model.requires_grad_(False)
    assert not model(x)[0].requires_grad and model(x.clone().requires_grad_())[0].requires_grad
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda a: saved.append(a) or a, lambda a: a):
        model(x.clone().requires_grad_())
    assert len(saved) == 11  # x, h0, four weights and the five of the tape


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("inputs", [1, 1000])
def test_the_tape_of_a_small_call_is_small(layers: int, inputs: int) -> None:
    """It is not where PyTorch could move or drop it, so it must not grow with anything, as it does where H is 1."""
    model, shorter = GRU(inputs, 1, num_layers=layers, bidirectional=True), 0
    for steps in (10, 30, 100, 300, 1000, 3000, 100_000):
        node = model(torch.randn(steps, 1, inputs))[0].grad_fn
        if "Small" in str(node):
            shorter += 1
            assert steps * inputs + sum(a.size for a in flat_tape(node.tapes)) <= MOST_SAVED
    assert 1 <= shorter < 7


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_small_calls_without_gradients(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules and functions, prepared parameters and models, with and without a state: as the plain path has it."""
    model = pair(num_layers=2, bidirectional=True)[1]
    frozen = map_params(torch.Tensor.detach, model.params)
    prepared, own = gru_xp.prepare(frozen), gru_xp.GRU.from_params(frozen)
    x, hx = randn(3, 2, I), randn(4, 2, H)

    def everything() -> list[torch.Tensor]:
        found = []
        for given in ((x, hx), (x,)):
            with context():
                found += [*model(*given), *gru_xp.gru(given[0], model.params, *given[1:])]
            found += [*own(*given), *gru_xp.gru(given[0], prepared, *given[1:])]
            found += gru_xp.gru_inference(given[0].clone().requires_grad_(), model.params, *given[1:])
            h = None if len(given) == 1 else hx[0]
            found.append(gru_xp.gru_cell(x[0], h, frozen[0][0]))
            found.append(gru_xp.gru_cell_inference(x[0], h, model.params[0][0]))
        return found

    found = everything()
    assert not any(a.requires_grad for a in found)
    monkeypatch.setenv("GRU_XP_KERNELS", "off")
    expected = everything()
    assert all((a - b).abs().max() < BOUND for a, b in zip(found, expected, strict=True))


def test_the_key_of_a_plan_covers_what_a_caller_can_change() -> None:
    backend, params, x = load("torch"), pair()[1].params, randn(3, 2, I)
    (w,), h0 = params[0], randn(1, 2, H)

    def key(x: Any = x, h0: Any = h0, w: Any = w) -> Any:
        return backend.key((x, h0, *w))

    usual = key()
    assert usual is not None and hash(usual) == hash(key(x=x.clone(), h0=h0.clone()))
    for options in (
        {"x": x[:2]},
        {"x": x[..., 1:]},
        {"h0": h0[:, :1]},
        {"h0": None},
        {"w": w._replace(b_ih=w.b_ih[1:])},
        {"w": [a.detach() for a in w]},
    ):
        assert key(**options) not in (None, usual), options
    assert len({key(), key(h0=None), key(x=x[:2]), key(w=[a.detach() for a in w])}) == 4
    with torch.no_grad():
        assert key() != usual
    for options in (
        {"x": x.float()},
        {"x": x.to("meta")},
        {"x": x.to_sparse()},
        {"h0": h0.to_sparse()},
        {"x": TensorSubclass(x)},
    ):
        assert key(**options) is None, options
    assert backend.key((x.to("meta"),)) != backend.key((x,))
    with torch.autocast("cpu"):
        assert key() is None
    with torch.autograd.graph.save_on_cpu():
        assert key() is None
    with forward_ad.dual_level():
        assert key() is None
    seen: list[Any] = []
    torch.vmap(lambda x: seen.append(key(x=x)) or x)(x[None])
    assert seen == [None]


class TensorSubclass(torch.Tensor):
    pass


def test_a_small_cell() -> None:
    theirs, ours = pair(torch.nn.GRUCell)
    assert_same(theirs, ours, lambda m, x, h: m(x, h), (randn(N, I), randn(N, H)))


def test_the_first_call_of_a_program_may_be_compiled() -> None:
    """The library has looked for its backends by then; and what cannot be compiled runs all the same."""
    code = """
        import torch, gru_xp_torch
        model, x = gru_xp_torch.GRU(3, 4), torch.randn(5, 2, 3)
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        print(torch.allclose(compiled(x)[0], model(x)[0]))
        gradient = torch.func.grad(lambda x: model(x)[0].square().sum())
        print(torch.allclose(torch.compile(gradient, backend="aot_eager")(x), gradient(x)))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "True\nTrue\n", done.stderr


def test_a_tuple_as_state_and_a_list_as_input_are_errors() -> None:
    for module, x in ((GRU(I, H), torch.randn(T, N, I)), (GRUCell(I, H), torch.randn(N, I))):
        with pytest.raises(TypeError, match="hx to be a tensor, got a tuple"):
            module(x, (x, x))
        with pytest.raises(TypeError, match="input to be a tensor, got a list"):
            module([x])
