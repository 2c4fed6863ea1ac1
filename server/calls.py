"""Typed calls: a function by name, with JSON, and a model's tool calls with one answer to each."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from kernels.environments import Generation
from kernels.errors import AigbbError
from kernels.kernel import Kernel, Launch
from kernels.outputs import Display, Execution, Output, Refused, Returned, fold_all
from kernels.pool import Pool
from kernels.tasks import Task
from server.completions import ToolCall
from server.errors import InvalidArguments, MissingBound, VersionUnavailable
from server.hints import Hint, hint_for
from server.registrar import Registrar, find
from server.registry import GenerationRow, Registry, Version
from server.schemas import validate
from server.settings import Settings

MAX_LISTED = 50
# What a model can do about a refusal. Hints are otherwise for those who send requests.
_MODEL_HINTS = {
    "invalid_arguments": "Correct the arguments that `errors` names, and call again.",
    "pool_exhausted": "Call again later.",
}


@dataclass(frozen=True)
class Called:
    """What a call came to. returned is None unless the function gave a result; total_ms includes the wait."""

    version: Version
    execution: Execution
    returned: Returned | None
    kernel: str
    hint: Hint | None
    total_ms: float
    budget: int

    @property
    def number(self) -> int:
        """The version that ran: what the kernel says, where it ran the one that was active."""
        return (self.returned.version if self.returned else 0) or self.version.number

    @property
    def content(self) -> str | None:
        """The result as text for a model. Of a function that returns nothing, what it printed and showed instead."""
        if self.returned is None or self.returned.value is not None or self.execution.done.truncated:
            return self.returned.content if self.returned else None
        shown = [o for o in self.execution.outputs if isinstance(o, Display)]
        kinds = ", ".join(sorted({max(o.data, key=_richness) for o in shown if o.data}))
        parts = [self.returned.content, *([f"It showed: {kinds}."] if kinds else [])]
        if printed := self.execution.text("stdout").strip():
            parts.append(f"It printed:\n{printed}")
        return _cut("\n".join(parts), self.budget)


def _richness(kind: str) -> tuple[bool, bool]:
    return kind.startswith("image/"), kind != "text/plain"


def _cut(text: str, budget: int) -> str:
    return text if len(text) <= budget else f"{text[: budget - 40]}\n... {len(text) - budget + 40:,} characters cut ..."


@dataclass(frozen=True)
class ToolResult:
    """The one answer to a tool call. content is for the model; status is ok, or what went wrong."""

    call: ToolCall
    content: str
    status: str
    duration_ms: float


class Calls:
    """Calls functions on the pool's kernels. generation and launch find what an older version may need."""

    def __init__(
        self,
        settings: Settings,
        registrar: Registrar,
        registry: Registry,
        pool: Pool,
        generation: Callable[[GenerationRow], Generation],
        launch: Callable[[Generation], Launch],
    ) -> None:
        self._settings = settings
        self._registrar = registrar
        self._registry = registry
        self._pool = pool
        self._generation = generation
        self._launch = launch

    async def call(
        self, name: str, arguments: Mapping[str, Any], *, session: str | None = None, timeout: float | None = None
    ) -> Called:
        """Call a function: `name` for the active version, `name@3` for that one.

        Raises FunctionNotFound, UnknownVersion, VersionUnavailable, InvalidArguments, and what the pool raises. An
        exception in the function, a timeout or a death is no error: the execution says so.
        """
        start = time.perf_counter()
        version, pinned = await self._find(name)
        if version.function.declared.parameters is not None:
            await asyncio.to_thread(_check_declared, version.function.declared.parameters, version, arguments)
        launch = await self._launch_for(version, session) if pinned else None
        task = Task.call(
            version.function.name,
            arguments,
            budget=self._settings.max_content,
            pinned=_as_pinned(version) if pinned else None,
        )
        limit = min(timeout or self._settings.timeout, self._settings.max_timeout)
        kernel, execution = await _run(
            self._pool.execute(
                task, session=session, timeout=limit, max_output=self._settings.max_output, launch=launch
            )
        )
        if isinstance(execution.answer, Refused):
            raise _refusal(version, execution.answer.errors)
        hint = hint_for(execution.error, {version.function.name: version.function.signature})
        total = (time.perf_counter() - start) * 1000
        return Called(version, execution, execution.answer, kernel.name, hint, total, self._settings.max_content)

    async def run_tools(
        self,
        calls: Sequence[ToolCall],
        bound: Mapping[str, Any],
        *,
        session: str | None = None,
        timeout: float | None = None,
    ) -> list[ToolResult]:
        """Answer every call of a model, in order; they run side by side, in a session one after the other.

        What a model did wrong, and what fails, is content. Raises MissingBound: only the caller can mend that.
        """
        active = self._registrar.serving.state.active
        for call in calls:
            if call.name in active:
                _check_bound(active[call.name], bound)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._run_tool(call, bound, session, timeout)) for call in calls]
        return [task.result() for task in tasks]

    async def _run_tool(
        self, call: ToolCall, bound: Mapping[str, Any], session: str | None, timeout: float | None
    ) -> ToolResult:
        start = time.perf_counter()
        try:
            version = find(self._registrar.serving.state, call.name)
            arguments = _arguments(call, version)
            known = {name: bound[name] for name in version.function.bound if name in bound}
            called = await self.call(call.name, {**arguments, **known}, session=session, timeout=timeout)
            content, status = _content(called)
        except AigbbError as error:
            content, status = self._refused(call, error), error.code
        return ToolResult(call, content, status, round((time.perf_counter() - start) * 1000, 1))

    def _refused(self, call: ToolCall, error: AigbbError) -> str:
        """A refusal in a model's terms: it knows no requests, and no parameters that are bound."""
        active = self._registrar.serving.state.active
        hint = f"The tools are: {', '.join(list(active)[:MAX_LISTED])}." if call.name not in active else ""
        hidden = {"signature"} if call.name in active and active[call.name].function.bound else set()
        told = {name: value for name, value in error.extra.items() if name not in hidden}
        return _as_content(error.code, error.detail, hint or _MODEL_HINTS.get(error.code, ""), told)

    async def _find(self, name: str) -> tuple[Version, bool]:
        """The version that is meant, and whether it is another than the active one."""
        plain, at, number = name.partition("@")
        if not at:
            return find(self._registrar.serving.state, plain), False
        version = await self._registrar.version(plain, int(number) if number.isdecimal() and len(number) < 10 else 0)
        return version, not self._registrar.serving.state.serves(version)

    async def _launch_for(self, version: Version, session: str | None) -> Launch | None:
        """Where a version that is not active can run: None for the kernel that would be taken anyway."""
        rows = await asyncio.to_thread(self._registry.generations)
        usual = self._registrar.serving.generation.number
        if session is not None:
            usual = next((s.generation for s in self._pool.sessions() if s.id == session), usual)
        for row in sorted(rows, key=lambda row: row.number != usual):
            if all(map(row.has, version.function.packages)):
                if row.number == usual:
                    return None
                if session is None and self._generation(row).python.exists():
                    return self._launch(self._generation(row))
        raise VersionUnavailable(f"No environment that is kept has the packages of {version}.", version=version.number)


def _as_pinned(version: Version) -> dict[str, Any]:
    function = version.function
    declared = function.declared.parameters is not None
    return {"source": function.source, "written": list(function.written), "declared": declared}


async def _run(stream: AsyncGenerator[tuple[Kernel, Output]]) -> tuple[Kernel, Execution]:
    async with aclosing(stream):
        pairs = [pair async for pair in stream]
    return pairs[-1][0], fold_all(item for _, item in pairs)


def _check_declared(declared: Mapping[str, Any], version: Version, arguments: Mapping[str, Any]) -> None:
    """What the author declared is held before a kernel is asked; the types of the function are held there."""
    if errors := validate(declared, arguments):
        raise _refusal(version, errors)


def _refusal(version: Version, errors: Sequence[Mapping[str, Any]]) -> InvalidArguments:
    first = errors[0] if errors else {"parameter": "", "message": ""}
    renamed = {e["parameter"]: e["suggestion"] for e in errors if e.get("suggestion")}
    return InvalidArguments(
        f"{first['parameter']}: {first['message']}",
        fix={"rename": renamed} if renamed else None,
        errors=list(errors),
        signature=version.function.signature,
    )


def _check_bound(version: Version, bound: Mapping[str, Any]) -> None:
    required = version.function.parameters.get("required", ())
    missing = [name for name in version.function.bound if name in required and name not in bound]
    if missing:
        raise MissingBound(f"{version.function.name} needs {', '.join(missing)}.", fix={"bound": missing})


def _arguments(call: ToolCall, version: Version) -> dict[str, Any]:
    """A model's arguments. Raises InvalidArguments, also for those that are not a model's to give."""
    try:
        arguments = json.loads(call.arguments or "{}")
        arguments = {} if arguments is None else arguments
    except (ValueError, RecursionError) as error:
        raise InvalidArguments(f"The arguments are not JSON: {error}.", signature=version.function.signature) from error
    if not isinstance(arguments, dict):
        raise InvalidArguments("The arguments are not a JSON object.", signature=version.function.signature)
    errors = [
        {"parameter": name, "path": "", "message": "There is no such argument", "type": "unexpected_argument"}
        for name in version.function.bound
        if name in arguments
    ]
    if errors:
        raise _refusal(version, errors)
    return arguments


def _content(called: Called) -> tuple[str, str]:
    """What a model is to read of a call, and its status."""
    done, error = called.execution.done, called.execution.error
    if called.returned is not None and done.status == "ok":
        return called.content or "", "ok"
    detail = done.detail or (f"{error.ename}: {error.evalue}" if error else "The function gave no result.")
    return _as_content(done.status, detail, called.hint.text if called.hint else "", {}), done.status


def _as_content(code: str, detail: str, hint: str, extra: Mapping[str, Any]) -> str:
    """An error as a model can act on it."""
    told = {name: extra[name] for name in ("errors", "signature", "suggestions", "fix") if extra.get(name)}
    body = {"error": code, "detail": detail[:2000], **({"hint": hint} if hint else {}), **told}
    return json.dumps(body, ensure_ascii=False)
