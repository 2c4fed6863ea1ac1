"""A kernel's messages as items: any bytes become valid text and JSON."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.messages import MAX_DEPTH, clean, clean_json, from_call, from_message, left_out, strip_ansi
from kernels.outputs import Clear, Cut, Display, Error, Refused, Result, Returned, Stream


def test_messages_become_items() -> None:
    bundle = {"data": {"text/plain": "1"}, "metadata": {"a": 1}}
    assert from_message("stream", {"name": "stderr", "text": "x"}) == Stream("stderr", "x")
    assert from_message("stream", {"name": "nonsense", "text": "x"}) == Stream("stdout", "x")
    assert from_message("execute_result", bundle) == Result({"text/plain": "1"}, {"a": 1})
    assert from_message("display_data", bundle) == Display({"text/plain": "1"}, {"a": 1})
    marked = {**bundle, "transient": {"display_id": "x"}}
    assert from_message("update_display_data", marked) == Display({"text/plain": "1"}, {"a": 1}, "x", update=True)
    assert from_message("clear_output", {"wait": True}) == Clear()
    assert from_message("status", {"execution_state": "busy"}) is None


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=10,
)
FIELDS = ["name", "text", "data", "metadata", "transient", "ename", "evalue", "traceback", "display_id"]
KINDS = ["stream", "display_data", "update_display_data", "execute_result", "error", "clear_output", "status"]


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_content_becomes_valid_items(kind: str, content: dict[str, Any]) -> None:
    item = from_message(kind, content)
    for name in getattr(item, "__slots__", ()):
        json.dumps(getattr(item, name), allow_nan=False, ensure_ascii=False).encode()


CALLS: list[tuple[dict[str, Any], Returned | Refused | None]] = [
    ({"status": "ok", "result": [1], "content": "[1]", "version": 3}, Returned([1], "[1]", 3)),
    ({"status": "ok", "result": None, "content": "nothing"}, Returned(None, "nothing", 0)),
    ({"status": "ok", "content": "left out", "version": 3}, Returned(None, "left out", 3, lost=True)),
    (
        {"status": "ok", "result": "abcd", "content": "a", "cut": {"tail": "d", "left_out": 2}},
        Returned("abcd", "a", 0, Cut("d", 2)),
    ),
    (
        {"status": "ok", "result": 1, "content": "1", "cut": {"tail": None, "left_out": 10**5000}},
        Returned(1, "1", 0, Cut("", 10**12)),
    ),
    ({"status": "ok", "result": 1, "content": "1", "cut": {"tail": "x", "left_out": "9"}}, Returned(1, "1")),
    ({"status": "ok", "result": 1, "content": "1", "version": "3"}, Returned(1, "1", 0)),
    ({"status": "ok", "result": float("nan"), "content": "\ud800"}, Returned(None, "\ufffd", 0)),
    ({"status": "ok", "result": {"\ud800": [1]}, "content": None}, Returned({"\ufffd": [1]}, "", 0)),
    ({"status": "ok"}, None),
    ({"status": "error", "ename": "E"}, None),
    ({}, None),
    (
        {"status": "refused", "errors": [{"parameter": "n"}]},
        Refused(({"parameter": "n"},)),
    ),
    ({"status": "refused", "errors": [1, "x", {"a": "\ud800"}]}, Refused(({"a": "\ufffd"},))),
    ({"status": "refused", "errors": [{}] * 200}, Refused(({},) * 100)),
    ({"status": "refused", "errors": {"a": 1}}, None),
]


@pytest.mark.parametrize(("reply", "answer"), CALLS)
def test_replies_to_calls_become_answers(reply: dict[str, Any], answer: Returned | Refused | None) -> None:
    assert from_call(reply) == answer


@given(st.dictionaries(st.sampled_from(["status", "result", "content", "cut", "version", "errors"]), JSON))
def test_any_reply_becomes_a_valid_answer(content: dict[str, Any]) -> None:
    for status in ("ok", "refused", content.get("status")):
        item = from_call({**content, "status": status})
        members = dataclasses.asdict(item) if item else {}
        json.dumps(members, allow_nan=False, ensure_ascii=False).encode()


def test_a_message_too_large_to_be_read_is_replaced_by_its_like() -> None:
    assert left_out("stream", 12_345) == Stream("stdout", "[stream: a message of 12,345 bytes left out]\n")
    assert left_out("execute_result", 1) == Result(
        {"text/plain": "[execute_result: a message of 1 bytes left out]"}, {}
    )
    assert isinstance(left_out("update_display_data", 1), Display)
    assert isinstance(left_out("error", 1), Error)
    assert left_out("execute_input", 1) is None


# -- errors

RED = "\x1b[0;31m"


def error_of(*entries: str) -> Error:
    """The item for a traceback."""
    item = from_message("error", {"ename": "E", "evalue": f"{RED}what", "traceback": list(entries)})
    assert isinstance(item, Error)
    return item


def test_library_frames_are_hidden_and_counted_and_colours_go() -> None:
    error = error_of(
        "-" * 75,
        f"{RED}E\x1b[0m        Traceback (most recent call last)",
        f"{RED}Cell In[1], line 2{RED}\n----> 2 f()",
        "File ~/venv/lib/python3.11/site-packages/pandas/core/frame.py:4113, in DataFrame.get(self)\n   4113 ...",
        "File pandas/_libs/index.pyx:167, in pandas._libs.index.get()",
        "File <string>:1",
        f"{RED}E{RED}: what",
    )
    assert error == Error(
        "E",
        "what",
        ("E        Traceback (most recent call last)", "Cell In[1], line 2\n----> 2 f()", "E: what"),
        3,
    )


@pytest.mark.parametrize("folder", ["~/.aigbb/snapshots/12", "/home/a b/aigbb/snapshots/3", ""])
def test_registered_functions_frames_stay_without_the_services_paths(folder: str) -> None:
    path = f"{folder}/aigbb_functions/add.py"
    error = error_of(f"File {path}:3, in add(a, b)\n      2     x = 1\n----> 3     return 1 / 0")
    assert error.traceback[0].startswith("File aigbb_functions/add.py:3, in add(a, b)\n")
    assert error.frames_hidden == 0


def test_a_syntax_error_keeps_its_place() -> None:
    entry = "  Cell In[1], line 1\n    def f(:\n          ^\nSyntaxError: invalid syntax\n"
    assert error_of(entry) == Error("E", "what", (entry,), 0)


def test_an_error_without_a_name_has_one() -> None:
    assert from_message("error", {"ename": None, "evalue": None, "traceback": "no list"}) == Error("Error", "", ())


@pytest.mark.parametrize("text", ["\x1b[1;31mred\x1b[0m", "\x1b]8;;http://x\x07red\x1b]8;;\x1b\\", "\x1b[?25lred\x1bM"])
def test_terminal_commands_go(text: str) -> None:
    assert strip_ansi(text) == "red"


# -- valid text and JSON


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("ünï\0", "ünï\0"),
        ("a\ud800b\udfff", "a\ufffdb\ufffd"),
        ("\U0001f40d", "\U0001f40d"),
        (None, ""),
        (3, "3"),
    ],
)
def test_text_becomes_valid(value: object, expected: str) -> None:
    assert clean(value) == expected


@given(st.text(st.characters(codec=None)))
def test_valid_text_stays_and_any_text_can_be_encoded(text: str) -> None:
    assert len(clean(text)) == len(text)
    clean(text).encode()
    if not re.search("[\ud800-\udfff]", text):
        assert clean(text) == text


@given(JSON)
def test_json_becomes_valid(value: Any) -> None:
    json.dumps(clean_json(value), allow_nan=False, ensure_ascii=False).encode()


def test_json_that_is_valid_stays_and_the_rest_becomes_null() -> None:
    assert clean_json({"a": [1, 1.5, True, None, "x"]}) == {"a": [1, 1.5, True, None, "x"]}
    assert clean_json([float("nan"), float("inf"), {"\ud800": "\ud800"}]) == [None, None, {"\ufffd": "\ufffd"}]


def test_json_nested_too_deep_for_others_is_cut() -> None:
    deep: Any = "core"
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert clean_json(deep) == deep
    assert "core" not in json.dumps(clean_json([deep]))


def test_the_longest_exception_is_read_at_once() -> None:
    """A pattern that looked at each character many times kept everybody waiting for minutes."""
    text = "x" * 5_000_000
    content = {"ename": "ValueError", "evalue": text, "traceback": [f"ValueError: {text}"]}
    error = from_message("error", content)
    assert isinstance(error, Error) and error.traceback == (f"ValueError: {text}",)
