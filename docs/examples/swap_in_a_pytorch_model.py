"""A PyTorch model changes one import: the same losses, in less time, and each loads what the other has learned.

python docs/examples/swap_in_a_pytorch_model.py
"""

import builtins
import time

import torch

import gru_xp_torch

T, N, STEPS = 100, 4, 20


class LanguageModel(torch.nn.Module):
    """The next character."""

    def __init__(self, characters: int, gru: type = torch.nn.GRU):
        super().__init__()
        self.embedding = torch.nn.Embedding(characters, 32)
        self.gru = gru(32, 128)  # the only line that changes
        self.linear = torch.nn.Linear(128, characters)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """text (T, N) -> (T, N, characters)."""
        return self.linear(self.gru(self.embedding(text))[0])


def train(gru: type, text: torch.Tensor) -> tuple[LanguageModel, list[float], float]:
    """The model, the loss of each step, and the seconds from the second step on."""
    torch.manual_seed(0)
    model = LanguageModel(int(text.max()) + 1, gru)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses, start = [], 0.0
    for step in range(STEPS):
        starts = torch.randint(len(text) - T, (N,))
        batch = torch.stack([text[first : first + T + 1] for first in starts], dim=1)
        loss = torch.nn.functional.cross_entropy(model(batch[:-1]).flatten(0, 1), batch[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step == 0:
            start = time.perf_counter()
    return model, losses, time.perf_counter() - start


if __name__ == "__main__":
    words = "\n".join(str(getattr(builtins, name).__doc__) for name in sorted(dir(builtins)))
    characters = sorted(set(words))
    text = torch.tensor([characters.index(character) for character in words])

    theirs, expected, seconds = train(torch.nn.GRU, text)
    ours, losses, ours_seconds = train(gru_xp_torch.GRU, text)
    apart = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
    print(f"loss from {losses[0]:.3f} to {losses[-1]:.3f}, at most {apart:.0e} from that of torch.nn.GRU")
    print(f"torch.nn.GRU {seconds:.2f} s, gru_xp_torch.GRU {ours_seconds:.2f} s")

    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        difference = (theirs(text[:T, None]) - ours(text[:T, None])).abs().max()
    print(f"torch.nn.GRU with what gru_xp_torch.GRU has learned: differs by {difference:.0e}")
