"""The tool loop: a model is asked, what it calls is run, the results go back to it, until it answers in words."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal

from server.calls import Calls, ToolResult
from server.catalog import Catalog
from server.choosing import Offer, choose
from server.completions import Completion, Delta, TextDelta, ToolCall, Usage
from server.conversations import Message, answer, name_of, paired
from server.dialects import Mode, spoken, understood
from server.errors import AigbbError, ModelNotConfigured
from server.llm import Asked, Model
from server.tools import render

# The same call with the same failure: after so many, more of it leads nowhere.
MAX_REPEATS = 3
# What providers say of an answer that broke off. Calls in it may be incomplete, and are not run.
_CUT_OFF = {"length": "length", "content_filter": "filtered"}

Status = Literal["done", "calls", "limit", "stuck", "length", "filtered"]


@dataclass(frozen=True)
class Wish:
    """What a caller wants of a turn. Empty names and tags mean any; a tool_choice that forces holds for one round.

    client_tools are the caller's own, in OpenAI's form: a turn that calls one ends with that call.
    """

    messages: Sequence[Message]
    model: str | None = None
    names: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    tool_choice: str | Mapping[str, Any] = "auto"
    parallel_tool_calls: bool | None = None
    strict: bool = False
    max_rounds: int | None = None
    session: str | None = None
    bound: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    client_tools: Sequence[Mapping[str, Any]] = ()
    mode: Mode = "native"


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


@dataclass(frozen=True, slots=True)
class Turn:
    """All of it. messages are those that came in and those that were added, ready to be sent in again.

    calls are those of the caller's own tools, which wait for the caller's answers.
    """

    status: Status
    text: str
    messages: tuple[Message, ...]
    added: int
    model: str
    offered: tuple[str, ...]
    rounds: tuple[Round, ...]
    calls: tuple[ToolCall, ...] = ()

    @property
    def usage(self) -> Usage:
        """Of all rounds."""
        return sum((each.usage for each in self.rounds), Usage())


Event = Delta | Ready | ToolResult | Turn


class Chat:
    """Runs turns. catalog is asked anew for each: the functions of one turn are those of its beginning."""

    def __init__(self, model: Model, calls: Calls, catalog: Callable[[], Catalog], max_rounds: int) -> None:
        self._model = model
        self._calls = calls
        self._catalog = catalog
        self._max_rounds = max_rounds

    async def run(self, wish: Wish) -> AsyncGenerator[Event]:
        """A turn, as it goes; the last event is the `Turn`.

        Raises ModelNotConfigured, InvalidRequest, FunctionNotFound, MissingBound, ModelFailed, ModelTimedOut. What was
        added to the conversation until then is in the error's `messages`.
        """
        name = wish.model or self._model.name
        if name is None:
            raise ModelNotConfigured("No model is named.")
        own = [name_of(tool) for tool in wish.client_tools]
        offer = choose(self._catalog(), wish.messages, wish.names, wish.tags, wish.tool_choice, own)
        loop = _Loop(self._model, self._calls, wish, name, offer, self._max_rounds)
        try:
            async with aclosing(loop.run()) as events:
                async for event in events:
                    yield event
        except AigbbError as error:
            if loop.added:
                error.extra["messages"] = list(loop.messages)
            raise


class _Loop:
    """One turn while it runs."""

    def __init__(self, model: Model, calls: Calls, wish: Wish, name: str, offer: Offer, max_rounds: int) -> None:
        self._model = model
        self._calls = calls
        self._wish = wish
        self._name = name
        self._offer = offer
        self._max_rounds = min(wish.max_rounds or max_rounds, max_rounds)
        rendered = render(offer.versions, "openai", strict=wish.strict)
        theirs = [tool for tool in wish.client_tools if name_of(tool) in offer.own]
        self._tools = [*(rendered if isinstance(rendered, list) else []), *theirs]
        self.messages = paired(wish.messages)
        self._given = len(self.messages)
        self._rounds: list[Round] = []
        self._failures: Counter[tuple[str, str, str]] = Counter()

    @property
    def added(self) -> int:
        """How many messages this turn has added."""
        return len(self.messages) - self._given

    async def run(self) -> AsyncGenerator[Event]:
        """Ask, run, ask again."""
        status: Status = "done"
        while True:
            final = status != "done"
            start = time.perf_counter()
            completion = Completion()
            async with aclosing(self._model.stream(self._asked(final))) as items:
                async for item in items:
                    if isinstance(item, Completion):
                        completion = item if final else understood(item, self._wish.mode)
                    elif not (isinstance(item, TextDelta) and self._wish.mode == "prompt" and not item.thought):
                        yield item
            if self._wish.mode == "prompt" and completion.text:  # not before it is known whether it is a call
                yield TextDelta(completion.text)
            model_ms = round((time.perf_counter() - start) * 1000, 1)
            cut: Any = _CUT_OFF.get(completion.finish or "")
            if final or cut or not completion.calls:
                self._rounds.append(Round(completion.usage, model_ms, completion.thoughts))
                self.messages.append({"role": "assistant", "content": completion.text})
                yield self._turn(cut or status, completion.text)
                return
            if theirs := tuple(call for call in completion.calls if call.name in self._offer.own):
                self._rounds.append(Round(completion.usage, model_ms, completion.thoughts))
                self.messages.append(replace(completion, calls=theirs).message)
                yield self._turn("calls", completion.text, theirs)
                return
            self.messages.append(completion.message)
            for call in completion.calls:
                yield Ready(call)
            results = await self._run(completion.calls)
            self._rounds.append(Round(completion.usage, model_ms, completion.thoughts, tuple(results)))
            for result in results:
                yield result
            status = self._verdict(results)

    def _asked(self, final: bool) -> Asked:
        choice = "none" if final else self._offer.later if self._rounds else self._offer.first
        asked = Asked(
            self._name, paired(self.messages), self._tools, choice, self._wish.parallel_tool_calls, self._wish.options
        )
        return spoken(asked, self._wish.mode, self._offer.versions)

    async def _run(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Every call gets its answer in the conversation, in order, whatever becomes of this turn."""
        wish, known = self._wish, {v.function.name for v in self._offer.versions}
        results = {n: self._refused(call, known) for n, call in enumerate(calls)}
        allowed = calls[:1] if wish.parallel_tool_calls is False else calls
        run = [n for n, call in enumerate(allowed) if call.name in known]
        try:
            asked = [calls[n] for n in run]
            found = await self._calls.run_tools(asked, wish.bound, session=wish.session, timeout=wish.timeout)
            results |= dict(zip(run, found, strict=True))
        finally:
            every = list(results.values())
            self.messages += [answer(result.call, result.content) for result in every]
        return every

    def _refused(self, call: ToolCall, known: Collection[str]) -> ToolResult:
        """What is said of a call that is not run."""
        if call.name in known:
            told = {"error": "not_run", "detail": "This call was not run."}
            if self._wish.parallel_tool_calls is False:
                told["hint"] = "Ask for one call at a time."
        else:
            near = get_close_matches(call.name, known, n=1)
            detail = f"There is no tool {call.name[:80]!r}.{f' Did you mean {near[0]!r}?' if near else ''}"
            told = {
                "error": "unknown_function",
                "detail": detail,
                "hint": f"The tools are: {', '.join(sorted(known))}.",
            }
        return ToolResult(call, json.dumps(told, ensure_ascii=False), told["error"], 0.0)

    def _verdict(self, results: Sequence[ToolResult]) -> Status:
        """Whether to go on (`done` so far), or why the next answer is the last."""
        failed = [(r.call.name, r.call.arguments, r.status) for r in results if r.status != "ok"]
        self._failures.update(failed)
        if any(self._failures[each] >= MAX_REPEATS for each in failed):
            return "stuck"
        return "limit" if len(self._rounds) >= self._max_rounds else "done"

    def _turn(self, status: Status, text: str, calls: tuple[ToolCall, ...] = ()) -> Turn:
        offered = tuple(v.function.name for v in self._offer.versions)
        return Turn(status, text, tuple(self.messages), self.added, self._name, offered, tuple(self._rounds), calls)
