"""The model port: where it finds a model, and what it makes of one that is not there. How it is used: test_chat.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from server.completions import Completion, TextDelta
from server.errors import ModelFailed, ModelNotConfigured
from server.llm import Asked, Model
from server.settings import ModelService, Settings
from tests.provider import Provider, says, serving

pytestmark = pytest.mark.anyio

ASKED = Asked("m", [{"role": "user", "content": "hello"}])
NAMES = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "OPENAI_API_VERSION")


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A model's service that greets."""
    with serving() as started:
        started.write_down("hello", says("Hi!"))
        yield started


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a service to which no model is known."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return Settings(model_timeout=5)


async def answer(settings: Settings, asked: Asked = ASKED) -> list[Any]:
    """All that a model says."""
    async with Model(settings) as model:
        return [item async for item in model.stream(asked)]


def set_environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Variables that the client reads."""
    for name, value in values.items():
        monkeypatch.setenv(name, value)


async def test_an_answer_ends_with_all_of_it(
    settings: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, OPENAI_API_KEY="k", OPENAI_BASE_URL=provider.url)
    *parts, whole = await answer(settings)
    assert parts == [TextDelta("H"), TextDelta("i"), TextDelta("!")]
    assert isinstance(whole, Completion) and (whole.text, whole.finish) == ("Hi!", "stop")
    assert provider.keys == {"Bearer k"}


async def test_a_service_of_ones_own_needs_no_key(
    settings: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, OPENAI_BASE_URL=provider.url)
    assert (await answer(settings))[-1].text == "Hi!"


async def test_azure_is_asked_at_its_endpoint(
    settings: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = provider.url.removesuffix("/v1")
    set_environment(
        monkeypatch, AZURE_OPENAI_ENDPOINT=endpoint, AZURE_OPENAI_API_KEY="k", OPENAI_API_VERSION="2026-01-01"
    )
    assert (await answer(settings))[-1].text == "Hi!"
    assert provider.paths == ["/openai/deployments/m/chat/completions?api-version=2026-01-01"]


async def test_azure_without_all_that_it_needs_is_not_configured(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, AZURE_OPENAI_ENDPOINT="http://127.0.0.1:9")
    with pytest.raises(ModelNotConfigured, match="not configured: "):
        await answer(settings)


async def test_without_key_and_address_there_is_no_model(settings: Settings) -> None:
    with pytest.raises(ModelNotConfigured):
        await answer(settings)


async def test_a_service_that_is_not_there_is_a_failure(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    with pytest.raises(ModelFailed, match="m could not answer"):
        await answer(settings)


async def test_several_that_ask_at_first_share_one_client(
    settings: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, OPENAI_BASE_URL=provider.url)
    provider.write_down("hello", *[says("Hi!")] * 3)

    async def one(model: Model) -> str:
        last = [item async for item in model.stream(ASKED)][-1]
        return last.text if isinstance(last, Completion) else ""

    async with Model(settings) as model:
        assert await asyncio.gather(*(one(model) for _ in range(3))) == ["Hi!"] * 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({"OPENAI_API_KEY": "k"}, ModelService(azure=False, has_key=True)),
        ({"OPENAI_BASE_URL": "http://x"}, ModelService(azure=False, has_key=False)),
        ({"AZURE_OPENAI_ENDPOINT": "http://x", "OPENAI_API_KEY": "k"}, ModelService(azure=True, has_key=True)),
    ],
)
async def test_where_models_are_is_read_from_the_clients_own_variables(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], expected: ModelService | None
) -> None:
    set_environment(monkeypatch, **values)
    assert settings.model_service() == expected
