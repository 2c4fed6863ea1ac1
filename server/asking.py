"""What a program asks of the service, and what it makes of the answers, as values. Nothing is sent here.

Each function makes the `Ask` that a method of `Aigbb` and of `AsyncAigbb` sends; its parameters are the method's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from server.errors import AigbbError

T = TypeVar("T")
V = TypeVar("V", "HeldCall", "ToolRun", "Executed")


class ServiceProblem(AigbbError):
    """The service answered with a problem; its members are in `body`."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        super().__init__(str(body.get("detail", "The service refused.")), hint=str(body.get("hint", "")))
        self.body = dict(body)


class CallFailed(AigbbError):
    """A function that was called gave no result: it raised, ran out of time, or its kernel ended.

    The message says what and where, in one line; `traceback` is the text for people, `body` the whole answer.
    """

    def __init__(self, body: Mapping[str, Any]) -> None:
        told = (body.get("error_detail") or {}).get("traceback", [])
        place = next((entry.splitlines()[0] for entry in reversed(told) if entry.startswith("File ")), "")
        detail = f"{body['name']}: {body['error']}"
        super().__init__(f"{detail} ({place})" if place else detail, hint=body.get("hint") or "")
        self.traceback = "\n".join(told)
        self.body = dict(body)


class NeedsConfirmation(AigbbError):
    """A call that waits for a person: `approval` is what to decide, `body` the whole answer."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        super().__init__(f"{body['name']} waits for a decision.", hint=body["approval"]["hint"])
        self.approval: Approval[Any] = Approval.of(body["approval"], _decided)
        self.body = dict(body)


@dataclass(frozen=True)
class Ask(Generic[T]):
    """One request. read: what is made of the answer's JSON."""

    method: str
    path: str
    read: Callable[[Any], T]
    body: object = None
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


# -- answers


@dataclass(frozen=True)
class HeldCall:
    """A call of a model that waits for a person."""

    call_id: str
    name: str
    arguments: Any
    args_hash: str
    version: int
    effects: str
    bound: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Approval(Generic[T]):
    """Calls that wait for one decision each. read: what is made of the answer to them."""

    id: str
    conversation: str | None
    calls: tuple[HeldCall, ...]
    expires: str
    read: Callable[[Any], T] = field(repr=False, compare=False)

    @classmethod
    def of(cls, body: Mapping[str, Any], read: Callable[[Any], T]) -> Approval[T]:
        """From JSON."""
        calls = tuple(_taken(HeldCall, call) for call in body["calls"])
        return cls(body["id"], body.get("conversation"), calls, body["expires"], read)


@dataclass(frozen=True)
class ToolRun:
    """How one call of a model went. The traceback is for people, models are not shown it."""

    id: str
    name: str
    status: str
    duration_ms: float
    version: int | None = None
    pictures: Sequence[str] = ()
    whole: str | None = None
    traceback: str = ""
    execution: str | None = None
    arguments: str = ""
    content: str = ""


@dataclass(frozen=True)
class RunResult:
    """What tool calls came to: messages to be appended to the conversation.

    While there is an `approval`, these are the messages of the other calls only; deciding gives all of them.
    """

    messages: list[dict[str, Any]]
    runs: tuple[ToolRun, ...]
    approval: Approval[RunResult] | None
    approved: tuple[str, ...]

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> RunResult:
        """From JSON."""
        return cls(body["messages"], _runs(body["runs"]), _waiting(body, cls.of), tuple(body["approved"]))


@dataclass(frozen=True)
class ChatResult:
    """What a turn of chat came to. status is `done`, or says why it is not; body is the whole answer."""

    status: str
    text: str
    messages: list[dict[str, Any]]
    runs: tuple[ToolRun, ...]
    conversation: str | None
    approval: Approval[ChatResult] | None
    approved: tuple[str, ...]
    body: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> ChatResult:
        """From JSON: an answer, or the data of the event `done`."""
        return cls(
            body["status"],
            body["content"],
            body["messages"],
            _runs(run for each in body["rounds"] for run in each["runs"]),
            body["conversation"],
            _waiting(body, cls.of),
            tuple(body["approved"]),
            body,
        )


@dataclass(frozen=True)
class Executed:
    """What code did: its text, the text of its last expression, and one line about what went wrong.

    reason: what ended it. state_preserved: whether a session's variables are still there; None without a session.
    """

    status: str
    output: str
    result: str | None
    error: str | None
    stderr: str
    outputs: Sequence[Mapping[str, Any]] = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)
    reason: str | None = None
    state_preserved: bool | None = None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Executed:
        """From JSON."""
        return _taken(cls, {**body, "body": body})


@dataclass(frozen=True)
class Execution:
    """An execution that goes on by itself, as it was when it was asked for. function: what is called, None for code.

    status is queued, starting or running, and then how it ended. outputs: what it had shown by then, in the notebook
    format. body: all that was answered.
    """

    id: str
    status: str
    function: str | None
    ended: bool
    outputs: Sequence[Mapping[str, Any]] = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Execution:
        """From JSON."""
        outputs = body.get("outputs") or (body.get("answer") or {}).get("outputs", [])
        return cls(body["id"], body["status"], body["function"], body["ended"] is not None, outputs, body)

    def answer(self) -> Any:
        """What it came to: `Executed`; of a call its result. None while it goes on.

        Raises CallFailed, and ServiceProblem where it could not be done.
        """
        if self.body.get("problem"):
            raise ServiceProblem(self.body["problem"])
        found = self.body.get("answer")
        return found and (Executed.of(found) if self.function is None else _result(found))


def _runs(bodies: Iterable[Mapping[str, Any]]) -> tuple[ToolRun, ...]:
    return tuple(_taken(ToolRun, body) for body in bodies)


def _waiting(body: Mapping[str, Any], read: Callable[[Any], T]) -> Approval[T] | None:
    return Approval.of(body["approval"], read) if body.get("approval") else None


def _taken(kind: type[V], body: Mapping[str, Any]) -> V:
    """Without what a newer service says beside."""
    known = {each.name for each in fields(kind)}
    return kind(**{name: value for name, value in body.items() if name in known})


# -- requests


def tools(
    format: str = "openai",  # noqa: A002
    names: Sequence[str] = (),
    tags: Sequence[str] = (),
    *,
    strict: bool = False,
) -> Ask[Any]:
    """The functions as a model takes them: a list; a text for `prompt`. Raises ServiceProblem, Unreachable."""
    chosen = {"names": ",".join(names), "tags": ",".join(tags)}
    return Ask("GET", "/tools", _as_it_is, query={"format": format, "strict": strict, **_given(chosen)})


def run(
    asked: object,
    *,
    bound: Mapping[str, Any] | None = None,
    session: str | None = None,
    approved: Sequence[str] = (),
    timeout: float | None = None,
) -> Ask[RunResult]:
    """Run a model's calls; `.messages` of the result are to be appended to the conversation.

    asked: a message of the model or its tool calls, a response or its output, as the `openai` client has them or as
    JSON. bound: values of bound parameters. approved: functions whose calls need no decision. timeout: seconds for
    each call. Raises TypeError, ServiceProblem, Unreachable.
    """
    more = {"bound": bound, "session": session, "approved": approved, "timeout": timeout}
    return Ask("POST", "/tools/run", RunResult.of, {"tool_calls": calls_in(asked), **_given(more)})


def call(name: str, /, **arguments: Any) -> Ask[Any]:
    """Call a function, or by `name@3` a version of it, and answer its result.

    Raises CallFailed; NeedsConfirmation if it waits for a person; ServiceProblem if the arguments do not fit or there
    is no such function; Unreachable.
    """
    return Ask("POST", path_of("functions", name, "call"), _result, plain(arguments))


def execute(code: str, session: str | None = None, timeout: float | None = None) -> Ask[Executed]:
    """Run code; an exception in it is in the answer. Raises ServiceProblem, Unreachable."""
    return Ask("POST", "/execute", Executed.of, {"code": code, **_given({"session": session, "timeout": timeout})})


def start(code: str, session: str | None = None, timeout: float | None = None) -> Ask[Execution]:
    """Have code run by itself, whatever becomes of the connection. Raises ServiceProblem, Unreachable."""
    body = {"code": code, **_given({"session": session, "timeout": timeout})}
    return Ask("POST", "/execute", Execution.of, body, headers=_LATER)


def start_call(name: str, /, **arguments: Any) -> Ask[Execution]:
    """The same for a call. Raises NeedsConfirmation, ServiceProblem, Unreachable."""
    return Ask("POST", path_of("functions", name, "call"), _begun, plain(arguments), headers=_LATER)


def execution(which: Execution | str, wait: float = 0.0) -> Ask[Execution]:
    """An execution as it is, or when it has ended; at most so many seconds later. Raises as `start`."""
    return Ask("GET", path_of("executions", id_of(which)), Execution.of, query={"wait": wait})


def executions() -> Ask[list[Execution]]:
    """Those that run, and those that are kept, newest first; without answers. Raises ServiceProblem, Unreachable."""
    return Ask("GET", "/executions", lambda body: [Execution.of(one) for one in body])


def cancel(which: Execution | str) -> Ask[Execution]:
    """Stop an execution wherever it is. One that has ended stays as it is. Raises ServiceProblem, Unreachable."""
    return Ask("POST", path_of("executions", id_of(which), "cancel"), Execution.of)


_LATER = {"Prefer": "respond-async"}
# Seconds that one request waits for the end of an execution.
POLL = 60.0


def polls(seconds: float | None) -> Iterator[float]:
    """How long each request is to wait, until so many seconds are over; for ever with None."""
    end = math.inf if seconds is None else time.monotonic() + seconds
    left = math.inf
    while left > 0:
        left = max(0.0, end - time.monotonic())
        yield min(POLL, left)


def id_of(which: Execution | str) -> str:
    """An execution's id."""
    return which if isinstance(which, str) else which.id


def register(source: str, packages: Sequence[str] = (), **more: Any) -> Ask[dict[str, Any]]:
    """Register a function; more: what else /register takes, such as effects, tags and bound.

    Answers name, version, signature and so on. Raises ServiceProblem, Unreachable.
    """
    return Ask("POST", "/register", _as_it_is, {"source": source, "packages": list(packages), **more})


def delete(name: str) -> Ask[None]:
    """Take a function out of service. Raises ServiceProblem, Unreachable."""
    return Ask("DELETE", path_of("functions", name), _as_it_is)


def secrets() -> Ask[list[dict[str, Any]]]:
    """The secrets that are set: name, set (when), functions; never a value. Raises ServiceProblem, Unreachable."""
    return Ask("GET", "/secrets", _as_it_is)


def set_secret(name: str, value: str | None = None, *, functions: Sequence[str] | None = None) -> Ask[dict[str, Any]]:
    """Set a secret, or replace its value, and the functions that may have it. What is left out stays.

    Functions get it that it names, and that are registered with its name in `secrets`. Answers as `secrets` does.
    Raises ServiceProblem, Unreachable.
    """
    body = _given({"value": value}) | ({} if functions is None else {"functions": list(functions)})
    return Ask("PUT", path_of("secrets", name), _as_it_is, body)


def delete_secret(name: str, *, force: bool = False) -> Ask[None]:
    """Delete a secret; force: also one that active functions need. Raises ServiceProblem, Unreachable."""
    return Ask("DELETE", path_of("secrets", name), _as_it_is, query={"force": True} if force else {})


def chat(messages: str | Sequence[object], **body: Any) -> Ask[ChatResult]:
    """Have the service's model answer a question or a conversation, with the functions as its tools.

    body: what else /chat takes, such as tags, bound, approved, conversation. Raises ServiceProblem, Unreachable.
    """
    told = [{"role": "user", "content": messages}] if isinstance(messages, str) else plain(messages)
    return Ask("POST", "/chat", ChatResult.of, {"messages": told, **plain(body)})


def approvals() -> Ask[list[Approval[Any]]]:
    """What waits for a person, oldest first. Raises ServiceProblem, Unreachable."""
    return Ask("GET", "/approvals", lambda body: [_kept(one) for one in body["approvals"]])


Decisions = Literal["approve", "reject"] | Sequence[Mapping[str, Any]]


def decide(approval: Approval[T], decisions: Decisions, reason: str = "") -> Ask[T]:
    """Say what becomes of calls that wait: then what waited goes on, and this is what it comes to.

    decisions: the same for each call, or as /approvals/{id} takes them, where args_hash is added if it is missing: it
    says that these calls were looked at, and no others. reason: of `reject`, for the model. Raises ServiceProblem,
    Unreachable.
    """
    if isinstance(decisions, str):
        told: dict[str, Any] = {"decision": decisions, **_given({"reason": reason})}
        decisions = [{"call_id": held.call_id, **told} for held in approval.calls]
    seen = {held.call_id: held.args_hash for held in approval.calls}
    body = [{"args_hash": seen.get(one["call_id"]), **one} for one in decisions]
    return Ask("POST", path_of("approvals", approval.id), approval.read, {"decisions": body})


def calls_in(asked: object) -> list[dict[str, Any]]:
    """The calls of functions that a model asked for; what else is in its answer is left out. Raises TypeError."""
    match plain(asked):
        case {"tool_calls": list(found)} | {"output": list(found)} | list(found):
            return [one for one in found if "function" in one or one.get("type") == "function_call"]
        case {"function": _} | {"type": "function_call"} as one:
            return [one]
        case {"role": _}:
            return []
    raise TypeError(f"A message, tool calls or the output of a response are wanted, not {type(asked).__name__}.")


def plain(value: Any) -> Any:
    """The same as JSON's values: models of pydantic, which `openai` answers with, become objects."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def path_of(*parts: object) -> str:
    """A path of the service, whatever signs are in its parts."""
    return "/" + "/".join(quote(str(part), safe="@", errors="replace") for part in parts)


def _given(members: Mapping[str, Any]) -> dict[str, Any]:
    """Without what nobody said: the service has its own defaults."""
    return {name: plain(value) for name, value in members.items() if value not in (None, "", (), [])}


def _as_it_is(body: Any) -> Any:
    return body


def _result(body: Mapping[str, Any]) -> Any:
    _check_runs(body)
    if body["status"] != "ok":
        raise CallFailed(body)
    return body["result"]


def _begun(body: Mapping[str, Any]) -> Execution:
    _check_runs(body)
    return Execution.of(body)


def _check_runs(body: Mapping[str, Any]) -> None:
    if body["status"] == "needs_confirmation":
        raise NeedsConfirmation(body)


def _decided(body: Mapping[str, Any]) -> Any:
    """What a decision about calls of no conversation came to: None for a typed call that was rejected."""
    if "runs" in body:
        return RunResult.of(body)
    return None if "calls" in body else _result(body)


def _kept(body: Mapping[str, Any]) -> Approval[Any]:
    return Approval.of(body, ChatResult.of if body["conversation"] else _decided)
