"""The model port: any service that speaks OpenAI's chat completions. The only place with `openai`.

What it reads of the environment is the client's own: OPENAI_API_KEY, OPENAI_BASE_URL, AZURE_OPENAI_ENDPOINT and so on.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import httpx2
import structlog

from server.completions import Accumulator, Completion, Delta
from server.errors import ModelFailed, ModelNotConfigured, ModelTimedOut
from server.settings import Settings

if TYPE_CHECKING:
    import openai

log = structlog.get_logger(__name__)

# What a model may refuse although it is not the point of a request: it is asked again without.
_DISPENSABLE = ("parallel_tool_calls", "stream_options", "strict")
MAX_DETAIL = 500


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

    def arguments(self, left_out: frozenset[str]) -> dict[str, Any]:
        """As the client takes them."""
        found: dict[str, Any] = {"model": self.model, "messages": list(self.messages), "stream": True}
        if self.tools:
            found["tools"] = [_without_strict(tool) for tool in self.tools] if "strict" in left_out else [*self.tools]
            found["tool_choice"] = self.tool_choice or "auto"
            if self.parallel_tool_calls is not None:
                found["parallel_tool_calls"] = self.parallel_tool_calls
        if self.functions:
            found["functions"] = list(self.functions)
            found["function_call"] = self.tool_choice or "auto"
        if self.options:
            found["extra_body"] = dict(self.options)  # as arguments, some would be for the client itself
        found["stream_options"] = {"include_usage": True}
        return {name: value for name, value in found.items() if name not in left_out}


class Model:
    """Owns the client of a model's service, `async with`. It is made when it is first needed: that takes long."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._making = asyncio.Lock()
        self._client: openai.AsyncOpenAI | None = None
        self._left_out: dict[str, frozenset[str]] = {}  # by model: what it does not take

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    @property
    def name(self) -> str | None:
        """The model that is asked where a request names none."""
        return self._settings.model

    async def stream(self, asked: Asked) -> AsyncGenerator[Delta | Completion]:
        """The parts of its answer as they come, and at the end all of it.

        Raises ModelNotConfigured, ModelTimedOut, ModelFailed.
        """
        client = await self._connected()
        errors = _openai()
        accumulator = Accumulator()
        try:
            async with await self._begin(client, asked) as chunks:
                async for chunk in chunks:
                    for delta in accumulator.add(chunk.to_dict()):
                        yield delta
        except errors.APITimeoutError as error:
            raise ModelTimedOut(f"{asked.model} did not answer in {self._settings.model_timeout:g} s.") from error
        except (errors.OpenAIError, httpx2.HTTPError) as error:
            raise _failure(asked.model, error, client.api_key) from error
        yield accumulator.completion()

    async def _begin(self, client: openai.AsyncOpenAI, asked: Asked) -> Any:
        """Ask; what a model refuses to take is left out, once each, and from then on."""
        while True:
            left_out = self._left_out.get(asked.model, frozenset())
            try:
                return await client.chat.completions.create(**asked.arguments(left_out))
            except (_openai().BadRequestError, _openai().UnprocessableEntityError) as error:
                refused = next((n for n in _DISPENSABLE if n in str(error) and n not in left_out), None)
                if refused is None:
                    raise
                log.warning("model.refuses", model=asked.model, feature=refused)
                self._left_out[asked.model] = left_out | {refused}

    async def _connected(self) -> openai.AsyncOpenAI:
        async with self._making:
            if self._client is None:
                self._client = await asyncio.to_thread(self._connect)
            return self._client

    def _connect(self) -> openai.AsyncOpenAI:
        found = self._settings.model_service()
        if found is None:
            raise ModelNotConfigured("No model is configured.")
        make = _openai().AsyncAzureOpenAI if found.azure else _openai().AsyncOpenAI
        key = {} if found.has_key else {"api_key": "none"}  # services on one's own machine ask for none
        try:
            client: openai.AsyncOpenAI = make(timeout=self._settings.model_timeout, **key)
        except _openai().OpenAIError as error:
            raise ModelNotConfigured(f"The model's service is not configured: {error}") from error
        return client


def _openai() -> Any:
    """Imported where it is needed: it takes about as long as the rest of the service."""
    return importlib.import_module("openai")


def _failure(model: str, error: Exception, key: str) -> ModelFailed:
    status = getattr(error, "status_code", None)
    said = str(getattr(error, "message", "") or error).replace(key or "\0", "***")[:MAX_DETAIL]
    return ModelFailed(f"{model} could not answer: {said}", provider_status=status)


def _without_strict(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {name: value for name, value in tool["function"].items() if name != "strict"}
    return {**tool, "function": function}
