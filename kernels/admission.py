"""Who may go in: so many run, so many wait, the rest is refused at once. Who waits takes turns with the others."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from kernels.errors import AigbbError, PoolExhausted

# Seconds that a caller is told to wait, at least and at most.
SOON, LATE = 1, 60
# How much the last execution counts in the mean of how long a place is held.
WEIGHT = 0.2


class Admission:
    """Lets `running` in at once and `waiting` queue; refuses the rest at once.

    There is a line for each key, first come first served, and the lines take turns: many of one caller are
    no more in the way of another's first than one is.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._running = running
        self._limit = waiting
        self._inside = 0
        self._waiting = 0
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # the next one first
        self._since: dict[object, float] = {}
        self.held = 0.0  # seconds that a place is held, on average of late

    @asynccontextmanager
    async def admitted(self, key: str = "") -> AsyncIterator[None]:
        """Wait for a place in the key's line, and hold it. Raises PoolExhausted when too many wait."""
        await self._enter(key)
        place = object()
        self._since[place] = began = time.monotonic()
        try:
            yield
        finally:
            del self._since[place]
            held = time.monotonic() - began
            self.held += (held - self.held) * WEIGHT if self.held else held
            self._leave()

    @property
    def load(self) -> tuple[int, int]:
        """How many are inside, and how many wait."""
        return self._inside, self._waiting

    @property
    def full(self) -> bool:
        """Whether the next one would be refused."""
        return self._inside >= self._running and self._waiting >= self._limit

    def dismiss(self, why: Callable[[], AigbbError]) -> None:
        """Send away all who wait, each with an error of its own."""
        for place in (place for line in self._lines.values() for place in line if not place.done()):
            place.set_exception(why())
        self._lines.clear()
        self._waiting = 0

    def retry_after(self) -> int:
        """Seconds in which those who wait now have probably been served, from 1 to 60."""
        now = time.monotonic()
        return seconds_for(self._waiting + 1, self.held, (now - since for since in self._since.values()))

    async def _enter(self, key: str) -> None:
        if self._inside < self._running:
            self._inside += 1
            return
        if self.full:
            detail = f"{self._running} executions run and {self._limit} wait already."
            raise PoolExhausted(detail, retry_after=self.retry_after())
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(key, deque()).append(place)
        self._waiting += 1
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._leave()
            self._forget(key, place)
            raise

    def _leave(self) -> None:
        """Hand the place to the first of the next line, which then goes behind the others."""
        while self._lines:
            key, line = self._lines.popitem(last=False)
            place = line.popleft()
            self._waiting -= 1
            if line:
                self._lines[key] = line
            if not place.done():
                place.set_result(None)
                return
        self._inside -= 1

    def _forget(self, key: str, place: asyncio.Future[None]) -> None:
        """Take out who no longer waits, unless who left in the meantime has passed over him."""
        line = self._lines.get(key, deque())
        if place in line:
            line.remove(place)
            self._waiting -= 1
            if not line:
                del self._lines[key]


def seconds_for(leaving: int, held: float, ages: Iterable[float]) -> int:
    """Seconds in which so many places become free, from 1 to 60.

    held: how long one is held on average. ages: how long those that are taken have been, in seconds; one that
    lasts longer than the average is expected to last as long again.
    """
    rate = sum(1 / max(held, age, 1e-3) for age in ages)
    return min(LATE, max(SOON, math.ceil(leaving / rate))) if rate else SOON
