"""Executions as records: who asked, how far they are, what they have put out; some are kept for those who come back."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from kernels.kernel import Kernel
from kernels.outputs import Display, Done, Error, Execution, Output, Result, Returned, Status, Stream, fold_all
from server.callers import Caller
from server.errors import AigbbError, ExecutionNotFound
from server.observing import Executed

State = Literal["queued", "starting", "running", "failed"] | Status

# Characters of output in all that is kept.
KEPT_OUTPUT = 64 * 1024 * 1024
# What an entry costs beside its text.
_ENTRY = 64


@dataclass(frozen=True, slots=True)
class Queued:
    """It was asked for: it waits for a place, or for its session."""


@dataclass(frozen=True, slots=True)
class Started:
    """It has a kernel, and runs."""


@dataclass(frozen=True, slots=True)
class Cut:
    """So many entries are gone, the oldest ones: too much was kept."""

    entries: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The last entry: how it ended is in the record."""


Entry = Queued | Started | Cut | Output | AigbbError | Ended


@dataclass
class Log:
    """What happened in an execution, in order, numbered from 1. weight: about how many characters that is."""

    entries: list[Entry] = field(default_factory=list)
    gone: int = 0  # entries that were cut
    weight: int = 0

    @property
    def last(self) -> int:
        """The number of the newest entry."""
        return self.gone + len(self.entries)

    def add(self, entry: Entry) -> int:
        """One more. Returns what it weighs."""
        self.entries.append(entry)
        weight = _weight(entry)
        self.weight += weight
        return weight

    def after(self, number: int) -> list[tuple[int, Entry]]:
        """Those with higher numbers, after one that says how many of them are gone."""
        found: list[tuple[int, Entry]] = []
        if number < self.gone:
            found.append((self.gone, Cut(self.gone - number)))
        start = max(number, self.gone)
        found += enumerate(self.entries[start - self.gone :], start + 1)
        return found

    def cut(self, weight: int) -> int:
        """Forget the oldest entries until the rest weighs no more than that. Returns what was lost."""
        before, count = self.weight, 0
        while count < len(self.entries) and self.weight > weight:
            self.weight -= _weight(self.entries[count])
            count += 1
        del self.entries[:count]
        self.gone += count
        return before - self.weight


@dataclass(eq=False)
class Running:
    """One execution, from when it was asked for. One task writes it, anybody may follow.

    kept: it stays known when it has ended. function: what is called; None for code. kernel: the name of what it runs
    on, None before. answer: what the request would have been answered, where it goes on by itself. Times are seconds
    since 1970, or milliseconds.
    """

    caller: Caller
    session: str | None = None
    function: str | None = None
    kept: bool = False
    id: str = field(default_factory=lambda: f"ex_{os.urandom(8).hex()}")
    queued: float = field(default_factory=time.time)
    log: Log = field(default_factory=Log)
    kernel: str | None = None
    done: Done | None = None
    problem: AigbbError | None = None
    answer: Any = None
    grown: Callable[[int], None] | None = None
    _asked: float = field(default_factory=time.perf_counter)
    _admitted: float | None = None
    _placed: float | None = None
    _over: float | None = None
    _cancelled: bool = False
    _scope: asyncio.Timeout | None = None
    _on: Kernel | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._note(Queued())

    # -- what is known of it

    @property
    def state(self) -> State:
        """What it does now, or how it ended; `failed` where `problem` says why it gave no answer."""
        if self._over is None:
            return "queued" if self._admitted is None else "starting" if self._placed is None else "running"
        return self.done.status if self.done is not None else "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._over is not None

    @property
    def started_at(self) -> float | None:
        """When it had its kernel."""
        return self._moment(self._placed)

    @property
    def ended_at(self) -> float | None:
        """When it ended."""
        return self._moment(self._over)

    @property
    def queue_ms(self) -> float:
        """How long it waited for a place, so far while it does."""
        return self._between(self._asked, self._admitted) or 0.0

    @property
    def start_ms(self) -> float | None:
        """How long a kernel was looked for, or started."""
        return self._between(self._admitted, self._placed)

    @property
    def run_ms(self) -> float | None:
        """How long it has been on its kernel."""
        return self._between(self._placed, None)

    @property
    def execution(self) -> Execution:
        """Its items as one value. While it runs: those so far."""
        items = [e for e in self.log.entries if not isinstance(e, (Queued, Started, Cut, Ended, AigbbError))]
        return fold_all([*items, self.done] if self.done is not None else items)

    @property
    def weight(self) -> int:
        """About how many characters it holds; an answer says the same once more."""
        return self.log.weight * (1 if self.answer is None else 2)

    # -- for who follows it

    async def follow(self, after: int = 0, pause: float | None = None) -> AsyncGenerator[tuple[int, Entry | None]]:
        """Entries after a number, as they come, up to the last one, which is always told.

        pause: seconds after which (number, None) is told where nothing happens.
        """
        at = min(after, self.log.last - self.ended)
        while True:
            for number, entry in self.log.after(at):
                yield number, entry
                if isinstance(entry, Ended):
                    return
                at = number
            if at == self.log.last and not await self.change(pause):
                yield at, None

    async def change(self, seconds: float | None) -> bool:
        """Wait for the next entry. Returns whether there was one in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._changed.wait()
        return False

    async def over(self, seconds: float | None = None) -> None:
        """Wait until it has ended, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.ended:
                    await self._changed.wait()

    def cancel(self) -> None:
        """Bring it to its end, wherever it is; it then ends as `cancelled`, unless its end was near anyway."""
        self._cancelled = True
        if self._scope is None or self.done is not None:
            return  # not begun; or over, and its kernel may be busy with another one
        if self._on is not None:
            self._on.cancel()
        elif not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    # -- for who drives it

    async def drive(self, stream: AsyncGenerator[tuple[Kernel, Output]]) -> Execution:
        """Take what the pool does to its end. Raises what the pool raises; a cancellation of its own is no error."""
        if self._cancelled:
            await stream.aclose()
            self.done = _NEVER
        else:
            await self._take(stream)
        return self.execution

    def reached(self, kernel: Kernel | None) -> None:
        """It was let in, without a kernel; then it has one: see `pool.Reached`."""
        now = time.perf_counter()
        if kernel is None:
            self._admitted = now
        else:
            self._on, self.kernel, self._placed = kernel, kernel.name, now
            self._note(Started())

    def executed(self, kind: str, outcome: str, versions: Sequence[object]) -> Executed:
        """What is told of it when it is over: of which kind it was, what became of it, and what it called."""
        return Executed(
            kind,
            outcome,
            self._asked,
            self._admitted,
            self._placed,
            time.perf_counter(),
            tuple(map(str, versions)),
            self.session,
            self.kernel,
            self.id,
        )

    def end(self, problem: AigbbError | None = None) -> None:
        """Nothing more will come. problem: why there is no answer; without one it ended, or was left by its caller."""
        self._over = time.perf_counter()
        if problem is not None:
            self.problem, self.done = problem, None
            self._note(problem)
        elif self.done is None:
            self.done = _LEFT
        self._note(Ended())

    async def _take(self, stream: AsyncGenerator[tuple[Kernel, Output]]) -> None:
        # The scope is left early, as if its time were up, when it is cancelled before it has a kernel.
        self._scope = asyncio.timeout(None)
        try:
            async with self._scope, aclosing(stream):
                async for _, item in stream:
                    if isinstance(item, Done):
                        self.done = item
                    else:
                        self._note(item)
        except TimeoutError:
            if self._scope is None or not self._scope.expired():
                raise
            self.done = self.done or _NEVER
        finally:
            self._scope = self._on = None

    def _note(self, entry: Entry) -> None:
        weight = self.log.add(entry)
        self._changed.set()
        self._changed.clear()
        if self.grown is not None:
            self.grown(weight)

    def _moment(self, reading: float | None) -> float | None:
        return None if reading is None else self.queued + reading - self._asked

    def _between(self, start: float | None, end: float | None) -> float | None:
        """Milliseconds; up to its end, or now, where the second is not known."""
        if start is None:
            return None
        last = end or self._over or time.perf_counter()
        return round((last - start) * 1000, 3)


_NEVER = Done("cancelled", detail="It was cancelled before it had a kernel.")
_LEFT = Done("cancelled", detail="Nobody waited for it any more.")


@dataclass(frozen=True)
class Keep:
    """How much is kept of those that have ended: how many, for how many seconds; and characters in all."""

    count: int
    seconds: float
    weight: int = KEPT_OUTPUT


class Records:
    """All that live, and those that have ended and are kept. Its timers end with `close`."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._live: dict[str, Running] = {}
        self._kept: dict[str, Running] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._weight = 0

    @property
    def live(self) -> list[Running]:
        """Those that have not ended, oldest first."""
        return list(self._live.values())

    def seen_by(self, caller: Caller) -> list[Running]:
        """Those that a caller may see, newest first."""
        found = [one for one in (*self._live.values(), *self._kept.values()) if caller.sees(one.caller.key)]
        return sorted(found, key=lambda one: one.queued, reverse=True)

    def find(self, identity: str, caller: Caller) -> Running:
        """One of them. Raises ExecutionNotFound."""
        found = self._live.get(identity) or self._kept.get(identity)
        if found is None or not caller.sees(found.caller.key):
            raise ExecutionNotFound(f"There is no execution {identity[:80]!r}.")
        return found

    @contextmanager
    def living(self, running: Running) -> Iterator[Running]:
        """An execution that lives in the block, and ends with it."""
        self._live[running.id] = running
        if running.kept:
            running.grown = self._grow
            self._grow(running.weight)
        try:
            yield running
        except AigbbError as error:
            running.end(error)
            raise
        except asyncio.CancelledError:
            running.end()
            raise
        finally:
            self._leave(running)

    def forget(self, identity: str) -> None:
        """Drop one that has ended."""
        if (running := self._kept.pop(identity, None)) is not None:
            self._timers.pop(identity).cancel()
            self._weight -= running.weight

    def close(self) -> None:
        """Drop all that have ended."""
        for identity in list(self._kept):
            self.forget(identity)

    def _leave(self, running: Running) -> None:
        if not running.ended:
            running.end(None if running.done is not None else _bug())
        del self._live[running.id]
        running.grown = None
        if running.kept:
            self._kept[running.id] = running
            loop = asyncio.get_running_loop()
            self._timers[running.id] = loop.call_later(self._keep.seconds, self.forget, running.id)
            self._grow(running.weight - running.log.weight, spared=1)

    def _grow(self, weight: int, spared: int = 0) -> None:
        """Stay within the bounds: the oldest that have ended go first, then the beginning of a long one."""
        self._weight += weight
        while len(self._kept) > self._keep.count or (self._weight > self._keep.weight and len(self._kept) > spared):
            self.forget(next(iter(self._kept)))
        if self._weight > self._keep.weight:
            longest = max(self._live.values(), key=lambda one: one.log.weight * one.kept, default=None)
            if longest is not None and longest.kept:
                self._weight -= longest.log.cut(longest.log.weight // 2)


def _bug() -> AigbbError:
    return AigbbError("Something went wrong inside.", hint="This is a fault of the service; its log has the details.")


def _weight(entry: Entry) -> int:
    match entry:
        case Stream():
            return _ENTRY + len(entry.text)
        case Display() | Result():
            return _ENTRY + _size(entry.data) + _size(entry.metadata)
        case Error():
            return _ENTRY + len(entry.evalue) + sum(map(len, entry.traceback))
        case Returned():
            return _ENTRY + len(entry.content) + _size({"": entry.value})
    return _ENTRY


def _size(data: Mapping[str, Any]) -> int:
    return sum(len(value if isinstance(value, str) else json.dumps(value)) for value in data.values())
