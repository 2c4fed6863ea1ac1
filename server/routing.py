"""What every route has in common: the service, who calls, the token, problems, and clients that leave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.routing import Match
from starlette.types import Scope

from server import wire
from server.registrar import Caller
from server.service import Service

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Seconds in which most work is done: until then, nobody looks whether the client is still there.
AT_ONCE = 0.05


class EventRoute(APIRoute):
    """Serves those who ask for text/event-stream; a route with the same path serves the others."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As ever, but never for those who did not ask for events."""
        match, child = super().matches(scope)
        accept = dict(scope.get("headers", [])).get(b"accept", b"")
        return (match, child) if b"text/event-stream" in accept else (Match.NONE, {})


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _caller(request: Request) -> Caller:
    """Who asks, as the gate found out."""
    return Caller(request.state.key, request.state.request_id)


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
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=AT_ONCE)
        if not task.done():
            await _unless_left(request, task)
        return await task
    finally:
        task.cancel()


async def _unless_left(request: Request, task: asyncio.Future[Any]) -> None:
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            log.info("execute.client_left")
            task.cancel()
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def since(start: float) -> float:
    """Milliseconds since a moment of the performance counter."""
    return round((time.perf_counter() - start) * 1000, 1)


def as_json(answer: BaseModel) -> Response:
    """The answer as it is: it is of our own making, and need not be checked once more."""
    return Response(answer.model_dump_json(), media_type="application/json")
