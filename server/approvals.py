"""Approvals: pending calls that are kept until a person decides, once; and what came of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydantic import TypeAdapter

from server.archive import Approval, Archive
from server.audit import Audit, Line
from server.batch import Batch, Terms
from server.callers import Caller
from server.conversations import Message
from server.deciding import Decision, Held
from server.errors import AigbbError, ApprovalSettled, ApprovalVoid, UnknownApproval
from server.refusals import TooManyApprovals
from server.turns import Suspended, Waiting

# Pending approvals that one key may have.
MAX_PENDING = 1000


@dataclass(frozen=True)
class Form:
    """How a tool call came: with this id, which need not be unique; as an item of a response, or of a chat."""

    id: str
    responses: bool = False


@dataclass(frozen=True)
class HeldCalls:
    """Tool calls outside of a conversation that wait, as a value."""

    forms: tuple[Form, ...]
    batch: Batch
    terms: Terms


@dataclass(frozen=True)
class SuspendedCall:
    """A pending typed call, as a value. pinned: it was made as `name@3`, so it need not be the active version."""

    held: Held
    pinned: bool
    session: str | None
    timeout: float | None
    caller: Caller


Pending = Suspended | HeldCalls | SuspendedCall
_pending = TypeAdapter[Pending](Pending)


class Approvals:
    """Keeps pending calls, and lets one decision about each of them count.

    seconds: how long a decision is waited for. holds: whether the key of who asked before is still good.
    """

    def __init__(self, archive: Archive, seconds: float, holds: Callable[[Caller], bool], audit: Audit) -> None:
        self._archive = archive
        self._seconds = seconds
        self._holds = holds
        self._audit = audit
        self._watched: dict[str, list[asyncio.Future[None]]] = {}

    def now(self) -> float:
        """The moment, as approvals and conversations have it."""
        return self._archive.clock.now()

    async def find(self, identity: str, caller: Caller) -> Approval:
        """One that is waited for, or was. Raises UnknownApproval."""
        found = await asyncio.to_thread(self._archive.approval, identity)
        if found is None or not caller.sees(found.owner):
            raise UnknownApproval(f"There is no approval {identity[:80]!r}.")
        return found

    async def listed(self, caller: Caller) -> list[Approval]:
        """All pending ones that the caller may see, oldest first."""
        found = await asyncio.to_thread(self._archive.waiting, self.now())
        return [one for one in found if caller.sees(one.owner)]

    @staticmethod
    def pending(approval: Approval) -> Pending:
        """What an approval is about."""
        return _pending.validate_json(approval.suspended)

    async def hold(
        self,
        conversation: str | None,
        pending: Pending,
        caller: Caller,
        messages: Sequence[Message] = (),
        ended: Mapping[str, str] | None = None,
    ) -> Waiting:
        """Keep what waits; from now on somebody may decide. Raises TooManyApprovals."""
        held, now = _held(pending), self.now()
        await asyncio.to_thread(self._check_room, caller.key, now)
        waiting = Waiting(secrets.token_hex(8), now + self._seconds, held)
        text = _pending.dump_json(pending).decode()
        calls = tuple(one.shown() for one in held)
        approval = Approval(waiting.id, conversation, "waiting", calls, text, now, waiting.expires, caller.key)
        await asyncio.to_thread(self._archive.hold, approval, messages, ended or {})
        return waiting

    def _check_room(self, owner: str, now: float) -> None:
        self._archive.expire(now - self._seconds)
        if self._archive.pending(owner, now) >= MAX_PENDING:
            raise TooManyApprovals(f"The key {owner} has {MAX_PENDING} pending approvals.")

    def check_asker(self, asker: Caller) -> None:
        """Raises ApprovalVoid when who asked may ask no more."""
        if not self._holds(asker):
            hint = "Nothing was run. Have it asked again with a key that is good."
            raise ApprovalVoid(f"The key {asker.key} that asked for these calls is not good any more.", hint=hint)

    async def claim(
        self, approval: Approval, held: Sequence[Held], decisions: Sequence[Decision], caller: Caller
    ) -> None:
        """Let these decisions count, for one caller only, and audit them. Raises Forbidden, ApprovalSettled."""
        caller.require("approve")
        if not await asyncio.to_thread(self._archive.settle, approval.id, "decided", self.now()):
            found = await self.find(approval.id, caller)
            told = {"waiting": "expired, which counts as rejected", "decided": "was decided already"}
            detail = told.get(found.status, "is over: the conversation went on without it")
            raise ApprovalSettled(f"Approval {approval.id} {detail}.")
        known = {one.call.id: one for one in held}
        for decision in decisions:
            one = known[decision.call_id]
            about = f"approval {approval.id}, asked by {approval.owner}, arguments {one.args_hash}"
            self._audit.note(
                Line(caller.key, caller.request_id, "decide", decision.choice, one.call.name, one.version, detail=about)
            )
        await self._audit.flush()

    async def finish(self, identity: str, outcome: str, error: AigbbError | None = None) -> None:
        """Keep what a decision came to, as JSON, for who asked. error: what it failed with, for who waits for it."""
        await asyncio.to_thread(self._archive.finish, identity, outcome)
        for watched in self._watched.pop(identity, ()):
            if watched.done():
                continue
            if error is None:
                watched.set_result(None)
            else:
                watched.set_exception(error)

    async def over(self, identity: str, caller: Caller, seconds: float) -> Approval:
        """An approval with its outcome, or as it is after so many seconds. Raises UnknownApproval, and the outcome."""
        watched: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watched.setdefault(identity, []).append(watched)
        try:
            found = await self.find(identity, caller)
            if found.outcome is not None:
                return found
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await watched
        finally:
            watched.cancel()
            self._forget(identity)
        return await self.find(identity, caller)

    def _forget(self, identity: str) -> None:
        """Drop the watchers that wait no more."""
        left = [one for one in self._watched.pop(identity, ()) if not one.done()]
        if left:
            self._watched[identity] = left


def _held(pending: Pending) -> tuple[Held, ...]:
    return (pending.held,) if isinstance(pending, SuspendedCall) else pending.batch.held
