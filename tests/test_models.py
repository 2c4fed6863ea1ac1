"""What models can do: by name, by setting, and by what services say when they are asked for more."""

from __future__ import annotations

from typing import Any

import pytest

from server.models import TABLE, Abilities, Mode, abilities_of, mode_for, refused, warnings_of, without
from tests.conftest import ROOT

EVERYTHING = ("parallel_tool_calls", "stream_options", "strict", "stream", "tools")
# Names of models, and what of tools, parallel calls, legacy functions and pictures they take.
KNOWN = [
    ("gpt-4o", "tplv"),
    ("gpt-4o-2024-08-06", "tplv"),
    ("gpt-4o-mini-2024-07-18", "tplv"),
    ("gpt-4.1-nano", "tpv"),
    ("gpt-5-mini", "tpv"),
    ("gpt-4-turbo", "tplv"),
    ("gpt-4-turbo-2024-04-09", "tplv"),
    ("gpt-4-turbo-preview", "tpl"),
    ("gpt-4-1106-preview", "tpl"),
    ("gpt-4-0125-preview", "tpl"),
    ("gpt-4", "tl"),
    ("gpt-4-0613", "tl"),
    ("gpt-4-32k-0613", "tl"),
    ("gpt-4-0314", ""),
    ("gpt-4-vision-preview", "v"),
    ("gpt-3.5-turbo", "tpl"),
    ("gpt-3.5-turbo-0125", "tpl"),
    ("gpt-3.5-turbo-1106", "tpl"),
    ("gpt-3.5-turbo-0613", "tl"),
    ("gpt-3.5-turbo-16k-0613", "tl"),
    ("gpt-3.5-turbo-0301", ""),
    ("gpt-3.5-turbo-instruct", ""),
    ("chatgpt-4o-latest", "v"),
    ("o1-preview", ""),
    ("o1-mini-2024-09-12", ""),
    ("o1-2024-12-17", "tv"),
    ("o3-mini", "t"),
    ("o3", "tv"),
    ("o4-mini-2025-04-16", "tv"),
    ("ernie-3.5-8k", "l"),
    ("ERNIE-4.0-8K", "l"),
    ("openai/gpt-4", "tl"),
    ("openrouter/openai/gpt-4o:extended", "tplv"),
    ("ft:gpt-3.5-turbo-0613", "tl"),
    ("gpt-35-turbo-0613", "tl"),
    ("qwen3", "tp"),
    ("my-gpt-4", "tp"),
    ("", "tp"),
]


@pytest.mark.parametrize(("name", "expected"), KNOWN)
def test_a_name_says_what_a_model_can_do(name: str, expected: str) -> None:
    able = abilities_of(name, {})
    found = {"t": able.tools, "p": able.parallel, "l": able.legacy, "v": able.pictures}
    assert "".join(letter for letter, has in found.items() if has) == expected


def test_a_model_that_nobody_knows_can_do_all_that_can_be_found_out() -> None:
    assert abilities_of("unheard-of", {}) == Abilities() == Abilities(True, True, True, True, False, False)


def test_no_pattern_hides_one_that_comes_after() -> None:
    found = [(pattern.replace("*", ""), able) for patterns, able in TABLE for pattern in patterns]
    assert [(name, abilities_of(name, {})) for name, _ in found] == found


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("mine", {"mine": {"tools": False}}, Abilities(tools=False)),
        ("mine-2", {"Mine-*": {"pictures": True}}, Abilities(pictures=True)),
        ("mine", {"mine-*": {"tools": False}}, Abilities()),
        ("lab/mine", {"mine": {"strict": False}}, Abilities(strict=False)),
        ("lab/mine", {"lab/*": {"strict": False}}, Abilities(strict=False)),
        ("mine", {"m*": {"tools": False}, "*": {"strict": False}}, Abilities(tools=False)),
        ("gpt-4", {"gpt-4": {"parallel": True}}, Abilities(legacy=True)),
        ("gpt-4", {"gpt-4": {}}, Abilities(parallel=False, legacy=True)),
    ],
)
def test_settings_win_over_the_table(name: str, overrides: dict[str, dict[str, bool]], expected: Abilities) -> None:
    assert abilities_of(name, overrides) == expected


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        (Abilities(), "native"),
        (Abilities(legacy=True), "native"),
        (Abilities(tools=False, legacy=True), "legacy"),
        (Abilities(tools=False), "prompt"),
    ],
)
def test_the_mode_is_the_best_that_a_model_takes(able: Abilities, expected: Mode) -> None:
    assert mode_for(able) == expected


def test_the_page_names_the_models_of_the_table() -> None:
    page = (ROOT / "docs" / "chat.md").read_text()
    table = page.split("<!-- models -->\n")[1].split("<!-- /models -->")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()]
    assert rows[0] == ["models", "tools", "parallel", "strict", "streaming", "legacy", "pictures"]
    shown = [(tuple(name.strip("` ") for name in row[0].split(",")), row[1:]) for row in rows[2:]]
    assert shown == [
        *((patterns, marks(able)) for patterns, able in TABLE),
        (("any other",), marks(Abilities())),
    ]


def marks(able: Abilities) -> list[str]:
    """A row of the page."""
    every = (able.tools, able.parallel, able.strict, able.streaming, able.legacy, able.pictures)
    return ["yes" if each else "-" for each in every]


# -- refusals

# What services say, as it was reported by those who saw it.
NO_TOOLS = [
    "registry.ollama.ai/library/gemma3:4b does not support tools",
    '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
    "tools param requires --jinja flag",
    "Unsupported param: tools",
    "tools param is not fully supported yet",
    "No endpoints found that support tool use. To learn more about provider routing, visit: https://example.org",
    "Tools is not supported in this model. For a list of supported models, refer to the guide.",
    "Unsupported parameter: 'tools' is not supported with this model.",
    "Unrecognized request argument supplied: tools",
    "`tools` is not supported with this model",
    "tool calling is not supported with this model",
    "deepinfra error: Tool calling is not supported for model: NousResearch/Hermes-3-Llama-3.1-70B",
    "deepseek-reasoner does not support Function Calling",
    "The parameter `` specified in the request are not valid: the requested model does not support function calling.",
    "Function call is not supported for this model.",
    "The tool call is not supported",
    "Function calling is not enabled for models/gemma-3-27b-it",
    "This model doesn't support tool use.",
    "functions is not supported in this model.",
]
NO_STREAM = [
    "Your organization must be verified to stream this model. Please go to: https://example.org",
    "Unsupported value: 'stream' does not support true with this model. Supported values are: false.",
    "Unknown parameter: 'stream'",
    "Unrecognized request argument supplied: stream",
    "Cannot use tools with stream",
    "This model does not support streaming",
    "Streaming is not supported for this model.",
]
NO_PARALLEL = [
    "Unsupported parameter: 'parallel_tool_calls' is not supported with this model.",
    "Parallel tool calls are not supported",
    "This model does not support parallel function calling",
]
OTHER = [
    "The model `strict-7b` does not exist",
    "This model's maximum context length is 8192 tokens.",
    "Invalid 'tools': array too long. Expected an array with maximum length 128.",
    "Invalid schema for function 'add': None is not of type 'object'.",
    "tools[0].type is not supported",
    "An assistant message with 'tool_calls' must be followed by tool messages",
    "No endpoints found that support the provided 'tool_choice' value.",
    "Function tools with reasoning_effort are not supported for gpt-5.4-mini in /v1/chat/completions.",
    "does not support images in tools",
    "upstream error",
    "Failed to call a function. Please adjust your prompt.",
    "no",
    "",
]
SAID = [
    *((said, "tools") for said in NO_TOOLS),
    *((said, "stream") for said in NO_STREAM),
    *((said, "parallel_tool_calls") for said in NO_PARALLEL),
    ("Unknown parameter: 'stream_options'", "stream_options"),
    ("Unrecognized request argument supplied: stream_options", "stream_options"),
    ("Unknown parameter: 'tools[0].function.strict'.", "strict"),
    ("strict tools are not supported", "strict"),
    *((said, None) for said in OTHER),
]


@pytest.mark.parametrize(("said", "expected"), SAID)
def test_a_refusal_says_what_it_is_about(said: str, expected: str | None) -> None:
    for body in (said, {"message": said, "type": "error", "param": None, "code": None}, {"detail": said}):
        assert refused(400, body, "strict-7b", EVERYTHING) == expected


@pytest.mark.parametrize("status", [400, 404, 405, 422, 500, 501])
def test_services_refuse_with_one_of_several_statuses(status: int) -> None:
    assert refused(status, NO_TOOLS[0], "m", EVERYTHING) == "tools"


@pytest.mark.parametrize("status", [401, 403, 409, 429, 503])
def test_another_status_is_no_refusal(status: int) -> None:
    assert refused(status, NO_TOOLS[0], "m", EVERYTHING) is None


def test_what_was_not_sent_was_not_refused() -> None:
    assert refused(400, NO_PARALLEL[0], "m", {"tools", "stream"}) is None
    assert refused(400, NO_TOOLS[-1], "m", {"functions", "stream"}) == "functions"
    assert refused(400, NO_TOOLS[-1], "m", {"stream"}) is None


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (["body", "parallel_tool_calls"], "parallel_tool_calls"),
        (["body", "stream"], "stream"),
        (["body", "tools"], "tools"),
        (["body", "tools", 0, "function", "strict"], "strict"),
        (["body", "tools", 0, "function", "parameters", "title"], None),
        (["body", "temperature"], None),
    ],
)
def test_what_an_error_repeats_of_the_request_says_nothing(place: list[Any], expected: str | None) -> None:
    told = {"type": "extra_forbidden", "loc": place, "msg": "Extra inputs are not permitted"}
    body = {"detail": [{**told, "input": {"stream": True, "strict": True, "q": NO_TOOLS[0]}}]}
    assert refused(422, body, "m", EVERYTHING) == expected


def test_a_parameter_that_is_named_beside_the_message_counts() -> None:
    assert refused(400, {"message": "Not allowed for you.", "param": "stream"}, "m", EVERYTHING) == "stream"


def test_what_was_refused_is_left_out_of_the_abilities_and_told() -> None:
    assert without(Abilities(), EVERYTHING) == Abilities(False, False, False, False)
    assert without(Abilities(legacy=True), ["functions", "stream_options"]) == Abilities()
    assert warnings_of("m", ["tools", "stream_options"]) == (
        "m refused stream_options: it is asked without.",
        "m refused tools: it is asked without.",
    )
