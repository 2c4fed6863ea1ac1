"""What a model's text means: calls, in whichever of the known forms, or words."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.scripts.items import Call
from server.dialects import calls_in

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)
_MISTRAL = "[TOOL_CALLS]"
_ENDS = re.compile(r"<\|[a-z_]+\|>|</?s>")


@dataclass(frozen=True)
class Answer:
    """What a model said. valid: that it is words, or calls that are JSON with a name and an object of parameters."""

    calls: tuple[Call, ...]
    words: str
    valid: bool = True


def read(text: str) -> Answer:
    """What a model's text means, whichever of the known forms it has: Qwen's, Mistral's, or JSON by itself."""
    text = _ENDS.sub("", text).strip()
    if "<tool_call>" in text:
        return _read_each(_CALL.findall(text), text.partition("<tool_call>")[0])
    if _MISTRAL in text:
        before, _, calls = text.partition(_MISTRAL)
        return _read_each([calls], before)
    found = calls_in(text)
    if found is None:
        return Answer((), text, valid=not text.startswith(("{", "[")))
    return _read_each([text], found[0])


def _read_each(texts: Sequence[str], words: str) -> Answer:
    calls: list[Call] = []
    for text in texts:
        found = calls_in(text)
        parsed = [_call(call.name, call.arguments) for call in found[1]] if found else []
        if not parsed or not all(parsed):
            return Answer(tuple(calls), words.strip(), valid=False)
        calls += [call for call in parsed if call]
    return Answer(tuple(calls), words.strip())


def _call(name: str, arguments: str) -> Call | None:
    try:
        parameters = json.loads(arguments)
    except ValueError:
        return None
    return Call(name, parameters) if isinstance(parameters, dict) else None
