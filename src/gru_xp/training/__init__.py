"""What a training loop needs around `gru_forward` and `gru_backward`, over the arrays of any library.

    weights  = {"gru": model.params, "W": W, "b": b}          any tree of dicts, lists and tuples
    state    = adam.init(weights)
    for rows in batches(lengths, 32, seed=0, epoch=epoch):
        x, lengths_of_rows = pad([sequences[i] for i in rows])
        ...                                                  forward, a masked loss and its gradient, backward
        gradients, norm = clip_by_norm(gradients, 1.0)
        weights, state = adam.update(weights, gradients, state)
    save(path, {"weights": weights, "state": state})          `load` goes on bit for bit

Nothing here is compiled or traced: with JAX use optax, with PyTorch's autograd torch.optim. `gru_xp` itself does not
import this package.
"""

from .batches import batches, pad, valid_steps
from .checkpoints import load, save
from .logs import log_step, read_log
from .losses import cross_entropy, squared_error
from .optimizers import SGD, Adam, clip_by_norm
from .trees import flatten, leaves, map_tree, names, unflatten

__all__ = [
    "SGD",
    "Adam",
    "batches",
    "clip_by_norm",
    "cross_entropy",
    "flatten",
    "leaves",
    "load",
    "log_step",
    "map_tree",
    "names",
    "pad",
    "read_log",
    "save",
    "squared_error",
    "unflatten",
    "valid_steps",
]
