"""Tool definitions: each format as its service takes it, and the same manifest in all of them."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from typing import Any

import jsonschema_rs
import pytest
from openai.types.chat import ChatCompletionToolParam
from openai.types.chat.completion_create_params import Function as LegacyFunction
from openai.types.responses import FunctionToolParam
from pydantic import TypeAdapter

from server.call_policy import Effects
from server.functions import Declared, Function
from server.registry import Version
from server.strict import conforms
from server.tools import FORMATS, Format, as_seen, not_strict, render, structured

STRING: dict[str, Any] = {"type": "string"}
CITY: dict[str, Any] = {"type": "string", "description": "Where to look."}
UNIT: dict[str, Any] = {"type": "string", "enum": ["c", "f"], "default": "c"}

WEATHER = Function(
    "get_weather",
    "",
    (),
    (),
    "The weather of a city.",
    "get_weather(user_id: int, city: str, unit: Literal['c', 'f'] = 'c') -> float",
    {
        "type": "object",
        "properties": {"user_id": {"type": "integer"}, "city": CITY, "unit": UNIT},
        "required": ["user_id", "city"],
        "additionalProperties": False,
    },
    {"type": "number"},
    bound=("user_id",),
)
SEEN: dict[str, Any] = {
    "type": "object",
    "properties": {"city": CITY, "unit": UNIT},
    "required": ["city"],
    "additionalProperties": False,
}
STRICT: dict[str, Any] = {
    "type": "object",
    "properties": {"city": CITY, "unit": {"type": ["string", "null"], "enum": ["c", "f", None]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
NODE: dict[str, Any] = {
    "type": "object",
    "description": "A node.",
    "properties": {"name": STRING, "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
    "required": ["name"],
}
# No docstring, an open object, and a recursive result.
STORE = Function(
    "store",
    "",
    (),
    (),
    "",
    "store(data: dict, place: Place | None = None) -> Node",
    {
        "type": "object",
        "properties": {
            "data": {"type": "object", "additionalProperties": {"type": "integer"}},
            "place": {
                "anyOf": [
                    {
                        "type": "object",
                        "description": "A place.",
                        "properties": {
                            "lat": {"type": "number", "minimum": -90, "maximum": 90},
                            "tags": {"type": "array"},
                        },
                        "required": ["lat"],
                    },
                    {"type": "null"},
                ],
                "default": None,
                "description": "Where\n  it is.",
            },
        },
        "required": ["data"],
        "additionalProperties": False,
    },
    {"$ref": "#/$defs/Node", "$defs": {"Node": NODE}},
)
EMPTY = Function("ping", "", (), (), "Answers.\n\n## store\nParameters: none", "ping()", {}, {})
ALL = [Version(function, 1, "2026-01-01T00:00:00+00:00") for function in (WEATHER, STORE, EMPTY)]


def one(function: Function, form: Format, *, strict: bool = False) -> dict[str, Any]:
    """One function's definition."""
    tools = render([Version(function, 1, "")], form, strict=strict)
    assert isinstance(tools, list)
    return dict(tools[0])


DESCRIPTION = "The weather of a city."
EXPECTED: list[tuple[Format, bool, dict[str, Any]]] = [
    (
        "openai",
        False,
        {"type": "function", "function": {"name": "get_weather", "description": DESCRIPTION, "parameters": SEEN}},
    ),
    (
        "openai",
        True,
        {
            "type": "function",
            "function": {"name": "get_weather", "description": DESCRIPTION, "parameters": STRICT, "strict": True},
        },
    ),
    (
        "openai-responses",
        False,
        {"type": "function", "name": "get_weather", "description": DESCRIPTION, "parameters": SEEN, "strict": False},
    ),
    (
        "openai-responses",
        True,
        {"type": "function", "name": "get_weather", "description": DESCRIPTION, "parameters": STRICT, "strict": True},
    ),
    (
        "legacy-functions",
        True,
        {"name": "get_weather", "description": DESCRIPTION, "parameters": SEEN, "responses": {"type": "number"}},
    ),
    ("anthropic", True, {"name": "get_weather", "description": DESCRIPTION, "input_schema": SEEN}),
    (
        "mcp",
        True,
        {
            "name": "get_weather",
            "description": DESCRIPTION,
            "inputSchema": SEEN,
            "outputSchema": {"type": "object", "properties": {"result": {"type": "number"}}, "required": ["result"]},
            "annotations": {"readOnlyHint": False, "destructiveHint": True},
        },
    ),
    (
        "json-schema",
        True,
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "get_weather",
            "description": DESCRIPTION,
            **SEEN,
        },
    ),
]


@pytest.mark.parametrize(
    ("effects", "hints"),
    [
        ("read", {"readOnlyHint": True}),
        ("write", {"readOnlyHint": False, "destructiveHint": True}),
        ("unknown", {"readOnlyHint": False, "destructiveHint": True}),
    ],
)
def test_mcp_is_told_of_effects(effects: Effects, hints: dict[str, bool]) -> None:
    assert one(replace(WEATHER, effects=effects), "mcp", strict=False)["annotations"] == hints


@pytest.mark.parametrize(("form", "strict", "expected"), EXPECTED, ids=[f"{e[0]} strict={e[1]}" for e in EXPECTED])
def test_a_function_in_each_format(form: Format, strict: bool, expected: dict[str, Any]) -> None:
    before = copy.deepcopy(WEATHER.parameters)
    assert one(WEATHER, form, strict=strict) == expected
    assert WEATHER.parameters == before


# -- what the services take

NAME = {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}
OBJECT = {
    "type": "object",
    "properties": {"type": {"const": "object"}, "properties": {"type": "object"}},
    "required": ["type", "properties"],
}
ANTHROPIC = {
    "type": "object",
    "properties": {"name": NAME, "description": STRING, "input_schema": OBJECT},
    "required": ["name", "input_schema"],
    "additionalProperties": False,
}
MCP = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": r"^[A-Za-z0-9_.-]{1,128}$"},
        "title": STRING,
        "description": STRING,
        "inputSchema": OBJECT,
        "outputSchema": OBJECT,
        "annotations": {"type": "object"},
    },
    "required": ["name", "inputSchema"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("form", "typed"),
    [
        ("openai", ChatCompletionToolParam),
        ("openai-responses", FunctionToolParam),
        ("legacy-functions", LegacyFunction),
    ],
)
def test_openai_takes_its_formats(form: Format, typed: Any, strict: bool) -> None:
    tools = render(ALL, form, strict=strict)
    assert isinstance(tools, list)
    adapter = TypeAdapter(list[typed])
    known = json.loads(json.dumps(adapter.dump_python(adapter.validate_python(tools))))
    # ERNIE's `responses` is an addition to the form of old.
    assert known == [{key: value for key, value in tool.items() if key != "responses"} for tool in tools]
    for tool in tools:
        body = tool.get("function", tool)
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", body["name"])
        assert body["parameters"]["type"] == "object"
        assert not body.get("strict") or conforms(body["parameters"]) == []


@pytest.mark.parametrize(("form", "schema"), [("anthropic", ANTHROPIC), ("mcp", MCP)])
def test_anthropic_and_mcp_take_theirs(form: Format, schema: dict[str, Any]) -> None:
    tools = render(ALL, form, strict=True)
    assert len(tools) == 3
    for tool in tools:
        jsonschema_rs.validate(schema, tool)


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "prompt"])
def test_every_schema_in_every_format_is_one(form: Format) -> None:
    for tool in render(ALL, form, strict=True):
        assert isinstance(tool, dict)
        members = [tool.get("function", tool).get(key) for key in ("parameters", "input_schema", "inputSchema")]
        for schema in [*members, tool.get("outputSchema"), tool.get("responses")]:
            if schema is not None:
                jsonschema_rs.meta.validate(schema)
                jsonschema_rs.validator_for(schema, offline=True)


# -- the same manifest


@pytest.mark.parametrize("form", FORMATS)
def test_bound_parameters_are_in_no_format(form: Format) -> None:
    assert "user_id" not in json.dumps(render([Version(WEATHER, 1, "")], form, strict=True))


@pytest.mark.parametrize("form", FORMATS)
def test_no_functions_are_no_tools(form: Format) -> None:
    assert render([], form, strict=True) == ("" if form == "prompt" else [])


def test_a_function_without_parameters_is_seen_as_an_empty_object() -> None:
    assert as_seen(EMPTY) == {"type": "object", "properties": {}}


def test_an_author_speaks_last() -> None:
    function = Function(
        "f", "", (), (), "Docstring.", "f()", {}, {"type": "string"}, declared=Declared("Said.", None, {"type": "null"})
    )
    tool = one(function, "legacy-functions")
    assert (tool["description"], tool["responses"]) == ("Said.", {"type": "null"})


def test_without_a_docstring_the_signature_speaks() -> None:
    assert one(STORE, "anthropic")["description"] == "store(data: dict, place: Place | None = None) -> Node"


@pytest.mark.parametrize("form", ["openai", "openai-responses"])
def test_without_a_strict_form_a_function_is_rendered_as_it_is(form: Format) -> None:
    tool = one(STORE, form, strict=True)
    body = tool.get("function", tool)
    assert body["strict"] is False
    assert body["parameters"] == STORE.parameters


@pytest.mark.parametrize(
    ("function", "reason"),
    [(WEATHER, None), (STORE, "`data` is a free-form object."), (EMPTY, "The function takes any names.")],
    ids=["weather", "store", "ping"],
)
def test_the_reason_for_no_strict_form_is_named(function: Function, reason: str | None) -> None:
    assert not_strict(function) == reason


def test_a_result_that_is_no_object_stands_under_a_name_with_its_definitions_at_the_root() -> None:
    assert structured({"$ref": "#/$defs/Node", "$defs": {"Node": NODE}}) == {
        "type": "object",
        "properties": {"result": {"$ref": "#/$defs/Node"}},
        "required": ["result"],
        "$defs": {"Node": NODE},
    }
    assert structured(NODE) == NODE


# -- plain text

PROMPT = """\
### Tool: get_weather
The weather of a city.

Parameters:
- city: string, required. Where to look.
- unit: one of "c", "f", optional, default "c".

Returns: number.

### Tool: store
store(data: dict, place: Place | None = None) -> Node

Parameters:
- data: object with values of type integer, required.
- place: object or null, optional, default null. Where it is.
  - lat: number, required, at least -90, at most 90.
  - tags: list, optional.

Returns: Node.
- Node means: object. A node.
  - name: string, required.
  - children: list of Node, optional.

### Tool: ping
Answers.

    ## store
Parameters: none

Parameters: none"""


def test_the_plain_text_has_a_section_a_tool() -> None:
    assert render(ALL, "prompt", strict=False) == PROMPT


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        ({}, "- x: anything, optional."),
        (True, "- x: anything, optional."),
        ({"type": ["string", "null"]}, "- x: string or null, optional."),
        ({"const": 5}, "- x: 5, optional."),
        ({"enum": ["a", None]}, '- x: one of "a", null, optional.'),
        ({"type": "string", "format": "date"}, "- x: string (date), optional."),
        (
            {"type": "string", "minLength": 1, "maxLength": 9, "pattern": "^{a}"},
            '- x: string, optional, at least 1 characters, at most 9 characters, matching "^{a}".',
        ),
        ({"type": "array", "items": STRING, "minItems": 1}, "- x: list of string, optional, at least 1 items."),
        (
            {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}], "default": None},
            "- x: integer or null, optional, more than 0, default null.",
        ),
        (
            {"type": "array", "prefixItems": [STRING, {"type": "integer"}]},
            "- x: list of string, integer in this order, optional.",
        ),
        ({"oneOf": [STRING, {"type": "array", "items": {}}]}, "- x: string or list, optional."),
        ({"allOf": [{"type": "integer"}], "default": "ü"}, '- x: integer, optional, default "ü".'),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_parameter_in_words(schema: Any, line: str) -> None:
    function = Function("f", "", (), (), "Text.", "f(x)", {"type": "object", "properties": {"x": schema}})
    text = render([Version(function, 1, "")], "prompt", strict=False)
    assert isinstance(text, str)
    assert text.splitlines()[-1] == line


def test_recursive_parameters_are_explained_once() -> None:
    parameters = {"type": "object", "properties": {"tree": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": NODE}}
    function = Function("f", "", (), (), "Text.", "f(tree)", parameters)
    assert (
        render([Version(function, 1, "")], "prompt", strict=False)
        == """\
### Tool: f
Text.

Parameters:
- tree: Node, optional.
- Node means: object. A node.
  - name: string, required.
  - children: list of Node, optional."""
    )


def test_the_forms_of_a_choice_are_told_apart() -> None:
    def form(kind: str, member: str) -> dict[str, Any]:
        return {"type": "object", "properties": {"kind": {"const": kind}, member: STRING}, "required": ["kind"]}

    pet = {"type": "array", "items": {"oneOf": [form("cat", "lives"), form("dog", "owner")]}}
    function = Function("f", "", (), (), "Text.", "f(pets)", {"type": "object", "properties": {"pets": pet}})
    assert (
        render([Version(function, 1, "")], "prompt", strict=False)
        == """\
### Tool: f
Text.

Parameters:
- pets: list of object, optional.
  with
  - kind: "cat", required.
  - lives: string, optional.
  or with
  - kind: "dog", required.
  - owner: string, optional."""
    )
