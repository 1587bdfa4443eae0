"""What the author of a wrong kernel is told, and what a run leaves behind: status, matrix, page, figures, table."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import gru_xp_conformance
from gru_xp_conformance import mutants
from gru_xp_conformance.app import app
from gru_xp_conformance.cases import BASE, EVERYTHING, all_cases
from gru_xp_conformance.environment import variables
from gru_xp_conformance.judge import Judge, MismatchError, Target
from gru_xp_conformance.matrix import (
    FAILED,
    NOT_RUN,
    PASSED,
    Outcome,
    Result,
    judge_case,
    one_of_each_kind,
    plan,
    promises_broken,
    targets,
)
from gru_xp_conformance.mutants import Mutant
from gru_xp_conformance.report import BEGIN, END, html, print_matrix
from gru_xp_conformance.tolerance import C

PACKAGE = Path(gru_xp_conformance.__file__).parent
ROOT = Path(__file__).parents[2]
NUMPY = Target("numpy", "cpu")


def told(kind: type, config: Any = BASE, *, backward: bool = False, dtype: str = "float32") -> list[str]:
    """The lines of the report about a broken implementation."""
    judge = Judge(NUMPY, dtype, Mutant(kind, "").implementation())

    def judged() -> None:
        if backward:
            judge.assert_gradients(config, judge.gradients(config))
        else:
            judge.assert_forward(config, *judge.forward(config))

    with pytest.raises(MismatchError) as caught:
        judged()
    return str(caught.value).splitlines()


# ---- what the author is told -----------------------------------------------------------------------------------------


def test_the_first_line_names_the_gate_and_the_time_step() -> None:
    first = told(mutants.CandidateBiasDroppedAtFirst, BASE.but(h0=False))[0]
    assert first.startswith("u of layer 0, forward direction")
    assert "first at t = 0" in first
    assert re.search(r"worst at \[0, \d, \d\]: got 0, expected -?\d", first)


def test_a_cause_is_listed_before_its_consequences() -> None:
    lines = told(mutants.ResetForgotten)
    assert lines[0].startswith("n of layer 0")
    assert [line.split()[0] for line in lines[1:] if "wrong" in line][-2:] == ["y:", "h_n:"]
    assert lines[-2].strip().startswith("right: x")


def test_right_gates_are_named_by_layer_and_direction() -> None:
    right = next(line for line in told(mutants.ReverseResetsOneOff, EVERYTHING) if line.strip().startswith("right:"))
    assert "r of layer 0, forward direction" in right
    assert not {"r", "z", "n"} & set(right.replace("right:", "").replace(" ", "").split(","))


def test_swapped_gates_are_named() -> None:
    lines = told(mutants.GatesSwapped)
    assert lines[0].startswith("r of layer 0") and lines[0].endswith("; at t = 0 it is what z should be")
    assert lines[1].strip().startswith("z of layer 0") and lines[1].endswith("; at t = 0 it is what r should be")
    assert not any("should be" in line for line in told(mutants.UpdateFlipped))


def test_an_exception_is_shown_with_its_last_line_in_the_kernel() -> None:
    class Raising(mutants.HonestLayer):
        def inference(self, x: Any, h0: Any, w: Any, options: Any, /) -> Any:
            return json.loads("no JSON")

    case = next(case for case in all_cases() if str(case) == "inference: one layer")
    reason = judge_case(NUMPY, case, "float32", Mutant(Raising, "").implementation()).reason
    assert re.match(r"JSONDecodeError: .* \(.*json.decoder\.py:\d+, in raw_decode, which was called by ", reason)
    assert re.search(r"called by .*test_report\.py:\d+, in inference\)$", reason)


def test_a_gradient_names_the_gate_and_says_which_are_right() -> None:
    lines = told(mutants.UpdateGradientFlipped, BASE.but(T=1), backward=True)
    assert any(line.strip().startswith("db_ih") and "in gate z (r and n right)" in line for line in lines)
    lines = told(mutants.CandidateGradientWithoutReset, BASE.but(T=1), backward=True)
    assert not any(line.strip().startswith("db_ih") for line in lines)
    assert any(line.strip().startswith("db_hh") and "in gate n (r and z right)" in line for line in lines)


def test_dx_names_the_step_where_backward_first_goes_wrong() -> None:
    lines = told(mutants.ResetsForgottenBackward, BASE.but(resets=((3, 0), (3, 1), (3, 2))), backward=True)
    assert any(line.strip().startswith("dx:") and "first computed at t = 2" in line for line in lines)


def test_a_wrong_dtype_is_reported_before_values() -> None:
    assert told(mutants.NarrowResult, dtype="float64") == ["y: expected float64, got float32"]


def test_the_report_says_what_was_computed() -> None:
    assert "T=5, N=3, I=9, H=7, L=2, D=2, lengths=[5, 0, 3]" in told(mutants.GatesSwapped, EVERYTHING)[-1]


class StateOverwritten(mutants.HonestLayer):
    """The first state doubled in the caller's memory."""

    def changed(self, x: Any, h0: Any, w: Any, options: Any) -> Any:
        h0 *= 2.0
        return x, h0, w, options


class RowsFrom64Kept(mutants.HonestLayer):
    """As a kernel whose second block of rows is never computed."""

    def inference(self, x: Any, h0: Any, w: Any, options: Any, /) -> Any:
        y, h_n = super().inference(x, h0, w, options)
        y[:, 64:], h_n[64:] = h0[64:], h0[64:]
        return y, h_n


def outcomes_of(kind: type, *, quick: bool = True) -> list[Outcome]:
    """What failed."""
    implementation = Mutant(kind, "").implementation()
    steps = [(case, dtype) for _, case, dtype in plan([NUMPY], quick=quick) if case.group in ("inference", "sizes")]
    judged = [judge_case(NUMPY, case, dtype, implementation) for case, dtype in steps]
    return [outcome for outcome in judged if outcome.status == FAILED]


def test_an_argument_that_was_written_to_is_named_first() -> None:
    assert all(one.reason.startswith("an argument was written to: h0\n") for one in outcomes_of(StateOverwritten))
    assert outcomes_of(StateOverwritten)
    assert not any("written to" in one.reason for one in outcomes_of(mutants.ResetForgotten))


def test_the_quick_subset_has_more_rows_than_a_block_and_a_step_of_a_model() -> None:
    assert [one.case for one in outcomes_of(RowsFrom64Kept)] == ["T=2 N=65 I=127 H=63"]
    assert any(case.quick and case.name == "step by step with GRU.step" for case in all_cases())


def test_cases_of_one_step_are_listed_first() -> None:
    reasons = ("y: wrong\n  in T=5, N=3, I=9", "y: wrong\n  in T=1, N=3, I=9", "y: wrong\n  in T=15, N=3, I=9")
    groups = ("forward", "cell", "backward")
    outcomes = tuple(
        Outcome(NUMPY, "a case", group, "float32", FAILED, reason)
        for group, reason in zip(groups, reasons, strict=True)
    )
    console = Console(record=True, width=200)
    print_matrix(Result(outcomes, (), (), {}, True, 1.0), console)
    assert re.findall(r"in T=(\d+)", console.export_text()) == ["1", "5", "15"]


def test_repeated_consequences_are_counted_and_folded() -> None:
    """A case once for all its dtypes, one case of a group in full, the others in a line and behind a summary."""
    mutant = Mutant(mutants.ResetForgotten, "")
    steps = [step for step in plan([mutant.target], quick=True) if step[1].group in ("forward", "cell", "sizes")]
    steps += [(target, case, "float64") for target, case, _ in steps]
    outcomes = tuple(judge_case(*step, mutant.implementation()) for step in steps)
    failed = {(outcome.group, outcome.case) for outcome in outcomes if outcome.status == FAILED}
    result = Result(outcomes, (), (), {}, True, 1.0)
    console = Console(record=True, width=200)
    print_matrix(result, console)
    text, page = console.export_text(), html(result)
    assert len(failed) > 6
    shown = re.findall(r"^failed numpy:cpu mutant, (\w+): .*, float32, float64$", text, re.MULTILINE)
    assert shown == ["cell", "forward", "sizes"]
    assert f"failed numpy:cpu mutant, {len(failed) - 3} more cases: " in text
    assert f"<summary>numpy:cpu mutant: {len(failed) - 3} more cases</summary>" in page
    for group, case in failed:
        assert f"{group}: {case}, float32, float64</p>" in page


# ---- the run ---------------------------------------------------------------------------------------------------------


def ran(*arguments: str, **settings: str | None) -> Any:
    with variables(**{"GRU_XP_BACKEND": None, "GRU_XP_REQUIRE": None, "COLUMNS": "200", **settings}):
        return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A quick run of NumPy, and where it wrote."""
    folder = tmp_path_factory.mktemp("quick")
    page, figures = folder / "page.html", folder / "figures.json"
    return ran("numpy", "--quick", "--html", str(page), "--json", str(figures), "--table"), folder


def test_a_run_that_passes_has_status_0_and_ends_with_the_matrix(quick: tuple[Any, Path]) -> None:
    done, _ = quick
    assert done.exit_code == 0, done.output
    assert "numpy:cpu plain" in done.output
    assert "numpy:cpu numpy-gates" in done.output
    assert "all that was promised passed" not in done.output
    assert re.search(r"the quick subset passed: .* \(quick: .*run without --quick before you trust it\)", done.output)
    assert "not run  numpy:cpu plain  1 in memory: numpy has one device here, cpu" in done.output
    assert "| numpy | cpu | plain | ✓ |" in done.output


def test_the_json_report(quick: tuple[Any, Path]) -> None:
    told = json.loads((quick[1] / "figures.json").read_text())
    assert told["passed"]
    assert {"commit", "processor", "driver", "modes", "versions", "devices"} <= set(told["environment"])
    assert {outcome["kernel"] for outcome in told["outcomes"]} >= {"plain", "numpy-gates"}
    assert all(outcome.get("reason") for outcome in told["outcomes"] if outcome["status"] == "not run")


def test_the_page_needs_nothing_from_elsewhere(quick: tuple[Any, Path]) -> None:
    page = (quick[1] / "page.html").read_text()
    assert "<svg" in page
    assert "dW_hh" in page
    assert not re.search(r"(src|href)=|url\(|@import", page)


def test_what_is_required_and_missing_is_a_failure() -> None:
    done = ran("numpy", "--quick", GRU_XP_REQUIRE="numpy,nonsense:cuda")
    assert done.exit_code == 1
    assert "promised, not run nonsense:cuda: required by GRU_XP_REQUIRE" in done.output


def test_a_kernel_is_required_as_its_row_is_printed() -> None:
    rows, missing = targets(("numpy",))
    there = ("numpy:cpu numpy-gates", "numpy numpy-gates", "numpy:cpu plain", "numpy:cpu", "numpy")
    assert not promises_broken(rows, missing, (), there)
    assert promises_broken(rows, missing, (), ("numpy:cpu mine", "torch numpy-gates")) == (
        "numpy:cpu mine: required by GRU_XP_REQUIRE, not among the rows",
        "torch numpy-gates: required by GRU_XP_REQUIRE, not among the rows",
    )


def test_what_is_named_and_missing_is_a_failure() -> None:
    done = ran("nonsense", "--quick")
    assert done.exit_code == 1
    assert "unknown backend 'nonsense'" in done.output
    done = ran("numpy:cpu mine", "--quick")
    assert done.exit_code == 1
    assert "promised, not run numpy:cpu mine: no kernel 'mine'; there are plain, " in done.output


class Odd(mutants.HonestLayer):
    """A kernel that answers what it likes."""

    name = "odd"

    def __init__(self, answer: Any):
        super().__init__()
        self.answer = answer

    def refuses(self, call: Any, /) -> Any:
        return self.answer


def test_a_kernel_that_is_named_and_declines_everything_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gru_xp_conformance.matrix.kernels_of", lambda library: (Odd("not today"),))
    rows, missing = targets(("numpy odd",))
    assert not rows
    assert promises_broken(rows, missing, ("numpy odd",), ()) == ("numpy odd: not today",)


def test_a_kernel_that_answers_neither_none_nor_words_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gru_xp_conformance.matrix.kernels_of", lambda library: (Odd(False),))
    done = ran("numpy", "--quick")
    assert done.exit_code == 1
    assert "not conformant: odd.refuses: expected None to accept a call" in done.output


def test_the_variable_chooses_what_is_judged() -> None:
    done = ran("--quick", GRU_XP_BACKEND="numpy:cpu")
    assert done.exit_code == 0
    assert "torch:cpu" not in done.output


def test_the_table_in_a_file_is_written_and_checked(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# title\n\n{BEGIN}\nold\n{END}\n\nmore\n")
    assert ran("numpy", "--quick", "--check-table", str(readme)).exit_code == 1
    assert ran("numpy", "--quick", "--write-table", str(readme)).exit_code == 0
    assert ran("numpy", "--quick", "--check-table", str(readme)).exit_code == 0
    text = readme.read_text()
    assert "| numpy | cpu | plain | ✓ |" in text
    assert text.startswith("# title")
    assert text.endswith("\n\nmore\n")


def test_rows_that_ran_elsewhere_join_the_table(quick: tuple[Any, Path], tmp_path: Path) -> None:
    elsewhere = json.loads((quick[1] / "figures.json").read_text())
    for outcome in elsewhere["outcomes"]:
        outcome["device"] = "cuda:0"
    (tmp_path / "elsewhere.json").write_text(json.dumps(elsewhere))
    done = ran("numpy", "--quick", "--table", "--also", str(tmp_path / "elsewhere.json"))
    assert "| numpy | cpu | plain | ✓ |" in done.output
    assert "| numpy | cuda:0 | numpy-gates | ✓ |" in done.output


def test_the_suite_under_pytest(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "gru_xp_conformance"]
    settings = {**os.environ, "GRU_XP_BACKEND": "numpy", "GRU_XP_QUICK": "1", "GRU_XP_REQUIRE": "numpy,nonsense"}
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)
    assert "1 failed" in done.stdout, done.stdout
    assert "nonsense: required by GRU_XP_REQUIRE" in done.stdout
    assert re.search(r"\b(1[0-9]{2}|[6-9]\d) passed", done.stdout), done.stdout


@pytest.mark.parametrize(
    "name", ["forward: by the doors, with GRU_XP_KERNELS=auto", "streaming: step by step with GRU.step"]
)
def test_a_kernel_that_public_functions_do_not_take_is_not_judged_by_them(name: str) -> None:
    case = next(case for case in all_cases() if str(case) == name)
    mine = Mutant(mutants.HonestLayer, "")
    outcome = judge_case(mine.target, case, "float32", mine.implementation())
    assert outcome.status == NOT_RUN
    assert re.fullmatch(r"GRU_XP_KERNELS=auto takes (cpu|numpy-gates|plain|, )+", outcome.reason)
    assert judge_case(Target("numpy", "cpu", "cpu"), case, "float32").status == PASSED


# ---- the house -------------------------------------------------------------------------------------------------------


def test_every_case_says_which_mistake_it_catches_and_has_a_unique_name() -> None:
    cases = all_cases()
    assert all(case.catches and "\n" not in case.catches for case in cases)
    assert len({(case.group, case.name) for case in cases}) == len(cases)


def test_tolerances_are_in_one_file() -> None:
    sources = [*PACKAGE.glob("*.py"), *Path(__file__).parent.glob("test_*.py")]
    for source in sources:
        if source.name != "tolerance.py":
            with source.open("rb") as lines:
                small = [token for token in tokenize.tokenize(lines.readline) if is_small(token)]
            assert not small, f"{source.name}:{small[0].start[0]}: {small[0].string} belongs in tolerance.py"


def is_small(token: tokenize.TokenInfo) -> bool:
    return token.type == tokenize.NUMBER and "e-" in token.string.lower()


def test_the_constants_are_twice_what_was_measured() -> None:
    measured = json.loads((ROOT / "conformance" / "results" / "tolerance.json").read_text())
    assert measured["c"] == C
    for row, dtypes in measured["worst"].items():
        for dtype, kinds in dtypes.items():
            for kind, one in kinds.items():
                assert 2 * one["units"] <= C[dtype], f"{row} {dtype} {kind}: {one}"


def test_rows_are_backends_devices_and_kernels() -> None:
    rows, missing = targets(("numpy", "nonsense"))
    assert rows[0] == Target("numpy", "cpu", "plain")
    assert Target("numpy", "cpu", "numpy-gates") in rows
    assert [one.name for one in missing] == ["nonsense"]
    assert one_of_each_kind(("cpu", "cuda:0", "cuda:1")) == ("cpu", "cuda:0")
    assert one_of_each_kind(("my.Device('gpu0')", "my.Device('gpu1')")) == ("my.Device('gpu0')",)
    rows, missing = targets(("numpy:cpu numpy-gates", "numpy plain"))
    assert rows == (Target("numpy", "cpu", "numpy-gates"), Target("numpy", "cpu", "plain"))
    assert not missing
