"""The end of a service: no new work, and time for what is going on to come to its own end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Literal, TypeVar

from kernels.errors import ShuttingDown

T = TypeVar("T")

WHY = "The service is shutting down."


class Drain:
    """Counts what is going on. state: open, draining (nothing new is taken), cut (time is up for the rest, too)."""

    def __init__(self) -> None:
        self.state: Literal["open", "draining", "cut"] = "open"
        self._going = 0
        self._changed = asyncio.Event()
        self._haste = 0
        self._awaited: set[asyncio.Timeout] = set()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Something is going on, until it has ended."""
        self._going += 1
        try:
            yield
        finally:
            self._going -= 1
            self._changed.set()

    @property
    def going(self) -> int:
        """How much goes on."""
        return self._going

    def begin(self) -> None:
        """From now on nothing new is taken."""
        self.state = "draining"

    def cut(self) -> None:
        """What goes on now is being ended."""
        self.state = "cut"
        for waiting in self._awaited:
            waiting.reschedule(asyncio.get_running_loop().time())

    def hasten(self) -> None:
        """Let the wait that goes on, or the next one, be over at once."""
        self._haste += 1
        self._changed.set()

    async def until_cut(self, events: AsyncGenerator[T]) -> AsyncGenerator[T]:
        """The same events, until time is up: who makes them is cancelled then. Raises ShuttingDown."""
        async with aclosing(events):
            while True:
                try:
                    async with asyncio.timeout(0 if self.state == "cut" else None) as waiting:
                        self._awaited.add(waiting)
                        event = await anext(events)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if waiting.expired():
                        raise refusal() from None
                    raise
                finally:
                    self._awaited.discard(waiting)
                yield event

    async def quiet(self, seconds: float) -> bool:
        """Wait until nothing goes on, so long at most, or until somebody is in a hurry. Whether all is quiet."""
        try:
            async with asyncio.timeout(seconds):
                while self._going and not self._haste:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        if self._going:
            self._haste -= 1  # which ended this wait, and no other
        return not self._going


def refusal() -> ShuttingDown:
    """What new work is told, and work that was cut off."""
    return ShuttingDown(WHY, retry_after=5)
