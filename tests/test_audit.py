"""Who did what: every execution, call, decision and change of a key has its line, which nobody changes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from server.audit import MAX_DETAIL, MAX_NAME, MAX_WAITING, Audit, Line, Looked, ran
from server.callers import Caller
from server.observing import Executed
from tests.conftest import running_server
from tests.doors import call, execute, problem, register, source_of, stream, tool_call

pytest_plugins = ["tests.doors_fixtures"]


@asynccontextmanager
async def audit_in(path: Path) -> AsyncIterator[Audit]:
    """The lines of a file."""
    with ExitStack() as stack:
        audit = await asyncio.to_thread(lambda: stack.enter_context(Audit.open(path)))
        async with audit:
            yield audit


def line(**more: Any) -> Line:
    """A line about an execution."""
    return Line(**{"key": "k", "request_id": "r", "action": "execute", "outcome": "ok", **more})


# -- the file


@pytest.mark.anyio
async def test_lines_come_back_newest_first_and_outlive_the_service(tmp_path: Path) -> None:
    async with audit_in(tmp_path / "a") as audit:
        for n in range(3):
            audit.note(line(name=f"f{n}", version=n))
        assert [(one.name, one.version, one.id) for one in await audit.lines(Looked())] == [
            ("f2", 2, 3),
            ("f1", 1, 2),
            ("f0", 0, 1),
        ]
        audit.note(line(key="other", action="call"))
    async with audit_in(tmp_path / "a") as audit:
        assert [one.key for one in await audit.lines(Looked(limit=2))] == ["other", "k"]
        assert [one.id for one in await audit.lines(Looked(before=3))] == [2, 1]
        assert [one.id for one in await audit.lines(Looked(key="other"))] == [4]
        assert [one.id for one in await audit.lines(Looked(action="execute", limit=1))] == [3]


@pytest.mark.anyio
async def test_long_values_are_cut(tmp_path: Path) -> None:
    async with audit_in(tmp_path / "a") as audit:
        audit.note(line(name="n" * 10**6, detail="d" * 10**6))
        [kept] = await audit.lines(Looked())
    assert (kept.name, kept.detail) == ("n" * MAX_NAME, "d" * MAX_DETAIL)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET key = 'x'",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit",
    ],
)
async def test_lines_cannot_be_changed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a"
    async with audit_in(path) as audit:
        audit.note(line())

    def changed() -> None:
        with sqlite3.connect(path) as database:
            database.execute(change)

    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        await asyncio.to_thread(changed)


@pytest.mark.anyio
async def test_lines_wait_while_the_disk_says_no_and_are_written_later(tmp_path: Path) -> None:
    path = tmp_path / "a"
    async with audit_in(path) as audit:
        database = await asyncio.to_thread(lambda: sqlite3.connect(path, check_same_thread=False))
        await asyncio.to_thread(database.execute, "ALTER TABLE audit RENAME TO gone")
        for n in range(MAX_WAITING + 5):
            audit.note(line(version=n))
        await audit.flush()
        await asyncio.to_thread(database.execute, "ALTER TABLE gone RENAME TO audit")
        newest, *_ = kept = await audit.lines(Looked(limit=10**6))
        await asyncio.to_thread(database.close)
    assert newest.version == MAX_WAITING + 4
    assert len(kept) == MAX_WAITING  # the oldest five gave way


def test_code_is_kept_as_its_hash_unless_it_is_wanted() -> None:
    event = Executed("execute", "ok", 1.0, None, None, 1.5)
    digest = hashlib.sha256(b"1 + 1").hexdigest()
    for keep, detail in ((False, None), (True, "1 + 1")):
        made = ran(Caller("k", "r"), event, (), "1 + 1", keep=keep)
        assert made == line(code=digest, detail=detail, duration_ms=500.0)
    assert ran(Caller("k", "r"), event, (), "\ud800", keep=False).code


# -- over HTTP


def lines(client: httpx2.Client, request_id: str, **query: Any) -> list[dict[str, Any]]:
    """What the audit has of a request, oldest first."""
    found = client.get("/audit", params={"limit": 1000, **query}).json()
    return [one for one in reversed(found) if one["request_id"] == request_id]


def test_executions_have_their_line(client: httpx2.Client, fresh: str) -> None:
    client.headers["X-Request-ID"] = fresh
    first = execute(client, "secret = 1")
    execute(client, "1 / 0")
    assert dict(stream(client, "/execute", {"code": "2"}))["done"]["status"] == "ok"
    problem(client.post("/execute", json={"code": "3", "session": "none"}), 404, "session_not_found")
    found = lines(client, fresh)
    assert [(one["action"], one["outcome"], one["name"]) for one in found] == [
        ("execute", "ok", None),
        ("execute", "error", None),
        ("execute", "ok", None),
    ]
    assert found[0]["code"] == hashlib.sha256(b"secret = 1").hexdigest()
    assert found[0]["key"].startswith("token-")
    assert found[0]["execution"] == first["id"]
    assert len({one["execution"] for one in found}) == 3
    assert found[0]["duration_ms"] > 0
    assert "secret" not in json.dumps(found)


def test_calls_have_their_line_by_every_door(client: httpx2.Client, fresh: str) -> None:
    client.headers["X-Request-ID"] = fresh
    number = client.get("/functions/word_count").json()["version"]
    call(client, "word_count", {"text": "private words"})
    client.post("/functions/word_count/call", json={"text": []})
    client.post("/tools/run", json={"tool_calls": [tool_call("a", "word_count", {"text": "private"})]})
    found = lines(client, fresh, action="call")
    assert {(one["name"], one["version"], one["code"]) for one in found} == {("word_count", number, None)}
    assert [one["outcome"] for one in found][::2] == ["ok", "ok"]
    assert len(found) == 3
    assert "private" not in json.dumps(found)


def test_decisions_have_their_line_with_who_decided(client: httpx2.Client, name: str) -> None:
    register(client, source_of(name), effects="write")
    asked = {"tool_calls": [tool_call("a", name, {"n": 4711})], "confirm": "writes"}
    waiting = client.post("/tools/run", json=asked).json()["approval"]
    decision = {"call_id": waiting["calls"][0]["call_id"], "decision": "reject", "reason": "no"}
    client.headers["X-Request-ID"] = name
    client.post(f"/approvals/{waiting['id']}", json={"decisions": [decision]})
    [found] = lines(client, name)
    assert (found["action"], found["outcome"], found["name"], found["version"]) == ("decide", "reject", name, 1)
    assert waiting["calls"][0]["args_hash"] in found["detail"]
    assert "4711" not in found["detail"]


def test_changes_of_keys_have_their_line_and_no_secret(client: httpx2.Client, fresh: str) -> None:
    client.headers["X-Request-ID"] = fresh
    made = client.post("/keys", json={"name": "agent", "scopes": ["chat"], "tags": ["text"]}).json()
    rotated = client.post(f"/keys/{made['id']}/rotate").json()
    client.delete(f"/keys/{made['id']}")
    found = lines(client, fresh)
    assert [one["action"] for one in found] == ["key.create", "key.rotate", "key.revoke"]
    assert {one["name"] for one in found} == {made["id"]}
    assert found[0]["detail"] == "agent: chat; only tag text"
    for each in (made, rotated):
        assert each["key"].rpartition(f"{made['id']}_")[2] not in json.dumps(found)


def test_what_is_noted_is_written_when_the_service_ends(tmp_path: Path, cache: Path) -> None:
    with running_server(tmp_path, cache, pool_size=0, audit_code=True) as server:
        with server.client() as client:
            client.headers["X-Request-ID"] = "the-last"
            execute(client, "40 + 2")
            client.put("/secrets/TOLD", json={"value": "a-told-value"})
            client.headers["X-Request-ID"] = "with-a-secret"
            execute(client, "key = 'a-told-value'")
        server.stop()
        with sqlite3.connect(server.home / "audit.sqlite3") as database:
            sought = "SELECT detail, outcome FROM audit WHERE request_id = ?"
            [kept] = database.execute(sought, ["the-last"])
            [scrubbed] = database.execute(sought, ["with-a-secret"])
    assert kept == ("40 + 2", "ok")
    assert scrubbed == ("key = '[secret TOLD]'", "ok")
