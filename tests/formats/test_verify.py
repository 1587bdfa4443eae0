"""Two GRUs, run and compared: every mistake is found, placed and named; what agrees is not accused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import random_params
from libraries import onnx

import gru_xp
from gru_xp import GRUSpec, errors, files
from gru_xp.stored import StoredGRU
from gru_xp.verify import Inputs, Side, random_inputs, side_of, verify
from gru_xp.verify import compare as verify_module
from gru_xp.verify.suspects import CELL_CHANGES, related

I, H = 5, 3


def stored(layers: int = 2, D: int = 2, dtype: str = "f4", spec: GRUSpec = GRUSpec()) -> StoredGRU:  # noqa: B008
    return StoredGRU(random_params(np.random.default_rng(0), I, H, layers, D, dtype=dtype), spec=spec)


def changed(gru: StoredGRU, words: str, cells: Any = lambda layer, d: True) -> StoredGRU:
    change = CELL_CHANGES[words]
    params = tuple(
        tuple(change(w) if cells(layer, d) else w for d, w in enumerate(directions))
        for layer, directions in enumerate(gru.params)
    )
    return replace(gru, params=params)


class Runtime(files.Format):
    """A runtime that computes something else than what stands in the file."""

    runtime = "a runtime"

    def __init__(self, really: StoredGRU, forgets: str = ""):
        self.really, self.forgets = really, forgets

    def run(self, path: Path, gru: StoredGRU, x: Any, h0: Any, lengths: Any) -> Any:
        h0 = None if self.forgets == "h0" else h0
        lengths = None if self.forgets == "lengths" else lengths
        return gru_xp.gru_inference(x, self.really.params, h0, lengths=lengths, spec=self.really.spec)


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", CELL_CHANGES)
def test_every_mistake_in_a_file_is_named(words: str) -> None:
    gru = stored()
    verdict = verify(Side("A", gru), Side("B", changed(gru, words)))
    assert not verdict.agrees
    assert verdict.explanation == f"B computes what A does with {words}"
    assert verdict.differences == (f"weights of every layer and direction: B has A's with {words}",)
    assert verdict.parting is not None and verdict.parting.layer == 0


@pytest.mark.parametrize("words", CELL_CHANGES)
def test_every_mistake_of_a_runtime_is_named(words: str) -> None:
    """The file is right; what runs it is not."""
    gru = stored()
    verdict = verify(Side("A", gru), Side("B", gru, Path("b"), Runtime(changed(gru, words))))
    assert not verdict.agrees and not verdict.differences
    assert verdict.explanation == f"B computes what A does with {words}"
    assert verdict.unfaithful[0].startswith("B: a runtime gives another result than gru_xp from the same numbers")


@pytest.mark.parametrize("forgotten", ["h0", "lengths"])
def test_a_runtime_that_forgets(forgotten: str) -> None:
    gru = stored()
    verdict = verify(Side("A", gru), Side("B", gru, Path("b"), Runtime(gru, forgotten)))
    assert verdict.explanation == f"B computes what A does with {forgotten} forgotten"
    assert [case.agrees for case in verdict.cases] == [True, forgotten != "h0", False]


LOST = "b_hn, the candidate's recurrent bias, dropped"


@pytest.mark.parametrize(("layer", "d"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_the_first_layer_direction_and_step_that_differ(layer: int, d: int) -> None:
    """One cell of four, in the file and in the runtime alone."""
    gru = stored()
    wrong = changed(gru, LOST, lambda at, way: (at, way) == (layer, d))
    name = ("forward", "reverse")[d]
    verdict = verify(Side("A", gru), Side("B", wrong))
    assert verdict.parting is not None
    assert verdict.parting.__dict__ == {
        "layer": layer,
        "direction": name,
        "step": 15 * d,
        "gates": ("candidate n",),
    }
    assert verdict.differences == (f"weights of layer {layer}, {name}: B has A's with {LOST}",)
    assert verdict.explanation == f"B computes what A does with {LOST}, in the {name} direction of layer {layer} alone"
    hidden = verify(Side("A", gru), Side("B", gru, Path("b"), Runtime(wrong)))
    assert hidden.explanation == verdict.explanation
    assert hidden.parting is not None and hidden.parting.gates == ()
    assert (hidden.parting.layer, hidden.parting.direction) == (layer, name)


def test_the_step_is_the_first_where_it_matters() -> None:
    """Recurrent weights of the gates act from the second step on, where the first state is zero."""
    gru = stored(1, 1)
    ((w,),) = gru.params
    other = replace(
        gru, params=((w._replace(W_hh=np.concatenate([w.W_hh[:H], 2 * w.W_hh[H : 2 * H], w.W_hh[2 * H :]])),),)
    )
    verdict = verify(Side("A", gru), Side("B", other))
    assert verdict.parting is not None and verdict.explanation is None
    assert (verdict.parting.step, verdict.parting.gates) == (1, ("update gate z",))
    assert verdict.differences == ("weights of layer 0: B has A's with other numbers in W_hh",)


def test_unrelated_weights_are_not_tried_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No suspect makes one model another that was trained by itself; a runtime that errs is still looked into."""
    asked = []
    monkeypatch.setattr(verify_module, "suspects", lambda *both: asked.append(both) or iter(()))
    gru, other = stored(), replace(stored(), params=random_params(np.random.default_rng(1), I, H, 2, 2, dtype="f4"))
    assert not verify(Side("A", gru), Side("B", other)).agrees
    assert not asked
    assert not verify(Side("A", gru), Side("B", gru, Path("b"), Runtime(other))).agrees
    assert asked


@pytest.mark.parametrize("words", CELL_CHANGES)
@pytest.mark.parametrize("dtype", ["f2", "f4"])
def test_what_every_suspect_does_keeps_weights_related(words: str, dtype: str) -> None:
    gru = stored()
    other = changed(gru, words, lambda layer, d: layer == 0)
    rounded = gru_xp.params.map_params(lambda a: a.astype(dtype).astype("f4"), other.params)
    turned = tuple((backward, forward) for forward, backward in rounded)
    assert related(gru, replace(gru, params=rounded)) and related(replace(gru, params=turned), gru)


SPECS: dict[str, tuple[dict[str, Any], str]] = {
    "reset_after": ({"reset_after": False}, "the reset gate before the recurrent product"),
    "clip": ({"clip": 0.5}, "clip = 0.5"),
    "gate_activation": ({"gate_activation": "hard_sigmoid"}, "gate_activation = hard_sigmoid"),
    "reverse": ({"reverse": True}, "reverse = True"),
}


@pytest.mark.parametrize("option", SPECS)
def test_another_equation(option: str) -> None:
    fields, words = SPECS[option]
    a, b = stored(1, 1), stored(1, 1, spec=GRUSpec(**fields))
    for verdict in (verify(Side("A", a), Side("B", b)),):
        assert verdict.explanation is not None and verdict.explanation.startswith(
            f"B computes what A does with {words}"
        )
        assert verdict.differences[0].startswith(f"{option}: A has ")
    hidden = verify(Side("A", a), Side("B", a, Path("b"), Runtime(b)))
    if option in ("reset_after", "reverse"):
        assert hidden.explanation is not None
    else:
        assert hidden.explanation is None and hidden.unfaithful


def test_two_mistakes_at_once() -> None:
    gru = stored()
    wrong = replace(changed(gru, LOST), spec=GRUSpec(reset_after=False))
    verdict = verify(Side("A", gru), Side("B", gru, Path("b"), Runtime(wrong)))
    assert verdict.explanation is not None and verdict.explanation.endswith(f"reset_after=False) and {LOST}")


def test_it_may_be_the_first_that_is_wrong() -> None:
    gru = stored()
    folded = "b_hh added to b_ih, for the candidate too, where r has to stand between them"
    verdict = verify(Side("A", changed(gru, folded)), Side("B", gru))
    assert verdict.explanation == f"A computes what B does with {folded}"


def test_other_sizes() -> None:
    verdict = verify(Side("A", stored(1)), Side("B", stored(2)))
    assert not verdict.agrees
    assert "L to begin with; A: I, H, L, D = (5, 3, 1, 2), B: I, H, L, D = (5, 3, 2, 2)" in verdict.differences[0]


# ---- what agrees -----------------------------------------------------------------------------------------------------


def test_other_types_agree_to_their_rounding() -> None:
    double = stored(dtype="f8")
    single = replace(double, params=gru_xp.params.map_params(lambda a: a.astype("f4"), double.params))
    double = replace(double, dtype="float64")
    verdict = verify(Side("A", double), Side("B", single))
    assert verdict.agrees and verdict.differences == ("A holds float64, B holds float32",)
    half = gru_xp.params.map_params(lambda a: a.astype("f2").astype("f4"), single.params)
    rounded = verify(Side("A", single), Side("B", replace(single, params=half)))
    assert not rounded.agrees  # both say that they are float32


@pytest.mark.parametrize("words", [LOST, "the gates r and z swapped", "before"])
@pytest.mark.parametrize(("dtype", "name"), [("f2", "float16"), ("f4", "bfloat16")])
def test_16_bits_hide_no_mistake(dtype: str, name: str, words: str) -> None:
    """By the state's rounding in each step of a long sequence little is allowed, because it is forgotten again."""
    gru = replace(stored(dtype="f4"), dtype=name)
    bits = (lambda a: a.astype("f2")) if dtype == "f2" else rounded_to_bfloat16
    gru = replace(gru, params=gru_xp.params.map_params(bits, gru.params))
    wrong = replace(gru, spec=GRUSpec(reset_after=False)) if words == "before" else changed(gru, words)
    inputs = random_inputs(gru, 64)
    assert verify(Side("A", gru), Side("B", gru), inputs).agrees
    assert not verify(Side("A", gru), Side("B", wrong), inputs).agrees


def rounded_to_bfloat16(a: Any) -> Any:
    return (a.view("u4") >> 16 << 16).view("f4")


def test_bfloat16_of_the_same_numbers() -> None:
    gru = stored()
    short = replace(gru, params=gru_xp.params.map_params(rounded_to_bfloat16, gru.params), dtype="bfloat16")
    verdict = verify(Side("A", gru), Side("B", short))
    assert verdict.agrees and verdict.differences == ("A holds float32, B holds bfloat16",)


def test_nan_equals_nan() -> None:
    gru = stored()
    gru.params[0][0].W_hh[0, 0] = np.nan
    verdict = verify(Side("A", gru), Side("B", stored()))
    assert not verdict.agrees and verdict.differences == (
        "weights of layer 0, forward: B has A's with other numbers in W_hh",
    )
    verdict = verify(Side("A", gru), Side("B", gru))
    assert verdict.agrees and not verdict.differences


def test_weights_that_are_no_numbers_are_no_mistake_of_a_conversion(tmp_path: Path) -> None:
    """onnxruntime makes something else of NaN, and NaN stays what it is whatever is changed."""
    gru = stored(1, 1)
    gru.params[0][0].W_ih[:] = np.nan
    files.formats()["onnx"].write(gru, tmp_path / "b.onnx")
    verdict = verify(Side("A", gru), side_of("B", tmp_path / "b.onnx"))
    assert not verdict.agrees and verdict.explanation == "the weights of A and B are not finite"
    assert verify(Side("A", gru), Side("B", stored(1, 1))).explanation == "the weights of A are not finite"


@pytest.mark.parametrize("tolerance", [float("nan"), float("inf"), -1.0])
def test_a_tolerance_that_means_nothing(tolerance: float) -> None:
    with pytest.raises(errors.RangeError, match="tolerance: expected a finite number, at least 0, got "):
        verify(Side("A", stored()), Side("B", stored()), tolerance=tolerance)


def test_folded_biases_agree() -> None:
    """Those of r and z, which nothing stands between."""
    gru = stored()

    def folded(w: gru_xp.CellParams) -> gru_xp.CellParams:
        rz, n = slice(0, 2 * H), slice(2 * H, None)
        return w._replace(
            b_ih=np.concatenate([w.b_ih[rz] + w.b_hh[rz], w.b_ih[n]]),
            b_hh=np.concatenate([np.zeros_like(w.b_hh[rz]), w.b_hh[n]]),
        )

    other = replace(gru, params=tuple(tuple(map(folded, directions)) for directions in gru.params))
    verdict = verify(Side("A", gru), Side("B", other))
    assert verdict.agrees and verdict.differences


@pytest.mark.parametrize("seed", range(5))
def test_long_inputs_agree_too(seed: int, tmp_path: Path) -> None:
    """The tolerance follows the length: A by gru_xp, B by onnxruntime."""
    files.formats()["onnx"].write(stored(), tmp_path / "b.onnx")
    verdict = verify(Side("A", stored()), side_of("B", tmp_path / "b.onnx"), random_inputs(stored(), 300, seed=seed))
    assert verdict.agrees
    assert {case.by for case in verdict.cases} == {("gru_xp", "onnxruntime")}
    assert all(case.difference < case.allowed / 4 for case in verdict.cases)


def test_a_tolerance_that_is_given() -> None:
    gru = stored()
    other = changed(gru, LOST)
    assert verify(Side("A", gru), Side("B", other), tolerance=10.0).agrees
    assert not verify(Side("A", gru), Side("B", replace(gru, dtype="float64")), tolerance=0.0).unfaithful
    with pytest.raises(errors.ShapeError, match=r"mine: expected \(T, N, I\) = \(T, N, 5\), got \(7, 2, 4\)"):
        verify(Side("A", gru), Side("B", gru), [Inputs("mine", np.ones((7, 2, 4)))])


class Missing(files.Format):
    """A runtime that is not there, or that has no lengths."""

    runtime = "a runtime"

    def __init__(self, there: bool):
        self.there = there

    def run(self, path: Path, gru: StoredGRU, x: Any, h0: Any, lengths: Any) -> Any:
        if not self.there:
            return None
        if lengths is not None:
            raise errors.BackendError("it has no lengths")
        return gru_xp.gru_inference(x, gru.params, h0)


def test_what_gru_xp_ran_instead_of_a_runtime_is_said() -> None:
    gru = stored()
    verdict = verify(Side("A", gru), Side("B", gru, Path("b"), Missing(there=False)))
    assert verdict.agrees and verdict.substituted == ("B was run by gru_xp: a runtime is not installed",)
    verdict = verify(Side("A", gru), Side("B", gru, Path("b"), Missing(there=True)))
    assert verdict.agrees and verdict.substituted == ("B was run by gru_xp: it has no lengths",)
    assert [case.by[1] for case in verdict.cases] == ["a runtime", "a runtime", "gru_xp"]


# ---- the exports that went wrong in the field ------------------------------------------------------------------------


def broken_export(tmp_path: Path, how: str) -> tuple[Path, Path]:
    """A model, and its ONNX file with a mistake that exporters made."""
    model = gru_xp.GRU(I, H, 2, bidirectional=True, seed=0)
    model.save(tmp_path / "a.safetensors")
    model.save(tmp_path / "b.onnx")
    proto = onnx.load(tmp_path / "b.onnx")
    for node in proto.graph.node:
        if node.op_type != "GRU":
            continue
        W, R, B = (next(t for t in proto.graph.initializer if t.name == name) for name in node.input[1:4])
        if how == "linear_before_reset":
            node.attribute.remove(next(a for a in node.attribute if a.name == "linear_before_reset"))
        elif how == "gates":  # as if ONNX had PyTorch's order
            for tensor in (W, R, B):
                a = onnx.numpy_helper.to_array(tensor)
                z, r, *rest = np.split(a, a.shape[1] // H, axis=1)
                blocks = [r, z, *rest] if tensor is not B else [r, z, rest[0], rest[2], rest[1], rest[3]]
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.concatenate(blocks, axis=1), tensor.name))
        else:
            a = onnx.numpy_helper.to_array(B).copy()
            a[:, 5 * H :] = 0
            B.CopyFrom(onnx.numpy_helper.from_array(a, B.name))
    onnx.save(proto, tmp_path / "b.onnx")
    return tmp_path / "a.safetensors", tmp_path / "b.onnx"


BROKEN = {
    "linear_before_reset": ("the reset gate before the recurrent product", ("candidate n",)),
    "gates": ("the gates r and z swapped", ("reset gate r", "update gate z", "candidate n")),
    "b_hn": (LOST, ("candidate n",)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_exports_that_lost_something(how: str, tmp_path: Path) -> None:
    words, gates = BROKEN[how]
    a, b = broken_export(tmp_path, how)
    verdict = verify(side_of("A", a), side_of("B", b))
    assert verdict.cases[0].by == ("gru_xp", "onnxruntime")
    assert verdict.explanation is not None and verdict.explanation.startswith(f"B computes what A does with {words}")
    assert not verdict.unfaithful  # the file is wrong, not who runs it
    assert verdict.parting is not None
    assert (verdict.parting.layer, verdict.parting.direction, verdict.parting.step) == (0, "forward", 0)
    assert verdict.parting.gates == gates
