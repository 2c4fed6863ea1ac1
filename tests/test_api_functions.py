"""Registration over HTTP: alone and together, tried out, under conditions. No package is installed."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.conftest import Server
from tests.doors import EVENTS, call, execute, picture, problem, register, source_of, stream

pytest_plugins = ["tests.doors_fixtures"]

# -- register


def test_a_function_registers_with_the_original_field_names_and_runs(client: httpx2.Client, name: str) -> None:
    body = {"functionName": name, "functionScript": source_of(name), "packages": "", "envVariables": {}}
    answer = client.post("/register", json=body)
    assert answer.status_code == 201
    registered = answer.json()
    told = ("name", "version", "signature", "description", "unchanged", "dry_run", "new_generation", "resolution")
    assert {member: registered[member] for member in told} == {
        "name": name,
        "version": 1,
        "signature": f"{name}(n: int) -> int",
        "description": "Add one.",
        "unchanged": False,
        "dry_run": False,
        "new_generation": False,
        "resolution": "kept",
    }
    assert registered["parameters"] == {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    assert registered["returns"] == {"type": "integer"}
    assert registered["package_changes"] == {"added": [], "removed": [], "changed": []}
    assert set(registered["timings_ms"]) == {"parse", "resolve", "build", "verify", "switch", "publish"}
    assert execute(client, f"{name}(41)")["result"] == "42"


def test_the_same_again_is_unchanged_and_another_source_is_version_2(client: httpx2.Client, name: str) -> None:
    register(client, source_of(name))
    again = client.post("/register", json={"name": name, "source": source_of(name)})
    assert again.status_code == 200
    assert (again.json()["unchanged"], again.json()["version"]) == (True, 1)
    assert register(client, source_of(name, "return n + 2"))["version"] == 2
    assert execute(client, f"{name}(40)")["result"] == "42"


WARNED: dict[str, tuple[dict[str, Any], list[str], dict[str, Any]]] = {
    "untyped": ({"source": 'def f(a):\n    """F."""\n'}, ["untyped_parameter"], {"a": {}}),
    "computed default": (
        {"source": 'import time\n\ndef f(a: float = time.time()):\n    """F."""\n'},
        ["dynamic_default"],
        {"a": {"type": "number"}},
    ),
    "marker": (
        {"source": 'def f():\n    """F."""\n', "packages": ["colorama; sys_platform == 'win32'"]},
        ["requirement_not_applicable"],
        {},
    ),
    "no docstring": ({"source": "def f():\n    pass\n"}, ["missing_docstring"], {}),
    "a byte order mark": ({"source": '\ufeffdef f():\r\n    """F."""\r\n'}, [], {}),
    "hidden signature": (
        {"source": 'def hide(g):\n    return lambda **k: 1\n\n@hide\ndef f(a: int):\n    """F."""\n', "name": "f"},
        ["undeclared_effects", "hidden_signature"],
        {"a": {}},
    ),
    "effects that nobody knows": (
        {"source": 'import os\n\ndef f():\n    """F."""\n    return os.name\n'},
        ["undeclared_effects"],
        {},
    ),
    "effects that are declared unknown": (
        {"source": 'import os\n\ndef f():\n    """F."""\n    return os.name\n', "effects": "unknown"},
        [],
        {},
    ),
    "declared": (
        {
            "source": 'def f(*a, **k):\n    """F."""\n',
            "input_schema": {"type": "object", "properties": {"x": {"type": "string"}}},
        },
        [],
        {"x": {"type": "string"}},
    ),
}


@pytest.mark.parametrize(("body", "codes", "parameters"), WARNED.values(), ids=WARNED)
def test_what_is_accepted_with_a_warning(
    client: httpx2.Client, body: dict[str, Any], codes: list[str], parameters: dict[str, Any]
) -> None:
    answer = client.post("/register", json={**body, "dry_run": True})
    assert answer.status_code == 200, answer.text
    assert [warning["code"] for warning in answer.json()["warnings"]] == codes
    assert answer.json()["parameters"].get("properties", {}) == parameters


def told_of(answer: Mapping[str, Any]) -> tuple[str, str, int]:
    """What an answer says of effects, and of which version."""
    return answer["effects"], answer["confirm"], answer["version"]


def test_declared_effects_are_shown_and_make_a_version(client: httpx2.Client, name: str, server: Server) -> None:
    assert told_of(register(client, source_of(name))) == ("read", "policy", 1)
    assert told_of(register(client, source_of(name), effects="write", confirm="never")) == ("write", "never", 2)
    assert told_of(client.get(f"/functions/{name}").json()) == ("write", "never", 2)
    diff = client.get(f"/functions/{name}/versions/2/diff").json()["diff"]
    assert diff.startswith("+# effects: write\n+# confirm: never\n")
    beside = server.functions / f"{name}.json"
    assert json.loads(beside.read_text()) == {"effects": "write", "confirm": "never"}
    beside.write_text('{"effects": "unknown"}')
    [synced] = client.post("/sync").json()["registered"]
    assert told_of(synced) == ("unknown", "policy", 3)
    assert told_of(register(client, source_of(name))) == ("read", "policy", 4)
    assert not beside.exists()


@pytest.mark.parametrize("body", [{"effects": "none"}, {"effects": ["read"]}, {"confirm": "ask"}, {"confirm": None}])
def test_effects_are_some_words_and_no_others(client: httpx2.Client, name: str, body: dict[str, Any]) -> None:
    refused = problem(client.post("/register", json={"source": source_of(name), **body}), 422, "invalid_request")
    assert next(iter(body)) in refused["detail"]


def test_a_file_beside_with_wrong_effects_is_left_alone(client: httpx2.Client, name: str, server: Server) -> None:
    (server.functions / f"{name}.py").write_text(source_of(name))
    (server.functions / f"{name}.json").write_text('{"effects": "none"}')
    [left] = client.post("/sync").json()["problems"]
    assert left["code"] == "invalid_request"
    assert "effects" in left["detail"]
    assert "responses, effects, confirm" in left["hint"]
    (server.functions / f"{name}.py").unlink()
    (server.functions / f"{name}.json").unlink()


def test_a_description_in_the_form_of_ernie_overrides_what_is_inferred(client: httpx2.Client, name: str) -> None:
    parameters = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
    description = {
        "name": name,
        "description": "Counts up.",
        "parameters": parameters,
        "responses": {"type": "object", "properties": {"sum": {"type": "integer"}}},
        "examples": [],
    }
    registered = register(client, source_of(name), description=description)
    assert registered["description"] == "Counts up."
    assert registered["parameters"] == parameters
    assert registered["returns"] == description["responses"]
    refused = problem(client.post(f"/functions/{name}/call", json={"n": 10}), 422, "invalid_arguments")
    assert [(e["parameter"], e["type"]) for e in refused["errors"]] == [("n", "maximum")]
    assert call(client, name, {"n": 9})["result"] == 10


def test_a_failed_registration_ends_its_events_with_a_problem(client: httpx2.Client) -> None:
    events = list(stream(client, "/register", {"source": "def f(:"}))
    assert [kind for kind, _ in events] == ["problem"]
    assert events[0][1]["code"] == "syntax_error"
    assert events[0][1]["location"]["line"] == 1


def test_events_are_for_those_who_ask_for_them(client: httpx2.Client, name: str) -> None:
    answer = client.post("/register", json={"source": source_of(name)}, headers={"Accept": "*/*"})
    assert answer.headers["content-type"] == "application/json"
    refused = client.post("/register", json={"sorce": ""}, headers=EVENTS)
    assert "did you mean 'source'?" in problem(refused, 422, "invalid_request")["detail"]


def test_secrets_reach_the_kernel_and_nothing_else(client: httpx2.Client, server: Server, name: str) -> None:
    secret = f"s3cret-{uuid4().hex}"
    source = f"import os\n\ndef {name}() -> int:\n    return len(os.environ['MY_KEY'])\n"
    answer = client.post("/register", json={"source": source, "env": {"MY_KEY": secret}})
    assert answer.status_code == 201
    assert answer.json()["env"] == ["MY_KEY"]
    assert execute(client, f"{name}()")["result"] == str(len(secret))
    said = [answer.text, client.get("/functions").text, client.get(f"/functions/{name}").text, *server.said]
    said += [client.get(path).text for path in ("/history", f"/functions/{name}/versions", "/tools", "/openapi.json")]
    assert not [text for text in said if secret in text]
    readable = [p for p in files_of(server) if secret.encode() in p.read_bytes() and p.stat().st_mode & 0o077]
    assert readable == []
    broken = f"import os\n\nraise RuntimeError(os.environ['MY_KEY'])\ndef {name}() -> int:\n    return 1\n"
    refused = client.post("/register", json={"source": broken, "env": {"MY_KEY": secret}})
    assert problem(refused, 422, "import_failed")["exception"] == "RuntimeError: ***"
    assert secret not in refused.text
    wrong = client.post("/register", json={"source": source, "env": {"MY_KEY": [secret]}})
    assert secret not in problem(wrong, 422, "invalid_request")["detail"]
    assert secret not in wrong.text


def files_of(server: Server) -> list[Any]:
    """Every file that the service keeps, but for the environments' own."""
    folders = [server.home / "snapshots", server.functions, server.functions.parent / "jupyter"]
    found = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    return [*found, *(p for p in server.home.glob("*") if p.is_file())]


def test_two_registrations_at_once_both_succeed(client: httpx2.Client, server: Server, names: list[str]) -> None:
    answers = side_by_side(server, [("/register", {"source": source_of(name)}, {}) for name in names])
    assert [answer.status_code for answer in answers] == [201] * 3
    assert execute(client, f"[{', '.join(f'{name}(1)' for name in names)}]")["result"] == "[2, 2, 2]"


def side_by_side(server: Server, requests: list[tuple[str, Any, dict[str, str]]]) -> list[httpx2.Response]:
    """POST each (path, body, headers) at once; the answers in the same order."""
    answers: dict[int, httpx2.Response] = {}

    def send(number: int, path: str, body: Any, headers: dict[str, str]) -> None:
        with server.client() as own:
            answers[number] = own.post(path, json=body, headers=headers)

    threads = [threading.Thread(target=send, args=(number, *request)) for number, request in enumerate(requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[number] for number in range(len(requests))]


# -- dry run and batch


def test_a_dry_run_shows_the_contract_and_changes_nothing(client: httpx2.Client, server: Server, name: str) -> None:
    register(client, source_of(name))
    before, last = picture(client, server), client.get("/history?limit=1").json()
    body = {"source": source_of(name, "return -n").replace("n: int", "n: int, m: str = 'a'"), "dry_run": True}
    answer = client.post("/register", json=body)
    assert answer.status_code == 200
    tried = answer.json()
    assert (tried["dry_run"], tried["unchanged"], tried["version"]) == (True, False, 2)
    assert tried["parameters"]["properties"]["m"] == {"type": "string", "default": "a"}
    assert set(tried["timings_ms"]) == {"parse", "resolve", "build", "verify"}
    same = client.post("/register", json={"source": source_of(name), "dry_run": True}).json()
    assert (same["dry_run"], same["unchanged"], same["version"]) == (True, True, 1)
    problem(client.post("/register", json={"source": "1/0\ndef f(): pass", "dry_run": True}), 422, "import_failed")
    problem(client.post("/register", json={"source": "def f(:", "dry_run": True}), 422, "syntax_error")
    stale = {"source": source_of(name), "dry_run": True, "if_match": "sha256:0"}
    problem(client.post("/register", json=stale), 412, "stale_version")
    assert picture(client, server) == before
    assert client.get("/history?limit=1").json() == last


def test_a_batch_registers_all_in_one_change(client: httpx2.Client, names: list[str]) -> None:
    one, two, three = names
    register(client, source_of(one))
    before = client.get("/healthz").json()["snapshot"]
    uses = f"from aigbb_functions import {two}\n\ndef {three}(n: int) -> int:\n    return {two}(n) * 2\n"
    sources = [source_of(one), source_of(two), uses]
    answer = client.post("/register/batch", json={"functions": [{"source": s} for s in sources]})
    assert answer.status_code == 201, answer.text
    done = answer.json()["functions"]
    assert [(f["name"], f["version"], f["unchanged"]) for f in done] == [
        (one, 1, True),
        (two, 1, False),
        (three, 1, False),
    ]
    assert client.get("/healthz").json()["snapshot"] == before + 1
    assert call(client, three, {"n": 20})["result"] == 42
    again = client.post("/register/batch", json={"functions": [{"source": s} for s in sources]})
    assert again.status_code == 200
    assert client.delete(f"/functions/{three}").status_code == 204


BAD: dict[str, tuple[str, int, str]] = {
    "syntax": ("def {}(:", 422, "syntax_error"),
    "import": ("1/0\ndef {}(): pass", 422, "import_failed"),
    "module": ("import aigbb_none\ndef {}(): pass", 422, "missing_dependency"),
    "type": ("def {}(a: object()): pass", 422, "schema_error"),
}


@pytest.mark.parametrize(("bad", "status", "code"), BAD.values(), ids=BAD)
def test_one_bad_function_of_a_batch_is_none(
    client: httpx2.Client, server: Server, names: list[str], bad: str, status: int, code: str
) -> None:
    before = picture(client, server)
    sources = [source_of(names[0]), bad.format(names[1]), source_of(names[2])]
    problem(client.post("/register/batch", json={"functions": [{"source": s} for s in sources]}), status, code)
    assert picture(client, server) == before


def test_a_dry_run_of_a_batch_changes_nothing(client: httpx2.Client, server: Server, names: list[str]) -> None:
    before = picture(client, server)
    body = {"functions": [{"source": source_of(name)} for name in names], "dry_run": True}
    answer = client.post("/register/batch", json=body)
    assert answer.status_code == 200
    assert [(f["name"], f["version"], f["dry_run"]) for f in answer.json()["functions"]] == [
        (name, 1, True) for name in names
    ]
    assert picture(client, server) == before


# -- conditions


def test_a_condition_on_the_digest_holds_in_the_body_and_in_the_header(client: httpx2.Client, name: str) -> None:
    first = register(client, source_of(name))["digest"]
    second = register(client, source_of(name, "return 2"), if_match=first)["digest"]
    body = {"source": source_of(name, "return 3")}
    stale = problem(client.post("/register", json={**body, "if_match": first}), 412, "stale_version")
    assert (stale["version"], stale["digest"]) == (2, second)
    problem(client.post("/register", json=body, headers={"If-Match": f'"{first}"'}), 412, "stale_version")
    etag = client.get(f"/functions/{name}").headers["etag"]
    assert etag == f'"{second}"'
    assert client.post("/register", json=body, headers={"If-Match": etag}).json()["version"] == 3


def test_a_name_that_is_taken_is_refused_on_request_but_the_same_again_is_not(client: httpx2.Client, name: str) -> None:
    first = register(client, source_of(name), on_conflict="error")
    again = client.post("/register", json={"source": source_of(name), "on_conflict": "error"})
    assert (again.status_code, again.json()["unchanged"]) == (200, True)
    other = {"source": source_of(name, "return 0"), "on_conflict": "error"}
    clash = problem(client.post("/register", json=other), 409, "name_clash")
    assert (clash["version"], clash["digest"]) == (1, first["digest"])


@pytest.mark.parametrize("path", ["/register", "/register/batch"])
def test_an_idempotency_key_gets_the_same_answer_again(client: httpx2.Client, name: str, path: str) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    one = {"source": source_of(name)}
    body = one if path == "/register" else {"functions": [one]}
    first = client.post(path, json=body, headers=key)
    assert first.status_code == 201
    assert "idempotent-replayed" not in first.headers
    again = client.post(path, json=body, headers=key)
    assert again.status_code == 201
    assert again.headers["idempotent-replayed"] == "true"
    assert again.content == first.content
    other = {"source": source_of(name, "return 0")}
    body = other if path == "/register" else {"functions": [other]}
    problem(client.post(path, json=body, headers=key), 422, "idempotency_key_reused")
    assert [v["version"] for v in client.get(f"/functions/{name}/versions").json()] == [1]


def test_an_idempotency_key_holds_for_events_too(client: httpx2.Client, name: str) -> None:
    key = uuid4().hex
    body = {"source": source_of(name)}
    followed = dict(stream(client, "/register", body, **{"Idempotency-Key": key}))
    plain = client.post("/register", json=body, headers={"Idempotency-Key": key})
    assert plain.json() == followed["done"]
    assert list(stream(client, "/register", body, **{"Idempotency-Key": key})) == [("done", plain.json())]
    refused = dict(stream(client, "/register", {"source": source_of(name, "0")}, **{"Idempotency-Key": key}))
    assert refused["problem"]["code"] == "idempotency_key_reused"


def test_one_key_sent_several_times_at_once_registers_once(client: httpx2.Client, server: Server, name: str) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    requests = [("/register", {"source": source_of(name)}, key)] * 4
    answers = side_by_side(server, requests)
    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.content for answer in answers}) == 1
    lines = client.get("/history", params={"name": name}).json()
    assert [(line["action"], line["outcome"]) for line in lines] == [("register", "ok")]


def test_a_failure_is_not_remembered_under_its_key(client: httpx2.Client, name: str) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    source = f"from aigbb_functions import word_cuont\n\ndef {name}():\n    pass\n"
    problem(client.post("/register", json={"source": source}, headers=key), 422, "import_failed")
    answer = client.post("/register", json={"source": source_of(name)}, headers=key)
    assert answer.status_code == 201
