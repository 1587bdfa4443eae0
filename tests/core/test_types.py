"""What a type checker finds in a user's file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RIGHT = """
import numpy as np
import gru_xp
w = gru_xp.CellParams(np.zeros((12, 3)), np.zeros((12, 4)))
y, h_n = gru_xp.gru(np.zeros((7, 2, 3)), ((w,),), lengths=[7, 5])
print(y[0].tolist(), gru_xp.GRU(3, 4)(np.zeros((7, 2, 3), np.float32))[1].tolist())
"""
WRONG = {
    'gru_xp.gru("not an array", 17)': ("type-var", "arg-type"),
    'gru_xp.GRUSpec(padding="nonsense")': ("arg-type",),
    'gru_xp.GRU(3, 4, initializer="nonsense")': ("arg-type",),
    'gru_xp.gru_forward(np.zeros((7, 2, 3)), ((w,),), save="nonsense")': ("arg-type",),
}


def test_a_type_checker_finds_wrong_arguments_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    user = tmp_path / "user.py"
    user.write_text(RIGHT + "\n".join(WRONG) + "\n")
    mypy = [sys.executable, "-m", "mypy", "--no-error-summary", "--cache-dir", str(tmp_path), str(user)]
    ended = subprocess.run(mypy, capture_output=True, text=True, cwd=tmp_path, check=False)
    found = [line for line in ended.stdout.splitlines() if "error:" in line]
    first = RIGHT.count("\n") + 1
    wanted = [(first + index, code) for index, codes in enumerate(WRONG.values()) for code in codes]
    got = [(int(line.split(":")[1]), line.rpartition("[")[2].rstrip("]")) for line in found]
    assert sorted(got) == sorted(wanted), ended.stdout
