"""The command line's view of a running service: HTTP, with server-sent events for what takes long."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from server.errors import AigbbError, Unreachable
from server.settings import Settings


class ServiceProblem(AigbbError):
    """The service answered with a problem; its members are in `body`."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        super().__init__(str(body.get("detail", "The service refused.")), hint=str(body.get("hint", "")))
        self.body = dict(body)


@dataclass(frozen=True)
class Client:
    """Where the service is, and the token for it."""

    url: str
    token: str | None

    @classmethod
    def find(cls, settings: Settings, url: str | None) -> Client:
        """The service of these settings, on this machine unless `url` says otherwise."""
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return cls((url or f"http://{host}:{settings.port}").rstrip("/"), settings.find_token())

    def request(self, method: str, path: str, body: object = None) -> Any:
        """One request; the answer's JSON, None when there is none. Raises ServiceProblem, Unreachable."""
        with self._open() as client, _reaching(self.url):
            answer = client.request(method, path, json=body)
        if answer.status_code >= 400:
            raise ServiceProblem(_problem(answer))
        return answer.json() if answer.content else None

    def events(self, path: str, body: object, heard: Callable[[str, Any], None]) -> Any:
        """One request whose events go to `heard` as (name, data). Returns the data of `done`."""
        headers = {"Accept": "text/event-stream"}
        with (
            _reaching(self.url),
            self._open() as client,
            client.stream("POST", path, json=body, headers=headers) as answer,
        ):
            if answer.status_code >= 400:
                answer.read()
                raise ServiceProblem(_problem(answer))
            for name, data in parse_events(answer.iter_lines()):
                if name == "problem":
                    raise ServiceProblem(data)
                if name == "done":
                    return data
                heard(name, data)
        raise Unreachable("The service ended its answer early.")

    def _open(self) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=httpx2.Timeout(None, connect=5.0))


def parse_events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Server-sent events whose data is JSON, as (name, data)."""
    name, data = "message", ""
    for line in lines:
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data += line[5:].strip()
        elif not line and data:
            yield name, json.loads(data)
            name, data = "message", ""


def _problem(answer: httpx2.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"detail": f"The service answered {answer.status_code}."}


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Turn "nobody listens" into our own error."""
    try:
        yield
    except httpx2.TransportError as error:
        raise Unreachable(f"No service answers at {url}.") from error
