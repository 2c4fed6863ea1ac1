"""A model's answer, put together from what its provider streams: some send what no specification has.

What arrives is untrusted JSON in the shape of `chat.completion.chunk`. Nothing here raises for its content.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's request, as it came: arguments are JSON text, or what a model takes for it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer's text. thought: of what the model thinks aloud, not of the answer."""

    text: str
    thought: bool = False


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of a call's arguments. position counts the calls of one answer; id and name are as far as they are known."""

    position: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens."""

    prompt: int = 0
    completion: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.completion + other.completion)


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer. finish is what the provider says of its end: to be trusted for `length` and `content_filter`."""

    text: str = ""
    thoughts: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish: str | None = None
    usage: Usage = Usage()

    @property
    def message(self) -> dict[str, Any]:
        """As a message of the conversation."""
        if not self.calls:
            return {"role": "assistant", "content": self.text}
        return {"role": "assistant", "content": self.text or None, "tool_calls": [as_tool_call(c) for c in self.calls]}


def as_tool_call(call: ToolCall) -> dict[str, Any]:
    """A call as a message holds it."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


Delta = TextDelta | CallDelta


@dataclass(slots=True, eq=False)
class _Slot:
    """A call whose parts are still coming. index is the provider's, if it gave one."""

    index: int | None
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Accumulator:
    """Takes one chunk after the other, and then is a `Completion`."""

    _text: list[str] = field(default_factory=list)
    _thoughts: list[str] = field(default_factory=list)
    _slots: list[_Slot] = field(default_factory=list)
    _finish: str | None = None
    _usage: Usage = Usage()
    _halves: dict[str, str] = field(default_factory=dict)
    begun: bool = False

    def add(self, chunk: Any) -> Iterator[Delta]:
        """What is new in a chunk. To be read to its end."""
        chunk = _mapping(chunk)
        self._usage = _usage(chunk.get("usage")) or self._usage
        for choice in map(_mapping, _sequence(chunk.get("choices"))[:1]):
            self.begun = True
            self._finish = _text(choice.get("finish_reason")) or self._finish
            # Some send a whole message at the end, or instead.
            yield from self._take(_mapping(choice.get("delta") or choice.get("message")))

    def completion(self) -> Completion:
        """All of it. Calls have ids, each its own."""
        calls = [ToolCall(slot.id, slot.name, slot.arguments) for slot in self._slots if slot.name or slot.id]
        return Completion("".join(self._text), "".join(self._thoughts), mended(calls), self._finish, self._usage)

    def _take(self, delta: Mapping[str, Any]) -> Iterator[Delta]:
        for name in ("reasoning_content", "reasoning", "thoughts"):
            if thought := self._whole("thought", _text(delta.get(name))):
                self._thoughts.append(thought)
                yield TextDelta(thought, thought=True)
                break
        if text := self._whole("text", _text(delta.get("content")) or _text(delta.get("refusal"))):
            self._text.append(text)
            yield TextDelta(text)
        for part in _sequence(delta.get("tool_calls")):
            yield self._call(_mapping(part))
        if legacy := _mapping(delta.get("function_call")):
            if not self._thoughts and (thought := _text(legacy.get("thoughts"))):  # ERNIE has them here
                self._thoughts.append(thought)
                yield TextDelta(thought, thought=True)
            yield self._call({"index": 0, "function": legacy})

    def _call(self, part: Mapping[str, Any]) -> CallDelta:
        function = _mapping(part.get("function"))
        arguments = function.get("arguments")
        more = _text(arguments) if arguments is None or isinstance(arguments, str) else json.dumps(arguments)
        index = part.get("index") if isinstance(part.get("index"), int) else None
        slot = self._slot(index, _text(part.get("id")), _text(function.get("name")), more)
        position = self._slots.index(slot)
        more = self._whole(f"call {position}", more)
        slot.arguments += more
        return CallDelta(position, slot.id, slot.name, more)

    def _whole(self, kind: str, more: str) -> str:
        """Text that can be written: half a character at its end waits for the other half, which the next piece has."""
        text = self._halves.pop(kind, "") + more
        if "\ud800" <= text[-1:] <= "\udbff":
            self._halves[kind], text = text[-1], text[:-1]
        return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _slot(self, index: int | None, identity: str, name: str, more: str) -> _Slot:
        """The call that a part belongs to: of its index, else the last one, unless the part begins another."""
        known = [slot for slot in self._slots if index is None or slot.index == index]
        slot = known[-1] if known else None
        if slot is None or _begins(slot, index, identity, name, more):
            slot = _Slot(index)
            self._slots.append(slot)
        slot.id = slot.id or identity
        slot.name = slot.name or name
        return slot


def _begins(last: _Slot, index: int | None, identity: str, name: str, more: str) -> bool:
    """Whether a part begins another call. Some services give all calls one index, or one id, or neither."""
    if identity and last.id and identity != last.id:
        return bool(name) or index is None
    return index is None and bool(name and more) and _is_json(last.arguments)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def mended(calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
    """The same calls, each with an id of its own: an empty one, or one that came before, is replaced."""
    seen: set[str] = set()
    found = []
    for call in calls:
        identity = call.id if call.id and call.id not in seen else f"call_{uuid4().hex[:16]}"
        seen.add(identity)
        found.append(ToolCall(identity, call.name, call.arguments))
    return tuple(found)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _usage(value: Any) -> Usage | None:
    counts = [_mapping(value).get(name) for name in ("prompt_tokens", "completion_tokens")]
    if not any(isinstance(count, int) for count in counts):
        return None
    return Usage(*(count if isinstance(count, int) and count > 0 else 0 for count in counts))
