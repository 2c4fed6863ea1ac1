"""The one door behind every door: what the service can do, without HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import structlog
from filelock import AsyncFileLock, Timeout

from kernels import machine, sandbox
from kernels.confinement import Confinement
from kernels.endings import Death
from kernels.environments import Generation
from kernels.home import Home
from kernels.kernel import Launch
from kernels.outputs import Execution
from kernels.pool import Pool
from kernels.progress import Report, silent
from kernels.tasks import Task
from server.approvals import Approvals
from server.archive import Archive
from server.callers import Caller, Reach
from server.calls import Calls
from server.catalog import Catalog
from server.changing import Changer, Serving
from server.chat import Chat
from server.damage import mend, usable
from server.diffing import source_diff
from server.direct import DirectCalls
from server.draining import WHY, Drain, refusal
from server.errors import HomeInUse
from server.executions import Executions
from server.granting import Secrets
from server.idempotency import Replays
from server.llm import Model
from server.logs import Lines
from server.loop import Means
from server.metrics import Metrics
from server.observing import Lost, Observer
from server.reconciler import DeploymentFault
from server.registrar import Registered, Registrar, Synced, Wanted
from server.registry import Event, GenerationRow, Registry, Version
from server.restoring import finish
from server.results import Results
from server.running import Running
from server.sessions import Sessions
from server.settings import Settings, traces
from server.snapshots import Projection
from server.source_reader import start_reader
from server.stores import Stores
from server.telling import Teller
from server.tracing import Tracing
from server.tracing import tracing as traced
from server.turns import Limits
from server.unconfined_access import UnconfinedAccess

log = structlog.get_logger(__name__)

T = TypeVar("T")

VERSION = "0.1.0"
# What has been interrupted answers within these.
LAST_SECONDS = 5.0


@dataclass(frozen=True)
class GenerationInfo:
    """A generation as others see it. created is UTC, ISO 8601."""

    number: int
    kernel: str
    current: bool
    available: bool
    in_use: bool
    created: str
    packages: dict[str, str]


@dataclass(frozen=True)
class Health:
    """status is ok, full while another execution would be refused, degraded, or draining: it takes nothing new.

    faults is what is wrong with the files that serve: until they are made again, the status is degraded.
    fork is ready, or says why kernels are started one by one and not forked. confinement says what kernels are
    confined by.
    """

    status: str
    kernel: str
    generation: int
    snapshot: int
    functions: int
    spares: int
    fork: str
    confinement: Mapping[str, str]
    faults: Sequence[DeploymentFault]
    running: int
    waiting: int
    sessions: int


class Service:
    """Registers and executes. `async with Service.open(settings)` owns everything that runs."""

    def __init__(
        self,
        settings: Settings,
        home: Home,
        stores: Stores,
        runtime: Path,
        tracing: Tracing,
        confinement: Confinement,
    ) -> None:
        registry, vault = stores.registry, stores.vault
        self.settings = settings
        self.tracing = tracing
        self.confinement = confinement
        self.unconfined = UnconfinedAccess.of(confinement)
        self.home = home
        self.keys, self.audit = stores.keys, stores.audit
        self.token_file = home.token if settings.token is None else None
        self.notes: list[str] = []
        self._registry = registry
        self._runtime = runtime
        self._metrics = Metrics(VERSION)
        self.observer = Observer(self._metrics.note, Lines(requests=settings.access_log).note, tracing.note)
        limits = replace(settings.limits(), unforkable=confinement.unforkable)
        self.pool = Pool(lambda: self._launch(self.serving.generation), limits, self._lost)
        self.changer = Changer(settings, home, registry, self.pool, self._launch, vault, stores.grants, confinement)
        reader = partial(start_reader, confinement)
        self.registrar = Registrar(self.changer, registry, self.observer, vault, reader)
        self.replays = Replays(registry, stores.archive.clock)
        self.results = Results(home.results)
        self.vault = vault
        self.secrets = Secrets(vault, stores.grants, registry, lambda: self.serving.state, reader)
        self.sessions = Sessions(self.pool)
        self.executions = Executions(settings, self.pool, self.sessions, self.secrets, self.observer, self.audit.note)
        teller = Teller(self.results, settings.max_content)
        running = (self.executions, self.pool, teller)
        self.calls = Calls(settings, self.registrar, registry, *running, self.changer.generation, self._launch, tracing)
        self._catalogs: dict[Reach, Catalog] = {}
        self._model = Model(settings)
        self.drain = Drain()
        self.approvals = Approvals(stores.archive, settings.approval_seconds, self.keys.holds, self.audit)
        self.chat = Chat(self._means, stores.archive, self.approvals, settings.keep_seconds, self.drain.until_cut)
        self.direct = DirectCalls(self.calls, self.executions, self.approvals, settings.confirm, self.observer)
        self._tasks: set[asyncio.Task[Any]] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, report: Report = silent) -> AsyncIterator[Self]:
        """Start: find or build the environment, register what is in the functions' folder, warm a kernel.

        Raises HomeInUse, HomeUnusable, NewerHome, InsufficientStorage, ConfinementUnavailable, and what building raises
        when there is nothing older that could serve.
        """
        with usable(settings.home):
            home = await asyncio.to_thread(settings.open_home)
        confine = partial(machine.confine, settings.sandbox, settings.bounds(), settings.exposure())
        async with _hold(home), await confine() as confinement:
            access = UnconfinedAccess.of(confinement)
            access.check_address(settings.host, loopback=settings.is_loopback)
            with ExitStack() as opened:
                with usable(home.path):
                    notes = await asyncio.to_thread(_make_sound, home, Projection(settings.functions_dir))
                    runtime = opened.enter_context(home.runtime())
                    stores = opened.enter_context(Stores.open(settings, home))
                    await asyncio.to_thread(_correct_dates, stores.registry, stores.archive, settings.approval_seconds)
                async with traced(traces(), VERSION) as tracing:
                    with usable(home.path):
                        service = cls(settings, home, stores, runtime, tracing, confinement)
                    async with service._parts():
                        access.check_keys(service.keys.listed(), time.time())
                        with usable(home.path):
                            synced = await service.registrar.start(report)
                        service.notes = [
                            *access.warnings,
                            *notes,
                            *(f"{file}: {e.detail}" for file, e in synced.failures.items()),
                        ]
                        service.notes += [tracing.problem] if tracing.problem else []
                        try:
                            yield service
                        finally:
                            await service._finish()

    @asynccontextmanager
    async def _parts(self) -> AsyncIterator[None]:
        """Everything that has a lifetime, in the order in which one needs the other."""
        async with self.audit, self.keys, self.pool, self.executions, self.changer, self.registrar, self._model:
            yield

    @property
    def serving(self) -> Serving:
        """What serves now."""
        return self.changer.serving

    # -- changes

    async def register(
        self, wanted: Sequence[Wanted], caller: Caller, report: Report = silent, *, dry_run: bool = False
    ) -> list[Registered]:
        """Register functions; a caller who leaves does not stop it. Raises as `Registrar.register`."""
        return await self.to_its_end(self.registrar.register(wanted, caller, report, dry_run=dry_run))

    async def activate(
        self, name: str, number: int, env: Mapping[str, str], caller: Caller, report: Report = silent
    ) -> Registered:
        """Have an older version serve again. Raises as `Registrar.activate`."""
        return await self.to_its_end(self.registrar.activate(name, number, env, caller, report))

    async def delete(self, name: str, caller: Caller) -> None:
        """Take a function out of service. Raises FunctionNotFound, WouldBreak."""
        await self.to_its_end(self.registrar.delete(name, caller, silent))

    async def sync(self, caller: Caller, report: Report = silent) -> Synced:
        """Register what changed in the functions' folder."""
        return await self.to_its_end(self.registrar.sync(caller, report))

    # -- functions

    def catalog(self, caller: Caller) -> Catalog:
        """The active functions that a caller may know of, as they are found and seen."""
        state = self.serving.state
        found = self._catalogs.get(caller.reach)
        if found is None or found.snapshot != state.snapshot:
            # One for each narrowing, of which there are as many as keys; older ones are of other functions.
            self._catalogs = {r: c for r, c in self._catalogs.items() if c.snapshot == state.snapshot}
            found = Catalog(state.snapshot, tuple(state.seen_by(caller).active.values()))
            self._catalogs[caller.reach] = found
        return found

    def signatures(self) -> dict[str, str]:
        """How the active functions are called, by name."""
        return {name: version.function.signature for name, version in self.serving.state.active.items()}

    def function(self, name: str, caller: Caller) -> Version:
        """One active version. Raises FunctionNotFound."""
        return self.registrar.find(name, caller)

    async def versions(self, name: str, caller: Caller) -> list[Version]:
        """Every version of a function, newest first. Raises FunctionNotFound."""
        return await self.registrar.versions(name, caller)

    async def version(self, name: str, number: int, caller: Caller) -> Version:
        """One of them. Raises FunctionNotFound, UnknownVersion."""
        return await self.registrar.version(name, number, caller)

    async def diff(self, name: str, number: int, against: int | None, caller: Caller) -> tuple[Version, Version, str]:
        """Two versions and the unified diff from the first to the second; by default from the one before.

        Raises FunctionNotFound, UnknownVersion.
        """
        new = await self.version(name, number, caller)
        old = await self.version(name, against if against is not None else max(1, number - 1), caller)
        return old, new, await asyncio.to_thread(source_diff, old.function, new.function, str(old), str(new))

    async def history(self, name: str | None, limit: int, before: int | None) -> list[Event]:
        """Lines of history, newest first."""
        return await asyncio.to_thread(self._registry.history, name, limit, before)

    # -- executions

    async def execute(self, code: str, running: Running, *, timeout: float | None = None) -> Execution:
        """Run code to its end; see `Executions.run`."""
        return await self.executions.run(Task.code(code), running, timeout=timeout)

    # -- what there is

    async def generations(self) -> list[GenerationInfo]:
        """All generations, newest first."""
        return await asyncio.to_thread(self._generations)

    def _generations(self) -> list[GenerationInfo]:
        current = self.serving.generation.number
        return [_describe(row, self.changer.generation(row), current) for row in self._registry.generations()]

    def _status(self) -> str:
        if self.drain.state != "open":
            return "draining"
        return "degraded" if self.changer.faults else "full" if self.pool.admission.full else "ok"

    def health(self) -> Health:
        """Whether it serves, and how busy it is. No secret, no name of a function."""
        serving, (running, waiting) = self.serving, self.pool.admission.load
        return Health(
            status=self._status(),
            kernel=serving.generation.kernel_name,
            generation=serving.generation.number,
            snapshot=serving.state.snapshot,
            functions=len(serving.state.active),
            spares=self.pool.spares,
            fork=self.pool.forks.state,
            confinement=self.confinement.state(),
            faults=self.changer.faults,
            running=running,
            waiting=waiting,
            sessions=len(self.pool.sessions()),
        )

    async def examined(self) -> Health:
        """Return the same, having looked whether the files that serve are there."""
        await self.changer.examine()
        return self.health()

    async def metrics(self, accept: str = "") -> tuple[bytes, str]:
        """The service in figures, as Prometheus reads them, and their media type."""
        self._metrics.set(self._gauges())
        return await asyncio.to_thread(self._metrics.text, accept)

    # -- the end

    async def wind_down(self, seconds: float) -> None:
        """Take nothing new, give what goes on so many seconds, then interrupt it and wait a little for its answers.

        `drain.hasten` shortens either wait.
        """
        self.drain.begin()
        by_themselves = [asyncio.create_task(self._counted(one.over())) for one in self.executions.live]
        await asyncio.sleep(0)
        log.info("drain.begun", going=self.drain.going, seconds=seconds)
        await self._let_go(seconds)
        for waiting in by_themselves:
            waiting.cancel()

    async def _let_go(self, seconds: float) -> None:
        if await self.drain.quiet(seconds):
            return
        log.warning("drain.cut", going=self.drain.going)
        self.drain.cut()
        self.pool.cut(WHY)
        for task in self._tasks:
            task.cancel()
        await self.drain.quiet(LAST_SECONDS)

    # -- inside

    def _gauges(self) -> dict[str, float]:
        health, states = self.health(), self.pool.states()
        return {
            "spares": health.spares,
            "spares_wanted": self.pool.wanted_spares,
            "executions_running": health.running,
            "executions_waiting": health.waiting,
            "sessions": health.sessions,
            "kernels_idle": states.get("idle", 0),
            "kernels_busy": states.get("busy", 0),
            "functions": health.functions,
            "generation": health.generation,
            "snapshot": health.snapshot,
            "fork_ready": self.pool.forks.ready,
            "full": self.pool.admission.full,
        }

    def _lost(self, cause: Death) -> None:
        self.observer.note(Lost(cause))

    def _means(self, caller: Caller) -> Means:
        """What a turn of the caller's chat works with, as it is now."""
        settings = self.settings
        limits = Limits(settings.max_rounds, settings.max_calls, settings.max_tokens, settings.max_seconds)
        return Means(
            self._model,
            self.calls,
            self.results,
            self.catalog(caller),
            limits,
            settings.confirm,
            self.observer,
            self.tracing,
        )

    def _launch(self, generation: Generation) -> Launch:
        passed = self.settings.kernel_environment()
        env = sandbox.kernel_environment(generation.python, self.home.work, passed)
        return Launch(
            name=generation.kernel_name,
            generation=generation.number,
            kernelspecs=generation.kernelspecs,
            env={**env, "AIGBB_OWNED": "1"},
            runtime=self._runtime,
            workdir=self.home.work,
            cage=self.confinement.kernels(self.home, self._runtime),
        )

    async def to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work that a caller who leaves does not stop."""
        task = asyncio.create_task(self._counted(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled() and self.drain.state == "cut":
                raise refusal() from None
            raise

    async def _counted(self, work: Coroutine[Any, Any, T]) -> T:
        with self.drain.working():
            return await work

    async def _finish(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.changer.finish()


def _make_sound(home: Home, projection: Projection) -> list[str]:
    """Bring a restore that was cut off to its end, and set aside what is damaged."""
    if finish(home, projection):
        log.warning("home.restore_finished")
    return mend(home, projection.requirements)


def _correct_dates(registry: Registry, archive: Archive, approval_seconds: float) -> None:
    registry.correct(archive.clock.now())
    archive.correct(approval_seconds)


def _describe(row: GenerationRow, generation: Generation, current: int) -> GenerationInfo:
    return GenerationInfo(
        number=row.number,
        kernel=generation.kernel_name,
        current=row.number == current,
        available=generation.python.exists(),
        in_use=generation.in_use(),
        created=row.created,
        packages=dict(row.lock.pins),
    )


@asynccontextmanager
async def _hold(home: Home) -> AsyncIterator[None]:
    lock = AsyncFileLock(home.lock, timeout=0)
    with usable(home.path):
        try:
            await lock.acquire()
        except Timeout as error:  # which is an OSError, too
            raise HomeInUse(f"Another service runs on {home.path}.") from error
    try:
        yield
    finally:
        await lock.release()
