"""A running service as a program sees it: HTTP, with server-sent events for what takes long.

`Aigbb`, and `AsyncAigbb` with the same methods, are for builders of agents; `Client` is what they and the command line
stand on.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

import httpx2

from server import asking
from server.asking import (
    Approval,
    Ask,
    CallFailed,
    ChatResult,
    Decisions,
    Executed,
    Execution,
    NeedsConfirmation,
    RunResult,
    ServiceProblem,
    ToolRun,
    path_of,
)
from server.errors import Unreachable
from server.following import EARLY, SILENCE, Event, Events, Follower, checked, parse_events, stranger
from server.settings import Settings

__all__ = [
    "Aigbb",
    "Approval",
    "AsyncAigbb",
    "CallFailed",
    "ChatResult",
    "Client",
    "Executed",
    "Execution",
    "NeedsConfirmation",
    "RunResult",
    "ServiceProblem",
    "ToolRun",
    "Unreachable",
    "parse_events",
    "path_of",
]

PAGE = 1000
T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True)
class Client:
    """Where the service is, and the token for it. patience is how many seconds an answer may take, None for any."""

    url: str
    token: str | None
    patience: float | None = None

    @classmethod
    def find(cls, settings: Settings, url: str | None) -> Client:
        """The service of these settings, on this machine unless `url` says otherwise."""
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return cls((url or f"http://{host}:{settings.port}").rstrip("/"), settings.find_token())

    def request(self, method: str, path: str, body: object = None, **query: Any) -> Any:
        """One request; the answer's JSON, None when there is none. Raises ServiceProblem, Unreachable."""
        return _json(self.fetch(method, path, body, **query))

    def fetch(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None, **query: Any
    ) -> httpx2.Response:
        """One request; the whole answer. What is None in `query` is left out."""
        asked = {name: value for name, value in query.items() if value is not None}
        with _reaching(self.url), httpx2.Client(**self.options) as client:
            return _accepted(client.request(method, path, params=asked, headers=headers, **_sent(body)))

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
        with _reaching(self.url), httpx2.Client(**self.options) as client:
            for name, data in _followed(client, path, body):
                if name == "done":
                    return data
                heard(name, data)
        raise AssertionError("what is followed ends with `done`, or raises")

    def follow(self, identity: str, heard: Callable[[str, Any], None]) -> Any:
        """An execution's events go to `heard`, through dropped connections. Returns the data of `done`."""
        with _reaching(self.url), httpx2.Client(**self.options) as client:
            for name, data in _resumed(client, Follower(identity)):
                if name == "done":
                    return data
                heard(name, data)
        raise AssertionError("what is followed ends with `done`, or raises")

    @property
    def options(self) -> dict[str, Any]:
        """What a client of httpx2 needs to reach it."""
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return {"base_url": self.url, "headers": headers, "timeout": httpx2.Timeout(self.patience, connect=5.0)}


# -- for builders of agents


class Method(Generic[P, T]):
    """A method of both clients, from the function of `asking` that makes its request."""

    def __init__(self, build: Callable[P, Ask[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, client: None, _: type) -> Callable[P, Ask[T]]: ...
    @overload
    def __get__(self, client: Aigbb, _: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncAigbb, _: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Aigbb | AsyncAigbb | None, _: type) -> Callable[P, Any]:
        if client is None:
            return self._build

        @functools.wraps(self._build)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.send(self._build(*args, **kwargs))

        return method


class Methods:
    """What can be asked of the service."""

    tools = Method(asking.tools)
    run = Method(asking.run)
    call = Method(asking.call)
    execute = Method(asking.execute)
    start = Method(asking.start)
    start_call = Method(asking.start_call)
    execution = Method(asking.execution)
    executions = Method(asking.executions)
    cancel = Method(asking.cancel)
    register = Method(asking.register)
    delete = Method(asking.delete)
    chat = Method(asking.chat)
    approvals = Method(asking.approvals)
    secrets = Method(asking.secrets)
    set_secret = Method(asking.set_secret)
    delete_secret = Method(asking.delete_secret)


class Aigbb(Methods):
    """The service for a program that builds on it. Without url and token it is found as the command line finds it.

    One connection is kept for all requests: use it in a `with`, or `close` it. Threads may share it.
    """

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        client = _found(url, token)
        with _reaching(client.url):
            self._http = httpx2.Client(**client.options)

    def send(self, ask: Ask[T]) -> T:
        """One request, and what is made of its answer. Raises ServiceProblem, Unreachable, and as `ask.read`."""
        with _reaching(self._http.base_url):
            answer = self._http.request(ask.method, ask.path, **_request(ask))
        return ask.read(_read(_accepted(answer)))

    def decide(self, approval: Approval[T], decisions: Decisions, reason: str = "") -> T:
        """See `asking.decide`."""
        return self.send(asking.decide(approval, decisions, reason))

    def chat_events(self, messages: str | Sequence[object], **body: Any) -> Iterator[Event]:
        """`chat` as it goes: (event, data), the last one `done`. Close the iterator to stop the turn."""
        return self._follow(asking.chat(messages, **body))

    def decide_events(self, approval: Approval[Any], decisions: Decisions, reason: str = "") -> Iterator[Event]:
        """`decide` as it goes, for what waits in a conversation."""
        return self._follow(asking.decide(approval, decisions, reason))

    def wait(self, execution: Execution | str, seconds: float | None = None) -> Execution:
        """An execution when it has ended, or as it is after so many seconds. Raises ServiceProblem, Unreachable."""
        for wait in asking.polls(seconds):
            found = self.send(asking.execution(execution, wait))
            if found.ended:
                break
        return found

    def follow(self, execution: Execution | str) -> Iterator[Event]:
        """An execution's (event, data) from the beginning, the last one `done`; a dropped connection is resumed.

        Raises ServiceProblem where it could not be done; Unreachable when nobody answers for some seconds.
        """
        with _reaching(self._http.base_url):
            yield from _resumed(self._http, Follower(asking.id_of(execution)))

    def close(self) -> None:
        """Give the connection back."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _follow(self, ask: Ask[Any]) -> Iterator[Event]:
        with _reaching(self._http.base_url):
            yield from _followed(self._http, ask.path, ask.body)


class AsyncAigbb(Methods):
    """The same for asyncio: methods are awaited, events come with `async for`. It is used in an `async with`."""

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        self._where = url, token
        self._opened: httpx2.AsyncClient | None = None

    async def send(self, ask: Ask[T]) -> T:
        """One request, and what is made of its answer. Raises ServiceProblem, Unreachable, and as `ask.read`."""
        with _reaching(self._http.base_url):
            answer = await self._http.request(ask.method, ask.path, **_request(ask))
        return ask.read(_read(_accepted(answer)))

    async def decide(self, approval: Approval[T], decisions: Decisions, reason: str = "") -> T:
        """See `asking.decide`."""
        return await self.send(asking.decide(approval, decisions, reason))

    def chat_events(self, messages: str | Sequence[object], **body: Any) -> AsyncIterator[Event]:
        """`chat` as it goes: (event, data), the last one `done`. Close the iterator to stop the turn."""
        return self._follow(asking.chat(messages, **body))

    def decide_events(self, approval: Approval[Any], decisions: Decisions, reason: str = "") -> AsyncIterator[Event]:
        """`decide` as it goes, for what waits in a conversation."""
        return self._follow(asking.decide(approval, decisions, reason))

    async def wait(self, execution: Execution | str, seconds: float | None = None) -> Execution:
        """As `Aigbb.wait`."""
        for wait in asking.polls(seconds):
            found = await self.send(asking.execution(execution, wait))
            if found.ended:
                break
        return found

    async def follow(self, execution: Execution | str) -> AsyncIterator[Event]:
        """As `Aigbb.follow`."""
        follower = Follower(asking.id_of(execution))
        with _reaching(self._http.base_url):
            while not follower.done:
                try:
                    async for event in self._listen(follower):
                        yield event
                    if not follower.done and follower.gives_up():
                        raise Unreachable(EARLY)
                except httpx2.TransportError:
                    if follower.gives_up():
                        raise
                if not follower.done:
                    await asyncio.sleep(follower.pause)

    async def __aenter__(self) -> Self:
        # Settings and certificates are read from files.
        client = await asyncio.to_thread(_found, *self._where)
        with _reaching(client.url):
            self._opened = await asyncio.to_thread(functools.partial(httpx2.AsyncClient, **client.options))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    @property
    def _http(self) -> httpx2.AsyncClient:
        if self._opened is None:
            raise RuntimeError("Use it as `async with AsyncAigbb() as aigbb`.")
        return self._opened

    async def _follow(self, ask: Ask[Any]) -> AsyncIterator[Event]:
        events = Events()
        with _reaching(self._http.base_url):
            async with self._http.stream("POST", ask.path, **_streamed(ask.body)) as answer:
                if answer.is_error:
                    await answer.aread()
                _accepted(answer)
                async for line in answer.aiter_lines():
                    if event := events.read(line):
                        yield checked(event)
                        if event[0] == "done":
                            return
        raise Unreachable(EARLY)

    async def _listen(self, follower: Follower) -> AsyncIterator[Event]:
        """The events of one connection."""
        headers = follower.headers()
        async with self._http.stream("GET", follower.path, headers=headers, timeout=_LISTENING) as answer:
            if answer.is_error:
                await answer.aread()
            _accepted(answer)
            async for line in answer.aiter_lines():
                if event := follower.read(line):
                    yield event


def _found(url: str | None, token: str | None) -> Client:
    if url and token:
        return Client(url.rstrip("/"), token)
    client = Client.find(Settings(), url)
    return Client(client.url, token or client.token)


# -- events


def _followed(client: httpx2.Client, path: str, body: object) -> Iterator[Event]:
    """The events of a POST up to `done`. Raises ServiceProblem, Unreachable."""
    with client.stream("POST", path, **_streamed(body)) as answer:
        if answer.is_error:
            answer.read()
        _accepted(answer)
        for event in parse_events(answer.iter_lines()):
            yield checked(event)
            if event[0] == "done":
                return
    raise Unreachable(EARLY)


def _streamed(body: object) -> dict[str, Any]:
    return {"headers": {"Accept": "text/event-stream"}, **_sent(body)}


def _resumed(client: httpx2.Client, follower: Follower) -> Iterator[Event]:
    """The events of an execution up to `done`, over as many connections as it takes. Raises ServiceProblem."""
    while not follower.done:
        try:
            with client.stream("GET", follower.path, headers=follower.headers(), timeout=_LISTENING) as answer:
                if answer.is_error:
                    answer.read()
                _accepted(answer)
                yield from filter(None, map(follower.read, answer.iter_lines()))
            if not follower.done and follower.gives_up():
                raise Unreachable(EARLY)
        except httpx2.TransportError:
            if follower.gives_up():
                raise
        if not follower.done:
            time.sleep(follower.pause)


_LISTENING = httpx2.Timeout(None, connect=5.0, read=SILENCE)


# -- one request


def _request(ask: Ask[Any]) -> dict[str, Any]:
    return {"params": ask.query, "headers": ask.headers, **_sent(ask.body)}


def _sent(body: object) -> dict[str, Any]:
    """The body as ASCII: the service itself is to refuse what UTF-8 cannot hold."""
    return {} if body is None else {"content": json.dumps(body)}


def _accepted(answer: httpx2.Response) -> httpx2.Response:
    """The same answer, unless it is a refusal. Raises ServiceProblem."""
    if not answer.is_error:
        return answer
    try:
        body = answer.json()
    except ValueError:
        body = None
    raise ServiceProblem(body if isinstance(body, dict) else {"detail": f"The service answered {answer.status_code}."})


def _read(answer: httpx2.Response) -> Any:
    """What an answer holds: text, where it says so, else JSON."""
    return answer.text if answer.headers.get("Content-Type", "").startswith("text/plain") else _json(answer)


def _json(answer: httpx2.Response) -> Any:
    """JSON, None when there is nothing."""
    try:
        return answer.json() if answer.content else None
    except ValueError as error:
        there = answer.url.copy_with(path="/", query=None)
        raise stranger(f"What answers at {there} is not this service.") from error


@contextmanager
def _reaching(url: object) -> Iterator[None]:
    """Turn "nobody listens" into our own error."""
    try:
        yield
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        raise Unreachable(f"No service answers at {str(url).rstrip('/')}.") from error
