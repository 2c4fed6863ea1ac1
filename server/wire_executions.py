"""What goes over the wire about executions as records, and about what happens in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request

from kernels.outputs import Clear, Display, Done, Error, Output, Refused, Result, Returned, Status, Stream
from server.errors import AigbbError
from server.hints import hint_for
from server.running import Cut, Ended, Entry, Queued, Running, Started
from server.wire import (
    Answer,
    ExecuteAnswer,
    ExecutionId,
    KernelName,
    Problem,
    as_notebook,
    ending,
    problem_body,
    times,
)
from server.wire_calls import CallAnswer

_Status = Literal["queued", "starting", "running", "failed"] | Status


class ExecutionInfo(Answer):
    """How far an execution is."""

    id: ExecutionId
    status: Annotated[_Status, Field(description="`failed` where `problem` says why there is no answer")]
    function: Annotated[str | None, Field(description="What is called; null for code")]
    session: str | None
    kernel: KernelName
    queued: Annotated[datetime, Field(description="When it was asked for, UTC")]
    started: Annotated[datetime | None, Field(description="When it had its kernel")]
    ended: datetime | None
    queue_ms: Annotated[float, Field(description="How long it waited for a place, so far while it does")]
    start_ms: Annotated[float | None, Field(description="How long a kernel was looked for, or started")]
    run_ms: Annotated[float | None, Field(description="How long it has been on its kernel")]

    @classmethod
    def of(cls, running: Running) -> ExecutionInfo:
        """From a record."""
        return cls(**_info(running))


class ExecutionAnswer(ExecutionInfo):
    """An execution as it is. Once it has ended there is an answer, or a problem."""

    outputs: Annotated[
        list[dict[str, Any]] | None, Field(description="What it has shown so far; null once there is an answer")
    ]
    answer: Annotated[ExecuteAnswer | CallAnswer | None, Field(description="What the request would have been answered")]
    problem: Annotated[Problem | None, Field(description="Why there is no answer")]

    @classmethod
    def told(cls, running: Running, request: Request) -> ExecutionAnswer:
        """From a record, for who asks."""
        shown = None if running.answer is not None else [as_notebook(item) for item in running.execution.outputs]
        return cls.model_construct(
            **_info(running),
            outputs=shown,
            answer=running.answer,
            problem=_problem(running.problem, running, request) if running.problem else None,
        )


def _info(running: Running) -> dict[str, Any]:
    return {
        "id": running.id,
        "status": running.state,
        "function": running.function,
        "session": running.session,
        "kernel": running.kernel,
        "queued": _moment(running.queued),
        "started": _moment(running.started_at),
        "ended": _moment(running.ended_at),
        "queue_ms": running.queue_ms,
        "start_ms": running.start_ms,
        "run_ms": running.run_ms,
    }


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None


def _problem(error: AigbbError, running: Running, request: Request) -> dict[str, Any]:
    """With the id of the request that began it."""
    return problem_body(error, request) | {"request_id": running.caller.request_id}


def event(
    entry: Entry, running: Running, request: Request, signatures: Callable[[], Mapping[str, str]]
) -> tuple[str, dict[str, Any]] | None:
    """An entry as an event: its name and its data. None where it is none.

    queued, started, stdout, stderr, display, update, result, error, clear, cut, problem, and done at the end.
    """
    match entry:
        case Queued():
            return "queued", {"id": running.id, "session": running.session}
        case Started():
            told = {"id": running.id, "session": running.session, "kernel": running.kernel}
            return "started", {**told, "queue_ms": running.queue_ms, "start_ms": running.start_ms}
        case Cut():
            return "cut", {"events": entry.entries, "detail": "These events are gone: too much output is kept."}
        case AigbbError():
            return "problem", _problem(entry, running, request)
        case Ended():
            return "done", _done(running)
    return _shown(entry, signatures)


def _shown(item: Output, signatures: Callable[[], Mapping[str, str]]) -> tuple[str, dict[str, Any]] | None:
    match item:
        case Stream():
            return item.name, as_notebook(item)
        case Display():
            return "update" if item.update else "display", as_notebook(item) | {"display_id": item.display_id}
        case Result():
            return "result", as_notebook(item)
        case Error():
            hint = hint_for(item, signatures())
            extra = {"hint": hint.text if hint else None, "fix": dict(hint.fix) if hint and hint.fix else None}
            return "error", as_notebook(item) | extra
        case Clear():
            return "clear", {}
        case Returned() | Refused() | Done():
            return None


def _done(running: Running) -> dict[str, Any]:
    """How it ended; of a call with its result."""
    done = running.done or Done("died", detail=running.problem.detail if running.problem else None)
    data = {name: getattr(done, name) for name in done.__slots__ if name != "seconds"}
    total = running.queue_ms + (running.start_ms or 0.0) + (running.run_ms or 0.0)
    told = {"id": running.id, "status": running.state, "session": running.session, "kernel": running.kernel}
    called = running.answer if isinstance(running.answer, CallAnswer) else None
    result = {name: getattr(called, name) for name in ("name", "version", "result", "content")} if called else {}
    return {**data, **told, **times(done, total), **ending(done, running.session), **result}
