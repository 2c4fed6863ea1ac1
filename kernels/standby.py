"""A child process that is started before it is needed: its own imports take longer than what it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

from kernels.sandbox import Child


class Standby:
    """Keeps at most one child waiting. `async with Standby(start)` owns it; start makes one."""

    def __init__(self, start: Callable[[], Awaitable[Child]]) -> None:
        self._start = start
        self._next: asyncio.Task[Child] | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        await self.drop()

    def refill(self, after: float = 0.0) -> None:
        """Have one started, in so many seconds: starting a process takes time that others may need now."""
        if self._soon is not None:
            self._soon.cancel()
        self._soon = asyncio.get_running_loop().call_later(after, self._begin)

    async def take(self) -> Child:
        """The one that waits, else a new one; its taker ends it. Raises OSError where none can be started."""
        while (task := self._next) is not None:
            await asyncio.wait([task])
            if self._next is task:
                self._next = None
                if task.exception() is None and task.result().process.returncode is None:
                    return task.result()
                await _stop(task)
        return await self._start()

    async def drop(self) -> None:
        """End the one that waits: what it was started for is no more."""
        if self._soon is not None:
            self._soon.cancel()
        if (task := self._next) is not None:
            self._next = None
            await asyncio.wait([task])
            await _stop(task)

    def _begin(self) -> None:
        if self._next is None and not self._closed:
            self._next = asyncio.create_task(self._make())

    async def _make(self) -> Child:
        return await self._start()


async def _stop(task: asyncio.Task[Child]) -> None:
    with suppress(OSError):
        await task.result().stop()
