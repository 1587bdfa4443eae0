"""The benchmark for GPUs, on the CPU at tiny sizes and with a clock of its own: what it checks, counts and writes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gru_xp_torch

SCRIPT = Path(__file__).parents[1] / "conformance" / "benchmarks" / "cuda.py"
TINY = ["--device", "cpu", "--H", "4,8", "--N", "1,3", "--T", "5", "--rounds", "3", "--warmup", "1"]


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


def test_it_writes_medians_without_the_warmup_a_table_and_a_picture(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed"
    assert script.main([*TINY, "--numbers", "float32", "--out", str(out)], Clock()) == 0
    told = json.loads((tmp_path / "speed.json").read_text())
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
    table = (tmp_path / "speed.md").read_text()
    assert table.count("| 8 | 200 (5.00) | 200 (5.00) |") == 2
    assert table in capsys.readouterr().out
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_it_goes_on_where_it_ended(script: Any, tmp_path: Path) -> None:
    words = [*TINY, "--numbers", "bfloat16", "--tasks", "forward", "--out", str(tmp_path / "speed"), "--resume"]
    assert script.main([*words, "--H", "4"], Clock()) == 0
    before = json.loads((tmp_path / "speed.json").read_text())["rows"]
    clock = Clock()
    assert script.main(words, clock) == 0
    assert clock.calls == 2 * 4 * 3  # two points more, four rounds, three engines
    after = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert after[:2] == before and len(after) == 4


def test_a_wrong_result_is_never_timed(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = gru_xp_torch.GRU.forward

    def wrong(self: Any, *args: Any, **options: Any) -> Any:
        y, h_n = right(self, *args, **options)
        return y * 1.001, h_n

    monkeypatch.setattr(gru_xp_torch.GRU, "forward", wrong)
    clock = Clock()
    with pytest.raises(AssertionError, match=r"float32, forward, H = 4, N = 1, T = 5: gru_xp is off by"):
        script.main([*TINY, "--numbers", "float32"], clock)
    assert clock.calls == 0


def test_tf32_is_for_everybody_and_only_while_it_is_measured(script: Any) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with script.numbers("tf32"):
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
    with script.numbers("float32"):
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
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
