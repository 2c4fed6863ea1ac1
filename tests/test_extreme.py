"""Requests that are legal but extreme: whatever the service does with one, it serves others meanwhile.

Each would keep the event loop for seconds if its work grew faster than its size.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from server.diffing import source_diff
from server.functions import Function
from server.schemas import check, validate
from server.wire import MAX_ERRORS, ExecuteBody, checked, fields_of, validation_errors
from tests.conftest import Server
from tests.doors import problem

# Seconds in which the service answers somebody else at the latest; what this guards against took 7 to 33.
PATIENCE = 3.0


@contextmanager
def served_meanwhile(server: Server) -> Iterator[None]:
    """Ask for the service's health all the time, and fail where it kept silent."""
    over, slowest = threading.Event(), [0.0]

    def ask() -> None:
        with httpx2.Client(base_url=server.url, timeout=60) as client:
            while not over.is_set():
                began = time.monotonic()
                assert client.get("/healthz").status_code == 200
                slowest.append(time.monotonic() - began)
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
    began = time.monotonic()
    shown = source_diff(made[0], made[1], "f@1", "f@2")
    assert time.monotonic() - began < PATIENCE
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
    [refused] = validate(schema, {"xs": [5000] * 20_000})
    assert refused["type"] == "too_large"
    # One error of the many is listed, where listing all would take seconds.
    assert len(validate(schema, {"xs": [5000] * 200})) == 1
    assert validate(schema, {"xs": list(range(1000))}) == []
