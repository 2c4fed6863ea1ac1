"""The REST door to chat: a turn of a conversation, as JSON or as events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable
from contextlib import aclosing

from fastapi import Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from server import wire
from server.chat import Turn
from server.errors import AigbbError
from server.routing import Here, as_json, event_routes, routes, since, unless_gone
from server.service import Service
from server.wire_chat import ChatAnswer, ChatBody, chat_event

router, events = routes(), event_routes()


@events.post("/chat", response_class=EventSourceResponse)
async def chat_events(body: ChatBody, request: Request, service: Here) -> AsyncIterable[ServerSentEvent]:
    """A turn as it goes; the last event is `done`, or `problem`."""
    start = time.perf_counter()
    try:
        async with aclosing(service.chat.run(body.wish())) as turn:
            async for event in turn:
                yield chat_event(event, since(start))
    except AigbbError as error:
        yield ServerSentEvent(event="problem", data=wire.problem_body(error, request))


@router.post("/chat", response_model=ChatAnswer, tags=["chat"], summary="Answer a conversation")
async def chat(body: ChatBody, request: Request, service: Here) -> Response:
    """Have a model answer, with the registered functions as its tools: its calls are run, until it answers in words.

    Ask for `text/event-stream` to see it happen.
    """
    start = time.perf_counter()
    turn = await unless_gone(request, _whole(service, body))
    return as_json(ChatAnswer.of(turn, since(start)))


async def _whole(service: Service, body: ChatBody) -> Turn:
    async with aclosing(service.chat.run(body.wish())) as events_:
        *_, turn = [event async for event in events_]
    assert isinstance(turn, Turn)
    return turn
