"""Typed calls: a function by name, with JSON, and a model's tool calls with one answer to each."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kernels.environments import Generation
from kernels.errors import AigbbError
from kernels.forkserver import networked
from kernels.kernel import Launch
from kernels.outputs import Execution, Refused, Returned
from kernels.pool import Pool
from kernels.tasks import Task
from server.arguments import validate
from server.callers import Caller
from server.completions import ToolCall
from server.conversations import problem
from server.errors import FunctionNotFound, InvalidArguments, MissingBound, VersionUnavailable
from server.executions import Executions
from server.hints import Hint, hint_for
from server.permits import JudgedVersion, Permit
from server.refusals import ConfirmationNeeded
from server.registrar import Registrar, find
from server.registry import GenerationRow, Registry, Version
from server.running import Running
from server.scrubbing import Scrubber
from server.settings import Settings
from server.telling import Teller, Told
from server.tracing import Tracing

MAX_LISTED = 50
# What a model can do about a refusal. Hints are otherwise for those who send requests.
_MODEL_HINTS = {
    "invalid_arguments": "Correct the arguments that `errors` names, and call again.",
    "pool_exhausted": "Call again later.",
}


@dataclass(frozen=True)
class Called:
    """What a call came to. returned is None unless the function gave a result; total_ms includes the wait.

    id: of the execution. kernel: None where it was cancelled before it had one.
    """

    version: Version
    execution: Execution
    returned: Returned | None
    id: str
    kernel: str | None
    hint: Hint | None
    total_ms: float
    told: Told

    @property
    def number(self) -> int:
        """The version that ran: what the kernel says, where it ran the one that was active."""
        return (self.returned.version if self.returned else 0) or self.version.number

    @property
    def content(self) -> str | None:
        """The result as text for a model. Of a function that returns nothing, what it printed and showed instead."""
        return self.told.content


@dataclass(frozen=True)
class ToolResult:
    """The one answer to a tool call. content is for the model; status is ok, or what went wrong.

    pictures and whole are links to what the function showed, and to the result where content is a part of it. The
    traceback is for those who call us, and not for the model. execution: its id, where there was one.
    """

    call: ToolCall
    content: str
    status: str
    duration_ms: float
    version: int | None = None
    pictures: tuple[str, ...] = ()
    whole: str | None = None
    traceback: str = ""
    execution: str | None = None


# Awaited before a call that may change something is started, and as each call ends.
Began = Callable[[ToolCall, Version], Awaitable[None]]
Ended = Callable[[ToolResult], Awaitable[None]]


@dataclass(frozen=True)
class _Prepared:
    """A call and what is known of it before it is run. permit is None where it is refused."""

    call: ToolCall
    permit: Permit | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    refusal: ToolResult | None = None

    @property
    def version(self) -> Version | None:
        """The version that may run."""
        return None if self.permit is None else self.permit.version

    @property
    def reads(self) -> bool:
        """Whether it changes nothing: then it may run beside others."""
        return self.version is not None and self.version.function.effects == "read"


class Calls:
    """Calls functions on the pool's kernels. generation and launch find what an older version may need."""

    def __init__(
        self,
        settings: Settings,
        registrar: Registrar,
        registry: Registry,
        executions: Executions,
        pool: Pool,
        teller: Teller,
        generation: Callable[[GenerationRow], Generation],
        launch: Callable[[Generation], Launch],
        tracing: Tracing,
    ) -> None:
        self._tracing = tracing
        self._settings = settings
        self._registrar = registrar
        self._registry = registry
        self._executions = executions
        self._pool = pool
        self._teller = teller
        self._generation = generation
        self._launch = launch

    async def find(self, name: str, caller: Caller) -> JudgedVersion:
        """The version that a name means, `name@3` that one. Raises FunctionNotFound, UnknownVersion.

        Of a deleted function there is none: its versions wait for somebody to activate one.
        """
        plain, at, number = name.partition("@")
        active = self._registrar.find(plain, caller)
        if not at:
            return JudgedVersion(active, active)
        wanted = int(number) if number.isdecimal() and len(number) < 10 else 0
        return JudgedVersion(await self._registrar.version(plain, wanted, caller), active)

    def judged(self, caller: Caller) -> Mapping[str, JudgedVersion]:
        """The functions that a caller may call, by name, as they are now."""
        return {name: JudgedVersion(version, version) for name, version in self._active(caller).items()}

    async def call(
        self, running: Running, permit: Permit, arguments: Mapping[str, Any], *, timeout: float | None = None
    ) -> Called:
        """Call the version that is permitted, in an execution that is there for it, whatever is active by then.

        Raises FunctionNotFound where it was deleted by then, VersionUnavailable, InvalidArguments, and what the pool
        raises. An exception in the function, a timeout or a death is no error: the execution says so.
        """
        start = time.perf_counter()
        version = permit.version
        declared = version.function.declared.parameters
        if declared is not None:
            await asyncio.to_thread(_check_declared, declared, version, arguments)
        self._check_there(version)
        active = self._registrar.serving.state.serves(version)
        launch = None if active else await self._launch_for(version, running)
        if version.function.network and running.session is None:
            launch = self._with_network(launch)
        task = Task.call(
            version.function.name,
            arguments,
            budget=min(self._settings.max_content, self._settings.max_output),
            pinned=_as_pinned(version),
            version=version.number if active else None,
        )
        execution = await self._executions.run(
            task, running, timeout=timeout, launch=launch, versions=[version], check=lambda: self._check_there(version)
        )
        if isinstance(execution.answer, Refused):
            raise _refusal(version, execution.answer.errors)
        hint = hint_for(execution.error, {version.function.name: version.function.signature})
        told = await self._teller.tell(execution, self._masked, running.caller.key)
        total = (time.perf_counter() - start) * 1000
        returned = execution.answer
        return Called(version, execution, returned, running.id, running.kernel, hint, total, told)

    def _check_there(self, version: Version) -> None:
        """Raises FunctionNotFound: a function that is deleted while a call of it waits does not run."""
        name = version.function.name
        if name not in self._registrar.serving.state.active:
            hint = f"Nothing was run. To have it back, activate one of its versions: POST /functions/{name}/activate."
            raise FunctionNotFound(f"{name} was deleted.", hint=hint)

    def _with_network(self, launch: Launch | None) -> Launch | None:
        """The same launch with the network; None, a kernel as all are, where they have it."""
        usual = launch or self._launch(self._registrar.serving.generation)
        return launch if usual.cage.network else networked(usual)

    async def run_tools(
        self,
        calls: Sequence[tuple[ToolCall, Permit | None]],
        bound: Mapping[str, Any],
        caller: Caller,
        *,
        session: str | None = None,
        timeout: float | None = None,
        began: Began | None = None,
        ended: Ended | None = None,
    ) -> list[ToolResult]:
        """Answer every call of a model, in order; one without a permit is refused.

        Calls of functions that only read run side by side; any other runs alone, after those before it and before
        those after it. In a session all run one after the other. `began` is awaited before a call that may change
        something, `ended` as each ends; when one of them raises, no more is started.

        What a model did wrong, and what fails, is content. Raises MissingBound, which only the caller can mend, and
        what began and ended raise.
        """
        permitted = {
            permit.version.function.name: JudgedVersion(permit.version, permit.version) for _, permit in calls if permit
        }
        self.check_bound([call for call, _ in calls], bound, permitted)
        active = self._active(caller)
        prepared = [self._prepare(call, permit, bound, active) for call, permit in calls]
        results: dict[int, ToolResult] = {}
        for group in _in_order(prepared, one_by_one=session is not None):
            work = [self._answer(prepared[number], caller, session, timeout, began, ended) for number in group]
            results |= dict(zip(group, await _side_by_side(work), strict=True))
        return [results[number] for number in range(len(calls))]

    @staticmethod
    def check_bound(calls: Sequence[ToolCall], bound: Mapping[str, Any], judged: Mapping[str, JudgedVersion]) -> None:
        """Raises MissingBound."""
        for version in (judged[call.name].version for call in calls if call.name in judged):
            required = version.function.parameters.get("required", ())
            missing = [name for name in version.function.bound if name in required and name not in bound]
            if missing:
                raise MissingBound(f"{version.function.name} needs {', '.join(missing)}.", fix={"bound": missing})

    @staticmethod
    def arguments_of(call: ToolCall, version: Version) -> dict[str, Any]:
        """A model's arguments. Raises InvalidArguments, also for those that are not a model's to give."""
        try:
            arguments = json.loads(call.arguments or "{}")
            arguments = {} if arguments is None else arguments
        except (ValueError, RecursionError) as error:
            raise InvalidArguments(
                f"The arguments are not JSON: {error}.", signature=version.function.signature
            ) from error
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

    def _prepare(
        self, call: ToolCall, permit: Permit | None, bound: Mapping[str, Any], active: Mapping[str, Version]
    ) -> _Prepared:
        """What can be known before it runs: there is such a function, and the arguments are an object."""
        version = permit.version if permit else None
        try:
            if permit is None:
                version = find(active, call.name)
                self.arguments_of(call, version)
                raise ConfirmationNeeded(f"{version} needs a decision of a person. It was not run.")
            known = {name: bound[name] for name in permit.version.function.bound if name in bound}
            return _Prepared(call, permit, {**self.arguments_of(call, permit.version), **known})
        except AigbbError as error:
            number = version.number if version else None
            refusal = ToolResult(call, self._refused(call, error, active), error.code, 0.0, number)
            return _Prepared(call, refusal=refusal)

    async def _answer(
        self,
        one: _Prepared,
        caller: Caller,
        session: str | None,
        timeout: float | None,
        began: Began | None,
        ended: Ended | None,
    ) -> ToolResult:
        if began is not None and one.version is not None and not one.reads:
            await began(one.call, one.version)
        called = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.id": one.call.id[:80]}
        name = one.version.function.name if one.version else None
        with self._tracing.doing("execute_tool", {**called, "gen_ai.tool.name": name}) as doing:
            with self._tracing.inside(doing):
                result = one.refusal or await self._run_tool(one, caller, session, timeout)
            doing.outcome = result.status
        if ended is not None:
            await ended(result)
        return result

    async def _run_tool(self, one: _Prepared, caller: Caller, session: str | None, timeout: float | None) -> ToolResult:
        start, call, running = time.perf_counter(), one.call, Running(caller, session, one.call.name)
        assert one.permit is not None, "what is refused is not run"
        try:
            with self._executions.recorded(running):
                called = await self.call(running, one.permit, one.arguments, timeout=timeout)
        except AigbbError as error:
            number = one.version.number if one.version else None
            refusal = self._refused(call, error, self._active(caller))
            return ToolResult(call, refusal, error.code, _since(start), number, execution=running.id)
        raised, told = called.execution.error, called.told
        content, status = _content(called, self._masked)
        traceback = self._masked("\n".join(raised.traceback)) if raised else ""
        return ToolResult(
            call, content, status, _since(start), called.number, told.pictures, told.whole, traceback, running.id
        )

    def _masked(self, text: str) -> str:
        """A text without the values of variables that functions have."""
        passed = self._settings.kernel_environment()
        values = [passed[name] for name in self._settings.pass_env if name in passed]
        return Scrubber.masking([*self._registrar.serving.state.variables.values(), *values])(text)

    def _refused(self, call: ToolCall, error: AigbbError, active: Mapping[str, Version]) -> str:
        """A refusal in a model's terms: it knows no requests, and no parameters that are bound."""
        hint = f"The tools are: {', '.join(list(active)[:MAX_LISTED])}." if call.name not in active else ""
        hidden = {"signature"} if call.name in active and active[call.name].function.bound else set()
        told = {name: value for name, value in error.extra.items() if name not in hidden}
        if wrong := told.get("errors"):  # the messages may be those of validators that an author wrote
            told["errors"] = [{**one, "message": self._masked(str(one.get("message", "")))} for one in wrong]
        hint = hint or _MODEL_HINTS.get(error.code, "")
        return _as_content(error.code, self._masked(error.detail), hint, told)

    def _active(self, caller: Caller) -> Mapping[str, Version]:
        """The functions that a caller may call, by name."""
        return self._registrar.serving.state.seen_by(caller).active

    async def _launch_for(self, version: Version, running: Running) -> Launch | None:
        """Where a version that is not active can run: None for the kernel that would be taken anyway."""
        rows = await asyncio.to_thread(self._registry.generations)
        usual = self._registrar.serving.generation.number
        session, sees = running.session, running.caller.sees
        if session is not None:
            own = (s.generation for s in self._pool.sessions() if s.id == session and sees(s.owner))
            usual = next(own, usual)
        for row in sorted(rows, key=lambda row: row.number != usual):
            if all(map(row.has, version.function.packages)):
                if row.number == usual:
                    return None
                if session is None and self._generation(row).python.exists():
                    return self._launch(self._generation(row))
        raise VersionUnavailable(f"No environment that is kept has the packages of {version}.", version=version.number)


def _in_order(prepared: Sequence[_Prepared], *, one_by_one: bool) -> list[list[int]]:
    """Which calls run side by side, in order: what is refused at once, then reads, and all others alone."""
    groups = [[number for number, one in enumerate(prepared) if one.refusal is not None]]
    open_to_more = False
    for number, one in enumerate(prepared):
        if one.refusal is not None:
            continue
        beside = one.reads and not one_by_one
        if beside and open_to_more:
            groups[-1].append(number)
        else:
            groups.append([number])
        open_to_more = beside
    return groups


async def _side_by_side(work: Iterable[Coroutine[Any, Any, ToolResult]]) -> list[ToolResult]:
    """Do it all. Raises what the first raises that fails; the others are cancelled then."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def _since(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 1)


def _as_pinned(version: Version) -> dict[str, Any]:
    function = version.function
    declared = function.declared.parameters is not None
    return {"source": function.source, "written": list(function.written), "declared": declared}


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


def _content(called: Called, mask: Callable[[str], str]) -> tuple[str, str]:
    """What a model is to read of a call, and its status."""
    done, error = called.execution.done, called.execution.error
    if called.returned is not None and done.status == "ok":
        return called.content or "", "ok"
    detail = done.detail or (f"{error.ename}: {error.evalue}" if error else "The function gave no result.")
    hint = mask(called.hint.text) if called.hint else ""
    return _as_content(done.status, mask(detail), hint, {}), done.status


def _as_content(code: str, detail: str, hint: str, extra: Mapping[str, Any]) -> str:
    """An error as a model can act on it."""
    told = {name: extra[name] for name in ("errors", "signature", "suggestions", "fix") if extra.get(name)}
    return problem(code, detail[:2000], hint, **told)
