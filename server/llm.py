"""The model port: any service that speaks OpenAI's chat completions. The only place with `openai`.

What it reads of the environment is the client's own: OPENAI_API_KEY, OPENAI_BASE_URL, AZURE_OPENAI_ENDPOINT and so on.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import httpx2
import structlog

from server.callers import Caller
from server.completions import Accumulator, Completion, Delta
from server.errors import ModelFailed, ModelNotConfigured, ModelTimedOut, ToolsRefused
from server.model_services import check_service
from server.models import Abilities, Feature, abilities_of, refused, warnings_of, without
from server.settings import Settings

if TYPE_CHECKING:
    import openai

log = structlog.get_logger(__name__)

MAX_DETAIL = 500
# What a request to a service holds that a caller named.
_HEADERS = frozenset(
    {"host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length"}
)


@dataclass(frozen=True)
class Asked:
    """A request to a model. options go to it as they are: temperature, max_tokens and their like.

    functions are what tools were before there were tools; tool_choice is then their function_call.
    """

    model: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    functions: Sequence[Mapping[str, Any]] = ()

    def body(self, left_out: frozenset[str]) -> dict[str, Any]:
        """As it goes over the wire."""
        found: dict[str, Any] = {"model": self.model, "messages": list(self.messages)}
        if self.tools:
            found["tools"] = [_without_strict(tool) for tool in self.tools] if "strict" in left_out else [*self.tools]
            found["tool_choice"] = self.tool_choice or "auto"
            if self.parallel_tool_calls is not None:
                found["parallel_tool_calls"] = self.parallel_tool_calls
        if self.functions:
            found["functions"] = list(self.functions)
            found["function_call"] = self.tool_choice or "auto"
        if "stream" not in left_out:
            found |= {"stream": True, "stream_options": {"include_usage": True}}
        return {**{name: value for name, value in found.items() if name not in left_out}, **self.options}


@dataclass(frozen=True)
class Place:
    """Another service than the configured one, as a caller names it; with the caller's key, never with ours."""

    base_url: str
    api_key: str | None = None


class Model:
    """Owns the client of a model's service, `async with`. It is made when it is first needed: that takes long.

    place: where it is, if not where the settings say.
    """

    def __init__(self, settings: Settings, place: Place | None = None) -> None:
        self._settings = settings
        self._place = place
        self._making = asyncio.Lock()
        self._client: openai.AsyncOpenAI | None = None
        self._refused: dict[str, frozenset[Feature]] = {}  # by model, as long as this service runs

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    @asynccontextmanager
    async def at(self, place: Place | None, caller: Caller) -> AsyncIterator[Model]:
        """The models of another service for a while; without a place, of this one. caller: who named the place.

        Raises Forbidden for a place that this caller may not name.
        """
        if place is None:
            yield self
            return
        check_service(place.base_url, self._settings.model_services, caller)
        async with Model(self._settings, place) as other:
            yield other

    @property
    def name(self) -> str | None:
        """The model that is asked where a request names none."""
        return self._settings.model

    def abilities(self, name: str) -> Abilities:
        """What a model can do: by the table, by the settings, and but for what it has refused."""
        return without(abilities_of(name, self._settings.models), self._refused.get(name, frozenset()))

    def warnings(self, name: str) -> tuple[str, ...]:
        """A sentence for each feature that a model has refused."""
        return warnings_of(name, self._refused.get(name, frozenset()))

    async def stream(self, asked: Asked) -> AsyncGenerator[Delta | Completion]:
        """The parts of its answer as they come, and at the end all of it. What it cannot do is not asked of it.

        Raises ModelNotConfigured, ModelTimedOut, ToolsRefused, ModelFailed.
        """
        client = await self._connected()
        errors = _openai()
        accumulator = Accumulator()
        try:
            async with aclosing(self._chunks(client, asked)) as chunks:
                async for chunk in chunks:
                    for delta in accumulator.add(chunk):
                        yield delta
        except errors.APITimeoutError as error:
            raise ModelTimedOut(f"{asked.model} did not answer in {self._settings.model_timeout:g} s.") from error
        except (errors.OpenAIError, httpx2.HTTPError, ValueError) as error:  # ValueError: no JSON, no UTF-8
            raise self._failure(ModelFailed, asked.model, error) from error
        if not accumulator.begun:
            raise ModelFailed(f"{asked.model} could not answer: its service sent no completion.")
        yield accumulator.completion()

    async def _chunks(self, client: openai.AsyncOpenAI, asked: Asked) -> AsyncGenerator[Any]:
        """What comes of a request, as JSON has it: chunks, or one whole answer."""
        answer = await self._begin(client, asked)
        if isinstance(answer, _openai().AsyncStream):
            async with answer as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        if not isinstance(answer, Mapping) or not answer.get("choices"):
            raise _openai().OpenAIError(f"it sent no completion but {str(answer)!r}")
        yield answer

    async def _begin(self, client: openai.AsyncOpenAI, asked: Asked) -> Any:
        """Ask; what a model refuses is left out, once each, and from then on."""
        while True:
            body = asked.body(self._left_out(asked.model))
            stream = {"stream": True, "stream_cls": _openai().AsyncStream[object]} if body.get("stream") else {}
            try:
                # As the client's `create` does it, which takes longer to copy a conversation than all else together.
                return await client.post("/chat/completions", body=body, cast_to=object, **stream)
            except _openai().APIStatusError as error:
                feature = refused(error.status_code, error.body, asked.model, _features(body))
                if feature is None:
                    raise
                log.warning("model.refuses", model=asked.model, feature=feature)
                self._refused[asked.model] = self._refused.get(asked.model, frozenset()) | {feature}
                if feature in ("tools", "functions"):
                    raise self._failure(ToolsRefused, asked.model, error) from error

    def _left_out(self, model: str) -> frozenset[str]:
        able = self.abilities(model)
        takes = {"parallel_tool_calls": able.parallel, "strict": able.strict, "stream": able.streaming}
        takes["stream_options"] = "stream_options" not in self._refused.get(model, frozenset())
        return frozenset(name for name, taken in takes.items() if not taken)

    async def _connected(self) -> openai.AsyncOpenAI:
        async with self._making:
            if self._client is None:
                self._client = await asyncio.to_thread(self._connect)
            return self._client

    def _connect(self) -> openai.AsyncOpenAI:
        if self._place is not None:
            elsewhere: openai.AsyncOpenAI = _openai().AsyncOpenAI(
                base_url=self._place.base_url,
                api_key=self._place.api_key or "none",
                organization="",
                project="",
                timeout=self._settings.model_timeout,
                http_client=_http_client(self._place),
            )
            return elsewhere
        found = self._settings.model_service()
        if found is None:
            raise ModelNotConfigured("No model is configured.")
        make = _openai().AsyncAzureOpenAI if found.azure else _openai().AsyncOpenAI
        key = {} if found.has_key else {"api_key": "none"}  # services on one's own machine ask for none
        try:
            client: openai.AsyncOpenAI = make(timeout=self._settings.model_timeout, http_client=_http_client(), **key)
        except (_openai().OpenAIError, ValueError) as error:  # ValueError: Azure without its version
            raise ModelNotConfigured(f"The model's service is not configured: {error}") from error
        return client

    def _failure(self, kind: type[ModelFailed], model: str, error: Exception) -> ModelFailed:
        said = str(getattr(error, "message", "") or error)
        own = (self._place.api_key,) if self._place and self._place.api_key else ()
        for secret in (*self._settings.model_secrets(), *own):
            said = said.replace(secret, "***")
        return kind(
            f"{model} could not answer: {said[:MAX_DETAIL]}", provider_status=getattr(error, "status_code", None)
        )


def _openai() -> Any:
    """Imported where it is needed: it takes about as long as the rest of the service."""
    return importlib.import_module("openai")


def _http_client(place: Place | None = None) -> Any:
    """An HTTP client as `openai` makes it, which follows no redirect: a service does not choose who gets the request.

    place: the service that a caller named. It gets no header that is meant for the configured one
    (OPENAI_CUSTOM_HEADERS).
    """
    if place is None:
        return _openai().DefaultAsyncHttpxClient(follow_redirects=False)

    async def strip(request: httpx2.Request) -> None:
        for name in [name for name in request.headers if name not in _HEADERS and not name.startswith("x-stainless-")]:
            del request.headers[name]
        request.headers["Authorization"] = f"Bearer {place.api_key or 'none'}"

    return _openai().DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"request": [strip]})


def _features(body: Mapping[str, Any]) -> frozenset[str]:
    """What a request holds that could be refused."""
    strict = any("strict" in tool.get("function", {}) for tool in body.get("tools", ()))
    return frozenset(body) | ({"strict"} if strict else set())


def _without_strict(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {name: value for name, value in tool["function"].items() if name != "strict"}
    return {**tool, "function": function}
