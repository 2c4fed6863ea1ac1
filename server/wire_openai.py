"""Chat completions as OpenAI's clients send and read them; what ran in between is in one field more, `aigbb`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any
from uuid import uuid4

from pydantic import ConfigDict, Field

from server.calls import ToolResult
from server.chat import Event, Ready, Turn, Wish
from server.completions import TextDelta, as_tool_call
from server.errors import AigbbError, InvalidRequest, UnknownModel
from server.wire import Body
from server.wire_chat import ChatAnswer, Messages, UsageAnswer

NAME = "aigbb"
_FINISH = {"calls": "tool_calls", "length": "length", "filtered": "content_filter"}


class CompletionBody(Body):
    """A request for a chat completion. What is not named here goes to the model as it is."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"model": NAME, "messages": [{"role": "user", "content": "Hello"}]}]},
    )

    model: Annotated[str, Field(description="aigbb for all functions, aigbb:TAG for those with a tag")]
    messages: Messages
    tools: Annotated[list[dict[str, Any]] | None, Field(description="Your own: calls of these come back to you")] = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    n: Annotated[int | None, Field(ge=1, le=1)] = None

    def wish(self, tags: Iterable[str]) -> Wish:
        """The same as a value of ours. Raises UnknownModel for another name than those of `models`, InvalidRequest."""
        if self.model not in names(tags):
            raise UnknownModel(f"There is no model {self.model[:80]!r}.", suggestions=names(tags))
        if {"functions", "function_call"} & (self.model_extra or {}).keys():
            raise InvalidRequest("functions and function_call are not taken here: send tools and tool_choice.")
        tag = self.model.partition(":")[2]
        extra = {name: value for name, value in (self.model_extra or {}).items() if value is not None}
        extra.pop("user", None)  # who asks is of no use to the model behind
        return Wish(
            self.messages,
            tags=(tag,) if tag else (),
            tool_choice=self.tool_choice or "auto",
            parallel_tool_calls=self.parallel_tool_calls,
            options=extra,
            client_tools=self.tools or (),
        )


def names(tags: Iterable[str]) -> list[str]:
    """The models that there are: all functions, and those of each tag."""
    return [NAME, *(f"{NAME}:{tag}" for tag in sorted(set(tags)))]


def models(tags: Iterable[str]) -> dict[str, Any]:
    """The list of models."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": NAME} for name in names(tags)]
    return {"object": "list", "data": data}


class Chunks:
    """A turn's events as chunks of one completion. Fields that OpenAI has not are added to ordinary chunks only."""

    def __init__(self, body: CompletionBody) -> None:
        self._head = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": body.model}
        self._usage = bool((body.stream_options or {}).get("include_usage"))
        self._begun = False

    def of(self, event: Event, total_ms: float) -> Iterator[dict[str, Any]]:
        """The chunks of one event."""
        match event:
            case TextDelta():
                part = {"reasoning_content": event.text} if event.thought else {"content": event.text}
                yield self._chunk(part)
            case Ready():
                yield self._chunk({}, aigbb={"call": as_tool_call(event.call)})
            case ToolResult():
                told = {"id": event.call.id, "name": event.call.name, "status": event.status, "content": event.content}
                yield self._chunk({}, aigbb={"result": told})
            case Turn():
                yield from self._end(event, total_ms)

    def _end(self, turn: Turn, total_ms: float) -> Iterator[dict[str, Any]]:
        if turn.calls:
            parts = [{"index": number, **as_tool_call(call)} for number, call in enumerate(turn.calls)]
            yield self._chunk({"tool_calls": parts})
        yield self._chunk({}, finish=_FINISH.get(turn.status, "stop"), aigbb=_ran(turn, total_ms))
        if self._usage:
            yield self._event({"choices": [], "usage": UsageAnswer.of(turn.usage).model_dump()})

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        if not self._begun:
            self._begun, delta = True, {"role": "assistant", **delta}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._event({"choices": [choice], **more})

    def _event(self, rest: Mapping[str, Any]) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", **rest}


def completion(body: CompletionBody, turn: Turn, total_ms: float) -> dict[str, Any]:
    """A turn as one completion."""
    message: dict[str, Any] = {"role": "assistant", "content": turn.text or (None if turn.calls else "")}
    if turn.calls:
        message["tool_calls"] = [as_tool_call(call) for call in turn.calls]
    finish = _FINISH.get(turn.status, "stop")
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": UsageAnswer.of(turn.usage).model_dump(),
        "aigbb": _ran(turn, total_ms),
    }


def _ran(turn: Turn, total_ms: float) -> dict[str, Any]:
    """What one cannot see in a completion."""
    answer = ChatAnswer.of(turn, total_ms).model_dump(mode="json")
    return {name: answer[name] for name in ("status", "model", "offered", "rounds", "duration_ms")}


def error_body(error: AigbbError) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    message = f"{error.detail} {error.hint}".strip()
    return {"error": {"message": message, "type": kind, "param": None, "code": error.code}}
