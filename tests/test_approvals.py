"""Calls that may change something wait for a person: over HTTP, with functions that leave marks in a folder."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import Server, running_server
from tests.doors import Ask, call, problem, register, stream, told
from tests.provider import Provider, asks, asks_in_words, asks_legacy, says

pytest_plugins = ["tests.chat_fixtures"]

SEND = """
from pathlib import Path

def send(folder: str, text: str) -> str:
    with (Path(folder) / "sent").open("a") as file:
        file.write(text + "\\n")
    return f"sent {text}"
"""
FUNCTIONS: list[dict[str, Any]] = [
    {"source": SEND, "effects": "write"},
    {"source": SEND.replace("send(", "undeclared("), "name": "undeclared"},
    {"source": SEND.replace("send(", "allowed("), "name": "allowed", "effects": "write", "confirm": "never"},
    {"source": "def add(n: int) -> int:\n    return n + 1\n"},
    {"source": "def asked_always(n: int) -> int:\n    return n\n", "confirm": "always"},
]


@pytest.fixture
def tmp_path(shown: Path) -> Path:
    """A folder that kernels may write, too."""
    return shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the service lives."""
    return tmp_path_factory.mktemp("approvals")


@pytest.fixture(scope="module")
def service(folder: Path, cache: Path, provider: Provider) -> Iterator[Server]:
    """A service with functions that leave marks."""
    with running_server(folder, cache, provider.environment, model="m") as server:
        with server.client() as client:
            answer = client.post("/register/batch", json={"functions": FUNCTIONS})
            assert answer.status_code == 201, answer.text
        yield server


@pytest.fixture
def client(service: Server) -> Iterator[httpx2.Client]:
    """A client of it."""
    with service.client() as opened:
        yield opened


@pytest.fixture
def sent(tmp_path: Path) -> Callable[[], list[str]]:
    """What was sent in this test."""
    path = tmp_path / "sent"
    return lambda: path.read_text().splitlines() if path.exists() else []


Sent = Callable[[], list[str]]


def decide(client: httpx2.Client, waiting: dict[str, Any], decision: str, **more: Any) -> httpx2.Response:
    """The same decision about all calls that wait."""
    approval = waiting["approval"]
    decisions = [{"call_id": one["call_id"], "decision": decision, **more} for one in approval["calls"]]
    return client.post(f"/approvals/{approval['id']}", json={"decisions": decisions})


def send_(folder: Path, text: str = "hello", name: str = "send") -> tuple[str, dict[str, str]]:
    """A call that leaves a mark."""
    return name, {"folder": str(folder), "text": text}


# -- what waits


def test_a_call_that_writes_waits_and_the_others_are_run(ask: Ask, tmp_path: Path, sent: Sent) -> None:
    found = ask(asks(("add", {"n": 1}), send_(tmp_path), ("add", {"n": 2})))
    assert (found["status"], sent()) == ("needs_confirmation", [])
    [waiting] = found["approval"]["calls"]
    assert waiting["name"] == "send" and waiting["arguments"] == {"folder": str(tmp_path), "text": "hello"}
    assert (waiting["version"], waiting["effects"], len(waiting["args_hash"])) == (1, "write", 64)
    assert found["approval"]["status"] == "waiting" and found["conversation"]
    assert f"POST /approvals/{found['approval']['id']}" in found["approval"]["hint"]
    assert told(found) == ["2", "3"]


@pytest.mark.parametrize(
    ("name", "waits"),
    [("send", True), ("undeclared", True), ("allowed", False), ("asked_always", True), ("add", False)],
)
def test_effects_and_confirm_say_what_waits(ask: Ask, tmp_path: Path, name: str, waits: bool) -> None:
    arguments = {"n": 1} if name in ("add", "asked_always") else send_(tmp_path)[1]
    found = ask(asks((name, arguments)), says("ok"))
    assert found["status"] == ("needs_confirmation" if waits else "done")


@pytest.mark.parametrize(("confirm", "waits"), [("always", True), ("writes", False), ("never", False)])
def test_a_request_may_ask_for_more_decisions(ask: Ask, confirm: str, waits: bool) -> None:
    found = ask(asks(("add", {"n": 1})), says("ok"), confirm=confirm)
    assert (found["status"] == "needs_confirmation") is waits


def test_a_request_may_not_ask_for_fewer(ask: Ask, tmp_path: Path) -> None:
    assert ask(asks(send_(tmp_path)), confirm="never")["status"] == "needs_confirmation"


@pytest.mark.parametrize("approved", ["send", "send@1"])
def test_what_the_caller_decided_before_does_not_wait(ask: Ask, tmp_path: Path, sent: Sent, approved: str) -> None:
    found = ask(asks(send_(tmp_path)), says("ok"), approved=[approved])
    assert (found["status"], sent(), found["approved"]) == ("done", ["hello"], [approved])


def test_a_decision_about_another_version_does_not_count(ask: Ask, tmp_path: Path) -> None:
    assert ask(asks(send_(tmp_path)), approved=["send@7"])["status"] == "needs_confirmation"


@pytest.mark.parametrize("arguments", ['{"folder": "x"', "[1]"])
def test_what_could_not_run_anyway_is_refused_and_not_asked_about(ask: Ask, arguments: str) -> None:
    found = ask(asks(("send", arguments)), says("ok"))
    assert found["status"] == "done"
    assert json.loads(told(found)[0])["error"] == "invalid_arguments"


def test_models_of_any_mode_wait(ask: Ask, client: httpx2.Client, tmp_path: Path, sent: Sent) -> None:
    name, arguments = send_(tmp_path)
    for mode, asking in (("legacy", asks_legacy(name, arguments)), ("prompt", asks_in_words((name, arguments)))):
        found = ask(asking, says("done"), mode=mode)
        assert found["status"] == "needs_confirmation"
        assert decide(client, found, "approve").json()["content"] == "done"
    assert sent() == ["hello", "hello"]


# -- what is decided


def test_approved_it_runs_once_and_the_turn_goes_on(
    ask: Ask, client: httpx2.Client, provider: Provider, tmp_path: Path, sent: Sent, request: pytest.FixtureRequest
) -> None:
    found = ask(asks(("add", {"n": 1}), send_(tmp_path)), says("It is sent."))
    done = decide(client, found, "approve", args_hash=found["approval"]["calls"][0]["args_hash"]).json()
    assert (done["status"], done["content"], sent()) == ("done", "It is sent.", ["hello"])
    assert told(done) == ["2", "sent hello"]
    assert done["conversation"] == found["conversation"]
    assert [len(each["runs"]) for each in done["rounds"]] == [2, 0]
    roles = [m["role"] for m in provider.asked[request.node.name][1]["messages"]]
    assert roles == ["user", "assistant", "tool", "tool"]
    assert problem(decide(client, found, "approve"), 409, "approval_settled")
    assert sent() == ["hello"]
    assert client.get(f"/approvals/{found['approval']['id']}").json()["status"] == "decided"


def test_edited_it_runs_with_other_arguments_and_the_model_is_told(
    ask: Ask, client: httpx2.Client, tmp_path: Path, sent: Sent
) -> None:
    found = ask(asks(send_(tmp_path)), says("ok"))
    done = decide(client, found, "edit", arguments={"folder": str(tmp_path), "text": "bye"}).json()
    assert sent() == ["bye"]
    [content] = told(done)
    assert "changed the arguments" in content and content.endswith("sent bye")


def test_edited_wrongly_the_model_reads_what_is_wrong(
    ask: Ask, client: httpx2.Client, tmp_path: Path, sent: Sent
) -> None:
    found = ask(asks(send_(tmp_path)), says("ok"))
    done = decide(client, found, "edit", arguments={"folder": str(tmp_path)}).json()
    assert "invalid_arguments" in told(done)[0] and sent() == []


def test_rejected_it_does_not_run_and_the_model_reads_why(
    ask: Ask, client: httpx2.Client, tmp_path: Path, sent: Sent
) -> None:
    found = ask(asks(send_(tmp_path)), says("I see."))
    done = decide(client, found, "reject", reason="Not today.").json()
    assert (done["status"], done["content"], sent()) == ("done", "I see.", [])
    assert json.loads(told(done)[0])["detail"] == "A person rejected this call: Not today."


def test_answered_in_its_stead_that_is_the_result(ask: Ask, client: httpx2.Client, tmp_path: Path, sent: Sent) -> None:
    found = ask(asks(send_(tmp_path)), says("ok"))
    done = decide(client, found, "respond", content="I sent it myself.").json()
    assert told(done) == ["I sent it myself."] and sent() == []
    assert done["rounds"][0]["runs"][0]["status"] == "answered"


def test_decided_for_the_session_it_waits_no_more(ask: Ask, client: httpx2.Client, tmp_path: Path, sent: Sent) -> None:
    found = ask(asks(send_(tmp_path, "1")), asks(send_(tmp_path, "2")), says("ok"))
    done = decide(client, found, "approve", scope="session").json()
    assert (done["status"], done["approved"], sent()) == ("done", ["send@1"], ["1", "2"])
    again = ask(asks(send_(tmp_path, "3")), says("ok"), conversation=found["conversation"])
    assert (again["status"], sent()) == ("done", ["1", "2", "3"])


def test_each_call_has_a_decision_of_its_own(ask: Ask, client: httpx2.Client, tmp_path: Path, sent: Sent) -> None:
    found = ask(asks(send_(tmp_path, "1"), send_(tmp_path, "2")), says("ok"))
    first, second = (one["call_id"] for one in found["approval"]["calls"])
    path = f"/approvals/{found['approval']['id']}"
    half = client.post(path, json={"decisions": [{"call_id": first, "decision": "approve"}]})
    assert problem(half, 422, "invalid_request")["waiting"] == [first, second]
    both = [{"call_id": second, "decision": "approve"}, {"call_id": first, "decision": "reject"}]
    done = client.post(path, json={"decisions": both}).json()
    assert sent() == ["2"]
    assert "rejected" in told(done)[0] and told(done)[1] == "sent 2"


def test_more_may_wait_after_a_decision(ask: Ask, client: httpx2.Client, tmp_path: Path, sent: Sent) -> None:
    found = ask(asks(send_(tmp_path, "1")), asks(send_(tmp_path, "2")), says("ok"))
    second = decide(client, found, "approve").json()
    assert (second["status"], sent()) == ("needs_confirmation", ["1"])
    assert second["approval"]["id"] != found["approval"]["id"]
    assert decide(client, second, "approve").json()["status"] == "done"
    assert sent() == ["1", "2"]


def test_it_is_seen_as_events(client: httpx2.Client, provider: Provider, tmp_path: Path) -> None:
    provider.write_down("events of approval", asks(send_(tmp_path)), says("ok"))
    body = {"messages": [{"role": "user", "content": "events of approval"}]}
    events = list(stream(client, "/chat", body))
    assert [name for name, _ in events][-2:] == ["needs_confirmation", "done"]
    shown, done = events[-2][1], events[-1][1]
    assert shown["calls"] == done["approval"]["calls"]
    decision = {"decisions": [{"call_id": shown["calls"][0]["call_id"], "decision": "approve"}]}
    after = list(stream(client, f"/approvals/{shown['id']}", decision))
    assert [name for name, _ in after if name != "content.delta"] == ["tool_result", "usage", "done"]
    again = list(stream(client, f"/approvals/{shown['id']}", decision))
    assert [(name, data["code"]) for name, data in again] == [("problem", "approval_settled")]
    unknown = list(stream(client, "/approvals/nothing", decision))
    assert [(name, data["code"]) for name, data in unknown] == [("problem", "unknown_approval")]


# -- what is no decision


def test_arguments_that_are_not_those_that_wait_are_refused(
    ask: Ask, client: httpx2.Client, tmp_path: Path, sent: Sent
) -> None:
    found = ask(asks(send_(tmp_path)), says("ok"))
    problem(decide(client, found, "approve", args_hash="0" * 64), 409, "approval_void")
    assert sent() == []
    assert decide(client, found, "approve").json()["status"] == "done"


def test_a_function_that_changed_cannot_be_approved_any_more(
    ask: Ask, client: httpx2.Client, tmp_path: Path, sent: Sent
) -> None:
    source = SEND.replace("send(", "changing(")
    register(client, source, effects="write")
    found = ask(asks(send_(tmp_path, name="changing")), says("ok"))
    register(client, source.replace("sent {", "SENT {"), effects="write")
    assert problem(decide(client, found, "approve"), 409, "approval_void")["functions"] == ["changing"]
    assert sent() == []
    assert decide(client, found, "reject").json()["status"] == "done"
    client.delete("/functions/changing")


@pytest.mark.parametrize(
    "decisions",
    [
        [],
        [{"call_id": "call_0"}],
        [{"call_id": "call_0", "decision": "maybe"}],
        [{"call_id": "call_0", "decision": "edit"}],
        [{"call_id": "another", "decision": "approve"}],
        [{"call_id": "call_0", "decision": "approve"}] * 2,
        [{"call_id": "call_0", "decision": "approve", "scope": "ever"}],
    ],
)
def test_a_body_that_is_no_decision_is_refused(
    ask: Ask, client: httpx2.Client, tmp_path: Path, sent: Sent, decisions: list[dict[str, Any]]
) -> None:
    found = ask(asks(send_(tmp_path)))
    answer = client.post(f"/approvals/{found['approval']['id']}", json={"decisions": decisions})
    problem(answer, 422, "invalid_request")
    assert sent() == []


def test_what_does_not_wait_cannot_be_decided(client: httpx2.Client) -> None:
    body = {"decisions": [{"call_id": "x", "decision": "approve"}]}
    problem(client.post("/approvals/nothing", json=body), 404, "unknown_approval")
    problem(client.get("/approvals/nothing"), 404, "unknown_approval")


def test_what_waits_is_listed(ask: Ask, client: httpx2.Client, tmp_path: Path) -> None:
    found = ask(asks(send_(tmp_path)))
    listed = client.get("/approvals").json()["approvals"]
    assert found["approval"] in listed
    decide(client, found, "reject")
    assert found["approval"]["id"] not in [one["id"] for one in client.get("/approvals").json()["approvals"]]


def test_two_who_approve_at_once_run_it_once(ask: Ask, client: httpx2.Client, tmp_path: Path, sent: Sent) -> None:
    found = ask(asks(send_(tmp_path)), says("ok"))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: decide(client, found, "approve"), range(4)))
    assert sorted(a.status_code for a in answers) == [200, 409, 409, 409]
    assert {a.json()["code"] for a in answers if a.status_code == 409} <= {"approval_settled", "conversation_busy"}
    assert sent() == ["hello"]


def test_a_conversation_that_goes_on_without_a_decision_has_rejected_it(
    ask: Ask, client: httpx2.Client, tmp_path: Path, sent: Sent
) -> None:
    found = ask(asks(("add", {"n": 1}), send_(tmp_path)))
    went_on = ask(says("Fine."), conversation=found["conversation"])
    assert told(went_on)[0] == "2"
    assert json.loads(told(went_on)[1])["error"] == "rejected"
    assert "went on" in problem(decide(client, found, "approve"), 409, "approval_settled")["detail"]
    assert client.get(f"/approvals/{found['approval']['id']}").json()["status"] == "withdrawn"
    assert sent() == []


def test_what_waits_can_be_sent_back_as_a_value_too(ask: Ask, tmp_path: Path, sent: Sent) -> None:
    found = ask(asks(("add", {"n": 1}), send_(tmp_path)))
    more = ask(says("Fine."), messages=[*found["messages"], {"role": "user", "content": "Leave it."}])
    assert more["status"] == "done"
    assert told(more)[0] == "2" and "no_result" in told(more)[1]
    assert sent() == []


# -- tool calls of somebody else's loop


def tool_call(identity: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """As a chat completion has it."""
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def test_tool_calls_wait_too(client: httpx2.Client, tmp_path: Path, sent: Sent) -> None:
    calls = [tool_call("a", "add", {"n": 1}), tool_call("b", *send_(tmp_path))]
    found = client.post("/tools/run", json={"tool_calls": calls}).json()
    assert found["messages"] == [{"role": "tool", "tool_call_id": "a", "content": "2"}]
    assert [one["call_id"] for one in found["approval"]["calls"]] == ["b"] and sent() == []
    done = decide(client, found, "approve", scope="session").json()
    assert [m["content"] for m in done["messages"]] == ["2", "sent hello"]
    assert [run["status"] for run in done["runs"]] == ["ok", "ok"]
    assert (done["approval"], done["approved"], sent()) == (None, ["send@1"], ["hello"])
    again = client.post("/tools/run", json={"tool_calls": calls, "approved": done["approved"]}).json()
    assert again["approval"] is None and sent() == ["hello", "hello"]


def test_items_of_a_response_are_answered_as_such(client: httpx2.Client, tmp_path: Path) -> None:
    name, arguments = send_(tmp_path)
    item = {"type": "function_call", "call_id": "r", "name": name, "arguments": json.dumps(arguments)}
    found = client.post("/tools/run", json={"tool_calls": [item]}).json()
    assert found["messages"] == []
    done = decide(client, found, "reject").json()
    assert [(m["type"], m["call_id"]) for m in done["messages"]] == [("function_call_output", "r")]


def test_tool_calls_with_the_same_id_are_told_apart(client: httpx2.Client, tmp_path: Path, sent: Sent) -> None:
    calls = [tool_call("x", *send_(tmp_path, text)) for text in ("1", "2")]
    found = client.post("/tools/run", json={"tool_calls": calls}).json()
    first, second = (one["call_id"] for one in found["approval"]["calls"])
    assert first != second
    body = {"decisions": [{"call_id": first, "decision": "reject"}, {"call_id": second, "decision": "approve"}]}
    done = client.post(f"/approvals/{found['approval']['id']}", json=body).json()
    assert [m["tool_call_id"] for m in done["messages"]] == ["x", "x"]
    assert sent() == ["2"]


def test_a_person_who_calls_has_decided(client: httpx2.Client, tmp_path: Path, sent: Sent) -> None:
    assert call(client, *send_(tmp_path))["result"] == "sent hello"
    assert sent() == ["hello"]


# -- OpenAI's clients


@pytest.mark.parametrize("streamed", [False, True])
def test_openais_clients_read_what_waits(
    client: httpx2.Client, provider: Provider, tmp_path: Path, sent: Sent, streamed: bool
) -> None:
    question = f"v1 waits {streamed}"
    provider.write_down(question, asks(send_(tmp_path)), says("It is sent."))
    body = {"model": "aigbb", "messages": [{"role": "user", "content": question}], "stream": streamed}
    answer = client.post("/v1/chat/completions", json=body)
    if streamed:
        chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
        ran = chunks[-1]["aigbb"]
    else:
        text, ran = answer.json()["choices"][0]["message"]["content"], answer.json()["aigbb"]
    assert "send(" in text and f"POST /approvals/{ran['approval']['id']}" in text
    assert (ran["status"], sent()) == ("needs_confirmation", [])
    assert decide(client, ran, "approve").json()["content"] == "It is sent."
    assert sent() == ["hello"]


# -- time, and the end of the service


@pytest.mark.parametrize(("policy", "waiting"), [("never", []), ("always", ["send", "add"])])
def test_the_service_says_what_waits(
    tmp_path: Path, cache: Path, provider: Provider, policy: str, waiting: list[str]
) -> None:
    question = f"policy {policy}"
    provider.write_down(question, asks(send_(tmp_path), ("add", {"n": 1})), says("ok"))
    own = tmp_path.with_name(f"{tmp_path.name}-own")
    more = {**provider.environment, "AIGBB_MOUNTS": f"{tmp_path}:rw"}
    with running_server(own, cache, more, model="m", confirm=policy) as server, server.client() as client:
        client.post("/register/batch", json={"functions": [FUNCTIONS[0], FUNCTIONS[3]]})
        found = client.post("/chat", json={"messages": [{"role": "user", "content": question}]}).json()
        assert [one["name"] for one in (found["approval"] or {"calls": []})["calls"]] == waiting


def test_what_nobody_decided_in_time_is_rejected(tmp_path: Path, cache: Path, provider: Provider, sent: Sent) -> None:
    own = tmp_path.with_name(f"{tmp_path.name}-own")
    more = {**provider.environment, "AIGBB_MOUNTS": f"{tmp_path}:rw"}
    with running_server(own, cache, more, model="m", approval_seconds=1e-6) as server, server.client() as client:
        register(client, SEND, effects="write")
        provider.write_down("too late", asks(send_(tmp_path)), says("I see."))
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "too late"}], "conversation": "late"}
        found = client.post("/chat", json=body).json()
        assert "expired" in problem(decide(client, found, "approve"), 409, "approval_settled")["detail"]
        assert client.get("/approvals").json() == {"approvals": []}
        after = client.post("/chat", json={"messages": [], "conversation": "late"}).json()
        assert json.loads(told(after)[0])["error"] == "rejected"
        assert (after["content"], sent()) == ("I see.", [])


def test_what_waits_survives_the_service(tmp_path: Path, cache: Path, provider: Provider, sent: Sent) -> None:
    own = tmp_path.with_name(f"{tmp_path.name}-own")
    more = {**provider.environment, "AIGBB_MOUNTS": f"{tmp_path}:rw"}
    provider.write_down("survives", asks(("add", {"n": 1}), send_(tmp_path)), says("It is sent."))
    with running_server(own, cache, more, model="m") as server:
        with server.client() as client:
            client.post("/register/batch", json={"functions": [FUNCTIONS[0], FUNCTIONS[3]]})
            found = client.post("/chat", json={"messages": [{"role": "user", "content": "survives"}]}).json()
            assert found["status"] == "needs_confirmation"
        server.stop(signal.SIGKILL)
    with running_server(own, cache, more, model="m") as server, server.client() as client:
        assert client.get("/approvals").json()["approvals"] == [found["approval"]]
        done = decide(client, found, "approve").json()
        assert (done["content"], told(done), sent()) == ("It is sent.", ["2", "sent hello"], ["hello"])
        problem(decide(client, found, "approve"), 409, "approval_settled")
