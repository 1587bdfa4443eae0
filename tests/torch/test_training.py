"""Training: a language model over real text, step for step as with torch.nn.GRU; several processes."""

from __future__ import annotations

import builtins
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import gru_xp_torch

STEPS, CHUNK, N = 200, 24, 8


class LanguageModel(torch.nn.Module):
    """Embedding, GRU, linear: the next character."""

    def __init__(self, gru: Any, characters: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(characters, 16)
        self.gru = gru(16, 32, num_layers=2, dropout=0.1)
        self.linear = torch.nn.Linear(32, characters)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.linear(self.gru(self.embedding(text))[0])


def losses(gru: Any, text: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    torch.manual_seed(0)
    model = LanguageModel(gru, int(text.max()) + 1).to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    found = []
    for _ in range(STEPS):
        starts = torch.randint(len(text) - CHUNK, (N,))
        batch = torch.stack([text[start : start + CHUNK + 1] for start in starts], dim=1)
        loss = torch.nn.functional.cross_entropy(model(batch[:-1]).flatten(0, 1), batch[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return torch.stack(found)


def python_documentation() -> torch.Tensor:
    """The documentation of Python's own types and functions, as small numbers."""
    text = "\n".join(str(getattr(builtins, name).__doc__) for name in sorted(dir(builtins)) if name[0].isalpha())
    characters = sorted(set(text))
    assert len(text) > 20_000
    return torch.tensor([characters.index(character) for character in text])


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """For products as small as these, several are slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 2e-3)])
def test_the_loss_curve_is_that_of_torch(dtype: torch.dtype, bound: float) -> None:
    text = python_documentation()
    theirs, ours = losses(torch.nn.GRU, text, dtype), losses(gru_xp_torch.GRU, text, dtype)
    assert (theirs - ours).abs().max() < bound
    assert ours[-20:].mean() < 0.8 * ours[:5].mean()


def test_several_processes_have_the_gradients_of_one() -> None:
    """DistributedDataParallel over gloo: each process has half of the batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = """
        import sys, torch, gru_xp_torch
        from torch.nn.parallel import DistributedDataParallel
        rank = int(sys.argv[1])
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
        torch.manual_seed(rank)  # the weights are those of the first process
        model = gru_xp_torch.GRU(3, 4, 2, bidirectional=True, dtype=torch.float64)
        parallel = DistributedDataParallel(model)
        torch.manual_seed(7)
        x = torch.randn(5, 6, 3, dtype=torch.float64)
        for _ in range(2):
            model.zero_grad()
            parallel(x[:, 3 * rank : 3 * rank + 3])[0].square().mean().backward()
        averaged = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        model(x)[0].square().mean().backward()
        print(max(float((a - p.grad).abs().max()) for a, p in zip(averaged, model.parameters())) < 1e-14)
        torch.distributed.destroy_process_group()
    """
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    processes = [
        subprocess.Popen(
            [*command, str(rank)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert out == "True\n", err
