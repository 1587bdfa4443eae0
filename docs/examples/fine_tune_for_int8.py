"""A trained GRU learns to do without float32 weights: what rounding them to int8 costs, before and after.

Handwritten digits are read row by row. The GRU is trained in float32; then its weights are moved, rounded as they will
be stored, until what it puts out is nearer to what it put out in float32.

python docs/examples/fine_tune_for_int8.py
"""

import torch
from sklearn.datasets import load_digits

import gru_xp

H, BATCH = 48, 64


def named_right(y: torch.Tensor, read: torch.nn.Linear, labels: torch.Tensor) -> float:
    """The fraction of scans whose digit the last state names."""
    return (read(y[-1]).argmax(1) == labels).float().mean().item()


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)  # products as small as these gain nothing from more
    images, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(images))
    x = (torch.tensor(images, dtype=torch.float32).view(-1, 8, 8) / 8 - 1)[order].movedim(0, 1)  # (T, N, I)
    labels = torch.tensor(digits)[order]
    held_out, held_out_labels, x, labels = x[:, :450], labels[:450], x[:, 450:], labels[450:]

    params = gru_xp.map_params(lambda a: torch.tensor(a, requires_grad=True), gru_xp.GRU(8, H, seed=0).params)
    read = torch.nn.Linear(H, 10)
    optimizer = torch.optim.Adam([*gru_xp.weights(params), *read.parameters()], lr=5e-3)
    for _ in range(400):
        rows = torch.randint(len(labels), (BATCH,))
        y, _ = gru_xp.gru(x[:, rows], params)
        loss = torch.nn.functional.cross_entropy(read(y[-1]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    trained = gru_xp.map_params(lambda a: a.detach().clone(), params)
    expected, held_out_expected = (gru_xp.gru_inference(each, trained)[0] for each in (x, held_out))
    print(f"float32: {named_right(held_out_expected, read, held_out_labels):.3f} named right")

    def report(when: str) -> None:
        """How far the quantised model is from float32 on scans that nothing was learned from."""
        y, _ = gru_xp.gru_inference(held_out, gru_xp.quantize(params))
        apart = (y - held_out_expected).abs().mean()
        print(f"int8 {when}: {named_right(y, read, held_out_labels):.3f} named right, y differs by {apart:.5f}")

    report("before")
    steps = 200
    optimizer = torch.optim.Adam(gru_xp.weights(params), lr=3e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        rows = torch.randint(len(labels), (BATCH,))
        y, _ = gru_xp.gru(x[:, rows], gru_xp.fake_quantize(params, "int8"))
        loss = (y - expected[:, rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    report("after")
