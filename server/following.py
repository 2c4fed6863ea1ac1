"""Server-sent events as a client reads them, and where it goes on after a connection that broke."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from server.asking import ServiceProblem, path_of

Event = tuple[str, Any]  # its name, and its data

EARLY = "The service ended its answer early."
# Seconds of silence after which a connection counts as broken: the service gives a sign of life more often.
SILENCE = 45.0
# How often in a row a connection may break, and seconds before the second try; then twice as many, and so on.
TRIES, PAUSE = 6, 0.1


class Events:
    """Server-sent events whose data is JSON, from the lines that they are written in. last: the newest one's number."""

    def __init__(self) -> None:
        self.last = ""
        self._name, self._data = "message", ""

    def read(self, line: str) -> Event | None:
        """One more line; the event that it ends."""
        if line.startswith("event:"):
            self._name = line[6:].strip()
        elif line.startswith("data:"):
            self._data += line[5:].strip()
        elif line.startswith("id:"):
            self.last = line[3:].strip()
        elif not line and self._data:
            event = self._name, _parsed(self._data)
            self._name, self._data = "message", ""
            return event
        return None


def parse_events(lines: Iterator[str]) -> Iterator[Event]:
    """Server-sent events whose data is JSON, as (name, data)."""
    events = Events()
    return (event for line in lines if (event := events.read(line)))


def checked(event: Event) -> Event:
    """The same event. Raises ServiceProblem for one that says what went wrong."""
    if event[0] == "problem":
        raise ServiceProblem(event[1])
    return event


def stranger(detail: str) -> ServiceProblem:
    """Something else than the service has answered."""
    return ServiceProblem({"code": "unexpected_answer", "detail": detail, "hint": "Look at --url and AIGBB_PORT."})


def _parsed(data: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise stranger("An event of what answers is not JSON.") from error


@dataclass
class Follower:
    """Reads the events of one execution, over as many connections as it takes."""

    identity: str
    done: bool = False
    _last: str = ""
    _broken: int = 0
    _events: Events = field(default_factory=Events)

    @property
    def path(self) -> str:
        """Where they are."""
        return path_of("executions", self.identity)

    def headers(self) -> dict[str, str]:
        """Of the next connection."""
        self._events = Events()
        return {"Accept": "text/event-stream", **({"Last-Event-ID": self._last} if self._last else {})}

    def read(self, line: str) -> Event | None:
        """One more line; the event that it ends. Raises ServiceProblem."""
        event = self._events.read(line)
        if event is None:
            return None
        self._last, self._broken = self._events.last, 0
        self.done = event[0] == "done"
        return checked(event)

    def gives_up(self) -> bool:
        """The connection has ended too early: whether that has happened too often in a row."""
        self._broken += 1
        return self._broken >= TRIES

    @property
    def pause(self) -> float:
        """Seconds until the next try."""
        return float(PAUSE * 2 ** (self._broken - 1))
