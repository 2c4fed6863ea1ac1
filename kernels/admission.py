"""Who may go in: so many run, so many wait, the rest is refused at once. Who waits takes turns with the others."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from kernels.errors import AigbbError, PoolExhausted

# Seconds that a caller is told to wait, at least and at most.
SOON, LATE = 1, 60
# How much the last execution counts in the mean of how long a place is held.
WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose work it is, by any name. An unlimited one has no share, and one place beyond the limits."""

    name: str = ""
    unlimited: bool = True


ANYBODY = Owner()


def share_of(places: int) -> int:
    """How many of some places one owner may take: three quarters, but at least one and not all."""
    return min(places, max(1, places - max(1, places // 4)))


class Places:
    """So many places, of which each limited owner has a share at most.

    reserve: an unlimited owner who has none gets one beyond the limit.
    """

    def __init__(self, limit: int, *, reserve: bool = False) -> None:
        self.limit = limit
        self._reserve = reserve
        self._share = share_of(limit)
        self._taken: Counter[Owner] = Counter()
        self.total = 0

    def has_room(self, owner: Owner) -> bool:
        """Whether the owner may take a place now."""
        if owner.unlimited:
            return self.total < self.limit or (self._reserve and not self._taken[owner])
        return self.total < self.limit and self._taken[owner] < self._share

    def take(self, owner: Owner) -> None:
        """One more."""
        self._taken[owner] += 1
        self.total += 1

    def free(self, owner: Owner) -> None:
        """One less."""
        self.total -= 1
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]

    @contextmanager
    def kept(self, owner: Owner) -> Iterator[None]:
        """Take a place, and give it back if the block fails."""
        self.take(owner)
        try:
            yield
        except BaseException:
            self.free(owner)
            raise

    def clear(self) -> None:
        """None is taken."""
        self._taken.clear()
        self.total = 0

    def told(self, owner: Owner) -> str:
        """How many there are for an owner, for error messages."""
        if owner.unlimited or self.total >= self.limit:
            return str(self.limit)
        return f"{self._share} of {self.limit}, which is the share of one key,"


class Admission:
    """Lets `running` in at once and `waiting` queue; refuses the rest at once.

    There is a line for each key, first come first served, and the lines take turns: many of one caller are
    no more in the way of another's first than one is. No limited owner takes all places, to run or to wait.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._running = Places(running, reserve=True)
        self._waiting = Places(waiting)
        self._lines: OrderedDict[tuple[str, Owner], deque[asyncio.Future[None]]] = OrderedDict()  # the next one first
        self._since: dict[object, float] = {}
        self.held = 0.0  # seconds that a place is held, on average of late

    @asynccontextmanager
    async def admitted(self, key: str = "", owner: Owner = ANYBODY) -> AsyncIterator[None]:
        """Wait for a place in the key's line, and hold it. Raises PoolExhausted when too many wait."""
        await self._enter(key, owner)
        place = object()
        self._since[place] = began = time.monotonic()
        try:
            yield
        finally:
            del self._since[place]
            held = time.monotonic() - began
            self.held += (held - self.held) * WEIGHT if self.held else held
            self._leave(owner)

    @property
    def load(self) -> tuple[int, int]:
        """How many are inside, and how many wait."""
        return self._running.total, self._waiting.total

    @property
    def full(self) -> bool:
        """Whether the next one would be refused."""
        return self._running.total >= self._running.limit and self._waiting.total >= self._waiting.limit

    def dismiss(self, why: Callable[[], AigbbError]) -> None:
        """Send away all who wait, each with an error of its own."""
        for place in (place for line in self._lines.values() for place in line if not place.done()):
            place.set_exception(why())
        self._lines.clear()
        self._waiting.clear()

    def retry_after(self) -> int:
        """Seconds in which those who wait now have probably been served, from 1 to 60."""
        now = time.monotonic()
        return seconds_for(self._waiting.total + 1, self.held, (now - since for since in self._since.values()))

    async def _enter(self, key: str, owner: Owner = ANYBODY) -> None:
        if self._running.has_room(owner):
            self._running.take(owner)
            return
        if not self._waiting.has_room(owner):
            running, waiting = self._running.told(owner), self._waiting.told(owner)
            detail = f"{running} executions run and {waiting} wait already."
            raise PoolExhausted(detail, retry_after=self.retry_after())
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault((key, owner), deque()).append(place)
        self._waiting.take(owner)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._leave(owner)
            self._forget((key, owner), place)
            raise

    def _leave(self, owner: Owner) -> None:
        """Free a place, and hand out what is free to those who wait."""
        self._running.free(owner)
        while (line := self._next()) is not None:
            self._hand_over(line)

    def _next(self) -> tuple[str, Owner] | None:
        """The first line whose owner may have another place."""
        return next((line for line in self._lines if self._running.has_room(line[1])), None)

    def _hand_over(self, line: tuple[str, Owner]) -> None:
        """Let the first of a line in; the line then goes behind the others."""
        places = self._lines.pop(line)
        place = places.popleft()
        self._waiting.free(line[1])
        if places:
            self._lines[line] = places
        if not place.done():
            self._running.take(line[1])
            place.set_result(None)

    def _forget(self, line: tuple[str, Owner], place: asyncio.Future[None]) -> None:
        """Take out who no longer waits, unless who left in the meantime has passed over him."""
        places = self._lines.get(line, deque())
        if place in places:
            places.remove(place)
            self._waiting.free(line[1])
            if not places:
                del self._lines[line]


def seconds_for(leaving: int, held: float, ages: Iterable[float]) -> int:
    """Seconds in which so many places become free, from 1 to 60.

    held: how long one is held on average. ages: how long those that are taken have been, in seconds; one that
    lasts longer than the average is expected to last as long again.
    """
    rate = sum(1 / max(held, age, 1e-3) for age in ages)
    return min(LATE, max(SOON, math.ceil(leaving / rate))) if rate else SOON
