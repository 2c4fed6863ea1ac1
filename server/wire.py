"""What goes over the wire: bodies of requests and answers, server-sent events, problem+json."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from itertools import chain, islice
from typing import Annotated, Any

from fastapi.sse import ServerSentEvent
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StringConstraints, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse

from kernels.endings import Reason
from kernels.outputs import Display, Done, Error, Execution, Result, Status, Stream
from kernels.progress import Step
from kernels.suggestions import suggestions
from server.errors import AigbbError
from server.hints import hint_for
from server.running import Running
from server.scrubbing import Scrubber

PROBLEM_TYPE = "application/problem+json"
EXECUTION_ID = "X-Execution-Id"


class Body(BaseModel):
    """What a caller sends: valid Unicode, finite numbers, no unknown field."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _readable(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > MAX_MEMBERS:
            raise ValueError(f"There are {len(data)} fields, and at most {MAX_MEMBERS} are allowed.")
        return checked(data)


MAX_DEPTH = 100
# Members of an object that has fields; arguments of calls are none.
MAX_MEMBERS = 200


def checked(value: Any) -> Any:
    """Return the same JSON value. Raises ValueError for text, numbers or nesting that JSON allows and we do not.

    It is read level by level, since a legal body may hold some 300,000 values.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        _check_texts([each for each in level if type(each) is str])
        if not all(map(math.isfinite, [each for each in level if type(each) is float])):
            raise ValueError("A number is not finite.")
        lists = [each for each in level if type(each) is list]
        objects = [each for each in level if type(each) is dict]
        if not lists and not objects:
            return value
        _check_texts(list(chain.from_iterable(objects)))
        level = [*chain.from_iterable(lists), *chain.from_iterable(map(dict.values, objects))]
    raise ValueError(f"The value is nested deeper than {MAX_DEPTH} levels.")


def _check_texts(texts: list[str]) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise ValueError("A text holds a lone surrogate.") from error


def bounded(count: int) -> BeforeValidator:
    """Refuse an object with more members before any of them is read, which would list an error for each."""

    def few(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > count:
            raise ValueError(f"There are {len(value)} members, and at most {count} are allowed.")
        return value

    return BeforeValidator(few)


# What OpenAPI says of the field `timeout`.
TIMEOUT = "Seconds; default AIGBB_TIMEOUT, at most AIGBB_MAX_TIMEOUT"

# A version's number, or a line's id: as large as JSON can say for certain.
Number = Annotated[int, Field(ge=1, le=2**53 - 1)]


class Answer(BaseModel):
    """What a caller gets."""

    model_config = ConfigDict(from_attributes=True)


# -- requests


class ExecuteBody(Body):
    """Code to run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"code": "word_count('to be or not to be')"}]})

    code: Annotated[str, Field(description="Python source; every registered function is there by name")]
    session: Annotated[str | None, Field(description="A session's id; without one, the code gets a clean kernel")] = (
        None
    )
    timeout: Annotated[float | None, Field(gt=0, description=TIMEOUT)] = None


class SessionBody(Body):
    """A session to open."""

    id: Annotated[
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None,
        Field(description="A name of your own; left out, one is made"),
    ] = None
    pinned: Annotated[
        StrictBool, Field(description="Keep the functions that serve now, until it is restarted; else new ones come in")
    ] = False


# -- answers


class ErrorDetail(Answer):
    """An exception in the caller's code; the traceback holds the caller's frames only, without colours."""

    ename: str
    evalue: str
    traceback: list[str]
    frames_hidden: int


ExecutionId = Annotated[str, Field(description="Of the execution; also in the header X-Execution-Id and in the log")]
KernelName = Annotated[str | None, Field(description="Its name in Jupyter; null where none was reached")]
StatePreserved = Annotated[
    bool | None, Field(description="Whether the session's variables are still there; null without a session")
]
EndedBy = Annotated[
    Reason | None,
    Field(
        description="What ended it. Of died: exit, signal, oom, stopped, poisoned. "
        "Of timeout and output_limit: interrupted, killed, not_started"
    ),
]
ExitCode = Annotated[int | None, Field(description="Of a kernel that exited")]
EndedBySignal = Annotated[str | None, Field(description="Of a kernel that a signal killed, such as SIGSEGV")]


class ExecuteAnswer(Answer):
    """What an execution did. output, result and error come first, as in the original API."""

    output: Annotated[str, Field(description="What was written to stdout")]
    result: Annotated[str | None, Field(description="Text of the last expression")]
    error: Annotated[str | None, Field(description="One line: what went wrong")]
    id: ExecutionId
    status: Status
    outputs: Annotated[
        list[dict[str, Any]], Field(description="Everything shown, in order, in Jupyter's notebook format")
    ]
    stderr: str
    error_detail: ErrorDetail | None
    hint: Annotated[str | None, Field(description="What to do about the error, where there is something to say")]
    fix: Annotated[dict[str, Any] | None, Field(description="The same for a program, where it can be applied by one")]
    session: str | None
    kernel: KernelName
    snapshot: Annotated[int | None, Field(description="Which state of the functions it ran with")]
    execution_count: int | None
    duration_ms: Annotated[float, Field(description="How long the code ran")]
    waited_ms: Annotated[float, Field(description="How long it waited for a place and a kernel")]
    truncated: bool
    kernel_lost: Annotated[bool, Field(description="The kernel ended; in a session, variables are gone")]
    state_preserved: StatePreserved
    reason: EndedBy
    exit_code: ExitCode
    signal: EndedBySignal


class SessionAnswer(Answer):
    """A session. It ends at `expires` unless used before."""

    id: str
    kernel: str
    generation: int
    state: str
    executions: int
    pinned: bool
    created: datetime
    last_used: datetime
    expires: datetime


class GenerationAnswer(Answer):
    """An environment; `kernel` is its name in Jupyter."""

    number: int
    kernel: str
    current: bool
    available: bool
    in_use: bool
    created: str
    packages: dict[str, str]


class FaultAnswer(Answer):
    """What is wrong with what serves, until it is made again: snapshot_damaged or environment_damaged."""

    code: str
    detail: str


class HealthAnswer(Answer):
    """Whether the service serves, and how busy it is."""

    status: str
    kernel: str
    generation: int
    snapshot: int
    functions: int
    spares: int
    fork: str
    confinement: dict[str, str]
    faults: list[FaultAnswer]
    running: int
    waiting: int
    sessions: int


class Problem(BaseModel):
    """An error, as RFC 9457 has it. Further members depend on `code`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str
    detail: str
    hint: str
    instance: str
    request_id: str


# -- from our values to the wire


def problem(error: AigbbError, request: Request) -> JSONResponse:
    """An error as problem+json."""
    headers = {"Retry-After": str(error.extra["retry_after"])} if "retry_after" in error.extra else {}
    if (identity := getattr(request.state, "execution_id", None)) is not None:
        headers[EXECUTION_ID] = identity
    body = problem_body(error, request)
    return JSONResponse(body, error.status, headers, media_type=PROBLEM_TYPE)


def problem_body(error: AigbbError, request: Request) -> dict[str, Any]:
    """An error's members, without any secret."""
    return members(scrubbed(error, request), request.url.path, getattr(request.state, "request_id", ""))


def members(error: AigbbError, path: str, request_id: str) -> dict[str, Any]:
    """The same, of a request that there is nothing more of."""
    head = {
        "type": f"urn:aigbb:problem:{error.code}",
        "title": error.code.replace("_", " ").capitalize(),
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "hint": error.hint,
        "instance": path,
        "request_id": request_id,
    }
    return head | {name: value for name, value in error.extra.items() if name not in head}


def scrubbed(error: AigbbError, request: Request) -> AigbbError:
    """The same error without any secret that the service has."""
    scrubber: Scrubber = request.app.state.service.vault.scrubber
    return scrubber.error(error)


def as_notebook(item: Stream | Display | Result | Error) -> dict[str, Any]:
    """One item in the notebook format (nbformat 4)."""
    match item:
        case Stream():
            return {"output_type": "stream", "name": item.name, "text": item.text}
        case Display():
            return {"output_type": "display_data", "data": item.data, "metadata": item.metadata}
        case Result():
            return {
                "output_type": "execute_result",
                "data": item.data,
                "metadata": item.metadata,
                "execution_count": item.execution_count,
            }
        case Error():
            return {
                "output_type": "error",
                "ename": item.ename,
                "evalue": item.evalue,
                "traceback": list(item.traceback),
            }


def execute_answer(
    execution: Execution, running: Running, total_ms: float, signatures: Mapping[str, str]
) -> ExecuteAnswer:
    """A folded execution and its record. signatures are those of the functions that the code could use, for hints."""
    done, error = execution.done, execution.error
    hint = hint_for(error, signatures)
    return ExecuteAnswer(
        output=execution.text("stdout"),
        result=execution.result,
        error=error_line(done, error),
        id=running.id,
        status=done.status,
        outputs=[as_notebook(item) for item in execution.outputs],
        stderr=execution.text("stderr"),
        error_detail=ErrorDetail.model_validate(error) if error else None,
        hint=hint.text if hint else None,
        fix=dict(hint.fix) if hint and hint.fix else None,
        session=running.session,
        kernel=running.kernel,
        snapshot=done.snapshot,
        execution_count=done.execution_count,
        **times(done, total_ms),
        truncated=done.truncated,
        **ending(done, running.session),
    )


def times(done: Done, total_ms: float) -> dict[str, Any]:
    """How long the code ran, and how long it waited, in milliseconds."""
    duration = round(done.seconds * 1000, 1)
    return {"duration_ms": duration, "waited_ms": max(0.0, round(total_ms - duration, 1))}


def ending(done: Done, session: str | None) -> dict[str, Any]:
    """What ended it, and what is left."""
    return {
        "kernel_lost": done.kernel_lost,
        "state_preserved": None if session is None else not done.kernel_lost,
        "reason": done.reason,
        "exit_code": done.exit_code,
        "signal": done.signal,
    }


def error_line(done: Done, error: Error | None) -> str | None:
    """One line: what went wrong, or None."""
    if done.detail is not None:
        return done.detail
    return f"{error.ename}: {error.evalue}" if error else None


def step_event(step: Step, elapsed_ms: float) -> ServerSentEvent:
    """One line of progress."""
    return ServerSentEvent(
        event="progress", data={"phase": step.phase, "message": step.message, "elapsed_ms": elapsed_ms}
    )


# Entries in a list of what is wrong with a request, and characters of a field's name in it.
MAX_ERRORS = 20
MAX_FIELD = 200
MAX_MESSAGE = 2_000


def validation_errors(errors: Iterable[Mapping[str, Any]], known: Collection[str]) -> list[dict[str, Any]]:
    """List what is wrong with a body, one entry per field and at most 20, unknown fields first.

    Unknown fields are often misspelt, so they have suggestions. known are the fields that there are. An entry never
    holds a value of the request, which may be a secret.
    """
    ordered = sorted(errors, key=lambda error: error["type"] != "extra_forbidden")
    missing = [_field(error) for error in islice((e for e in ordered if e["type"] == "missing"), MAX_ERRORS)]
    return [_listed(error, [*missing, *known]) for error in ordered[:MAX_ERRORS]]


def _listed(error: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    entry = {"field": _field(error), "message": _in_words(error), "type": error["type"]}
    if error["type"] == "extra_forbidden":
        near = suggestions(entry["field"], names)
        entry["message"] = f"Unknown field{f', did you mean {near[0]!r}?' if near else ''}"
        entry.update({"suggestion": near[0]} if near else {})
    return entry


def _field(error: Mapping[str, Any]) -> str:
    """A field as a dotted path, cut to a bounded length."""
    return ".".join(str(step)[:MAX_FIELD] for step in error["loc"][1:])[:MAX_FIELD]


def _in_words(error: Mapping[str, Any]) -> str:
    """pydantic's message, in JSON's words."""
    if error["type"] == "dict_type":
        return "Input should be a JSON object"
    return str(error["msg"]).removeprefix("Value error, ")[:MAX_MESSAGE]


def fields_of(*bodies: type[Body]) -> list[str]:
    """The names of all fields, with their other spellings."""
    fields = [pair for body in bodies for pair in body.model_fields.items()]
    aliases = (map(str, getattr(field.validation_alias, "choices", ())) for _, field in fields)
    return sorted({*(name for name, _ in fields), *(name for names in aliases for name in names)})
