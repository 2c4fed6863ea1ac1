"""What goes over the wire about calls: a function's result, and a model's tool calls with their messages."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from kernels.outputs import Status, Stream
from server.approvals import Form
from server.batch import Terms
from server.calls import Called, ToolResult
from server.completions import ToolCall, mended
from server.direct import ToolTurn
from server.turns import Waiting
from server.wire import (
    Answer,
    Body,
    EndedBy,
    EndedBySignal,
    ErrorDetail,
    ExecutionId,
    ExitCode,
    KernelName,
    StatePreserved,
    as_notebook,
    ending,
    error_line,
    times,
)
from server.wire_approvals import ApprovalAnswer, Approved, Confirm


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
    bound: Annotated[dict[str, Any], Field(max_length=1000, description="Values of bound parameters, by name")] = {}
    session: Annotated[str | None, Field(description="A session's id; all calls then run one after the other")] = None
    timeout: Annotated[float | None, Field(gt=0, description="Seconds for each call; at most AIGBB_MAX_TIMEOUT")] = None
    confirm: Confirm = None
    approved: Approved = []

    def calls(self) -> list[ToolCall]:
        """The same as values of ours, each with an id of its own."""
        return list(mended([one.call() for one in self.tool_calls]))

    def forms(self) -> tuple[Form, ...]:
        """How each is to be answered."""
        return tuple(
            Form(one.call_id, responses=True) if isinstance(one, FunctionCallBody) else Form(one.id)
            for one in self.tool_calls
        )

    def terms(self) -> Terms:
        """How they are to be run."""
        return Terms(self.bound, self.session, self.timeout, self.confirm or "never", frozenset(self.approved))


class CallAnswer(Answer):
    """What a call came to."""

    name: str
    version: Annotated[int, Field(description="The version that ran")]
    id: ExecutionId
    status: Status
    result: Annotated[Any, Field(description="The result as JSON; null where there is none")]
    content: Annotated[str | None, Field(description="The result as text for a model, at most AIGBB_MAX_CONTENT of it")]
    error: Annotated[str | None, Field(description="One line: what went wrong")]
    error_detail: ErrorDetail | None
    hint: str | None
    fix: dict[str, Any] | None
    stdout: str
    stderr: str
    outputs: Annotated[list[dict[str, Any]], Field(description="What it showed, in Jupyter's notebook format")]
    session: str | None
    kernel: KernelName
    snapshot: Annotated[int | None, Field(description="Which state of the functions it ran with")]
    duration_ms: float
    waited_ms: float
    truncated: bool
    kernel_lost: bool
    state_preserved: StatePreserved
    reason: EndedBy
    exit_code: ExitCode
    signal: EndedBySignal

    @classmethod
    def of(cls, called: Called, session: str | None) -> CallAnswer:
        """From a call."""
        execution, returned, hint = called.execution, called.returned, called.hint
        done, error = execution.done, execution.error
        return cls(
            name=called.version.function.name,
            version=called.number,
            id=called.id,
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
            **ending(done, session),
        )


class PendingCallAnswer(Answer):
    """A typed call that waits for a decision."""

    name: str
    version: Annotated[int, Field(description="The version that will run")]
    status: Literal["needs_confirmation"]
    approval: ApprovalAnswer

    @classmethod
    def of(cls, waiting: Waiting) -> PendingCallAnswer:
        """From what waits."""
        [held] = waiting.held
        approval = ApprovalAnswer.of(waiting, None)
        return cls(name=held.call.name, version=held.version, status="needs_confirmation", approval=approval)


class ToolRun(Answer):
    """How one tool call went."""

    id: str
    name: str
    status: Annotated[str, Field(description="ok, or what went wrong")]
    duration_ms: float
    version: Annotated[int | None, Field(description="The version that was called; null without such a function")] = (
        None
    )
    pictures: Annotated[list[str], Field(description="Links to pictures that it showed")] = []
    whole: Annotated[str | None, Field(description="Link to the result, where the model was shown a part of it")] = None
    traceback: Annotated[str, Field(description="Of an exception; for you, models are not shown it")] = ""
    execution: Annotated[str | None, Field(description="The execution's id; null where nothing was run")] = None

    @classmethod
    def of(cls, result: ToolResult) -> ToolRun:
        """From a result."""
        return cls(
            id=result.call.id,
            name=result.call.name,
            status=result.status,
            duration_ms=result.duration_ms,
            version=result.version,
            pictures=list(result.pictures),
            whole=result.whole,
            traceback=result.traceback,
            execution=result.execution,
        )


class RunToolsAnswer(Answer):
    """One message for every tool call, in the same order, to be appended to the conversation as they are.

    While some calls wait for a person, there are only those of the others; the decision answers with all of them.
    """

    messages: list[dict[str, Any]]
    runs: list[ToolRun]
    approval: Annotated[ApprovalAnswer | None, Field(description="Calls that wait for a person")] = None
    approved: Annotated[list[str], Field(description="Functions that need no decision any more; send it back")] = []

    @classmethod
    def of(cls, turn: ToolTurn) -> RunToolsAnswer:
        """From what the calls came to."""
        pairs = [(turn.forms[n], turn.results[n]) for n in sorted(turn.results)]
        return cls(
            messages=[_message(form, result) for form, result in pairs],
            runs=[ToolRun.of(result).model_copy(update={"id": form.id}) for form, result in pairs],
            approval=ApprovalAnswer.of(turn.waiting, None) if turn.waiting else None,
            approved=list(turn.approved),
        )


def _message(form: Form, result: ToolResult) -> dict[str, Any]:
    """In the form of the request that it answers."""
    if form.responses:
        return {"type": "function_call_output", "call_id": form.id, "output": result.content}
    return {"role": "tool", "tool_call_id": form.id, "content": result.content}
