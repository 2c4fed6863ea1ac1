"""The command line's view of a running service: HTTP, with server-sent events for what takes long."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2

from server.errors import AigbbError, Unreachable
from server.settings import Settings

PAGE = 1000


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

    def request(self, method: str, path: str, body: object = None, **query: Any) -> Any:
        """One request; the answer's JSON, None when there is none. Raises ServiceProblem, Unreachable."""
        answer = self.fetch(method, path, body, **query)
        return _json(answer) if answer.content else None

    def fetch(self, method: str, path: str, body: object = None, **query: Any) -> httpx2.Response:
        """One request; the whole answer. What is None in `query` is left out."""
        asked = {name: value for name, value in query.items() if value is not None}
        with _reaching(self.url), self._open() as client:
            answer = client.request(method, path, params=asked, **_sent(body))
        if answer.status_code >= 400:
            raise ServiceProblem(_problem(answer))
        return answer

    def pages(self, path: str, **query: Any) -> list[Any]:
        """All of a list that is answered in pages."""
        found: list[Any] = []
        page = 1
        while True:
            answer = self.fetch("GET", path, page=page, per_page=PAGE, **query)
            found += _json(answer)
            if "next" not in answer.links:
                return found
            page += 1

    def events(self, path: str, body: object, heard: Callable[[str, Any], None]) -> Any:
        """One request whose events go to `heard` as (name, data). Returns the data of `done`."""
        headers = {"Accept": "text/event-stream"}
        with (
            _reaching(self.url),
            self._open() as client,
            client.stream("POST", path, headers=headers, **_sent(body)) as answer,
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
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=httpx2.Timeout(None, connect=5.0))


def path_of(*parts: object) -> str:
    """A path of the service, whatever signs are in its parts."""
    return "/" + "/".join(quote(str(part), safe="@", errors="replace") for part in parts)


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


def _sent(body: object) -> dict[str, Any]:
    """The body as ASCII: the service itself is to refuse what UTF-8 cannot hold."""
    return {} if body is None else {"content": json.dumps(body)}


def _json(answer: httpx2.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise ServiceProblem(
            {
                "code": "unexpected_answer",
                "detail": f"What answers at {answer.url.copy_with(path='/', query=None)} is not this service.",
                "hint": "Look at --url and AIGBB_PORT.",
            }
        ) from error


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
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        raise Unreachable(f"No service answers at {url}.") from error
