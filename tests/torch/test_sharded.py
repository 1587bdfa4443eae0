"""Modules whose weights PyTorch keeps in pieces (FSDP2), and tensors that stay free to be resized."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import gru_xp_torch
from gru_xp.errors import StructureError

PROGRAM = """
import sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
import gru_xp_torch

rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
for T, N, I, H, layers, both in ((5, 4, 3, 4, 1, False), (6, 4, 3, 8, 2, True), (80, 40, 16, 64, 1, False)):
    torch.manual_seed(0)
    alone = gru_xp_torch.GRU(I, H, num_layers=layers, bidirectional=both)
    torch.manual_seed(0)
    sharded = gru_xp_torch.GRU(I, H, num_layers=layers, bidirectional=both)
    fully_shard(sharded, mesh=mesh)
    whole = torch.optim.SGD(alone.parameters(), lr=0.5), torch.optim.SGD(sharded.parameters(), lr=0.5)
    for step in range(3):
        x = torch.randn(T, N, I, generator=torch.Generator().manual_seed(step))
        alone(x)[0].square().mean().backward()
        half = slice(rank * N // 2, (rank + 1) * N // 2)
        sharded(x[:, half])[0].square().mean().backward()
        for (name, a), b in zip(alone.named_parameters(), sharded.parameters(), strict=True):
            torch.testing.assert_close(b.grad.full_tensor(), a.grad, msg=lambda m: f"{step} {name}: {m}")
            torch.testing.assert_close(b.full_tensor(), a)
        for optimizer in whole:
            optimizer.step()
            optimizer.zero_grad()
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_with_pieces_of_the_weights_train_as_one(tmp_path: Path) -> None:
    """FSDP frees the whole weights between forward and backward."""
    command = [sys.executable, "-c", PROGRAM]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)[-4000:]


def test_the_backend_is_imported_without_pytorchs_compiler() -> None:
    """Which takes as long to import as PyTorch itself."""
    program = "import sys, gru_xp_torch; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(("T", "N"), [(4, 2), (200, 64)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_tensors_can_be_resized_after_a_call(T: int, N: int, bidirectional: bool) -> None:
    model = gru_xp_torch.GRU(3, 32, bidirectional=bidirectional)
    x = torch.randn(T, N, 3)
    y, h_n = model(x)
    y.square().mean().backward()
    tensors = [x, y.detach(), h_n.detach(), *(p.detach() for p in model.parameters())]
    with torch.no_grad():
        tensors += model(x)
    for tensor in tensors:
        assert tensor.untyped_storage().resizable()
        tensor.untyped_storage().resize_(2 * tensor.untyped_storage().nbytes())


@pytest.mark.parametrize("left", [0, 8])
def test_weights_whose_storage_was_freed_are_refused(left: int) -> None:
    """Between forward and backward too, where what was saved has lost its bytes."""

    def free(tensor: Any) -> None:
        tensor.untyped_storage().resize_(left)

    model, x = gru_xp_torch.GRU(3, 4), torch.randn(5, 2, 3)
    y, _ = model(x)
    free(model.weight_hh_l0)
    for call in (lambda: y.sum().backward(), lambda: model(x)):
        with pytest.raises(StructureError, match="expected its numbers in its storage"):
            call()


def test_weights_may_move_between_forward_and_backward() -> None:
    """As FSDP frees them and gathers them again."""
    model, x = gru_xp_torch.GRU(3, 4), torch.randn(5, 2, 3)
    model(x)[0].square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    y, _ = model(x)
    kept = [(p, p.detach().clone()) for p in model.parameters()]
    for p, _ in kept:
        p.untyped_storage().resize_(0)
    taken = [torch.full((1000,), 7.0) for _ in range(50)]  # what lay there is overwritten
    for p, numbers in kept:
        p.untyped_storage().resize_(numbers.untyped_storage().nbytes())
        with torch.no_grad(), torch.autograd._unsafe_preserve_version_counter(p):
            p.copy_(numbers)
    y.square().sum().backward()
    for p, grad in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad)
    assert len(taken) == 50


def test_views_and_lazily_negated_tensors() -> None:
    """Strides, offsets and PyTorch's negation bit: the numbers that PyTorch shows."""
    from gru_xp_torch.memory import seen

    t = torch.arange(24.0).reshape(2, 3, 4)
    views = (t.transpose(0, 2), t[:, 1:, ::2], t[1], t.expand(5, 2, 3, 4), torch._neg_view(t), t[:0], t[0, 0, 0])
    for view in views:
        torch.testing.assert_close(torch.from_numpy(seen(view).copy()), view.clone())
    assert t.untyped_storage().resizable()


@pytest.mark.parametrize("spoiled", ["x", "h0", "weights", "tape", "spec", "D", "dtype", "valid"])
def test_the_operators_of_a_saved_program_check_what_they_are_given(spoiled: str) -> None:
    """`torch.export` writes them into files, which anybody can change; native code would read beyond the tensors."""
    import gru_xp

    T, N, I, H = 4, 8, 6, 600
    given: dict[str, Any] = {
        "D": 1,
        "bias": True,
        "spec": gru_xp.GRUSpec().text,
        "x": torch.zeros(T, N, I),
        "h0": torch.zeros(1, N, H),
        "valid": None,
        "resets": None,
        "masks": None,
        "weights": [torch.ones(3 * H, I), torch.ones(3 * H, H), torch.ones(3 * H), torch.ones(3 * H)],
    }
    backward = {"dy": torch.ones(T, N, H), "dh_n": torch.ones(1, N, H), "tape": [torch.zeros(T, N, H)] * 5}
    assert torch.ops.gru_xp.forward(*given.values())[0].shape == (T, N, H)
    changes: dict[str, Any] = {
        "x": torch.zeros(T, N, 1),
        "h0": torch.zeros(1, 1, H),
        "weights": [torch.ones(3, 1), torch.ones(3, H), torch.ones(3), torch.ones(3)],
        "spec": "nonsense",
        "D": 0,
        "valid": torch.ones(1, 1, dtype=torch.bool),
    }
    if spoiled in changes:
        given[spoiled] = changes[spoiled]
    if spoiled == "dtype":
        given["x"] = given["x"].double()
    if spoiled == "tape":
        backward["tape"] = [torch.zeros(1)] * 5
    else:
        with pytest.raises(gru_xp.GRUError):
            torch.ops.gru_xp.forward(*given.values())
    given.pop("h0")
    arrays = (*list(given.values())[:4], backward["dy"], backward["dh_n"], *list(given.values())[4:], backward["tape"])
    if spoiled == "h0":
        arrays = (*arrays[:5], torch.ones(1, 1, H), *arrays[6:])
    with pytest.raises(gru_xp.GRUError):
        torch.ops.gru_xp.backward(*arrays)
