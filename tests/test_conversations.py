"""Every call of a conversation that is sent has one answer, directly after it, under an id of its own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.conversations import UNANSWERED, answer, calls_of, modern, paired

USER: dict[str, Any] = {"role": "user", "content": "go"}


def asking(*ids: str, **more: Any) -> dict[str, Any]:
    """An assistant's message with a call for each id."""
    calls = [
        {"id": identity, "type": "function", "function": {"name": f"f{n}", "arguments": "{}"}}
        for n, identity in enumerate(ids)
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls, **more}


def told(identity: str, content: str = "") -> dict[str, Any]:
    """A tool's message."""
    return {"role": "tool", "tool_call_id": identity, "content": content or f"of {identity}"}


def contents(messages: list[dict[str, Any]]) -> list[Any]:
    """What the tools say."""
    return [m["content"] for m in messages if m["role"] == "tool"]


GOOD = [
    [USER],
    [{"role": "system", "content": "s"}, USER, {"role": "assistant", "content": "a"}],
    [USER, asking("a", "b"), told("a"), told("b"), {"role": "assistant", "content": "done"}],
    [USER, asking("a"), told("a"), asking("a"), told("a", "again")],
]


@pytest.mark.parametrize("messages", GOOD)
def test_what_is_as_it_should_be_stays(messages: list[dict[str, Any]]) -> None:
    assert paired(messages) == messages


def test_a_missing_answer_is_put_in() -> None:
    assert contents(paired([USER, asking("a", "b"), told("b"), USER])) == [UNANSWERED, "of b"]
    assert contents(paired([USER, asking("a")])) == [UNANSWERED]


def test_answers_come_in_the_order_of_the_calls() -> None:
    assert contents(paired([asking("a", "b", "c"), told("c"), told("a"), told("b")])) == ["of a", "of b", "of c"]


def test_answers_that_nobody_asked_for_are_left_out() -> None:
    found = paired([told("x"), USER, told("y"), asking("a"), told("a"), told("a", "twice"), USER, told("a", "late")])
    assert contents(found) == ["of a"]


@pytest.mark.parametrize("ids", [("", ""), ("a", "a"), ("", "a"), ("a", "", "a")])
def test_ids_are_mended_on_both_sides(ids: tuple[str, ...]) -> None:
    found = paired([asking(*ids), *(told(identity, f"answer {n}") for n, identity in enumerate(ids))])
    calls = [call.id for call in calls_of(found[0])]
    assert len(set(calls)) == len(ids) and all(calls)
    assert [(m["tool_call_id"], m["content"]) for m in found[1:]] == [
        (identity, f"answer {n}") for n, identity in enumerate(calls)
    ]


def test_an_answer_under_a_foreign_id_goes_to_the_call_that_has_none() -> None:
    assert contents(paired([asking("a", "b"), told("b"), told("other", "of a")])) == ["of a", "of b"]


def test_arguments_become_text() -> None:
    message = asking("a")
    message["tool_calls"][0]["function"]["arguments"] = {"n": 1}
    assert paired([message, told("a")])[0]["tool_calls"][0]["function"]["arguments"] == '{"n": 1}'


def test_what_else_is_in_a_message_stays() -> None:
    assert paired([asking("a", content="I look.", name="me"), told("a")])[0]["content"] == "I look."


def test_an_answer_is_under_the_calls_id() -> None:
    [call] = calls_of(asking("a"))
    assert answer(call, "yes") == told("a", "yes")


ids = st.sampled_from(["", "a", "b", "c"])
messages = st.lists(
    st.one_of(st.just(USER), st.lists(ids, min_size=1, max_size=4).map(lambda own: asking(*own)), ids.map(told)),
    max_size=12,
)


@given(messages)
def test_every_call_has_exactly_one_answer_after_it(given_messages: list[dict[str, Any]]) -> None:
    found = paired(given_messages)
    left: list[str] = []
    for message in found:
        if message["role"] == "tool":
            assert message["tool_call_id"] == left.pop(0)
            continue
        assert left == []
        left = [call.id for call in calls_of(message)]
        assert len(set(left)) == len(left) and all(left)
    assert left == []
    assert paired(found) == found


def test_what_is_no_call_is_passed_over() -> None:
    assert calls_of({"role": "assistant", "tool_calls": ["x", None]}) == []
    assert calls_of({"role": "assistant", "tool_calls": "x"}) == []
    assert calls_of({"role": "user", "tool_calls": [{}]}) == []


# -- conversations of before there were tools


def test_a_function_call_and_its_answer_become_a_tool_call_and_its_answer() -> None:
    old = [
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "f0", "arguments": "{}"}},
        {"role": "function", "name": "f0", "content": "x"},
        {"role": "assistant", "content": "done"},
    ]
    asked = {"id": "call_1", "type": "function", "function": {"name": "f0", "arguments": "{}"}}
    found = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [asked]},
        {"role": "tool", "tool_call_id": "call_1", "content": "x"},
        {"role": "assistant", "content": "done"},
    ]
    assert modern(old) == found
    assert paired(found) == found


@pytest.mark.parametrize("messages", GOOD)
def test_what_is_modern_stays(messages: list[dict[str, Any]]) -> None:
    assert modern(messages) == messages


def test_an_answer_to_no_call_is_left_out_when_it_is_sent() -> None:
    assert paired(modern([USER, {"role": "function", "name": "f", "content": "x"}])) == [USER]
