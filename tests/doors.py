"""What the tests of the REST door share: short ways to ask, what a refusal looks like, what it must leave alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from server.client import parse_events
from tests.conftest import Server, running_server
from tests.index import Index
from tests.waiting import until

# What the fixtures of chat are: a turn with these answers of the model, and what the model's service was asked.
Ask = Callable[..., dict[str, Any]]
Requests = Callable[[], list[dict[str, Any]]]

PROBLEM = "application/problem+json"
EVENTS = {"Accept": "text/event-stream"}
# Snapshots and generations before these may be cleared away at any time, behind a change that went well.
RECENT = 3


def execute(client: httpx2.Client, code: str, **more: Any) -> dict[str, Any]:
    """One execution's answer."""
    answer = client.post("/execute", json={"code": code, **more})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def register(client: httpx2.Client, source: str, **more: Any) -> dict[str, Any]:
    """A registration's answer; it changed something."""
    answer = client.post("/register", json={"source": source, **more})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def call(client: httpx2.Client, name: str, arguments: dict[str, Any] | None = None, **query: Any) -> dict[str, Any]:
    """A typed call's answer."""
    answer = client.post(f"/functions/{name}/call", json=arguments or {}, params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def told(answer: dict[str, Any]) -> list[str]:
    """What a model read of its calls, in a conversation that was answered."""
    return [message["content"] for message in answer["messages"] if message["role"] == "tool"]


def problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The members of a problem, after the ones that every problem has are checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    body: dict[str, Any] = answer.json()
    assert body["code"] == code
    assert body["status"] == status
    assert body["type"] == f"urn:aigbb:problem:{code}"
    assert body["detail"]
    assert body["hint"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


def stream(client: httpx2.Client, path: str, body: dict[str, Any], **headers: str) -> Iterator[tuple[str, Any]]:
    """The events of a request."""
    with client.stream("POST", path, json=body, headers={**EVENTS, **headers}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield from parse_events(answer.iter_lines())


def wait_until(condition: Callable[[], object], seconds: float = 200.0) -> None:
    """Ask the service until it says so. Raises TimeoutError, before the test's own timeout ends all tests."""
    anyio.run(until, condition, seconds)


def settled(client: httpx2.Client) -> None:
    """Wait until nothing runs and as many kernels are ready as there should be (one, in the service with an index)."""
    wait_until(lambda: {"spares": 1, "running": 0}.items() <= client.get("/healthz").json().items())


def source_of(name: str, body: str = "return n + 1") -> str:
    """A small function."""
    return f'def {name}(n: int) -> int:\n    """Add one."""\n    {body}\n'


def picture(client: httpx2.Client, server: Server) -> dict[str, Any]:
    """All that a refused request must leave alone."""
    health = client.get("/healthz").json()
    history = client.get("/history", params={"limit": 1000}).json()
    return {
        "functions": client.get("/functions", params={"per_page": 1000}).json(),
        "history": [line for line in history if line["outcome"] in ("ok", "unchanged")],
        "numbers": (health["snapshot"], health["generation"], health["functions"]),
        "snapshots": _folders(server.home / "snapshots", health["snapshot"]),
        "generations": _folders(server.home / "generations", health["generation"]),
        "files": {p.name: p.read_bytes() for p in server.functions.glob("*.py")},
        "extra": (server.functions.parent / "extra-requirements.txt").read_bytes(),
    }


def _folders(folder: Path, current: int) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not is_old(path.name, current))


def is_old(name: str, current: int) -> bool:
    """Whether the folder of a snapshot or generation may be cleared away, or is being so."""
    return name.startswith(".removing-") or (name.isdecimal() and int(name) <= current - RECENT)


@contextmanager
def server_with(index: Index, folder: Path, cache: Path, **settings: object) -> Iterator[Server]:
    """A service that asks this index first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_INDEX", f"{index.url}/simple")
        patch.setenv("UV_HTTP_RETRIES", "1")
        with running_server(folder, cache, pool_size=1, pool_max=1, **settings) as started:
            patch.undo()  # it is for the service alone
            yield started


def delete_all(client: httpx2.Client) -> None:
    """No function is left, those first that use others."""
    left = [function["name"] for function in client.get("/functions").json()]
    while left:
        left = [name for name in left if client.delete(f"/functions/{name}").status_code != 204]


def tool_call(identity: str, name: str, arguments: Any) -> dict[str, Any]:
    """A tool call as a model writes it; arguments that are no text are written as JSON."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": text}}
