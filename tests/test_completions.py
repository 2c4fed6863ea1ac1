"""Streams as providers send them, and as some do that keep to no specification, become one answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.completions import Accumulator, CallDelta, Completion, TextDelta, ToolCall, Usage, mended


def delta(finish: str | None = None, **parts: Any) -> dict[str, Any]:
    """A chunk."""
    return {"choices": [{"index": 0, "delta": parts, "finish_reason": finish}]}


def part(arguments: Any = "", name: str | None = None, **more: Any) -> dict[str, Any]:
    """A part of a tool call."""
    return {"function": {"arguments": arguments, **({"name": name} if name else {})}, **more}


def calls(*parts: dict[str, Any]) -> dict[str, Any]:
    """A chunk with parts of tool calls."""
    return delta(tool_calls=list(parts))


def taken(*chunks: Any) -> Completion:
    """The answer that chunks make."""
    accumulator = Accumulator()
    for chunk in chunks:
        list(accumulator.add(chunk))
    return accumulator.completion()


def asked(*chunks: Any) -> list[tuple[str, str]]:
    """Name and arguments of each call."""
    return [(call.name, call.arguments) for call in taken(*chunks).calls]


def test_text_comes_in_pieces() -> None:
    accumulator = Accumulator()
    seen = [d for word in ("to ", "", "be") for d in accumulator.add(delta(content=word))]
    assert seen == [TextDelta("to "), TextDelta("be")]
    assert accumulator.completion() == Completion("to be")


def test_the_end_and_the_usage_are_kept() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    found = taken(delta(content="a"), delta(finish="stop"), {"choices": [], "usage": usage})
    assert found == Completion("a", finish="stop", usage=Usage(3, 2))
    assert Usage(3, 2) + Usage(1, 1) == Usage(4, 3)


@pytest.mark.parametrize("member", ["reasoning_content", "reasoning"])
def test_thoughts_are_kept_apart(member: str) -> None:
    assert taken(delta(**{member: "hm"}), delta(content="yes")) == Completion("yes", "hm")


def test_a_refusal_is_text() -> None:
    assert taken(delta(refusal="I can't.")).text == "I can't."


def test_calls_are_put_together_by_index() -> None:
    stream = [
        calls(part("", "add", index=0, id="a")),
        calls(part("", "sub", index=1, id="b")),
        calls(part('{"n"', index=0), part('{"m"', index=1)),
        calls(part(": 1}", index=0)),
        calls(part(": 2}", index=1)),
    ]
    assert taken(*stream).calls == (ToolCall("a", "add", '{"n": 1}'), ToolCall("b", "sub", '{"m": 2}'))


def test_parts_of_a_call_are_told_as_they_come() -> None:
    accumulator = Accumulator()
    first = list(accumulator.add(calls(part("", "add", index=0, id="a"))))
    second = list(accumulator.add(calls(part("{}", index=0))))
    assert first == [CallDelta(0, "a", "add", "")]
    assert second == [CallDelta(0, "a", "add", "{}")]


ONE = [("add", '{"n": 1}')]
TWO = [("add", '{"n": 1}'), ("add", '{"n": 2}')]
ODD: dict[str, tuple[list[Any], list[tuple[str, str]]]] = {
    "no index, one call in parts": ([calls(part('{"n"', "add", id="a")), calls(part(": 1}"))], ONE),
    "no index, an id begins a call": (
        [calls(part('{"n": 1}', "add", id="a")), calls(part('{"n": 2}', "add", id="b"))],
        TWO,
    ),
    "no index, one id for all calls": (
        [calls(part('{"n": 1}', "add", id="x")), calls(part('{"n": 2}', "add", id="x"))],
        TWO,
    ),
    "no index and no id": ([calls(part('{"n": 1}', "add")), calls(part('{"n": 2}', "add"))], TWO),
    "no index, id and name in each part": (
        [calls(part('{"n"', "add", id="x")), calls(part(": 1}", "add", id="x"))],
        ONE,
    ),
    "one index for all calls": (
        [calls(part('{"n": 1}', "add", index=0, id="a")), calls(part('{"n": 2}', "add", index=0, id="b"))],
        TWO,
    ),
    "id and name in each part": (
        [calls(part('{"n"', "add", index=0, id="a")), calls(part(": 1}", "add", index=0, id="a"))],
        ONE,
    ),
    "arguments are an object": ([calls(part({"n": 1}, "add", index=0, id="a"))], ONE),
    "arguments are null": ([calls(part(None, "add", index=0, id="a"))], [("add", "")]),
    "all calls in one chunk": (
        [calls(part('{"n": 1}', "add", index=0, id="a"), part('{"n": 2}', "add", index=1, id="b"))],
        TWO,
    ),
    "a whole message": (
        [{"choices": [{"message": {"content": None, "tool_calls": [part('{"n": 1}', "add", id="a")]}}]}],
        ONE,
    ),
    "a legacy function call": (
        [delta(function_call={"name": "add", "arguments": '{"n"'}), delta(function_call={"arguments": ": 1}"})],
        ONE,
    ),
    "indexes that do not begin at zero": ([calls(part('{"n": 1}', "add", index=7, id="a"))], ONE),
    "finish_reason is empty": ([calls(part('{"n": 1}', "add", index=0)), delta(finish="")], ONE),
}


@pytest.mark.parametrize(("chunks", "expected"), ODD.values(), ids=ODD)
def test_what_providers_send_of_calls(chunks: list[Any], expected: list[tuple[str, str]]) -> None:
    assert asked(*chunks) == expected
    ids = [call.id for call in taken(*chunks).calls]
    assert all(ids) and len(set(ids)) == len(ids)


def test_thoughts_within_a_legacy_call_are_kept() -> None:
    found = taken(delta(function_call={"name": "add", "arguments": "{}", "thoughts": "I add."}))
    assert (found.thoughts, [call.name for call in found.calls]) == ("I add.", ["add"])


def test_an_empty_finish_reason_is_none() -> None:
    assert taken(delta(content="a", finish="")).finish is None


def test_ids_that_are_empty_or_there_twice_are_replaced() -> None:
    found = [call.id for call in mended([ToolCall(identity, "f", "{}") for identity in ("", "a", "a", "", "b")])]
    assert found[1] == "a" and found[4] == "b"
    assert len(set(found)) == 5 and all(found)


def test_an_answer_is_a_message_of_the_conversation() -> None:
    assert Completion("hi").message == {"role": "assistant", "content": "hi"}
    asking = Completion("", calls=(ToolCall("a", "f", "{}"),)).message
    function = {"name": "f", "arguments": "{}"}
    assert asking == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "a", "type": "function", "function": function}],
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KNOWN = ["choices", "delta", "message", "tool_calls", "function", "function_call", "index", "id", "name", "arguments"]
chunk_like = st.recursive(
    json_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KNOWN, "usage"]), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(chunk_like, max_size=4))
def test_no_chunk_is_so_odd_that_it_raises(chunks: list[Any]) -> None:
    found = taken(*({"choices": [{"delta": chunk}], "usage": chunk} for chunk in chunks), *chunks)
    json.dumps(found.message)
