"""How a model is shown its tools, and how its answer is read: the same for training, evaluation and the service.

A tokenizer whose chat template takes tools is used as its makers meant it. All others get the plain form of the
service's own prompt mode: sections `### Tool:` in the system message, and calls as JSON in the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.scripts.items import Call, Message, Tool
from server.dialects import calls_in, demanded, in_text, with_system
from server.tools import section

# Where a tokenizer has no chat template at all: the model learns this one.
PLAIN_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '### ' + message['role'].capitalize() + ':\\n' + message['content'] + eos_token + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '### Assistant:\\n' }}{%- endif %}"
)
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)
_MISTRAL = "[TOOL_CALLS]"
_ENDS = re.compile(r"<\|[a-z_]+\|>|</?s>")


@dataclass(frozen=True)
class Answer:
    """What a model said. valid: that it is words, or calls that are JSON with a name and an object of parameters."""

    calls: tuple[Call, ...]
    words: str
    valid: bool = True


def takes_tools(tokenizer: Any) -> bool:
    """Whether a tokenizer's own chat template shows tools."""
    template = tokenizer.chat_template
    texts = template.values() if isinstance(template, dict) else [template or ""]
    return any(re.search(r"\btools\b", text) for text in texts)


def prepared(tokenizer: Any) -> Any:
    """The tokenizer, with a chat template in any case, and something to pad with."""
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def prompt(tokenizer: Any, messages: Sequence[Message], tools: Mapping[str, Tool], *, ask: bool = True) -> str:
    """A conversation as the text that the model reads. ask: with the beginning of the answer that is wanted."""
    if takes_tools(tokenizer):
        shown = [{"type": "function", "function": dict(tool)} for tool in tools.values()]
        return _applied(tokenizer, _with_objects(messages), ask, tools=shown)
    text = "\n\n".join(section(tool["name"], tool["description"], tool["parameters"]) for tool in tools.values())
    return _applied(tokenizer, with_system(demanded(text), in_text(messages)), ask)


def taught(tokenizer: Any, before: Sequence[Message], answer: Message, tools: Mapping[str, Tool]) -> tuple[str, str]:
    """A prompt, and what the model is to go on with, its end included.

    Raises ValueError where the chat template changes what came before when something follows.
    """
    asked, whole = prompt(tokenizer, before, tools), prompt(tokenizer, [*before, answer], tools, ask=False)
    if not whole.startswith(asked):
        raise ValueError(
            "The chat template rewrites a conversation when it goes on, so an answer cannot be told apart."
        )
    return asked, whole[len(asked) :]


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


def _applied(tokenizer: Any, messages: Sequence[Mapping[str, Any]], ask: bool, **more: Any) -> str:
    text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask, **more)
    return text


def _with_objects(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Arguments as objects, which is what chat templates expect."""
    found = [dict(message) for message in messages]
    for message in found:
        if calls := message.get("tool_calls"):
            message["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
                for call in calls
            ]
    return found
