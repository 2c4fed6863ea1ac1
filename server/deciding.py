"""Pending calls, decisions about them, and what a decision makes of them. Pure: nothing is kept or run here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from server.calls import ToolResult
from server.completions import ToolCall
from server.conversations import problem
from server.errors import ApprovalVoid, InvalidRequest
from server.permits import JudgedVersion, Permit

Choice = Literal["approve", "edit", "reject", "respond"]
Scope = Literal["call", "session"]


@dataclass(frozen=True)
class Held:
    """A call that waits, with the version of the function that would run, and the values of its bound parameters."""

    call: ToolCall
    version: int
    effects: str
    bound: Mapping[str, Any] = field(default_factory=dict)

    @property
    def args_hash(self) -> str:
        """What was shown to the person, in short: sha256 of the canonical JSON of all arguments, hex."""
        arguments = _read(self.call.arguments)
        if self.bound and isinstance(arguments, dict):
            return args_hash(json.dumps({**arguments, **self.bound}))
        return args_hash(self.call.arguments)

    def shown(self) -> dict[str, Any]:
        """For people and programs: what would be done."""
        return {
            "call_id": self.call.id,
            "name": self.call.name,
            "arguments": _read(self.call.arguments),
            "bound": dict(self.bound),
            "args_hash": self.args_hash,
            "version": self.version,
            "effects": self.effects,
        }


@dataclass(frozen=True)
class Decision:
    """What a person says of one call.

    arguments are those of `edit`; text is the reason of `reject`, and the answer of `respond`. scope `session`: the
    function needs no more decisions in this conversation.
    """

    call_id: str
    choice: Choice
    arguments: Mapping[str, Any] | None = None
    text: str = ""
    args_hash: str | None = None
    scope: Scope = "call"


@dataclass(frozen=True)
class Verdict:
    """Decisions that were checked, and the permission of each call that they allow, by call id."""

    decisions: tuple[Decision, ...]
    permits: Mapping[str, Permit]


@dataclass(frozen=True)
class Settled:
    """What decisions come to: calls to run, answers to those that are not, and functions that need no more."""

    run: tuple[ToolCall, ...]
    answers: Mapping[str, ToolResult]
    edited: frozenset[str]
    approved: frozenset[str]


def args_hash(arguments: str) -> str:
    """sha256, hex: equal for arguments that are equal as JSON."""
    canonical = json.dumps(_read(arguments), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def check(held: Sequence[Held], decisions: Sequence[Decision], judged: Mapping[str, JudgedVersion]) -> Verdict:
    """Check that these are decisions about all of these calls, as they were shown. judged: by name, as it is now.

    Raises InvalidRequest, ApprovalVoid.
    """
    known = {one.call.id: one for one in held}
    given = [decision.call_id for decision in decisions]
    if sorted(given) != sorted(known):
        raise InvalidRequest(
            "One decision for each call that waits is needed.",
            hint="Send `decisions` with one entry for each of `waiting`, by call_id.",
            waiting=sorted(known),
        )
    for decision in decisions:
        one = known[decision.call_id]
        if decision.args_hash not in (None, one.args_hash):
            raise ApprovalVoid(f"The decision about {one.call.name} was made for other arguments.")
        if decision.choice == "edit" and decision.arguments is None:
            raise InvalidRequest(f"The decision about {one.call.id} is to edit, but holds no arguments.")
    to_run = [known[d.call_id] for d in decisions if d.choice in ("approve", "edit")]
    if changed := [one.call.name for one in to_run if not _is_same(one, judged)]:
        raise ApprovalVoid(f"{', '.join(changed)} changed since the call was made.", functions=changed)
    return Verdict(tuple(decisions), {one.call.id: judged[one.call.name].for_decision() for one in to_run})


def _is_same(held: Held, judged: Mapping[str, JudgedVersion]) -> bool:
    found = judged.get(held.call.name)
    return found is not None and found.version.number == held.version


def settle(held: Sequence[Held], decisions: Sequence[Decision]) -> Settled:
    """What checked decisions come to."""
    by_id = {decision.call_id: decision for decision in decisions}
    run, answers, edited, approved = [], {}, set(), set()
    for one in held:
        decision = by_id[one.call.id]
        if decision.choice in ("approve", "edit"):
            run.append(_edited(one.call, decision))
            if decision.choice == "edit":
                edited.add(one.call.id)
            if decision.scope == "session":
                approved.add(f"{one.call.name}@{one.version}")
        else:
            answers[one.call.id] = _answer(one.call, decision)
    return Settled(tuple(run), answers, frozenset(edited), frozenset(approved))


def _edited(call: ToolCall, decision: Decision) -> ToolCall:
    return call if decision.arguments is None else replace(call, arguments=json.dumps(decision.arguments))


def _answer(call: ToolCall, decision: Decision) -> ToolResult:
    if decision.choice == "respond":
        return ToolResult(call, decision.text, "answered", 0.0)
    return denied(call, f"A person rejected this call{f': {decision.text}' if decision.text else '.'}")


def denied(call: ToolCall, detail: str) -> ToolResult:
    """The answer to a call that a person did not allow."""
    hint = "It was not run. Do not ask for it again unless you are told to."
    return ToolResult(call, problem("rejected", detail, hint), "rejected", 0.0)


def noted(result: ToolResult) -> ToolResult:
    """A result that says that a person has changed the arguments first."""
    return replace(result, content=f"(A person changed the arguments to {result.call.arguments})\n{result.content}")


def _read(arguments: str) -> Any:
    """The arguments as a value; what is no JSON stays text."""
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
