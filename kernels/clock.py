"""Seconds that a jump of the machine's date does not touch."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SteadyClock:
    """Counts on from the date at its making, whatever becomes of the date since then: seconds since 1970.

    What is kept longer than the process is compared by it too, so only a start with a wrong date can mislead it.
    """

    def __init__(self) -> None:
        self._offset = time.time() - _elapsed()

    def now(self) -> float:
        """The moment."""
        return self._offset + _elapsed()

    def as_date(self, moment: float) -> datetime:
        """A moment of this clock by the date as the machine has it now: what people are shown. UTC."""
        return datetime.fromtimestamp(moment + time.time() - self.now(), UTC)


def as_time(seconds: float) -> str:
    """A moment given in seconds since 1970: UTC, ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _elapsed() -> float:
    """Seconds since the machine began, also those that it slept, where the system counts them."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
