"""Functions in the OpenAPI document: typed, with references that lead somewhere."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from server.functions import Function
from server.operations import components, operations
from server.registry import Version

ANSWER = "#/components/schemas/CallAnswer"
OBJECT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
NODE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
    "required": ["value"],
}
TREE = {
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/Node"}, "others": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
    "required": ["root"],
    "$defs": {"Node": NODE},
}


def version(
    name: str = "f",
    parameters: dict[str, Any] = OBJECT,
    returns: dict[str, Any] | None = None,
    description: str = "",
    tags: tuple[str, ...] = (),
) -> Version:
    """A function with these schemas."""
    function = Function(name, "", (), (), description, f"{name}(x)", parameters, returns or {}, tags)
    return Version(function, 1, "")


def document(*versions: Version) -> dict[str, Any]:
    """A whole document around them."""
    given = ("CallAnswer", "ExecutionAnswer", "Problem")
    schemas = {**{name: {"type": "object"} for name in given}, **components(versions)}
    schemes = {"HTTPBearer": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "t", "version": "1"},
        "paths": operations(versions, ANSWER),
        "components": {"schemas": schemas, "securitySchemes": schemes},
    }


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value."""
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(child)


def references(value: Any) -> set[str]:
    """Every reference in a document."""
    return {node["$ref"] for node in nodes(value) if isinstance(node.get("$ref"), str)}


def body_schema(version: Version) -> dict[str, Any]:
    """What the document says of a function's arguments."""
    post = operations([version], ANSWER)[f"/functions/{version.function.name}/call"]["post"]
    schema: dict[str, Any] = post["requestBody"]["content"]["application/json"]["schema"]
    return schema


def accepts(version: Version, arguments: Any) -> bool:
    """Whether the document allows a body, by a validator that reads the document only."""
    path = f"~1functions~1{version.function.name}~1call"
    schema = {**document(version), "$ref": f"#/paths/{path}/post/requestBody/content/application~1json/schema"}
    return jsonschema_rs.validator_for(schema).is_valid(arguments)


LATER_ANSWER = "#/components/schemas/ExecutionAnswer"
PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async`: answer at once, and let it go on by itself; `wait=N`: after N seconds",
    "schema": {"type": "string"},
    "example": "respond-async, wait=5",
}
LATER = {
    "description": "It goes on by itself; its address is in `Location`",
    "content": {"application/json": {"schema": {"$ref": LATER_ANSWER}}},
}


def test_an_operation_in_full() -> None:
    given = version("get", OBJECT, {"type": "string"}, "Get it.\n\nFrom there.\nOr not.", ("net", "calls"))
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    result = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    answer = {"allOf": [{"$ref": ANSWER}, {"properties": {"result": result}}]}
    assert operations([given], ANSWER) == {
        "/functions/get/call": {
            "post": {
                "operationId": "get",
                "summary": "Get it.",
                "description": "`get(x)`\n\nFrom there.\nOr not.",
                "tags": ["calls", "net"],
                "security": [{"HTTPBearer": []}],
                "parameters": [
                    {
                        "name": "session",
                        "in": "query",
                        "description": "A session to call it in; left out, a clean kernel",
                        "schema": {"type": "string"},
                    },
                    {
                        "name": "timeout",
                        "in": "query",
                        "description": "Seconds that the call may take, at most AIGBB_MAX_TIMEOUT",
                        "schema": {"type": "number", "exclusiveMinimum": 0},
                    },
                    PREFER,
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": OBJECT, "example": {"x": 1}}},
                },
                "responses": {
                    "200": {"description": "What the call gave", "content": {"application/json": {"schema": answer}}},
                    "202": LATER,
                    "4XX": {"description": "Something in the request", "content": problem},
                    "5XX": {"description": "Full, or unable", "content": problem},
                },
            }
        }
    }


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ({}, {"$ref": ANSWER}),
        ({"type": "null"}, {"allOf": [{"$ref": ANSWER}, {"properties": {"result": {"type": "null"}}}]}),
        (
            {"$ref": "#/$defs/Node", "$defs": {"Node": NODE}},
            {
                "allOf": [
                    {"$ref": ANSWER},
                    {
                        "properties": {
                            "result": {"anyOf": [{"$ref": "#/components/schemas/f.result.Node"}, {"type": "null"}]}
                        }
                    },
                ]
            },
        ),
    ],
)
def test_the_answer_says_what_the_result_is(returns: dict[str, Any], expected: dict[str, Any]) -> None:
    post = operations([version(returns=returns)], ANSWER)["/functions/f/call"]["post"]
    assert post["responses"]["200"]["content"]["application/json"]["schema"] == expected


def test_a_function_without_a_description_is_called_by_its_name() -> None:
    post = operations([version("get")], ANSWER)["/functions/get/call"]["post"]
    assert (post["summary"], post["description"]) == ("get", "`get(x)`")


def test_recursive_definitions_move_to_the_components() -> None:
    given = version("plant", TREE)
    assert body_schema(given) == {
        "type": "object",
        "properties": {
            "root": {"$ref": "#/components/schemas/plant.Node"},
            "others": {"type": "array", "items": {"$ref": "#/components/schemas/plant.Node"}},
        },
        "required": ["root"],
    }
    assert components([given]) == {
        "plant.Node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/components/schemas/plant.Node"}, {"type": "null"}]},
            },
            "required": ["value"],
        }
    }


@pytest.mark.parametrize(
    ("arguments", "accepted"),
    [
        ({"root": {"value": 1, "next": {"value": 2, "next": None}}, "others": [{"value": 3}]}, True),
        ({"root": {"value": 1, "next": {"value": "x"}}}, False),
        ({"root": {"value": 1}, "others": [{}]}, False),
        ({}, False),
    ],
)
def test_moved_definitions_mean_the_same(arguments: Any, accepted: bool) -> None:
    assert accepts(version("plant", TREE), arguments) == accepted
    assert jsonschema_rs.is_valid(TREE, arguments) == accepted


def test_functions_with_definitions_of_one_name_keep_them_apart() -> None:
    other = {"type": "array", "items": {"$ref": "#/$defs/Node"}}
    first, second = version("a", TREE), version("b", {**TREE, "$defs": {"Node": other}}, {"$ref": "#/$defs/Node"})
    assert list(components([first, second])) == ["a.Node", "b.Node"]
    result = version("c", TREE, {"$ref": "#/$defs/Node", "$defs": {"Node": other}})
    assert list(components([result])) == ["c.Node", "c.result.Node"]
    assert components([result])["c.result.Node"]["items"] == {"$ref": "#/components/schemas/c.result.Node"}


def test_definitions_with_odd_names_get_names_that_components_may_have() -> None:
    refs = [{"$ref": "#/$defs/Box%5Bint%5D"}, {"$ref": "#/$defs/Box(int)"}, {"$ref": "#/$defs/a~1b~0c"}]
    parameters = {
        "type": "object",
        "properties": {f"p{n}": ref for n, ref in enumerate(refs)},
        "$defs": {"Box[int]": {"type": "integer"}, "Box(int)": {"type": "string"}, "a/b~c": {"type": "null"}},
    }
    given = version("f", parameters)
    assert components([given]) == {
        "f.Box_int_": {"type": "integer"},
        "f.Box_int_.1": {"type": "string"},
        "f.a_b_c": {"type": "null"},
    }
    assert accepts(given, {"p0": 1, "p1": "x", "p2": None})
    assert not accepts(given, {"p1": 1})


def test_parameters_may_be_named_like_keywords_of_schemas() -> None:
    named = ("$ref", "$defs", "properties", "items", "discriminator", "$schema", "default")
    parameters = {
        "type": "object",
        "properties": {name: {"type": "string", "default": "#/$defs/Node"} for name in named},
        "examples": [{"$ref": "#/$defs/Node"}],
        "additionalProperties": False,
    }
    assert body_schema(version("f", parameters)) == parameters
    assert accepts(version("f", parameters), dict.fromkeys(named, "text"))
    assert not accepts(version("f", parameters), {"$ref": 1})


@pytest.mark.parametrize("ref", ["https://example.com/schema.json", "#/$defs/Gone", "#/properties/x", "#", "other"])
def test_a_reference_that_leads_nowhere_or_elsewhere_is_left_out(ref: str) -> None:
    given = version(returns={"type": "array", "items": {"$ref": ref, "description": "one"}})
    assert references(document(given)) == {ANSWER, LATER_ANSWER, "#/components/schemas/Problem"}


def test_every_reference_resolves_and_every_id_is_unique() -> None:
    whole = document(version("a", TREE), version("b", TREE, TREE), version("c", returns={"type": "integer"}))
    found = references(whole)
    assert found == {
        "#/components/schemas/CallAnswer",
        LATER_ANSWER,
        "#/components/schemas/Problem",
        "#/components/schemas/a.Node",
        "#/components/schemas/b.Node",
        "#/components/schemas/b.result.Node",
    }
    assert {ref.rsplit("/", 1)[1] for ref in found} == whole["components"]["schemas"].keys()
    assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", name) for name in whole["components"]["schemas"])
    assert [path["post"]["operationId"] for path in whole["paths"].values()] == ["a", "b", "c"]


def test_what_is_registered_is_not_changed() -> None:
    given = version("plant", TREE, {"$ref": "#/$defs/Node", "discriminator": {}, "$defs": {"Node": NODE}})
    before = copy.deepcopy(given)
    whole = document(given)
    whole["paths"]["/functions/plant/call"]["post"]["parameters"].clear()
    assert given == before
    assert document(given)["paths"]["/functions/plant/call"]["post"]["parameters"] != []
