"""Which tools a turn of chat has, and what the model is told of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from server.catalog import Catalog
from server.conversations import Message, name_of
from server.errors import InvalidRequest
from server.registry import Version

# Tools offered in a turn, unless more are named.
MAX_OFFERED = 20


class Offer(NamedTuple):
    """The functions of a turn, the tool_choice of the first round and of the others, and the caller's own tools."""

    versions: list[Version]
    first: str | Mapping[str, Any]
    later: str
    own: frozenset[str] = frozenset()


def choose(
    catalog: Catalog,
    messages: Sequence[Message],
    names: Collection[str],
    tags: Collection[str],
    choice: str | Mapping[str, Any],
    own: Collection[str] = (),
) -> Offer:
    """What a turn is offered. own are names of the caller's tools, which hide functions of the same name.

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
    if not names:
        versions = _fitting(catalog, versions, tags, question(messages), forced)
    return Offer(versions, choice, "none" if choice == "none" else "auto", frozenset(own))


def _fitting(
    catalog: Catalog, versions: list[Version], tags: Collection[str], asked: str, forced: str | None
) -> list[Version]:
    """No more than can be offered: a forced one, those that a search finds, then any."""
    if len(versions) <= MAX_OFFERED:
        return versions
    found = [v for v in catalog.find(asked, tags) if v in versions]
    ranked = [*(v for v in versions if v.function.name == forced), *found, *versions]
    kept = list(dict.fromkeys(v.function.name for v in ranked))[:MAX_OFFERED]
    return [v for v in versions if v.function.name in kept]


def question(messages: Sequence[Message]) -> str:
    """What was asked last, in words."""
    last = next((m for m in reversed(messages) if m.get("role") == "user"), {})
    content = last.get("content")
    if isinstance(content, list):
        content = " ".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping))
    return str(content or "")[:1000]


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
