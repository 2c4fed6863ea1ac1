"""Fixtures of turns of chat; the modules that use them name this one in `pytest_plugins`, and have a `client`."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.doors import Ask, Requests
from tests.provider import Answer, Provider


@pytest.fixture
def ask(request: pytest.FixtureRequest, client: httpx2.Client, provider: Provider) -> Ask:
    """Have a model answer in these ways; the answer of /chat."""

    def turn(*answers: Answer, **more: Any) -> dict[str, Any]:
        provider.write_down(request.node.name, *answers)
        body = {"messages": [{"role": "user", "content": request.node.name}], **more}
        answer = client.post("/chat", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return turn


@pytest.fixture
def requests(request: pytest.FixtureRequest, provider: Provider) -> Requests:
    """What the model's service was asked in this test."""
    return lambda: provider.asked[request.node.name]
