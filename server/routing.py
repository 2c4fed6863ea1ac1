"""What every route has in common: the service, who calls, the token, problems, and clients that leave."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from server import wire
from server.callers import Caller
from server.service import Service

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Seconds in which most work is done: until then, nobody looks whether the client is still there.
AT_ONCE = 0.05


def caller_of(request: Request) -> Caller:
    """Who asks, as the gate found out."""
    caller: Caller = request.state.caller
    return caller


class EventRoute(APIRoute):
    """Serves those who ask for text/event-stream; a route with the same path serves the others."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As ever, but never for those who did not ask for events."""
        accept = dict(scope.get("headers", [])).get(b"accept", b"")
        return super().matches(scope) if b"text/event-stream" in accept else (Match.NONE, {})


def methods_at(app: FastAPI, path: str) -> set[str]:
    """What can be done at a path, by whichever of its routes."""
    found = (one for one in iter_route_contexts(app.routes) if one.methods and one.path_regex.match(path))
    return {method for one in found for method in one.methods or ()}


class QuickRoute(APIRoute):
    """A POST that reads plain requests itself, in less time; FastAPI reads all others, and refuses what is wrong."""

    def arguments(self, request: Request, body: bytes) -> dict[str, Any]:
        """What the endpoint is called with. Raises ValueError for what is wrong, or not plain."""
        raise NotImplementedError

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. What passes by FastAPI is what it does with dependencies, forms and generators."""
        request = Request(scope, receive, send)
        if scope["method"] != "POST" or not _PLAIN.fullmatch(request.headers.get("content-type", "")):
            await super().handle(scope, receive, send)
            return
        try:
            body = await request.body()
            arguments = self.arguments(request, body)
        except ClientDisconnect:
            return
        except ValueError:
            await super().handle(scope, _again(body, receive), send)
            return
        answer: Response = await self.endpoint(
            **arguments, request=request, service=request.app.state.service, caller=caller_of(request)
        )
        await answer(scope, receive, send)


_PLAIN = re.compile(r"application/json(;.*)?")


def _again(body: bytes, receive: Receive) -> Receive:
    """As if a body that has been read were still to come."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def wrapped() -> Message:
        return left.pop() if left else await receive()

    return wrapped


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _caller(request: Request) -> Caller:
    """Who asks, as the gate found out."""
    return caller_of(request)


Here = Annotated[Service, Depends(_service)]
Who = Annotated[Caller, Depends(_caller)]

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": wire.Problem, "description": "Something in the request"},
    "5XX": {"model": wire.Problem, "description": "Full, or unable"},
}


def routes() -> APIRouter:
    """A router whose routes say what problems look like."""
    return APIRouter(responses=PROBLEMS)


def event_routes() -> APIRouter:
    """A router for those who ask for events."""
    return APIRouter(route_class=EventRoute, include_in_schema=False)


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Do the work, but give it up when the client leaves: its kernel is free for others."""
    task, watch = asyncio.current_task(), _Watch(request)
    assert task is not None
    timer = asyncio.get_running_loop().call_later(AT_ONCE, watch.begin, task)
    try:
        return await work
    finally:
        timer.cancel()
        watch.end()


class _Watch:
    """Cancels a task when the client of a request leaves."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._watching: asyncio.Task[None] | None = None

    def begin(self, task: asyncio.Task[Any]) -> None:
        self._watching = asyncio.create_task(self._watch(task))

    def end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self, task: asyncio.Task[Any]) -> None:
        await _disconnected(self._request)
        log.info("execute.client_left")
        self._request.state.left = True
        task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def since(start: float) -> float:
    """Milliseconds since a moment of the performance counter."""
    return round((time.perf_counter() - start) * 1000, 1)


def as_json(answer: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The answer as it is: it is of our own making, and need not be checked once more.

    A large one is written piece by piece, as the client takes it: its JSON is never in memory as a whole.
    """
    value = dict(answer)
    if _is_large(value):
        return StreamingResponse(_written(value), status, headers, media_type="application/json")
    return Response(to_json(value), status, headers, media_type="application/json")


# Characters in a text, or items in a list, from which on an answer is written in pieces; bytes in a piece.
PIECE = 1 << 16


def _is_large(value: Any) -> bool:
    match value:
        case str() | list() | dict() if len(value) > PIECE:
            return True
        case dict():
            return any(map(_is_large, value.values()))
        case list():
            return any(map(_is_large, value))
        case BaseModel():
            return _is_large(dict(value))
    return False


async def _written(value: Any) -> AsyncIterator[bytes]:
    """A value's JSON in pieces of some size."""
    piece = bytearray()
    for part in _json_parts(value):
        piece += part
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def _json_parts(value: Any) -> Iterator[bytes]:
    match value:
        case str() if len(value) > PIECE:
            yield b'"'
            for start in range(0, len(value), PIECE):
                yield to_json(value[start : start + PIECE])[1:-1]
            yield b'"'
        case dict():
            yield b"{"
            for number, (name, member) in enumerate(value.items()):
                yield b"," * (number > 0) + to_json(name) + b":"
                yield from _json_parts(member)
            yield b"}"
        case list():
            yield b"["
            for number, item in enumerate(value):
                yield b"," * (number > 0)
                yield from _json_parts(item)
            yield b"]"
        case BaseModel():
            yield from _json_parts(dict(value))
        case _:
            yield to_json(value)
