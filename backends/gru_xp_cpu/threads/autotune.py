"""Autotuning: whether calls of one size are faster on several threads or on one is probed again and again.

A second thread has to be woken, and threads that share rows have a barrier after each step. What that costs depends on
where the system, and the host of a virtual machine, has put the cores for the moment: seen on one machine within
minutes, 2 to 40 microseconds for the one and 0.1 to 0.6 for the other. A call of 90 microseconds on one thread took 77
on two, or 125.

The shares of the work are the same either way, and so is the result.
"""

from __future__ import annotations

__all__ = ["Autotuner"]

#: calls of one way in a probe, and calls from one probe to the next at least
PROBES, PAUSE = 3, 32


class Autotuner:
    """`alone` is what the next call has to be, and `settled()` whether it need not be timed; else `note` its time."""

    def __init__(self) -> None:
        self.alone = False
        self._left, self._times = 0, list[float]()

    def settled(self) -> bool:
        """Count a call; False during a probe."""
        self._left -= 1
        if self._left > 0:
            return True
        self.alone = len(self._times) >= PROBES
        return False

    def note(self, time: float) -> None:
        """The time of a call in a probe: some together, then as many alone."""
        times = self._times
        times.append(time)
        if len(times) < 2 * PROBES:
            return
        together, alone = (sorted(part)[PROBES // 2] for part in (times[:PROBES], times[PROBES:]))
        self.alone = alone < together
        lost = PROBES * (abs(alone - together) / min(alone, together))  # in calls of the faster way
        self._left, self._times = PAUSE + int(100 * lost), []  # so that probes cost a hundredth
