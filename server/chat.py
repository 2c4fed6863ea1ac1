"""Chat: turns of conversations, those that are kept and those that are not, and what a person decides in them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace

from server.approvals import Approvals
from server.archive import Approval, Archive, Stored, Summary
from server.batch import Hooks
from server.callers import Caller
from server.calls import ToolResult
from server.choosing import check_strict, choose
from server.completions import ToolCall
from server.conversations import Message, answer, calls_of, name_of, paired, problem
from server.deciding import Decision, check, denied
from server.errors import (
    AigbbError,
    ConversationBusy,
    ConversationNotFound,
    InvalidRequest,
    ModelNotConfigured,
)
from server.llm import Place
from server.loop import Journal, Loop, Means
from server.observing import Turned
from server.permits import stricter
from server.registry import Version
from server.tracing import Doing
from server.turns import Event, Suspended, Turn, Wish

MAX_LISTED = 200
# What a model reads of calls that a crash, or somebody who left, cut off.
_LOST = problem(
    "interrupted",
    "This call was started, and nobody knows whether it took effect. It was not repeated.",
    "Find out before you call it again, or ask the user.",
)
_NOT_RUN = problem("not_run", "The turn was interrupted before this call. It was not run.")


class Chat:
    """Runs turns, one at a time in each conversation. means is asked anew for each.

    keep_seconds: how long conversations are kept. until_cut: events, until a service that ends cuts them.
    """

    def __init__(
        self,
        means: Callable[[Caller], Means],
        archive: Archive,
        approvals: Approvals,
        keep_seconds: float,
        until_cut: Callable[[AsyncGenerator[Event]], AsyncGenerator[Event]],
    ) -> None:
        self._means = means
        self._archive = archive
        self._approvals = approvals
        self._keep_seconds = keep_seconds
        self._until_cut = until_cut
        self._busy: set[str] = set()

    # -- turns

    async def run(self, wish: Wish, caller: Caller) -> AsyncGenerator[Event]:
        """A turn, as it goes; the last event is the `Turn`.

        Raises Forbidden, ModelNotConfigured, InvalidRequest, FunctionNotFound, MissingBound, ModelFailed,
        ModelTimedOut, LimitReached, ConversationBusy, ConversationNotFound for one of somebody else. What was added to
        the conversation until then is in the error's `messages`.
        """
        _check_approved(wish.approved, caller)
        wish = replace(wish, caller=caller)
        await self._check_owner(wish.conversation, caller)
        async with self._turn(wish, caller) as means:
            stored = await self._load(wish.conversation)
            loop = await self._begun(means, wish, stored)
            async with aclosing(self._watched(means, loop, loop.run())) as events:
                async for event in events:
                    yield event

    async def decide(
        self, approval: Approval, decisions: Sequence[Decision], caller: Caller, service: Place | None = None
    ) -> AsyncGenerator[Event]:
        """Go on with a turn that waits for these decisions, as it goes. service: as in its wish, whose key is not kept.

        caller: who decides; the turn goes on with the rights of who asked. Raises InvalidRequest,
        ApprovalVoid, ApprovalSettled, ConversationBusy, and as `run`.
        """
        suspended = self._approvals.pending(approval)
        if not isinstance(suspended, Suspended) or approval.conversation is None:
            raise InvalidRequest("These calls belong to no conversation.")
        self._approvals.check_asker(suspended.wish.caller)
        wish = replace(suspended.wish, conversation=approval.conversation, service=service or suspended.wish.service)
        async with self._turn(wish, caller if service else wish.caller) as means:
            verdict = check(suspended.batch.held, decisions, means.calls.judged(wish.caller))
            await self._approvals.claim(approval, suspended.batch.held, decisions, caller)
            stored = await self._load(approval.conversation)
            assert stored is not None, "what waits in a conversation goes with it"
            await asyncio.to_thread(self._archive.begin, stored.id, (), stored.approved)
            loop = self._loop(means, wish, suspended.name, stored.messages)
            resumed = loop.resume(suspended, verdict)
            async with aclosing(self._watched(means, loop, resumed)) as events:
                async for event in events:
                    yield event

    # -- what is kept

    async def conversations(self, caller: Caller) -> list[Summary]:
        """Those of the caller's that went on last, newest first."""
        return await asyncio.to_thread(self._archive.listed, MAX_LISTED, None if caller.admin else caller.key)

    async def conversation(self, identity: str, caller: Caller) -> Stored:
        """One that is kept. Raises ConversationNotFound."""
        found = await self._load(identity)
        if found is None or not caller.sees(found.owner):
            raise _no_conversation(identity)
        return found

    async def delete(self, identity: str, caller: Caller) -> None:
        """Forget a conversation. Raises ConversationNotFound, ConversationBusy."""
        await self._check_owner(identity, caller)
        with self._occupied(identity):
            if not await asyncio.to_thread(self._archive.delete, identity):
                raise _no_conversation(identity)

    def status_of(self, found: Stored | Summary) -> str:
        """idle, running, waiting, or interrupted: it was running when a service ended, or who asked had left."""
        return "interrupted" if found.status == "running" and found.id not in self._busy else found.status

    # -- inside

    @asynccontextmanager
    async def _turn(self, wish: Wish, named_by: Caller) -> AsyncIterator[Means]:
        """What a turn works with, while it is the only one of its conversation. named_by: who named its model service.

        Raises ConversationBusy, Forbidden.
        """
        means = self._means(wish.caller)
        with self._occupied(wish.conversation):
            async with means.model.at(wish.service, named_by) as model:
                yield replace(means, model=model)

    @contextmanager
    def _occupied(self, conversation: str | None) -> Iterator[None]:
        """One turn at a time. Raises ConversationBusy."""
        if conversation is None:
            yield
            return
        if conversation in self._busy:
            raise ConversationBusy(f"A turn of conversation {conversation!r} is not over yet.")
        self._busy.add(conversation)
        try:
            yield
        finally:
            self._busy.discard(conversation)

    async def _load(self, conversation: str | None) -> Stored | None:
        return None if conversation is None else await asyncio.to_thread(self._archive.load, conversation)

    async def _check_owner(self, conversation: str | None, caller: Caller) -> None:
        """Raises ConversationNotFound for one of somebody else; one that is not there is anybody's."""
        if conversation is not None and not caller.admin:
            owner = await asyncio.to_thread(self._archive.owner, conversation)
            if owner is not None and not caller.sees(owner):
                raise _no_conversation(conversation)

    async def _begun(self, means: Means, wish: Wish, stored: Stored | None) -> Loop:
        """A loop at its beginning, what it begins with written down."""
        name = wish.model or means.model.name
        if name is None:
            raise ModelNotConfigured("No model is named.")
        earlier = stored.messages if stored else ()
        new = [*(_closing(stored) if stored else ()), *wish.messages]
        if not (earlier or new):
            raise InvalidRequest("There is nothing to answer: send a message.")
        wish = replace(wish, approved=(*wish.approved, *(stored.approved if stored else ())))
        loop = self._loop(means, wish, name, [*earlier, *new])
        if wish.conversation is not None:
            await asyncio.to_thread(self._write_down, wish.conversation, new, wish)
        return loop

    def _write_down(self, conversation: str, new: Sequence[Message], wish: Wish) -> None:
        self._archive.forget(self._approvals.now() - self._keep_seconds)
        self._archive.withdraw(conversation)
        self._archive.begin(conversation, new, wish.approved, wish.caller.key)

    def _loop(self, means: Means, wish: Wish, name: str, messages: Sequence[Message]) -> Loop:
        own = [name_of(tool) for tool in wish.client_tools]
        offer = choose(means.catalog, messages, wish.names, wish.tags, wish.tool_choice, own, search=wish.search)
        if wish.strict is True:
            check_strict(offer.versions)
        means = replace(means, policy=stricter(means.policy, wish.confirm))
        journal = Written(self._archive, wish.conversation) if wish.conversation else Journal()
        return Loop(means, wish, name, offer, messages, journal)

    async def _watched(self, means: Means, loop: Loop, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        """The events of a loop; one that ends to wait is kept before anybody hears of it."""
        try:
            with _told(means, loop) as doing:
                async with aclosing(self._until_cut(events)) as events:
                    async for event in events:
                        if not isinstance(event, Turn):
                            yield event
                            continue
                        turn = await self._ended(loop, event)
                        doing.outcome = turn.status
                        doing.attributes["gen_ai.conversation.id"] = turn.conversation
                        if turn.waiting is not None:
                            yield turn.waiting
                        yield turn
        except AigbbError as error:
            if loop.added:
                error.extra["messages"] = paired(loop.messages)
            raise

    async def _ended(self, loop: Loop, turn: Turn) -> Turn:
        if turn.status == "needs_confirmation":
            return await self._suspend(loop, turn)
        if turn.conversation is not None:
            await asyncio.to_thread(self._archive.leave, turn.conversation, turn.approved)
        return turn

    async def _suspend(self, loop: Loop, turn: Turn) -> Turn:
        suspended, conversation = loop.suspended(), turn.conversation or secrets.token_hex(8)
        messages = () if turn.conversation else tuple(loop.messages)
        ended = {result.call.id: result.content for result in suspended.batch.done}
        waiting = await self._approvals.hold(conversation, suspended, suspended.wish.caller, messages, ended)
        return replace(turn, conversation=conversation, waiting=waiting)


class Written(Journal):
    """Writes a turn of a conversation that is kept into the archive."""

    def __init__(self, archive: Archive, conversation: str) -> None:
        self._archive = archive
        self._conversation = conversation
        self.hooks = Hooks(self._began, self._ended)

    async def say(self, messages: Sequence[Message]) -> None:
        """More messages, before anybody acts on them."""
        await asyncio.to_thread(self._archive.say, self._conversation, messages)

    async def _began(self, call: ToolCall, _: Version) -> None:
        await asyncio.to_thread(self._archive.began, self._conversation, call.id)

    async def _ended(self, result: ToolResult) -> None:
        await asyncio.to_thread(self._archive.ended, self._conversation, result.call.id, result.content)


async def outcome(events: AsyncGenerator[Event]) -> Turn:
    """What a turn comes to, for those who do not watch it."""
    async with aclosing(events):
        *_, last = [event async for event in events]
    assert isinstance(last, Turn)
    return last


@contextmanager
def _told(means: Means, loop: Loop) -> Iterator[Doing]:
    """Tell of a turn, once it is over."""
    start = time.perf_counter()
    asked = {"gen_ai.operation.name": "invoke_agent", "gen_ai.request.model": loop.model}
    with means.tracing.doing("invoke_agent", asked) as doing:
        loop.within = doing
        try:
            yield doing
        except AigbbError as error:
            doing.outcome = error.code
            raise
        finally:
            means.observer.note(Turned(doing.outcome, time.perf_counter() - start))


def _check_approved(approved: Collection[str], caller: Caller) -> None:
    """Raises Forbidden: only who may decide about calls may have decided beforehand."""
    if approved:
        caller.require("approve")


def _no_conversation(identity: str) -> ConversationNotFound:
    return ConversationNotFound(f"There is no conversation {identity[:80]!r}.")


def _closing(stored: Stored) -> list[Message]:
    """The answers that the calls of a conversation's last message still lack."""
    last = stored.messages[-1] if stored.messages else {}
    return [answer(call, _outcome(call, stored)) for call in calls_of(last)]


def _outcome(call: ToolCall, stored: Stored) -> str:
    if call.id in stored.attempts:
        content = stored.attempts[call.id]
        return _LOST if content is None else content
    if stored.status == "waiting":
        return denied(call, "Nobody decided about this call.").content
    return _NOT_RUN
