"""Models that know functions but no tools, and models that know neither: what they are sent, what they mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.completions import Completion, ToolCall
from server.dialects import MAX_TEXT, calls_in, spoken, understood
from server.functions import Function
from server.llm import Asked
from server.registry import Version

CALL = '{"name": "add", "arguments": {"n": 1}}'
PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
USER = {"role": "user", "content": "go"}


def found(text: str) -> list[tuple[str, Any]] | None:
    """The calls in a text."""
    calls = calls_in(text)
    return None if calls is None else [(call.name, json.loads(call.arguments)) for call in calls[1]]


ONE = [("add", {"n": 1})]
TWO = [("add", {"n": 1}), ("sub", {"n": 2})]
CALLS = {
    "bare": (CALL, ONE),
    "parameters instead of arguments": ('{"name": "add", "parameters": {"n": 1}}', ONE),
    "in a fence": (f"```json\n{CALL}\n```", ONE),
    "after words": (f"I will add.\n\n{CALL}", ONE),
    "before words": (f"{CALL}\nThat should do.", ONE),
    "a list": ('[{"name": "add", "arguments": {"n": 1}}, {"name": "sub", "arguments": {"n": 2}}]', TWO),
    "as tool_calls": ('{"tool_calls": [{"function": {"name": "add", "arguments": "{\\"n\\": 1}"}}]}', ONE),
    "with thoughts": ('{"name": "add", "thoughts": "hm", "arguments": {"n": 1}}', ONE),
    "after braces in words": (f"In {{this}} case: {CALL}", ONE),
    "after other JSON": (f'{{"note": "x"}} {CALL}', ONE),
    "a comma at the end": ('{"name": "add", "arguments": {"n": 1,},}', ONE),
    "Python's spelling": ("{'name': 'add', 'arguments': {'n': 1}}", ONE),
    "True of Python": ("{'name': 'add', 'arguments': {'n': True}}", [("add", {"n": True})]),
    "brackets missing": ('{"name": "add", "arguments": {"n": 1', ONE),
    "brackets missing in a fence": ('```json\n{"name": "add", "arguments": {"n": 1\n```', ONE),
    "a quote missing": ('{"name": "add", "arguments": {"n": "1', [("add", {"n": "1"})]),
    "brackets in texts": ('{"name": "add", "arguments": {"n": "}]{"}}', [("add", {"n": "}]{"})]),
    "quotes in texts": ('{"name": "add", "arguments": {"n": "a\\"}"}}', [("add", {"n": 'a"}'})]),
}
NONE = {
    "words": "It is 2.",
    "nothing": "",
    "other JSON": '{"name": "Ada", "age": 36}',
    "a name alone": '{"name": "add"}',
    "a call with more in it": '{"name": "add", "arguments": {}, "age": 1}',
    "a call within something else": '{"example": {"name": "add", "arguments": {}}}',
    "a list of other things": '[{"name": "add", "arguments": {}}, 1]',
    "too much missing": '{"name": "add", "arguments": {"a": [[[[[[1',
    "brackets that do not fit": '{"name": "add", "arguments": [1}',
}


@pytest.mark.parametrize(("text", "expected"), CALLS.values(), ids=CALLS)
def test_calls_are_found_in_text(text: str, expected: list[tuple[str, Any]]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize("text", NONE.values(), ids=NONE)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert calls_in(text) is None


def test_words_before_a_call_are_kept() -> None:
    assert understood(Completion(f"I add.\n```json\n{CALL}```"), "prompt").text == "I add."


def test_calls_in_text_are_calls_in_prompt_mode_only() -> None:
    assert [call.name for call in understood(Completion(CALL), "prompt").calls] == ["add"]
    assert understood(Completion(CALL), "native") == Completion(CALL)


def test_calls_of_a_models_own_are_kept() -> None:
    own = Completion(CALL, calls=(ToolCall("a", "sub", "{}"),))
    assert understood(own, "prompt") == own


def test_a_text_of_brackets_does_not_take_long() -> None:
    for sign in "{", "[", '{"', "{'a':":
        assert calls_in(sign * MAX_TEXT) is None


@given(st.text(alphabet="{}[]\":,\\ '`aTrue1\n", max_size=60))
def test_no_text_is_so_odd_that_it_raises(text: str) -> None:
    calls_in(text)
    calls_in(f'{{"name": "a", "arguments": {text}')


# -- what is sent


def asked(*messages: dict[str, Any], choice: Any = "auto") -> Asked:
    """A request with one tool."""
    return Asked("m", messages, [{"type": "function"}], choice)


VERSION = Version(Function("add", "def add(n): ...", (), (), "Add one.", "add(n)", parameters=PARAMETERS), 1, "now")
CALLING = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"n": 1}'}},
        {"id": "b", "type": "function", "function": {"name": "add", "arguments": '{"n": 2}'}},
    ],
}
RESULTS = [{"role": "tool", "tool_call_id": id_, "content": text} for id_, text in (("a", "2"), ("b", "3"))]


def test_native_is_as_it_was() -> None:
    request = asked(USER, CALLING, *RESULTS)
    assert spoken(request, "native", [VERSION]) is request


def test_legacy_has_functions_and_one_call_a_message() -> None:
    sent = spoken(asked(USER, CALLING, *RESULTS), "legacy", [VERSION]).body(frozenset())
    assert [f["name"] for f in sent["functions"]] == ["add"]
    assert sent["function_call"] == "auto"
    assert not sent.keys() & {"tools", "tool_choice", "parallel_tool_calls"}
    assert sent["messages"] == [
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"n": 1}'}},
        {"role": "function", "name": "add", "content": "2"},
        {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"n": 2}'}},
        {"role": "function", "name": "add", "content": "3"},
    ]


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("none", "none"),
        ("required", "auto"),
        ({"type": "function", "function": {"name": "add"}}, {"name": "add"}),
        ({"type": "function", "name": "add"}, {"name": "add"}),
    ],
)
def test_legacy_choices(choice: Any, told: Any) -> None:
    assert spoken(asked(USER, choice=choice), "legacy", [VERSION]).body(frozenset())["function_call"] == told


def test_prompt_has_the_tools_in_words_and_the_conversation_too() -> None:
    sent = spoken(asked(USER, CALLING, *RESULTS), "prompt", [VERSION]).body(frozenset())
    assert not sent.keys() & {"tools", "tool_choice", "functions", "function_call"}
    system, user, calls, results = sent["messages"]
    assert system["role"] == "system"
    assert "### Tool: add\nAdd one." in system["content"] and "n: integer, required" in system["content"]
    assert user == USER
    assert found(calls["content"]) == [("add", {"n": 1}), ("add", {"n": 2})]
    assert results == {"role": "user", "content": "Result of add:\n2\n\nResult of add:\n3"}


def test_a_system_message_is_kept_before_the_tools() -> None:
    sent = spoken(asked({"role": "system", "content": "Be brief."}, USER), "prompt", [VERSION]).messages
    assert len(sent) == 2
    assert sent[0]["content"].startswith("Be brief.\n\n")


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("required", "at least one tool"),
        ("none", "in words now"),
        ({"type": "function", "function": {"name": "add"}}, "Use the tool add now"),
    ],
)
def test_prompt_choices_are_said_in_words(choice: Any, told: str) -> None:
    assert told in spoken(asked(USER, choice=choice), "prompt", [VERSION]).messages[0]["content"]


def test_without_tools_nothing_is_said_of_them() -> None:
    assert spoken(Asked("m", [USER]), "prompt", []).messages == [USER]
    assert "functions" not in spoken(Asked("m", [USER]), "legacy", []).body(frozenset())
