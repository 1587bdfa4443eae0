"""The gradient of each sample by itself, in one pass: which samples does a model find hard?

Differential privacy clips these gradients; here they find the samples whose labels are wrong.

    python docs/examples/per_sample_gradient_norms.py
"""

import torch
from torch.func import functional_call, grad, vmap

import gru_xp_torch

T, N, WRONG = 20, 64, 6


class Classifier(torch.nn.Module):
    """Is the mean of a sequence positive?"""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.linear = gru_xp_torch.GRU(1, 16), torch.nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (T, N, 1) -> (N,), or (T, 1) -> a number."""
        return self.linear(self.gru(x)[1][0])[..., 0]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """x (T, N, 1), and the labels (N,)."""
    labels = torch.randint(2, (N,))
    return torch.randn(T, N, 1) + 2 * labels[:, None] - 1, labels.float()


torch.manual_seed(0)
model, loss_of = Classifier(), torch.nn.functional.binary_cross_entropy_with_logits


def loss(weights: dict[str, torch.Tensor], x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Of one sample, x (T, 1)."""
    return loss_of(functional_call(model, weights, x), label)


if __name__ == "__main__":
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        x, labels = batch()
        optimizer.zero_grad()
        loss_of(model(x), labels).backward()
        optimizer.step()

    x, labels = batch()
    labels[:WRONG] = 1 - labels[:WRONG]
    weights = {name: p.detach() for name, p in model.named_parameters()}
    gradients = vmap(grad(loss), (None, 1, 0))(weights, x, labels)  # each with N in front
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
    print(f"gradient norms, median: wrong labels {norms[:WRONG].median():.2f}, right ones {norms[WRONG:].median():.2f}")
    found = norms.argsort(descending=True)[:WRONG]
    print(f"of the {WRONG} largest, {int((found < WRONG).sum())} have wrong labels")

    one = grad(loss)(weights, x[:, 3], labels[3])
    apart = max(float((gradients[name][3] - g).abs().max()) for name, g in one.items())
    print(f"sample 3 by itself: differs by {apart:.0e}")
