"""Turns as values: what is wanted of one, what happens in it, what it comes to, and one that waits for a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from server.batch import Batch
from server.callers import NOBODY, Caller
from server.calls import ToolResult
from server.completions import Completion, Delta, ToolCall, Usage
from server.conversations import Message
from server.deciding import Held
from server.llm import Place
from server.models import Mode
from server.permits import Policy

Status = Literal["done", "calls", "needs_confirmation", "limit", "stuck", "length", "filtered"]
Strict = bool | Literal["auto"]


@dataclass(frozen=True)
class Limits:
    """Of a turn; None is no limit. A turn that reaches one is asked for its best answer, or ends with an error."""

    rounds: int | None = None
    calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    error: bool = False

    def within(self, most: Limits) -> Limits:
        """The narrower of each."""
        names = ("rounds", "calls", "tokens", "seconds")
        pairs = {name: (getattr(self, name), getattr(most, name)) for name in names}
        return Limits(
            **{name: min((v for v in pair if v is not None), default=None) for name, pair in pairs.items()},
            error=self.error,
        )


@dataclass(frozen=True)
class Wish:
    """What a caller wants of a turn. Empty names and tags mean any; a tool_choice that forces holds for one round.

    client_tools are the caller's own, in OpenAI's form: a turn that calls one ends with that call. mode None: as the
    model can. final false: the functions' results are the answer. approved: functions that need no decision.
    caller: whose turn it is; its calls have the rights of that key.
    """

    messages: Sequence[Message]
    model: str | None = None
    names: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    tool_choice: str | Mapping[str, Any] = "auto"
    parallel_tool_calls: bool | None = None
    strict: Strict = False
    limits: Limits = Limits()
    session: str | None = None
    bound: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    client_tools: Sequence[Mapping[str, Any]] = ()
    mode: Mode | None = None
    conversation: str | None = None
    final: bool = True
    approved: tuple[str, ...] = ()
    confirm: Policy | None = None
    search: bool = False
    service: Place | None = None
    caller: Caller = NOBODY


@dataclass(frozen=True, slots=True)
class Ready:
    """A call that is complete and is about to be run."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class Round:
    """One request to the model and what came of it. Times are in milliseconds."""

    usage: Usage
    model_ms: float
    thoughts: str = ""
    results: tuple[ToolResult, ...] = ()


def usage_of(rounds: Iterable[Round]) -> Usage:
    """Tokens of all of them."""
    return sum((each.usage for each in rounds), Usage())


@dataclass(frozen=True, slots=True)
class Waiting:
    """Calls that a person has to decide about, and until when (seconds since 1970)."""

    id: str
    expires: float
    held: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """All of it. messages are those that came in and those that were added, ready to be sent in again.

    calls are those of the caller's own tools, which wait for the caller's answers. approved: functions that need no
    decision any more, as name@version. conversation: where it is kept, if it is.
    """

    status: Status
    text: str
    messages: tuple[Message, ...]
    added: int
    model: str
    offered: tuple[str, ...]
    rounds: tuple[Round, ...]
    calls: tuple[ToolCall, ...] = ()
    conversation: str | None = None
    waiting: Waiting | None = None
    approved: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def usage(self) -> Usage:
        """Of all rounds."""
        return usage_of(self.rounds)


Event = Delta | Ready | ToolResult | Usage | Waiting | Turn


@dataclass(frozen=True)
class Said:
    """What the model answered in a round, and how long that took."""

    completion: Completion = field(default_factory=Completion)
    model_ms: float = 0.0


@dataclass(frozen=True)
class Suspended:
    """A turn that waits, as a value: what is needed to go on with it. spent: seconds so far."""

    wish: Wish
    name: str
    given: int
    rounds: tuple[Round, ...]
    failures: tuple[tuple[str, str, str, int], ...]
    said: Said
    batch: Batch
    found: tuple[str, ...]
    approved: tuple[str, ...]
    spent: float
