"""Calls outside of a conversation: typed calls, and tool calls of a caller's own loop. Those that need it are held."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from server.approvals import Approvals, Form, HeldCalls, SuspendedCall
from server.archive import Approval
from server.batch import Batch, Hooks, Terms
from server.callers import Caller
from server.calls import Called, Calls, ToolResult
from server.completions import ToolCall
from server.deciding import Decision, Held, check
from server.errors import AigbbError, FunctionNotFound, InvalidRequest, UnknownVersion
from server.executions import Executions
from server.observing import Observer, ToolCalled
from server.permits import JudgedVersion, Permit, Policy, stricter
from server.refusals import CallRejected
from server.running import Running
from server.turns import Waiting

# The answer to a typed call, as JSON.
CallFormatter = Callable[[Called], str]
# The id of a typed call, which has none of its own.
CALL_ID = "call_0"


@dataclass(frozen=True)
class ToolTurn:
    """What tool calls came to: by position a result for each, or for each that does not wait."""

    forms: tuple[Form, ...]
    results: Mapping[int, ToolResult]
    waiting: Waiting | None = None
    approved: tuple[str, ...] = ()


@dataclass(frozen=True)
class TypedCall:
    """A typed call as a caller sends it: `name` for the active version, `name@3` for that one."""

    name: str
    arguments: Mapping[str, Any]
    session: str | None = None
    timeout: float | None = None


class DirectCalls:
    """Judges such calls, runs them or holds them, and does with those that are held as a person decides."""

    def __init__(
        self, calls: Calls, executions: Executions, approvals: Approvals, policy: Policy, observer: Observer
    ) -> None:
        self._calls = calls
        self._executions = executions
        self._approvals = approvals
        self._policy = policy
        self._observer = observer

    # -- typed calls

    async def judge(self, asked: TypedCall, caller: Caller) -> Permit | Waiting:
        """The permission to run a call, or the approval that it waits for. Raises as `Calls.find`, TooManyApprovals."""
        judged = await self._calls.find(asked.name, caller)
        permit = judged.for_caller(self._policy, caller)
        if permit is not None:
            return permit
        function = judged.version.function
        call = ToolCall(CALL_ID, function.name, json.dumps(asked.arguments))
        held = Held(call, judged.version.number, function.effects)
        suspended = SuspendedCall(held, "@" in asked.name, asked.session, asked.timeout, caller)
        return await self._approvals.hold(None, suspended, caller)

    async def decide_call(
        self, approval: Approval, decisions: Sequence[Decision], caller: Caller, told: CallFormatter
    ) -> str:
        """Run a pending typed call, as was decided, with the rights of who sent it; the answer, as JSON.

        told: the answer to a call, as JSON. Raises InvalidRequest, ApprovalVoid, ApprovalSettled, CallRejected, and as
        `Calls.call`.
        """
        suspended = self._approvals.pending(approval)
        assert isinstance(suspended, SuspendedCall)
        held, asker = suspended.held, suspended.caller
        self._approvals.check_asker(asker)
        if any(decision.choice == "respond" for decision in decisions):
            raise InvalidRequest(
                "A typed call has no model that reads an answer in its stead.", hint="Approve, edit or reject it."
            )
        verdict = check([held], decisions, await self._judged(suspended))
        [decision] = verdict.decisions
        await self._approvals.claim(approval, [held], verdict.decisions, caller)
        try:
            permit = verdict.permits.get(decision.call_id)
            answer = await self._run(permit, suspended, decision, told)
        except AigbbError as error:
            await self._approvals.finish(approval.id, json.dumps(_problem(error)), error)
            raise
        await self._approvals.finish(approval.id, answer)
        return answer

    async def _judged(self, suspended: SuspendedCall) -> dict[str, JudgedVersion]:
        """The version that a pending call would run now; none if there is none any more."""
        held = suspended.held
        name = f"{held.call.name}@{held.version}" if suspended.pinned else held.call.name
        try:
            return {held.call.name: await self._calls.find(name, suspended.caller)}
        except (FunctionNotFound, UnknownVersion):
            return {}

    async def _run(
        self, permit: Permit | None, suspended: SuspendedCall, decision: Decision, told: CallFormatter
    ) -> str:
        held = suspended.held
        if permit is None:
            why = f": {decision.text}" if decision.text else "."
            raise CallRejected(f"A person rejected this call of {held.call.name}{why}")
        arguments = json.loads(held.call.arguments) if decision.arguments is None else decision.arguments
        running = Running(suspended.caller, suspended.session, str(permit.version))
        with self._executions.recorded(running):
            return told(await self._calls.call(running, permit, arguments, timeout=suspended.timeout))

    # -- tool calls

    async def run_tools(
        self, calls: Sequence[ToolCall], forms: tuple[Form, ...], terms: Terms, caller: Caller
    ) -> ToolTurn:
        """Run the calls of somebody else's loop; those that need a decision wait. Raises Forbidden, MissingBound.

        terms.policy: at least so many decisions, and at least the service's.
        """
        if terms.approved:
            caller.require("approve")
        terms = replace(terms, policy=stricter(self._policy, terms.policy), caller=caller)
        offered = self._calls.judged(caller)
        batch = await Batch(tuple(calls)).run(self._calls, offered, terms, Hooks())
        self._tell(batch)
        if not batch.held:
            return ToolTurn(forms, batch.results)
        return ToolTurn(forms, batch.results, await self._approvals.hold(None, HeldCalls(forms, batch, terms), caller))

    async def decide_tools(
        self, approval: Approval, decisions: Sequence[Decision], caller: Caller, told: Callable[[ToolTurn], str]
    ) -> str:
        """Run pending tool calls, as was decided, with the rights of who sent them; the answer, as JSON.

        Raises InvalidRequest, ApprovalVoid, ApprovalSettled.
        """
        suspended = self._approvals.pending(approval)
        assert isinstance(suspended, HeldCalls)
        self._approvals.check_asker(suspended.terms.caller)
        verdict = check(suspended.batch.held, decisions, self._calls.judged(suspended.terms.caller))
        await self._approvals.claim(approval, suspended.batch.held, decisions, caller)
        try:
            batch, terms = await suspended.batch.decided(self._calls, verdict, suspended.terms, Hooks())
        except AigbbError as error:
            await self._approvals.finish(approval.id, json.dumps(_problem(error)), error)
            raise
        self._tell(batch)
        answer = told(ToolTurn(suspended.forms, batch.results, approved=tuple(sorted(terms.approved))))
        await self._approvals.finish(approval.id, answer)
        return answer

    def _tell(self, batch: Batch) -> None:
        """Tell of tool calls, once all of them are over."""
        for result in () if batch.held else batch.done:
            self._observer.note(ToolCalled(result.status))


def _problem(error: AigbbError) -> dict[str, Any]:
    """An error as an outcome has it."""
    return {"problem": {"code": error.code, "status": error.status, "detail": error.detail, "hint": error.hint}}
