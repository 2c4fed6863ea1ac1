"""What a kernel can be asked to do, and the state of it while it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kernels.messages import clean_json
from kernels.outputs import Cap, Error, Output

CALL = "aigbb_call"


@dataclass(frozen=True)
class Task:
    """What a kernel is asked to do: a request on the shell channel, and what its messages are called."""

    kind: str
    content: Mapping[str, Any]

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
    def prepare(cls) -> Task:
        """Load new functions, and what calls are made with; see `inside.calling`."""
        return cls("aigbb_prepare", {})

    @classmethod
    def call(
        cls, name: str, arguments: Mapping[str, Any], *, budget: int, pinned: Mapping[str, Any] | None = None
    ) -> Task:
        """Call a registered function, answered by `inside.calling`.

        budget: characters of the answer's `content`. pinned: another version than the active one, as its
        {"source", "written", "declared"}, of which the last two are those of a snapshot's manifest.
        """
        return cls(CALL, {"name": name, "arguments": clean_json(arguments), "pinned": pinned, "budget": budget})


@dataclass
class Run:
    """A task in flight: what is known of its end, and the items that wait to be taken."""

    id: str
    kind: str
    cap: Cap
    started: float = field(default_factory=time.perf_counter)
    queue: asyncio.Queue[Output | None] = field(default_factory=asyncio.Queue)
    begun: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    half: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    over: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    reply: Mapping[str, Any] | None = None
    idle: bool = False
    raised: bool = False
    interrupted: bool = False

    def show(self, item: Output) -> None:
        """Pass an item on, as far as the cap lets it."""
        self.raised = self.raised or isinstance(item, Error)
        for allowed in self.cap.accept(item):
            self.queue.put_nowait(allowed)

    def progress(self) -> None:
        """See whether the reply, the idle status, or both have come."""
        if self.reply is not None or self.idle:
            resolve(self.begun)
            resolve(self.half)
        if self.reply is not None and self.idle:
            resolve(self.over)


def resolve(future: asyncio.Future[None]) -> None:
    """Mark a future as done, once."""
    if not future.done():
        future.set_result(None)
