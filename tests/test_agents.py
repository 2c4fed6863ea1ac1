"""A key without the scope `approve` is an agent's: by no path does a call of it run that needs a decision."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from server.scopes import TABLE
from tests.conftest import Server, running_server
from tests.doors import EVENTS, call, execute, problem, register, source_of, tool_call, wait_until
from tests.provider import Provider, asks, says, serving

pytest_plugins = ["tests.doors_fixtures"]

Row = tuple[str, str]
Make = Callable[..., httpx2.Client]

# The routes by which a typed call can come to run; of all others it is held below that they are others.
CALLING: set[Row] = {
    ("POST", "/functions/{}/call"),
    ("POST", "/tools/run"),
    ("POST", "/chat"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/approvals/{}"),
}
# `execute` runs code, which is all that its sandbox allows; of the rest none runs anything on a kernel, but for a
# registration's imports.
OTHERS: set[Row] = {
    ("POST", "/execute"),
    ("POST", "/executions/{}/cancel"),
    ("POST", "/sessions"),
    ("POST", "/sessions/{}/interrupt"),
    ("POST", "/sessions/{}/restart"),
    ("POST", "/register"),
    ("POST", "/register/batch"),
    ("POST", "/functions/{}/activate"),
    ("POST", "/sync"),
    ("POST", "/keys"),
    ("POST", "/keys/{}/rotate"),
}


def test_every_route_that_acts_is_known_to_call_functions_or_not() -> None:
    acting = {row for row in TABLE if row[0] == "POST"}
    assert acting == CALLING | OTHERS
    assert {method for method, _ in TABLE} <= {"GET", "POST", "PUT", "DELETE"}


@pytest.fixture(scope="module")
def listed() -> Iterator[Provider]:
    """Another model's service, which requests may name."""
    with serving() as started:
        yield started


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, cache: Path, provider: Provider, listed: Provider
) -> Iterator[Server]:
    """A service that runs one execution at a time."""
    folder = tmp_path_factory.mktemp("agents")
    settings: dict[str, object] = {"model": "m", "max_running": 1, "model_services": listed.url}
    with running_server(folder, cache, provider.environment, **settings) as started:
        yield started


@pytest.fixture
def key(server: Server, client: httpx2.Client) -> Iterator[Make]:
    """Clients with keys of these rights, which are revoked afterwards."""
    with ExitStack() as stack:

        def made(*scopes: str, **more: Any) -> httpx2.Client:
            answer = client.post("/keys", json={"name": "a key", "scopes": scopes, **more}).json()
            stack.callback(client.delete, f"/keys/{answer['id']}")
            opened: httpx2.Client = stack.enter_context(server.client(answer["key"]))
            return opened

        yield made


@pytest.fixture
def agent(key: Make) -> httpx2.Client:
    """An agent that may do all but approve, and what comes down to it."""
    return key("functions:read", "execute:function", "chat")


@pytest.fixture
def write(client: httpx2.Client, name: str) -> str:
    """A function that changes something."""
    register(client, source_of(name), effects="write")
    return name


def ran(client: httpx2.Client, name: str) -> list[tuple[int, str]]:
    """The versions of a function that were run, by the audit, and what came of it."""
    lines = client.get("/audit", params={"action": "call", "limit": 1000}).json()
    return [(line["version"], line["outcome"]) for line in reversed(lines) if line["name"] == name]


def decide(client: httpx2.Client, approval: dict[str, Any], decision: str = "approve", **more: Any) -> httpx2.Response:
    """The same decision about all calls."""
    decisions = [{"call_id": one["call_id"], "decision": decision, **more} for one in approval["calls"]]
    return client.post(f"/approvals/{approval['id']}", json={"decisions": decisions})


def held(answer: httpx2.Response) -> dict[str, Any]:
    """The approval that a typed call waits for."""
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert body["status"] == "needs_confirmation"
    assert answer.headers["location"] == f"/approvals/{body['approval']['id']}"
    approval: dict[str, Any] = body["approval"]
    return approval


# -- every path


def test_by_no_path_does_an_agent_run_what_needs_a_decision(
    agent: httpx2.Client, client: httpx2.Client, provider: Provider, write: str
) -> None:
    path, arguments, calls = f"/functions/{write}/call", {"n": 1}, [tool_call("a", write, {"n": 1})]
    session = agent.post("/sessions").json()["id"]
    assert f"/functions/{write}/call" in agent.get("/openapi.json").json()["paths"]
    for target in (path, f"/functions/{write}@1/call", f"/functions/{write}@01/call", f"{path}?session={session}"):
        for headers in ({}, {"Prefer": "respond-async"}, {"Prefer": "respond-async, wait=0"}, EVENTS):
            held(agent.post(target, json=arguments, headers=headers))
    for more in ({}, {"session": session}, {"confirm": "never"}):
        answer = agent.post("/tools/run", json={"tool_calls": calls, **more}).json()
        assert answer["messages"] == [] and answer["approval"]["calls"][0]["name"] == write
    turns: list[tuple[str, dict[str, Any]]] = [
        ("/chat", {"messages": []}),
        ("/chat", {"messages": [], "conversation": "kept", "confirm": "never"}),
        ("/v1/chat/completions", {"messages": [], "model": "aigbb"}),
        ("/v1/chat/completions", {"messages": [], "model": "aigbb", "approved": [write], "confirm": "never"}),
    ]
    for number, (target, body) in enumerate(turns):
        for headers in ({}, EVENTS):
            question = f"{write} {number} {sorted(headers)}"
            provider.write_down(question, asks((write, arguments)), says("done"))
            sent = {**body, "messages": [{"role": "user", "content": question}]}
            sent |= {"stream": headers == EVENTS} if target.startswith("/v1") else {}
            sent |= {"conversation": f"c-{write}-{len(headers)}"} if "conversation" in body else {}
            answer = agent.post(target, json=sent, headers=headers)
            assert answer.status_code == 200 and "/approvals/" in answer.text, answer.text
    for approval in agent.get("/approvals").json()["approvals"]:
        problem(decide(agent, approval), 403, "forbidden")
    assert ran(client, write) == []
    assert decide(client, approval).status_code == 200
    assert ran(client, write) == [(1, "ok")]


def test_what_approves_in_a_request_of_an_agent_is_refused(
    agent: httpx2.Client, client: httpx2.Client, key: Make, write: str
) -> None:
    calls = [tool_call("a", write, {"n": 1})]
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/tools/run", {"tool_calls": calls, "approved": [write]}),
        ("/chat", {"messages": [{"role": "user", "content": "?"}], "approved": [f"{write}@1"]}),
    ]
    for path, body in bodies:
        assert problem(agent.post(path, json=body), 403, "forbidden")["scopes"] == ["approve"]
    problem(agent.post("/keys", json={"name": "mine", "scopes": ["approve"]}), 403, "forbidden")
    problem(agent.post("/register", json={"source": source_of(write), "confirm": "never"}), 403, "forbidden")
    held(agent.post(f"/functions/{write}/call", json={"n": 1, "approved": [write]}))
    person = key("execute:function", "approve")
    assert call(person, write, {"n": 1})["result"] == 2
    assert person.post(bodies[0][0], json=bodies[0][1]).json()["runs"][0]["status"] == "ok"
    assert ran(client, write) == [(1, "ok"), (1, "ok")]


# -- typed calls that wait


def test_a_typed_call_waits_and_its_outcome_is_the_asker_s(
    agent: httpx2.Client, client: httpx2.Client, key: Make, write: str
) -> None:
    approval = held(agent.post(f"/functions/{write}/call", json={"n": 41}))
    [shown] = approval["calls"]
    assert (shown["name"], shown["arguments"], shown["version"], shown["effects"]) == (write, {"n": 41}, 1, "write")
    path = f"/approvals/{approval['id']}"
    assert agent.get(path).json()["outcome"] is None
    for other in (key("execute:function", "approve"), key("chat", "execute:function")):
        problem(other.get(path), 404, "unknown_approval")
    problem(decide(client, approval, args_hash="0" * 64), 409, "approval_void")
    problem(decide(client, approval, "respond", content="42"), 422, "invalid_request")
    done = decide(client, approval, args_hash=shown["args_hash"]).json()
    assert (done["status"], done["result"], done["version"], done["name"]) == ("ok", 42, 1, write)
    kept = agent.get(path).json()
    assert (kept["status"], kept["outcome"]) == ("decided", done)
    problem(decide(client, approval), 409, "approval_settled")
    assert ran(client, write) == [(1, "ok")]
    lines = client.get("/audit", params={"action": "decide"}).json()
    assert lines[0]["name"] == write and lines[0]["key"].startswith("token-")
    calls = client.get("/audit", params={"action": "call"}).json()
    asker = next(line["key"] for line in calls if line["name"] == write)
    assert asker in lines[0]["detail"] and asker != lines[0]["key"]


def test_a_typed_call_is_edited_or_rejected(agent: httpx2.Client, client: httpx2.Client, write: str) -> None:
    path = f"/functions/{write}/call"
    assert decide(client, held(agent.post(path, json={"n": 1})), "edit", arguments={"n": 5}).json()["result"] == 6
    approval = held(agent.post(path, json={"n": 1}))
    rejected = decide(client, approval, "reject", reason="Not today.").json()
    assert rejected["status"] == "decided" and rejected["outcome"]["problem"]["code"] == "rejected"
    assert "Not today." in agent.get(f"/approvals/{approval['id']}").json()["outcome"]["problem"]["detail"]
    wrong = held(agent.post(path, json={"m": 1}))
    problem(decide(client, wrong), 422, "invalid_arguments")
    assert agent.get(f"/approvals/{wrong['id']}").json()["outcome"]["problem"]["code"] == "invalid_arguments"
    assert ran(client, write) == [(1, "ok"), (1, "error")]


@pytest.mark.parametrize(("decision", "status"), [("approve", 200), ("reject", 403)])
def test_a_request_may_wait_for_the_decision(
    agent: httpx2.Client, client: httpx2.Client, write: str, decision: str, status: int
) -> None:
    def waiting() -> list[dict[str, Any]]:
        found = client.get("/approvals").json()["approvals"]
        return [one for one in found if one["calls"][0]["name"] == write]

    short = agent.post(f"/functions/{write}/call", json={"n": 0}, headers={"Prefer": "wait=1"})
    decide(client, held(short), "reject")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            agent.post, f"/functions/{write}/call", json={"n": 1}, headers={"Prefer": "wait=300"}, timeout=300
        )
        wait_until(waiting)
        [approval] = waiting()
        decide(client, approval, decision)
        answer = asked.result()
    assert answer.status_code == status
    if status == 200:
        assert (answer.json()["result"], answer.headers["x-execution-id"]) == (2, answer.json()["id"])
        assert answer.headers["preference-applied"] == "wait=300"
    else:
        problem(answer, 403, "rejected")


def test_what_waits_ends_with_the_key_and_stays_within_its_functions(
    client: httpx2.Client, server: Server, names: list[str]
) -> None:
    mine, other, _ = names
    for each in names:
        register(client, source_of(each), effects="write")
    made = client.post("/keys", json={"name": "a", "scopes": ["execute:function"], "functions": [mine]}).json()
    with server.client(made["key"]) as agent:
        problem(agent.post(f"/functions/{other}/call", json={"n": 1}), 404, "unknown_function")
        first, second = (held(agent.post(f"/functions/{mine}/call", json={"n": 1})) for _ in range(2))
    with server.client(client.post(f"/keys/{made['id']}/rotate").json()["key"]):
        assert decide(client, first).status_code == 200
    client.delete(f"/keys/{made['id']}")
    problem(decide(client, second), 409, "approval_void")
    assert ran(client, mine) == [(1, "ok")]


def test_bound_values_are_shown_to_who_decides(agent: httpx2.Client, client: httpx2.Client, name: str) -> None:
    source = f"def {name}(to: str, text: str) -> str:\n    return to + text\n"
    register(client, source, effects="write", bound=["to"])
    hashes = set()
    for to in ("ada", "eve"):
        body = {"tool_calls": [tool_call("a", name, {"text": "x"})], "bound": {"to": to}}
        approval = agent.post("/tools/run", json=body).json()["approval"]
        assert (approval["calls"][0]["arguments"], approval["calls"][0]["bound"]) == ({"text": "x"}, {"to": to})
        hashes.add(approval["calls"][0]["args_hash"])
    assert len(hashes) == 2
    done = decide(client, approval).json()
    assert done["messages"][0]["content"] == "evex"
    assert agent.get(f"/approvals/{approval['id']}").json()["outcome"] == done


# -- what was judged is what runs


@pytest.fixture
def busy(client: httpx2.Client) -> Iterator[Callable[[], None]]:
    """The one place is taken until the test lets go of it."""
    answer = client.post(
        "/execute",
        json={"code": "import time\nwhile True: time.sleep(0.01)", "timeout": 300},
        headers={"Prefer": "respond-async"},
    )
    identity = answer.json()["id"]
    wait_until(lambda: client.get(f"/executions/{identity}").json()["status"] == "running")

    def free() -> None:
        client.post(f"/executions/{identity}/cancel")

    yield free
    free()


def queued(client: httpx2.Client, count: int = 1) -> None:
    """Wait until so many calls wait for a place."""
    wait_until(lambda: client.get("/healthz").json()["waiting"] == count)


def test_a_version_that_became_active_while_a_call_waited_for_a_place_does_not_run(
    agent: httpx2.Client, client: httpx2.Client, busy: Callable[[], None], names: list[str]
) -> None:
    """By each path one call is judged, or approved, as version 1; then comes a version 2, and then its turn."""
    reads, writes, _ = names
    register(client, source_of(reads), effects="read")
    register(client, source_of(writes), effects="write")
    approval = held(agent.post(f"/functions/{writes}/call", json={"n": 1}))
    body = {"tool_calls": [tool_call("a", reads, {"n": 1})]}
    with ThreadPoolExecutor(3) as pool:
        typed = pool.submit(agent.post, f"/functions/{reads}/call", json={"n": 1}, timeout=300)
        tools = pool.submit(agent.post, "/tools/run", json=body, timeout=300)
        decided = pool.submit(decide, client, approval)
        queued(client, 3)
        register(client, source_of(reads, "return n + 100"), effects="write", confirm="always")
        register(client, source_of(writes, "return n + 100"), effects="write")
        busy()
        one, other, third = (work.result() for work in (typed, tools, decided))
    assert (one.json()["result"], one.json()["version"]) == (2, 1)
    assert (other.json()["messages"][0]["content"], other.json()["runs"][0]["version"]) == ("2", 1)
    assert (third.json()["result"], third.json()["version"]) == (2, 1)
    assert ran(client, reads) == [(1, "ok"), (1, "ok")] and ran(client, writes) == [(1, "ok")]
    held(agent.post(f"/functions/{reads}/call", json={"n": 1}))  # the policy of now holds for calls of now
    held(agent.post(f"/functions/{reads}@1/call", json={"n": 1}))  # and for older versions


def test_a_function_that_was_deleted_while_a_call_waited_does_not_run(
    agent: httpx2.Client, client: httpx2.Client, busy: Callable[[], None], name: str
) -> None:
    register(client, source_of(name), effects="read")
    register(client, source_of(name, "return n + 2"), effects="read")
    with ThreadPoolExecutor(2) as pool:
        work = [
            pool.submit(agent.post, f"/functions/{each}/call", json={"n": 1}, timeout=300)
            for each in (name, f"{name}@1")
        ]
        queued(client, 2)
        client.delete(f"/functions/{name}")
        busy()
        for each in work:
            assert "deleted" in problem(each.result(), 404, "unknown_function")["detail"]
    assert {outcome for _, outcome in ran(client, name)} == {"unknown_function"}


def test_an_approval_is_void_for_another_version_and_for_a_deleted_function(
    agent: httpx2.Client, client: httpx2.Client, write: str
) -> None:
    changed, deleted, pinned = (
        held(agent.post(f"/functions/{each}/call", json={"n": 1})) for each in (write, f"{write}", f"{write}@1")
    )
    register(client, source_of(write, "return n + 100"), effects="write")
    problem(decide(client, changed), 409, "approval_void")
    assert decide(client, pinned).json()["version"] == 1  # it named the version itself
    client.delete(f"/functions/{write}")
    problem(decide(client, deleted), 409, "approval_void")
    assert decide(client, deleted, "reject").json()["status"] == "decided"


def test_a_version_of_a_deleted_function_is_called_by_no_path(
    agent: httpx2.Client, client: httpx2.Client, write: str
) -> None:
    client.delete(f"/functions/{write}")
    for one in (agent, client):
        for each in (write, f"{write}@1"):
            problem(one.post(f"/functions/{each}/call", json={"n": 1}), 404, "unknown_function")
            ran_ = one.post("/tools/run", json={"tool_calls": [tool_call("a", each, {"n": 1})]}).json()
            assert [run["status"] for run in ran_["runs"]] == ["unknown_function"]
    assert ran(client, write) == []


def test_a_session_that_stays_with_its_functions_runs_the_version_that_was_judged(
    client: httpx2.Client, agent: httpx2.Client, name: str
) -> None:
    register(client, source_of(name), effects="write", confirm="never")
    session = agent.post("/sessions", json={"pinned": True}).json()["id"]
    assert call(agent, name, {"n": 1}, session=session)["version"] == 1
    register(client, source_of(name, "return n + 100"), effects="read")
    found = call(agent, name, {"n": 1}, session=session)
    assert (found["version"], found["result"]) == (2, 101)
    client.delete(f"/sessions/{session}")
    assert json.loads(execute(client, f"{name}(1)")["result"]) == 101


# -- where a chat request goes


def test_a_chat_request_aims_the_service_at_listed_addresses_only(
    agent: httpx2.Client, client: httpx2.Client, key: Make, listed: Provider, provider: Provider, write: str
) -> None:
    def body(url: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": write}], "service": {"base_url": url}}

    with serving() as other:
        for one in (listed, other):
            one.write_down(write, says("Hi!"), says("Hi!"))
        assert agent.post("/chat", json=body(listed.url)).json()["content"] == "Hi!"
        for headers in ({}, EVENTS):
            refused = agent.post("/chat", json=body(other.url), headers=headers)
            assert "AIGBB_MODEL_SERVICES" in refused.text
        problem(agent.post("/chat", json=body(other.url)), 403, "forbidden")
        assert client.post("/chat", json=body(other.url)).json()["content"] == "Hi!"
        # Who decides about a turn may not aim it either.
        person = key("chat", "approve")
        provider.write_down(f"aim {write}", asks((write, {"n": 1})))
        turn = person.post("/chat", json={"messages": [{"role": "user", "content": f"aim {write}"}]}).json()["approval"]
        decision = {"decisions": [{"call_id": "call_0", "decision": "approve"}], "service": {"base_url": other.url}}
        problem(person.post(f"/approvals/{turn['id']}", json=decision), 403, "forbidden")
        assert person.get(f"/approvals/{turn['id']}").json()["status"] == "waiting"
        assert len(other.paths) == 1
