"""How an execution is answered: when it is over, at once as one that goes on by itself, or as events."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from server.callers import Caller
from server.operations import PREFER
from server.routing import as_json, unless_gone
from server.running import Running
from server.service import Service
from server.turns import Waiting
from server.wire import EXECUTION_ID
from server.wire_calls import PendingCallAnswer
from server.wire_executions import ExecutionAnswer, event

Work = Callable[[Running], Awaitable[BaseModel]]

# Seconds after which a stream that has nothing to say says so.
PING = 15.0


@dataclass(frozen=True)
class Preference:
    """What a request says in `Prefer` (RFC 7240): to be answered at once, or after so many seconds at most."""

    later: bool = False
    wait: float | None = None

    @classmethod
    def of(cls, request: Request) -> Self:
        """From the header; what is not known or not well written there is passed over, and the first one counts."""
        found: dict[str, str] = {}
        for line in request.headers.getlist("prefer"):
            for each in line.split(","):
                name, _, value = each.partition(";")[0].partition("=")
                found.setdefault(name.strip().lower(), value.strip().strip('"'))
        wait = found.get("wait", "")
        return cls("respond-async" in found, float(wait) if _SECONDS.fullmatch(wait) else None)


# What OpenAPI says about it.
PREFERS: dict[str, Any] = {"parameters": [PREFER]}
LATER: dict[int | str, dict[str, Any]] = {
    202: {"model": ExecutionAnswer, "description": "It goes on by itself; its address is in `Location`"}
}

CALL_LATER: dict[int | str, dict[str, Any]] = {
    202: {
        "model": ExecutionAnswer | PendingCallAnswer,
        "description": "It continues in the background, or waits for a decision; its address is in `Location`",
    }
}
# Seconds for which a request waits for a decision, at most.
LONGEST_WAIT = 600.0

_SECONDS = re.compile(r"[0-9]{1,6}")


async def reply(request: Request, service: Service, running: Running, work: Work) -> Response:
    """Do the work, and answer with what it returns; or, where the client prefers that, with the execution as it is."""
    request.state.execution_id = running.id
    headers = {EXECUTION_ID: running.id}
    if "prefer" in request.headers and (preference := Preference.of(request)).later:
        return await _later(request, service, running, work, preference)
    with service.executions.recorded(running):
        return as_json(await unless_gone(request, work(running)), headers=headers)


async def _later(request: Request, service: Service, running: Running, work: Work, preference: Preference) -> Response:
    running.kept = True
    await service.executions.begin(running, work)
    if preference.wait is not None:
        await unless_gone(request, running.over(preference.wait))
        if running.ended and running.problem is None:
            applied = {"Preference-Applied": f"wait={preference.wait:g}"}
            return as_json(running.answer, headers={**_address(running), **applied})
    headers = {**_address(running), "Preference-Applied": "respond-async"}
    return as_json(ExecutionAnswer.told(running, request), 202, headers)


async def reply_held(request: Request, service: Service, waiting: Waiting, caller: Caller) -> Response:
    """Return the approval that a call waits for; where the client prefers to wait, what its decision came to."""
    wait, location = Preference.of(request).wait, f"/approvals/{waiting.id}"
    if not wait:
        return as_json(PendingCallAnswer.of(waiting), 202, {"Location": location})
    seconds = min(wait, LONGEST_WAIT)
    approval = await unless_gone(request, service.approvals.over(waiting.id, caller, seconds))
    applied = {"Location": location, "Preference-Applied": f"wait={seconds:g}"}
    outcome = json.loads(approval.outcome) if approval.outcome else {}
    if "id" not in outcome:
        return as_json(PendingCallAnswer.of(waiting), 202, applied)
    return Response(approval.outcome, headers={**applied, EXECUTION_ID: outcome["id"]}, media_type="application/json")


def _address(running: Running) -> dict[str, str]:
    return {EXECUTION_ID: running.id, "Location": f"/executions/{running.id}"}


async def reply_with_events(request: Request, service: Service, running: Running, work: Work) -> Response:
    """What happens, as it happens. A client that leaves stops it, unless it prefers `respond-async`."""
    request.state.execution_id = running.id
    preference = Preference.of(request)
    running.kept = preference.later
    await service.executions.begin(running, work)
    if running.kept:
        headers = {**_address(running), "Preference-Applied": "respond-async"}
        return Events(request, service, running, headers=headers)
    return Events(request, service, running, left=service.executions.leave)


class Events(StreamingResponse):
    """An execution's entries as server-sent events, numbered, with a sign of life where nothing happens."""

    def __init__(
        self,
        request: Request,
        service: Service,
        running: Running,
        *,
        after: int = 0,
        headers: dict[str, str] | None = None,
        left: Callable[[Running], None] = lambda _: None,
    ) -> None:
        told = {EXECUTION_ID: running.id, "X-Accel-Buffering": "no", **(headers or {})}
        self._running, self._left = running, left
        self._written = _written(request, service, running, after)
        super().__init__(self._written, headers=told, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them, to the end or until the client leaves."""
        try:
            async with aclosing(self._written):
                await super().__call__(scope, receive, send)
        finally:
            self._left(self._running)


async def _written(request: Request, service: Service, running: Running, after: int) -> AsyncGenerator[bytes]:
    async with aclosing(running.follow(after, PING)) as entries:
        async for number, entry in entries:
            if entry is None:
                yield KEEPALIVE_COMMENT
            elif told := event(entry, running, request, service.signatures):
                yield format_sse_event(event=told[0], data_str=to_json(told[1]).decode(), id=str(number))
