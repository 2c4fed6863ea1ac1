"""The model port: where it finds a model, what it asks of it, what it learns. How it is used: test_chat.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from server.callers import NOBODY, Caller
from server.completions import CallDelta, Completion, TextDelta, ToolCall, Usage
from server.errors import Forbidden, ModelFailed, ModelNotConfigured, ToolsRefused
from server.llm import Asked, Model, Place
from server.model_services import check_service
from server.models import Abilities
from server.settings import ModelService, Settings
from tests.provider import Answer, Provider, Refusal, Whole, asks, says, serving, whole

pytestmark = pytest.mark.anyio

ASKED = Asked("m", [{"role": "user", "content": "hello"}])
FUNCTION = {"name": "add", "parameters": {"type": "object", "properties": {}}, "strict": True}
TOOLED = replace(ASKED, tools=[{"type": "function", "function": FUNCTION}], parallel_tool_calls=True)
LEGACY = replace(ASKED, functions=[FUNCTION])
NAMES = (
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "AZURE_OPENAI_ENDPOINT",
    "AZURE_OPENAI_API_KEY",
    "AZURE_OPENAI_AD_TOKEN",
    "OPENAI_API_VERSION",
)


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


@pytest.fixture
def known(settings: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a service that knows a model."""
    monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
    return settings


async def answer(settings: Settings, asked: Asked = ASKED) -> list[Any]:
    """All that a model says."""
    async with Model(settings) as model:
        return await said(model, asked)


async def said(model: Model, asked: Asked = ASKED) -> list[Any]:
    """All that this model says."""
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


async def test_azure_takes_a_token_instead_of_a_key_which_nobody_is_told(
    settings: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(
        monkeypatch,
        AZURE_OPENAI_ENDPOINT=provider.url.removesuffix("/v1"),
        AZURE_OPENAI_AD_TOKEN="eyJhbGci",
        OPENAI_API_VERSION="2026-01-01",
    )
    provider.write_down("hello", says("Hi!"), Refusal(401, "Not with eyJhbGci."))
    assert (await answer(settings))[-1].text == "Hi!"
    assert provider.keys == {"Bearer eyJhbGci"}
    with pytest.raises(ModelFailed, match=r"Not with \*\*\*\.") as failed:
        await answer(settings)
    assert "eyJhbGci" not in str(failed.value)


async def test_azure_without_a_version_is_not_configured(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, AZURE_OPENAI_ENDPOINT="http://127.0.0.1:9", AZURE_OPENAI_API_KEY="k")
    with pytest.raises(ModelNotConfigured, match="OPENAI_API_VERSION"):
        await answer(settings)


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

    async with Model(settings) as model:
        found = await asyncio.gather(*(said(model) for _ in range(3)))
        assert [parts[-1].text for parts in found] == ["Hi!"] * 3


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


# -- what a model can do


def without_stream(settings: Settings, **more: bool) -> Settings:
    """The same, with a model m that does not stream."""
    return settings.model_copy(update={"models": {"m": {"streaming": False, **more}}})


async def test_what_a_model_cannot_do_is_not_asked_of_it(known: Settings, provider: Provider) -> None:
    provider.write_down("hello", whole(content="Hi!"))
    settings = without_stream(known, parallel=False, strict=False)
    assert (await answer(settings, TOOLED))[-1].text == "Hi!"
    [sent] = provider.asked["hello"]
    assert sent.keys() == {"model", "messages", "tools", "tool_choice"}
    assert "strict" not in sent["tools"][0]["function"]


async def test_what_a_model_can_do_is_asked_of_it(known: Settings, provider: Provider) -> None:
    await answer(known, TOOLED)
    [sent] = provider.asked["hello"]
    assert (sent["stream"], sent["parallel_tool_calls"]) == (True, True)
    assert sent["tools"][0]["function"]["strict"] is True


async def test_an_answer_in_one_piece_is_read_like_a_stream(known: Settings, provider: Provider) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    provider.write_down("hello", whole("tool_calls", content="Well,", tool_calls=[call]))
    assert await answer(without_stream(known), TOOLED) == [
        TextDelta("Well,"),
        CallDelta(0, "c1", "add", "{}"),
        Completion("Well,", "", (ToolCall("c1", "add", "{}"),), "tool_calls", Usage(10, 3)),
    ]


@pytest.mark.parametrize("body", ["<html>Hello</html>", {"error": {"message": "no"}}, {"choices": []}])
async def test_one_piece_that_is_no_answer_is_a_failure(known: Settings, provider: Provider, body: Any) -> None:
    provider.write_down("hello", Whole(body))
    with pytest.raises(ModelFailed, match="sent no completion"):
        await answer(without_stream(known))


async def test_a_stream_that_is_no_json_is_a_failure(known: Settings, provider: Provider) -> None:
    provider.write_down("hello", Whole("data: {oops\n\n"))
    with pytest.raises(ModelFailed, match="m could not answer"):
        await answer(known)


# -- what it refuses

REFUSED: dict[str, tuple[Answer, Abilities]] = {
    "parallel_tool_calls": (says("ok"), Abilities(parallel=False)),
    "strict": (says("ok"), Abilities(strict=False)),
    "stream_options": (says("ok"), Abilities()),
    "stream": (whole(content="ok"), Abilities(streaming=False)),
}


@pytest.mark.parametrize("status", [400, 404, 422])
@pytest.mark.parametrize("feature", REFUSED)
async def test_a_refusal_is_learnt(known: Settings, provider: Provider, feature: str, status: int) -> None:
    good, able = REFUSED[feature]
    provider.write_down("hello", Refusal(status, f"Unknown parameter: '{feature}'"), good, good)
    async with Model(known) as model:
        assert model.warnings("m") == ()
        assert (await said(model, TOOLED))[-1].text == "ok"
        assert (await said(model, TOOLED))[-1].text == "ok"
        assert model.abilities("m") == able
        assert model.warnings("m") == (f"m refused {feature}: it is asked without.",)
        assert (model.abilities("other"), model.warnings("other")) == (Abilities(), ())
    first, *later = provider.asked["hello"]
    assert holds(first, feature) and len(later) == 2
    assert not any(holds(each, feature) for each in later)


def holds(request: dict[str, Any], feature: str) -> bool:
    """Whether a feature is asked for."""
    return feature in request or any(feature in tool["function"] for tool in request["tools"])


async def test_one_refusal_after_another_is_learnt_each_once(known: Settings, provider: Provider) -> None:
    refusals: list[Answer] = [Refusal(400, f"Unknown parameter: '{feature}'") for feature in REFUSED]
    provider.write_down("hello", *refusals, whole(content="ok"))
    async with Model(known) as model:
        assert (await said(model, TOOLED))[-1].text == "ok"
        assert model.abilities("m") == Abilities(parallel=False, strict=False, streaming=False)
        assert len(model.warnings("m")) == 4


async def test_what_is_refused_again_without_being_asked_is_a_failure(known: Settings, provider: Provider) -> None:
    provider.write_down("hello", *[Refusal(400, "Unknown parameter: 'stream'")] * 2, whole(content="late"))
    with pytest.raises(ModelFailed, match="Unknown parameter"):
        await answer(known)
    assert len(provider.asked["hello"]) == 2


NOT_THERE: dict[str, Answer] = {
    "ollama": Refusal(400, "registry.ollama.ai/library/m does not support tools"),
    "openrouter": Refusal(404, "No endpoints found that support tool use."),
    "vllm": Refusal(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
    "llama.cpp": Refusal(500, "tools param requires --jinja flag", {"x-should-retry": "false"}),
}


@pytest.mark.parametrize("service", NOT_THERE)
async def test_that_a_model_has_no_tools_is_learnt_and_told(known: Settings, provider: Provider, service: str) -> None:
    provider.write_down("hello", NOT_THERE[service], says("Hi!"))
    async with Model(known) as model:
        with pytest.raises(ToolsRefused, match="m could not answer"):
            await said(model, TOOLED)
        assert model.abilities("m") == Abilities(tools=False)
        assert model.warnings("m") == ("m refused tools: it is asked without.",)
        assert (await said(model))[-1].text == "Hi!"


async def test_that_a_model_has_no_functions_is_learnt_and_told(known: Settings, provider: Provider) -> None:
    provider.write_down("hello", Refusal(400, "functions is not supported in this model."))
    settings = known.model_copy(update={"models": {"m": {"tools": False, "legacy": True}}})
    async with Model(settings) as model:
        with pytest.raises(ToolsRefused):
            await said(model, LEGACY)
        assert model.abilities("m") == Abilities(tools=False)


async def test_without_tools_there_is_nothing_to_refuse(known: Settings, provider: Provider) -> None:
    provider.write_down("hello", NOT_THERE["ollama"])
    async with Model(known) as model:
        with pytest.raises(ModelFailed) as failed:
            await said(model)
        assert not isinstance(failed.value, ToolsRefused)
        assert model.abilities("m") == Abilities()


async def test_what_comes_in_the_middle_of_an_answer_is_not_asked_again(known: Settings, provider: Provider) -> None:
    late = {"error": {"message": "Unknown parameter: 'stream_options'", "code": 400}}
    provider.write_down("hello", [*asks(("add", {}))[:1], late], says("again"))
    async with Model(known) as model:
        found = []
        with pytest.raises(ModelFailed, match="stream_options"):
            async for item in model.stream(TOOLED):
                found.append(item)  # noqa: PERF401  -- it fails in the middle
        assert len(found) == 1
        assert model.warnings("m") == ()
    assert len(provider.asked["hello"]) == 1


# -- what is asked again


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
async def test_a_busy_service_is_asked_again_when_it_says(known: Settings, provider: Provider, status: int) -> None:
    provider.write_down("hello", *[Refusal(status, "busy", {"Retry-After": "0.001"})] * 2, says("Hi!"))
    assert (await answer(known))[-1].text == "Hi!"
    assert len(provider.asked["hello"]) == 3


async def test_a_busy_service_is_asked_three_times_at_most(known: Settings, provider: Provider) -> None:
    provider.write_down("hello", *[Refusal(429, "busy", {"Retry-After": "0.001"})] * 3, says("late"))
    with pytest.raises(ModelFailed, match="busy") as failed:
        await answer(known)
    assert failed.value.extra["provider_status"] == 429
    assert len(provider.asked["hello"]) == 3


async def test_a_service_that_is_busy_for_an_hour_is_not_waited_for(known: Settings, provider: Provider) -> None:
    provider.write_down("hello", Refusal(429, "busy", {"Retry-After": "3600"}), says("late"))
    with pytest.raises(ModelFailed, match="busy"):
        await answer(known)
    assert len(provider.asked["hello"]) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_what_is_wrong_is_not_asked_again(known: Settings, provider: Provider, status: int) -> None:
    provider.write_down("hello", Refusal(status, "wrong"), says("late"))
    with pytest.raises(ModelFailed, match="wrong"):
        await answer(known)
    assert len(provider.asked["hello"]) == 1


# -- settings


def test_abilities_are_set_by_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGBB_MODELS", '{"my-*": {"tools": false, "pictures": true}}')
    model = Model(Settings())
    assert model.abilities("my-own") == Abilities(tools=False, pictures=True)
    assert model.abilities("your-own") == Abilities()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "valid dictionary"),
        ('{"m": 1}', "valid dictionary"),
        ('{"m": {"tools": "no"}}', "valid boolean"),
        ('{"m": {"tools": 0}}', "valid boolean"),
        (
            '{"m": {"tool": true}}',
            "'tool' is no ability; there are tools, parallel, strict, streaming, legacy, pictures",
        ),
    ],
)
def test_abilities_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, value: str, told: str) -> None:
    monkeypatch.setenv("AIGBB_MODELS", value)
    with pytest.raises(ValidationError, match=told):
        Settings()


# -- where requests go


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed(known: Settings, provider: Provider, status: int) -> None:
    with serving() as other:
        other.write_down("hello", says("From elsewhere."), says("From elsewhere."))
        to = {"Location": f"{other.url}/chat/completions"}
        provider.write_down("hello", Refusal(status, "There.", to), Refusal(status, "There.", to))
        with pytest.raises(ModelFailed) as failed:
            await answer(known)
        assert failed.value.extra["provider_status"] == status
        async with Model(known).at(Place(provider.url), Caller()) as model:
            with pytest.raises(ModelFailed):
                await said(model)
        assert other.paths == []


async def test_a_named_service_gets_no_header_of_the_configured_one(
    known: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(
        monkeypatch, OPENAI_API_KEY="ours", OPENAI_CUSTOM_HEADERS="X-Gateway: secret\nAuthorization: Basic c2VjcmV0"
    )
    async with Model(known).at(Place(provider.url), Caller()) as model:
        assert (await said(model))[-1].text == "Hi!"
    [headers] = provider.headers
    assert "secret" not in str(headers) and "x-gateway" not in headers
    assert headers["authorization"] == "Bearer none"


ALLOWED = ("https://api.example.com/v1", "http://127.0.0.1:8001", "https://b\u00fccher.example")


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v1",
        "HTTPS://API.Example.COM:443/v1/",
        "https://api.example.com./v1/models",
        "http://127.0.0.1:8001/anything",
        "https://xn--bcher-kva.example",
    ],
)
def test_a_listed_service_may_be_named(url: str) -> None:
    check_service(url, Settings(model_services=ALLOWED).model_services, NOBODY)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com/v1",
        "https://api.example.com",
        "https://api.example.com/v10",
        "https://api.example.com/v1/../admin",
        "https://api.example.com/v1/%2e%2e/admin",
        "https://api.example.com/v1//admin",
        "https://api.example.com:444/v1",
        "https://api.example.com.evil.example/v1",
        "https://api.example.com@evil.example/v1",
        "https://evil.example\\@api.example.com/v1",
        "https://evil.example#@api.example.com/v1",
        "https://evil.example?@api.example.com/v1",
        "https://user@api.example.com/v1",
        "https://api.example.com/v1?to=evil",
        "https://api.example.com/v1?",
        "https://api.example.com\t/v1",
        "http://127.0.0.1/",
        "http://127.1:8001",
        "http://2130706433:8001",
        "http://[::ffff:127.0.0.1]:8001",
        "http://localhost:8001",
        "http://169.254.169.254/latest",
        "https://",
        "ftp://api.example.com/v1",
    ],
)
def test_any_other_is_refused_but_for_admins(url: str) -> None:
    with pytest.raises(Forbidden) as refused:
        check_service(url, ALLOWED, NOBODY)
    assert "AIGBB_MODEL_SERVICES" in refused.value.hint
    check_service(url, (), Caller())


@pytest.mark.parametrize("url", ["api.example.com", "https://a.example/?x", "https://u:p@a.example", "ftp://a.example"])
def test_a_list_with_what_is_no_service_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValidationError):
        Settings(model_services=(url,))
