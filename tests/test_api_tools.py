"""What models are shown of the functions, what becomes of their tool calls, and each function as an operation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs
import pytest

from tests.conftest import Server
from tests.doors import call, execute, problem, register, tool_call

pytest_plugins = ["tests.doors_fixtures"]

SOURCES = {
    "orders": """
def orders(customer: str, status: str = "open") -> str:
    \"\"\"List orders.\"\"\"
    return f"{status} of {customer}"
""",
    "divide": "def divide(n: int) -> int:\n    return 1 // n\n",
    "says_nothing": "def says_nothing() -> None:\n    pass\n",
    "counts": (
        "import sys\n\ndef counts() -> int:\n    sys.counted = getattr(sys, 'counted', 0) + 1\n    return sys.counted\n"
    ),
    "meets": """
import time
from pathlib import Path

def meets(folder: Path, mine: str, other: str) -> str:
    (folder / mine).touch()
    while not (folder / other).exists():
        time.sleep(0.01)
    return f"{mine} met {other}"
""",
    "leaks": """
import os

def leaks(how: str) -> str | None:
    \"\"\"Tell a secret by an exception, on paper or in the result.\"\"\"
    key = os.environ["LEAKED_KEY"]
    if how == "raise":
        raise KeyError(key)
    return print(key) if how == "print" else key
""",
    "shows": """
from IPython.display import Image, display

PNG = bytes.fromhex("89504e470d0a1a0a")

def shows(pictures: int) -> int:
    for _ in range(pictures):
        display(Image(PNG, format="png"))
    return pictures
""",
    "tree": """
from pydantic import BaseModel

class Node(BaseModel):
    value: int
    children: list["Node"] = []

def tree(root: Node) -> Node:
    return root
""",
}
MORE: dict[str, dict[str, Any]] = {
    "orders": {"bound": ["customer"], "tags": ["shop"]},
    "tree": {"name": "tree"},
    "meets": {"effects": "read"},
    "counts": {"confirm": "never"},
    "shows": {"confirm": "never"},
    "leaks": {"env": {"LEAKED_KEY": "hunter2-hunter2"}, "confirm": "never"},
}


@pytest.fixture
def tmp_path(shown: Path) -> Path:
    """A folder that kernels may write, too."""
    return shown


@pytest.fixture(scope="module", autouse=True)
def functions(server: Server) -> Iterator[None]:
    """The functions that are called here, registered together; gone afterwards."""
    bodies = [{"source": source, **MORE.get(name, {})} for name, source in SOURCES.items()]
    with server.client() as client:
        answer = client.post("/register/batch", json={"functions": bodies})
        assert answer.status_code == 201, answer.text
        yield
        for name in SOURCES:
            assert client.delete(f"/functions/{name}").status_code == 204


@pytest.fixture
def session(client: httpx2.Client) -> Iterator[str]:
    """A session's id."""
    identity: str = client.post("/sessions").json()["id"]
    yield identity
    client.delete(f"/sessions/{identity}")


# -- tools

FORMATS: dict[str, tuple[str, ...]] = {
    "openai": ("function", "parameters"),
    "openai-responses": ("parameters",),
    "legacy-functions": ("parameters",),
    "anthropic": ("input_schema",),
    "mcp": ("inputSchema",),
    "json-schema": (),
}


@pytest.mark.parametrize("form", FORMATS)
def test_tools_come_in_every_form_without_bound_parameters(client: httpx2.Client, form: str) -> None:
    answer = client.get("/tools", params={"format": form, "names": "orders"})
    [tool] = answer.json()
    schema = tool
    for step in FORMATS[form]:
        schema = schema[step]
    assert schema["properties"] == {"status": {"type": "string", "default": "open"}}
    assert "customer" not in json.dumps(tool)
    again = client.get("/tools", params={"format": form}, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_tools_as_text_have_one_section_each(client: httpx2.Client) -> None:
    answer = client.get("/tools", params={"format": "prompt", "names": "orders,word_count"})
    assert answer.headers["content-type"].startswith("text/plain")
    assert [line for line in answer.text.splitlines() if line.startswith("### ")] == [
        "### Tool: orders",
        "### Tool: word_count",
    ]
    assert '- status: string, optional, default "open".' in answer.text
    assert "customer" not in answer.text


def test_tools_are_chosen_by_tag_and_name_and_the_strict_form_says_who_has_none(client: httpx2.Client) -> None:
    chosen = client.get("/tools", params={"tags": "shop,none"}).json()
    assert [tool["function"]["name"] for tool in chosen] == ["orders"]
    strict = client.get("/tools", params={"strict": "true", "names": "orders,markdown_table"})
    found = {tool["function"]["name"]: tool["function"]["strict"] for tool in strict.json()}
    assert found == {"markdown_table": False, "orders": True}
    assert strict.headers["not-strict"].startswith("markdown_table (")


def test_the_etag_of_tools_changes_with_the_functions(client: httpx2.Client, name: str) -> None:
    before = client.get("/tools").headers["etag"]
    register(client, f"def {name}():\n    pass\n")
    after = client.get("/tools", headers={"If-None-Match": before})
    assert after.status_code == 200
    assert after.headers["etag"] != before


def run(client: httpx2.Client, *calls: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
    """Status and content of each tool call."""
    answer = client.post("/tools/run", json={"tool_calls": list(calls), **more})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [one["tool_call_id"] for one in body["messages"]] == [one["id"] for one in calls]
    assert [one["id"] for one in body["runs"]] == [one["id"] for one in calls]
    assert {one["role"] for one in body["messages"]} <= {"tool"}
    return [(r["status"], m["content"]) for r, m in zip(body["runs"], body["messages"], strict=True)]


def test_tool_calls_are_answered_in_order_whatever_becomes_of_them(client: httpx2.Client) -> None:
    found = run(
        client,
        tool_call("a", "word_count", {"text": "x x", "top": "1"}),
        tool_call("b", "divide", {"n": 0}),
        tool_call("c", "word_cuont", {}),
        tool_call("d", "word_count", "{broken"),
        tool_call("e", "word_count", "[1]"),
        tool_call("f", "says_nothing", ""),
        tool_call("g", "word_count", {"txt": "a"}),
    )
    assert [status for status, _ in found] == [
        "ok",
        "error",
        "unknown_function",
        "invalid_arguments",
        "invalid_arguments",
        "ok",
        "invalid_arguments",
    ]
    assert found[0][1] == '{"x":2}'
    assert json.loads(found[1][1])["detail"] == "ZeroDivisionError: integer division or modulo by zero"
    assert json.loads(found[2][1])["fix"] == {"name": "word_count"}
    assert json.loads(found[3][1])["detail"].startswith("The arguments are not JSON: ")
    assert json.loads(found[4][1])["detail"] == "The arguments are not a JSON object."
    assert found[5][1] == "The function returned nothing."
    assert json.loads(found[6][1])["fix"] == {"rename": {"txt": "text"}}


def runs(client: httpx2.Client, *calls: dict[str, Any]) -> list[dict[str, Any]]:
    """What is told of each tool call beside its content."""
    answer = client.post("/tools/run", json={"tool_calls": list(calls)})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["runs"]
    return found


def test_a_run_says_what_the_model_is_not_shown(client: httpx2.Client) -> None:
    failed, missing = runs(client, tool_call("a", "divide", {"n": 0}), tool_call("b", "nothing", {}))
    shown = {"id", "name", "status", "duration_ms", "version", "execution", "pictures", "whole", "traceback"}
    assert failed.keys() == shown
    assert failed["version"] == client.get("/functions/divide").json()["version"]
    assert "return 1 // n" in failed["traceback"]
    assert failed["traceback"].endswith("ZeroDivisionError: integer division or modulo by zero")
    assert {"version": None, "pictures": [], "whole": None, "traceback": ""}.items() <= missing.items()


def test_pictures_of_a_call_can_be_fetched(client: httpx2.Client) -> None:
    [shown] = runs(client, tool_call("a", "shows", {"pictures": 2}))
    assert len(set(shown["pictures"])) == 2
    for link in shown["pictures"]:
        answer = client.get(link)
        assert (answer.headers["content-type"], answer.content) == ("image/png", b"\x89PNG\r\n\x1a\n")


def test_a_long_result_is_shown_in_part_and_can_be_fetched_whole(client: httpx2.Client) -> None:
    asked = tool_call("a", "word_count", {"text": " ".join("w" * n for n in range(1, 300)), "top": 300})
    [(status, content)] = run(client, asked)
    [ran] = runs(client, asked)
    assert status == "ok" and 19_900 < len(content) <= 20_000
    assert len(client.get(ran["whole"]).json()) == 299
    link = re.search(r" characters left out; the whole: (/results/\S+) \.\.\.\n", content)
    assert link is not None
    assert client.get(link[1]).json() == client.get(ran["whole"]).json()


def test_values_of_variables_are_masked_in_errors_and_in_what_was_printed(client: httpx2.Client) -> None:
    calls = [tool_call(how, "leaks", {"how": how}) for how in ("raise", "print", "return")]
    (_, raised), (_, printed), (_, returned) = run(client, *calls)
    assert json.loads(raised)["detail"] == "KeyError: '***'"
    assert printed == "The function returned nothing.\nIt printed:\n***"
    assert returned == "hunter2-hunter2"
    assert "hunter2" not in runs(client, calls[0])[0]["traceback"]
    assert call(client, "leaks", {"how": "raise"})["error"] == "KeyError: 'hunter2-hunter2'"


def test_calls_that_only_read_run_side_by_side(client: httpx2.Client, tmp_path: Path) -> None:
    calls = [
        tool_call("1", "meets", {"folder": str(tmp_path), "mine": "a", "other": "b"}),
        tool_call("2", "meets", {"folder": str(tmp_path), "mine": "b", "other": "a"}),
    ]
    assert run(client, *calls) == [("ok", "a met b"), ("ok", "b met a")]


def test_tool_calls_in_a_session_run_one_after_the_other_in_its_kernel(client: httpx2.Client, session: str) -> None:
    calls = [tool_call(str(number), "counts", "{}") for number in range(3)]
    assert run(client, *calls, session=session) == [("ok", "1"), ("ok", "2"), ("ok", "3")]
    assert execute(client, "import sys; sys.counted", session=session)["result"] == "3"


def test_the_items_of_a_response_are_answered_in_their_own_form(client: httpx2.Client) -> None:
    item = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "name": "divide",
        "arguments": {"n": 1},
        "status": "completed",
    }
    answer = client.post("/tools/run", json={"tool_calls": [item, tool_call("x", "divide", {"n": -1})]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["messages"] == [
        {"type": "function_call_output", "call_id": "call_1", "output": "1"},
        {"role": "tool", "tool_call_id": "x", "content": "-1"},
    ]


def test_no_tool_calls_are_no_messages(client: httpx2.Client) -> None:
    answer = client.post("/tools/run", json={"tool_calls": []}).json()
    assert (answer["messages"], answer["runs"]) == ([], [])


def test_bound_values_come_from_the_caller_and_never_from_the_model(client: httpx2.Client, tmp_path: Path) -> None:
    asked = tool_call("1", "orders", {"status": "late"})
    assert run(client, asked, bound={"customer": "c1", "other": 1}) == [("ok", "late of c1")]
    waits = tool_call("2", "meets", {"folder": str(tmp_path), "mine": "ran", "other": "ran"})
    missing = problem(client.post("/tools/run", json={"tool_calls": [waits, asked]}), 422, "missing_bound")
    assert missing["fix"] == {"bound": ["customer"]}
    assert not (tmp_path / "ran").exists()
    [(status, content)] = run(client, tool_call("3", "orders", {"customer": "c2"}), bound={"customer": "c1"})
    assert status == "invalid_arguments"
    assert [entry["parameter"] for entry in json.loads(content)["errors"]] == ["customer"]
    assert "c1" not in content
    assert call(client, "orders", {"customer": "c3"})["result"] == "open of c3"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tool_calls": {}},
        {"tool_calls": [{"id": "1"}]},
        {"tool_calls": [tool_call("1", "divide", {})], "bund": {}},
        {"tool_calls": [tool_call("1", "divide", {})] * 129},
        {"tool_calls": [], "timeout": 0},
    ],
)
def test_what_are_no_tool_calls_is_refused(client: httpx2.Client, body: dict[str, Any]) -> None:
    problem(client.post("/tools/run", json=body), 422, "invalid_request")


# -- operations


class Caller:
    """A client that knows nothing of the service but its OpenAPI document."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client
        self.document = client.get("/openapi.json").json()
        self.found = {
            operation["operationId"]: (verb, path, operation)
            for path, verbs in self.document["paths"].items()
            for verb, operation in verbs.items()
        }

    def call(self, identity: str, arguments: Any = None) -> Any:
        """Call an operation, with its own example unless there are arguments; both sides keep to the document."""
        verb, path, operation = self.found[identity]
        [(media, body)] = operation["requestBody"]["content"].items()
        arguments = body["example"] if arguments is None else arguments
        self.holds(body["schema"], arguments)
        answer = self.client.request(verb, path, content=json.dumps(arguments), headers={"Content-Type": media})
        assert answer.status_code == 200, answer.text
        self.holds(operation["responses"]["200"]["content"]["application/json"]["schema"], answer.json())
        return answer.json()

    def holds(self, schema: dict[str, Any], value: Any) -> None:
        """Raises what does not fit."""
        whole = {**schema, "components": self.document["components"]}
        jsonschema_rs.validator_for(whole).validate(value)


def test_every_function_can_be_called_from_the_document_alone(client: httpx2.Client) -> None:
    caller = Caller(client)
    functions = [f["name"] for f in client.get("/functions").json()]
    assert {"orders", "word_count"} < set(functions)
    assert sorted(name for name in caller.found if not name.startswith("aigbb.")) == functions
    for name in set(functions) - {"meets"}:
        assert caller.call(name)["status"] in ("ok", "error")
    assert caller.call("word_count", {"text": "a a"})["result"] == {"a": 2}
    deep = {"value": 1, "children": [{"value": 2, "children": []}]}
    assert caller.call("tree", {"root": deep})["result"] == deep
    with pytest.raises(jsonschema_rs.ValidationError):
        caller.call("word_count", {"text": 1})
