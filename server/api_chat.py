"""The REST door to chat: turns of conversations, as JSON or as events; what is kept, and what waits for a person."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from functools import partial

from fastapi import Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from server import wire
from server.approvals import HeldCalls, SuspendedCall
from server.callers import Caller
from server.calls import Called
from server.ceilings import check_ceilings
from server.chat import outcome
from server.direct import ToolTurn
from server.errors import AigbbError
from server.refusals import CallRejected
from server.routing import Here, Who, as_json, event_routes, routes, since, unless_gone
from server.service import Service
from server.turns import Event
from server.wire_approvals import ApprovalAnswer, ApprovalsAnswer, DecideBody
from server.wire_calls import CallAnswer, RunToolsAnswer
from server.wire_chat import (
    ChatAnswer,
    ChatBody,
    ConversationAnswer,
    ConversationsAnswer,
    ConversationSummary,
    chat_event,
)

router, events = routes(), event_routes()


@events.post("/chat", response_class=EventSourceResponse)
async def chat_events(body: ChatBody, request: Request, service: Here, caller: Who) -> AsyncIterable[ServerSentEvent]:
    """A turn as it goes; the last event is `done`, or `problem`."""
    async for event in _events(_turn(body, service, caller), request):
        yield event


@router.post("/chat", response_model=ChatAnswer, tags=["chat"], summary="Answer a conversation")
async def chat(body: ChatBody, request: Request, service: Here, caller: Who) -> Response:
    """Have a model answer, with the registered functions as its tools: its calls are run, until it answers in words.

    Ask for `text/event-stream` to see it happen.
    """
    return await _whole(_turn(body, service, caller), request)


@router.get("/conversations", tags=["chat"], summary="List conversations")
async def list_conversations(service: Here, caller: Who) -> ConversationsAnswer:
    """Conversations that are kept, the one that went on last first; at most 200."""
    chat_ = service.chat
    found = [ConversationSummary.of(one, chat_.status_of(one)) for one in await chat_.conversations(caller)]
    return ConversationsAnswer(conversations=found)


@router.get("/conversations/{identity}", tags=["chat"], summary="Show a conversation")
async def show_conversation(identity: str, service: Here, caller: Who) -> ConversationAnswer:
    """A conversation as it was left. Go on with POST /chat and its id."""
    found = await service.chat.conversation(identity, caller)
    return ConversationAnswer.of(found, service.chat.status_of(found))


@router.delete("/conversations/{identity}", tags=["chat"], status_code=204, summary="Forget a conversation")
async def delete_conversation(identity: str, service: Here, caller: Who) -> None:
    """Forget a conversation, and what waits in it."""
    await service.chat.delete(identity, caller)


@router.get("/approvals", tags=["chat"], summary="List what waits for a person")
async def list_approvals(service: Here, caller: Who) -> ApprovalsAnswer:
    """Calls that models asked for and that wait for a decision, oldest first."""
    now = service.approvals.now()
    found = await service.approvals.listed(caller)
    return ApprovalsAnswer(approvals=[ApprovalAnswer.of_kept(one, now) for one in found])


@router.get("/approvals/{identity}", tags=["chat"], summary="Show what waits")
async def show_approval(identity: str, service: Here, caller: Who) -> ApprovalAnswer:
    """Calls that wait, or what became of them."""
    return ApprovalAnswer.of_kept(await service.approvals.find(identity, caller), service.approvals.now())


@events.post("/approvals/{identity}", response_class=EventSourceResponse)
async def decide_events(
    identity: str, body: DecideBody, request: Request, service: Here, caller: Who
) -> AsyncIterable[ServerSentEvent]:
    """A turn that goes on, as it goes; the last event is `done`, or `problem`."""
    try:
        approval = await service.approvals.find(identity, caller)
    except AigbbError as error:
        yield ServerSentEvent(event="problem", data=wire.problem_body(error, request))
        return
    async for event in _events(service.chat.decide(approval, body.all(), caller, body.place()), request):
        yield event


@router.post(
    "/approvals/{identity}",
    response_model=ChatAnswer | RunToolsAnswer | CallAnswer | ApprovalAnswer,
    tags=["chat"],
    summary="Decide",
)
async def decide(identity: str, body: DecideBody, request: Request, service: Here, caller: Who) -> Response:
    """Submit a decision for each pending call. Resumes the turn and returns its result.

    For calls of /tools/run and /functions/{name}/call it returns what those would have returned, and for a rejected
    call of the latter the approval. They run to their end
    also when the client disconnects; the result is then in `outcome` of the approval.
    """
    approval = await service.approvals.find(identity, caller)
    pending = service.approvals.pending(approval)
    if isinstance(pending, HeldCalls):
        work = service.direct.decide_tools(approval, body.all(), caller, _tools_told)
        return _json(await unless_gone(request, service.to_its_end(work)))
    if isinstance(pending, SuspendedCall):
        told = partial(_call_told, pending.session)
        try:
            work = service.direct.decide_call(approval, body.all(), caller, told)
            return _json(await unless_gone(request, service.to_its_end(work)))
        except CallRejected:
            return as_json(await show_approval(identity, service, caller))
    return await _whole(service.chat.decide(approval, body.all(), caller, body.place()), request)


async def _turn(body: ChatBody, service: Service, caller: Caller) -> AsyncGenerator[Event]:
    """The turn that a body asks for. Raises InvalidRequest for a number over its limit."""
    check_ceilings(service.settings, dict(body))
    async with aclosing(service.chat.run(body.wish(), caller)) as events:
        async for event in events:
            yield event


def _tools_told(turn: ToolTurn) -> str:
    return RunToolsAnswer.of(turn).model_dump_json()


def _call_told(session: str | None, called: Called) -> str:
    return CallAnswer.of(called, session).model_dump_json()


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")


async def _events(turn: AsyncGenerator[Event], request: Request) -> AsyncIterable[ServerSentEvent]:
    start = time.perf_counter()
    try:
        async with aclosing(turn):
            async for event in turn:
                yield chat_event(event, since(start))
    except AigbbError as error:
        yield ServerSentEvent(event="problem", data=wire.problem_body(error, request))


async def _whole(turn: AsyncGenerator[Event], request: Request) -> Response:
    start = time.perf_counter()
    done = await unless_gone(request, outcome(turn))
    return as_json(ChatAnswer.of(done, since(start)))
