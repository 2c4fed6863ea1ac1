"""How a model is shown its tools: the same for training, evaluation and the service's prompt mode.

A tokenizer whose chat template tells of tools and calls is used as its makers meant it. All others get the plain form
of the service's own prompt mode: sections `### Tool:` in the system message, and calls as JSON in the answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from finetune.scripts.items import CALL_ID, Message, Tool
from server.dialects import demanded, in_text, with_system
from server.tools import section

# Where a tokenizer has no chat template at all: the model learns this one.
PLAIN_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '### ' + message['role'].capitalize() + ':\\n' + message['content'] + eos_token + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '### Assistant:\\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class Prompts:
    """Conversations about some tools, as one tokenizer's model reads them. Made by `of`.

    native: its own chat template shows tools, calls and results. ChatGLM's, for one, shows tools and leaves calls out.
    demand: what the plain form says of the tools.
    """

    tokenizer: Any
    tools: Sequence[Mapping[str, Any]]
    native: bool
    demand: str

    @classmethod
    def of(cls, tokenizer: Any, tools: Mapping[str, Tool]) -> Prompts:
        """For a tokenizer, which gets a chat template if it has none, and something to pad with."""
        if not tokenizer.chat_template:
            tokenizer.chat_template = PLAIN_TEMPLATE
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        shown = [{"type": "function", "function": dict(tool)} for tool in tools.values()]
        text = "\n\n".join(section(tool["name"], tool["description"], tool["parameters"]) for tool in tools.values())
        return cls(tokenizer, shown, _shows_calls(tokenizer), demanded(text))

    def prompt(self, messages: Sequence[Message], *, ask: bool = True) -> str:
        """A conversation as text. ask: with the beginning of the answer that is wanted."""
        if self.native:
            return _applied(self.tokenizer, _with_objects(messages), ask, tools=self.tools)
        return _applied(self.tokenizer, with_system(self.demand, in_text(messages)), ask)

    def taught(self, before: Sequence[Message], answer: Message) -> tuple[str, str]:
        """A prompt, and what the model is to go on with, its end included.

        Raises ValueError where the chat template changes what came before when something follows.
        """
        asked, whole = self.prompt(before), self.prompt([*before, answer], ask=False)
        if not whole.startswith(asked):
            raise ValueError(
                "The chat template rewrites a conversation when it goes on, so an answer cannot be told apart."
            )
        said = whole[len(asked) :]
        # Where the template ends an answer by what comes next, the model would never learn to stop.
        ends = any(token in said for token in self.tokenizer.all_special_tokens)
        return asked, said if ends else said + self.tokenizer.eos_token


def _shows_calls(tokenizer: Any) -> bool:
    """Whether a template tells of tools, of a call, its argument and its result. It may refuse, in words of its own."""
    tool = {"name": "lookup", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}
    function = {"name": "lookup", "arguments": {"key": "argument"}}
    messages: list[Message] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": CALL_ID, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": CALL_ID, "content": "result"},
    ]
    try:
        text = _applied(tokenizer, messages, True, tools=[{"type": "function", "function": tool}])
    except (TemplateError, TypeError, ValueError):
        return False
    return all(word in text for word in ("lookup", "argument", "result"))


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
