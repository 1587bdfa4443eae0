"""A training log: the norms of gradients and figures such as the loss, a line of JSON for each step.

`gru-xp look --log` draws it.
"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from array_api_compat import array_namespace

from gru_xp.errors import FileFormatError, StructureError

from .trees import leaves, names

__all__ = ["log_step", "read_log"]


def log_step(path: str | PathLike[str], step: int, gradients: Any, **figures: Any) -> None:
    """Append a line to a training log: the step, the norm of each gradient and the figures.

    Args:
        path: of the file, which is made if it is missing.
        step: the number of the step. After a resumed run has written a number again, the later line counts.
        gradients: a tree of arrays, before clipping: a norm that grows or vanishes is what the log is for.
        figures: such as loss=loss, numbers or arrays of shape ().

    >>> import numpy as np, tempfile
    >>> path = tempfile.mkdtemp() + "/run.jsonl"
    >>> log_step(path, 0, {"W": np.array([3.0, 4.0])}, loss=2.5)
    >>> read_log(path)
    [{'step': 0, 'norms': {'W': 5.0}, 'loss': 2.5}]
    """
    if isinstance(step, bool) or not hasattr(step, "__index__"):
        raise StructureError(f"step: expected an integer, got {step!r}")
    norms = {name: _norm(array) for name, array in zip(names(gradients), leaves(gradients), strict=True)}
    line = {"step": int(step), "norms": norms} | {name: float(figure) for name, figure in figures.items()}
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_log(path: str | PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a training log as dicts, in the order of their steps; of one step the last.

    A last line that a killed process left unfinished is skipped.

    Raises:
        FileFormatError: another line is none of `log_step`'s; the message has its number.
    """
    found: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(keepends=True), 1):
        try:
            entry = json.loads(line)
            figures = {name: float(figure) for name, figure in entry.items() if name not in ("step", "norms")}
            norms = {name: float(norm) for name, norm in entry["norms"].items()}
            found[int(entry["step"])] = {"step": int(entry["step"]), "norms": norms, **figures}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            if not line.endswith("\n"):
                break
            raise FileFormatError(f"{path}: line {number} is no line of a training log ({str(error)[:100]})") from None
    return [found[step] for step in sorted(found)]


def _norm(gradient: Any) -> float:
    xp = array_namespace(gradient)
    return float(xp.sqrt(xp.sum(gradient * gradient)))
