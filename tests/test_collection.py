"""The live Postman collection: one request a function, in the form that Postman imports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from server.collection import collection
from server.functions import Function
from server.registry import Version


def version(name: str, *tags: str, example: object = "x", description: str = "") -> Version:
    """A function that takes one argument."""
    parameters = {"type": "object", "properties": {"a": {"examples": [example]}}, "required": ["a"]}
    return Version(Function(name, "", (), (), description, f"{name}(a)", parameters, tags=tags), 1, "")


VERSIONS = [
    version("zeta"),
    version("beta", "office", "zoo"),
    version("alpha", "zoo"),
    version("gamma", description="Count.\n\nSlowly."),
]
CONTENT = collection(VERSIONS, "http://127.0.0.1:8000/")


def requests(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every item that is a request."""
    for item in items:
        yield from requests(item["item"]) if "item" in item else [item]


def item_of(name: str, content: dict[str, Any] = CONTENT) -> dict[str, Any]:
    """One request by its name."""
    return next(item for item in requests(content["item"]) if item["name"] == name)


def script(item: dict[str, Any]) -> str:
    """What runs after a request."""
    return "\n".join(item["event"][0]["script"]["exec"])


def test_is_a_collection_that_postman_imports() -> None:
    assert CONTENT["info"]["schema"] == "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
    assert CONTENT["info"]["name"]
    for item in requests(CONTENT["item"]):
        request = item["request"]
        assert request["method"] in ("GET", "POST")
        assert request["url"]["raw"] == "/".join([*request["url"]["host"], *request["url"]["path"]])
        assert request["url"]["host"] == ["{{baseUrl}}"]
        assert all(event["listen"] == "test" and event["script"]["exec"] for event in item["event"])
        assert all(set(header) == {"key", "value"} for header in request["header"])
        assert ("body" in request) == (request["method"] == "POST")


def test_has_a_folder_a_tag_and_each_function_once() -> None:
    assert [(folder["name"], [item["name"] for item in folder["item"]]) for folder in CONTENT["item"]] == [
        ("Service", ["Health", "List functions", "Execute"]),
        ("office", ["beta"]),
        ("zoo", ["alpha"]),
        ("Functions", ["gamma", "zeta"]),
    ]


def test_a_call_has_its_arguments_filled_in() -> None:
    request = item_of("gamma")["request"]
    assert request == {
        "method": "POST",
        "header": [{"key": "Content-Type", "value": "application/json"}],
        "url": {
            "raw": "{{baseUrl}}/functions/gamma/call",
            "host": ["{{baseUrl}}"],
            "path": ["functions", "gamma", "call"],
        },
        "description": "`gamma(a)`\n\nCount.\n\nSlowly.",
        "body": {"mode": "raw", "raw": '{\n  "a": "x"\n}', "options": {"raw": {"language": "json"}}},
    }


def test_calls_and_executions_are_tested() -> None:
    for name in ("alpha", "Execute"):
        assert script(item_of(name)) == (
            "pm.test('Answers', () => {\n"
            "  pm.response.to.have.status(200);\n"
            "  pm.expect(pm.response.json().status).to.be.oneOf(['ok', 'error']);\n"
            "});"
        )
    assert script(item_of("Health")) == "pm.test('Answers', () => {\n  pm.response.to.have.status(200);\n});"


def test_the_token_is_a_variable_and_only_health_goes_without() -> None:
    assert CONTENT["auth"] == {
        "type": "bearer",
        "bearer": [{"key": "token", "value": "{{token}}", "type": "string"}],
    }
    assert {v["key"]: v["value"] for v in CONTENT["variable"]} == {"baseUrl": "http://127.0.0.1:8000", "token": ""}
    assert [item["name"] for item in requests(CONTENT["item"]) if "auth" in item["request"]] == ["Health"]


def test_an_argument_that_looks_like_a_variable_is_none() -> None:
    content = collection([version("render", example="Dear {{name}}, {{{a}}} {{{{$guid}}")], "http://x")
    raw = item_of("render", content)["request"]["body"]["raw"]
    assert "{{" not in raw
    assert json.loads(raw) == {"a": "Dear {{name}}, {{{a}}} {{{{$guid}}"}


def test_the_same_versions_give_the_same_collection() -> None:
    again = collection(reversed(VERSIONS), "http://127.0.0.1:8000")
    assert json.dumps(again) == json.dumps(CONTENT)
    assert "_postman_id" not in json.dumps(CONTENT)


def test_without_functions_the_service_is_left() -> None:
    assert [folder["name"] for folder in collection([], "http://x")["item"]] == ["Service"]
