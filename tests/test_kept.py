"""Conversations that the service keeps: gone on with by id, after a crash too, and what was begun is not repeated."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import Server, running_server
from tests.doors import EVENTS, problem, register, stream, told, wait_until
from tests.provider import Provider, Refusal, Silence, asks, says

# Leaves a mark when it begins, and another when it ends; until then it waits to be told to.
SLOW = """
import time
from pathlib import Path

def slow(folder: str, name: str) -> str:
    with (Path(folder) / f"{name} begun").open("a") as file:
        file.write("once\\n")
    while not (Path(folder) / f"{name} go").exists():
        time.sleep(0.01)
    (Path(folder) / f"{name} ended").touch()
    return f"{name} done"
"""
FUNCTIONS: list[dict[str, Any]] = [
    {"source": SLOW, "effects": "write", "confirm": "never"},
    {"source": "def add(n: int) -> int:\n    return n + 1\n"},
]


@pytest.fixture
def tmp_path(shown: Path) -> Path:
    """A folder that kernels may write, too."""
    return shown


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, cache: Path, provider: Provider) -> Iterator[Server]:
    """A service whose model says what tests wrote down."""
    folder = tmp_path_factory.mktemp("kept")
    with running_server(folder, cache, provider.environment, model="m", model_timeout=60) as server:
        with server.client() as client:
            assert client.post("/register/batch", json={"functions": FUNCTIONS}).status_code == 201
        yield server


@pytest.fixture
def client(service: Server) -> Iterator[httpx2.Client]:
    """A client of it."""
    with service.client() as opened:
        yield opened


def user(text: str) -> dict[str, str]:
    """What a person says."""
    return {"role": "user", "content": text}


def chat(client: httpx2.Client, conversation: str, *said: str) -> dict[str, Any]:
    """A turn of a kept conversation."""
    body = {"conversation": conversation, "messages": [user(text) for text in said]}
    answer = client.post("/chat", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


# What another process does takes its time.
until = partial(wait_until, seconds=30)


def test_only_what_is_new_is_sent(client: httpx2.Client, provider: Provider) -> None:
    provider.write_down("new", asks(("add", {"n": 1})), says("It is 2."), says("You are welcome."))
    first = chat(client, "new", "new")
    assert (first["content"], first["conversation"], first["added"]) == ("It is 2.", "new", 3)
    second = chat(client, "new", "Thanks.")
    assert (second["content"], second["added"], len(second["messages"])) == ("You are welcome.", 1, 6)
    assert provider.asked["new"][2]["messages"] == second["messages"][:5]
    kept = client.get("/conversations/new").json()
    assert (kept["messages"], kept["status"]) == (second["messages"], "idle")


def test_without_an_id_nothing_is_kept(client: httpx2.Client, provider: Provider) -> None:
    provider.write_down("not kept", says("Hello."))
    before = client.get("/conversations").json()
    answer = client.post("/chat", json={"messages": [user("not kept")]}).json()
    assert answer["conversation"] is None
    assert client.get("/conversations").json() == before


def test_conversations_are_listed_and_forgotten(client: httpx2.Client, provider: Provider) -> None:
    provider.write_down("listed", says("Hello."))
    chat(client, "listed", "listed")
    first = client.get("/conversations").json()["conversations"][0]
    assert (first["id"], first["status"], first["messages"]) == ("listed", "idle", 2)
    assert client.delete("/conversations/listed").status_code == 204
    problem(client.get("/conversations/listed"), 404, "unknown_conversation")
    problem(client.delete("/conversations/listed"), 404, "unknown_conversation")


@pytest.mark.parametrize("conversation", ["", "a/b", "x" * 65, "ä"])
def test_an_id_that_cannot_be_one_is_refused(client: httpx2.Client, conversation: str) -> None:
    body = {"conversation": conversation, "messages": [user("x")]}
    problem(client.post("/chat", json=body), 422, "invalid_request")


def test_a_conversation_without_a_message_is_no_conversation(client: httpx2.Client) -> None:
    problem(client.post("/chat", json={"conversation": "empty"}), 422, "invalid_request")
    problem(client.get("/conversations/empty"), 404, "unknown_conversation")


def test_one_turn_at_a_time(client: httpx2.Client, provider: Provider, tmp_path: Path) -> None:
    provider.write_down("busy", asks(("slow", {"folder": str(tmp_path), "name": "a"})), says("Done."))
    answers: list[dict[str, Any]] = []
    turn = threading.Thread(target=lambda: answers.append(chat(client, "busy", "busy")))
    turn.start()
    until((tmp_path / "a begun").exists)
    body = {"conversation": "busy", "messages": [user("me too")]}
    problem(client.post("/chat", json=body), 409, "conversation_busy")
    problem(client.delete("/conversations/busy"), 409, "conversation_busy")
    assert client.get("/conversations/busy").json()["status"] == "running"
    (tmp_path / "a go").touch()
    turn.join()
    assert answers[0]["content"] == "Done."


def test_a_turn_that_failed_is_gone_on_with(client: httpx2.Client, provider: Provider) -> None:
    provider.write_down("failed", asks(("add", {"n": 1})), Refusal(400, "too long"), says("It is 2."))
    body = {"conversation": "failed", "messages": [user("failed")]}
    problem(client.post("/chat", json=body), 502, "model_failed")
    assert client.get("/conversations/failed").json()["status"] == "interrupted"
    again = chat(client, "failed")
    assert (again["content"], told(again)) == ("It is 2.", ["2"])
    assert [m["role"] for m in again["messages"]] == ["user", "assistant", "tool", "assistant"]


def test_who_leaves_frees_the_conversation_and_what_was_begun_is_said(
    service: Server, client: httpx2.Client, provider: Provider, tmp_path: Path
) -> None:
    call = ("slow", {"folder": str(tmp_path), "name": "a"})
    provider.write_down("left", asks(("add", {"n": 1}), call, ("slow", {**call[1], "name": "b"})), says("I see."))
    body = {"conversation": "left", "messages": [user("left")]}
    with service.client() as other, other.stream("POST", "/chat", json=body, headers=EVENTS) as answer:
        lines = answer.iter_lines()
        until((tmp_path / "a begun").exists)
        next(lines)
    until(lambda: client.get("/conversations/left").json()["status"] == "interrupted")
    after = chat(client, "left", "And now?")
    first, second, third = told(after)
    assert first == "2"
    assert json.loads(second)["error"] == "interrupted" and "not repeated" in second
    assert json.loads(third)["error"] == "not_run"
    assert not (tmp_path / "a ended").exists() and not (tmp_path / "b begun").exists()
    assert [m["role"] for m in after["messages"]] == ["user", "assistant", "tool", "tool", "tool", "user", "assistant"]


def test_who_leaves_while_the_model_thinks_loses_nothing(
    service: Server, client: httpx2.Client, provider: Provider
) -> None:
    provider.write_down("thinks", asks(("add", {"n": 1})), Silence(), says("It is 2."))
    body = {"conversation": "thinks", "messages": [user("thinks")]}
    with service.client() as other, other.stream("POST", "/chat", json=body, headers=EVENTS) as answer:
        lines = answer.iter_lines()
        while next(lines) != "event: tool_result":
            pass
        until(lambda: len(provider.asked["thinks"]) == 2)
    until(lambda: client.get("/conversations/thinks").json()["status"] == "interrupted")
    after = chat(client, "thinks")
    assert (after["content"], told(after)) == ("It is 2.", ["2"])


def test_a_turn_that_was_killed_is_gone_on_with_by_another_process(
    tmp_path: Path, cache: Path, provider: Provider
) -> None:
    own, marks = tmp_path.with_name(f"{tmp_path.name}-own"), tmp_path / "marks"
    marks.mkdir()
    more = {**provider.environment, "AIGBB_MOUNTS": f"{tmp_path}:rw"}
    calls = [("slow", {"folder": str(marks), "name": name}) for name in ("done", "killed", "never")]
    provider.write_down("killed", asks(*calls), says("I see."))
    with running_server(own, cache, more, model="m") as server, server.client() as client:
        register(client, SLOW, effects="write", confirm="never")
        turn = threading.Thread(target=lambda: _quietly(server, {"conversation": "k", "messages": [user("killed")]}))
        turn.start()
        until((marks / "done begun").exists)
        (marks / "done go").touch()
        until(lambda: (marks / "killed begun").exists() and (marks / "killed begun").read_text() == "once\n")
        server.stop(signal.SIGKILL)
        turn.join()
    with running_server(own, cache, more, model="m") as server, server.client() as client:
        kept = client.get("/conversations/k").json()
        assert kept["status"] == "interrupted" and len(kept["messages"]) == 2
        after = chat(client, "k")
        done, killed, never = told(after)
        assert done == "done done"
        assert json.loads(killed)["error"] == "interrupted" and json.loads(never)["error"] == "not_run"
        assert after["content"] == "I see."
    assert (marks / "killed begun").read_text() == "once\n"
    assert not (marks / "never begun").exists()


def _quietly(server: Server, body: dict[str, Any]) -> None:
    """Ask a service that will not live to answer."""
    with server.client() as client, pytest.raises(httpx2.HTTPError):
        client.post("/chat", json=body)


def test_events_of_a_kept_conversation_end_with_all_of_it(client: httpx2.Client, provider: Provider) -> None:
    provider.write_down("as events", says("Hello."), says("Again."))
    for expected in (2, 4):
        *_, (name, done) = stream(client, "/chat", {"conversation": "ev", "messages": [user("as events")]})
        assert (name, len(done["messages"]), done["conversation"]) == ("done", expected, "ev")


def test_the_old_are_forgotten(tmp_path: Path, cache: Path, provider: Provider) -> None:
    provider.write_down("old", says("Hello."))
    provider.write_down("young", says("Hello."))
    more = provider.environment
    with running_server(tmp_path, cache, more, model="m", conversation_days=1e-9) as server, server.client() as client:
        chat(client, "old", "old")
        chat(client, "young", "young")
        assert [one["id"] for one in client.get("/conversations").json()["conversations"]] == ["young"]
