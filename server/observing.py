"""What is told of the service's work to those who look at it from outside: metrics, traces, log lines.

Events are told once, when all of them is known. Moments are of the performance counter, in seconds. Nothing in
them is code, an argument, an output or a secret.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# The outcome of work whose caller did not wait for its end.
LEFT = "left"


@dataclass(frozen=True, slots=True)
class Served:
    """An answer to a request. route is its template, or empty where none was found or nobody was let in."""

    method: str
    route: str
    status: int
    seconds: float
    key: str


@dataclass(frozen=True, slots=True)
class Executed:
    """Something that ran on a kernel, or was to. kind: execute or call.

    outcome: the status that it ended with, an error's code, or left. admitted and placed: when it was let in, and
    when it had its kernel; None for what it did not come to. functions: those it is known to call, name@version.
    """

    kind: str
    outcome: str
    began: float
    admitted: float | None
    placed: float | None
    ended: float
    functions: tuple[str, ...] = ()
    session: str | None = None
    kernel: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a registration, and whether it went well."""

    name: str
    began: float
    ended: float
    ok: bool


@dataclass(frozen=True, slots=True)
class Changed:
    """A registration, or another change of what serves. outcome: ok, unchanged, an error's code, or left."""

    action: str
    outcome: str
    functions: tuple[str, ...]
    began: float
    ended: float
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """A kernel ended before anybody was done with it."""

    cause: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A request to a model: ok, or an error's code, or left; the tokens that it counted."""

    outcome: str
    seconds: float
    prompt: int = 0
    completion: int = 0


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """A tool call of a model has its answer."""

    outcome: str


@dataclass(frozen=True, slots=True)
class Turned:
    """A turn of chat: its status, or an error's code, or left."""

    outcome: str
    seconds: float


Event = Served | Executed | Changed | Lost | Answered | ToolCalled | Turned


class Observer:
    """Tells each of those who watch."""

    def __init__(self, *watchers: Callable[[Event], None]) -> None:
        self._watchers = watchers

    def note(self, event: Event) -> None:
        """This has happened."""
        for watch in self._watchers:
            watch(event)


@dataclass
class Clock:
    """Milliseconds by stage, and since the beginning."""

    timings: dict[str, float] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        start, ok = time.perf_counter(), False
        try:
            yield
            ok = True
        finally:
            self.timings[name] = _milliseconds(start)
            self.stages.append(Stage(name, start, time.perf_counter(), ok))

    @property
    def total(self) -> float:
        """Milliseconds since the beginning."""
        return _milliseconds(self.started)


def _milliseconds(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 1)
