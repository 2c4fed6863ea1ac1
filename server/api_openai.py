"""The door for OpenAI's clients: the service as a model that runs its tools itself."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic_core import to_json

from server import wire
from server.callers import Caller
from server.chat import outcome
from server.errors import AigbbError
from server.routing import Here, Who, routes, since, unless_gone
from server.service import Service
from server.turns import Event
from server.wire_openai import Chunks, CompletionBody, completion, error_body, models

router = routes()


@router.get("/v1/models", tags=["chat"], summary="List models")
async def list_models(service: Here, caller: Who) -> dict[str, Any]:
    """The service as models: `aigbb` has all functions, `aigbb:TAG` those with a tag."""
    return models(_tags(service, caller))


@router.post(
    "/v1/chat/completions",
    tags=["chat"],
    summary="Complete a chat",
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def complete(body: CompletionBody, request: Request, service: Here, caller: Who) -> Response:
    """For any OpenAI client: the functions are run here, tools that the client sends come back to it.

    What ran is in `aigbb`. The model behind is AIGBB_MODEL.
    """
    start = time.perf_counter()
    events = service.chat.run(body.wish(_tags(service, caller)), caller)
    if not body.stream:
        turn = await unless_gone(request, outcome(events))
        return JSONResponse(completion(body, turn, since(start)))
    # What can be refused is refused with a status, before anything is sent.
    first = await unless_gone(request, anext(events))
    return StreamingResponse(_chunks(request, body, first, events, start), media_type="text/event-stream")


async def _chunks(
    request: Request, body: CompletionBody, first: Event, events: AsyncGenerator[Event], start: float
) -> AsyncIterator[bytes]:
    chunks = Chunks(body)
    try:
        for chunk in chunks.of(first, since(start)):
            yield _line(chunk)
        async for event in events:
            for chunk in chunks.of(event, since(start)):
                yield _line(chunk)
        yield b"data: [DONE]\n\n"
    except AigbbError as error:
        yield _line(error_body(wire.scrubbed(error, request)))
    finally:
        await events.aclose()


def _line(data: dict[str, Any]) -> bytes:
    return b"data: " + to_json(data) + b"\n\n"


def _tags(service: Service, caller: Caller) -> set[str]:
    return {tag for version in service.catalog(caller).versions for tag in version.function.tags}
