"""Chat completions as OpenAI's clients send and read them; what ran in between is in one field more, `aigbb`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any
from uuid import uuid4

from pydantic import ConfigDict, Field, StrictBool

from server.calls import ToolResult
from server.completions import TextDelta, ToolCall, as_tool_call
from server.errors import AigbbError, InvalidRequest, UnknownModel
from server.turns import Event, Ready, Turn, Waiting, Wish
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
    tools: Annotated[
        list[dict[str, Any]] | None, Field(max_length=1000, description="Your own: calls of these come back to you")
    ] = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: StrictBool | None = None
    functions: Annotated[
        list[dict[str, Any]] | None,
        Field(max_length=1000, description="As before there were tools: one call comes back at a time"),
    ] = None
    function_call: str | dict[str, Any] | None = None
    stream: StrictBool | None = None
    stream_options: dict[str, Any] | None = None
    n: Annotated[int | None, Field(ge=1, le=1)] = None

    def wish(self, tags: Iterable[str]) -> Wish:
        """The same as a value of ours. Raises UnknownModel for another name than those of `models`, InvalidRequest."""
        if self.model not in names(tags):
            raise UnknownModel(f"There is no model {self.model[:80]!r}.", suggestions=names(tags))
        if self.functions and self.tools:
            raise InvalidRequest("There are both tools and functions: send tools only.")
        tag = self.model.partition(":")[2]
        extra = {name: value for name, value in (self.model_extra or {}).items() if value is not None}
        extra.pop("user", None)  # who asks is of no use to the model behind
        return Wish(
            self.messages,
            tags=(tag,) if tag else (),
            tool_choice=self._choice(),
            parallel_tool_calls=self.parallel_tool_calls,
            options=extra,
            client_tools=[*(self.tools or ()), *({"type": "function", "function": f} for f in self.functions or ())],
        )

    def _choice(self) -> str | dict[str, Any]:
        if isinstance(self.function_call, dict):
            return {"type": "function", "function": self.function_call}
        return self.tool_choice or self.function_call or "auto"

    def asked(self, calls: Sequence[ToolCall]) -> dict[str, Any]:
        """Calls of the client's own tools, as a member of a message in the form of the request."""
        if self.functions:
            return {"function_call": {"name": calls[0].name, "arguments": calls[0].arguments}}
        return {"tool_calls": [as_tool_call(call) for call in calls]}

    def finish(self, turn: Turn) -> str:
        """Why the answer ends, as OpenAI's clients know it."""
        return "function_call" if turn.calls and self.functions else _FINISH.get(turn.status, "stop")


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
        self._body = body
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
            case Waiting():
                yield self._chunk({"content": _asking(event)})
            case ToolResult():
                told = {"id": event.call.id, "name": event.call.name, "status": event.status, "content": event.content}
                yield self._chunk({}, aigbb={"result": told})
            case Turn():
                yield from self._end(event, total_ms)

    def _end(self, turn: Turn, total_ms: float) -> Iterator[dict[str, Any]]:
        if turn.calls:
            asked = self._body.asked(turn.calls)
            if "tool_calls" in asked:
                asked = {"tool_calls": [{"index": number, **call} for number, call in enumerate(asked["tool_calls"])]}
            yield self._chunk(asked)
        yield self._chunk({}, finish=self._body.finish(turn), aigbb=_ran(turn, total_ms))
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
    text = f"{turn.text}{_asking(turn.waiting)}".lstrip() if turn.waiting else turn.text
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if turn.calls else "")}
    if turn.calls:
        message |= body.asked(turn.calls)
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": body.finish(turn)}],
        "usage": UsageAnswer.of(turn.usage).model_dump(),
        "aigbb": _ran(turn, total_ms),
    }


def _asking(waiting: Waiting) -> str:
    """What a person reads of calls that wait: in a completion there is no better place for it."""
    calls = "\n".join(f"- {one.call.name}({one.call.arguments})" for one in waiting.held)
    how = f"`aigbb approve {waiting.id}` or POST /approvals/{waiting.id}"
    return f"\n\nThis waits for a decision, and was not run:\n{calls}\nDecide with {how}."


def _ran(turn: Turn, total_ms: float) -> dict[str, Any]:
    """What one cannot see in a completion."""
    answer = ChatAnswer.of(turn, total_ms).model_dump(mode="json")
    shown = ("status", "model", "conversation", "approval", "offered", "rounds", "warnings", "duration_ms")
    return {name: answer[name] for name in shown}


# What `error_body` makes.
ERROR_SCHEMA = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": ["invalid_request_error", "server_error"]},
                "param": {"type": "null"},
                "code": {"type": "string"},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


def error_body(error: AigbbError) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    message = f"{error.detail} {error.hint}".strip()
    return {"error": {"message": message, "type": kind, "param": None, "code": error.code}}
