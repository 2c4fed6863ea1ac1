"""The REST door to executions: what runs, what came of it, and its end."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Query, Request, Response

from server.replying import Events
from server.routing import Here, Who, as_json, event_routes, routes, unless_gone
from server.wire_executions import ExecutionAnswer, ExecutionInfo

router, events = routes(), event_routes()

LONGEST = 600.0

Wait = Annotated[
    float, Query(ge=0, le=LONGEST, allow_inf_nan=False, description="Seconds to wait for its end, if it has not ended")
]


@router.get("/executions", tags=["executions"], summary="List executions")
async def executions(service: Here, caller: Who) -> list[ExecutionInfo]:
    """Yours that run, and those asked for with `Prefer: respond-async` that have ended, newest first."""
    return [ExecutionInfo.of(running) for running in service.executions.seen_by(caller)]


@events.get("/executions/{identity}")
async def execution_events(
    identity: str, request: Request, service: Here, caller: Who, last_event_id: Annotated[str, Header()] = ""
) -> Response:
    """What happened and happens, from the beginning or after `Last-Event-ID`; the last event is always `done`."""
    running = service.executions.find(identity, caller)
    after = int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 10 else 0
    return Events(request, service, running, after=after)


@router.get("/executions/{identity}", tags=["executions"], summary="Get an execution", response_model=ExecutionAnswer)
async def execution(identity: str, request: Request, service: Here, caller: Who, wait: Wait = 0) -> Response:
    """Get an execution as it is, or once it has ended.

    Ask for `text/event-stream` to follow it from the beginning, or after the `Last-Event-ID` that you have.
    """
    running = service.executions.find(identity, caller)
    if wait:
        await unless_gone(request, running.over(wait))
    return as_json(ExecutionAnswer.told(running, request))


@router.post(
    "/executions/{identity}/cancel",
    tags=["executions"],
    summary="Cancel an execution",
    response_model=ExecutionAnswer,
)
async def cancel_execution(identity: str, request: Request, service: Here, caller: Who) -> Response:
    """Stop it wherever it is, queued, starting or running; whoever waits for it is answered `cancelled`.

    One that has ended is left as it is. A session keeps its variables if its code can be interrupted.
    """
    running = service.executions.find(identity, caller)
    running.cancel()
    await unless_gone(request, running.over())
    return as_json(ExecutionAnswer.told(running, request))
