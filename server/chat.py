"""The tool loop: a model is asked, what it calls is run, the results go back to it, until it answers in words."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from server.calls import Calls, ToolResult
from server.catalog import Catalog
from server.completions import Completion, Delta, ToolCall, Usage
from server.conversations import Message, answer, paired
from server.errors import AigbbError, InvalidRequest, ModelNotConfigured
from server.llm import Asked, Model
from server.registry import Version
from server.tools import render

# Tools offered in a turn, unless more are named.
MAX_OFFERED = 20
# The same call with the same failure: after so many, more of it leads nowhere.
MAX_REPEATS = 3
# What providers say of an answer that broke off. Calls in it may be incomplete, and are not run.
_CUT_OFF = {"length": "length", "content_filter": "filtered"}

Status = Literal["done", "limit", "stuck", "length", "filtered"]


@dataclass(frozen=True)
class Wish:
    """What a caller wants of a turn. Empty names and tags mean any; a tool_choice that forces holds for one round."""

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


@dataclass(frozen=True, slots=True)
class Ready:
    """A call that is complete and is about to be run."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class Round:
    """One request to the model and what came of it. Times are in milliseconds."""

    usage: Usage
    model_ms: float
    results: tuple[ToolResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """All of it. messages are those that came in and those that were added, ready to be sent in again."""

    status: Status
    text: str
    messages: tuple[Message, ...]
    added: int
    model: str
    offered: tuple[str, ...]
    rounds: tuple[Round, ...]

    @property
    def usage(self) -> Usage:
        """Of all rounds."""
        return sum((each.usage for each in self.rounds), Usage())


Event = Delta | Ready | ToolResult | Turn


class _Choice(NamedTuple):
    """The tools of a turn, and what the first round and the others are told of them."""

    versions: list[Version]
    first: str | Mapping[str, Any]
    later: str


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
        loop = _Loop(self._model, self._calls, wish, name, choose(self._catalog(), wish), self._max_rounds)
        try:
            async with aclosing(loop.run()) as events:
                async for event in events:
                    yield event
        except AigbbError as error:
            if loop.added:
                error.extra["messages"] = list(loop.messages)
            raise


def choose(catalog: Catalog, wish: Wish) -> _Choice:
    """The tools of a turn. Where there are too many, those that a search for the last question finds come first."""
    versions = catalog.choose(wish.tags, wish.names)
    choice = wish.tool_choice
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        names, mode = _allowed(choice)
        versions = [v for v in catalog.choose((), names) if v in versions]
        return _Choice(versions, mode, "auto")
    forced = _forced(choice)
    if forced is not None and forced not in {v.function.name for v in versions}:
        catalog.choose((), [forced])  # says what it may have meant
        raise InvalidRequest(f"{forced} is forced by tool_choice, but it is not among the tools of this turn.")
    if len(versions) > MAX_OFFERED and not wish.names:
        found = [v for v in catalog.find(_question(wish.messages), wish.tags) if v in versions]
        ranked = [*found, *(v for v in versions if v not in found)]
        kept = sorted(ranked, key=lambda v: v.function.name != forced)[:MAX_OFFERED]
        versions = [v for v in versions if v in kept]
    return _Choice(versions, choice, "none" if choice == "none" else "auto")


def _allowed(choice: Mapping[str, Any]) -> tuple[list[str], str]:
    inner = choice.get("allowed_tools")
    inner = inner if isinstance(inner, Mapping) else choice
    names = [str((t.get("function") or t).get("name", "")) for t in inner.get("tools") or () if isinstance(t, Mapping)]
    if not names or inner.get("mode", "auto") not in ("auto", "required"):
        raise InvalidRequest("tool_choice: allowed_tools needs a mode, auto or required, and a list of tools.")
    return names, str(inner.get("mode", "auto"))


def _forced(choice: str | Mapping[str, Any]) -> str | None:
    """The one function that a choice forces."""
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise InvalidRequest(f"tool_choice: {choice[:80]!r} is not auto, none or required, nor an object.")
        return None
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
    if not isinstance(name, str):
        raise InvalidRequest("tool_choice: the object names no function.")
    return name


def _question(messages: Sequence[Message]) -> str:
    """What was asked last, in words."""
    last = next((m for m in reversed(messages) if m.get("role") == "user"), {})
    content = last.get("content")
    if isinstance(content, list):
        content = " ".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping))
    return str(content or "")[:1000]


class _Loop:
    """One turn while it runs."""

    def __init__(self, model: Model, calls: Calls, wish: Wish, name: str, choice: _Choice, max_rounds: int) -> None:
        self._model = model
        self._calls = calls
        self._wish = wish
        self._name = name
        self._choice = choice
        self._max_rounds = min(wish.max_rounds or max_rounds, max_rounds)
        rendered = render(choice.versions, "openai", strict=wish.strict)
        self._tools = rendered if isinstance(rendered, list) else []
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
                        completion = item
                    else:
                        yield item
            model_ms = round((time.perf_counter() - start) * 1000, 1)
            cut: Any = _CUT_OFF.get(completion.finish or "")
            if final or cut or not completion.calls:
                self._rounds.append(Round(completion.usage, model_ms))
                self.messages.append({"role": "assistant", "content": completion.text})
                yield self._turn(cut or status, completion.text)
                return
            self.messages.append(completion.message)
            for call in completion.calls:
                yield Ready(call)
            results = await self._run(completion.calls)
            self._rounds.append(Round(completion.usage, model_ms, tuple(results)))
            for result in results:
                yield result
            status = self._verdict(results)

    def _asked(self, final: bool) -> Asked:
        choice = "none" if final else self._choice.later if self._rounds else self._choice.first
        return Asked(
            self._name, paired(self.messages), self._tools, choice, self._wish.parallel_tool_calls, self._wish.options
        )

    async def _run(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Every call gets its answer in the conversation, in order, whatever becomes of this turn."""
        wish, known = self._wish, {v.function.name for v in self._choice.versions}
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
            told = {"error": "not_run", "detail": "This call was not run. Ask for one call at a time."}
        else:
            detail = f"There is no tool {call.name[:80]!r}."
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

    def _turn(self, status: Status, text: str) -> Turn:
        offered = tuple(v.function.name for v in self._choice.versions)
        return Turn(status, text, tuple(self.messages), self.added, self._name, offered, tuple(self._rounds))
