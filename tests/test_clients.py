"""OpenAI's client for JavaScript drives the service: every script is what a tutorial would have one write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server, running_server
from tests.node import Programs
from tests.provider import Broken, Provider, asks, says

SOURCES = {
    "add": 'def add(n: int) -> int:\n    """Add one."""\n    return n + 1\n',
    "hello": "def hello() -> str:\n    return 'hi'\n",
}


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory, cache: Path, provider: Provider) -> Iterator[Server]:
    """A service with a model behind it, and functions."""
    folder = tmp_path_factory.mktemp("clients")
    with running_server(folder, cache, {"OPENAI_BASE_URL": provider.url}, model="behind") as server:
        with server.client() as client:
            bodies = [
                {"source": source, "tags": [f"with_{name}"], "confirm": "never"} for name, source in SOURCES.items()
            ]
            assert client.post("/register/batch", json={"functions": bodies}).status_code == 201
        yield server


Run = Callable[[str], Any]


@pytest.fixture
def run(programs: Programs, chatting: Server) -> Run:
    """Run a script; its name is what it asks."""
    return lambda script: programs.run(script, chatting.url, chatting.token, question=script)


def test_functions_are_run_by_the_service(run: Run, provider: Provider) -> None:
    provider.write_down("ours", asks(("add", {"n": 1}), ("hello", {})), says("It is 2."))
    assert run("ours") == {
        "content": "It is 2.",
        "finish": "stop",
        "total": True,
        "runs": [["add", "ok"], ["hello", "ok"]],
    }
    assert [m["role"] for m in provider.asked["ours"][1]["messages"]] == ["user", "assistant", "tool", "tool"]


def test_a_stream_is_read_piece_by_piece(run: Run, provider: Provider) -> None:
    provider.write_down("streamed", asks(("add", {"n": 1})), says("It is 2."))
    found = run("streamed")
    assert found == {"content": "It is 2.", "pieces": True, "finish": "stop"}


def test_the_loop_of_a_tutorial_runs_its_own_tools_and_the_service_the_others(run: Run, provider: Provider) -> None:
    both = asks(("weather", {"city": "Rome"}), ("weather", {"city": "Oslo"}))
    provider.write_down("loop", asks(("add", {"n": 1})), both, asks(("hello", {})), says("Sunny in both."))
    found = run("loop")
    assert found == {"content": "Sunny in both.", "roles": ["user", "assistant", "tool", "tool", "assistant"]}
    answers = [m["content"] for m in provider.asked["loop"][-1]["messages"] if m["role"] == "tool"]
    assert answers == ["sunny in Rome", "sunny in Oslo", "hi"]


def test_the_clients_helpers_take_it(run: Run, provider: Provider) -> None:
    for door in ("runTools", "runTools streamed"):
        provider.write_down(f"helpers {door}", asks(("weather", {"city": "Rome"})), says("It is sunny."))
    provider.write_down("helpers stream", asks(("add", {"n": 1})), says("It is 2."))
    roles = ["user", "assistant", "tool", "assistant"]
    assert run("helpers") == {
        "ran": {"content": "It is sunny.", "roles": roles},
        "streamed": {"content": "It is sunny.", "pieces": "It is sunny.", "roles": roles},
        "helped": {"content": "It is 2.", "finish": "stop"},
    }
    for door in ("runTools", "runTools streamed"):
        assert provider.asked[f"helpers {door}"][1]["messages"][-1]["content"] == "sunny in Rome"


def test_refusals_are_the_clients_own_errors_with_our_message(run: Run, provider: Provider) -> None:
    provider.write_down("refused", Broken(says("The answer is ")[:2]))
    found = run("refused")
    assert all(error["known"] for error in found.values())
    told = {name: (error["kind"], error["status"], error["code"]) for name, error in found.items()}
    assert told == {
        "model": ("NotFoundError", 404, "unknown_model"),
        "streamed": ("NotFoundError", 404, "unknown_model"),
        "choice": ("UnprocessableEntityError", 422, "invalid_request"),
        "token": ("AuthenticationError", 401, "unauthorized"),
        "broken": ("APIError", None, "model_failed"),
    }
    assert "There is no model 'gpt-9'." in found["model"]["message"]
    assert "could not answer" in found["broken"]["message"]


def test_the_models_are_listed(run: Run) -> None:
    assert run("models") == ["aigbb", "aigbb:with_add", "aigbb:with_hello"]
