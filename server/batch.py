"""The calls of one answer of a model: which are run, which wait for a person, and what came of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from server.callers import NOBODY, Caller
from server.calls import Calls, ToolResult
from server.completions import ToolCall
from server.conversations import UNANSWERED
from server.deciding import Decision, Held, Policy, noted, settle, waits
from server.errors import InvalidArguments
from server.registry import Version


@dataclass(frozen=True)
class Terms:
    """How calls are run: values of bound parameters, a session's id, seconds for each, who decides before, for whom."""

    bound: Mapping[str, Any] = field(default_factory=dict)
    session: str | None = None
    timeout: float | None = None
    policy: Policy = "writes"
    approved: frozenset[str] = frozenset()
    caller: Caller = NOBODY


@dataclass(frozen=True)
class Hooks:
    """Who is told, and waited for, before a call that may change something is run, and after each."""

    began: Callable[[ToolCall, Version], Awaitable[None]] | None = None
    ended: Callable[[ToolResult], Awaitable[None]] | None = None


@dataclass(frozen=True)
class Batch:
    """Calls with what came of them so far, by position; those in held wait for a decision."""

    calls: tuple[ToolCall, ...]
    results: Mapping[int, ToolResult] = field(default_factory=dict)
    held: tuple[Held, ...] = ()

    @property
    def ordered(self) -> tuple[ToolResult, ...]:
        """One result for each call, in order; of one that has none, that it was not run."""
        unknown = (ToolResult(call, UNANSWERED, "not_run", 0.0) for call in self.calls)
        return tuple(self.results.get(n, result) for n, result in enumerate(unknown))

    @property
    def done(self) -> tuple[ToolResult, ...]:
        """What there is, in order."""
        return tuple(self.results[n] for n in sorted(self.results))

    async def run(self, calls: Calls, active: Mapping[str, Version], terms: Terms, hooks: Hooks) -> Batch:
        """Run what has no result and needs no decision. Raises MissingBound."""
        calls.check_bound(self.calls, terms.bound, terms.caller)
        left = {n: call for n, call in enumerate(self.calls) if n not in self.results}
        held = {n: one for n, call in left.items() if (one := _held(call, active, terms)) is not None}
        found = await self._ran(calls, {n: call for n, call in left.items() if n not in held}, terms, hooks)
        return replace(found, held=tuple(held.values()))

    async def decided(self, calls: Calls, decisions: list[Decision], terms: Terms, hooks: Hooks) -> tuple[Batch, Terms]:
        """Do with what waits as was decided; the terms with what needs no decision any more. Raises MissingBound."""
        settled = settle(self.held, decisions)
        place = {call.id: n for n, call in enumerate(self.calls)}
        answered = {place[identity]: result for identity, result in settled.answers.items()}
        batch = replace(self, results={**self.results, **answered}, held=())
        batch = await batch._ran(calls, {place[call.id]: call for call in settled.run}, terms, hooks)
        changed = {place[identity]: noted(batch.results[place[identity]]) for identity in settled.edited}
        terms = replace(terms, approved=terms.approved | settled.approved)
        return replace(batch, results={**batch.results, **changed}), terms

    async def _ran(self, calls: Calls, asked: Mapping[int, ToolCall], terms: Terms, hooks: Hooks) -> Batch:
        results = await calls.run_tools(
            list(asked.values()),
            terms.bound,
            terms.caller,
            session=terms.session,
            timeout=terms.timeout,
            began=hooks.began,
            ended=hooks.ended,
        )
        return replace(self, results={**self.results, **dict(zip(asked, results, strict=True))})


def _held(call: ToolCall, active: Mapping[str, Version], terms: Terms) -> Held | None:
    """A call that waits. What cannot be run is no one's decision: it is refused."""
    version = active.get(call.name)
    if version is None or not waits(version, terms.policy, terms.approved):
        return None
    try:
        Calls.arguments_of(call, version)
    except InvalidArguments:
        return None
    return Held(call, version.number, version.function.effects)
