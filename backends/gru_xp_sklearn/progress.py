"""The progress bar of `verbose=1`."""

from __future__ import annotations

from importlib.util import find_spec
from types import TracebackType
from typing import Any

__all__ = ["Progress"]


class Progress:
    """A context that shows epochs, the loss and the score on standard error, or nothing at all if it is not `shown`."""

    def __init__(self, epochs: int, *, shown: bool):
        self._bar: Any = None
        if shown:
            _assert_rich()
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            self._bar = Bar(TextColumn("epoch"), *columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=epochs)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def epoch(self, loss: float, score: float | None) -> None:
        """One more epoch is done."""
        if self._bar is not None:
            words = f"loss {loss:.4f}" + ("" if score is None else f"  held out {score:.4f}")
            self._bar.update(self._task, advance=1, description=words)


def _assert_rich() -> None:
    if find_spec("rich") is None:
        raise ImportError(
            "verbose: the progress bar needs the library rich, which is missing; install it (python -m pip install "
            "'gru-xp[sklearn]') or give verbose=0"
        )
