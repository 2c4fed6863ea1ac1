"""A recorded conversation is played again: what a model said then leads to the same results, to the last character."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import Server, running_server
from tests.doors import stream
from tests.provider import Answer, Provider, asks, says

RECORDED = Path(__file__).parent / "recorded"
MESSAGES: list[dict[str, Any]] = json.loads((RECORDED / "shop.json").read_text(encoding="utf-8"))["messages"]
CALLS = [call for message in MESSAGES for call in message.get("tool_calls", [])]
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((RECORDED / "shop").glob("*.py"))}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, cache: Path, provider: Provider) -> Iterator[Server]:
    """A service with the functions of the record."""
    folder = tmp_path_factory.mktemp("replay")
    with running_server(folder, cache, {"OPENAI_BASE_URL": provider.url}, model="m") as server:
        with server.client() as client:
            bodies = [{"source": source, "confirm": "never"} for source in SOURCES.values()]
            answer = client.post("/register/batch", json={"functions": bodies})
            assert answer.status_code == 201, answer.text
        yield server


@pytest.fixture
def session(shop: Server) -> Iterator[str]:
    """Where nothing is on the shelf yet."""
    with shop.client() as client:
        identity: str = client.post("/sessions").json()["id"]
        yield identity
        assert client.delete(f"/sessions/{identity}").status_code == 204


def test_the_record_is_worth_playing() -> None:
    assert len(CALLS) >= 12
    assert {call["function"]["name"] for call in CALLS} == SOURCES.keys()
    results = [message["content"] for message in MESSAGES if message["role"] == "tool"]
    assert len(results) == len(CALLS)
    assert [json.loads(text)["error"] for text in results if '"error"' in text] == [
        "error",
        "invalid_arguments",
        "invalid_arguments",
    ]


@pytest.mark.parametrize("form", ["json", "events"])
def test_a_recorded_conversation_comes_to_the_same(shop: Server, provider: Provider, session: str, form: str) -> None:
    provider.write_down(MESSAGES[0]["content"], *answers())
    starts = [number for number, message in enumerate(MESSAGES) if message["role"] == "user"]
    with shop.client() as client:
        messages: list[dict[str, Any]] = []
        for start, end in zip(starts, [*starts[1:], len(MESSAGES)], strict=True):
            found = ask(client, form, {"messages": [*messages, MESSAGES[start]], "session": session})
            messages = found["messages"]
            assert messages == MESSAGES[:end]
            assert (found["status"], found["added"]) == ("done", end - start - 1)
    assert provider.asked[MESSAGES[0]["content"]][-1]["messages"] == MESSAGES[:-1]


def answers() -> Iterator[Answer]:
    """What the model said, as a stream."""
    for message in MESSAGES:
        if calls := message.get("tool_calls"):
            pairs = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
            yield asks(*pairs, ids=[call["id"] for call in calls])
        elif message["role"] == "assistant":
            yield says(message["content"])


def ask(client: httpx2.Client, form: str, body: dict[str, Any]) -> dict[str, Any]:
    """A turn, whose events told the same as its end."""
    if form == "json":
        answer = client.post("/chat", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found
    events = list(stream(client, "/chat", body))
    kind, done = events[-1]
    assert kind == "done", done
    added: Sequence[dict[str, Any]] = done["messages"][-done["added"] :]
    told = [{"tool_call_id": data["id"], "content": data["content"]} for kind, data in events if kind == "tool_result"]
    assert told == [{name: m[name] for name in ("tool_call_id", "content")} for m in added if m["role"] == "tool"]
    last: dict[str, Any] = done
    return last
