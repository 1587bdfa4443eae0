"""The benchmark for GPUs, on the CPU at tiny sizes and with a clock of its own: what it checks, counts and writes."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import gru_xp_torch

SCRIPT = Path(__file__).parents[2] / "conformance" / "benchmarks" / "cuda.py"
SIZES = ["--H", "4,8", "--N", "1,3", "--T", "5", "--rounds", "3", "--warmup", "1"]
TINY = ["--device", "cpu", "--unjudged", *SIZES]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_cuda", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Clock:
    """Runs what it is given and says a time of its own: 5 ms for nn.GRU, 1 ms for gru_xp, 2 ms for the plain path.

    The first round takes long, the second a little too long, as rounds do.
    """

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, run: Callable[[], Any]) -> float:
        run()
        turn, engine = divmod(self.calls, 3)
        self.calls += 1
        return (5e-3, 1e-3, 2e-3)[engine] * (1000.0, 1.25, 1.0, 1.0)[turn % 4]


def rows_in(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "cuda_speed.json").read_text())["rows"]
    return rows


def test_it_writes_medians_without_the_warmup_tables_and_a_picture(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results"
    assert script.main([*TINY, "--numbers", "float32", "--out", str(out)], Clock()) == 0
    told = json.loads((out / "cuda_speed.json").read_text())
    assert told["about"]["device"] == "the host, not a GPU"
    assert {"driver", "versions", "modes", "commit"} <= set(told["about"])
    assert len(told["rows"]) == 2 * 2 * 2
    for row in told["rows"]:
        # 5 steps: 5 ms are 1000 microseconds a step
        assert row["microseconds"] == {
            "nn.GRU": [1000, 1000, 1250],
            "gru_xp": [200, 200, 250],
            "plain": [400, 400, 500],
        }
        assert len(row["errors"]["gru_xp"]) == (2 if row["task"] == "training" else 1)
        assert 0 < row["errors"]["gru_xp"][0] < 1e-5
    table = (out / "cuda_speed.md").read_text()
    for cells in ("1e+03 | 1e+03", "200 (5.00) | 200 (5.00)", "400 (2.50) | 400 (2.50)"):
        assert table.count(f"| 8 | {cells} |") == 2
    assert table in capsys.readouterr().out
    assert (out / "cuda_speed.png").read_bytes().startswith(b"\x89PNG")


def test_it_goes_on_where_it_ended(script: Any, tmp_path: Path) -> None:
    words = [*TINY, "--numbers", "bfloat16", "--tasks", "forward", "--out", str(tmp_path), "--resume"]
    assert script.main([*words, "--H", "4"], Clock()) == 0
    before = rows_in(tmp_path)
    clock = Clock()
    assert script.main(words, clock) == 0
    assert clock.calls == 2 * 4 * 3  # two points more, four rounds, three engines
    after = rows_in(tmp_path)
    assert after[:2] == before and len(after) == 4


ONE = [*TINY, "--numbers", "float32", "--tasks", "forward", "--H", "4", "--N", "3"]
ROUNDS = 4  # with the one that is not counted


def test_a_wrong_result_is_never_timed(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = gru_xp_torch.GRU.forward

    def wrong(self: Any, *args: Any, **options: Any) -> Any:
        y, h_n = right(self, *args, **options)
        return y * 1.001, h_n

    monkeypatch.setattr(gru_xp_torch.GRU, "forward", wrong)
    clock = Clock()
    assert script.main([*ONE, "--out", str(tmp_path)], clock) == 1
    (row,) = rows_in(tmp_path)
    assert clock.calls == ROUNDS and set(row["microseconds"]) == {"nn.GRU"}
    assert set(row["failed"]) == {"gru_xp", "plain"} and row["failed"]["plain"].startswith(
        "AssertionError: off by [0.00"
    )
    table = (tmp_path / "cuda_speed.md").read_text()
    assert "- failed: float32, forward, H = 4, N = 3, T = 5: gru_xp: AssertionError: off by" in table
    assert script.main([*ONE, "--numbers", "tf32"], Clock()) == 0  # in which that much is nothing


def test_nan_is_wrong(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(script, "errors", lambda found, exact: [float("nan")])
    clock = Clock()
    assert script.main([*ONE, "--out", str(tmp_path)], clock) == 1
    assert clock.calls == 0
    assert len(rows_in(tmp_path)[0]["failed"]) == 3


@pytest.mark.parametrize("when", ["made", "timed"])
def test_an_engine_that_fails_costs_nothing_but_its_own_times(
    when: str, script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = script.Problem.engine

    def engine(self: Any, name: str) -> Any:
        if name == "plain" and when == "made":
            raise torch.OutOfMemoryError("no memory\nand many lines more")
        return made(self, name)

    def clock(run: Callable[[], Any]) -> float:
        if script.os.environ["GRU_XP_KERNELS"] == "off" and when == "timed":
            raise torch.OutOfMemoryError("no memory")
        return 1.0

    monkeypatch.setattr(script.Problem, "engine", engine)
    assert script.main([*ONE, "--out", str(tmp_path)], clock) == 1
    (row,) = rows_in(tmp_path)
    assert row["failed"] == {"plain": "OutOfMemoryError: no memory"}
    assert set(row["microseconds"]) == {"nn.GRU", "gru_xp"}


def test_a_device_that_is_lost_ends_the_run_and_what_was_measured_is_kept(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*args: Any, **options: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    monkeypatch.setattr(script, "Problem", lost)
    monkeypatch.setattr(script, "about", lambda device: {"device": "lost"})
    assert script.main(["--unjudged", *SIZES, "--numbers", "float32", "--out", str(tmp_path)], Clock()) == 1
    (row,) = rows_in(tmp_path)
    assert row["failed"] == {"all": "RuntimeError: CUDA error: an illegal memory access was encountered"}
    assert "go on with --resume" in capsys.readouterr().err


@pytest.mark.parametrize("passed", [True, False])
def test_it_is_judged_before_it_is_timed(
    passed: bool, script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[Any] = []

    def run(command: list[str], *, env: dict[str, str], check: bool) -> Any:
        ran.append((command[1:], env["GRU_XP_REQUIRE"]))
        Path(command[command.index("--json") + 1]).write_text(json.dumps({"passed": passed}))
        return SimpleNamespace(returncode=0 if passed else 1)

    def clock(run: Callable[[], Any]) -> float:
        assert len(ran) == 1
        return 1.0

    monkeypatch.setattr(script, "subprocess", SimpleNamespace(run=run))
    words = [*(word for word in ONE if word != "--unjudged"), "--out", str(tmp_path)]
    assert script.main(words, clock) == (0 if passed else 1)
    kept = tmp_path / "cuda.json"
    judging = [
        "-m",
        "gru_xp_conformance",
        "torch:cuda",
        "cupy",
        "--json",
        str(kept),
        "--html",
        str(tmp_path / "cuda.html"),
    ]
    assert ran == [(judging, "torch:cuda,cupy")]
    assert script.main([*words, "--resume"], clock) == (0 if passed else 1)
    assert len(ran) == 1  # what was judged is kept
    assert len(rows_in(tmp_path)) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_judges_say_that_what_was_promised_did_not_run(
    script: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    assert script.judge(SimpleNamespace(out=None, resume=False)) is False
    told = capfd.readouterr().out
    assert "promised, not run torch:cuda" in told and "promised, not run cupy" in told


def test_what_waits_for_the_device_is_counted(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []

    def set_mode(mode: str) -> None:
        modes.append(mode)
        warnings.warn("Synchronization debug mode does not yet detect all synchronizing operations", stacklevel=1)

    def run() -> None:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    assert script.waits(run) == 2
    assert modes == ["warn", "default"]


def test_tf32_is_for_everybody_and_only_while_it_is_measured(script: Any) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with script.numbers("tf32"):
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
        assert torch.backends.cudnn.rnn.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "tf32"
    with script.numbers("float32"):
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
        assert "tf32" not in (torch.backends.cudnn.rnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


def test_the_whole_grid_is_the_default(script: Any) -> None:
    options = script.arguments([])
    assert options.H == (64, 128, 160, 192, 256, 512, 768, 1024, 2048)
    assert options.N == (1, 8, 16, 32, 64, 128)
    assert (options.T, options.device, options.numbers) == (1024, "cuda", ("float32", "tf32", "bfloat16", "float16"))
    assert script.engines_for("forward", options) == ["nn.GRU", "gru_xp", "plain", "graph"]
    assert script.engines_for("training", options) == ["nn.GRU", "gru_xp", "plain"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_a_line(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert "finds no CUDA device here; nothing was measured" in told.err
