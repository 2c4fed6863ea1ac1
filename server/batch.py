"""The calls of one answer of a model: which are run, which wait for a person, and what came of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from server.callers import NOBODY, Caller
from server.calls import Calls, ToolResult
from server.completions import ToolCall
from server.conversations import UNANSWERED
from server.deciding import Held, Verdict, noted, settle
from server.errors import InvalidArguments
from server.permits import JudgedVersion, Permit, Policy
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

    async def run(self, calls: Calls, offered: Collection[str], terms: Terms, hooks: Hooks) -> Batch:
        """Run what has no result and needs no decision. offered: functions that may be called. Raises MissingBound.

        Each name is resolved here, once: the version that is judged is the one that waits, or runs.
        """
        judged = {name: one for name, one in calls.judged(terms.caller).items() if name in offered}
        calls.check_bound(self.calls, terms.bound, judged)
        left = {n: call for n, call in enumerate(self.calls) if n not in self.results}
        permits, held = {}, {}
        for n, call in left.items():
            permits[n] = judged[call.name].for_model(terms.policy, terms.approved) if call.name in judged else None
            if call.name in judged and permits[n] is None and _is_whole(call, judged[call.name].version):
                held[n] = _held(call, judged[call.name], terms)
        asked = {n: (call, permits[n]) for n, call in left.items() if n not in held}
        found = await self._ran(calls, asked, terms, hooks)
        return replace(found, held=tuple(held.values()))

    async def decided(self, calls: Calls, verdict: Verdict, terms: Terms, hooks: Hooks) -> tuple[Batch, Terms]:
        """Do with what waits as was decided; the terms with what needs no decision any more. Raises MissingBound."""
        settled = settle(self.held, verdict.decisions)
        place = {call.id: n for n, call in enumerate(self.calls)}
        answered = {place[identity]: result for identity, result in settled.answers.items()}
        batch = replace(self, results={**self.results, **answered}, held=())
        asked = {place[call.id]: (call, verdict.permits.get(call.id)) for call in settled.run}
        batch = await batch._ran(calls, asked, terms, hooks)
        changed = {place[identity]: noted(batch.results[place[identity]]) for identity in settled.edited}
        terms = replace(terms, approved=terms.approved | settled.approved)
        return replace(batch, results={**batch.results, **changed}), terms

    async def _ran(
        self, calls: Calls, asked: Mapping[int, tuple[ToolCall, Permit | None]], terms: Terms, hooks: Hooks
    ) -> Batch:
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


def _is_whole(call: ToolCall, version: Version) -> bool:
    """Whether a call could run. What cannot is no one's decision: it is refused."""
    try:
        Calls.arguments_of(call, version)
    except InvalidArguments:
        return False
    return True


def _held(call: ToolCall, judged: JudgedVersion, terms: Terms) -> Held:
    function = judged.version.function
    bound = {name: terms.bound[name] for name in function.bound if name in terms.bound}
    return Held(call, judged.version.number, function.effects, bound)
