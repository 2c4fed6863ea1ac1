"""Who may go in: so many run, so many wait, the rest is refused at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from kernels.errors import PoolExhausted


class Admission:
    """Lets `running` in at once and `waiting` queue, first come first served; refuses the rest at once."""

    def __init__(self, running: int, waiting: int) -> None:
        self._running = running
        self._waiting = waiting
        self._inside = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Wait for a place and hold it. Raises PoolExhausted when the queue is full."""
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    @property
    def load(self) -> tuple[int, int]:
        """How many are inside, and how many wait."""
        return self._inside, len(self._queue)

    @property
    def full(self) -> bool:
        """Whether the next one would be refused."""
        return self._inside >= self._running and len(self._queue) >= self._waiting

    async def _enter(self) -> None:
        if self._inside < self._running:
            self._inside += 1
            return
        if self.full:
            raise PoolExhausted(f"{self._running} executions run and {self._waiting} wait already.", retry_after=1)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()
            with suppress(ValueError):  # who left in the meantime has passed over us
                self._queue.remove(place)
            raise

    def _leave(self) -> None:
        """Hand the place to the next in the queue."""
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._inside -= 1
