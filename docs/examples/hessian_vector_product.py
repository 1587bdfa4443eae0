"""How sharp is the minimum? The largest eigenvalue of a loss's Hessian, by products of the Hessian with vectors.

No Hessian is formed: `jvp` of `grad` costs a few gradients, however many weights there are.

    python docs/examples/hessian_vector_product.py
"""

import torch
from torch.func import functional_call, grad, jvp

import gru_xp_torch

torch.manual_seed(0)
model = gru_xp_torch.GRU(4, 16, dtype=torch.float64)
weights = {name: p.detach() for name, p in model.named_parameters()}
x, target = torch.randn(12, 8, 4).double(), torch.randn(12, 8, 16).double()


def loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean squared error of what the model puts out."""
    return ((functional_call(model, weights, x)[0] - target) ** 2).mean()


def hessian_times(v: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The derivative of the gradient in the direction v."""
    return jvp(grad(loss), (weights,), (v,))[1]


def inner(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> torch.Tensor:
    """The inner product over all weights."""
    return sum((a[name] * b[name]).sum() for name in a)


if __name__ == "__main__":
    v = {name: torch.randn_like(w) for name, w in weights.items()}
    for _ in range(30):  # power iteration
        length = inner(v, v).sqrt()
        v = {name: a / length for name, a in v.items()}
        product = hessian_times(v)
        eigenvalue = inner(v, product)
        v, before = product, v
    print(f"the eigenvalue of largest size of a Hessian with {sum(w.numel() for w in weights.values())} rows:", end=" ")
    print(f"{eigenvalue:.5f}")

    step = 1e-4  # the same product by a difference of gradients
    ahead, behind = (grad(loss)({n: w + sign * step * before[n] for n, w in weights.items()}) for sign in (1, -1))
    difference = {n: (ahead[n] - behind[n]) / (2 * step) - product[n] for n in weights}
    print(f"relative distance to finite differences: {(inner(difference, difference) / inner(v, v)).sqrt():.0e}")
