"""Schemas of arguments: what is shown, what is taken from authors, and what is said of wrong arguments."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from server.arguments import MAX_ERRORS, validate
from server.errors import InvalidSchema
from server.schemas import MAX_SIZE, check, compose, definition, inline, walk, without

STRING: dict[str, Any] = {"type": "string"}
INTEGER: dict[str, Any] = {"type": "integer"}


def arguments(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    """A schema of arguments as pydantic gives it."""
    named = {"required": list(required)} if required else {}
    return {"type": "object", "properties": properties, **named, "additionalProperties": False, **more}


def ref(name: str, **beside: Any) -> dict[str, Any]:
    """A reference to a definition."""
    return {"$ref": f"#/$defs/{name}", **beside}


# -- inlining

NODE: dict[str, Any] = {"type": "object", "properties": {"next": ref("Node"), "color": ref("Color")}}
COLOR: dict[str, Any] = {"enum": ["red", "blue"], "type": "string", "description": "A color."}

INLINED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a definition takes the place of its reference": (
        arguments({"c": ref("Color")}, "c", **{"$defs": {"Color": COLOR}}),
        arguments({"c": COLOR}, "c"),
    ),
    "what stands beside a reference wins": (
        arguments({"c": ref("Color", description="The paint.", default="red")}, **{"$defs": {"Color": COLOR}}),
        arguments({"c": {"enum": ["red", "blue"], "type": "string", "description": "The paint.", "default": "red"}}),
    ),
    "a limit beside a reference is added": (
        arguments({"n": ref("N", maximum=3)}, **{"$defs": {"N": {"type": "integer", "minimum": 1}}}),
        arguments({"n": {"type": "integer", "minimum": 1, "maximum": 3}}),
    ),
    "two limits of one kind both hold": (
        arguments({"n": ref("N", minimum=3)}, **{"$defs": {"N": {"type": "integer", "minimum": 5}}}),
        arguments({"n": {"minimum": 3, "allOf": [{"type": "integer", "minimum": 5}]}}),
    ),
    "members beside a reference do not open a closed definition": (
        arguments({"o": ref("O", properties={"b": STRING})}, **{"$defs": {"O": arguments({"a": STRING})}}),
        arguments({"o": {"properties": {"b": STRING}, "allOf": [arguments({"a": STRING})]}}),
    ),
    "definitions within definitions": (
        arguments(
            {"a": {"type": "array", "items": ref("A")}},
            **{"$defs": {"A": {"anyOf": [ref("B"), {"type": "null"}]}, "B": INTEGER}},
        ),
        arguments({"a": {"type": "array", "items": {"anyOf": [INTEGER, {"type": "null"}]}}}),
    ),
    "a recursive definition stays, with what it uses put into it": (
        arguments({"n": ref("Node"), "c": ref("Color")}, **{"$defs": {"Node": NODE, "Color": COLOR}}),
        arguments(
            {"n": ref("Node"), "c": COLOR},
            **{"$defs": {"Node": {"type": "object", "properties": {"next": ref("Node"), "color": COLOR}}}},
        ),
    ),
    "what only leads to a recursive definition is replaced": (
        arguments(
            {"t": ref("Tree")}, **{"$defs": {"Tree": {"type": "array", "items": ref("Node")}, "Node": ref("Node")}}
        ),
        arguments({"t": {"type": "array", "items": ref("Node")}}, **{"$defs": {"Node": ref("Node")}}),
    ),
    "definitions that nothing uses go": (
        arguments({"s": STRING}, **{"$defs": {"Left": ref("Right"), "Right": ref("Left")}}),
        arguments({"s": STRING}),
    ),
    "escapes in a reference": (
        arguments({"a": {"$ref": "#/$defs/a~1b~0c%20d"}}, **{"$defs": {"a/b~c d": STRING}}),
        arguments({"a": STRING}),
    ),
    "parameters named like keywords": (
        arguments(
            {
                "$ref": STRING,
                "$defs": ref("Color"),
                "properties": {"type": "array", "items": ref("Color")},
                "default": INTEGER,
                "title": {"type": "string", "title": "A title"},
                "discriminator": STRING,
            },
            **{"$defs": {"Color": COLOR}},
        ),
        arguments(
            {
                "$ref": STRING,
                "$defs": COLOR,
                "properties": {"type": "array", "items": COLOR},
                "default": INTEGER,
                "title": {"type": "string", "title": "A title"},
                "discriminator": STRING,
            }
        ),
    ),
    "values that look like references": (
        arguments(
            {"a": {"enum": [ref("Color")], "default": ref("Color"), "examples": [ref("Color")]}},
            **{"$defs": {"Color": COLOR}},
        ),
        arguments({"a": {"enum": [ref("Color")], "default": ref("Color"), "examples": [ref("Color")]}}),
    ),
    "a discriminator's mapping to definitions": (
        arguments(
            {
                "pet": {
                    "oneOf": [ref("Cat"), ref("Dog")],
                    "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat"}},
                }
            },
            **{"$defs": {"Cat": STRING, "Dog": INTEGER}},
        ),
        arguments({"pet": {"oneOf": [STRING, INTEGER]}}),
    ),
    "references that are not ours stay": (
        arguments({"a": ref("Nowhere"), "b": {"$ref": "#/properties/a"}}),
        arguments({"a": ref("Nowhere"), "b": {"$ref": "#/properties/a"}}),
    ),
    "the root itself": ({**ref("Color"), "$defs": {"Color": COLOR}}, COLOR),
    "the dialect is not repeated": (
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "string"},
        STRING,
    ),
}


@pytest.mark.parametrize("case", INLINED)
def test_references_are_replaced(case: str) -> None:
    schema, expected = INLINED[case]
    before = copy.deepcopy(schema)
    assert inline(schema) == expected
    assert schema == before


def doubling(levels: int) -> dict[str, Any]:
    """Each definition is twice the next."""
    parts = {
        f"D{n}": {"type": "object", "properties": {"a": ref(f"D{n + 1}"), "b": ref(f"D{n + 1}")}} for n in range(levels)
    }
    return arguments({"x": ref("D0")}, **{"$defs": {**parts, f"D{levels}": INTEGER}})


def chained(levels: int) -> dict[str, Any]:
    """Each definition is a list of the next."""
    parts = {f"D{n}": {"type": "array", "items": ref(f"D{n + 1}")} for n in range(levels)}
    return arguments({"x": ref("D0")}, **{"$defs": {**parts, f"D{levels}": INTEGER}})


def cycles(count: int) -> dict[str, Any]:
    """Definitions that all lead to each other's neighbours."""
    parts = {f"D{n}": {"anyOf": [ref(f"D{(n + 1) % count}"), ref(f"D{(n + 7) % count}")]} for n in range(count)}
    return arguments({"x": ref("D0")}, **{"$defs": parts})


@pytest.mark.parametrize("schema", [doubling(40), chained(400), chained(2_000), cycles(300)])
def test_definitions_that_multiply_or_nest_without_end_stay_references(schema: dict[str, Any]) -> None:
    assert inline(schema) == schema


def test_definitions_that_multiply_within_reason_are_replaced() -> None:
    assert "$ref" not in json.dumps(inline(doubling(6)))


# -- composing


def test_texts_go_where_there_is_none() -> None:
    raw = arguments(
        {
            "city": STRING,
            "unit": {"type": "string", "description": "From Field.", "default": "c"},
            "at": {"type": "string", "format": "date-time", "default": "2026-01-01T00:00:00Z"},
            "color": ref("Color"),
            "any": {},
            "default": {"type": "integer", "default": 3},
        },
        "city",
        **{"$defs": {"Color": COLOR}},
    )
    before = copy.deepcopy(raw)
    docs = {
        "city": "Where.",
        "unit": "From the docstring.",
        "color": "The paint.",
        "any": "Whatever.",
        "other": "Gone.",
    }
    assert compose(raw, docs) == arguments(
        {
            "city": {"type": "string", "description": "Where."},
            "unit": {"type": "string", "description": "From Field.", "default": "c"},
            "at": {"type": "string", "format": "date-time", "default": "2026-01-01T00:00:00Z"},
            "color": {"enum": ["red", "blue"], "type": "string", "description": "The paint."},
            "any": {"description": "Whatever."},
            "default": {"type": "integer", "default": 3},
        },
        "city",
    )
    assert raw == before


def test_a_recursive_parameter_keeps_its_text_beside_the_reference() -> None:
    raw = arguments({"tree": ref("Node")}, "tree", **{"$defs": {"Node": ref("Node")}})
    assert compose(raw, {"tree": "The root."})["properties"] == {"tree": ref("Node", description="The root.")}


def nested(levels: int) -> dict[str, Any]:
    """A list of lists of lists."""
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return arguments({"x": schema})


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        "object",
        nested(50_000),
        {"type": 5},
        {"type": "object", "properties": []},
        {"type": "object", "properties": {"a": 5}},
        {"$defs": "many"},
        {"allOf": 5},
    ],
    ids=lambda raw: repr(raw)[:30] if not isinstance(raw, dict) or len(raw) < 3 else "deep",
)
def test_what_is_no_schema_is_refused(raw: Any) -> None:
    with pytest.raises(InvalidSchema):
        compose(raw, {"a": "Text."})


# -- cutting


def test_parameters_are_cut_with_all_that_only_they_used() -> None:
    schema = arguments(
        {"user": ref("User"), "tree": ref("Node")},
        "user",
        **{"$defs": {"User": ref("User"), "Node": ref("Other"), "Other": ref("Node")}},
    )
    before = copy.deepcopy(schema)
    assert without(schema, ["user"]) == arguments(
        {"tree": ref("Node")}, **{"$defs": {"Node": ref("Other"), "Other": ref("Node")}}
    )
    assert without(schema, ["user", "tree"]) == arguments({})
    assert without(schema, []) == schema == before


# -- checking

GOOD: list[dict[str, Any]] = [
    {"type": "object"},
    {"$schema": "http://json-schema.org/draft-07/schema#", **arguments({"a": STRING}, "a")},
    arguments({"node": ref("Node")}, **{"$defs": {"Node": NODE, "Color": COLOR}}),
    arguments({"$ref": STRING, "größe (cm)": {"type": "string", "pattern": r"^\d+$"}}),
    arguments({"a": {"const": {"$ref": "http://example.com/"}}}),
    {"type": "object", "additionalProperties": True},
    arguments({"x": doubling(8)["properties"]["x"]}, **{"$defs": doubling(8)["$defs"]}),
]

BAD: dict[str, tuple[Any, str, str]] = {
    "a list": ([], "", "at its root"),
    "no type": ({"properties": {}}, "", "at its root"),
    "another type": ({"type": "array"}, "", "at its root"),
    "a choice of types": ({"type": ["object", "null"]}, "", "at its root"),
    "an unknown type": (arguments({"a": {"type": "text"}}), "/properties/a/type", "is not valid"),
    "a list of items": (arguments({"a": {"items": [STRING]}}), "/properties/a/items", "is not valid"),
    "required is no list": ({"type": "object", "required": "a"}, "/required", "is not valid"),
    "too large": (arguments({"a": {"description": "x" * MAX_SIZE}}), "", "over 64 KiB"),
    "too deep": (nested(60), "", "over 64 KiB, or nested"),
    "hostilely deep": (nested(100_000), "", "over 64 KiB, or nested"),
    "a remote reference": (arguments({"a": {"$ref": "https://x.test/a"}}), "/properties/a/$ref", "is no definition"),
    "a file reference": (arguments({"a": {"$ref": "file:///etc/passwd"}}), "/properties/a/$ref", "is no definition"),
    "a reference to nothing": (arguments({"a": ref("A")}), "/properties/a/$ref", "is no definition"),
    "a reference to the root": (arguments({"a": {"$ref": "#"}}), "/properties/a/$ref", "is no definition"),
    "a dynamic reference": (arguments({"a": {"$dynamicRef": "#m"}}), "/properties/a/$dynamicRef", "not taken"),
    "another base": (arguments({"a": {"$id": "https://x.test/"}}), "/properties/a/$id", "not taken"),
    "another dialect inside": (arguments({"a": {"$schema": "x:y"}}), "/properties/a/$schema", "not taken"),
    "a broken pattern": (arguments({"a": {"pattern": "("}}), "/properties/a/pattern", "is not valid"),
    "a pattern that looks ahead": (arguments({"a": {"pattern": "(?=a)"}}), "/properties/a/pattern", "is not valid"),
    "a huge pattern": (arguments({"a": {"pattern": "((a{999}){999}){999}"}}), "/properties/a/pattern", "is not valid"),
    "a name with a newline": (arguments({"a\nb": STRING}), "/properties", "cannot be named"),
    "an empty name": (arguments({"": STRING}), "/properties", "cannot be named"),
    "a long name": (arguments({"a": arguments({"n" * 65: STRING})}), "/properties/a/properties", "cannot be named"),
    "half a character": (arguments({"\ud800": STRING}), "", "lone surrogate"),
    "definitions that multiply": (doubling(30), "/$defs", "multiply"),
    "too many definitions": (chained(600), "/$defs", "multiply"),
}


@pytest.mark.parametrize("schema", GOOD, ids=lambda schema: json.dumps(schema)[:40])
def test_a_sound_schema_is_taken(schema: dict[str, Any]) -> None:
    check(schema)


@pytest.mark.parametrize("case", BAD)
def test_an_unsound_schema_is_refused_with_its_place(case: str) -> None:
    schema, path, words = BAD[case]
    with pytest.raises(InvalidSchema) as caught:
        check(schema)
    assert caught.value.extra == {"path": path}
    assert words in caught.value.detail
    assert len(caught.value.detail) < 400
    assert caught.value.hint.endswith(".")


# -- validating

TRIP: dict[str, Any] = arguments(
    {
        "city": {"type": "string", "minLength": 2, "pattern": "^[A-Z]"},
        "days": {"type": "integer", "minimum": 1, "maximum": 30},
        "unit": {"enum": ["c", "f"]},
        "when": {"type": "string", "format": "date"},
        "place": arguments({"lat": {"type": "number"}, "lon": {"type": "number"}}, "lat", "lon"),
        "tags": {"type": "array", "items": STRING},
        "limit": {"anyOf": [INTEGER, {"type": "null"}]},
    },
    "city",
    "days",
)
RIGHT: dict[str, Any] = {"city": "Kyiv", "days": 3}


def entry(parameter: str, path: str, message: str, kind: str, **more: str) -> dict[str, str]:
    """An entry as it is expected."""
    return {"parameter": parameter, "path": path, "message": message, "type": kind, **more}


WRONG: list[tuple[dict[str, Any], list[dict[str, str]]]] = [
    (RIGHT, []),
    (RIGHT | {"limit": None, "place": {"lat": 1, "lon": 2.5}, "when": "2026-01-31"}, []),
    ({"days": 3}, [entry("city", "", "is required", "required")]),
    ({}, [entry("city", "", "is required", "required"), entry("days", "", "is required", "required")]),
    (RIGHT | {"days": "three"}, [entry("days", "", 'the value is not of type "integer"', "type")]),
    (RIGHT | {"days": 31}, [entry("days", "", "the value is greater than the maximum of 30", "maximum")]),
    (RIGHT | {"unit": "k"}, [entry("unit", "", 'the value is not one of "c" or "f"', "enum")]),
    (RIGHT | {"when": "soon"}, [entry("when", "", 'the value is not a "date"', "format")]),
    (
        RIGHT | {"city": "x"},
        [entry("city", "", 'the value is shorter than 2 characters; the value does not match "^[A-Z]"', "minLength")],
    ),
    (RIGHT | {"place": {"lat": 1}}, [entry("place", "lon", "is required", "required")]),
    (RIGHT | {"place": {"lat": "n", "lon": 2}}, [entry("place", "lat", 'the value is not of type "number"', "type")]),
    (RIGHT | {"tags": ["a", 5]}, [entry("tags", "1", 'the value is not of type "string"', "type")]),
    (
        RIGHT | {"limit": "all"},
        [entry("limit", "", 'the value is not of type "integer" or the value is not of type "null"', "anyOf")],
    ),
    (
        RIGHT | {"tag": ["a"]},
        [entry("tag", "", "is not a parameter", "additionalProperties", suggestion="tags")],
    ),
    (
        {"city": "Kyiv", "day": 3, "zzz": 1},
        [
            entry("days", "", "is required", "required"),
            entry("day", "", "is not a parameter", "additionalProperties", suggestion="days"),
            entry("zzz", "", "is not a parameter", "additionalProperties"),
        ],
    ),
]


@pytest.mark.parametrize(("given", "expected"), WRONG, ids=[json.dumps(given)[:50] for given, _ in WRONG])
def test_wrong_arguments_are_named_one_entry_a_parameter(given: dict[str, Any], expected: list[dict[str, str]]) -> None:
    assert validate(TRIP, given) == expected


@pytest.mark.parametrize("wrong", ["days", "unit", "when", "place", "tags", "limit"])
def test_a_value_is_never_repeated(wrong: str) -> None:
    errors = validate(TRIP, RIGHT | {wrong: {"a": "hunter2", "hunter2": [1]} if wrong != "place" else "hunter2"})
    assert [error["parameter"] for error in errors] == [wrong]
    assert "hunter2" not in json.dumps(errors)


def test_a_rule_over_all_arguments_names_no_parameter() -> None:
    assert validate({"type": "object", "minProperties": 1}, {}) == [
        entry("", "", "the value has less than 1 property", "minProperties")
    ]


TREE: dict[str, Any] = arguments(
    {"tree": ref("T"), "n": INTEGER},
    **{
        "$defs": {
            "T": {
                "anyOf": [
                    {"required": ["y"], "properties": {"n": ref("T")}},
                    {"required": ["z"], "properties": {"n": ref("T")}},
                ]
            }
        }
    },
)


def deep(levels: int) -> dict[str, Any]:
    """Objects in objects."""
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"n": value}
    return value


def test_a_recursive_schema_is_answered_at_once_however_deep_the_value() -> None:
    hidden = entry("tree", "", "the value does not match the schema of the parameter", "$ref")
    assert validate(TREE, {"tree": deep(40)}) == [hidden]
    assert validate(TREE, {"tree": deep(40), "n": "x"}) == [
        hidden,
        entry("n", "", 'the value is not of type "integer"', "type"),
    ]
    assert validate(TREE, {"tree": {"y": 1, "n": {"z": 2}}}) == []


def test_a_negated_reference_does_not_accuse_the_innocent() -> None:
    schema = arguments({"a": {"not": ref("S")}, "b": ref("S")}, **{"$defs": {"S": STRING}})
    assert [error["parameter"] for error in validate(schema, {"a": 1, "b": 2})] == ["b"]


def test_a_hostile_pattern_does_not_stall() -> None:
    schema = arguments({"a": {"type": "string", "pattern": "^(a+)+$"}})
    assert [error["type"] for error in validate(schema, {"a": "a" * 100_000 + "!"})] == ["pattern"]


def test_many_errors_are_cut() -> None:
    errors = validate(TRIP, {f"name{number}": 1 for number in range(100)})
    assert len(errors) == MAX_ERRORS
    assert [error["parameter"] for error in errors[:2]] == ["city", "days"]


@pytest.mark.parametrize("value", ["\ud800", deep(5_000)], ids=["surrogate", "deep"])
def test_what_the_validator_cannot_read_is_said(value: Any) -> None:
    message = "the arguments hold text that is not Unicode, or are nested too deeply"
    assert validate(TRIP, {"city": value, "days": 3}) == [entry("", "", message, "unreadable")]


# -- walking


def schemas_of(rng: random.Random, depth: int) -> Iterator[dict[str, Any]]:
    """Random schemas with references in all positions."""
    kinds = ["items", "properties", "anyOf", "additionalProperties", "ref", "plain"]
    for _ in range(rng.randint(1, 3)):
        kind = rng.choice(kinds) if depth else "ref"
        inner = list(schemas_of(rng, depth - 1)) if depth and kind not in ("ref", "plain") else [STRING]
        made: dict[str, dict[str, Any]] = {
            "items": {"type": "array", "items": inner[0]},
            "properties": {"type": "object", "properties": dict(zip(["$ref", "items", "x"], inner, strict=False))},
            "anyOf": {"anyOf": inner},
            "additionalProperties": {"type": "object", "additionalProperties": inner[-1]},
            "ref": ref(f"D{rng.randint(0, 4)}"),
            "plain": STRING,
        }
        yield made[kind]


@pytest.mark.parametrize("seed", range(40))
def test_after_inlining_only_recursive_references_are_left_and_all_lead_somewhere(seed: int) -> None:
    rng = random.Random(seed)
    definitions = {f"D{number}": next(schemas_of(rng, 2)) for number in range(5)}
    result = inline(arguments({"x": next(schemas_of(rng, 3))}, **{"$defs": definitions}))
    kept = result.get("$defs", {})
    for _, node in walk(result):
        assert definition(node) is None or definition(node) in kept
    graph = {name: {definition(node) for _, node in walk(part)} for name, part in kept.items()}
    for name in kept:
        reached: set[str | None] = set()
        waiting: list[str | None] = [name]
        while waiting:
            fresh = graph.get(str(waiting.pop()), set()) - reached
            reached |= fresh
            waiting += fresh
        assert name in reached, "only what leads back to itself is kept"
