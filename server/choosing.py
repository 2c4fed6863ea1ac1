"""Which tools a turn of chat has, and what the model is told of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from server.catalog import Catalog
from server.conversations import Message, calls_of, name_of
from server.errors import InvalidRequest
from server.registry import Version
from server.tools import not_strict

# Tools offered in a turn, unless more are named.
MAX_OFFERED = 20
MAX_QUERY = 1000
# What of a conversation counts for that: so many questions, and functions that were called last.
MAX_QUESTIONS, MAX_CALLED = 3, 10


# With this tool a model looks for functions itself.
SEARCH: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "search_functions",
        "description": "Find tools by what they do. Those that are found can be called from then on.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "A few words: what the tool is to do"}},
            "required": ["query"],
        },
    },
}
MAX_FOUND = 5


@dataclass(frozen=True)
class Offer:
    """The functions of a turn, the tool_choice of the first round and of the others, and the caller's own tools.

    searching: whether the model may look for more, of which it has found these so far. allowed: functions of this turn
    that are not offered because there are too many; a model that knows of one, from an earlier turn, may call it.
    """

    versions: list[Version]
    first: str | Mapping[str, Any]
    later: str
    own: frozenset[str] = frozenset()
    searching: bool = False
    found: tuple[str, ...] = ()
    allowed: tuple[Version, ...] = ()

    @property
    def callable(self) -> dict[str, Version]:
        """What may be called, by name."""
        return {version.function.name: version for version in (*self.allowed, *self.versions)}

    def with_names(self, catalog: Catalog, names: Collection[str]) -> Offer:
        """The same with these functions too; of what was found before, the oldest give way."""
        found = tuple(dict.fromkeys([*names, *self.found]))[:MAX_OFFERED]
        fixed = [v for v in self.versions if v.function.name not in self.found]
        there = {*self.own, *(v.function.name for v in fixed)}
        more = [v for v in catalog.versions if v.function.name in found and v.function.name not in there]
        return replace(self, versions=[*fixed, *more], found=found)


def found_by(catalog: Catalog, arguments: str, tags: Collection[str]) -> list[Version]:
    """What a model's search finds, best first; nothing for arguments that are none."""
    try:
        given = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return []
    query = given.get("query") if isinstance(given, dict) else None
    return catalog.find(query[:MAX_QUERY], tags)[:MAX_FOUND] if isinstance(query, str) else []


def choose(
    catalog: Catalog,
    messages: Sequence[Message],
    names: Collection[str],
    tags: Collection[str],
    choice: str | Mapping[str, Any],
    own: Collection[str] = (),
    *,
    search: bool = False,
) -> Offer:
    """What a turn is offered. own are names of the caller's tools, which hide functions of the same name.

    search: where there are too many functions, the model looks for them itself.

    Raises FunctionNotFound, InvalidRequest.
    """
    versions = [v for v in catalog.choose(tags, names) if v.function.name not in own]
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        allowed, mode = _allowed(choice)
        catalog.choose((), [name for name in allowed if name not in own])  # says which do not exist
        kept = [v for v in versions if v.function.name in allowed]
        return Offer(kept, mode, "auto", frozenset(own) & frozenset(allowed))
    forced = _forced(choice)
    if forced is not None and forced not in {*own, *(v.function.name for v in versions)}:
        catalog.choose((), [forced])  # says what it may have meant
        raise InvalidRequest(f"{forced} is forced by tool_choice, but it is not among the tools of this turn.")
    later = "none" if choice == "none" else "auto"
    if names or len(versions) <= MAX_OFFERED:
        return Offer(versions, choice, later, frozenset(own))
    if search:
        kept = [v for v in versions if v.function.name == forced]
        searching = name_of(SEARCH) not in own
        return Offer(kept, choice, later, frozenset(own), searching, allowed=tuple(versions))
    kept = _fitting(catalog, versions, tags, messages, forced)
    return Offer(kept, choice, later, frozenset(own), allowed=tuple(versions))


def check_strict(versions: Iterable[Version]) -> None:
    """Raises InvalidRequest for a function that has no strict form."""
    for version in versions:
        if reason := not_strict(version.function):
            name = version.function.name
            hint = 'Send "strict": "auto" for the strict form of those that have one, or leave the function out.'
            raise InvalidRequest(f"{name} has no strict form: {reason}", hint=hint, function=name)


def _fitting(
    catalog: Catalog, versions: list[Version], tags: Collection[str], messages: Sequence[Message], forced: str | None
) -> list[Version]:
    """No more than can be offered: a forced one, those of the conversation, those that a search finds, then any."""
    known = {v.function.name: v for v in versions}
    called = [call.name for message in reversed(messages) for call in calls_of(message)]
    found = [v.function.name for asked in questions(messages) for v in catalog.find(asked, tags)]
    ranked = dict.fromkeys([*([forced] if forced else []), *called[:MAX_CALLED], *found, *known])
    kept = [name for name in ranked if name in known][:MAX_OFFERED]
    return [v for v in versions if v.function.name in kept]


def questions(messages: Sequence[Message]) -> list[str]:
    """What was asked of late, in words, the last first."""
    asked = [_words(message.get("content")) for message in reversed(messages) if message.get("role") == "user"]
    return [text for text in asked if text][:MAX_QUESTIONS]


def _words(content: Any) -> str:
    if isinstance(content, list):
        content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content or "")[:MAX_QUERY]


def _allowed(choice: Mapping[str, Any]) -> tuple[list[str], str]:
    inner = choice.get("allowed_tools")
    inner = inner if isinstance(inner, Mapping) else choice
    tools, mode = inner.get("tools"), inner.get("mode", "auto")
    names = [name_of(tool) for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, list) else []
    if not names or mode not in ("auto", "required"):
        raise InvalidRequest("tool_choice: allowed_tools needs a mode, auto or required, and a list of tools.")
    return names, str(mode)


def _forced(choice: str | Mapping[str, Any]) -> str | None:
    """The one function that a choice forces."""
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise InvalidRequest(f"tool_choice: {choice[:80]!r} is not auto, none or required, nor an object.")
        return None
    if not (name := name_of(choice)):
        raise InvalidRequest("tool_choice: the object names no function.")
    return name
