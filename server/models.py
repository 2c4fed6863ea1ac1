"""What models can do, by their names; and what they say when they are asked for more than they can."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

Mode = Literal["native", "legacy", "prompt"]
Feature = Literal["parallel_tool_calls", "stream_options", "strict", "stream", "tools", "functions"]


@dataclass(frozen=True)
class Abilities:
    """What a model takes; these are those of a model that nothing is known of.

    parallel: several calls in an answer, and the parameter about it. legacy: `functions`, of before there were tools.
    pictures: parts of a message that are an image_url.
    """

    tools: bool = True
    parallel: bool = True
    strict: bool = True
    streaming: bool = True
    legacy: bool = False
    pictures: bool = False


NAMES = tuple(each.name for each in fields(Abilities))

_NO_TOOLS = Abilities(tools=False, parallel=False, strict=False)
_ONE_CALL = Abilities(parallel=False, legacy=True)
_ALL = Abilities(legacy=True)

# By OpenAI's guide to function calling, as long as it listed models (tools, parallel calls), Azure's guide of that name
# (the same, and o1), OpenAI's guide to structured outputs (strict: whatever takes tools, from -0613 on), its pages of
# models (pictures), and what the o-series says to `parallel_tool_calls` (400, unsupported_parameter). ERNIE: Baidu's
# pages of the chat API. gpt-4-vision-preview takes tools at Azure, says its guide, but not at OpenAI.
# The first row that has a pattern of the name counts.
TABLE: tuple[tuple[tuple[str, ...], Abilities], ...] = (
    (("gpt-4o-mini*", "gpt-4o*"), replace(_ALL, pictures=True)),
    (("gpt-4.1*", "gpt-5*"), Abilities(pictures=True)),
    (("chatgpt-4o*", "gpt-4-*vision-preview"), replace(_NO_TOOLS, pictures=True)),
    (("gpt-4-turbo-preview", "gpt-4-1106-preview", "gpt-4-0125-preview"), _ALL),
    (("gpt-4-turbo*",), replace(_ALL, pictures=True)),
    (("gpt-3.5-turbo", "gpt-3.5-turbo-0125", "gpt-3.5-turbo-1106"), _ALL),
    (("gpt-4", "gpt-4-0613", "gpt-4-32k", "gpt-4-32k-0613"), _ONE_CALL),
    (("gpt-3.5-turbo-0613", "gpt-3.5-turbo-16k", "gpt-3.5-turbo-16k-0613"), _ONE_CALL),
    (("gpt-4-0314", "gpt-4-32k-0314", "gpt-3.5-turbo-0301", "gpt-3.5-turbo-instruct*"), _NO_TOOLS),
    (("o1-preview*", "o1-mini*"), _NO_TOOLS),
    (("o3-mini*",), Abilities(parallel=False)),
    (("o1*", "o3*", "o4-mini*"), Abilities(parallel=False, pictures=True)),
    (("ernie-*",), replace(_NO_TOOLS, legacy=True)),
)


def abilities_of(model: str, overrides: Mapping[str, Mapping[str, bool]]) -> Abilities:
    """What is known of a model. The first pattern of overrides that fits changes what it names of the table's."""
    bare = _bare(model)
    rows = (able for patterns, able in TABLE if any(fnmatchcase(bare, each) for each in patterns))
    known = next(rows, Abilities())
    names = (model.lower(), bare)
    mine = (able for pattern, able in overrides.items() if any(fnmatchcase(n, pattern.lower()) for n in names))
    return replace(known, **next(mine, {}))


def _bare(model: str) -> str:
    """Without its provider (openai/gpt-4o), a tuner's prefix (ft:gpt-4o:...), and as OpenAI writes it, not Azure."""
    name = model.lower().rpartition("/")[2].removeprefix("ft:")
    return re.sub(r"^gpt-35-", "gpt-3.5-", name)


def mode_for(able: Abilities) -> Mode:
    """The best way to let a model call functions."""
    return "native" if able.tools else "legacy" if able.legacy else "prompt"


# -- refusals

_ABILITY: dict[str, str] = {
    "parallel_tool_calls": "parallel",
    "strict": "strict",
    "stream": "streaming",
    "tools": "tools",
    "functions": "legacy",
}
_NOUN = r"(?<![\w.-])(?<!parallel )(?:tools|functions|(?:tool|function)[ _-](?:calls?|calling|use))(?![\w-]|\[|\.\w)"
_DENIED = r"(?:(?:not|\w+n't)(?: yet| fully| currently)?\W+(?:support|enabl|avail|permit|allow|implement)|unsupported)"
_ADVERSE = r"(?:unsupported|unrecogni[sz]ed|unknown|unexpected keyword)"
_TOOLS = (
    rf"(?:\bnot|n't|\bno|\bcannot)\W+(?:\w+\W+){{0,4}}?support\w*\W+(?:\w+\W+)?{_NOUN}",
    rf"{_NOUN}\W+(?:(?!with\b|in\b)\w+\W+){{0,3}}?{_DENIED}",
    rf"{_ADVERSE}\W+(?:(?:request|param\w*|arguments?|fields?|supplied)\W+){{0,3}}{_NOUN}",
    r"--enable-auto-tool-choice|--tool-call-parser|tools param requires --jinja",
)
_STREAM = (
    r"['\"`]stream['\"`]|\bstream ?= ?true|supplied: stream\b|verified to stream|\bwith stream(?:ing)?\b",
    r"(?:\bnot|n't|\bcannot)\W+(?:\w+\W+){0,2}?support\w*\W+(?:\w+\W+)?stream(?:ing)?\b",
    rf"\bstream(?:ing)?\W+(?:\w+\W+){{0,3}}?{_DENIED}",
)
# In this order: what names something smaller may name tools too.
_SIGNS: tuple[tuple[Feature, re.Pattern[str]], ...] = (
    ("parallel_tool_calls", re.compile(r"parallel[ _](?:tool|function)[ _]call", re.I)),
    ("stream_options", re.compile(r"stream_options|include_usage", re.I)),
    ("strict", re.compile(r"(?<![\w-])strict(?![\w-])", re.I)),
    ("stream", re.compile("|".join(_STREAM), re.I)),
    ("tools", re.compile("|".join(_TOOLS), re.I)),
    ("functions", re.compile("|".join(_TOOLS), re.I)),
)
# llama.cpp refuses tools with 500, DeepInfra with 405, OpenRouter and Azure with 404.
_REFUSING = (400, 404, 405, 422, 500, 501)
_MAX_SAID = 2000


def refused(status: int, body: Any, model: str, sent: Collection[str]) -> Feature | None:
    """Which of the features that were sent a service's error is about; None if it is about none of them."""
    if status not in _REFUSING:
        return None
    said = re.sub(rf"(?<![\w.-]){re.escape(model)}(?![\w.-])", "", " ".join(_words(body))[:_MAX_SAID])
    return next((feature for feature, sign in _SIGNS if feature in sent and sign.search(said)), None)


def without(able: Abilities, features: Collection[str]) -> Abilities:
    """What is left of abilities when a model has refused these features."""
    return replace(able, **{_ABILITY[each]: False for each in features if each in _ABILITY})


def warnings_of(model: str, features: Collection[str]) -> tuple[str, ...]:
    """A sentence for each."""
    return tuple(f"{model} refused {name}: it is asked without." for name, _ in _SIGNS if name in features)


def _words(value: Any) -> Iterator[str]:
    """What an error says, but for what it repeats of the request. A single word is a name, and is quoted."""
    if isinstance(value, str):
        yield value if " " in value else f"'{value}'"
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if name != "input":  # where pydantic repeats the request
                yield from _words(each)
    elif isinstance(value, list):
        for each in value:
            yield from _words(each)
