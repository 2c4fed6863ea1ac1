"""The REST door to kernels: executions, calls, tool calls, sessions, environments."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any

from fastapi import Body, Query, Request, Response
from pydantic import BeforeValidator, TypeAdapter

from server import wire
from server.ceilings import check_ceilings
from server.direct import TypedCall
from server.replying import CALL_LATER, LATER, PREFERS, reply, reply_held, reply_with_events
from server.results import BYTES, KINDS
from server.routing import Here, QuickRoute, Who, event_routes, routes, since, unless_gone
from server.running import Running
from server.service import Service
from server.turns import Waiting
from server.wire_calls import CallAnswer, RunToolsAnswer, RunToolsBody

router, events = routes(), event_routes()


# -- execute


@events.post("/execute")
async def execute_events(body: wire.ExecuteBody, request: Request, service: Here, caller: Who) -> Response:
    """Items as they happen; the last event is `done`."""
    check_ceilings(service.settings, {"timeout": body.timeout})
    return await reply_with_events(request, service, Running(caller, body.session), partial(_executed, service, body))


class ExecuteRoute(QuickRoute):
    """The route of `execute`."""

    def arguments(self, request: Request, body: bytes) -> dict[str, Any]:
        """The body, as its model has it."""
        return {"body": wire.ExecuteBody.model_validate_json(body)}


async def execute(body: wire.ExecuteBody, request: Request, service: Here, caller: Who) -> Response:
    """Run code on a clean kernel of the newest generation, or in a session that keeps variables.

    Ask for `text/event-stream` to get the items as they happen; with `Prefer: respond-async`, it goes on by itself.
    """
    check_ceilings(service.settings, {"timeout": body.timeout})
    return await reply(request, service, Running(caller, body.session), partial(_executed, service, body))


router.add_api_route(
    "/execute", execute, methods=["POST"], route_class_override=ExecuteRoute, tags=["execute"],
    response_model=wire.ExecuteAnswer, summary="Run code", responses=LATER, openapi_extra=PREFERS,
)  # fmt: skip


async def _executed(service: Service, body: wire.ExecuteBody, running: Running) -> wire.ExecuteAnswer:
    start = time.perf_counter()
    execution = await service.execute(body.code, running, timeout=body.timeout)
    signatures = service.signatures() if execution.error else {}
    return wire.execute_answer(execution, running, since(start), signatures)


# -- calls

Arguments = Annotated[dict[str, Any], BeforeValidator(wire.checked), Body(description="The arguments, by name")]
_ARGUMENTS: TypeAdapter[dict[str, Any]] = TypeAdapter(Arguments)
Session = Annotated[str | None, Query(description="A session's id; without one, the call gets a clean kernel")]
Timeout = Annotated[
    float | None,
    Query(gt=0, allow_inf_nan=False, description=wire.TIMEOUT),
]


class CallRoute(QuickRoute):
    """The route of `call`."""

    def arguments(self, request: Request, body: bytes) -> dict[str, Any]:
        """What is in the path, the body and the query. A timeout is left to FastAPI."""
        if "timeout" in request.query_params:
            raise ValueError("a query to be checked")
        arguments = _ARGUMENTS.validate_json(body)
        return {**request.path_params, "arguments": arguments, "session": request.query_params.get("session")}


async def call(
    name: str,
    arguments: Arguments,
    request: Request,
    service: Here,
    caller: Who,
    session: Session = None,
    timeout: Timeout = None,
) -> Response:
    """Call a function by name, or a version of it by `name@3`; the body is the object of its arguments.

    Arguments are checked against the function's types first; wrong ones answer 422 and do not run it. With a key
    without the scope `approve`, a call that needs a decision waits for it: 202, with its approval in `Location`.
    `Prefer: wait=N` waits for the decision and the result.
    """
    check_ceilings(service.settings, {"timeout": timeout})
    judged = await service.direct.judge(TypedCall(name, arguments, session, timeout), caller)
    if isinstance(judged, Waiting):
        return await reply_held(request, service, judged, caller)

    async def work(running: Running) -> CallAnswer:
        return CallAnswer.of(await service.calls.call(running, judged, arguments, timeout=timeout), session)

    return await reply(request, service, Running(caller, session, name), work)


router.add_api_route(
    "/functions/{name}/call", call, methods=["POST"], route_class_override=CallRoute, tags=["calls"],
    response_model=CallAnswer, summary="Call a function", responses=CALL_LATER, openapi_extra=PREFERS,
)  # fmt: skip


@router.post("/tools/run", tags=["tools"], summary="Run tool calls")
async def run_tools(body: RunToolsBody, request: Request, service: Here, caller: Who) -> RunToolsAnswer:
    """Run a model's tool calls, and answer the messages to append to the conversation, in order.

    Calls of functions that only read run side by side, all others one after the other, and not before a person has
    decided: see `approval`. What goes wrong in a call is its message's content, for the model to act on.
    """
    check_ceilings(service.settings, {"timeout": body.timeout})
    work = service.direct.run_tools(body.calls(), body.forms(), body.terms(), caller)
    return RunToolsAnswer.of(await unless_gone(request, work))


@router.get(
    "/results/{name}", tags=["tools"], summary="Get a result", response_class=Response,
    responses={200: {"description": "The picture, or the whole of a result", "content": {
        kind: {"schema": {"type": "string", "format": "binary"}} for kind in (*KINDS.values(), BYTES)
    }}},
)  # fmt: skip
async def result(name: str, service: Here, caller: Who) -> Response:
    """Get a picture that a call showed, or the whole of a result of which a model was shown a part."""
    data, kind = await service.results.read(name, caller)
    headers = {"Content-Disposition": "attachment"} if kind == BYTES else None
    return Response(data, headers=headers, media_type=kind)


# -- sessions


@router.post("/sessions", status_code=201, tags=["sessions"], summary="Open a session")
async def open_session(service: Here, caller: Who, body: wire.SessionBody | None = None) -> wire.SessionAnswer:
    """Open a session: a kernel whose variables persist between executions."""
    wanted = body or wire.SessionBody()
    opened = await service.sessions.open(wanted.id, caller, pinned=wanted.pinned)
    return wire.SessionAnswer.model_validate(opened)


@router.get("/sessions", tags=["sessions"], summary="List sessions")
async def sessions(service: Here, caller: Who) -> list[wire.SessionAnswer]:
    """Open sessions."""
    return [wire.SessionAnswer.model_validate(info) for info in service.sessions.listed(caller)]


@router.post("/sessions/{identity}/interrupt", status_code=204, tags=["sessions"], summary="Interrupt a session")
async def interrupt_session(identity: str, service: Here, caller: Who) -> None:
    """Interrupt what runs; that execution answers `cancelled`."""
    await service.sessions.interrupt(identity, caller)


@router.post("/sessions/{identity}/restart", tags=["sessions"], summary="Restart a session")
async def restart_session(identity: str, service: Here, caller: Who) -> wire.SessionAnswer:
    """Give the session a clean kernel of the newest generation."""
    return wire.SessionAnswer.model_validate(await service.sessions.restart(identity, caller))


@router.delete("/sessions/{identity}", status_code=204, tags=["sessions"], summary="Close a session")
async def close_session(identity: str, service: Here, caller: Who) -> None:
    """End a session and its kernel."""
    await service.sessions.close(identity, caller)


@router.get("/kernels", tags=["kernels"], summary="List environments")
async def kernels(service: Here) -> list[wire.GenerationAnswer]:
    """Every generation of the environment, newest first; `current` serves."""
    return [wire.GenerationAnswer.model_validate(info) for info in await service.generations()]
