"""Registration: from a draft to a version that serves, all or nothing.

Every stage before the commit leaves what serves untouched; a kill at any point leaves the old state or the
new one, and `start` clears the rest away.
"""

from __future__ import annotations

import asyncio
import difflib
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from kernels.environments import Environments, Generation
from kernels.errors import AigbbError, InsufficientStorage, KernelStartFailed
from kernels.home import Home, on_disk
from kernels.kernel import Kernel, Launch
from kernels.kernelspecs import Shelf
from kernels.packages import Uv
from kernels.pool import Pool
from kernels.progress import Report, Step
from server.errors import FunctionNotFound, NameClash
from server.functions import Draft, Function, Parsed, Warn, parse
from server.planning import Plan, Planner
from server.publishing import Publisher
from server.registry import Commit, GenerationRow, Registry, State, Version
from server.settings import Settings
from server.snapshots import Projection, write_if_other, write_snapshot
from server.verifying import Trial, Verifier

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Serving:
    """What serves: the registry's state, and its generation on disk."""

    state: State
    generation: Generation


@dataclass(frozen=True)
class Change:
    """What is to become of the registry."""

    reason: str
    parsed: Sequence[Parsed] = ()
    removed: Collection[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def functions(self) -> list[Function]:
        """Those that are new or changed."""
        return [p.function for p in self.parsed]


@dataclass(frozen=True)
class Registered:
    """What a registration did. packages: added, removed, changed; timings in milliseconds by stage."""

    version: Version
    serving: Serving
    unchanged: bool = False
    new_generation: bool = False
    resolution: str = "kept"
    packages: Mapping[str, list[str]] = field(default_factory=dict)
    warnings: tuple[Warn, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _Clock:
    """Milliseconds by stage."""

    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[name] = round((time.perf_counter() - start) * 1000, 1)


class Registrar:
    """Owns what serves, and changes it, one registration at a time.

    launch says how a kernel of a generation is started.
    """

    def __init__(
        self,
        settings: Settings,
        home: Home,
        registry: Registry,
        pool: Pool,
        launch: Callable[[Generation], Launch],
    ) -> None:
        uv = Uv(Path(sys.executable), home.cache / "uv", settings.uv_environment(), settings.build_timeout)
        self._home = home
        self._registry = registry
        self._pool = pool
        self._launch = launch
        self._environments = Environments(home, uv)
        self._projection = Projection(settings.functions_dir)
        self._planner = Planner(self._environments, registry, self._projection)
        self._verifier = Verifier(settings, home)
        self._publisher = Publisher(
            home,
            registry,
            self._environments,
            self._projection,
            Shelf(settings.kernelspecs_dir, home.path),
            settings.keep_generations,
        )
        self._turn = asyncio.Lock()
        self._pruning: asyncio.Task[None] | None = None
        self._serving: Serving | None = None

    @property
    def serving(self) -> Serving:
        """What serves now. There is something once `start` has returned."""
        assert self._serving is not None, "start comes first"
        return self._serving

    def generation(self, row: GenerationRow) -> Generation:
        """A generation's folder, there or not."""
        return self._environments.at(row.number, row.lock)

    # -- the three things that it does

    async def start(self, report: Report) -> list[str]:
        """Find or build what served last, then register what changed in the functions' folder.

        Returns what could not be registered, one sentence each. Raises AigbbError when nothing can serve.
        """
        async with self._turn:
            state = await asyncio.to_thread(self._registry.state)
            await asyncio.to_thread(self._publisher.sweep, state)
            if state.generation is not None:
                await self._resume(state, report)
            return await self._register_files(state, report)

    async def register(self, draft: Draft, report: Report) -> Registered:
        """Register one function. Raises what the draft, its packages or its import deserve."""
        clock = _Clock()
        with clock.stage("parse"):
            parsed = await parse(draft)
        async with self._turn:
            before, name = self.serving, parsed.function.name
            _check_case(name, before.state)
            if self._is_same(parsed.function, draft.env):
                return Registered(before.state.active[name], before, unchanged=True, warnings=parsed.warnings)
            change = Change(f"register {name}", [parsed], env=draft.env)
            plan, published = await self._apply(change, report, clock)
            return Registered(
                self.serving.state.active[name],
                self.serving,
                new_generation=plan.is_new,
                resolution=plan.resolution,
                packages=plan.row.lock.changes(before.generation.lock),
                warnings=(*parsed.warnings, *published),
                timings_ms=clock.timings,
            )

    async def delete(self, name: str, report: Report) -> None:
        """Take a function out of service; its versions stay in the registry. Raises FunctionNotFound."""
        async with self._turn:
            find(self.serving.state, name)
            await self._apply(Change(f"delete {name}", removed=[name]), report, _Clock())

    # -- start

    async def _resume(self, state: State, report: Report) -> None:
        """The newest good generation: the one that served, built again if it is gone or does not start."""
        row = state.generation
        assert row is not None
        snapshot = self._home.snapshots / str(state.snapshot)
        if not snapshot.exists():
            await on_disk(self._write_snapshot, state, state.snapshot)
        generation = self._environments.find(row.number, row.lock)
        try:
            if generation is None:
                raise KernelStartFailed("Its folder is gone.")
            kernel = await self._try_out(generation, snapshot)
        except KernelStartFailed as error:
            report(Step("install", f"Building kernel {row.number} again. {error.detail}"))
            generation = await self._rebuild(row, report)
            kernel = await self._try_out(generation, snapshot)
        self._serving = Serving(state, generation)
        await self._publish(report)
        self._pool.adopt(kernel)

    async def _try_out(self, generation: Generation, snapshot: Path) -> Kernel:
        """The proof of a generation is a kernel that starts. Raises KernelStartFailed."""
        await asyncio.to_thread(self._prepare, generation, snapshot)
        return await self._pool.rehearse(self._launch(generation))

    async def _rebuild(self, row: GenerationRow, report: Report) -> Generation:
        try:
            return await self._environments.build(row.number, row.lock, None, report)
        except AigbbError as error:
            for older in await asyncio.to_thread(self._registry.generations):
                if older.number != row.number and (found := self._environments.find(older.number, older.lock)):
                    log.error("start.older_generation", wanted=row.number, serves=older.number, why=error.detail)
                    return found
            raise

    async def _register_files(self, state: State, report: Report) -> list[str]:
        """Register new and edited files together, or one by one if that fails, so that one harms no other."""
        functions = {name: version.function for name, version in state.active.items()}
        projected = await asyncio.to_thread(self._registry.projected)
        parsed, notes = await self._parse_files(self._projection.edited(functions, projected), state)
        try:
            if parsed or self._serving is None or not self._planner.fits(state):
                await self._apply(Change("start", parsed), report, _Clock())
        except AigbbError as error:
            if self._serving is None and not parsed:
                raise
            if not parsed:
                return [*notes, f"The environment was not renewed: {error.detail}"]
            return notes + await self._register_each(parsed, report)
        return notes

    async def _register_each(self, parsed: Sequence[Parsed], report: Report) -> list[str]:
        notes = []
        if self._serving is None:
            await self._apply(Change("start"), report, _Clock())
        for one in parsed:
            try:
                await self._apply(Change("start", [one]), report, _Clock())
            except AigbbError as error:
                notes.append(f"{one.function.name}.py is not registered: {error.detail}")
        return notes

    async def _parse_files(self, names: Collection[str], state: State) -> tuple[list[Parsed], list[str]]:
        parsed, notes = [], []
        for draft in self._projection.drafts(names):
            known = state.active.get(draft.name or "")
            env = {n: state.variables[n] for n in known.function.env} if known else {}
            try:
                parsed.append(await parse(replace(draft, env=env)))
            except AigbbError as error:
                notes.append(f"{draft.name}.py is not registered: {error.detail}")
        return parsed, notes

    # -- one change, all or nothing

    async def _apply(self, change: Change, report: Report, clock: _Clock) -> tuple[Plan, list[Warn]]:
        state = self._serving.state if self._serving else State()
        after = state.with_changes(change.functions, change.removed, change.env)
        with clock.stage("resolve"):
            plan = await self._planner.plan(after, state.generation, report)
        number = await asyncio.to_thread(self._next_snapshot, state)
        start: asyncio.Task[Kernel] | None = None
        try:
            with clock.stage("build"):
                generation = await self._environment(plan, report)
                await on_disk(self._write_snapshot, after, number)
            with clock.stage("verify"):
                start = self._begin_start(generation, number) if plan.is_new else None
                described = await self._verify(generation, after, number, change, plan, report)
                kernel = await start if start else None
            with clock.stage("switch"):
                report(Step("switch", "Committing"))
                commit = Commit(change.reason, number, plan.row, described, change.removed, change.env)
                committed = await on_disk(self._registry.commit, commit)
        except BaseException:
            await self._end_start(start)
            await on_disk(self._undo, plan, number)
            raise
        self._serving = Serving(committed, generation)
        with clock.stage("publish"):
            warnings = await self._publish(report)
        if kernel is not None:
            self._pool.adopt(kernel)
        return plan, warnings

    def _begin_start(self, generation: Generation, number: int) -> asyncio.Task[Kernel]:
        """Beside the imports, and not after them: both take most of a second."""
        return asyncio.create_task(self._try_out(generation, self._home.snapshots / str(number)))

    async def _end_start(self, start: asyncio.Task[Kernel] | None) -> None:
        if start is not None:
            start.cancel()
            await asyncio.wait([start])
            if not start.cancelled() and start.exception() is None:
                await start.result().stop()

    async def _verify(
        self, generation: Generation, after: State, number: int, change: Change, plan: Plan, report: Report
    ) -> list[Function]:
        previous = self._serving.generation.lock if self._serving else None
        snapshot = self._home.snapshots / str(number)
        trial = Trial(generation, snapshot, after, change.parsed, change.removed, plan.is_new, previous)
        return await self._verifier.verify(trial, report)

    async def _environment(self, plan: Plan, report: Report) -> Generation:
        if not plan.is_new:
            return self.serving.generation
        previous = self._serving.generation if self._serving else None
        return await self._environments.build(plan.row.number, plan.row.lock, previous, report)

    def _prepare(self, generation: Generation, snapshot: Path) -> None:
        """What a kernel of it needs to start: the kernelspec that our own pool uses, and its functions."""
        Shelf(generation.kernelspecs, self._home.path).put(generation)
        write_if_other(generation.pointer, str(snapshot))

    def _next_snapshot(self, state: State) -> int:
        taken = [int(p.name) for p in self._home.snapshots.iterdir() if p.name.isdecimal()]
        return max([state.snapshot, *taken]) + 1

    def _write_snapshot(self, state: State, number: int) -> None:
        functions = [version.function for version in state.active.values()]
        try:
            write_snapshot(self._home.snapshots / str(number), functions, state.variables_in_use())
        except OSError as error:
            raise InsufficientStorage(f"The snapshot could not be written: {error.strerror}.") from error

    def _undo(self, plan: Plan, number: int) -> None:
        """Remove what was made aside for a change that did not come about."""
        if self._registry.state().snapshot >= number:
            return  # the commit went through and only its answer was lost: the next start publishes it
        shutil.rmtree(self._home.snapshots / str(number), ignore_errors=True)
        if plan.is_new:
            shutil.rmtree(self._environments.at(plan.row.number).folder, ignore_errors=True)

    async def _publish(self, report: Report) -> list[Warn]:
        warnings = await self._publisher.publish(self.serving.state, self.serving.generation, report)
        await self.finish()
        in_use = {self.serving.generation.number, *self._pool.generations()}
        self._pruning = asyncio.create_task(self._prune(in_use))
        return warnings

    async def _prune(self, in_use: Collection[int]) -> None:
        try:
            await asyncio.to_thread(self._publisher.prune, self.serving.state, in_use)
        except OSError as error:
            log.warning("prune.failed", error=str(error))

    async def finish(self) -> None:
        """Wait for the deletion of what is old, which goes on behind the last change."""
        if self._pruning is not None:
            await self._pruning

    def _is_same(self, function: Function, env: Mapping[str, str]) -> bool:
        active = self.serving.state.active.get(function.name)
        variables = self.serving.state.variables
        return (
            active is not None
            and active.function.digest == function.digest
            and all(variables.get(name) == value for name, value in env.items())
        )


def find(state: State, name: str) -> Version:
    """An active version. Raises FunctionNotFound, with the names that are near."""
    if (version := state.active.get(name)) is None:
        near = difflib.get_close_matches(name, state.active, n=3)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise FunctionNotFound(f"There is no function {name[:80]!r}.{meant}", suggestions=near)
    return version


def _check_case(name: str, state: State) -> None:
    twin = next((n for n in state.active if n != name and n.casefold() == name.casefold()), None)
    if twin is not None:
        raise NameClash(f"{name!r} differs from the function {twin!r} only in case.", existing=twin)
