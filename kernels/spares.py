"""Clean kernels kept ready: as many as were needed lately, and none that is too old."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import structlog

from kernels.errors import AigbbError
from kernels.kernel import Kernel

log = structlog.get_logger(__name__)

# More starts at once would only take the processor from each other, and from what runs.
AT_ONCE = os.cpu_count() or 1
# Seconds until one that was taken is replaced while others wait: most executions are over by then.
PAUSE = 0.015


@dataclass(frozen=True, slots=True)
class Stock:
    """How many spares are kept: at least, and at most while they are in demand.

    unneeded_seconds: after which those that nobody needed are stopped. max_age: in seconds, after which
    one is replaced.
    """

    least: int
    most: int
    unneeded_seconds: float
    max_age: float


class Spares:
    """The clean kernels that wait, oldest first. What they do in the background is given to `spawn`.

    make starts one that is ready for its first task. serves says whether one may be handed out. cheap says
    whether they are made quickly now: only then are there more than the least.
    """

    def __init__(
        self,
        stock: Stock,
        make: Callable[[], Awaitable[Kernel]],
        serves: Callable[[Kernel], bool],
        cheap: Callable[[], bool],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._stock = stock
        self._make = make
        self._serves = serves
        self._cheap = cheap
        self._spawn = spawn
        self._waiting: deque[tuple[Kernel, float]] = deque()  # with the time since when
        self._starting = 0
        self._unneeded = 0
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._due: asyncio.TimerHandle | None = None
        self.wanted = stock.least

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Kernel]:
        return iter([kernel for kernel, _ in self._waiting])

    def open(self) -> None:
        """From now on a timer sees to those that nobody needs, that are too old, or that have died.

        The first kernel opens them: before there is one, nothing serves that another could be started of.
        """
        if self._timer is None and not self._closed:
            self._arm()

    def _arm(self) -> None:
        every = min(self._stock.unneeded_seconds, self._stock.max_age)
        self._timer = asyncio.get_running_loop().call_later(every, self._review)

    def close(self) -> None:
        """Make no more, and let go of those that wait: their owner stops them."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._due is not None:
            self._due.cancel()
        self._timer = self._due = None
        self._waiting.clear()

    def put(self, kernel: Kernel) -> None:
        """Add a clean kernel that is taken before the others."""
        self.open()
        self._waiting.appendleft((kernel, time.monotonic()))

    def take(self) -> Kernel | None:
        """A clean kernel, or None if none waits. Call `refill_soon` after it."""
        self.open()
        taken = None
        while self._waiting and taken is None:
            kernel, _ = self._waiting.popleft()
            if self._serves(kernel):
                taken = kernel
            else:
                self._spawn(kernel.stop())
        if not self._waiting and self._cheap():
            self.wanted = min(self.wanted + 1, self._stock.most)
        # One that is left is no more than the next one needs.
        self._unneeded = min(self._unneeded, max(0, len(self._waiting) - 1))
        return taken

    def sweep(self) -> None:
        """Stop those that may not be handed out any more."""
        for spare in [spare for spare in self._waiting if not self._serves(spare[0])]:
            self._waiting.remove(spare)
            self._spawn(spare[0].stop())

    def refill_soon(self) -> None:
        """As `refill`, but while others wait only once what was taken has had the processor to itself."""
        if not self._waiting:
            self.refill()
        elif self._due is None and self._timer is not None:
            self._due = asyncio.get_running_loop().call_later(PAUSE, self.refill)

    def refill(self) -> None:
        """Have as many started as are wanted, a few at a time. Those that are too old wait until others are there."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._timer is None:
            return
        born = time.monotonic() - self._stock.max_age
        fresh = sum(since > born for _, since in self._waiting)
        missing = (self.wanted if self._cheap() else self._stock.least) - fresh
        for _ in range(min(missing, AT_ONCE) - self._starting):
            self._starting += 1
            self._spawn(self._add())

    async def _add(self) -> None:
        try:
            kernel = await self._make()
        except AigbbError as error:
            # The next execution starts its own kernel, and tells its caller if that fails too.
            if self._timer is not None:
                log.warning("pool.spare_failed", error=error.detail)
            return
        finally:
            self._starting -= 1
        lives = kernel.state == "idle"
        if self._timer is not None and self._serves(kernel):
            self._waiting.append((kernel, time.monotonic()))
            self._trim(1)
        else:
            await kernel.stop()
        if lives:  # else the next one would die as well, and so on
            self.refill()

    def _review(self) -> None:
        """What the timer does."""
        self.wanted = max(self._stock.least, self.wanted - self._unneeded)
        self.sweep()
        self._trim(self._unneeded)
        self._unneeded = len(self._waiting)
        self._arm()
        self.refill()

    def _trim(self, count: int) -> None:
        """Stop the oldest of more than are wanted, so many at most."""
        for _ in range(min(count, len(self._waiting) - self.wanted)):
            kernel, _ = self._waiting.popleft()
            self._spawn(kernel.stop())
