"""What a kernel can be asked to do, and the state of it while it does."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from kernels.messages import clean_json
from kernels.outputs import Cap, Done, Error, Output

CALL = "aigbb_call"


@dataclass(frozen=True)
class Given:
    """What a kernel is told before a task and never shows: variables for its environment, by name.

    names are those that functions may wait for from now on: also those that have no value. code are the sources that
    may run with them, SHA-256 by function: a kernel that has others takes no value. once: it does this task only, and
    keeps those functions until it ends.
    """

    values: Mapping[str, str] = field(repr=False)
    names: tuple[str, ...]
    code: Mapping[str, str] = field(default_factory=dict)
    once: bool = False

    def message(self) -> dict[str, Any]:
        """Return the content of the request, as `inside.calling` takes it."""
        content = {"values": dict(self.values), "names": list(self.names)}
        return {**content, "code": dict(self.code), "once": self.once}


@dataclass(frozen=True)
class Task:
    """What a kernel is asked to do: a request on the shell channel, and what its messages are called.

    given: what it is told before, see `inside.calling`.
    """

    kind: str
    content: Mapping[str, Any]
    given: Given | None = None

    @classmethod
    def code(cls, code: str) -> Task:
        """Run a cell: Jupyter's own execute_request."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        return cls("execute", content)

    @classmethod
    def prepare(cls, *, pinned: bool = False) -> Task:
        """Load new functions, and what calls are made with; see `inside.calling`. pinned: and no newer ones later."""
        return cls("aigbb_prepare", {"pinned": pinned})

    @classmethod
    def call(
        cls,
        name: str,
        arguments: Mapping[str, Any],
        *,
        budget: int,
        pinned: Mapping[str, Any] | None = None,
        version: int | None = None,
    ) -> Task:
        """Call a registered function, answered by `inside.calling`.

        budget: characters of the answer's `content`. pinned: the version that is to run, as its {"source", "written",
        "declared"}, of which the last two are those of a snapshot's manifest; without it, the one that the kernel has.
        version: the number of a pinned version that is active; a kernel that has it loaded runs what it has.
        """
        content = {"name": name, "arguments": clean_json(arguments), "pinned": pinned, "version": version}
        return cls(CALL, {**content, "budget": budget})


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@dataclass
class Run:
    """A task in flight: what is known of its end, and the items that wait to be taken.

    The items are no more than the cap lets through, however slowly they are taken.
    """

    id: str
    kind: str
    cap: Cap
    started: float = field(default_factory=time.perf_counter)
    items: deque[Output] = field(default_factory=deque)
    begun: asyncio.Future[None] = field(default_factory=_future)
    over: asyncio.Future[None] = field(default_factory=_future)
    timer: asyncio.TimerHandle = field(init=False)
    reply: Mapping[str, Any] | None = None
    snapshot: int | None = None  # of the functions that it ran with
    idle: bool = False
    raised: bool = False
    interrupted: bool = False
    heard: int = 0  # bytes of what it has published
    why: str = ""  # it was interrupted: a sentence before that, and a space
    done: Done | None = None
    _settling: asyncio.Task[Done] | None = None
    _left: bool = False
    _waiting: asyncio.Future[None] | None = None

    def show(self, item: Output) -> None:
        """Pass an item on, as far as the cap lets it."""
        self.raised = self.raised or isinstance(item, Error)
        self.items.extend(self.cap.accept(item))
        if self.reply is None:  # else the end is near, and its taker is woken once for all
            self._wake()

    def progress(self) -> None:
        """See whether the reply, the idle status, or both have come."""
        resolve(self.begun)
        if self.reply is not None and self.idle:
            resolve(self.over)

    @property
    def settled(self) -> bool:
        """Whether its end is known, or somebody sees to it, or nobody wants to know."""
        return self.done is not None or self._settling is not None or self._left

    @property
    def _ended(self) -> bool:
        return self.done is not None or (self._settling is not None and self._settling.done())

    def end(self, done: Done) -> None:
        """This is how it ended."""
        self.timer.cancel()
        self.done = done
        self._wake()

    def settle(self, settling: asyncio.Task[Done]) -> None:
        """This task brings its end about."""
        self.timer.cancel()
        self._settling = settling
        settling.add_done_callback(self._wake)

    async def take(self) -> list[Output]:
        """Wait for items; the last of all is Done. Raises what the task raised that was to end it."""
        while not self.items and not self._ended:
            self._waiting = _future()
            await self._waiting
        ended, taken = self._ended, list(self.items)
        self.items.clear()
        if ended:
            taken += self.cap.finish()
            taken.append(self.done or await cast("asyncio.Task[Done]", self._settling))
        return taken

    async def leave(self) -> None:
        """Nobody takes items any more, nor wants to know its end."""
        self._left = True
        self.timer.cancel()
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.wait([self._settling])

    def _wake(self, _: object = None) -> None:
        if self._waiting is not None:
            resolve(self._waiting)


def resolve(future: asyncio.Future[None]) -> None:
    """Mark a future as done, once."""
    if not future.done():
        future.set_result(None)
