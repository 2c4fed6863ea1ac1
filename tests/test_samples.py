"""An example of a schema is valid, readable, and ends."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from server.functions import Function
from server.samples import sample, sample_arguments

STRING: dict[str, Any] = {"type": "string"}
NODE: dict[str, Any] = {
    "type": "object",
    "properties": {"name": STRING, "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
    "required": ["name", "children"],
}
LINK: dict[str, Any] = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Link"}, {"type": "null"}]}},
    "required": ["next"],
}

SAMPLES: list[tuple[dict[str, Any], Any]] = [
    (STRING, "text"),
    ({"type": "integer"}, 1),
    ({"type": "number"}, 1.5),
    ({"type": "boolean"}, True),
    ({"type": "null"}, None),
    ({}, "text"),
    ({"type": ["null", "integer"]}, 1),
    ({"type": "integer", "examples": [42], "default": 7}, 42),
    ({"type": "integer", "default": 7}, 7),
    ({"type": "string", "default": None}, "text"),
    ({"const": "on"}, "on"),
    ({"type": "string", "enum": ["c", "f"]}, "c"),
    ({"type": "string", "enum": ["c", "f"], "default": "f"}, "f"),
    ({"type": "integer", "minimum": 5}, 10),
    ({"type": "integer", "minimum": 11, "maximum": 12}, 11),
    ({"type": "integer", "exclusiveMinimum": 11, "exclusiveMaximum": 13}, 12),
    ({"type": "integer", "maximum": -3}, -3),
    ({"type": "integer", "multipleOf": 7, "minimum": 20}, 21),
    ({"type": "number", "minimum": 0, "maximum": 1}, 1),
    ({"type": "number", "exclusiveMinimum": 0.2, "exclusiveMaximum": 0.4}, pytest.approx(0.3)),
    ({"type": "string", "minLength": 6}, "textte"),
    ({"type": "string", "maxLength": 2}, "te"),
    ({"type": "string", "format": "date"}, "2025-01-31"),
    ({"type": "string", "format": "date-time"}, "2025-01-31T09:30:00Z"),
    ({"type": "string", "format": "time"}, "09:30:00Z"),
    ({"type": "string", "format": "duration"}, "P1D"),
    ({"type": "string", "format": "email"}, "name@example.com"),
    ({"type": "string", "format": "uuid"}, "123e4567-e89b-12d3-a456-426614174000"),
    ({"type": "string", "format": "uri"}, "https://example.com/"),
    ({"type": "string", "format": "ipv4"}, "192.0.2.1"),
    ({"type": "string", "format": "ipv6"}, "2001:db8::1"),
    ({"type": "string", "format": "path"}, "notes.txt"),
    ({"type": "string", "pattern": "^[a-z]+$"}, "text"),
    ({"type": "string", "pattern": r"^\d{5}$"}, "11111"),
    ({"type": "string", "pattern": "^[A-Z]{3}$"}, "AAA"),
    ({"type": "string", "pattern": "^v1beta$"}, "v1beta"),
    ({"type": "string", "contentMediaType": "application/json", "contentSchema": {"type": "integer"}}, "1"),
    ({"type": "array", "items": STRING}, ["text"]),
    ({"type": "array", "items": STRING, "maxItems": 0}, []),
    ({"type": "array", "items": STRING, "minItems": 2}, ["text", "text"]),
    ({"type": "array", "items": STRING, "minItems": 2, "uniqueItems": True}, ["text", "text2"]),
    ({"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "uniqueItems": True}, [1, 2]),
    ({"type": "array", "prefixItems": [STRING, {"type": "integer"}], "minItems": 2, "maxItems": 2}, ["text", 1]),
    ({"type": "array"}, []),
    ({"type": "object"}, {}),
    ({"type": "object", "properties": {"a": STRING, "b": {"type": "integer"}}, "required": ["b"]}, {"b": 1}),
    ({"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1}, {"name1": 1}),
    ({"type": "object", "properties": {"a": STRING, "b": STRING}, "minProperties": 1}, {"a": "text"}),
    ({"anyOf": [{"type": "null"}, STRING]}, "text"),
    ({"oneOf": [{"type": "integer"}, STRING], "description": "Either."}, 1),
    ({"allOf": [{"type": "integer"}, {"minimum": 100}]}, 100),
    ({"properties": {"kind": {"const": "dog"}}, "required": ["kind"]}, {"kind": "dog"}),
    ({"$ref": "#/$defs/Node", "$defs": {"Node": NODE}}, {"name": "text", "children": []}),
    ({"$ref": "#/$defs/Link", "$defs": {"Link": LINK}}, {"next": None}),
    (
        {"type": "array", "items": {"$ref": "#/$defs/Node"}, "minItems": 1, "$defs": {"Node": NODE}},
        [{"name": "text", "children": []}],
    ),
]


@pytest.mark.parametrize(("schema", "expected"), SAMPLES, ids=[json.dumps(schema)[:60] for schema, _ in SAMPLES])
def test_a_sample_is_valid_and_readable(schema: dict[str, Any], expected: Any) -> None:
    value = sample(schema)
    assert value == expected
    assert type(value) is type(expected) or isinstance(value, float)
    validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True, offline=True)
    assert [error.message for error in validator.iter_errors(value)] == []


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}},
        {"$ref": "#/$defs/Missing"},
        {
            "$ref": "#/$defs/A",
            "$defs": {
                "A": {
                    "type": "object",
                    "properties": {"x": {"$ref": "#/$defs/A"}, "y": {"$ref": "#/$defs/A"}},
                    "required": ["x", "y"],
                }
            },
        },
        {"type": "array", "items": STRING, "minItems": 10**12},
        {"type": "string", "minLength": 10**12},
        {"type": "object", "minProperties": 10**12},
        {"type": "string", "pattern": "(?=never)"},
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "integer", "multipleOf": 1e-320, "minimum": 10**300},
        {"type": "number", "multipleOf": 1e-320, "minimum": 1e300, "maximum": -1},
        {"type": "integer", "minimum": 10**400, "maximum": 10**399},
        {"not": {}},
        False,
    ],
    ids=lambda schema: json.dumps(schema)[:40],
)
def test_a_hostile_schema_gives_something_small(schema: Any) -> None:
    assert len(json.dumps(sample(schema))) < 20_000


def test_the_schema_is_left_as_it_was() -> None:
    before = json.dumps(SAMPLES[-1][0])
    sample(SAMPLES[-1][0])
    assert json.dumps(SAMPLES[-1][0]) == before


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, {}),
        ({"type": "object", "properties": {"city": STRING, "days": {"type": "integer"}}}, {}),
        (
            {
                "type": "object",
                "properties": {"city": {"type": "string", "examples": ["Kyiv"]}, "user_id": {"type": "integer"}},
                "required": ["city", "user_id"],
            },
            {"city": "Kyiv", "user_id": 1},
        ),
    ],
)
def test_the_arguments_of_a_function_are_those_it_requires(
    parameters: dict[str, Any], expected: dict[str, Any]
) -> None:
    function = Function("f", "", (), (), "", "f()", parameters, bound=("user_id",))
    assert sample_arguments(function) == expected
