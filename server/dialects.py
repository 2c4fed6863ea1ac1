"""How a model is spoken to: with tool calls, with the older functions, or with nothing but text.

A conversation is kept with tool calls whatever the mode: it is translated when it is sent, and the answer back.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from server.completions import Completion, ToolCall, mended
from server.conversations import Message, calls_of, name_of
from server.llm import Asked
from server.models import Mode
from server.registry import Version
from server.tools import render

_HOW = """\
You can use the tools below. To use one, answer with nothing but one JSON object:
{"name": "the tool's name", "arguments": {"a parameter": "its value"}}
or with a list of such objects to use several. You then get the results, and can use tools again. When you know enough,
answer in words, without JSON.

# Tools

"""
# How much of a text is searched for calls, and from how many brackets on. So many missing brackets are put in.
MAX_TEXT, MAX_TRIES, MAX_MISSING = 100_000, 20, 5


def spoken(asked: Asked, mode: Mode, versions: Sequence[Version]) -> Asked:
    """The same request, as a model of this mode takes it."""
    if mode == "native":
        return asked
    if mode == "legacy":
        functions = render(versions, "legacy-functions", strict=False)
        told = functions if isinstance(functions, list) and asked.tools else []
        return replace(
            asked, messages=_legacy(asked.messages), tools=(), functions=told, tool_choice=_legacy_choice(asked)
        )
    messages = in_text(asked.messages)
    if asked.tools:
        tools = render(versions, "prompt", strict=False)
        messages = with_system(demanded(str(tools), asked.tool_choice), messages)
    return replace(asked, messages=messages, tools=(), tool_choice=None)


def understood(completion: Completion, mode: Mode) -> Completion:
    """What a model of this mode has answered: calls in its text are calls."""
    if mode != "prompt" or completion.calls:
        return completion
    found = calls_in(completion.text)
    if found is None:
        return completion
    before, calls = found
    return replace(completion, text=before, calls=calls)


# -- functions


def _legacy(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Each call and its result one after the other: a message of that form holds one call."""
    found: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    waiting: list[dict[str, Any]] = []
    for message in messages:
        calls = calls_of(message)
        if calls:
            rest = {name: value for name, value in message.items() if name != "tool_calls"}
            waiting = [{**rest, "function_call": {"name": c.name, "arguments": c.arguments}} for c in calls]
            names = {call.id: call.name for call in calls}
        elif message.get("role") == "tool":
            found += [*waiting[:1], {"role": "function", **_result(message, names)}]
            waiting = waiting[1:]
        else:
            found.append(dict(message))
    return found


def _result(message: Message, names: Mapping[str, str]) -> dict[str, Any]:
    return {"name": names.get(str(message.get("tool_call_id")), ""), "content": message.get("content")}


def _legacy_choice(asked: Asked) -> str | Mapping[str, Any]:
    """That some function must be called cannot be said in this form."""
    choice = asked.tool_choice
    if isinstance(choice, Mapping):
        return {"name": name_of(choice)}
    return "none" if choice == "none" else "auto"


# -- text


def in_text(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """A conversation without tool calls: they and their results are what the two said."""
    found: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for message in messages:
        calls = calls_of(message)
        if calls:
            names = {call.id: call.name for call in calls}
            asked = ", ".join(f'{{"name": {json.dumps(c.name)}, "arguments": {c.arguments or "{}"}}}' for c in calls)
            said = f"{message.get('content') or ''}\n{asked if len(calls) == 1 else f'[{asked}]'}".strip()
            found.append({"role": "assistant", "content": said})
        elif message.get("role") == "tool":
            told = f"Result of {names.get(str(message.get('tool_call_id')), '')}:\n{message.get('content')}"
            if found and found[-1].get("role") == "user" and str(found[-1]["content"]).startswith("Result of "):
                found[-1]["content"] += f"\n\n{told}"
            else:
                found.append({"role": "user", "content": told})
        else:
            found.append(dict(message))
    return found


def with_system(text: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation whose system message ends with a text."""
    if messages and messages[0].get("role") == "system" and isinstance(messages[0].get("content"), str):
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def demanded(tools: str, choice: str | Mapping[str, Any] | None = None) -> str:
    """The tools as text, and the JSON that is to be answered to use them."""
    return f"{_HOW}{tools}{_demand(choice)}"


def _demand(choice: str | Mapping[str, Any] | None) -> str:
    if isinstance(choice, Mapping):
        return f"\n\nUse the tool {name_of(choice)} now."
    told = {"required": "Use at least one tool now.", "none": "Use no tool any more: answer in words now."}
    return f"\n\n{told[choice]}" if choice in told else ""


def calls_in(text: str) -> tuple[str, tuple[ToolCall, ...]] | None:
    """The words before the first JSON that is a call or a list of calls, and those calls; None if there is none.

    Bounded repair: a fence around it, commas at ends, Python's spelling, brackets that are missing at the end.
    """
    text, end = text[:MAX_TEXT], 0
    for begin in islice(_BRACKET.finditer(text), MAX_TRIES):
        if begin.start() < end:
            continue
        value, length = _value(text[begin.start() :])
        end = begin.start() + length
        if calls := _as_calls(value):
            return _FENCE.sub("", text[: begin.start()]).strip(), mended(calls)
    return None


def _value(text: str) -> tuple[Any, int]:
    """What a text begins with, and how long that is; None and 0 for what cannot be read."""
    try:
        return _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        whole, length = _balanced(text)
    try:
        return json.loads(_COMMA.sub(r"\1", whole)), length
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(whole), length
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None, 0


def _balanced(text: str) -> tuple[str, int]:
    """A text up to where its first bracket is closed, or closed at its end if little is missing; how long that is."""
    missing: list[str] = []
    quoted = False
    for found in _SIGN.finditer(text):
        sign = found[0]
        if sign == '"':
            quoted = not quoted
        elif not quoted and sign in "{[":
            missing.append("}" if sign == "{" else "]")
        elif not quoted and sign in "}]":
            if missing.pop() != sign:
                return "", 0
            if not missing:
                return text[: found.end()], found.end()
    if len(missing) > MAX_MISSING:
        return "", 0
    return _FENCE_END.sub("", text) + '"' * quoted + "".join(reversed(missing)), len(text)


_DECODER = json.JSONDecoder()
_BRACKET = re.compile(r"[{\[]")
_SIGN = re.compile(r'\\.|["{}\[\]]', re.DOTALL)
_COMMA = re.compile(r",(\s*[}\]])")
_FENCE, _FENCE_END = re.compile(r"```\w*\s*$"), re.compile(r"\s*```\s*$")


def _as_calls(value: Any) -> list[ToolCall]:
    """The calls that a value is; none if any part of it is something else."""
    if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    parts = value if isinstance(value, list) else [value]
    calls = [_as_call(part) for part in parts]
    return [call for call in calls if call] if all(calls) else []


def _as_call(part: Any) -> ToolCall | None:
    if isinstance(part, dict) and isinstance(part.get("function"), dict):
        part = part["function"]
    if not isinstance(part, dict) or not isinstance(part.get("name"), str):
        return None
    given = {name for name in ("arguments", "parameters") if name in part}
    if len(given) != 1 or part.keys() - {"name", "id", "type", "thoughts", *given}:
        return None
    arguments = part[given.pop()]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, default=str)
    return ToolCall(str(part.get("id") or ""), part["name"], text)
