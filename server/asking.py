"""What a program asks of the service, and what it makes of the answers, as values. Nothing is sent here.

Each function makes the `Ask` that a method of `Aigbb` and of `AsyncAigbb` sends; its parameters are the method's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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


@dataclass(frozen=True)
class Ask(Generic[T]):
    """One request. read: what is made of the answer's JSON."""

    method: str
    path: str
    read: Callable[[Any], T]
    body: object = None
    query: Mapping[str, Any] = field(default_factory=dict)


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

    Raises CallFailed; ServiceProblem if the arguments do not fit or there is no such function; Unreachable.
    """
    return Ask("POST", path_of("functions", name, "call"), _result, plain(arguments))


def execute(code: str, session: str | None = None, timeout: float | None = None) -> Ask[Executed]:
    """Run code; an exception in it is in the answer. Raises ServiceProblem, Unreachable."""
    return Ask("POST", "/execute", Executed.of, {"code": code, **_given({"session": session, "timeout": timeout})})


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


def set_secret(name: str, value: str) -> Ask[dict[str, Any]]:
    """Set a secret, or replace its value. Functions get it that are registered with its name in `secrets`.

    Answers as `secrets` does. Raises ServiceProblem, Unreachable.
    """
    return Ask("PUT", path_of("secrets", name), _as_it_is, {"value": value})


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
    if body["status"] != "ok":
        raise CallFailed(body)
    return body["result"]


def _kept(body: Mapping[str, Any]) -> Approval[Any]:
    return Approval.of(body, ChatResult.of if body["conversation"] else RunResult.of)
