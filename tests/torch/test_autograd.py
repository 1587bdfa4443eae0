"""`gru` on tensors under every transform of PyTorch, against a loop over rows and steps; values, zeros included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import gru_xp
from gru_xp import errors

# torch's own code, on its way from one of its versions to the next
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.*jit.script.*:DeprecationWarning")

T, N, I, H, L, D = 4, 3, 2, 3, 2, 2
LENGTHS, BOUND = [4, 0, 2], 1e-12
torch.manual_seed(0)
X, H0 = torch.randn(T, N, I).double(), torch.randn(L * D, N, H).double()
RESETS = torch.rand(T, N) < 0.3
SHAPES = [
    s for layer in range(L) for _ in range(D) for s in ((3 * H, (I, D * H)[layer]), (3 * H, H), (3 * H,), (3 * H,))
]
WEIGHTS = [0.5 * torch.randn(*shape).double() for shape in SHAPES]
ARGS = (X, H0, *WEIGHTS)
ALL = tuple(range(len(ARGS)))
TANGENTS = tuple(torch.randn_like(a) for a in ARGS)


def ours(x: Any, h0: Any, *weights: Any) -> tuple[Any, Any]:
    cells = [gru_xp.CellParams(*weights[at : at + 4]) for at in range(0, len(weights), 4)]
    params = tuple(tuple(cells[layer * D : layer * D + D]) for layer in range(L))
    return gru_xp.gru(x, params, h0, lengths=LENGTHS, resets=RESETS)


def loop(x: Any, h0: Any, *weights: Any) -> tuple[Any, Any]:
    """Row by row and step by step: nothing of padding or resets but Python's `if`."""
    last = []
    for layer in range(L):
        outs = []
        for d in range(D):
            W_ih, W_hh, b_ih, b_hh = weights[4 * (layer * D + d) :][:4]
            rows, states = [], []
            for row in range(N):
                h, y = h0[layer * D + d, row], [torch.zeros_like(h0[0, 0])] * T
                steps = range(LENGTHS[row])
                for t in reversed(steps) if d else steps:
                    boundary = (t + 1 < LENGTHS[row] and RESETS[t + 1, row]) if d else RESETS[t, row]
                    h = torch.zeros_like(h) if boundary else h
                    i_r, i_z, i_n = (W_ih @ x[t, row] + b_ih).chunk(3)
                    h_r, h_z, h_n = (W_hh @ h + b_hh).chunk(3)
                    z = torch.sigmoid(i_z + h_z)
                    h = (1 - z) * torch.tanh(i_n + torch.sigmoid(i_r + h_r) * h_n) + z * h
                    y[t] = h
                rows.append(torch.stack(y))
                states.append(h)
            outs.append(torch.stack(rows, 1))
            last.append(torch.stack(states))
        x = torch.cat(outs, -1)
    return x, torch.stack(last)


def loss_of(f: Any) -> Any:
    def loss(*args: Any) -> Any:
        y, h_n = f(*args)
        return (y**2).sum() + h_n.sin().sum()

    return loss


def batch(*factors: float) -> tuple[Any, ...]:
    return tuple(torch.stack([factor * a for factor in factors]) for a in ARGS)


def with_x_alone(f: Any) -> Any:
    return lambda x: f(x, *ARGS[1:])


def leaves() -> tuple[Any, ...]:
    return tuple(a.clone().requires_grad_() for a in ARGS)


def higher_orders(f: Any) -> Any:
    """Gradient, Hessian-vector product and the third order, by autograd alone."""
    args = leaves()
    first = torch.autograd.grad(loss_of(f)(*args), args, create_graph=True)
    second = torch.autograd.grad(
        sum((g * v).sum() for g, v in zip(first, TANGENTS, strict=True)), args, create_graph=True
    )
    return first, second, torch.autograd.grad(sum((g * v).sum() for g, v in zip(second, TANGENTS, strict=True)), args)


def forward_mode_of_backward(f: Any) -> Any:
    """The dual numbers come only after the forward pass."""
    x = X.clone().requires_grad_()
    y, _ = f(x, *ARGS[1:])
    with forward_ad.dual_level():
        (dx,) = torch.autograd.grad(y, x, forward_ad.make_dual(torch.ones_like(y), y.detach()))
        return forward_ad.unpack_dual(dx)


def forward_mode(f: Any) -> Any:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(X, TANGENTS[0]), *ARGS[1:])[0])


def with_hook(f: Any) -> Any:
    args, seen = leaves(), []
    y, _ = f(*args)
    y.register_hook(seen.append)
    y.register_hook(lambda dy: 2 * dy)
    y.sin().sum().backward()
    return [*seen, *(a.grad for a in args)]


TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "grad": lambda f: grad(loss_of(f), ALL)(*ARGS),
    "vjp": lambda f: vjp(f, *ARGS)[1]((torch.ones(T, N, D * H).double(), H0)),
    "jvp": lambda f: jvp(f, ARGS, TANGENTS),
    "vmap over x": lambda f: vmap(with_x_alone(f))(batch(1.0, -2.0, 0.5)[0]),
    "vmap over everything, on other axes": lambda f: vmap(f, in_dims=1, out_dims=1)(
        *(a.movedim(0, 1) for a in batch(1.0, 0.9))
    ),
    "vmap of vmap": lambda f: vmap(vmap(with_x_alone(f)))(torch.stack([batch(1.0, 2.0)[0], batch(0.5, -1.0)[0]])),
    "per-sample gradients": lambda f: vmap(grad(loss_of(f), ALL), (0, *[None] * (len(ARGS) - 1)))(
        batch(1.0, -2.0)[0], *ARGS[1:]
    ),
    "gradients of an ensemble": lambda f: vmap(grad(loss_of(f), ALL))(*batch(1.0, 0.9)),
    "grad of vmap": lambda f: grad(lambda *args: vmap(loss_of(f))(*args).sum(), ALL)(*batch(1.0, 0.9)),
    "vmap of jvp": lambda f: vmap(lambda x: jvp(with_x_alone(f), (x,), TANGENTS[:1]))(batch(1.0, 2.0)[0]),
    "jacrev": lambda f: jacrev(f, (0, 1, 3))(*ARGS),
    "jacfwd": lambda f: jacfwd(f, (0, 1, 3))(*ARGS),
    "hessian": lambda f: hessian(loss_of(f), (0, 1, 4))(*ARGS),
    "jacrev of jacrev": lambda f: jacrev(jacrev(with_x_alone(loss_of(f))))(X),
    "jacrev of jacfwd": lambda f: jacrev(jacfwd(with_x_alone(loss_of(f))))(X),
    "three times grad": lambda f: grad(
        lambda x: grad(lambda x: grad(with_x_alone(loss_of(f)))(x).sin().sum())(x).cos().sum()
    )(X),
    "vmap of grad of grad": lambda f: vmap(grad(lambda x: grad(with_x_alone(loss_of(f)))(x).sin().sum()))(
        batch(1, 2)[0]
    ),
    "autograd to the third order": higher_orders,
    "forward mode": forward_mode,
    "forward mode of backward": forward_mode_of_backward,
    "functional.jacobian": lambda f: torch.autograd.functional.jacobian(with_x_alone(lambda *a: f(*a)[0]), X),
    "functional.hessian": lambda f: torch.autograd.functional.hessian(with_x_alone(loss_of(f)), X),
    "checkpoint": lambda f: (
        lambda args: torch.autograd.grad(checkpoint(loss_of(f), *args, use_reentrant=False), args)
    )(leaves()),
    "hooks": with_hook,
}


def test_vmap_over_lengths_and_resets_alone() -> None:
    """No tensor that is differentiated is one of the transform's."""
    w = ((gru_xp.CellParams(*WEIGHTS[:4]),),)
    lengths, resets = torch.tensor([LENGTHS, [1, 4, 0]]), torch.stack([RESETS, ~RESETS])

    def run(lengths: Any, resets: Any) -> Any:
        return gru_xp.gru(X, w, lengths=lengths, resets=resets)[0]

    for b, y in enumerate(vmap(run)(lengths, resets)):
        assert (y - run(lengths[b], resets[b])).abs().max() <= BOUND
    assert (vmap(run, (0, None))(lengths, RESETS)[1] - run(lengths[1], RESETS)).abs().max() <= BOUND
    with pytest.raises(errors.RangeError, match="at least one problem"):
        vmap(run)(lengths[:0], resets[:0])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_function_transforms_agree_with_a_loop(name: str) -> None:
    got, expected = (tree_leaves(TRANSFORMS[name](f)) for f in (ours, loop))
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= BOUND * max(1.0, b.abs().max())
    assert max(b.abs().max() for b in expected) > 0.01


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize(("bias", "masked"), [(True, False), (False, True)])
def test_gradcheck(reset_after: bool, bias: bool, masked: bool) -> None:
    spec, masks = gru_xp.GRUSpec(reset_after), (torch.rand(L - 1, T, N, D * H) < 0.5).double() * 2 if masked else None

    def run(x: Any, h0: Any, *weights: Any) -> tuple[Any, Any]:
        each = 4 if bias else 2
        cells = [gru_xp.CellParams(*weights[at : at + each]) for at in range(0, len(weights), each)]
        params = tuple(tuple(cells[layer * D : layer * D + D]) for layer in range(L))
        return gru_xp.gru(x, params, h0, lengths=LENGTHS, resets=RESETS, spec=spec, dropout_masks=masks)

    args = (X, H0, *(a for at, a in enumerate(WEIGHTS) if bias or at % 4 < 2))
    args = tuple(a.clone().requires_grad_() for a in args)
    assert torch.autograd.gradcheck(run, args, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, args, fast_mode=True)


def test_gradcheck_entry_by_entry() -> None:
    args = tuple(a.requires_grad_() for a in (torch.randn(3, 2, 1).double(), *(torch.randn(s).double() for s in SIZES)))

    def run(x: Any, h0: Any, *weights: Any) -> tuple[Any, Any]:
        params = ((gru_xp.CellParams(*weights[:4]), gru_xp.CellParams(*weights[4:])),)
        return gru_xp.gru(x, params, h0, lengths=[3, 1], resets=torch.tensor([[0, 0], [1, 0], [0, 0]]).bool())

    assert torch.autograd.gradcheck(run, args)
    assert torch.autograd.gradgradcheck(run, args)


SIZES = [(2, 2, 2), *([(6, 1), (6, 2), (6,), (6,)] * 2)]


def test_gradients_of_gru_cell() -> None:
    x, h = X[0].clone().requires_grad_(), H0[0].clone().requires_grad_()
    w = gru_xp.CellParams(*(a.clone().requires_grad_() for a in WEIGHTS[:4]))

    def step(x: Any, h: Any, *w: Any) -> Any:
        return gru_xp.gru_cell(x, h, gru_xp.CellParams(*w))

    assert torch.autograd.gradcheck(step, (x, h, *w))
    assert torch.autograd.gradgradcheck(step, (x, h, *w))
    one = vmap(step, (0, 0, None, None, None, None))(x, h, *w)
    assert (one - step(x, h, *w)).abs().max() < BOUND


@pytest.mark.parametrize("kernels", ["off", "require"])
def test_the_kernels_run_inside(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_XP_KERNELS", kernels)
    args = leaves()
    got = torch.autograd.grad(loss_of(ours)(*args), args)
    for a, b in zip(got, torch.autograd.grad(loss_of(loop)(*args), args), strict=True):
        assert (a - b).abs().max() < 1e-11
    w = gru_xp.CellParams(*args[2:6])
    explained = gru_xp.explain(args[0], ((w,),), function="gru")
    assert (explained.level is None) == (kernels == "off")


def test_dropout_masks_have_gradients() -> None:
    mask = torch.rand(1, T, N, H).double().requires_grad_()
    first = gru_xp.CellParams(*WEIGHTS[:4])
    params = ((first,), (first._replace(W_ih=WEIGHTS[1]),))
    assert torch.autograd.gradcheck(lambda mask: gru_xp.gru(X, params, dropout_masks=mask)[0], mask)


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compile_without_a_graph_break(compiler: str) -> None:
    torch._dynamo.reset()
    args = leaves()
    ours(*args)  # a program's first call of all looks for backends, which cannot be compiled
    compiled = torch.compile(loss_of(ours), fullgraph=True, backend=compiler)
    got = torch.autograd.grad(compiled(*args), args)
    for a, b in zip(got, torch.autograd.grad(loss_of(loop)(*args), args), strict=True):
        assert (a - b).abs().max() < 1e-11
    with torch.no_grad():
        assert (compiled(*args) - loss_of(loop)(*args)).abs() < 1e-11


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(WEIGHTS[:4])

    def forward(self, x: Any, lengths: Any = None) -> Any:
        return gru_xp.gru(x, ((gru_xp.CellParams(*self.weights),),), lengths=lengths)[0]


def test_export_with_any_length_and_batch() -> None:
    model, lengths = Model(), torch.tensor([4, 1, 2])
    sizes = {0: torch.export.Dim("T", min=2), 1: torch.export.Dim("N", min=2)}
    exported = torch.export.export(model, (X, lengths), dynamic_shapes=(sizes, {0: sizes[1]}))
    for x, n in ((X, lengths), (torch.randn(9, 2, I).double(), torch.tensor([9, 5]))):
        assert torch.equal(exported.module()(x, n), model(x, n))
    assert "gru_xp.forward" in str(exported.graph)


def test_functional_call() -> None:
    model = Model()
    other = {name: 2 * weight.detach() for name, weight in model.named_parameters()}
    dw = grad(lambda w: functional_call(model, w, X).sum())(other)
    (expected,) = torch.autograd.grad(_in_place(model, other)(X).sum(), model.weights[0])
    assert (dw["weights.0"] - expected).abs().max() < BOUND


def _in_place(model: Model, values: dict[str, Any]) -> Model:
    model.load_state_dict(values)
    return model


def test_nothing_is_recorded_without_a_gradient() -> None:
    args = leaves()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            y, h_n = ours(*args)
            assert not y.requires_grad and not h_n.requires_grad
    assert ours(*args)[0].requires_grad and not ours(*ARGS)[0].requires_grad


def test_autocast_leaves_dtypes_alone() -> None:
    args = tuple(a.float().requires_grad_() for a in ARGS)
    expected = torch.autograd.grad(loss_of(ours)(*args), args)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(ours)(*args)
    assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(loss, args), expected, strict=True))


def test_bfloat16_gradients_are_near_those_in_float64() -> None:
    args = tuple(a.bfloat16().requires_grad_() for a in ARGS)
    got = torch.autograd.grad(loss_of(ours)(*args), args)
    wide = tuple(a.detach().double().requires_grad_() for a in args)
    for a, b in zip(got, torch.autograd.grad(loss_of(loop)(*wide), wide), strict=True):
        assert a.dtype == torch.bfloat16 and (a - b).abs().max() < 0.05 * max(1.0, b.abs().max())


def test_empty_inputs_have_gradients() -> None:
    w = gru_xp.CellParams(*leaves()[2:6])
    for shape in ((0, N, I), (T, 0, I)):
        x = torch.zeros(shape).double().requires_grad_()
        y, h_n = gru_xp.gru(x, ((w,),))
        (y.sum() + h_n.sum()).backward()
        assert x.grad.shape == x.shape


def test_what_pytorch_does_not_offer_is_an_error() -> None:
    """Batched gradients of the older kind: `torch.func` has those that work."""
    x = X.clone().requires_grad_()
    y, _ = ours(x, *ARGS[1:])
    with pytest.raises(errors.NotDifferentiableError, match=r"torch\.func"):
        torch.autograd.grad(y, x, torch.stack([y, y]).detach(), is_grads_batched=True)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("steps", [1, 60])
def test_recorded_programs_hold_the_operators(steps: int) -> None:
    """None of the ways around PyTorch's dispatcher is taken while somebody records what passes there."""
    model, x = Model(), torch.randn(steps, N, I).double()
    traced = make_fx(model)(x)
    assert "gru_xp.forward" in str(traced.graph)
    assert torch.equal(traced(2 * x), model(2 * x))
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            assert torch.equal(torch.jit.trace(model, (x,))(2 * x), model(2 * x))
    for f in (traced, torch.jit.trace(model, (x,))):  # and can be differentiated all the same
        got, expected = (torch.autograd.grad(g(x).square().sum(), model.weights[1])[0] for g in (f, model))
        assert torch.equal(got, expected)
