"""Training logs: what was written is read, in any library, after a resumed run and after a killed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import LIBRARIES, random_params, to_library

from gru_xp.errors import FileFormatError, StructureError
from gru_xp.training import leaves, log_step, map_tree, names, read_log


@pytest.mark.parametrize("library", LIBRARIES)
def test_norms_and_figures_of_every_library(tmp_path: Path, library: str) -> None:
    gradients = {"gru": random_params(np.random.default_rng(0), 3, 4, L=2, bias=True, dtype="f4")}
    theirs = map_tree(lambda a: to_library(library, a), gradients)
    log_step(tmp_path / "run.jsonl", 7, theirs, loss=to_library(library, np.array(0.5, "f4")), rate=1e-3)
    (entry,) = read_log(tmp_path / "run.jsonl")
    assert entry["step"] == 7 and entry["loss"] == 0.5 and entry["rate"] == 1e-3
    assert list(entry["norms"]) == names(gradients)
    expected = [np.linalg.norm(a.astype("f8")) for a in leaves(gradients)]
    np.testing.assert_allclose(list(entry["norms"].values()), expected, rtol=1e-6)


def test_the_later_line_of_a_step_counts_and_an_unfinished_last_line_does_not(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    for step, norm in ((0, 1.0), (1, 2.0), (2, np.inf), (1, 4.0)):
        log_step(path, step, {"W": np.array([norm])})
    with open(path, "a") as file:
        file.write('{"step": 3, "nor')
    assert [(entry["step"], entry["norms"]["W"]) for entry in read_log(path)] == [(0, 1.0), (1, 4.0), (2, np.inf)]


@pytest.mark.parametrize(
    "line",
    ["no json", "[1]", '{"step": 1}', '{"step": "a", "norms": {}}', '{"step": 1, "norms": {"W": []}}', "[" * 100_000]
    + ['{"step": 1, "norms": {"W": 1}, "loss": "small"}', '{"step": 1e999, "norms": {}}'],
)
def test_a_line_of_another_kind_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "run.jsonl"
    log_step(path, 0, {"W": np.ones(1)})
    with open(path, "a") as file:
        file.write(line + "\n")
    with pytest.raises(FileFormatError, match="line 2 is no line of a training log"):
        read_log(path)


@pytest.mark.parametrize("step", [True, 1.0, "1", None])
def test_a_step_is_an_integer(tmp_path: Path, step: Any) -> None:
    with pytest.raises(StructureError, match="step: expected an integer"):
        log_step(tmp_path / "run.jsonl", step, {})
