"""Training items: what is wrong with them is said, they are made from schemas and phrases, and answers are read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from finetune.scripts.answers import read
from finetune.scripts.generate import HERE, LANGUAGES, Phrases, make, make_forms
from finetune.scripts.items import BadData, Call, Item, parse, problems, read_items, read_tools, write_items

TOOLS = read_tools(HERE / "configs" / "tools.json")
PHRASES = Phrases.read(HERE / "data" / "phrases.json")
ADD = {"name": "add", "parameters": {"a": 1, "b": 2}}


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"instruction": "x", "function_call": {"name": "ad", "parameters": {}}}, "unknown function 'ad'"),
        ({"instruction": "x", "function_call": {"name": "add", "parameters": {"a": 1}}}, "add: b: "),
        ({"instruction": "x", "function_call": {"name": "add", "parameters": {"a": "1", "b": 2}}}, "add: a: "),
        ({"instruction": "x", "function_call": {"name": "add", "parameters": {"a": 1, "b": 2, "c": 3}}}, "add: c: "),
        (
            {"instruction": "x", "function_call": {"name": "city_time", "parameters": {"city": "Atlantis"}}},
            "city_time: city: ",
        ),
        ({"instruction": "x", "function_call": {"name": "add"}}, "a call is"),
        ({"instruction": "x"}, "nothing is expected"),
        ({"instruction": "", "answer": "y"}, "instruction is missing"),
        ({"instruction": "x", "answer": 5}, "answer is no text"),
        ({"instruction": "x", "function_call": ADD, "answer": "3"}, "needs their results"),
        ({"instruction": "x", "function_call": ADD, "results": [1, 2]}, "one value for each call"),
        ({"instruction": "x", "function_call": ADD, "question": "y"}, "one or the other"),
        ({"instruction": "x", "function_call": ADD, "function_calls": [ADD]}, "both function_call and function_calls"),
        ({"instruction": "x", "anwser": "y"}, "'anwser', which means nothing here"),
        ({"instruction": "x", "answer": "y", "history": [{"instruction": "z"}]}, "history 0: nothing is expected"),
        ("x", "no object"),
    ],
)
def test_what_is_wrong_with_an_item_is_said(item: Any, reason: str) -> None:
    assert any(reason in each for each in problems(item, TOOLS))


def test_all_wrong_items_of_a_file_are_told_with_their_numbers(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps([{"instruction": "x", "answer": "y"}, {"instruction": "x"}, 5]))
    with pytest.raises(BadData, match=r"item 1: nothing.*\nitem 2: it is no object"):
        read_items(file, TOOLS)
    with pytest.raises(BadData, match="could not be read"):
        read_items(tmp_path / "none.json", TOOLS)
    file.write_text("{")
    with pytest.raises(BadData, match="is no JSON"):
        read_items(file, TOOLS)


def test_items_are_made_valid_distinct_and_the_same_for_a_seed(tmp_path: Path) -> None:
    train, test = make(TOOLS, PHRASES, seed=3, train=400, test=150)
    assert (train, test) == make(TOOLS, PHRASES, seed=3, train=400, test=150)
    assert train != make(TOOLS, PHRASES, seed=4, train=400, test=150)[0]
    write_items(tmp_path / "train.json", train)
    assert read_items(tmp_path / "train.json", TOOLS) == train
    phrases = [item.instruction for item in train]
    assert len({(item.instruction, item.results) for item in train}) == len(phrases) == 400
    assert len({item.instruction for item in test}) == 150
    assert {item.instruction for item in test}.isdisjoint(phrases)
    assert {item.kind for item in train} == {"call", "calls", "silent", "clarify"}
    assert {item.lang for item in train} == set(LANGUAGES)
    assert {call.name for item in train for call in item.calls} == TOOLS.keys()
    forms = make_forms(TOOLS, PHRASES, seed=3, count=60)
    assert {item.instruction for item in forms}.isdisjoint(phrases)
    assert {item.calls[0].name for item in forms} == TOOLS.keys()


def test_each_name_of_a_value_is_of_that_value_alone() -> None:
    names = PHRASES.names()
    said = [word for value, words in names.items() for word in (value, *words)]
    assert len(said) == len(set(said))
    assert "euros" in names["EUR"] and names["Paris"] == ["巴黎"]


def test_an_item_is_a_conversation_and_teaches_each_answer() -> None:
    first = Item("Hello!", said="Hi.")
    item = parse(
        {"instruction": "1+2?", "function_call": ADD, "results": [3], "answer": "3.", "history": [first.as_json()]}
    )
    (before, asked), (later, said) = item.steps()
    assert [message["role"] for message in before] == ["user", "assistant", "user"]
    assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == {"a": 1, "b": 2}
    assert later == [*before, asked, {"role": "tool", "tool_call_id": "call00000", "content": "3"}]
    assert said == {"role": "assistant", "content": "3."}
    assert parse(item.as_json()) == item


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call><|im_end|>',
        '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1, "b": 2}}]</s>',
        '```json\n{"name": "add", "parameters": {"a": 1, "b": 2}}\n```',
    ],
    ids=["qwen", "mistral", "plain"],
)
def test_a_call_is_read_in_each_family_s_form(text: str) -> None:
    answer = read(text)
    assert answer.calls == (Call("add", {"a": 1, "b": 2}),)
    assert answer.valid


def test_words_are_no_call_and_broken_json_is_not_valid() -> None:
    assert read("In which city?<|im_end|>").words == "In which city?"
    assert read("In which city?").valid
    assert not read("<tool_call>\n{broken\n</tool_call>").valid
    assert not read('{"name": ').valid


def test_the_items_that_the_documentation_shows_are_valid() -> None:
    text = (HERE.parent / "docs" / "finetune.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    items = json.loads(shown)
    assert [reason for item in items for reason in problems(item, TOOLS)] == []
    assert {parse(item).kind for item in items} == {"call", "calls", "silent", "clarify"}
