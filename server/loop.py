"""One turn: a model is asked, what it calls is run, the results go back, until it answers in words or must wait."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from kernels.suggestions import suggestions
from server.batch import Batch, Hooks, Terms
from server.calls import Calls, ToolResult
from server.catalog import Catalog
from server.choosing import SEARCH, Offer, found_by
from server.completions import Completion, Delta, TextDelta, ToolCall, Usage
from server.conversations import Message, answer, name_of, paired, problem
from server.deciding import Verdict
from server.dialects import spoken, understood
from server.errors import AigbbError, LimitReached, ToolsRefused
from server.llm import Asked, Model
from server.models import Mode, mode_for
from server.observing import Answered, Observer, ToolCalled
from server.permits import Policy
from server.pictures import with_pictures
from server.results import Results
from server.tools import render
from server.tracing import Doing, Tracing
from server.turns import Event, Limits, Ready, Round, Said, Status, Suspended, Turn, Wish, usage_of

# The same call with the same failure: after so many, more of it leads nowhere.
MAX_REPEATS = 3
# What providers say of an answer that broke off. Calls in it may be incomplete, and are not run.
_CUT_OFF = {"length": "length", "content_filter": "filtered"}
# What is no failure of a call.
_FINE = ("ok", "answered")


@dataclass(frozen=True)
class Means:
    """What turns work with. catalog: the functions of one turn are those of its beginning."""

    model: Model
    calls: Calls
    results: Results
    catalog: Catalog
    limits: Limits
    policy: Policy
    observer: Observer
    tracing: Tracing


class Journal:
    """Who writes a turn down as it goes. This one does not."""

    hooks = Hooks()

    async def say(self, messages: Sequence[Message]) -> None:
        """More messages of the conversation."""


class Loop:
    """One turn while it runs. messages: the conversation so far; offer: what the model is offered."""

    def __init__(
        self, means: Means, wish: Wish, name: str, offer: Offer, messages: Sequence[Message], journal: Journal
    ) -> None:
        self._means = means
        self._wish = wish
        self.model = self._name = name
        self._offer = offer
        self._journal = journal
        self._limits = wish.limits.within(means.limits)
        self._began = time.monotonic()
        approved = frozenset(wish.approved)
        self._terms = Terms(wish.bound, wish.session, wish.timeout, means.policy, approved, wish.caller)
        self._mode: Mode = wish.mode or mode_for(means.model.abilities(name))
        self.messages = paired(messages)
        self._given = len(self.messages)
        self._rounds: list[Round] = []
        self._failures: Counter[tuple[str, str, str]] = Counter()
        self._said = Said()
        self._batch: Batch | None = None
        self._over: Status | None = None  # why the next answer is the last
        self._turn: Turn | None = None
        self.within: Doing | None = None  # the span of the whole turn, and of the round
        self._round_doing: Doing | None = None

    @property
    def added(self) -> int:
        """How many messages this turn has added."""
        return len(self.messages) - self._given

    async def run(self) -> AsyncGenerator[Event]:
        """Ask, run, ask again; the last event is the `Turn`. Raises as the model does, MissingBound, LimitReached."""
        while self._turn is None:
            async with aclosing(self._round()) as events:
                with self._means.tracing.doing("round", {"aigbb.round": len(self._rounds)}, self.within) as doing:
                    self._round_doing = doing
                    async for event in events:
                        yield event
                    doing.outcome = "ok"
        yield self._turn

    async def resume(self, suspended: Suspended, verdict: Verdict) -> AsyncGenerator[Event]:
        """Go on with a turn that waited. messages are those up to the one whose calls wait."""
        self._given, self._rounds, self._said = suspended.given, list(suspended.rounds), suspended.said
        self._failures.update({key[:3]: key[3] for key in suspended.failures})
        self._offer = self._offer.with_names(self._means.catalog, suspended.found)
        self._terms = replace(self._terms, approved=frozenset(suspended.approved))
        self._began -= suspended.spent
        # The answers that stand for those that are still to come.
        del self.messages[len(self.messages) - len(suspended.batch.calls) :]
        with self._means.tracing.inside(self.within):
            batch, self._terms = await suspended.batch.decided(
                self._means.calls, verdict, self._terms, self._journal.hooks
            )
        for result in batch.ordered:
            if result not in suspended.batch.done:
                yield result
        await self._close(batch)
        async with aclosing(self.run()) as events:
            async for event in events:
                yield event

    def suspended(self) -> Suspended:
        """What is needed to go on, of a turn that has ended to wait."""
        assert self._batch is not None
        service = self._wish.service
        return Suspended(
            # A key is nothing to keep.
            wish=replace(self._wish, messages=(), service=service and replace(service, api_key=None)),
            name=self._name,
            given=self._given,
            rounds=tuple(self._rounds),
            failures=tuple((*key, count) for key, count in self._failures.items()),
            said=self._said,
            batch=self._batch,
            found=self._offer.found,
            approved=tuple(sorted(self._terms.approved)),
            spent=time.monotonic() - self._began,
        )

    # -- a round

    async def _round(self) -> AsyncGenerator[Event]:
        async with aclosing(self._ask()) as deltas:
            async for delta in deltas:
                yield delta
        completion = self._said.completion
        yield completion.usage
        cut: Any = _CUT_OFF.get(completion.finish or "")
        if self._over or cut or not completion.calls:
            await self._end(cut or self._over or "done", {"role": "assistant", "content": completion.text})
            return
        if theirs := tuple(call for call in completion.calls if call.name in self._offer.own):
            await self._end("calls", replace(completion, calls=theirs).message, theirs)
            return
        await self._add([completion.message])
        for call in completion.calls:
            yield Ready(call)
        batch = Batch(completion.calls, self._refused(completion.calls))
        with self._means.tracing.inside(self._round_doing):
            batch = await batch.run(self._means.calls, self._offer.callable, self._timed(), self._journal.hooks)
        for result in batch.done:
            yield result
        if batch.held:
            self._batch = batch
            done = [answer(each.call, each.content) for each in batch.done]
            self._turn = self._made("needs_confirmation", completion.text, more=done)
        else:
            await self._close(batch)

    async def _ask(self) -> AsyncGenerator[Delta]:
        """Ask the model, again in another mode if it takes no tools."""
        start, answered = time.perf_counter(), False
        while not answered:
            try:
                with self._asking():
                    async with aclosing(self._streamed()) as deltas:
                        async for delta in deltas:
                            yield delta
                answered = True
            except ToolsRefused:
                if self._wish.mode is not None or self._mode == "prompt":
                    raise
                self._mode = mode_for(self._means.model.abilities(self._name))
        self._said = replace(self._said, model_ms=round((time.perf_counter() - start) * 1000, 1))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Tell of a request to the model."""
        start, usage = time.perf_counter(), Usage()
        asked = {"gen_ai.operation.name": "chat", "gen_ai.request.model": self._name}
        with self._means.tracing.doing(f"chat {self._name}", asked, self._round_doing, client=True) as doing:
            try:
                yield
                doing.outcome, completion = "ok", self._said.completion
                usage = completion.usage
                doing.attributes["gen_ai.usage.input_tokens"] = usage.prompt
                doing.attributes["gen_ai.usage.output_tokens"] = usage.completion
                doing.attributes["gen_ai.response.finish_reasons"] = (completion.finish or "",)
            except AigbbError as error:
                doing.outcome = error.code
                raise
            finally:
                seconds = time.perf_counter() - start
                self._means.observer.note(Answered(doing.outcome, seconds, usage.prompt, usage.completion))

    async def _streamed(self) -> AsyncGenerator[Delta]:
        hidden = self._mode == "prompt"  # not shown before it is known whether it is a call
        completion = Completion()
        async with aclosing(self._means.model.stream(await self._asked())) as items:
            async for item in items:
                if isinstance(item, Completion):
                    completion = item if self._over else understood(item, self._mode)
                elif not (hidden and isinstance(item, TextDelta) and not item.thought):
                    yield item
        if hidden and completion.text:
            yield TextDelta(completion.text)
        self._said = Said(completion)

    async def _asked(self) -> Asked:
        choice = "none" if self._over else self._offer.later if self._rounds else self._offer.first
        messages = await with_pictures(paired(self.messages), self._means.results, self._wish.caller)
        wish = self._wish
        asked = Asked(self._name, messages, self._tools, choice, wish.parallel_tool_calls, wish.options)
        return spoken(asked, self._mode, self._offer.versions)

    @property
    def _tools(self) -> list[Mapping[str, Any]]:
        rendered = render(self._offer.versions, "openai", strict=bool(self._wish.strict))
        theirs = [tool for tool in self._wish.client_tools if name_of(tool) in self._offer.own]
        search = [SEARCH] if self._offer.searching else []
        return [*(rendered if isinstance(rendered, list) else []), *search, *theirs]

    @property
    def _offered(self) -> tuple[str, ...]:
        return tuple(version.function.name for version in self._offer.versions)

    def _timed(self) -> Terms:
        """No call may take longer than is left of the turn."""
        if self._limits.seconds is None:
            return self._terms
        left = max(0.1, self._limits.seconds - (time.monotonic() - self._began))
        return replace(self._terms, timeout=min(self._terms.timeout or left, left))

    # -- calls

    def _refused(self, calls: Sequence[ToolCall]) -> dict[int, ToolResult]:
        """What is said of calls that are not run, and of searches; the others are left out."""
        found = {}
        room = len(calls) if self._limits.calls is None else self._limits.calls - self._called
        for n, call in enumerate(calls):
            if call.name == name_of(SEARCH) and self._offer.searching:
                found[n] = self._searched(call)
            elif call.name not in self._offer.callable:
                found[n] = self._unknown(call)
            elif n and self._wish.parallel_tool_calls is False:
                found[n] = _not_run(call, "This call was not run.", "Ask for one call at a time.")
            elif n >= room:
                found[n] = _not_run(call, "This call was not run: the limit of calls is reached.", "Answer now.")
        return found

    @property
    def _called(self) -> int:
        return sum(len(each.results) for each in self._rounds)

    def _unknown(self, call: ToolCall) -> ToolResult:
        near = suggestions(call.name, self._offer.callable)
        detail = f"There is no tool {call.name[:80]!r}.{f' Did you mean {near[0]!r}?' if near else ''}"
        return _told(call, "unknown_function", detail, f"The tools are: {', '.join(sorted(self._offered))}.")

    def _searched(self, call: ToolCall) -> ToolResult:
        """Look functions up for the model: those that are found are offered from now on."""
        versions = found_by(self._means.catalog, call.arguments, self._wish.tags)
        self._offer = self._offer.with_names(self._means.catalog, [v.function.name for v in versions])
        listed = [{"name": v.function.name, "description": v.function.description} for v in versions]
        return ToolResult(call, json.dumps(listed, ensure_ascii=False), "ok", 0.0)

    async def _close(self, batch: Batch) -> None:
        """Every call has its answer in the conversation, in order; whether the turn goes on after that."""
        self._batch = None
        results = batch.ordered
        for result in results:
            self._means.observer.note(ToolCalled(result.status))
        await self._add([*(answer(r.call, r.content) for r in results), *self._pictured(results)])
        self._rounds.append(_round(self._said, results))
        self._over = self._verdict(results)
        if self._over == "limit" and self._limits.error:
            raise LimitReached("The turn reached a limit before the model had answered.")
        if self._over is None and not self._wish.final and all(r.status in _FINE for r in results):
            self._turn = self._made("done", "\n".join(r.content for r in results))

    def _pictured(self, results: Sequence[ToolResult]) -> list[Message]:
        """What functions showed, for a model that can look at it."""
        if not self._means.model.abilities(self._name).pictures:
            return []
        parts: list[dict[str, Any]] = []
        for result in (r for r in results if r.pictures):
            parts.append({"type": "text", "text": f"What {result.call.name} showed:"})
            parts += [{"type": "image_url", "image_url": {"url": link}} for link in result.pictures]
        return [{"role": "user", "content": parts}] if parts else []

    def _verdict(self, results: Sequence[ToolResult]) -> Status | None:
        """Why the next answer is the last, if it is."""
        failed = [(r.call.name, r.call.arguments, r.status) for r in results if r.status not in _FINE]
        self._failures.update(failed)
        if any(self._failures[each] >= MAX_REPEATS for each in failed):
            return "stuck"
        limits, usage = self._limits, usage_of(self._rounds)
        spent = [
            (len(self._rounds), limits.rounds),
            (self._called, limits.calls),
            (usage.prompt + usage.completion, limits.tokens),
            (time.monotonic() - self._began, limits.seconds),
        ]
        return "limit" if any(most is not None and value >= most for value, most in spent) else None

    # -- the end

    async def _add(self, messages: Sequence[Message]) -> None:
        self.messages += [dict(message) for message in messages]
        await self._journal.say(messages)

    async def _end(self, status: Status, message: Message, calls: tuple[ToolCall, ...] = ()) -> None:
        self._rounds.append(_round(self._said, ()))
        await self._add([message])
        self._turn = self._made(status, self._said.completion.text, calls)

    def _made(self, status: Status, text: str, calls: tuple[ToolCall, ...] = (), more: Sequence[Message] = ()) -> Turn:
        return Turn(
            status,
            text,
            (*self.messages, *more),
            self.added + len(more),
            self._name,
            self._offered,
            tuple(self._rounds),
            calls,
            conversation=self._wish.conversation,
            approved=tuple(sorted(self._terms.approved)),
            warnings=self._means.model.warnings(self._name),
        )


def _round(said: Said, results: tuple[ToolResult, ...]) -> Round:
    return Round(said.completion.usage, said.model_ms, said.completion.thoughts, results)


def _not_run(call: ToolCall, detail: str, hint: str) -> ToolResult:
    return _told(call, "not_run", detail, hint)


def _told(call: ToolCall, code: str, detail: str, hint: str) -> ToolResult:
    return ToolResult(call, problem(code, detail, hint), code, 0.0)
