"""What goes over the wire about calls: a function's result, and a model's tool calls with their messages."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from kernels.outputs import Stream
from server.calls import Called, ToolResult
from server.completions import ToolCall
from server.wire import Answer, Body, ErrorDetail, as_notebook, error_line, times


class FunctionCall(Body):
    """The function part of a tool call; arguments are JSON text, as models write it."""

    model_config = ConfigDict(extra="ignore")

    name: str
    arguments: str | dict[str, Any] = "{}"


class ToolCallBody(Body):
    """A tool call as a chat completion holds it. Members that are not known are passed over."""

    model_config = ConfigDict(extra="ignore")

    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall

    def call(self) -> ToolCall:
        """The same as a value of ours."""
        return ToolCall(self.id, self.function.name, _as_text(self.function.arguments))


class FunctionCallBody(Body):
    """A function call as the output of a response holds it."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str | dict[str, Any] = "{}"

    def call(self) -> ToolCall:
        """The same as a value of ours."""
        return ToolCall(self.call_id, self.name, _as_text(self.arguments))


def _as_text(arguments: str | dict[str, Any]) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


_TOOL_CALL_EXAMPLE: dict[str, Any] = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "word_count", "arguments": '{"text": "to be or not to be"}'},
}


class RunToolsBody(Body):
    """A model's tool calls, as they came."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tool_calls": [_TOOL_CALL_EXAMPLE]}]})

    tool_calls: Annotated[list[FunctionCallBody | ToolCallBody], Field(max_length=128)]
    bound: Annotated[dict[str, Any], Field(description="Values of bound parameters, by name")] = {}
    session: Annotated[str | None, Field(description="A session's id; calls then run one after the other")] = None
    timeout: Annotated[float | None, Field(gt=0, description="Seconds for each call")] = None


class CallAnswer(Answer):
    """What a call came to."""

    name: str
    version: Annotated[int, Field(description="The version that ran")]
    status: Literal["ok", "error", "timeout", "cancelled", "died"]
    result: Annotated[Any, Field(description="The result as JSON; null where there is none")]
    content: Annotated[str | None, Field(description="The result as text for a model, cut to AIGBB_MAX_CONTENT")]
    error: Annotated[str | None, Field(description="One line: what went wrong")]
    error_detail: ErrorDetail | None
    hint: str | None
    fix: dict[str, Any] | None
    stdout: str
    stderr: str
    outputs: Annotated[list[dict[str, Any]], Field(description="What it showed, in Jupyter's notebook format")]
    session: str | None
    kernel: str
    snapshot: Annotated[int | None, Field(description="Which state of the functions it ran with")]
    duration_ms: float
    waited_ms: float
    truncated: bool
    kernel_lost: bool

    @classmethod
    def of(cls, called: Called, session: str | None) -> CallAnswer:
        """From a call."""
        execution, returned, hint = called.execution, called.returned, called.hint
        done, error = execution.done, execution.error
        return cls(
            name=called.version.function.name,
            version=called.number,
            status=done.status,
            result=returned.value if returned else None,
            content=called.content,
            error=error_line(done, error),
            error_detail=ErrorDetail.model_validate(error) if error else None,
            hint=hint.text if hint else None,
            fix=dict(hint.fix) if hint and hint.fix else None,
            stdout=execution.text("stdout"),
            stderr=execution.text("stderr"),
            outputs=[as_notebook(item) for item in execution.outputs if not isinstance(item, Stream)],
            session=session,
            kernel=called.kernel,
            snapshot=done.snapshot,
            **times(done, called.total_ms),
            truncated=done.truncated,
            kernel_lost=done.kernel_lost,
        )


class ToolRun(Answer):
    """How one tool call went."""

    id: str
    name: str
    status: Annotated[str, Field(description="ok, or what went wrong")]
    duration_ms: float


class RunToolsAnswer(Answer):
    """One message for every tool call, in the same order, to be appended to the conversation as they are."""

    messages: list[dict[str, Any]]
    runs: list[ToolRun]

    @classmethod
    def of(cls, body: RunToolsBody, results: list[ToolResult]) -> RunToolsAnswer:
        """From the results."""
        pairs = zip(body.tool_calls, results, strict=True)
        return cls(
            messages=[_message(asked, result) for asked, result in pairs],
            runs=[ToolRun(id=r.call.id, name=r.call.name, status=r.status, duration_ms=r.duration_ms) for r in results],
        )


def _message(asked: FunctionCallBody | ToolCallBody, result: ToolResult) -> dict[str, Any]:
    """In the form of the request that it answers."""
    if isinstance(asked, FunctionCallBody):
        return {"type": "function_call_output", "call_id": asked.call_id, "output": result.content}
    return {"role": "tool", "tool_call_id": asked.id, "content": result.content}
