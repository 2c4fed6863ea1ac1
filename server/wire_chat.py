"""What goes over the wire about chat: a turn that is wanted, its events, and what it came to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi.sse import ServerSentEvent
from pydantic import AfterValidator, ConfigDict, Field, StrictBool, StringConstraints, field_validator

from kernels.clock import as_time
from server.archive import Stored, Summary
from server.calls import ToolResult
from server.completions import CallDelta, TextDelta, Usage
from server.conversations import modern
from server.models import Mode
from server.turns import Event, Limits, Ready, Round, Status, Turn, Waiting, Wish
from server.wire import Answer, Body
from server.wire_approvals import ApprovalAnswer, Approved, Confirm, PlaceBody
from server.wire_calls import ToolRun

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# What a request says in words of its own.
_OWN = {"model", "messages", "stream", "stream_options", "tools", "tool_choice", "parallel_tool_calls", "functions"}
_OWN |= {"function_call", "n"}


def _with_roles(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for number, message in enumerate(messages):
        if message.get("role") not in ROLES:
            raise ValueError(f"Message {number} has no role of {', '.join(ROLES)}.")
    return modern(messages)


Messages = Annotated[
    list[dict[str, Any]],
    Field(max_length=2000, description="As chat completions have them; an answer's can be sent back"),
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

    messages: Messages = []
    conversation: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Keep it under this id: send only what is new from then on"
        ),
    ] = None
    model: Annotated[str | None, StringConstraints(min_length=1), Field(description="Default AIGBB_MODEL")] = None
    service: Annotated[PlaceBody | None, Field(description="Where the model is, if not where the settings say")] = None
    tools: Annotated[
        list[str], Field(max_length=1000, description="Functions that the model is offered; default all")
    ] = []
    tags: Annotated[list[str], Field(max_length=100, description="Only functions with one of these tags")] = []
    tool_choice: Annotated[
        str | dict[str, Any],
        Field(description="auto, none, required, a function, or allowed_tools; what forces holds for the first round"),
    ] = "auto"
    parallel_tool_calls: Annotated[StrictBool | None, Field(description="false: one call at a time")] = None
    strict: Annotated[
        StrictBool | Literal["auto"],
        Field(description="Tools in strict form: auto, where they have one; true, or refused"),
    ] = False
    mode: Annotated[
        Mode | None,
        Field(description="native tool calls, legacy functions, or a prompt for neither; default: as the model can"),
    ] = None
    search: Annotated[
        Literal["service", "model"],
        Field(description="Who looks for functions when there are more than 20; model: with a tool for that"),
    ] = "service"
    final: Annotated[
        StrictBool, Field(description="false: the functions' results are the answer, nothing is summed up")
    ] = True
    confirm: Confirm = None
    approved: Approved = []
    max_rounds: Annotated[int | None, Field(ge=1, description="At most AIGBB_MAX_ROUNDS, which is the default")] = None
    max_tool_calls: Annotated[int | None, Field(ge=1, description="At most AIGBB_MAX_CALLS")] = None
    max_total_tokens: Annotated[int | None, Field(ge=1, description="Of all rounds; at most AIGBB_MAX_TOKENS")] = None
    total_timeout: Annotated[float | None, Field(gt=0, description="Seconds; at most AIGBB_MAX_SECONDS")] = None
    on_limit: Annotated[
        Literal["final_answer", "error"], Field(description="What a limit does: ask for the best answer so far, or 422")
    ] = "final_answer"
    session: Annotated[str | None, Field(description="A session's id: calls share its variables")] = None
    bound: Annotated[dict[str, Any], Field(max_length=1000, description="Values of bound parameters, by name")] = {}
    timeout: Annotated[float | None, Field(gt=0, description="Seconds for each call; at most AIGBB_MAX_TIMEOUT")] = None
    options: Annotated[
        dict[str, Any],
        Field(max_length=200, description="For the model, as they are: temperature, max_tokens and their like"),
    ] = {}

    @field_validator("options")
    @classmethod
    def _others(cls, options: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_OWN & options.keys()):
            raise ValueError(f"{', '.join(taken)}: not an option; the request has a member for it, or decides it.")
        return options

    def wish(self) -> Wish:
        """The same as a value of ours."""
        limits = Limits(
            self.max_rounds,
            self.max_tool_calls,
            self.max_total_tokens,
            self.total_timeout,
            error=self.on_limit == "error",
        )
        return Wish(
            self.messages,
            self.model,
            tuple(self.tools),
            tuple(self.tags),
            self.tool_choice,
            self.parallel_tool_calls,
            self.strict,
            limits,
            self.session,
            self.bound,
            self.timeout,
            self.options,
            mode=self.mode,
            conversation=self.conversation,
            final=self.final,
            approved=tuple(self.approved),
            confirm=self.confirm,
            search=self.search == "model",
            service=self.service.place() if self.service else None,
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


class ChatRun(ToolRun):
    """How one call went, with what was asked and what the model read."""

    arguments: Annotated[str, Field(description="As the model wrote them")]
    content: Annotated[str, Field(description="What the model read")]


class RoundAnswer(Answer):
    """One request to the model, and the calls that it asked for."""

    model_ms: float
    thoughts: Annotated[str, Field(description="What the model thought aloud")]
    usage: UsageAnswer
    runs: list[ChatRun]


class ChatAnswer(Answer):
    """What a turn came to."""

    status: Annotated[
        Literal[Status],
        Field(
            description="done; needs_confirmation: see `approval`; limit, stuck: it was asked for its best answer; "
            "length, filtered"
        ),
    ]
    content: Annotated[str, Field(description="The answer")]
    model: str
    messages: Annotated[list[dict[str, Any]], Field(description="The whole conversation; add a question, send it back")]
    added: Annotated[int, Field(description="How many of the messages are new, counted from the end")]
    conversation: Annotated[str | None, Field(description="Where it is kept; null if it is not")]
    approval: Annotated[ApprovalAnswer | None, Field(description="Calls that wait for a person")]
    approved: Annotated[list[str], Field(description="Functions that need no decision any more; send it back as it is")]
    offered: Annotated[list[str], Field(description="The functions that the model was offered")]
    rounds: list[RoundAnswer]
    usage: UsageAnswer
    warnings: Annotated[list[str], Field(description="What was left out because the model does not take it")]
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
            conversation=turn.conversation,
            approval=ApprovalAnswer.of(turn.waiting, turn.conversation) if turn.waiting else None,
            approved=list(turn.approved),
            offered=list(turn.offered),
            rounds=[_round(each) for each in turn.rounds],
            usage=UsageAnswer.of(turn.usage),
            warnings=list(turn.warnings),
            duration_ms=total_ms,
        )


class ConversationSummary(Answer):
    """A conversation in a list."""

    id: str
    status: Annotated[
        Literal["idle", "running", "waiting", "interrupted"],
        Field(
            description="waiting: for a decision; interrupted: a turn was cut off, go on by sending a message, or none"
        ),
    ]
    messages: Annotated[int, Field(description="How many")]
    created: str
    updated: str

    @classmethod
    def of(cls, summary: Summary, status: str) -> ConversationSummary:
        """From the archive."""
        times = {"created": as_time(summary.created), "updated": as_time(summary.updated)}
        return cls.model_validate({"id": summary.id, "status": status, "messages": summary.messages, **times})


class ConversationsAnswer(Answer):
    """Conversations that are kept, the one that went on last first."""

    conversations: list[ConversationSummary]


class ConversationAnswer(Answer):
    """A conversation that is kept, as it was left."""

    id: str
    status: Literal["idle", "running", "waiting", "interrupted"]
    messages: list[dict[str, Any]]
    approved: Annotated[list[str], Field(description="Functions that need no decision in it")]
    created: str
    updated: str

    @classmethod
    def of(cls, stored: Stored, status: str) -> ConversationAnswer:
        """From the archive."""
        return cls.model_validate(
            {
                "id": stored.id,
                "status": status,
                "messages": [dict(message) for message in stored.messages],
                "approved": list(stored.approved),
                "created": as_time(stored.created),
                "updated": as_time(stored.updated),
            }
        )


def _round(each: Round) -> RoundAnswer:
    runs = [
        ChatRun(**ToolRun.of(result).model_dump(), arguments=result.call.arguments, content=result.content)
        for result in each.results
    ]
    return RoundAnswer(model_ms=each.model_ms, thoughts=each.thoughts, usage=UsageAnswer.of(each.usage), runs=runs)


def chat_event(event: Event, total_ms: float) -> ServerSentEvent:
    """A turn's event: content.delta, thought.delta, tool_call.delta, tool_call.ready, tool_result,
    usage (of one request to the model), needs_confirmation; done at the end.
    """
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
            data = {**ToolRun.of(event).model_dump(), "content": event.content}
            return ServerSentEvent(event="tool_result", data=data)
        case Usage():
            return ServerSentEvent(event="usage", data=UsageAnswer.of(event).model_dump())
        case Waiting():
            told = ApprovalAnswer.of(event, None).model_dump(exclude={"conversation"})
            return ServerSentEvent(event="needs_confirmation", data=told)
        case Turn():
            return ServerSentEvent(event="done", data=ChatAnswer.of(event, total_ms).model_dump(mode="json"))
