"""What PyTorch's own tools do with the modules, beside torch.nn's: rewrite, share, fake them, write them down."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.data import DataLoader, Dataset

import gru_xp
import gru_xp_torch
from gru_xp_torch import operators

# torch's own code, on its way from one of its versions to the next
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch",
    "ignore:.*jit.*:DeprecationWarning",
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*weight_norm. is deprecated:FutureWarning",
    "ignore:Anomaly Detection has been enabled:UserWarning",
    "ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)

I, BOUND = 3, 1e-11
SIZES = {"small": (5, 2, 4), "large": (60, 16, 32)}  # T, N, H: the short way and the long one
MODULES = (torch.nn.GRU, gru_xp_torch.GRU)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def pair(H: int = 4, **options: Any) -> list[Any]:
    """Theirs and ours, from one seed."""
    found = []
    for kind in MODULES:
        torch.manual_seed(1)
        found.append(kind(I, H, **options, dtype=torch.float64))
    return found


def loss_of(y: torch.Tensor, h_n: torch.Tensor) -> torch.Tensor:
    return (y.sin() * y).sum() + (h_n**3).sum()


def gradients(module: Any, x: torch.Tensor, loss: Any = loss_of, **options: Any) -> list[Any]:
    """Those of x and of each parameter, None among them."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    loss(*module(x, **options)).backward()
    return [x.grad, *(p.grad for p in module.parameters())]


def apart(found: list[Any], expected: list[Any]) -> float:
    assert [a is None for a in found] == [b is None for b in expected]
    return max(
        float((a - b).detach().abs().max()) for a, b in zip(found, expected, strict=True) if a is not None and a.numel()
    )


# ---- autograd's rules ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", ["auto", "off"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_results_can_be_changed_in_place(size: str, layers: int, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As who sets the states of finished episodes to zero; and y and h_n are not the same memory."""
    monkeypatch.setenv("GRU_XP_KERNELS", kernels)
    T, N, H = SIZES[size]
    theirs, ours = pair(H, num_layers=layers)
    x = randn(T, N, I)

    def in_place(y: torch.Tensor, h_n: torch.Tensor) -> torch.Tensor:
        y.mul_(2.0).sin_()
        h_n[:, 0] = 0.0
        return loss_of(y, h_n.cos_())

    def apart_from_that(y: torch.Tensor, h_n: torch.Tensor) -> torch.Tensor:
        return loss_of((y * 2.0).sin(), torch.cat([torch.zeros_like(h_n[:, :1]), h_n[:, 1:]], 1).cos())

    assert apart(gradients(ours, x, in_place), gradients(theirs, x, apart_from_that)) < BOUND
    y, h_n = (a.detach() for a in ours(x))
    before = y.clone()
    h_n.zero_()
    assert torch.equal(y, before)


@pytest.mark.parametrize("size", SIZES)
def test_changes_in_place_before_backward_are_errors(size: str) -> None:
    T, N, H = SIZES[size]
    for module in pair(H):
        for index in range(3):
            given = [randn(T, N, I).requires_grad_(), randn(1, N, H).requires_grad_()]
            y, _ = module(*given)
            with torch.no_grad():
                [*given, module.weight_ih_l0][index].zero_()
            with pytest.raises(RuntimeError, match="modified .*inplace"):
                y.sum().backward()


@pytest.mark.parametrize("size", SIZES)
def test_frozen_and_tied_weights(size: str) -> None:
    T, N, H = SIZES[size]
    theirs, ours = pair(H, num_layers=2, bidirectional=True)
    x = randn(T, N, I)
    for module in (theirs, ours):
        for index, p in enumerate(module.parameters()):
            p.requires_grad_(index % 3 == 0)
        module.weight_hh_l1 = module.weight_hh_l0_reverse = module.weight_hh_l0
        module.bias_hh_l1 = module.bias_ih_l0
    assert apart(gradients(ours, x), gradients(theirs, x)) < BOUND
    assert [p.grad is None for p in ours.parameters()] == [not p.requires_grad for p in ours.parameters()]


@pytest.mark.parametrize("size", SIZES)
def test_hooks_of_modules(size: str) -> None:
    T, N, H = SIZES[size]
    x, found = randn(T, N, I), []
    for module in pair(H):
        seen: list[torch.Tensor] = []
        module.register_full_backward_hook(lambda _, into, out, seen=seen: seen.extend([*into, *out]))
        module.register_full_backward_pre_hook(lambda _, out: tuple(2 * g for g in out))
        module.register_forward_hook(lambda _, into, out: (out[0] * 2, out[1]))
        module.register_forward_pre_hook(lambda _, into: (into[0] / 2,))
        module.weight_hh_l0.register_hook(lambda g: 3 * g)
        module.weight_ih_l0.register_post_accumulate_grad_hook(lambda p, seen=seen: seen.append(p.grad.clone()))
        found.append([*gradients(module, x), *seen])
    assert apart(*found) < BOUND and len(found[0]) == 5 + 4


def test_detect_anomaly_finds_no_nan_behind_padding() -> None:
    """Padding is NaN nowhere on the way, to the second order too."""
    for T, N, H in SIZES.values():
        model, x = pair(H, num_layers=2, bidirectional=True)[1], randn(T, N, I).requires_grad_()
        watched = [x, *model.parameters()]
        with torch.autograd.detect_anomaly():
            first = torch.autograd.grad(loss_of(*model(x, lengths=[T] + [0] * (N - 1))), watched, create_graph=True)
            torch.autograd.grad(sum((g**2).sum() for g in first), watched)


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}, {"foreach": False}])
@pytest.mark.parametrize("size", SIZES)
def test_optimizers(size: str, options: dict[str, bool]) -> None:
    T, N, H = SIZES[size]
    x, found = randn(T, N, I), []
    for module in pair(H):
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2, **options)
        for step in range(6):
            module(x)[0].square().sum().backward()
            if step % 2:  # two batches for a step
                torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=step % 4 == 1)
        found.append(list(module.parameters()))
    assert apart(*found) < 1e-8


# ---- weights that something else computes ----------------------------------------------------------------------------


def old_weight_norm(module: Any, name: str) -> None:
    torch.nn.utils.weight_norm(module, name)
    with torch.no_grad():
        getattr(module, f"{name}_g").mul_(2.0)


@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm,
        parametrizations.orthogonal,
        parametrizations.spectral_norm,
        old_weight_norm,
        lambda module, name: torch.nn.utils.prune.l1_unstructured(module, name, 0.5),
    ],
)
@pytest.mark.parametrize("size", SIZES)
def test_weights_computed_by_a_parametrization(size: str, change: Callable[[Any, str], Any]) -> None:
    T, N, H = SIZES[size]
    theirs, ours = pair(H, num_layers=2)
    for module in (theirs, ours):
        for name in ("weight_hh_l0", "weight_ih_l1"):
            torch.manual_seed(0)
            change(module, name)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    theirs.eval()
    ours.eval()  # spectral_norm changes its weights at each call in training
    x = randn(T, N, I)
    assert apart(gradients(ours, x), gradients(theirs, x)) < 1e-9
    assert (
        apart(gradients(copy.deepcopy(ours) if parametrize.is_parametrized(ours) else ours, x), gradients(ours, x))
        < BOUND
    )


def test_a_missing_weight_is_named() -> None:
    model = gru_xp_torch.GRU(3, 4)
    del model.weight_hh_l0
    with pytest.raises(AttributeError, match="no attribute 'weight_hh_l0'"):
        model(torch.zeros(5, 2, 3))


# ---- tensors without memory ------------------------------------------------------------------------------------------


def everything(device: str) -> list[torch.Size]:
    """Shapes of results and gradients through every door of the modules."""
    model, cell = (
        gru_xp_torch.GRU(I, 4, 2, bidirectional=True, device=device),
        gru_xp_torch.GRUCell(I, 4, device=device),
    )
    x, found = torch.randn(6, 2, I, device=device), []
    for given, options in (
        (x, {}),
        (x[:, 0], {}),
        (x, {"hx": torch.randn(4, 2, 4, device=device), "lengths": [6, 1]}),
        (x, {"lengths": torch.tensor([3, 0], device=device), "resets": torch.zeros(6, 2, device=device).bool()}),
    ):
        y, h_n = model(given, **options)
        (y.sum() + h_n.sum()).backward()
        with torch.no_grad():
            found += [y.shape, h_n.shape, model(given, **options)[0].shape]
    cell(x[0]).sum().backward()
    first = torch.autograd.grad(model(x)[0].sum(), model.weight_hh_l1, create_graph=True)
    torch.autograd.grad(first[0].sum(), model.weight_hh_l0)
    return [*found, *(p.grad.shape for module in (model, cell) for p in module.parameters())]


def test_fake_tensors() -> None:
    expected = everything("cpu")
    with FakeTensorMode():
        assert everything("cpu") == expected
    assert everything("meta") == expected
    packed = pack_sequence([torch.zeros(5, I, device="meta"), torch.zeros(3, I, device="meta")])
    y, h_n = gru_xp_torch.GRU(I, 4, device="meta")(packed)
    assert y.data.shape == (8, 4) and h_n.is_meta


def test_tensors_of_a_class_that_sees_operators() -> None:
    """Two tensors in one, each of them computed with."""
    model, x = pair()[1], randn(5, 2, I)
    both = TwoTensor(x, 2 * x).requires_grad_()
    y, h_n = model(both)
    (dx,) = torch.autograd.grad(loss_of(y, h_n), both)
    for part, given in (("a", x), ("b", 2 * x)):
        expected = gradients(model, given)[0]
        assert torch.equal(getattr(y, part), model(given)[0]) and torch.equal(getattr(dx, part), expected)
    with torch.no_grad():
        assert torch.equal(model(both)[0].b, model(2 * x)[0])


def test_default_dtype_and_device() -> None:
    model, x = gru_xp_torch.GRU(I, 4, 2), torch.randn(5, 2, I)
    packed = pack_sequence([x[:3, 0], x[:, 1]], enforce_sorted=False)
    calls: list[Callable[[], torch.Tensor]] = [
        lambda: model(x)[0],
        lambda: model(x, lengths=[5, 2], resets=[[False, True]] * 5)[0],
        lambda: model(packed)[0].data,
        lambda: model.step(x[0], model.initial_state(2), reset=[True, False])[0],
        lambda: torch.func.jvp(lambda x: model(x, lengths=[5, 2])[0], (x,), (x,))[1],
        lambda: torch.func.vmap(torch.func.grad(lambda x: model(x)[0].sum()), in_dims=1)(x),
        lambda: gradients(gru_xp_torch.GRU(I, 4, device="cpu", dtype=torch.float32), x)[0] * 0.0,
    ]
    expected = [call().detach() for call in calls]
    try:
        torch.set_default_dtype(torch.float64)
        assert gru_xp_torch.GRU(I, 4).weight_hh_l0.dtype == torch.float64
        for change in (lambda: None, lambda: torch.set_default_device("meta")):
            change()
            for call, wanted in zip(calls, expected, strict=True):
                assert call().dtype == torch.float32 and torch.equal(call(), wanted)
        assert gru_xp_torch.GRU(I, 4).weight_hh_l0.is_meta
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


# ---- tools that write down what they see -----------------------------------------------------------------------------


class Model(torch.nn.Module):
    """With both modules in it, as a user has them."""

    def __init__(self, gru: Any = gru_xp_torch.GRU, cell: Any = gru_xp_torch.GRUCell) -> None:
        super().__init__()
        self.gru, self.cell = gru(I, 4, 2, bidirectional=True), cell(8, 4)
        self.linear = torch.nn.Linear(4, 2)
        self.double()

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, h_n = self.gru(x, h)
        return self.linear(self.cell(y[0])), h_n


GIVEN = (randn(5, 2, I), randn(4, 2, 4))


def trained(model: Any, *, parameters: Any = None) -> list[torch.Tensor]:
    """A loss's gradients to the second order."""
    watched = list(parameters or model.parameters())
    first = torch.autograd.grad(loss_of(*model(*GIVEN)), watched, create_graph=True)
    return [*first, *torch.autograd.grad(sum((g**2).sum() for g in first), watched, allow_unused=True)]


def assert_trains(found: Any, model: Model) -> None:
    ours = dict(model.named_parameters())
    parameters = dict(found.named_parameters())
    assert parameters.keys() == ours.keys()
    assert apart(trained(found, parameters=[parameters[name] for name in ours]), trained(model)) < 1e-9


def test_symbolic_trace_takes_the_modules_as_leaves() -> None:
    model = Model()
    graph = torch.fx.symbolic_trace(model)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["gru", "cell", "linear"]
    assert_trains(graph, model)
    for module in (model.gru, model.cell):
        with pytest.raises(TypeError, match="input to be a tensor, got a Proxy"):
            torch.fx.symbolic_trace(module)

    class WithLengths(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = model.gru

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gru(x, lengths=[5, 2])[0]

    assert torch.equal(torch.fx.symbolic_trace(WithLengths())(GIVEN[0]), model.gru(GIVEN[0], lengths=[5, 2])[0])


def saved_and_loaded(scripted: Any) -> Any:
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_torch_jit() -> None:
    model = Model()
    traced = torch.jit.trace(model, GIVEN)
    assert "gru_xp::forward" in str(traced.inlined_graph)
    assert_trains(traced, model)
    assert_trains(saved_and_loaded(traced), model)
    for scripted in (model, model.cell):
        with pytest.raises(NotImplementedError, match=r"torch.jit.script does not take .* torch.nn.GRU"):
            torch.jit.script(scripted)
    assert type(model.gru) is gru_xp_torch.GRU


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_an_exported_program_trains_here_and_where_it_is_loaded(tmp_path: Path) -> None:
    model = Model()
    exported = torch.export.export(model, GIVEN)
    assert_trains(exported.module(), model)
    torch.export.save(exported, tmp_path / "exported.pt2")
    torch.jit.save(torch.jit.trace(model, GIVEN), tmp_path / "traced.pt")
    code = f"""
        import torch, gru_xp_torch.autograd
        given = (torch.ones(5, 2, 3, dtype=torch.float64), torch.ones(4, 2, 4, dtype=torch.float64))
        exported = torch.export.load({str(tmp_path / "exported.pt2")!r}).module()
        for program in (exported, torch.jit.load({str(tmp_path / "traced.pt")!r})):
            y, h_n = program(*given)
            (y.sum() + h_n.sum()).backward()
            print(y.tolist(), *(p.grad.sum().item() for _, p in sorted(program.named_parameters())))
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    y, h_n = model(torch.ones(5, 2, 3, dtype=torch.float64), torch.ones(4, 2, 4, dtype=torch.float64))
    (y.sum() + h_n.sum()).backward()
    wanted = f"{y.tolist()} {' '.join(str(p.grad.sum().item()) for _, p in sorted(model.named_parameters()))}\n"
    assert done.stdout == 2 * wanted, done.stderr


@pytest.mark.filterwarnings("ignore")  # after a warning of its own code PyTorch would try another way
def test_onnx_export_is_that_of_torch() -> None:
    onnx = pytest.importorskip("onnx")
    found = []
    for model in (Model(torch.nn.GRU, torch.nn.GRUCell), Model()):
        buffer = io.BytesIO()
        torch.onnx.export(model.eval(), GIVEN, buffer, dynamo=True, verbose=False)
        found.append([node.op_type for node in onnx.load_from_string(buffer.getvalue()).graph.node])
    assert found[0] == found[1] and found[0].count("GRU") == 2


def test_operators_pass_opcheck() -> None:
    """PyTorch's own checks of schema, fake implementation, autograd and compilation."""
    x, h0, valid = randn(5, 2, I), randn(1, 2, 4), torch.tensor([[1, 1], [1, 0], [0, 0], [0, 0], [0, 0]]).bool()
    weights = [a.detach().requires_grad_() for a in pair()[1].parameters()]
    for padding in (None, valid):
        options = (1, True, gru_xp.GRUSpec().text)
        torch.library.opcheck(operators.forward, (*options, x, h0, padding, padding, None, weights))
        y, h_n, *tape = operators.forward(*options, x, h0, padding, padding, None, [w.detach() for w in weights])
        given = (*options, x, y, h_n, padding, padding, None, [w.detach() for w in weights], tape)
        torch.library.opcheck(operators.backward, given)


# ---- compilers -------------------------------------------------------------------------------------------------------


def compiled(f: Any, **options: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(f, backend="aot_eager", **options)


def test_forward_mode_compiles() -> None:
    model, x = pair()[1], randn(5, 2, I)

    def tangent(x: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(lambda x: model(x, lengths=[5, 2])[0], (x,), (x,))[1]

    assert (compiled(tangent, fullgraph=True)(x) - tangent(x)).abs().max() < BOUND


def test_other_transforms_run_uncompiled_or_are_an_error_that_says_so() -> None:
    model, x = pair()[1], randn(5, 2, I)

    def gradient(x: torch.Tensor) -> torch.Tensor:
        return torch.func.grad(lambda x: model(x)[0].square().sum())(x)

    assert (compiled(gradient)(x) - gradient(x)).abs().max() < BOUND
    with pytest.raises(Exception, match="cannot compile grad, vjp and vmap"):
        compiled(gradient, fullgraph=True)(x)


def test_the_first_call_of_a_program_is_compiled_with_packed_sequences() -> None:
    code = """
        import torch, gru_xp_torch
        from torch.nn.utils.rnn import pack_sequence
        model = gru_xp_torch.GRU(3, 4, num_layers=2, dtype=torch.float64)
        packed = pack_sequence([torch.randn(n, 3).double() for n in (2, 5, 3)], enforce_sorted=False)
        y, h_n = torch.compile(model, backend="aot_eager")(packed)
        print(torch.allclose(y.data, model(packed)[0].data), torch.allclose(h_n, model(packed)[1]))
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "True True\n", done.stderr


def test_new_lengths_of_time_do_not_compile_again() -> None:
    model, count = gru_xp_torch.GRU(I, 4), 0

    def counting(graph: Any, example: Any) -> Any:
        nonlocal count
        count += 1
        return graph.forward

    torch._dynamo.reset()
    run = torch.compile(model, backend=counting, fullgraph=True, dynamic=True)
    for T, N in ((5, 2), (7, 2), (9, 3), (20, 4)):
        assert torch.allclose(run(torch.ones(T, N, I))[0], model(torch.ones(T, N, I))[0])
    assert count == 1


def test_autocast_is_compiled() -> None:
    model, x = gru_xp_torch.GRU(I, 4, 2), torch.randn(5, 2, I)

    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(torch.nn.functional.linear(x, torch.eye(I)))[0]

    y = compiled(run, fullgraph=True)(x)
    assert y.dtype == torch.bfloat16 and torch.equal(y, run(x))


# ---- other threads and processes -------------------------------------------------------------------------------------


def test_threads_share_a_model() -> None:
    model, xs, found = pair(32, num_layers=2)[1], [randn(40, 4, I) for _ in range(4)], {}

    def run(index: int) -> None:
        found[index] = [torch.autograd.grad(loss_of(*model(xs[index])), model.weight_hh_l0)[0] for _ in range(5)]

    threads = [Thread(target=run, args=(index,)) for index in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, x in enumerate(xs):
        expected = torch.autograd.grad(loss_of(*model(x)), model.weight_hh_l0)[0]
        assert all(torch.equal(g, expected) for g in found[index])


class Gradients(Dataset[torch.Tensor]):
    """Computed by whoever asks for them."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        torch.manual_seed(index)
        return torch.autograd.grad(loss_of(*self.model(randn(40, 2, I))), self.model.weight_hh_l0)[0]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*fork.*:RuntimeWarning")
@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("H", [4, 32])
def test_workers_of_a_data_loader_compute_gradients(H: int, start: str) -> None:
    model = pair(H)[1].share_memory()
    assert model.weight_hh_l0.is_shared()
    gradients(model, randn(100, 32, I))  # threads are there when the workers are forked
    data = Gradients(model)
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=start, timeout=100)
    assert all(torch.equal(found, data[index]) for index, found in enumerate(loader))


def test_data_parallel_without_devices() -> None:
    model = gru_xp_torch.GRU(I, 4, dtype=torch.float64)
    assert torch.equal(torch.nn.DataParallel(model)(GIVEN[0])[0], model(GIVEN[0])[0])


def test_half_precision_is_as_exact_as_torch() -> None:
    """Products and sums in float32, so that 16 bits cost less than they do torch.nn.GRU."""
    for dtype in (torch.float16, torch.bfloat16):
        theirs, ours = (m.to(dtype) for m in pair(16, num_layers=2, bidirectional=True))
        wide, x = copy.deepcopy(theirs).double(), torch.randn(30, 4, I).to(dtype)
        found = [gradients(m, x.to(m.weight_hh_l0.dtype)) for m in (theirs, ours, wide)]
        errors = [
            max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(each, found[2], strict=True))
            for each in found[:2]
        ]
        assert errors[1] <= errors[0]


def test_packed_sequences_in_and_out_stay_what_they_are() -> None:
    rows = [randn(n, I) for n in (2, 6, 1)]
    for sorted_ in (True, False):
        ordered = sorted(rows, key=len, reverse=True) if sorted_ else rows
        theirs, ours = (m(pack_sequence(ordered, enforce_sorted=sorted_))[0] for m in pair(num_layers=2))
        assert isinstance(ours, PackedSequence)
        for a, b in zip(theirs, ours, strict=True):
            assert (a is None) == (b is None) and (a is None or (a.shape == b.shape and torch.allclose(a, b)))
