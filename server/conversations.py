"""Conversations as providers take them: each tool call has exactly one answer, directly after the message that asks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from server.completions import ToolCall, as_tool_call, mended

Message = Mapping[str, Any]


def problem(code: str, detail: str, hint: str = "", **more: Any) -> str:
    """What a model reads of a call that gave no result."""
    told = {"error": code, "detail": detail, **({"hint": hint} if hint else {}), **more}
    return json.dumps(told, ensure_ascii=False)


# Where a call was never answered: the turn was cut off, or somebody took the answer out.
UNANSWERED = problem("no_result", "This call was not run, or its result was lost.")


def paired(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The same conversation, fit to be sent: every call answered once and in order, ids of one message all different.

    Ids count within one message and the answers that follow it; providers use them again in the next. An answer that
    nobody asked for is left out, a missing one is put in.
    """
    found: list[dict[str, Any]] = []
    left = list(messages)
    while left:
        message = dict(left.pop(0))
        if message.get("role") == "tool":
            continue
        calls = calls_of(message)
        if not calls:
            message.pop("tool_calls", None)
        found.append(message)
        if calls:
            answers = []
            while left and left[0].get("role") == "tool":
                answers.append(dict(left.pop(0)))
            found[-1:] = _answered(message, calls, answers)
    return found


def modern(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages of before there were tools as they are now: a `function_call` is a tool call, `function` its answer."""
    found: list[dict[str, Any]] = []
    last = ""
    for number, message in enumerate(messages):
        asked = message.get("function_call") if message.get("role") == "assistant" else None
        if message.get("role") == "function":
            found.append({"role": "tool", "tool_call_id": last, "content": message.get("content")})
        elif isinstance(asked, Mapping) and not message.get("tool_calls"):
            last = f"call_{number}"
            rest = {name: value for name, value in message.items() if name != "function_call"}
            found.append({**rest, "tool_calls": [as_tool_call(_call({"id": last, "function": asked}))]})
        else:
            found.append(dict(message))
    return found


def calls_of(message: Message) -> list[ToolCall]:
    """The tool calls of an assistant's message, as it has them."""
    asked = message.get("tool_calls") if message.get("role") == "assistant" else None
    return [_call(part) for part in asked if isinstance(part, Mapping)] if isinstance(asked, list) else []


def name_of(tool: Mapping[str, Any]) -> str:
    """The name in a tool's definition, or in what refers to one."""
    function = tool.get("function")
    return str((function if isinstance(function, Mapping) else tool).get("name") or "")


def answer(call: ToolCall, content: str) -> dict[str, Any]:
    """The message that answers a call."""
    return {"role": "tool", "tool_call_id": call.id, "content": content}


def _call(part: Mapping[str, Any]) -> ToolCall:
    function = part.get("function")
    function = function if isinstance(function, Mapping) else {}
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else "{}" if arguments is None else json.dumps(arguments)
    return ToolCall(str(part.get("id") or ""), str(function.get("name") or ""), text)


def _answered(message: Message, calls: Sequence[ToolCall], answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    fit = mended(calls)
    told = [
        given if given is not None else {"role": "tool", "content": UNANSWERED} for given in _matched(calls, answers)
    ]
    asking = {**message, "tool_calls": [as_tool_call(call) for call in fit]}
    return [asking, *({**given, "tool_call_id": call.id} for call, given in zip(fit, told, strict=True))]


def _matched(calls: Sequence[ToolCall], answers: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """The answer to each call: the first of its id; where there is none, the first whose id is nobody's."""
    left, ids = list(answers), {call.id for call in calls}
    found: list[dict[str, Any] | None] = []
    for call in calls:
        own = next((a for a in left if str(a.get("tool_call_id") or "") == call.id), None)
        if own is not None:
            left.remove(own)
        found.append(own)
    strays = [a for a in left if str(a.get("tool_call_id") or "") not in ids]
    return [own if own is not None else strays.pop(0) if strays else None for own in found]
