"""Training items: a question and what a model should make of it, as JSON and as a conversation.

An item is an object with `instruction` and one of

- `function_call`: {"name", "parameters"}, or null where no function fits and `answer` says what to say,
- `function_calls`: a list of such, for several at once,
- `question`: what to ask back, where something is missing,
- `answer`: plain words.

With calls, `results` (one JSON value a call) and `answer` may follow: the model is then taught both the calls and what
to say of their results. `history` holds earlier items of the same talk, `lang` its language.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from server.arguments import validate

Tool = Mapping[str, Any]
Message = dict[str, Any]
Kind = Literal["call", "calls", "silent", "clarify"]

# Mistral's chat templates want nine letters and digits.
CALL_ID = "call00000"
KEYS = {"instruction", "function_call", "function_calls", "question", "answer", "results", "history", "lang"}


class BadData(Exception):
    """Items that cannot be used; the text has a line for each, with its number and the reason."""


@dataclass(frozen=True)
class Call:
    """A function and its arguments."""

    name: str
    parameters: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """As in a file."""
        return {"name": self.name, "parameters": dict(self.parameters)}


@dataclass(frozen=True)
class Item:
    """One question. said: the words of the answer, or the question to ask back."""

    instruction: str
    calls: tuple[Call, ...] = ()
    said: str | None = None
    asks_back: bool = False
    results: tuple[Any, ...] = ()
    history: tuple[Item, ...] = ()
    lang: str = "en"

    @property
    def kind(self) -> Kind:
        """What is expected first."""
        if self.calls:
            return "call" if len(self.calls) == 1 else "calls"
        return "clarify" if self.asks_back else "silent"

    def as_json(self) -> dict[str, Any]:
        """As in a file."""
        calls = [call.as_json() for call in self.calls]
        expected: dict[str, Any] = {"function_calls": calls} if len(calls) > 1 else {}
        if not self.asks_back and len(calls) < 2:
            expected = {"function_call": calls[0] if calls else None}
        said = {"question" if self.asks_back else "answer": self.said} if self.said is not None else {}
        results = {"results": list(self.results)} if self.results else {}
        history = {"history": [item.as_json() for item in self.history]} if self.history else {}
        return {"instruction": self.instruction, **expected, **results, **said, **history, "lang": self.lang}

    def before(self) -> list[Message]:
        """The conversation up to the question, the question included."""
        earlier = [message for item in self.history for message in item.conversation()]
        return [*earlier, {"role": "user", "content": self.instruction}]

    def steps(self) -> Iterator[tuple[list[Message], Message]]:
        """What the model is taught: each answer, with all that comes before it."""
        messages = self.before()
        if self.calls:
            asked = _asking(self.calls)
            yield list(messages), asked
            messages += [asked, *_answers(self.results)]
        if self.said is not None:
            yield messages, {"role": "assistant", "content": self.said}

    def conversation(self) -> list[Message]:
        """The item's own part of a conversation, whole."""
        messages = [{"role": "user", "content": self.instruction}]
        if self.calls:
            messages += [_asking(self.calls), *_answers(self.results)]
        return [*messages, {"role": "assistant", "content": self.said}] if self.said is not None else messages


def _asking(calls: Sequence[Call]) -> Message:
    tool_calls = [
        {
            "id": _id(n),
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(dict(call.parameters), ensure_ascii=False)},
        }
        for n, call in enumerate(calls)
    ]
    return {"role": "assistant", "content": "", "tool_calls": tool_calls}


def _answers(results: Sequence[Any]) -> list[Message]:
    return [{"role": "tool", "tool_call_id": _id(n), "content": content_of(result)} for n, result in enumerate(results)]


def _id(n: int) -> str:
    return f"{CALL_ID[:4]}{n:05}"


def content_of(result: Any) -> str:
    """A result as a model reads it: text as it is, all else as JSON."""
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


# -- files


def read_tools(path: Path) -> dict[str, Tool]:
    """The functions of a file in OpenAI's form, by name. Raises BadData."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {tool["function"]["name"]: tool["function"] for tool in found}
    except OSError as error:
        raise BadData(f"{path} could not be read: {error.strerror}.") from error
    except (ValueError, LookupError, TypeError) as error:
        raise BadData(f"{path} is no list of tools in OpenAI's form: {error}.") from error


def read_items(path: Path, tools: Mapping[str, Tool]) -> list[Item]:
    """The items of a file. Raises BadData with every item that is wrong."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadData(f"{path} could not be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise BadData(f"{path} is no JSON: {error}.") from error
    if not isinstance(found, list):
        raise BadData(f"{path} is no list of items.")
    wrong = [f"item {n}: {reason}" for n, item in enumerate(found) for reason in problems(item, tools)]
    if wrong:
        more = f"\nand {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise BadData("\n".join(wrong[:20]) + more)
    return [parse(item) for item in found]


def write_items(path: Path, items: Iterable[Item]) -> None:
    """One item a line, so that a difference can be read."""
    lines = ",\n".join(json.dumps(item.as_json(), ensure_ascii=False) for item in items)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def parse(item: Mapping[str, Any]) -> Item:
    """An item that `problems` finds nothing wrong with."""
    calls = item.get("function_calls") or ([item["function_call"]] if item.get("function_call") else [])
    return Item(
        item["instruction"],
        tuple(Call(call["name"], call["parameters"]) for call in calls),
        item.get("question", item.get("answer")),
        "question" in item,
        tuple(item.get("results", ())),
        tuple(parse(each) for each in item.get("history", ())),
        item.get("lang", "en"),
    )


# -- what is wrong


def problems(item: Any, tools: Mapping[str, Tool]) -> Iterator[str]:
    """A sentence for each thing that is wrong with an item of a file."""
    if not isinstance(item, dict):
        yield "it is no object"
        return
    if unknown := sorted(item.keys() - KEYS):
        yield f"it has {unknown[0]!r}, which means nothing here; there are {', '.join(sorted(KEYS))}"
    if not isinstance(item.get("instruction"), str) or not item["instruction"].strip():
        yield "instruction is missing, or no text"
    for name in ("question", "answer", "lang"):
        if name in item and not isinstance(item[name], str):
            yield f"{name} is no text"
    yield from _wrong_calls(item, tools)
    history = item.get("history", [])
    for n, earlier in enumerate(history if isinstance(history, list) else [None]):
        yield from (f"history {n}: {reason}" for reason in problems(earlier, tools))


def _wrong_calls(item: Mapping[str, Any], tools: Mapping[str, Tool]) -> Iterator[str]:
    one, several = item.get("function_call"), item.get("function_calls")
    calls = several if several is not None else [one] if one is not None else []
    if one is not None and several is not None:
        yield "it has both function_call and function_calls"
        return
    if not isinstance(calls, list):
        yield "function_calls is no list"
        return
    if not calls and "answer" not in item and "question" not in item:
        yield "nothing is expected: give function_call, function_calls, question or answer"
    if calls and "question" in item:
        yield "it has calls and a question: one or the other"
    results = item.get("results", [])
    if not isinstance(results, list) or (results and len(results) != len(calls)):
        yield "results is not a list of one value for each call"
    if calls and "answer" in item and not results:
        yield "an answer after calls needs their results"
    for call in calls:
        yield from _wrong_call(call, tools)


def _wrong_call(call: Any, tools: Mapping[str, Tool]) -> Iterator[str]:
    if not isinstance(call, dict) or call.keys() != {"name", "parameters"}:
        yield 'a call is {"name": ..., "parameters": {...}}'
    elif call["name"] not in tools:
        yield f"unknown function {call['name']!r}; there are {', '.join(tools)}"
    elif not isinstance(call["parameters"], dict):
        yield f"{call['name']}: parameters is no object"
    else:
        schema = {"additionalProperties": False, **tools[call["name"]].get("parameters", {})}
        for error in validate(schema, call["parameters"]):
            where = error["parameter"] or "parameters"
            yield f"{call['name']}: {where}: {error['message']}"
