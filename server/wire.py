"""What goes over the wire: bodies of requests and answers, server-sent events, problem+json."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi.sse import ServerSentEvent
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse

from kernels.kernel import Kernel
from kernels.outputs import Clear, Display, Done, Error, Execution, Output, Result, Stream
from kernels.progress import Step
from server.errors import AigbbError
from server.functions import Draft
from server.hints import hint_for
from server.registrar import Registered
from server.registry import Version

PROBLEM_TYPE = "application/problem+json"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _unicode(cls, data: Any) -> Any:
        """JSON can spell half a character; nothing behind this door can."""
        if not _is_unicode(data):
            raise ValueError("A text holds a lone surrogate.")
        return data


def _is_unicode(value: Any) -> bool:
    match value:
        case str():
            return value.isascii() or value.encode("utf-8", "replace").decode("utf-8") == value
        case list():
            return all(map(_is_unicode, value))
        case dict():
            return all(_is_unicode(k) and _is_unicode(v) for k, v in value.items())
    return True


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


# -- requests


_REGISTER_EXAMPLE: dict[str, Any] = {
    "name": "slug",
    "source": "from slugify import slugify\n\ndef slug(text: str) -> str:\n    return slugify(text)\n",
    "packages": ["python-slugify"],
    "env": {},
}


class RegisterBody(_Body):
    """A function to register. The names of the original API (functionName, ...) are taken as well."""

    model_config = ConfigDict(json_schema_extra={"examples": [_REGISTER_EXAMPLE]})

    name: Annotated[
        str | None,
        Field(
            validation_alias=AliasChoices("name", "functionName"),
            description="Name of the function; may be left out when the source defines exactly one",
        ),
    ] = None
    source: Annotated[
        str,
        Field(
            validation_alias=AliasChoices("source", "functionScript"),
            description="Python source that defines the function; at most 256 KiB",
        ),
    ]
    packages: Annotated[
        list[str] | str, Field(description="Requirements, as a list or one a line; names and versions only")
    ] = []
    env: Annotated[
        dict[str, str],
        Field(
            validation_alias=AliasChoices("env", "envVariables"),
            description="Environment variables of the kernel; values are never shown again",
        ),
    ] = {}

    def draft(self) -> Draft:
        """The same as a value of ours."""
        lines = self.packages.splitlines() if isinstance(self.packages, str) else self.packages
        return Draft(self.source, self.name, tuple(lines), self.env)


class ExecuteBody(_Body):
    """Code to run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"code": "word_count('to be or not to be')"}]})

    code: Annotated[str, Field(description="Python source; every registered function is there by name")]
    session: Annotated[str | None, Field(description="A session's id; without one, the code gets a clean kernel")] = (
        None
    )
    timeout: Annotated[float | None, Field(gt=0, description="Seconds; default AIGBB_TIMEOUT")] = None


class SessionBody(_Body):
    """A session to open."""

    id: Annotated[
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None,
        Field(description="A name of your own; left out, one is made"),
    ] = None


# -- answers


class WarningAnswer(_Answer):
    """Something the author should know."""

    code: str
    message: str


class FunctionAnswer(_Answer):
    """A registered function."""

    name: str
    version: int
    signature: str
    description: str
    parameters: Annotated[dict[str, Any], Field(description="JSON Schema of the arguments, as one object")]
    packages: list[str]
    env: Annotated[list[str], Field(description="Names only")]
    digest: str
    created: str

    @classmethod
    def of(cls, version: Version, **more: Any) -> Any:
        """From a version."""
        function = version.function
        return cls(
            name=function.name,
            version=version.number,
            signature=function.signature,
            description=function.description,
            parameters=dict(function.parameters),
            packages=list(function.packages),
            env=list(function.env),
            digest=f"sha256:{function.digest}",
            created=version.created,
            **more,
        )


class FunctionDetail(FunctionAnswer):
    """A registered function with its source."""

    source: str


class PackageChanges(_Answer):
    """What the registration changed in the environment, as name==version."""

    added: list[str] = []
    removed: list[str] = []
    changed: list[str] = []


class RegisterAnswer(FunctionAnswer):
    """What became of a registration."""

    unchanged: bool
    kernel: str
    generation: int
    snapshot: int
    new_generation: Annotated[bool, Field(description="Whether a new environment was built")]
    resolution: Annotated[str, Field(description="Where versions came from: kept, cache, index")]
    package_changes: PackageChanges
    warnings: list[WarningAnswer]
    timings_ms: dict[str, float]

    @classmethod
    def of_registered(cls, done: Registered) -> RegisterAnswer:
        """From what the registrar says."""
        answer: RegisterAnswer = cls.of(
            done.version,
            unchanged=done.unchanged,
            kernel=done.serving.generation.kernel_name,
            generation=done.serving.generation.number,
            snapshot=done.serving.state.snapshot,
            new_generation=done.new_generation,
            resolution=done.resolution,
            package_changes=PackageChanges(**done.packages),
            warnings=[WarningAnswer.model_validate(w) for w in done.warnings],
            timings_ms=dict(done.timings_ms),
        )
        return answer


class ErrorDetail(_Answer):
    """An exception in the caller's code; the traceback holds the caller's frames only, without colours."""

    ename: str
    evalue: str
    traceback: list[str]
    frames_hidden: int


class ExecuteAnswer(_Answer):
    """What an execution did. output, result and error come first, as in the original API."""

    output: Annotated[str, Field(description="What was written to stdout")]
    result: Annotated[str | None, Field(description="Text of the last expression")]
    error: Annotated[str | None, Field(description="One line: what went wrong")]
    status: Literal["ok", "error", "timeout", "cancelled", "died"]
    outputs: Annotated[
        list[dict[str, Any]], Field(description="Everything shown, in order, in Jupyter's notebook format")
    ]
    stderr: str
    error_detail: ErrorDetail | None
    hint: Annotated[str | None, Field(description="What to do about the error, where there is something to say")]
    session: str | None
    kernel: str
    execution_count: int | None
    duration_ms: Annotated[float, Field(description="How long the code ran")]
    waited_ms: Annotated[float, Field(description="How long it waited for a place and a kernel")]
    truncated: bool
    kernel_lost: Annotated[bool, Field(description="The kernel ended; in a session, variables are gone")]


class SessionAnswer(_Answer):
    """A session. It ends at `expires` unless used before."""

    id: str
    kernel: str
    generation: int
    state: str
    executions: int
    created: datetime
    last_used: datetime
    expires: datetime


class GenerationAnswer(_Answer):
    """An environment; `kernel` is its name in Jupyter."""

    number: int
    kernel: str
    current: bool
    available: bool
    in_use: bool
    created: str
    packages: dict[str, str]


class HealthAnswer(_Answer):
    """Whether the service serves, and how busy it is."""

    status: str
    kernel: str
    generation: int
    snapshot: int
    functions: int
    spares: int
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
    headers = {"Retry-After": str(error.extra["retry_after"])} if "retry_after" in error.extra else None
    body = problem_body(error, request)
    return JSONResponse(body, error.status, headers, media_type=PROBLEM_TYPE)


def problem_body(error: AigbbError, request: Request) -> dict[str, Any]:
    """An error's members."""
    head = {
        "type": f"urn:aigbb:problem:{error.code}",
        "title": error.code.replace("_", " ").capitalize(),
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "hint": error.hint,
        "instance": request.url.path,
        "request_id": getattr(request.state, "request_id", ""),
    }
    return head | {name: value for name, value in error.extra.items() if name not in head}


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
    execution: Execution, kernel: Kernel, session: str | None, total_ms: float, functions: Collection[str]
) -> ExecuteAnswer:
    """A folded execution. functions are the names that the code could use, for hints."""
    done, error = execution.done, execution.error
    return ExecuteAnswer(
        output=execution.text("stdout"),
        result=execution.result,
        error=_error_line(done, error),
        status=done.status,
        outputs=[as_notebook(item) for item in execution.outputs],
        stderr=execution.text("stderr"),
        error_detail=ErrorDetail.model_validate(error) if error else None,
        hint=hint_for(error, functions),
        session=session,
        kernel=kernel.name,
        execution_count=done.execution_count,
        **_times(done, total_ms),
        truncated=done.truncated,
        kernel_lost=done.kernel_lost,
    )


def _times(done: Done, total_ms: float) -> dict[str, float]:
    duration = round(done.seconds * 1000, 1)
    return {"duration_ms": duration, "waited_ms": max(0.0, round(total_ms - duration, 1))}


def _error_line(done: Done, error: Error | None) -> str | None:
    if done.detail is not None:
        return done.detail
    return f"{error.ename}: {error.evalue}" if error else None


def execution_event(
    item: Output, kernel: Kernel, session: str | None, total_ms: float, functions: Collection[str]
) -> ServerSentEvent:
    """One item as an event: stdout, stderr, display, update, result, error, clear, and done at the end."""
    match item:
        case Stream():
            return ServerSentEvent(event=item.name, data=as_notebook(item))
        case Display():
            data = as_notebook(item) | {"display_id": item.display_id}
            return ServerSentEvent(event="update" if item.update else "display", data=data)
        case Result():
            return ServerSentEvent(event="result", data=as_notebook(item))
        case Error():
            return ServerSentEvent(event="error", data=as_notebook(item) | {"hint": hint_for(item, functions)})
        case Clear():
            return ServerSentEvent(event="clear", data={})
        case Done():
            data = {name: getattr(item, name) for name in item.__slots__ if name != "seconds"}
            extra = {"session": session, "kernel": kernel.name, **_times(item, total_ms)}
            return ServerSentEvent(event="done", data=data | extra)


def step_event(step: Step, elapsed_ms: float) -> ServerSentEvent:
    """One line of progress."""
    return ServerSentEvent(
        event="progress", data={"phase": step.phase, "message": step.message, "elapsed_ms": elapsed_ms}
    )


def validation_errors(errors: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is wrong with a body, one entry a field, unknown ones first: they are often misspelt.

    Never what was sent: it may hold a secret.
    """
    found = [
        {"field": ".".join(map(str, error["loc"][1:])), "message": error["msg"], "type": error["type"]}
        for error in errors
    ]
    missing = [one["field"] for one in found if one["type"] == "missing"]
    for one in found:
        if one["type"] == "extra_forbidden":
            near = difflib.get_close_matches(one["field"], [*missing, *_FIELDS], n=1)
            one["message"] = f"Unknown field{f', did you mean {near[0]!r}?' if near else ''}"
    return sorted(found, key=lambda one: one["type"] != "extra_forbidden")


_FIELDS = sorted(
    {
        name
        for body in (RegisterBody, ExecuteBody, SessionBody)
        for field_name, field in body.model_fields.items()
        for name in (field_name, *(map(str, getattr(field.validation_alias, "choices", ()))))
    }
)
