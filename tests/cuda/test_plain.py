"""The plain path on a GPU, as far as it can be seen without one: PyTorch's meta tensors, which have no values.

What would make a GPU's host wait shows on them: to read a value is an error there, and a tensor that is made on the
host, or comes back to it, is on another device than the rest.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import gru_xp
import gru_xp_torch
from gru_xp import discovery
from gru_xp_torch import operators
from gru_xp_torch.flat import flat_params

N, I, H, L, D = 4, 3, 5, 2, 2
CUDNN = gru_xp.GRUSpec()
SPECS = (
    CUDNN,
    gru_xp.GRUSpec(reset_after=False, padding="hold"),
    gru_xp.GRUSpec(gate_activation="hard_sigmoid", candidate_activation="relu", clip=3.0),
)

#: what waits for the device, whatever it is given
WAITING = ("_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "bincount")


class Operations(TorchDispatchMode):
    """Counts what is called, and holds on what devices the tensors were."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.devices: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.count[name] += 1
        self.devices |= {str(a.device) for a in tree_leaves((args, kwargs, out)) if isinstance(a, torch.Tensor)}
        return out


def operations(
    function: str, T: int, dtype: torch.dtype, spec: gru_xp.GRUSpec = CUDNN, *, save: str = "all"
) -> Operations:
    """Two layers in two directions with lengths, resets and dropout, forward and backward."""
    place: Any = {"device": "meta", "dtype": dtype}

    def cell(K: int) -> gru_xp.CellParams:
        shapes = ((3 * H, K), (3 * H, H), (3 * H,), (3 * H,))
        return gru_xp.CellParams(*(torch.empty(*shape, **place) for shape in shapes))

    params = tuple(tuple(cell(I if layer == 0 else D * H) for _ in range(D)) for layer in range(L))
    x, h0 = torch.empty(T, N, I, **place), torch.empty(L * D, N, H, **place)
    options: Any = {
        "lengths": torch.empty(N, dtype=torch.int64, device="meta"),
        "resets": torch.empty(T, N, dtype=torch.bool, device="meta"),
        "dropout_masks": torch.empty(L - 1, T, N, D * H, **place),
        "spec": spec,
    }
    with Operations() as seen:
        if function == "inference":
            gru_xp.gru_inference(x, params, h0, **options)
        elif function == "forward":
            y, h_n, tape = gru_xp.gru_forward(x, params, h0, **options, save=save)
            gru_xp.gru_backward(tape, y, h_n)
        else:  # what autograd's two operators run; who looks on sees no more than the operators
            valid = torch.empty(T, N, dtype=torch.bool, device="meta")
            given = (valid, options["resets"], options["dropout_masks"], flat_params(params))
            y, h_n, *tape = operators.forward_now(D, True, spec.text, x, h0, *given)
            operators.backward_now(D, True, spec.text, x, y, h_n, *given, tape)
    return seen


CALLS = [("inference", "all"), ("forward", "all"), ("forward", "states"), ("autograd", "all")]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("function", "save"), CALLS)
def test_nothing_waits_for_the_device_and_nothing_is_made_on_the_host(
    function: str, save: str, dtype: torch.dtype, spec: gru_xp.GRUSpec
) -> None:
    seen = operations(function, 6, dtype, spec, save=save)
    assert seen.devices == {"meta"}
    assert not set(WAITING) & set(seen.count)
    assert seen.count["mm"] >= (1 if function == "inference" else 2) * 6 * L * D  # nothing was hidden


def test_what_is_looked_for_would_be_found() -> None:
    a = torch.empty(3, device="meta")
    with Operations() as seen:
        torch.zeros(3).add(1).to("meta").mul(a)
    assert seen.devices == {"cpu", "meta"}
    with Operations() as seen, pytest.raises(RuntimeError, match="meta"):
        bool((a > 0).any())
    with Operations() as seen, pytest.raises((RuntimeError, NotImplementedError)):
        a[a > 0]


@pytest.mark.parametrize("function", ["inference", "forward"])
def test_a_step_costs_no_conversion_and_one_product(function: str) -> None:
    """Per layer, direction and step; in 16 bits a step widens the state and rounds it again, and that is all."""
    steps, each = 3, L * D
    for dtype, conversions in ((torch.float32, 0), (torch.bfloat16, 2)):
        short, long = (operations(function, T, dtype) for T in (6, 6 + steps))
        more = long.count - short.count
        products = 2 if function == "forward" else 1  # one on the way back
        assert more["mm"] == products * each * steps
        assert more["_to_copy"] == conversions * each * steps
        assert not {"arange", "zeros", "full_like", "scalar_tensor", "ones_like"} & set(more)


def test_a_step_costs_as_many_operations_as_docs_cuda_says() -> None:
    """One after the other on a GPU; what only looks at the same memory in another way is none."""
    views = {"alias", "detach", "permute", "select", "slice", "t", "unbind", "unsqueeze", "view"}
    place: Any = {"device": "meta"}
    w = gru_xp.CellParams(*(torch.empty(*shape, **place) for shape in ((3 * H, I), (3 * H, H), (3 * H,), (3 * H,))))

    def counts(T: int) -> tuple[Counter[str], Counter[str]]:
        with Operations() as inference:
            gru_xp.gru_inference(torch.empty(T, N, I, **place), ((w,),))
        y, h_n, tape = gru_xp.gru_forward(torch.empty(T, N, I, **place), ((w,),))
        with Operations() as backward:
            gru_xp.gru_backward(tape, y, h_n)
        return inference.count, backward.count

    more = [long - short for short, long in zip(counts(6), counts(7), strict=True)]
    assert [sum(count for name, count in each.items() if name not in views) for each in more] == [14, 5]
    assert more[0]["mm"] == more[1]["mm"] == 1


def test_the_torch_modules_run_on_meta_too() -> None:
    model = gru_xp_torch.GRU(I, H, num_layers=2, dropout=0.5, device="meta")
    with Operations() as seen:
        y, h_n = model(torch.empty(6, N, I, device="meta"), lengths=torch.empty(N, dtype=torch.int64, device="meta"))
        (y.sum() + h_n.sum()).backward()
    assert y.shape == (6, N, H)
    assert seen.devices == {"meta"}


def test_host_lengths_go_to_a_gpu_without_waiting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By way of pinned memory; while a CUDA graph is captured, which would keep its address, by the way that fails."""
    made: list[Any] = []

    class Made:
        def to(self, device: Any, **options: Any) -> Made:
            made.append(("to", device, options))
            return self

    monkeypatch.setattr(torch, "tensor", lambda values, **options: made.append((values, options)) or Made())
    backend, device = discovery.load("torch"), torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    backend.from_host([1, 2], torch.int64, device)
    pinned = {"dtype": torch.int64, "pin_memory": True}
    assert made == [([1, 2], pinned), ("to", device, {"non_blocking": True})]
    made.clear()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    backend.from_host([1, 2], torch.int64, device)
    backend.from_host([1, 2], torch.int64, torch.device("cpu"))
    assert [options for _, options in made] == [
        {"dtype": torch.int64, "device": device},
        {"dtype": torch.int64, "device": torch.device("cpu")},
    ]


def test_what_comes_by_dlpack_is_asked_for_on_pytorchs_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Foreign:
        """An array on the second GPU of another library."""

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 1

        def __dlpack__(self, **options: Any) -> Any:
            asked.append(options["stream"])
            return torch.zeros(3).__dlpack__()

    class Stream:
        cuda_stream = 4711

    def current_stream(device: str) -> Stream:
        asked.append(device)
        return Stream()

    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    discovery.load("torch").from_dlpack(Foreign(), torch.device("cpu"))
    assert asked == ["cuda:1", 4711]
