"""What goes over the wire about chat: a turn that is wanted, its events, and what it came to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi.sse import ServerSentEvent
from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, field_validator

from server.calls import ToolResult
from server.chat import Event, Ready, Round, Status, Turn, Wish
from server.completions import CallDelta, TextDelta, Usage
from server.dialects import Mode
from server.wire import Answer, Body
from server.wire_calls import ToolRun

ROLES = ("system", "developer", "user", "assistant", "tool")
# What a request says in words of its own.
_OWN = {"model", "messages", "stream", "stream_options", "tools", "tool_choice", "parallel_tool_calls", "functions"}
_OWN |= {"function_call", "n"}


def _with_roles(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for number, message in enumerate(messages):
        if message.get("role") not in ROLES:
            raise ValueError(f"Message {number} has no role of {', '.join(ROLES)}.")
    return messages


Messages = Annotated[
    list[dict[str, Any]],
    Field(min_length=1, max_length=2000, description="As chat completions have them; an answer's can be sent back"),
    AfterValidator(_with_roles),
]


class ChatBody(Body):
    """One turn: a conversation whose last message is to be answered."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"messages": [{"role": "user", "content": "Which words are most frequent in 'to be or not to be'?"}]}
            ]
        }
    )

    messages: Messages
    model: Annotated[str | None, StringConstraints(min_length=1), Field(description="Default AIGBB_MODEL")] = None
    tools: Annotated[list[str], Field(description="Functions that the model is offered; default all")] = []
    tags: Annotated[list[str], Field(description="Only functions with one of these tags")] = []
    tool_choice: Annotated[
        str | dict[str, Any],
        Field(description="auto, none, required, a function, or allowed_tools; what forces holds for the first round"),
    ] = "auto"
    parallel_tool_calls: Annotated[bool | None, Field(description="false: one call at a time")] = None
    strict: Annotated[bool, Field(description="Tools in strict form, where they have one")] = False
    mode: Annotated[
        Mode, Field(description="native tool calls, legacy functions, or a prompt for models that have neither")
    ] = "native"
    max_rounds: Annotated[int | None, Field(ge=1, description="At most AIGBB_MAX_ROUNDS, which is the default")] = None
    session: Annotated[str | None, Field(description="A session's id: calls share its variables")] = None
    bound: Annotated[dict[str, Any], Field(description="Values of bound parameters, by name")] = {}
    timeout: Annotated[float | None, Field(gt=0, description="Seconds for each call")] = None
    options: Annotated[
        dict[str, Any], Field(description="For the model, as they are: temperature, max_tokens and their like")
    ] = {}

    @field_validator("options")
    @classmethod
    def _others(cls, options: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_OWN & options.keys()):
            raise ValueError(f"{', '.join(taken)}: not an option; the request has a member for it, or decides it.")
        return options

    def wish(self) -> Wish:
        """The same as a value of ours."""
        return Wish(
            self.messages,
            self.model,
            tuple(self.tools),
            tuple(self.tags),
            self.tool_choice,
            self.parallel_tool_calls,
            self.strict,
            self.max_rounds,
            self.session,
            self.bound,
            self.timeout,
            self.options,
            mode=self.mode,
        )


class UsageAnswer(Answer):
    """Tokens, as the model's service counts them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> UsageAnswer:
        """From a count."""
        total = usage.prompt + usage.completion
        return cls(prompt_tokens=usage.prompt, completion_tokens=usage.completion, total_tokens=total)


class RoundAnswer(Answer):
    """One request to the model, and the calls that it asked for."""

    model_ms: float
    thoughts: Annotated[str, Field(description="What the model thought aloud")]
    usage: UsageAnswer
    runs: list[ToolRun]


class ChatAnswer(Answer):
    """What a turn came to."""

    status: Annotated[
        Literal[Status], Field(description="done; limit and stuck: it was asked for its best answer; length, filtered")
    ]
    content: Annotated[str, Field(description="The answer")]
    model: str
    messages: Annotated[list[dict[str, Any]], Field(description="The whole conversation; add a question, send it back")]
    added: Annotated[int, Field(description="How many of the messages are new, counted from the end")]
    offered: Annotated[list[str], Field(description="The functions that the model was offered")]
    rounds: list[RoundAnswer]
    usage: UsageAnswer
    duration_ms: float

    @classmethod
    def of(cls, turn: Turn, total_ms: float) -> ChatAnswer:
        """From a turn."""
        return cls(
            status=turn.status,
            content=turn.text,
            model=turn.model,
            messages=[dict(message) for message in turn.messages],
            added=turn.added,
            offered=list(turn.offered),
            rounds=[_round(each) for each in turn.rounds],
            usage=UsageAnswer.of(turn.usage),
            duration_ms=total_ms,
        )


def _round(each: Round) -> RoundAnswer:
    runs = [_run(result) for result in each.results]
    return RoundAnswer(model_ms=each.model_ms, thoughts=each.thoughts, usage=UsageAnswer.of(each.usage), runs=runs)


def _run(result: ToolResult) -> ToolRun:
    return ToolRun(id=result.call.id, name=result.call.name, status=result.status, duration_ms=result.duration_ms)


def chat_event(event: Event, total_ms: float) -> ServerSentEvent:
    """A turn's event: content.delta, thought.delta, tool_call.delta, tool_call.ready, tool_result; done at the end."""
    match event:
        case TextDelta():
            return ServerSentEvent(
                event="thought.delta" if event.thought else "content.delta", data={"text": event.text}
            )
        case CallDelta():
            data = {"position": event.position, "id": event.id, "name": event.name, "arguments": event.arguments}
            return ServerSentEvent(event="tool_call.delta", data=data)
        case Ready():
            call = event.call
            data = {"id": call.id, "name": call.name, "arguments": call.arguments}
            return ServerSentEvent(event="tool_call.ready", data=data)
        case ToolResult():
            data = {**_run(event).model_dump(), "content": event.content}
            return ServerSentEvent(event="tool_result", data=data)
        case Turn():
            return ServerSentEvent(event="done", data=ChatAnswer.of(event, total_ms).model_dump(mode="json"))
