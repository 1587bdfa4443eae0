"""How many threads the kernels on a CPU may use, as far as somebody has said so."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .errors import RangeError, StructureError, VariableError

__all__ = ["MOST_THREADS", "choose", "num_threads", "thread_limit"]

MOST_THREADS = 64
NUM_THREADS, OMP_NUM_THREADS = "GRU_XP_NUM_THREADS", "OMP_NUM_THREADS"
#: what OpenMP takes: a positive number for each level of nesting, of which the first counts here
LIST = re.compile(r"\s*\+?0*([1-9][0-9]*)\s*(,\s*\+?0*[1-9][0-9]*\s*)*", re.ASCII)
_context: ContextVar[int | None] = ContextVar("gru_xp_num_threads", default=None)


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Within this context the kernels on a CPU use at most `n` threads, 1 to 64, whatever the variables say.

    It is local to the context: other threads and other asyncio tasks are not affected. A function that `jax.jit` has
    compiled keeps the number of threads with which it was traced. PyTorch's tensors are computed on PyTorch's threads,
    so on no more than `torch.get_num_threads()`.

    Raises StructureError if n is not an integer, RangeError if it is outside 1 to 64.

    >>> import numpy, gru_xp
    >>> gru = gru_xp.GRU(16, 32, seed=0)
    >>> with gru_xp.num_threads(1):
    ...     y, h_n = gru(numpy.zeros((5, 2, 16), numpy.float32))
    """
    token = _context.set(_checked(n))
    try:
        yield
    finally:
        _context.reset(token)


def choose(n: int | None) -> None:
    """As `num_threads` for the rest of the present context; None for what the variables say."""
    _context.set(n if n is None else _checked(n))


def thread_limit() -> int | None:
    """The number of threads from `num_threads`, GRU_XP_NUM_THREADS or OMP_NUM_THREADS, in this order; None without.

    What OpenMP ignores in its variable is ignored here: it is another program's, and may be meant for another library.
    """
    chosen = _context.get()
    if chosen is not None:
        return chosen
    if text := os.environ.get(NUM_THREADS):
        if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= MOST_THREADS:
            raise VariableError(f"{NUM_THREADS}: expected a number from 1 to {MOST_THREADS}, got {text!r}")
        return int(text)
    if (text := os.environ.get(OMP_NUM_THREADS)) and (found := LIST.fullmatch(text)) and len(found[1]) < 10:
        return min(int(found[1]), MOST_THREADS)
    return None


def _checked(n: int) -> int:
    try:
        number = operator.index(n)
    except TypeError:
        raise StructureError(f"n: expected an integer, got {type(n).__name__} {n!r}") from None
    if not 1 <= number <= MOST_THREADS:
        raise RangeError(f"n: expected a number of threads from 1 to {MOST_THREADS}, got {number}")
    return number
