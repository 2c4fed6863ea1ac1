"""Requests that are legal but extreme: whatever the service does with one, it serves others meanwhile.

Each would keep the event loop for seconds if its work grew faster than its size. `EVERY_STEP=1` sends each body to each
route, else each route gets a third of them, and each body goes to a third of the routes.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import psutil
import pytest

from kernels.errors import InvalidRequirement
from kernels.packages import parse_requirements
from server.arguments import validate
from server.diffing import source_diff
from server.functions import Function
from server.schemas import check
from server.wire import MAX_ERRORS, ExecuteBody, checked, fields_of, validation_errors
from tests.conftest import Server
from tests.doors import problem

EVERY = bool(os.environ.get("EVERY_STEP"))
# Seconds of the event loop's processor time in which the service answers somebody else at the latest, however busy the
# machine is; what this guards against took 7 to 33.
PATIENCE = 3.0


def loop_time(server: Server) -> float:
    """Return the processor time, in seconds, of the thread in which the service's event loop runs."""
    pid = server.process.pid
    loop = next(thread for thread in psutil.Process(pid).threads() if thread.id == pid)
    return float(loop.user_time + loop.system_time)


@contextmanager
def served_meanwhile(server: Server) -> Iterator[None]:
    """Ask for the service's health all the time, and fail where it kept silent."""
    over, slowest = threading.Event(), [0.0]

    def ask() -> None:
        with httpx2.Client(base_url=server.url, timeout=60) as client:
            while not over.is_set():
                began = loop_time(server)
                assert client.get("/healthz").status_code == 200
                slowest.append(loop_time(server) - began)
                over.wait(0.02)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()
    assert max(slowest) < PATIENCE


def test_so_many_errors_are_listed_and_the_others_counted(server: Server, client: httpx2.Client) -> None:
    with served_meanwhile(server):
        body = {"code": "1", **{f"u{n}": 1 for n in range(100)}}
        told = problem(client.post("/execute", json=body), 422, "invalid_request")
    assert (len(told["errors"]), told["errors_total"]) == (MAX_ERRORS, 100)
    assert "80 more errors" in told["detail"]


def test_an_object_has_so_many_fields(server: Server, client: httpx2.Client) -> None:
    with served_meanwhile(server):
        for path in ("/execute", "/register", "/tools/run", "/chat", "/sessions", "/v1/chat/completions"):
            answer = client.post(path, json={f"u{n}": 1 for n in range(60_000)})
            assert answer.status_code == 422
            assert "at most 200" in answer.text
            assert len(answer.content) < 10_000


DEEP: Any = 0
for _ in range(99):
    DEEP = [DEEP]


@pytest.mark.parametrize("value", [[0] * 300_000, [""] * 200_000, [{}] * 200_000, ["é"] * 100_000, DEEP])
def test_what_is_legal_is_read_whole(value: Any) -> None:
    assert checked({"x": value}) == {"x": value}


@pytest.mark.parametrize("value", ["\ud800", {"\ud800": 1}, float("inf"), float("nan"), [DEEP], {"a": [DEEP]}])
def test_what_is_not_is_found_anywhere(value: Any) -> None:
    with pytest.raises(ValueError, match=r"surrogate|finite|nested"):
        checked({"x": [value]})


def test_entries_are_short_and_unknown_fields_come_first() -> None:
    unknown = [{"loc": ("body", "c" * 100_000), "type": "extra_forbidden", "msg": "no"}]
    unknown += [{"loc": ("body", "cod"), "type": "extra_forbidden", "msg": "no"}]
    others = [{"loc": ("body", "code", n), "type": "string_type", "msg": "x" * 100_000} for n in range(100)]
    found = validation_errors([*others, *unknown], fields_of(ExecuteBody))
    assert [one.get("suggestion") for one in found[:3]] == [None, "code", None]
    assert max(len(json.dumps(one)) for one in found) < 3_000


def test_sources_that_repeat_themselves_are_compared_in_time() -> None:
    lines = [f"# {n % 120}\n" for n in range(60_000)]
    old, new = ("".join(order) for order in (lines, lines[::-1]))
    made = [Function("f", f"{text}def f(): ...\n", (), (), "", "f()") for text in (old, new)]
    began = time.process_time()
    shown = source_diff(made[0], made[1], "f@1", "f@2")
    assert time.process_time() - began < PATIENCE
    assert [line for line in shown.splitlines() if line.startswith("@@")] == ["@@ -1,60001 +1,60001 @@"]
    assert source_diff(made[0], made[0], "f@1", "f@1") == ""


@pytest.mark.parametrize("timeout", [3600.1, 1e300])
def test_a_timeout_over_the_limit_is_refused_with_the_limit(client: httpx2.Client, timeout: float) -> None:
    asked: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("/execute", {"code": "1", "timeout": timeout}, {}),
        ("/functions/word_count/call", {"text": "a"}, {"timeout": timeout}),
        ("/tools/run", {"tool_calls": [], "timeout": timeout}, {}),
    ]
    for path, body, query in asked:
        for headers in ({}, {"Prefer": "respond-async"}, {"Accept": "text/event-stream"}):
            told = problem(client.post(path, json=body, params=query, headers=headers), 422, "invalid_request")
            assert told["errors"][0] == {"field": "timeout", "message": told["errors"][0]["message"],
                                         "type": "less_than_equal"}  # fmt: skip
            assert "3600" in told["detail"]
            assert "AIGBB_MAX_TIMEOUT" in told["hint"]


CHOICES = {"anyOf": [{"const": number} for number in range(1000)]}
CONTAINS = {"allOf": [{"contains": {"const": number}} for number in range(1000)]}


@pytest.mark.parametrize("part", [{"items": CHOICES}, CONTAINS], ids=["choices", "contains"])
def test_no_schema_takes_long_to_hold_arguments_against(part: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"xs": {"type": "array", **part}}}
    check(schema)
    one = {"type": "object", "properties": {"xs": {"type": "array", "items": CHOICES}}}
    [refused] = validate(schema, {"xs": [5000] * 20_000})
    assert refused["type"] == "too_large"
    # One error of the many is listed, where listing all would take seconds.
    assert len(validate(schema, {"xs": [5000] * 200})) == 1
    # Of 1,000 constants for 1,000 items, each comparison takes some 0.4 us, so that these are refused too.
    assert validate(schema, {"xs": list(range(1000))})[0]["type"] == "too_large"
    assert validate(one, {"xs": list(range(100))}) == []


# -- every route

SMALL = 220_000
LARGE = 880_000
BODIES: dict[str, bytes] = {
    "many fields": json.dumps({f"f{number}": 0 for number in range(60_000)}).encode(),
    "numbers": json.dumps({"code": "1", "x": [0] * SMALL}).encode(),
    "texts": json.dumps({"code": "1", "x": [""] * SMALL}).encode(),
    "objects": json.dumps({"code": "1", "x": [{}] * SMALL}).encode(),
    "deep": b'{"x":' + b"[" * 99 + b"]" * 99 + b"}",
    "too deep": b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a long name": json.dumps({"x" * LARGE: 0}).encode(),
    "long names": json.dumps({f"{number}{'x' * 9_000}": 0 for number in range(95)}).encode(),
    "long numbers": json.dumps({"x": [10**4000] * 200}).encode(),
    "a long text": json.dumps({"code": "x" * LARGE, "source": "x" * 10}).encode(),
}
NAMES = [f"n{number}" for number in range(60_000)]
SOURCE = "def extreme(a: str) -> str:\n    return a\n"
USER = {"role": "user", "content": "x"}


def tool_call(name: str = "word_count", arguments: str = "{}") -> dict[str, Any]:
    """A tool call as a chat completion holds it."""
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


def registration(**more: Any) -> tuple[str, dict[str, Any]]:
    """A registration that changes nothing."""
    return "/register", {"source": SOURCE, "dry_run": True, **more}


def requirement(line: str) -> tuple[str, dict[str, Any]]:
    """A registration with one odd line of packages."""
    return registration(packages=line)


def declared(schema: Any) -> tuple[str, dict[str, Any]]:
    """A registration with a schema of its parameter."""
    return registration(input_schema={"type": "object", "properties": {"a": schema}})


SPECIAL: dict[str, tuple[str, dict[str, Any]]] = {
    "batch": ("/register/batch", {"functions": [{"code": "x"}] * 40_000}),
    "batch of sources": ("/register/batch", {"functions": [{"source": SOURCE}] * 10_000}),
    "calls": ("/tools/run", {"tool_calls": [tool_call()] * 9_000}),
    "no calls": ("/tools/run", {"tool_calls": [{"a": 1}] * 90_000}),
    "long names of calls": ("/tools/run", {"tool_calls": [tool_call("x" * 60_000)] * 14}),
    "arguments of a call": ("/tools/run", {"tool_calls": [tool_call(arguments=json.dumps(dict.fromkeys(NAMES, 1)))]}),
    "bound values": ("/tools/run", {"tool_calls": [], "bound": dict.fromkeys(NAMES, 1)}),
    "approved": ("/tools/run", {"tool_calls": [], "approved": [0] * SMALL}),
    "messages": ("/chat", {"messages": [USER] * 20_000}),
    "offered": ("/chat", {"messages": [USER], "tools": NAMES}),
    "tags of a turn": ("/chat", {"messages": [USER], "tags": [0] * SMALL}),
    "completion messages": ("/v1/chat/completions", {"model": "aigbb", "messages": [USER] * 20_000}),
    "completion parts": ("/v1/chat/completions", {
        "model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 25_000}],
    }),
    "completion calls": ("/v1/chat/completions", {
        "model": "m", "messages": [USER, {"role": "assistant", "tool_calls": [tool_call()] * 9_000}],
    }),
    "completion tools": ("/v1/chat/completions", {"model": "aigbb", "messages": [USER], "tools": [{}] * 90_000}),
    "packages": registration(packages=NAMES),
    "wrong packages": registration(packages=[0] * SMALL),
    "a long package": requirement("r" * 40_000),
    "spaces in a package": requirement("requests" + " " * 40_000 + "@"),
    "signs in a package": requirement("@" + " #" * 20_000),
    "extras of a package": requirement("requests[" + "a," * 20_000 + "b]"),
    "versions of a package": requirement("requests" + ">=1," * 10_000 + ">2"),
    "markers of a package": requirement("requests; " + "(" * 10_000 + "os_name=='a'" + ")" * 10_000),
    "tags": registration(tags=NAMES),
    "variables": registration(env=dict.fromkeys(NAMES[:40_000], 1)),
    "secrets": registration(secrets=NAMES),
    "bound": registration(bound=NAMES),
    "a long description": registration(description="x " * 400_000),
    "a long name": registration(name="x" * LARGE),
    "many functions": registration(source="".join(f"def f{number}(): pass\n" for number in range(15_000))),
    "parentheses": registration(source="def f(): return " + "(" * 90_000 + ")" * 90_000),
    "parameters": registration(source=f"def f({','.join(NAMES[:3_000])}): pass"),
    "a docstring": registration(source='def f(a):\n    """' + "a:b\n" * 50_000 + '"""\n'),
    "script blocks": registration(source="# /// script\n" * 1_500),
    "patterns": declared({"type": "string", "pattern": "^(.{1,900}a+)+$"}),
    "definitions": declared({"allOf": [{"$ref": "#/$defs/a"}] * 3_000}),
    "a choice": declared({"anyOf": [{"const": number} for number in range(50_000)]}),
    "arguments": ("/functions/word_count/call", dict.fromkeys(NAMES, 1)),
    "a long argument": ("/functions/word_count/call", {"text": "x " * 400_000}),
    "functions of a key": ("/keys", {"name": "x", "scopes": ["chat"], "functions": NAMES}),
    "scopes of a key": ("/keys", {"name": "x", "scopes": ["chat"] * 60_000}),
    "functions of a secret": ("PUT /secrets/EXTREME", {"value": "x", "functions": [0] * SMALL}),
}  # fmt: skip
QUERIES = {
    "words": "/functions?q=" + "word%20" * 2_000,
    "a word": "/functions?q=" + "x" * 15_000,
    "tags": "/functions?" + "&".join(f"tag=t{number}" for number in range(1_700)),
    "names": "/tools?" + "&".join(f"name=t{number}" for number in range(1_700)),
    "a path": "/functions/" + "x" * 15_000,
}
JSON = {"Content-Type": "application/json"}


def test_each_route_serves_others_beside_an_extreme_body(server: Server, client: httpx2.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    routes = [(method.upper(), re.sub(r"\{[^}]+\}", "zz", path)) for path, has in paths.items() for method in has]
    routes = [(method, path) for method, path in routes if method in ("POST", "PUT", "PATCH")]
    assert len(routes) > 10
    for at, (method, path) in enumerate(routes):
        for number, (name, body) in enumerate(BODIES.items()):
            if EVERY or (at + number) % 3 == 0:
                _served_beside(server, client, name, client.build_request(method, path, content=body, headers=JSON))


@pytest.mark.parametrize("case", SPECIAL)
def test_others_are_served_beside_a_request_made_for_its_route(
    server: Server, client: httpx2.Client, case: str
) -> None:
    target, body = SPECIAL[case]
    method, _, path = target.rpartition(" ")
    _served_beside(server, client, case, client.build_request(method or "POST", path, json=body))


def test_others_are_served_beside_an_extreme_query(server: Server, client: httpx2.Client) -> None:
    for case, path in QUERIES.items():
        _served_beside(server, client, case, client.build_request("GET", path))


@pytest.mark.parametrize("line", ["a" + " " * 500_000 + "@", "a" + " #" * 200_000 + "\nb"], ids=["spaces", "signs"])
def test_an_odd_requirement_is_refused_at_once(line: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidRequirement):
        parse_requirements([line])
    assert time.process_time() - began < PATIENCE


def test_comments_of_requirements_are_cut() -> None:
    assert parse_requirements(["# all", " six  # one", "", "attrs\t#"]) == ("attrs", "six")


def _served_beside(server: Server, client: httpx2.Client, case: str, request: httpx2.Request) -> None:
    """Send a request, and ask for the service's health until it is answered."""
    with httpx2.Client(base_url=server.url, timeout=60) as other, ThreadPoolExecutor(1) as aside:
        other.get("/healthz")
        sent = aside.submit(client.send, request)
        slowest = 0.0
        while True:
            over = sent.done()
            began = loop_time(server)
            assert other.get("/healthz").status_code == 200
            slowest = max(slowest, loop_time(server) - began)
            if over:
                break
        status = sent.result().status_code
    assert status < 500, case
    assert slowest < PATIENCE, (case, request.url.path[:60])
