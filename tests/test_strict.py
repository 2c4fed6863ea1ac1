"""The strict form of schemas: what it is, why some have none, and that it never breaks a rule."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.samples import sample
from server.schemas import mapped
from server.strict import NotStrict, conforms, to_strict

STRING: dict[str, Any] = {"type": "string"}
NULL: dict[str, Any] = {"type": "null"}


def arguments(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    """A schema of arguments as pydantic gives it."""
    return {"type": "object", "properties": properties, "required": list(required), **more}


def strict(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A schema in strict form."""
    closed = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": properties, **closed, **more}


# A parameter's schema, and its strict form where it is required and where it is optional.
PARAMETERS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (STRING, STRING, {"type": ["string", "null"]}),
    (
        {"type": "string", "description": "Where.", "default": "", "title": "City", "minLength": 2},
        {"type": "string", "description": "Where."},
        {"type": ["string", "null"], "description": "Where."},
    ),
    (
        {"type": "integer", "minimum": 1, "exclusiveMaximum": 9, "multipleOf": 2},
        {"type": "integer", "minimum": 1, "exclusiveMaximum": 9, "multipleOf": 2},
        {"type": ["integer", "null"], "minimum": 1, "exclusiveMaximum": 9, "multipleOf": 2},
    ),
    (
        {"type": "string", "format": "date", "pattern": "^2"},
        {"type": "string", "format": "date", "pattern": "^2"},
        {"type": ["string", "null"], "format": "date", "pattern": "^2"},
    ),
    ({"type": "string", "format": "path"}, STRING, {"type": ["string", "null"]}),
    ({"type": "string", "pattern": "^(?!a)"}, STRING, {"type": ["string", "null"]}),
    ({"type": "string", "pattern": r"(a)\1"}, STRING, {"type": ["string", "null"]}),
    (
        {"type": "string", "enum": ["c", "f"]},
        {"type": "string", "enum": ["c", "f"]},
        {"type": ["string", "null"], "enum": ["c", "f", None]},
    ),
    (
        {"enum": ["c", 1, True, None]},
        {"type": ["string", "integer", "boolean", "null"], "enum": ["c", 1, True, None]},
        {"type": ["string", "integer", "boolean", "null"], "enum": ["c", 1, True, None]},
    ),
    (
        {"const": "on"},
        {"type": "string", "const": "on"},
        {"anyOf": [{"type": "string", "const": "on"}, NULL]},
    ),
    (
        {"anyOf": [STRING, NULL], "default": None},
        {"anyOf": [STRING, NULL]},
        {"anyOf": [STRING, NULL]},
    ),
    (
        {"oneOf": [STRING, {"type": "integer"}], "description": "Either."},
        {"anyOf": [STRING, {"type": "integer"}], "description": "Either."},
        {"anyOf": [STRING, {"type": "integer"}, NULL], "description": "Either."},
    ),
    (
        {"type": ["string", "integer"], "minimum": 2},
        {"type": ["string", "integer"], "minimum": 2},
        {"type": ["string", "integer", "null"], "minimum": 2},
    ),
    (
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "uniqueItems": True},
        {"type": "array", "items": STRING, "minItems": 1},
        {"anyOf": [{"type": "array", "items": STRING, "minItems": 1}, NULL]},
    ),
    (
        arguments({"lat": STRING, "note": STRING}, "lat", description="A place.", title="Place"),
        strict({"lat": STRING, "note": {"type": ["string", "null"]}}, description="A place."),
        {
            "anyOf": [strict({"lat": STRING, "note": {"type": ["string", "null"]}}), NULL],
            "description": "A place.",
        },
    ),
    (
        {"properties": {"a": STRING}},
        strict({"a": {"type": ["string", "null"]}}),
        {"anyOf": [strict({"a": {"type": ["string", "null"]}}), NULL]},
    ),
    (
        {"type": "object", "additionalProperties": False},
        strict({}),
        {"anyOf": [strict({}), NULL]},
    ),
]


@pytest.mark.parametrize(("schema", "required", "optional"), PARAMETERS, ids=[str(p[0])[:50] for p in PARAMETERS])
def test_a_parameter_in_strict_form(schema: dict[str, Any], required: Any, optional: Any) -> None:
    whole = arguments({"a": schema, "b": schema}, "a", additionalProperties=False, title="Call")
    before = copy.deepcopy(whole)
    result = to_strict(whole)
    assert result == strict({"a": required, "b": optional})
    assert conforms(result) == []
    assert whole == before


def test_a_function_without_parameters_has_a_strict_form() -> None:
    assert to_strict({"type": "object", "properties": {}, "additionalProperties": False}) == strict({})


def test_recursion_stays_and_text_goes_around_a_reference() -> None:
    node = {"type": "object", "properties": {"name": STRING, "next": {"$ref": "#/$defs/Node", "default": None}}}
    tree = {"$ref": "#/$defs/Node", "description": "The root."}
    result = to_strict(arguments({"tree": tree}, "tree", **{"$defs": {"Node": node}}))
    link = {"anyOf": [{"$ref": "#/$defs/Node"}, NULL]}
    assert result == strict(
        {"tree": {"anyOf": [{"$ref": "#/$defs/Node"}], "description": "The root."}},
        **{"$defs": {"Node": strict({"name": {"type": ["string", "null"]}, "next": link})}},
    )
    assert conforms(result) == []


def nested(levels: int) -> dict[str, Any]:
    """Objects in objects, the outermost included."""
    schema: dict[str, Any] = arguments({"x": STRING}, "x")
    for _ in range(levels - 1):
        schema = arguments({"x": schema}, "x")
    return schema


REFUSED: list[tuple[dict[str, Any], str]] = [
    (arguments({"data": {}}), "`data` accepts anything."),
    (arguments({"data": {"description": "What you like."}}), "`data` accepts anything."),
    (arguments({"data": True}), "`data` accepts anything."),
    (arguments({"data": {"type": "object"}}), "`data` is a free-form object."),
    (
        arguments({"data": {"type": "object", "additionalProperties": STRING}}),
        "`data` is a free-form object.",
    ),
    (
        arguments({"data": arguments({"a": STRING}, additionalProperties=True)}),
        "`data` takes names beyond those listed.",
    ),
    (
        arguments({"data": arguments({}, "a", additionalProperties=False)}),
        "`data` requires `a`, and does not describe it.",
    ),
    (arguments({"data": {"type": "array"}}), "`data` is a list of anything."),
    (arguments({"data": {"type": "array", "items": {}}}), "`data` is a list of anything."),
    (
        arguments({"data": {"type": "array", "items": arguments({"b": {"type": "object"}})}}),
        "`data[].b` is a free-form object.",
    ),
    (arguments({"data": {"allOf": [STRING]}}), "`data` combines several schemas (allOf)."),
    (arguments({"data": {"type": "string", "not": {"const": "x"}}}), "`data` excludes a schema (not)."),
    (arguments({"data": {"type": "string", "if": STRING}}), "`data` has conditions (if)."),
    (
        arguments({"data": {"type": "array", "prefixItems": [STRING]}}),
        "`data` is a list whose items differ by position (prefixItems).",
    ),
    (
        arguments({"data": {"type": "object", "patternProperties": {"^x": STRING}}}),
        "`data` takes names by a pattern (patternProperties).",
    ),
    (
        arguments({"a": STRING}, dependentRequired={"a": ["b"]}),
        "The function depends on other parameters (dependentRequired).",
    ),
    (arguments({"data": {"anyOf": [STRING], "type": "string"}}), "`data` is a choice and a type at once."),
    (arguments({"data": {"anyOf": [STRING, {}]}}), "`data` accepts anything."),
    (arguments({"data": {"enum": [[1], [2]]}}), "`data` takes certain lists or objects only."),
    (arguments({"data": {"$ref": "https://x.test"}}), "`data` refers to another schema and adds to it."),
    (
        arguments({"data": {"$ref": "#/$defs/A", "type": "string"}}, **{"$defs": {"A": STRING}}),
        "`data` refers to another schema and adds to it.",
    ),
    (
        arguments({"data": {"$ref": "#/$defs/A"}}, **{"$defs": {"A": arguments({"b": {}})}}),
        "`A.b` accepts anything.",
    ),
    ({"type": "object", "additionalProperties": True}, "The function takes any names."),
    (arguments({"a": STRING}, additionalProperties=True), "The function takes names beyond those listed."),
    ({"type": "object", "anyOf": [arguments({})]}, "The arguments as a whole are a choice (anyOf)."),
    (STRING, "The arguments are not one object."),
    (
        arguments({f"p{number}": STRING for number in range(5_001)}, *(f"p{number}" for number in range(5_001))),
        "There are 5,001 properties; 5,000 are allowed.",
    ),
    (nested(11), "Objects are nested 11 levels deep; 10 are allowed."),
    (
        arguments({"a": {"enum": [*range(600)]}, "b": {"enum": [*range(401)]}}, "a", "b"),
        "There are 1,001 allowed values; 1,000 may be listed.",
    ),
    (
        arguments({"a": {"enum": [f"{number:060}" for number in range(251)]}}, "a"),
        "A list of 251 values has 15,060 characters; 15,000 are allowed.",
    ),
    (
        arguments({"a": {"enum": [f"{number:01000}" for number in range(120)]}}, "a"),
        "Names and values have 120,001 characters; 120,000 are allowed.",
    ),
]


@pytest.mark.parametrize(("schema", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_the_reason_names_what_has_no_strict_form(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(NotStrict) as caught:
        to_strict(schema)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "schema",
    [
        nested(10),
        arguments({f"p{number}": STRING for number in range(5_000)}, *(f"p{number}" for number in range(5_000))),
        arguments({"a": {"enum": [*range(600)]}, "b": {"enum": [*range(400)]}}, "a", "b"),
        arguments({"a": {"enum": [f"{number:060}" for number in range(250)]}}, "a"),
        arguments({"a": {"enum": [f"{number:0999}" for number in range(120)]}}, "a"),
    ],
    ids=["levels", "properties", "values", "long list", "characters"],
)
def test_the_limits_themselves_are_allowed(schema: dict[str, Any]) -> None:
    assert conforms(to_strict(schema)) == []


BROKEN: list[tuple[dict[str, Any], list[str]]] = [
    (STRING, ["The root is not an object."]),
    ({**strict({}), "additionalProperties": True}, ["The root: an open object"]),
    ({**strict({"a": STRING}), "required": []}, ["The root: not all is required"]),
    (strict({"a": {}}), ["properties/a: has no type"]),
    (strict({"a": True}), ["The root: a is no schema with a type"]),
    (strict({"a": {**STRING, "default": ""}}), ["properties/a: holds ['default']"]),
    (strict({"a": {**STRING, "minLength": 1}}), ["properties/a: holds ['minLength']"]),
    (strict({"a": {**STRING, "minimum": 1}}), ["properties/a: holds ['minimum']"]),
    (strict({"a": {**STRING, "format": "uri"}}), ["properties/a: format uri"]),
    (strict({"a": {**STRING, "pattern": "(?=a)"}}), ["properties/a: pattern looks around"]),
    (strict({"a": {"type": "array"}}), ["properties/a: a list without items"]),
    (strict({"a": {"oneOf": [STRING]}}), ["properties/a: holds ['oneOf']", "properties/a: has no type"]),
    (strict({"a": {"anyOf": [STRING], "type": "string"}}), ["properties/a: anyOf stands beside ['type']"]),
    (strict({"a": {"$ref": "#/$defs/A"}}), ["properties/a: $ref leads nowhere"]),
    (
        strict({"a": {"$ref": "#/$defs/A", "description": "x"}}, **{"$defs": {"A": STRING}}),
        ["properties/a: $ref has company"],
    ),
    (
        strict({}, **{"$defs": {"A": {"type": "object"}}}),
        [
            "$defs/A: an open object",
            "$defs/A: not all is required",
        ],
    ),
]


@pytest.mark.parametrize(("schema", "faults"), BROKEN, ids=[faults[0] for _, faults in BROKEN])
def test_the_checker_sees_each_broken_rule(schema: dict[str, Any], faults: list[str]) -> None:
    assert conforms(schema) == faults


# -- any schema at all

SCALARS = st.sampled_from(
    [
        STRING,
        {"type": "integer", "minimum": 1, "default": 3},
        {"type": "number", "exclusiveMaximum": 9.5},
        {"type": "boolean"},
        NULL,
        {"type": ["string", "null"], "format": "uri"},
        {"type": "string", "pattern": "^(?=a)", "maxLength": 5},
        {"enum": ["a", 1, None]},
        {"type": "string", "enum": ["a", "b"], "default": "a"},
        {"const": 5, "title": "Five"},
        {"$ref": "#/$defs/Node"},
        {"$ref": "#/$defs/Node", "description": "A node."},
        {},
        True,
        {"type": "object"},
    ]
)
NAMES = st.sampled_from(["a", "b", "type", "$ref", "properties", "default", "anyOf"])


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas around schemas."""
    properties = st.dictionaries(NAMES, inner, max_size=3)
    return st.one_of(
        st.builds(lambda items: {"type": "array", "items": items, "minItems": 1}, inner),
        st.builds(lambda branches: {"anyOf": branches, "description": "A choice."}, st.lists(inner, min_size=1)),
        st.builds(lambda branches: {"oneOf": branches}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda parts, count, more: {**arguments(parts, *list(parts)[:count]), **more},
            properties,
            st.integers(0, 3),
            st.sampled_from([{}, {"additionalProperties": False}, {"additionalProperties": STRING}]),
        ),
        st.builds(lambda part: {"allOf": [part]}, inner),
    )


NODE = arguments({"name": STRING, "next": {"anyOf": [{"$ref": "#/$defs/Node"}, NULL]}}, "name")
WHOLE = st.builds(
    lambda parts, count: arguments(
        parts, *list(parts)[:count], additionalProperties=False, **{"$defs": {"Node": NODE}}
    ),
    st.dictionaries(NAMES, st.recursive(SCALARS, containers, max_leaves=8), max_size=4),
    st.integers(0, 4),
)


@settings(deadline=None, max_examples=300)
@given(WHOLE)
def test_a_strict_form_never_breaks_a_rule_and_takes_what_the_schema_takes(schema: dict[str, Any]) -> None:
    try:
        result = to_strict(schema)
    except NotStrict as reason:
        assert str(reason).endswith(".")
        return
    assert conforms(result) == []
    assert set(result["properties"]) == set(schema["properties"])
    everything = sample(filled(schema))
    if jsonschema_rs.Draft202012Validator(schema, validate_formats=True).is_valid(everything):
        assert jsonschema_rs.Draft202012Validator(result).is_valid(everything), json.dumps(result)


def filled(schema: Any) -> Any:
    """The schema with all members required: a value of it leaves nothing out."""
    if not isinstance(schema, dict):
        return schema
    result = mapped(schema, filled)
    return {**result, "required": list(schema["properties"])} if "properties" in schema else result
