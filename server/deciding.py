"""Which calls a person decides about, and what a decision makes of them. Pure: nothing is kept or run here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from server.calls import ToolResult
from server.completions import ToolCall
from server.conversations import problem
from server.errors import ApprovalVoid, InvalidRequest
from server.functions import Function
from server.registry import Version

Policy = Literal["never", "writes", "always"]
POLICIES: tuple[Policy, ...] = ("never", "writes", "always")  # from the one that asks least
Choice = Literal["approve", "edit", "reject", "respond"]
Scope = Literal["call", "session"]


@dataclass(frozen=True)
class Held:
    """A call that waits, with the version of the function that would run."""

    call: ToolCall
    version: int
    effects: str

    @property
    def args_hash(self) -> str:
        """What was shown to the person, in short: sha256 of the arguments' canonical JSON, hex."""
        return args_hash(self.call.arguments)

    def shown(self) -> dict[str, Any]:
        """For people and programs: what would be done."""
        return {
            "call_id": self.call.id,
            "name": self.call.name,
            "arguments": _read(self.call.arguments),
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
class Settled:
    """What decisions come to: calls to run, answers to those that are not, and functions that need no more."""

    run: tuple[ToolCall, ...]
    answers: Mapping[str, ToolResult]
    edited: frozenset[str]
    approved: frozenset[str]


def stricter(one: Policy, other: Policy | None) -> Policy:
    """The policy that asks more often: a request may ask for more decisions than the service, not for fewer."""
    return max(one, other or one, key=POLICIES.index)


def waits(version: Version, policy: Policy, approved: Collection[str]) -> bool:
    """Whether a call of this needs a decision. approved: functions, or name@version, that were decided about before."""
    function = version.function
    if function.name in approved or str(version) in approved:
        return False
    return function.confirm == "always" or (function.confirm == "policy" and _asks(function, policy))


def _asks(function: Function, policy: Policy) -> bool:
    return policy == "always" or (policy == "writes" and function.effects != "read")


def args_hash(arguments: str) -> str:
    """sha256, hex: equal for arguments that are equal as JSON."""
    canonical = json.dumps(_read(arguments), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def check(held: Sequence[Held], decisions: Sequence[Decision], active: Mapping[str, Version]) -> None:
    """Whether these are decisions about all of these calls, as they were shown.

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
    if changed := [one.call.name for one in to_run if not _is_active(one, active)]:
        raise ApprovalVoid(f"{', '.join(changed)} changed since the model asked.", functions=changed)


def _is_active(held: Held, active: Mapping[str, Version]) -> bool:
    version = active.get(held.call.name)
    return version is not None and version.number == held.version


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
