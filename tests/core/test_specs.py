"""Every spec: gradients against differences, backends and paths against one another, refusals, errors, files."""

from __future__ import annotations

import copy
import itertools
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import LIBRARIES, assert_close, random_problem, run_everything, to_library, to_numpy
from libraries import jax, torch

import gru_xp
from gru_xp import Activation, CellParams, GRUSpec, errors

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.*jit.script.*:DeprecationWarning")
TANHS = {name: Activation(name) for name in ("hard_sigmoid", "elu", "softsign", "softplus", "swish", "selu", "affine")}
SPECS = {
    "hard gates": GRUSpec(gate_activation=Activation.keras("hard_sigmoid")),
    "hard gates, before": GRUSpec(False, "HardSigmoid", "Elu"),
    "clipped": GRUSpec(clip=0.8),
    "clipped, before": GRUSpec(False, "softsign", "swish", clip=0.9),
    "held": GRUSpec(padding="hold"),
    "held, before": GRUSpec(False, padding="hold"),
    "held, other activations": GRUSpec(True, "HardSigmoid", Activation("scaled_tanh", 1.2, 0.7), padding="hold"),
    "reversed": GRUSpec(reverse=True),
    "reversed, held, clipped": GRUSpec(False, candidate_activation="selu", clip=1.0, reverse=True, padding="hold"),
}
OTHERS = {name: spec for name, spec in SPECS.items() if not spec.standard_gates}


def one_layer(seed: int = 0, D: int = 1) -> Any:
    problem = random_problem(seed, T=6, N=4, I=3, H=3, L=1, D=D)
    mask = np.random.default_rng(seed).random((6, 4)) < 0.6
    mask[:, 0] = False
    return problem, mask


def loss(problem: Any, spec: GRUSpec, **options: Any) -> float:
    y, h_n = gru_xp.gru_inference(problem.x, problem.params, problem.h0, spec=spec, **options)
    return float(np.sum(y * problem.dy) + np.sum(h_n * problem.dh_n))


def assert_gradients_are_differences(problem: Any, spec: GRUSpec, save: str = "all", **options: Any) -> None:
    """One direction through all arguments at once, and each argument alone."""
    _, _, tape = gru_xp.gru_forward(problem.x, problem.params, problem.h0, spec=spec, save=save, **options)
    grads = gru_xp.gru_backward(tape, problem.dy, problem.dh_n)
    rng, step = np.random.default_rng(5), 1e-6
    w, dw = problem.params[0][0], grads.params[0][0]
    for only in ("x", "h0", *CellParams._fields):
        target = getattr(problem, only, None) if only in ("x", "h0") else getattr(w, only)
        gradient = getattr(grads, only) if only in ("x", "h0") else getattr(dw, only)
        along = rng.normal(size=target.shape)

        def moved(by: float, only: str = only, target: Any = target, along: Any = along) -> Any:
            changed = target + by * along
            if only in ("x", "h0"):
                return problem._replace(**{only: changed})
            return problem._replace(params=((w._replace(**{only: changed}), *problem.params[0][1:]),))

        difference = (loss(moved(step), spec, **options) - loss(moved(-step), spec, **options)) / (2.0 * step)
        assert abs(np.sum(gradient * along) - difference) < 1e-6 * max(1.0, abs(difference)), only


@pytest.mark.parametrize("place", ["gate_activation", "candidate_activation"])
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("name", TANHS)
def test_gradients_of_each_activation_in_both_places(name: str, reset_after: bool, place: str) -> None:
    problem, mask = one_layer(1)
    spec = GRUSpec(reset_after, **{place: TANHS[name]})
    assert_gradients_are_differences(problem, spec, mask=mask, resets=problem.resets)


@pytest.mark.parametrize("save", ["all", "states"])
@pytest.mark.parametrize("padding", ["nothing", "lengths", "mask"])
@pytest.mark.parametrize("name", SPECS)
def test_gradients_of_each_spec(name: str, padding: str, save: str) -> None:
    problem, mask = one_layer(2)
    options: dict[str, Any] = {"nothing": {}, "lengths": {"lengths": problem.lengths}, "mask": {"mask": mask}}[padding]
    assert_gradients_are_differences(problem, SPECS[name], save, resets=problem.resets, **options)


@pytest.mark.parametrize("name", ["hard gates, before", "held, other activations", "reversed, held, clipped"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_finds_the_same(library: str, name: str) -> None:
    spec = SPECS[name]
    problem = random_problem(3, D=1 if spec.reverse else 2, dtype="f4")
    expected = run_everything(problem, lambda a: a if a is None or a.dtype == bool else a.astype("f8"), spec=spec)
    assert_close(run_everything(problem, lambda a: to_library(library, a), spec=spec), expected, 2e-5)


@pytest.mark.parametrize("kernels", ["auto", "off"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("spec", [GRUSpec(), GRUSpec(reverse=True)], ids=["forwards", "reversed"])
def test_a_mask_with_holes_is_the_sequence_without_them(
    spec: GRUSpec, library: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRU_XP_KERNELS", kernels)
    problem, mask = one_layer(4)
    x, params, h0 = to_library(library, problem.x), problem.params, to_library(library, problem.h0)
    params = ((CellParams(*(to_library(library, a) for a in params[0][0])),),)
    poisoned = to_library(library, np.where(mask[..., None], problem.x, np.nan))
    resets = np.random.default_rng(5).random(mask.shape) < 0.5
    resets[np.argmax(mask, axis=0), range(4)] = [True, True, True, False]  # before a row's first step too
    y, h_n = gru_xp.gru(
        poisoned, params, h0, mask=to_library(library, mask), resets=to_library(library, resets), spec=spec
    )
    assert (gru_xp.explain(x, params, h0, mask=mask, spec=spec).kernel == "cpu") == (kernels == "auto")
    for row in range(4):
        steps = np.flatnonzero(mask[:, row])
        one = slice(row, row + 1)
        cuts = to_library(library, resets[steps, one])
        dense, last = gru_xp.gru(x[steps.tolist(), one], params, h0[:, one], resets=cuts, spec=spec)
        np.testing.assert_allclose(to_numpy(y)[steps, row], to_numpy(dense)[:, 0], atol=1e-14)
        np.testing.assert_allclose(to_numpy(h_n)[:, row], to_numpy(last)[:, 0], atol=1e-14)
        assert not to_numpy(y)[~mask[:, row], row].any()


def test_a_mask_in_every_form() -> None:
    problem, mask = one_layer(5)
    call = (problem.x, problem.params, problem.h0)
    y, _ = gru_xp.gru(*call, mask=mask)
    np.testing.assert_array_equal(gru_xp.gru(*call, mask=mask.tolist())[0], y)
    one, _ = gru_xp.gru(problem.x[:, 1], problem.params, problem.h0[:, 1], mask=mask[:, 1].tolist())
    np.testing.assert_allclose(one, y[:, 1], atol=1e-15)
    lengths = [6, 0, 3, 5]
    as_mask = np.arange(6)[:, None] < np.asarray(lengths)
    for a, b in zip(gru_xp.gru(*call, lengths=lengths), gru_xp.gru(*call, mask=as_mask), strict=True):
        np.testing.assert_array_equal(a, b)
    model = gru_xp.GRU.from_params(problem.params, batch_first=True)
    turned, _ = model(problem.x.transpose(1, 0, 2), problem.h0, mask=mask.T)
    np.testing.assert_array_equal(turned.transpose(1, 0, 2), y)
    np.testing.assert_array_equal(model.forward(problem.x.transpose(1, 0, 2), problem.h0, mask=mask.T)[0], turned)


def test_hold_repeats_the_state() -> None:
    problem, mask = one_layer(6)
    y, h_n = gru_xp.gru(problem.x, problem.params, problem.h0, mask=mask, spec=GRUSpec(padding="hold"))
    zeros, _ = gru_xp.gru(problem.x, problem.params, problem.h0, mask=mask)
    np.testing.assert_allclose(y[mask], zeros[mask], atol=1e-14)
    state = problem.h0[0]
    for t in range(6):
        state = np.where(mask[t][:, None], y[t], state)
        np.testing.assert_array_equal(y[t], state)
    np.testing.assert_array_equal(h_n[0], state)


def test_reversed_is_the_reverse_direction_and_the_flipped_sequence() -> None:
    problem, _ = one_layer(7, D=2)
    _, backwards = problem.params[0]
    both, _ = gru_xp.gru(problem.x, problem.params, problem.h0, lengths=problem.lengths, resets=problem.resets)
    spec, call = GRUSpec(reverse=True), (problem.x, ((backwards,),), problem.h0[1:])
    alone, _ = gru_xp.gru(*call, lengths=problem.lengths, resets=problem.resets, spec=spec)
    np.testing.assert_array_equal(alone, both[..., 3:])
    y, h_n = gru_xp.gru(*call, spec=spec)
    flipped, last = gru_xp.gru(problem.x[::-1], ((backwards,),), problem.h0[1:])
    np.testing.assert_allclose(y, flipped[::-1], atol=1e-14)
    np.testing.assert_allclose(h_n, last, atol=1e-14)


def test_an_infinite_argument_is_no_padding() -> None:
    """With clip even x = inf has a gate like any other; rows with padding and without it agree."""
    problem, _ = one_layer(8)
    x = problem.x.copy()
    w = CellParams(np.abs(problem.params[0][0].W_ih), *problem.params[0][0][1:])
    x[2, 1, 0] = np.inf
    spec = GRUSpec(clip=0.5)
    alone, _ = gru_xp.gru(x[:, 1:2], ((w,),), spec=spec)
    beside, _ = gru_xp.gru(x, ((w,),), lengths=[1, 6, 6, 6], spec=spec)
    assert np.isfinite(alone).all()
    np.testing.assert_allclose(beside[:, 1], alone[:, 0], atol=1e-15)


@pytest.mark.parametrize("name", SPECS)
def test_steps_and_cells_are_the_sequence(name: str) -> None:
    spec = SPECS[name]
    problem, _ = one_layer(9)
    w = problem.params[0][0]
    model = gru_xp.GRU.from_params(problem.params, spec=spec)
    if spec.reverse:
        with pytest.raises(errors.StructureError, match="step: expected a model that runs forwards in time"):
            model.step(problem.x[0], problem.h0)
        return
    y, _ = model(problem.x, problem.h0)
    h, state = problem.h0[0], problem.h0
    for t in range(6):
        h = gru_xp.gru_cell(problem.x[t], h, w, spec=spec)
        y_t, state = model.step(problem.x[t], state)
        np.testing.assert_allclose(h, y[t], atol=1e-14)
        np.testing.assert_allclose(y_t, y[t], atol=1e-14)
    h1, tape = gru_xp.gru_cell_forward(problem.x[0], problem.h0[0], w, spec=spec)
    np.testing.assert_allclose(h1, y[0], atol=1e-14)
    ours = gru_xp.gru_cell_backward(tape, problem.dh_n[0])
    _, _, tape = gru_xp.gru_forward(problem.x[:1], problem.params, problem.h0, spec=spec)
    np.testing.assert_allclose(ours.x, gru_xp.gru_backward(tape, dh_n=problem.dh_n).x[0], atol=1e-14)


# ---- automatic differentiation ---------------------------------------------------------------------------------------

DIFFERENTIATED = {
    "hard, held": (GRUSpec(True, "hard_sigmoid", "softplus", clip=1.1, padding="hold"), 1),
    "before, reversed": (GRUSpec(False, "softsign", "elu", clip=1.3, reverse=True), 1),
}


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_torch_differentiates(name: str) -> None:
    spec, D = DIFFERENTIATED[name]
    problem, mask = one_layer(10, D=D)
    arrays = [problem.x, problem.h0, *(a for w in problem.params[0] for a in w)]
    args = tuple(torch.tensor(a, requires_grad=True) for a in arrays)

    there, resets, dy, dh_n = map(torch.tensor, (mask, problem.resets, problem.dy, problem.dh_n))

    def run(x: Any, h0: Any, *weights: Any) -> Any:
        params = (tuple(CellParams(*weights[4 * d : 4 * d + 4]) for d in range(D)),)
        return gru_xp.gru(x, params, h0, mask=there, resets=resets, spec=spec)

    def loss(*args: Any) -> Any:
        y, h_n = run(*args)
        return (y * dy).sum() + (h_n * dh_n).sum()

    assert torch.autograd.gradcheck(run, args, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, args, fast_mode=True)
    wanted = torch.autograd.grad(loss(*args), args)
    _, _, tape = gru_xp.gru_forward(problem.x, problem.params, problem.h0, mask=mask, resets=problem.resets, spec=spec)
    grads = gru_xp.gru_backward(tape, problem.dy, problem.dh_n)
    for a, b in zip((grads.x, grads.h0, *(a for w in grads.params[0] for a in w)), wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for a, b in zip(torch.autograd.grad(compiled(*args), args), wanted, strict=True):
        assert (a - b).abs().max() < 1e-12
    each = torch.func.vmap(torch.func.grad(lambda x: (gru_xp.gru(x, *rest, spec=spec)[0] ** 2).sum()))
    rest = ((tuple(CellParams(*args[2 + 4 * d : 6 + 4 * d]) for d in range(D)),), args[1])
    many = torch.stack([args[0], 2.0 * args[0]]).detach()
    alone = torch.func.grad(lambda x: (gru_xp.gru(x, *rest, spec=spec)[0] ** 2).sum())(many[1])
    assert (each(many)[1] - alone).abs().max() < 1e-12


def test_torch_compiles_a_spec_that_is_made_inside() -> None:
    x, w = torch.randn(4, 2, 3), CellParams(*(torch.randn(s) for s in ((9, 3), (9, 3), (9,), (9,))))

    def run(x: Any, spec: Any) -> Any:
        return gru_xp.gru(x, ((w,),), spec=spec())[0]

    for spec in (lambda: GRUSpec(False), lambda: GRUSpec(True, "hard_sigmoid", clip=0.7, reverse=True)):
        torch._dynamo.reset()
        wanted = run(x, spec)
        assert not torch.equal(wanted, gru_xp.gru(x, ((w,),))[0])
        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        assert (compiled(x, spec) - wanted).abs().max() < 1e-6


def test_jax_differentiates() -> None:
    check_grads = pytest.importorskip("jax.test_util").check_grads
    spec, D = DIFFERENTIATED["before, reversed"]
    problem, mask = one_layer(11, D=D)
    with jax.enable_x64(True):
        x, h0, params = jax.tree.map(jax.numpy.asarray, (problem.x, problem.h0, tuple(map(tuple, problem.params))))
        resets = jax.numpy.asarray(problem.resets)

        def run(x: Any, h0: Any, params: Any) -> Any:
            return gru_xp.gru(x, params, h0, mask=jax.numpy.asarray(mask), resets=resets, spec=spec)

        check_grads(jax.jit(run), (x, h0, params), order=1, modes=("fwd", "rev"))
        got = jax.jit(jax.grad(lambda *args: jax.numpy.sum(run(*args)[0] * problem.dy), (0, 1, 2)))(x, h0, params)
    _, _, tape = gru_xp.gru_forward(problem.x, problem.params, problem.h0, mask=mask, resets=problem.resets, spec=spec)
    grads = gru_xp.gru_backward(tape, problem.dy)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(tuple(grads)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


# ---- who computes, what is refused, files ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_kernels_refuse_with_a_reason_what_they_do_not_have(library: str, name: str) -> None:
    problem, mask = one_layer(12)
    spec, put = SPECS[name], lambda a: to_library(library, a)
    x, params = put(problem.x), ((CellParams(*map(put, problem.params[0][0])),),)
    for options in ({}, {"mask": mask}):
        found = gru_xp.explain(x, params, spec=spec, **options)
        reasons = {kernel: reason for kernel, _, reason in found.refusals}
        if not spec.reset_after:
            assert found.kernel == "plain" and "reset" in reasons["cpu"]
        elif not spec.standard_gates:
            assert found.kernel == "plain"
            assert reasons["cpu"] == reasons[f"{library}-gates"] == "has only sigmoid and tanh, and no clip"
        elif spec.padding == "hold" and options:
            assert found.kernel == f"{library}-gates" and reasons["cpu"] == "writes zeros into the padding"
        else:
            assert found.kernel == "cpu"


def call(**options: Any) -> Any:
    problem, mask = one_layer(13, D=options.pop("D", 1))
    options = {name: mask if value is ... else value for name, value in options.items()}
    return lambda: gru_xp.gru(problem.x, problem.params, **options)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: GRUSpec(reset_after=1), errors.StructureError, "reset_after: expected True or False, got 1"),
        (lambda: GRUSpec(reverse="yes"), errors.StructureError, "reverse: expected True or False, got 'yes'"),
        (
            lambda: GRUSpec(padding="keep"),
            errors.StructureError,
            "padding: expected one of 'zero', 'hold', got 'keep'",
        ),
        (lambda: GRUSpec(padding=[]), errors.StructureError, "padding: expected one of 'zero', 'hold'"),
        (
            lambda: GRUSpec(clip=0),
            errors.RangeError,
            "clip: expected a number above 0, or None for no bound, got 0",
        ),
        (lambda: GRUSpec(clip=-1.0), errors.RangeError, "clip: expected a number above 0"),
        (lambda: GRUSpec(clip=np.inf), errors.RangeError, "clip: expected a finite number, got inf"),
        (lambda: GRUSpec(clip="3"), errors.StructureError, "clip: expected a number, got '3'"),
        (lambda: GRUSpec(clip=True), errors.StructureError, "clip: expected a number, got True"),
        (
            lambda: GRUSpec(gate_activation=3),
            errors.StructureError,
            "gate_activation: expected an Activation or its",
        ),
        (
            lambda: GRUSpec(candidate_activation=np.tanh),
            errors.StructureError,
            "candidate_activation: expected an Act",
        ),
        (
            lambda: GRUSpec(gate_activation="sigmoyd"),
            errors.StructureError,
            "gate_activation: expected one of sigmoid, ",
        ),
        (
            call(spec=GRUSpec(reverse=True), D=2),
            errors.StructureError,
            "spec: expected reverse=False for two direct",
        ),
        (
            call(mask=..., lengths=[1, 2, 3, 4]),
            errors.StructureError,
            "mask: expected lengths or mask, got both",
        ),
        (call(mask=np.ones((6, 4))), errors.DTypeError, "mask: expected booleans, got float64"),
        (
            call(mask=np.ones((4, 6), bool)),
            errors.ShapeError,
            r"mask: expected \(T, N\) = \(6, 4\), got \(4, 6\)",
        ),
        (call(mask=[[1] * 4] * 6), errors.DTypeError, "mask: expected booleans, got 1"),
        (
            lambda: gru_xp.GRU(3, 4, bidirectional=True, reverse=True),
            errors.StructureError,
            "spec: expected reverse=F",
        ),
    ],
)
def test_invalid_specs_and_masks_are_errors(wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wrong()


def test_a_spec_is_a_value() -> None:
    spec = GRUSpec(False, "HardSigmoid", Activation("elu", 0.5), 2, True, "hold")
    assert spec == GRUSpec(False, Activation("hard_sigmoid"), Activation("Elu", 0.5), 2.0, True, "hold")
    assert spec != replace(spec, clip=None) and hash(spec) == hash(replace(spec, clip=2))
    for twin in (copy.deepcopy(spec), pickle.loads(pickle.dumps(spec)), GRUSpec.from_dict(spec.as_dict())):
        assert twin == spec and twin.text == spec.text and twin.standard_gates is False
    assert GRUSpec("sigmoid" == "sigmoid", "Sigmoid", "Tanh").standard_gates
    assert [replace(GRUSpec(), clip=clip).standard_gates for clip in (None, 3.0)] == [True, False]


def test_a_model_shows_pickles_and_saves_what_it_is(tmp_path: Path) -> None:
    options = {"gate_activation": "hard_sigmoid", "clip": 3.0, "reverse": True, "padding": "hold"}
    model = gru_xp.GRU(3, 4, seed=0, **options)
    assert repr(model) == (
        "GRU(3, 4, gate_activation=Activation(name='hard_sigmoid', alpha=0.2, beta=0.5), clip=3.0, reverse=True, "
        "padding='hold', dtype='float32', backend='numpy:cpu')"
    )
    model.save(tmp_path / "model.safetensors")
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("f4")
    wanted, _ = model(x, lengths=[5, 2])
    for twin in (pickle.loads(pickle.dumps(model)), gru_xp.load(tmp_path / "model.safetensors")):
        assert twin.spec == model.spec
        np.testing.assert_array_equal(twin(x, lengths=[5, 2])[0], wanted)
    assert not np.array_equal(gru_xp.GRU.from_params(model.params)(x)[0], model(x)[0])


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_half_precision_is_computed_in_single(library: str) -> None:
    spec = SPECS["hard gates, before"]
    problem = random_problem(14, dtype="f2")
    got = run_everything(problem, lambda a: to_library(library, a), spec=spec)
    wide = run_everything(problem, lambda a: a if a is None or a.dtype == bool else a.astype("f4"), spec=spec)
    assert_close(got, wide, 2e-2)


def test_all_pairs_of_options_run() -> None:
    """Nothing that combines fails, and y is finite."""
    problem, mask = one_layer(15)
    for reset_after, gate, clip, reverse, padding, masked in itertools.product(
        (True, False), ("sigmoid", "softsign"), (None, 0.5), (True, False), ("zero", "hold"), (True, False)
    ):
        spec = GRUSpec(reset_after, gate, "tanh", clip, reverse, padding)
        y, _, tape = gru_xp.gru_forward(problem.x, problem.params, spec=spec, mask=mask if masked else None)
        same, _ = gru_xp.gru(problem.x, problem.params, spec=spec, mask=mask if masked else None)
        np.testing.assert_allclose(y, same, atol=1e-15)
        assert np.isfinite(gru_xp.gru_backward(tape, problem.dy).x).all() and np.isfinite(y).all()
