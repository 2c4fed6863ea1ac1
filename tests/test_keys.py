"""Keys: what they open, for how long, for which functions, and whose things are whose."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner, Result

from server import printing
from server.audit import Audit
from server.callers import Caller, Reach
from server.cli import app
from server.errors import InvalidRequest, Unauthorized, UnknownKey
from server.keys import DAY, PREFIX, WIDE, Keyring, Rights
from tests.conftest import Server
from tests.doors import call, execute, problem, register, source_of, tool_call

pytest_plugins = ["tests.doors_fixtures"]

Make = Callable[..., dict[str, Any]]


@asynccontextmanager
async def keyring(folder: Path, token: str = "t" * 20) -> AsyncIterator[Keyring]:
    """The keys in a folder."""
    with ExitStack() as stack:

        def opened() -> tuple[Audit, Keyring]:
            audit = stack.enter_context(Audit.open(folder / "audit.sqlite3"))
            return audit, stack.enter_context(Keyring.open(folder / "registry.sqlite3", token, audit))

        audit, keys = await asyncio.to_thread(opened)
        async with audit, keys:
            yield keys


def rights(*scopes: Any, **more: Any) -> Rights:
    """What a key is to allow."""
    return Rights("a key", frozenset(scopes or ("chat",)), **more)


def who(keys: Keyring, *given: str) -> Caller:
    """Who passes with these."""
    return keys.caller([one.encode() for one in given], "r-1")


def why(keys: Keyring, *given: str) -> str:
    """Why nobody does."""
    with pytest.raises(Unauthorized) as refused:
        who(keys, *given)
    return refused.value.detail


ADMIN = Caller("boss", "r-0")


# -- the keyring


@pytest.mark.anyio
async def test_a_key_opens_what_it_says_and_outlives_the_service(tmp_path: Path) -> None:
    reach = Reach(("f",), ("t",))
    async with keyring(tmp_path) as keys:
        key, secret = await keys.create(rights("chat", "execute:function", reach=reach), ADMIN)
        first = who(keys, secret)
    async with keyring(tmp_path) as keys:
        assert who(keys, secret) == first
        assert keys.listed()[1].used is not None
    assert first == Caller(key.id, "r-1", admin=False, scopes=frozenset({"chat", "execute:function"}), reach=reach)


@pytest.mark.anyio
async def test_secrets_are_not_kept(tmp_path: Path) -> None:
    async with keyring(tmp_path) as keys:
        key, secret = await keys.create(rights(), ADMIN)
        _, other = await keys.rotate(key.id, None, ADMIN)
    kept = await asyncio.to_thread(lambda: b"".join(path.read_bytes() for path in tmp_path.iterdir()))
    for each in (secret, other):
        assert each.startswith(f"{PREFIX}{key.id}_")
        assert len(each) == len(f"{PREFIX}{key.id}_") + 43
        assert each.rpartition(f"{key.id}_")[2].encode() not in kept


@pytest.mark.anyio
async def test_the_service_s_token_is_an_admin_s_key(tmp_path: Path) -> None:
    async with keyring(tmp_path, "secret-token") as keys:
        caller = who(keys, "secret-token")
        assert caller.admin
        assert caller.key == keys.listed()[0].id
        assert caller.key.startswith("token-")
        for change in (keys.revoke(caller.key, ADMIN), keys.rotate(caller.key, None, ADMIN)):
            with pytest.raises(InvalidRequest):
                await change


@pytest.mark.anyio
async def test_what_is_no_key_opens_nothing_and_is_told_nothing(tmp_path: Path) -> None:
    async with keyring(tmp_path) as keys:
        key, secret = await keys.create(rights(), ADMIN)
        await keys.revoke((await keys.create(rights(), ADMIN))[0].id, ADMIN)
        bare = secret.removeprefix(PREFIX)
        wrong = [
            *(secret[:n] for n in (0, 6, len(PREFIX) + 12, len(secret) - 1)),
            *(f"{PREFIX}{one.id}_{'x' * 43}" for one in keys.listed()[1:]),
            *(f"{PREFIX}{one.id}_{one.digest}" for one in keys.listed()[1:]),
            *(bare, f" {secret}", f"{secret}x", secret.upper(), key.digest, "é\x00", f"{PREFIX}_", PREFIX),
        ]
        assert {why(keys, one) for one in wrong} == {"The key is wrong."}
        assert why(keys) == "No key was sent."
        assert who(keys, "wrong", secret).key == key.id


@pytest.mark.anyio
async def test_a_revoked_key_opens_nothing_and_says_so_to_who_has_the_secret(tmp_path: Path) -> None:
    async with keyring(tmp_path) as keys:
        key, secret = await keys.create(rights(), ADMIN)
        before = who(keys, secret)
        assert keys.holds(before)
        for _ in range(2):
            await keys.revoke(key.id, ADMIN)
        assert "was revoked at 20" in why(keys, secret)
        assert not keys.holds(before)
        with pytest.raises(UnknownKey):
            await keys.rotate(key.id, None, ADMIN)
    async with keyring(tmp_path) as keys:
        assert "was revoked" in why(keys, secret)
        assert [one.status(time.time()) for one in keys.listed()] == ["active", "revoked"]


def two_days_pass(path: Path) -> None:
    """For the keys in a database."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE keys SET expires = expires - ?", [2 * DAY])


@pytest.mark.anyio
async def test_an_expired_key_opens_nothing_until_it_is_rotated(tmp_path: Path) -> None:
    async with keyring(tmp_path) as keys:
        key, secret = await keys.create(rights(days=1), ADMIN)
        who(keys, secret)
    await asyncio.to_thread(two_days_pass, tmp_path / "registry.sqlite3")
    async with keyring(tmp_path) as keys:
        assert "expired at" in why(keys, secret)
        with pytest.raises(InvalidRequest):
            await keys.rotate(key.id, None, ADMIN)
        _, other = await keys.rotate(key.id, 1, ADMIN)
        assert who(keys, other).key == key.id
        assert why(keys, secret) == "The key is wrong."


@pytest.mark.anyio
async def test_rotation_makes_another_secret_for_the_same_key(tmp_path: Path) -> None:
    async with keyring(tmp_path) as keys:
        key, secret = await keys.create(rights(days=3), ADMIN)
        changed, other = await keys.rotate(key.id, None, ADMIN)
        assert (changed.id, changed.expires, changed.scopes) == (key.id, key.expires, key.scopes)
        assert who(keys, other).key == key.id
        assert why(keys, secret) == "The key is wrong."
        for change in (keys.revoke("nobody", ADMIN), keys.rotate("nobody", None, ADMIN)):
            with pytest.raises(UnknownKey):
                await change


@pytest.mark.anyio
@pytest.mark.parametrize("scope", WIDE)
async def test_a_narrowed_key_holds_nothing_that_reaches_all_functions(tmp_path: Path, scope: Any) -> None:
    async with keyring(tmp_path) as keys:
        for reach in (Reach(names=("f",)), Reach(tags=("t",))):
            with pytest.raises(InvalidRequest, match=scope):
                await keys.create(rights("chat", scope, reach=reach), ADMIN)
        assert len(keys.listed()) == 1


# -- over HTTP


@pytest.fixture
def make(server: Server, client: httpx2.Client) -> Iterator[Callable[..., httpx2.Client]]:
    """Clients with keys of these rights."""
    with ExitStack() as stack:

        def made(*scopes: str, **more: Any) -> httpx2.Client:
            answer = client.post("/keys", json={"name": "test", "scopes": scopes, **more})
            assert answer.status_code == 201, answer.text
            stack.callback(client.delete, f"/keys/{answer.json()['id']}")
            opened: httpx2.Client = stack.enter_context(server.client(answer.json()["key"]))
            return opened

        yield made


def test_keys_are_made_listed_rotated_and_revoked_without_a_restart(server: Server, client: httpx2.Client) -> None:
    body = {"name": " agent ", "scopes": ["functions:read"], "tags": ["text"], "expires_in_days": 1}
    made = client.post("/keys", json=body).json()
    assert (made["name"], made["scopes"], made["status"]) == ("agent", ["functions:read"], "active")
    with server.client(made["key"]) as agent:
        assert agent.get("/functions").status_code == 200
        rotated = client.post(f"/keys/{made['id']}/rotate").json()
        problem(agent.get("/functions"), 401, "unauthorized")
    with server.client(rotated["key"]) as agent:
        assert agent.get("/functions").status_code == 200
        assert client.delete(f"/keys/{made['id']}").status_code == 204
        assert "revoked" in problem(agent.get("/functions"), 401, "unauthorized")["detail"]
    listed = {one["id"]: one for one in client.get("/keys").json()}
    assert listed[made["id"]]["status"] == "revoked"
    assert listed[made["id"]]["last_used"]
    assert made["key"] not in json.dumps(listed)
    assert not any("key" in one for one in listed.values())
    problem(client.delete("/keys/none"), 404, "unknown_key")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a", "scopes": []},
        {"name": "a", "scopes": ["everything"]},
        {"name": " ", "scopes": ["chat"]},
        {"name": "a", "scopes": ["chat"], "functions": ["*"]},
        {"name": "a", "scopes": ["chat"], "expires_in_days": 0},
        {"name": "a", "scopes": ["execute:code"], "functions": ["f"]},
        {"name": "a", "scopes": ["chat"], "secret": "mine"},
    ],
)
def test_keys_that_cannot_be_are_refused(client: httpx2.Client, body: dict[str, Any]) -> None:
    problem(client.post("/keys", json=body), 422, "invalid_request")


def test_a_key_that_registers_needs_another_scope_for_packages(
    make: Callable[..., httpx2.Client], name: str, package: str, indexed: Server
) -> None:
    author = make("functions:register")
    register(author, source_of(name))
    register(author, source_of(name, "return n + 2"), packages=["pandas"])  # which is there anyway
    with indexed.client() as admin:
        made = admin.post("/keys", json={"name": "author", "scopes": ["functions:register"]}).json()
        with indexed.client(made["key"]) as author:
            body = {"source": source_of(name), "packages": [package]}
            for more in ({}, {"dry_run": True}):
                told = problem(author.post("/register", json={**body, **more}), 403, "forbidden")
                assert told["packages"] == [f"{package}==2.0"]
                assert "packages:install" in told["hint"]
            assert admin.get(f"/functions/{name}").status_code == 404
            register(admin, source_of(name), packages=[package])
            assert author.post("/register", json=body).status_code == 200
        admin.delete(f"/functions/{name}")
        admin.delete(f"/keys/{made['id']}")


def names_in(tools: list[dict[str, Any]]) -> set[str]:
    """The functions that are offered."""
    return {tool["function"]["name"] for tool in tools}


def test_a_narrowed_key_knows_and_calls_its_functions_only(
    make: Callable[..., httpx2.Client], client: httpx2.Client, names: list[str]
) -> None:
    named, tagged, hidden = names
    for each in names:
        register(client, source_of(each), tags=["mine"] if each == tagged else [], effects="read")
    one = make("functions:read", "execute:function", "chat", functions=[named], tags=["mine"])
    assert {each["name"] for each in one.get("/functions").json()} == {named, tagged}
    assert hidden not in one.get("/functions", params={"q": hidden}).text
    assert names_in(one.get("/tools").json()) == {named, tagged}
    assert hidden not in one.get("/postman_collection.json").text
    operations = one.get("/openapi.json").json()["paths"]
    assert {f"/functions/{each}/call" for each in (named, tagged)} <= operations.keys()
    assert f"/functions/{hidden}/call" not in operations
    assert one.get("/v1/models").json()["data"][-1]["id"] == "aigbb:mine"
    assert call(one, tagged, {"n": 1})["result"] == 2
    for path in ("", "/versions", "/versions/1", "/versions/1/diff", "/snippets"):
        foreign = problem(one.get(f"/functions/{hidden}{path}"), 404, "unknown_function")
        unknown = problem(one.get(f"/functions/{hidden[:-1]}{path}"), 404, "unknown_function")
        assert hidden not in json.dumps(foreign["suggestions"] + unknown["suggestions"])
    for pinned in (hidden, f"{hidden}@1"):
        problem(one.post(f"/functions/{pinned}/call", json={"n": 1}), 404, "unknown_function")
    ran = one.post(
        "/tools/run", json={"tool_calls": [tool_call("a", hidden, {"n": 1}), tool_call("b", named, {"n": 1})]}
    )
    assert [run["status"] for run in ran.json()["runs"]] == ["unknown_function", "ok"]
    assert f"{hidden}." not in ran.json()["messages"][0]["content"].partition("The tools are")[2]
    assert one.get("/tools").headers["etag"] != client.get("/tools").headers["etag"]


def test_a_function_that_loses_its_tag_is_out_of_reach_with_all_its_versions(
    make: Callable[..., httpx2.Client], client: httpx2.Client, name: str
) -> None:
    register(client, source_of(name), tags=["mine"])
    one = make("functions:read", "execute:function", tags=["mine"])
    assert call(one, f"{name}@1", {"n": 1})["result"] == 2
    register(client, source_of(name, "return n + 2"))
    problem(one.post(f"/functions/{name}@1/call", json={"n": 1}), 404, "unknown_function")
    client.delete(f"/functions/{name}")
    problem(one.get(f"/functions/{name}/versions"), 404, "unknown_function")


def test_sessions_are_their_owner_s(make: Callable[..., httpx2.Client], client: httpx2.Client) -> None:
    one, other = make("execute:code", "execute:function"), make("execute:code", "execute:function")
    session = one.post("/sessions").json()["id"]
    execute(one, "x = 41", session=session)
    assert [each["id"] for each in one.get("/sessions").json()] == [session]
    assert other.get("/sessions").json() == []
    asked: list[tuple[str, str, Any]] = [
        ("POST", "/execute", {"code": "x", "session": "ID"}),
        ("POST", "/functions/word_count/call?session=ID", {"text": "a"}),
        ("POST", "/sessions/ID/interrupt", None),
        ("POST", "/sessions/ID/restart", None),
        ("DELETE", "/sessions/ID", None),
    ]
    for method, path, body in asked:
        answers = []
        for identity in (session, "nobodys-12ab"):
            sent = {**body, "session": identity} if body and "session" in body else body
            answer = other.request(method, path.replace("ID", identity), json=sent)
            answers.append(problem(answer, 404, "session_not_found"))
        assert answers[0]["detail"].replace(session, "nobodys-12ab") == answers[1]["detail"]
    ran = other.post(
        "/tools/run", json={"tool_calls": [tool_call("a", "word_count", {"text": "a"})], "session": session}
    ).json()
    assert ran["runs"][0]["status"] == "session_not_found"
    assert execute(client, "x + 1", session=session)["result"] == "42"  # an admin may
    assert session in [each["id"] for each in client.get("/sessions").json()]
    assert client.delete(f"/sessions/{session}").status_code == 204


def test_results_are_read_by_who_got_their_link(make: Callable[..., httpx2.Client], client: httpx2.Client) -> None:
    one, other = make("execute:function", "approve"), make("execute:function")
    asked = {"tool_calls": [tool_call("a", "plot_series", {"series": {"a": [1, 2]}})], "approved": ["plot_series"]}
    [link] = one.post("/tools/run", json=asked).json()["runs"][0]["pictures"]
    assert one.get(link).content == client.get(link).content
    assert one.get(link).headers["content-type"] == "image/png"
    problem(other.get(link), 404, "unknown_result")


def test_what_waits_is_seen_and_decided_by_its_owner_and_runs_with_the_owner_s_rights(
    make: Callable[..., httpx2.Client], client: httpx2.Client, name: str
) -> None:
    register(client, source_of(name), effects="write")
    asked = {"tool_calls": [tool_call("a", name, {"n": 1})], "confirm": "writes"}
    decision = {"decisions": [{"call_id": "call_0", "decision": "approve"}]}
    one = make("execute:function", "approve", functions=[name])
    other = make("execute:function", "chat", "approve")

    def held() -> str:
        return str(one.post("/tools/run", json=asked).json()["approval"]["id"])

    identity = held()
    decision["decisions"][0]["call_id"] = one.get(f"/approvals/{identity}").json()["calls"][0]["call_id"]
    assert identity not in other.get("/approvals").text
    problem(other.get(f"/approvals/{identity}"), 404, "unknown_approval")
    problem(other.post(f"/approvals/{identity}", json=decision), 404, "unknown_approval")
    assert identity in client.get("/approvals").text
    assert one.post(f"/approvals/{identity}", json=decision).json()["runs"][0]["status"] == "ok"
    identity = held()
    revoked = next(key["id"] for key in client.get("/keys").json() if key["functions"] == [name])
    client.delete(f"/keys/{revoked}")
    problem(client.post(f"/approvals/{identity}", json=decision), 409, "approval_void")


def test_a_key_without_approve_decides_nothing_neither_afterwards_nor_beforehand(
    make: Callable[..., httpx2.Client], client: httpx2.Client, name: str
) -> None:
    register(client, source_of(name), effects="write")
    agent = make("execute:function", "chat")
    calls = [tool_call("a", name, {"n": 1})]
    for path, body in (
        ("/tools/run", {"tool_calls": calls, "approved": [name]}),
        ("/chat", {"messages": [{"role": "user", "content": "?"}], "approved": [f"{name}@1"]}),
    ):
        assert problem(agent.post(path, json=body), 403, "forbidden")["scopes"] == ["approve"]
    held = agent.post("/tools/run", json={"tool_calls": calls}).json()["approval"]
    assert agent.get(f"/approvals/{held['id']}").json()["status"] == "waiting"
    decision = {"decisions": [{"call_id": held["calls"][0]["call_id"], "decision": "approve"}]}
    for headers in ({}, {"Accept": "text/event-stream"}):
        answer = agent.post(f"/approvals/{held['id']}", json=decision, headers=headers)
        assert "approve" in problem(answer, 403, "forbidden")["hint"]
    assert agent.get(f"/approvals/{held['id']}").json()["status"] == "waiting"
    done = client.post(f"/approvals/{held['id']}", json=decision).json()
    assert done["runs"][0]["status"] == "ok"
    line = client.get("/audit", params={"action": "decide", "limit": 1}).json()[0]
    assert line["name"] == name and line["key"].startswith("token-")


def test_an_idempotency_key_is_the_caller_s_own(make: Callable[..., httpx2.Client], name: str) -> None:
    one, other = make("functions:register"), make("functions:register")
    headers = {"Idempotency-Key": f"key of {name}"}
    body = {"source": source_of(name)}
    answers = [each.post("/register", json=body, headers=headers) for each in (one, one, other)]
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true", None]
    assert [answer.json()["unchanged"] for answer in answers] == [False, False, True]


# -- the command line


@pytest.fixture
def aigbb(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Commands that find the shared service by its settings, on a wide terminal."""
    for console in (printing.out, printing.err):
        monkeypatch.setattr(console, "_width", 200)
    environment = {**server.environment, "AIGBB_PORT": server.url.rpartition(":")[2]}
    return lambda *arguments, **more: CliRunner().invoke(app, arguments, env={**environment, **more})


def test_keys_on_the_command_line(server: Server, aigbb: Callable[..., Result]) -> None:
    made = aigbb("keys", "create", "agent", "--scope", "functions:read", "--function", "word_count", "--days", "1")
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    identity = key.split("_")[1]
    assert identity in made.stderr
    with server.client(key) as agent:
        assert [one["name"] for one in agent.get("/functions").json()] == ["word_count"]
        rotated = json.loads(aigbb("keys", "rotate", identity, "--json").stdout)
        assert agent.get("/functions").status_code == 401
    listed = aigbb("keys", "list").stdout
    assert all(text in listed for text in (identity, "agent", "active", "functions:read", "word_count"))
    refused = aigbb("history", AIGBB_TOKEN=rotated["key"])
    assert refused.exit_code == 2
    assert "forbidden" in refused.stderr
    assert aigbb("keys", "revoke", identity).exit_code == 0
    assert "revoked" in aigbb("functions", AIGBB_TOKEN=rotated["key"]).stderr
    assert "key.revoke" in aigbb("history", "--all").stdout
    assert aigbb("keys", "revoke", "none").exit_code == 2
