"""`gru-xp bench` and what stands under it: engines in processes of their own, checked, then timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gru_xp.cli import app
from gru_xp_conformance import timing
from gru_xp_conformance.timing import Command, Size, Timing, compare
from gru_xp_conformance.timing_report import picture

SMALL = Size(4, 2, 3, 5)

ENGINES = """
import sys
from gru_xp_conformance.timing import AbsentError, serve
from gru_xp_conformance.bench import Library
from gru_xp_conformance.judge import Target

class Wrong(Library):
    def inference(self):
        return super().inference() + 1
    def gradients(self, trained):
        dx, *rest = super().gradients(trained)
        return [dx, *reversed(rest)]

def absent(problem):
    raise AbsentError("has a day off")

def engine(problem):
    print("what a library says does not disturb")
    return Library(problem, Target("numpy", "cpu", "plain"))

serve({"right": engine, "wrong": lambda problem: Wrong(problem, Target("numpy", "cpu", "plain")), "absent": absent,
       "broken": lambda problem: 1 / 0, "dead": lambda problem: sys.exit(3)}[sys.argv[1]])
"""


def test_bench_writes_its_report_and_picture(tmp_path: Path) -> None:
    kept, drawn = tmp_path / "bench.json", tmp_path / "bench.png"
    words = ["bench", "numpy", "-s", "4,2,3,5", "-s", "1,1,3,5,2", "--rounds", "2", "--dtype", "float64"]
    result = CliRunner().invoke(app, [*words, "--json", str(kept), "--picture", str(drawn)])
    assert result.exit_code == 0, result.output
    assert "numpy:cpu plain" in result.output and "1, 1, 3, 5; 2 layers" in result.output
    report = json.loads(kept.read_text())
    assert report["left out"] == {}
    timings = [Timing(**one) for one in report["timings"]]
    assert {one.engine for one in timings} >= {"numpy:cpu plain", "numpy:cpu numpy-gates"}
    assert {one.task for one in timings} == {"inference", "training"}
    assert all(0 < one.least <= one.median <= one.most < 1 and 0 <= one.error <= 1 for one in timings)
    assert drawn.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-s", "4,2,3"], "expected T,N,I,H"),
        (["-s", "4,2,3,0"], "whole numbers from 1 on"),
        (["-s", "4,2,3,5,1,3"], "one or two directions"),
        (["--task", "cooking"], "expected inference, training or both"),
        (["--dtype", "float16"], "expected float32 or float64"),
        (["nonsense"], "unknown backend"),
    ],
)
def test_what_a_user_can_put_right(words: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["bench", *words])
    assert result.exit_code != 0
    assert said in " ".join(result.output.replace("│", " ").split())


def test_only_what_is_right_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "engines.py"
    script.write_text(ENGINES)
    names = ("right", "wrong", "absent", "broken", "dead")
    commands = {name: Command([sys.executable, str(script), name], {"GRU_XP_KERNELS": "off"}) for name in names}
    timings, left_out, _ = compare(commands, [SMALL], rounds=1)
    assert [(one.task, one.engine) for one in timings] == [("inference", "right"), ("training", "right")]
    assert left_out["absent"] == "has a day off"
    assert "ZeroDivisionError" in left_out["broken"]
    assert "ended with status 3" in left_out["dead"]
    for task in timing.TASKS:
        assert left_out[f"wrong at {SMALL}, {task}"].startswith("wrong: ")


def test_results_are_compared_with_float64() -> None:
    one = timing.problem(SMALL, "float32")
    exact = timing.plain_results(one, "float64")
    timing.assert_right(one, exact["inference"][0], exact["training"][0])
    with pytest.raises(AssertionError):
        timing.assert_right(one, exact["inference"][0], 1.001 * exact["training"][0])


def test_sizes_are_parsed_and_counted() -> None:
    assert Size.parse("100, 8,64,128") == Size(100, 8, 64, 128, 1, 1)
    assert str(Size.parse("5,1,2,3,2,2")) == "5, 1, 2, 3; 2 layers; 2 directions"
    assert Size(1, 1, 2, 3).multiply_adds("inference") == 9 * (2 + 3)
    assert Size(1, 1, 2, 3, 2, 2).multiply_adds("training") == 3 * 2 * 9 * (2 + 3 + 6 + 3)


def test_the_picture_without_an_engine_of_ours(tmp_path: Path) -> None:
    picture(
        [Timing(SMALL, "training", name, 1.0 + i, 0.9 + i, 1.2 + i, 0.1) for i, name in enumerate("ab")],
        tmp_path / "a.svg",
    )
    assert "training" in (tmp_path / "a.svg").read_text()


def test_the_phases_of_the_kernels() -> None:
    pytest.importorskip("llvmlite")
    script = Path(__file__).parents[2] / "conformance" / "benchmarks" / "phases.py"
    words = [sys.executable, str(script), "7,3,5,20", "--training"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    lines = {line.split("│")[1].strip(): line.split("│") for line in ended.stdout.splitlines() if line.count("│") > 4}
    products = [
        "tile in project_share",
        "tile in recurrent",
        "tile in step",
        "tile in dx",
        "weight_tile in weights",
    ]
    for phase in [*products, "gates_forward", "gates_backward", "all of forward", "all of backward"]:
        assert float(lines[phase][2]) > 0 and int(lines[phase][-3]) > 0
    for phase in products:
        assert lines[phase][-2].strip().endswith("%")
    for kind in ("forward", "backward"):
        assert int(lines[f"all of {kind}"][-3]) == 1
