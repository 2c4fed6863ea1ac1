"""One change of what serves, from the requirements to the commit: all of it or nothing.

Every stage before the commit leaves what serves untouched; a kill at any point leaves the old state or the
new one, and the next start clears the rest away.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import structlog

from kernels.confinement import Confinement
from kernels.environments import Environments, Generation
from kernels.errors import AigbbError, EnvironmentDamaged, KernelStartFailed, ProbeError
from kernels.home import Home, on_disk
from kernels.kernel import Kernel, Launch
from kernels.kernelspecs import FORK, Shelf
from kernels.packages import Uv
from kernels.pool import LATER, Pool
from kernels.progress import Report, Step, silent
from kernels.standby import Standby
from kernels.storage import refusal
from server.callers import Caller
from server.errors import Forbidden
from server.functions import Parsed, Warn
from server.grants import Grant, GrantStore, RegistrationChange, admitted
from server.observing import Clock
from server.planning import Plan, Planner
from server.publishing import Publisher
from server.reconciler import DeployedFiles, DeploymentFault, Duties, Reconciler, Stamp, contents_of, make_whole
from server.registry import Commit, Event, GenerationRow, Registry, State, Version, moment
from server.settings import Settings
from server.snapshots import Projection, write_if_other
from server.variables import check_conflicts
from server.vault import Vault
from server.verifying import Trial, Verified, Verifier

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Serving:
    """What serves: the registry's state, and its generation on disk."""

    state: State
    generation: Generation


@dataclass(frozen=True)
class Change:
    """What is to become of the registry: new versions, older ones that serve again, names that go.

    events says what history is to keep of it, given the versions that it makes. caller is who makes it.
    """

    reason: str
    parsed: Sequence[Parsed] = ()
    activated: Sequence[Version] = ()
    removed: Collection[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    events: Callable[[Sequence[Version]], Sequence[Event]] = lambda _: ()
    caller: Caller = field(kw_only=True)

    @property
    def may_install(self) -> bool:
        """Whether it may bring packages that the environment does not have."""
        return self.caller.may("packages:install")

    @property
    def names(self) -> list[str]:
        """The functions that it is about and that serve afterwards."""
        return [*(p.function.name for p in self.parsed), *(v.function.name for v in self.activated)]


@dataclass(frozen=True)
class Applied:
    """What a change came to. versions are those that it made active, in its order."""

    plan: Plan
    versions: Sequence[Version]
    warnings: Mapping[str, Sequence[Warn]]


class Changer:
    """Owns what serves, `async with`. Changes come one at a time: whoever makes one has the `turn`.

    launch says how a kernel of a generation is started.
    """

    def __init__(
        self,
        settings: Settings,
        home: Home,
        registry: Registry,
        pool: Pool,
        launch: Callable[[Generation], Launch],
        vault: Vault,
        grants: GrantStore,
        confinement: Confinement,
    ) -> None:
        uv = Uv(Path(sys.executable), home.cache / "uv", settings.uv_environment(), settings.build_timeout)
        self._home = home
        self._registry = registry
        self._pool = pool
        self._grants = grants
        self._launch = launch
        self._environments = Environments(home, uv, confinement)
        self.projection = Projection(settings.functions_dir)
        self._planner = Planner(self._environments, registry, self.projection)
        self._verifier = Verifier(settings, home, vault, grants, confinement)
        self._probes = Standby(lambda: self._verifier.ahead(self.serving.generation))
        self._publisher = Publisher(
            home,
            registry,
            self._environments,
            self.projection,
            Shelf(settings.kernelspecs_dir, home.path),
            settings.keep_generations,
        )
        self.turn = asyncio.Lock()
        self._reconciler = Reconciler(self.turn, Duties(lambda: self._files, self._clean, self._mend))
        self._serving: Serving | None = None
        self._files: DeployedFiles | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._probes.__aexit__()

    @property
    def serving(self) -> Serving:
        """What serves now. There is something once `resume` or a first change has returned."""
        assert self._serving is not None, "the start comes first"
        return self._serving

    @property
    def serves(self) -> bool:
        """Whether anything serves."""
        return self._serving is not None

    def generation(self, row: GenerationRow) -> Generation:
        """A generation's folder, there or not."""
        return self._environments.at(row.number, row.lock)

    def fits(self, state: State) -> bool:
        """Whether the state's environment has all that is asked for now. Raises InvalidRequirement."""
        return self._planner.fits(state)

    # -- start

    async def resume(self, state: State, report: Report) -> None:
        """Serve what served last: its generation, built again if it is gone or does not start."""
        await on_disk(self._publisher.sweep, state)
        await asyncio.to_thread(self._grants.reconcile, state)
        row = state.generation
        if row is None:
            return
        snapshot, contents = self._snapshot(state), await asyncio.to_thread(contents_of, state)
        await on_disk(make_whole, contents, snapshot, report)
        generation = self._environments.find(row.number, row.lock)
        try:
            if generation is None:
                raise KernelStartFailed("Its folder is gone.")
            kernel = await self._try_out_whole(generation, snapshot)
        except KernelStartFailed as error:
            report(Step("install", f"Building kernel {row.number} again. {error.detail}"))
            generation = await self._rebuild(row, report)
            kernel = await self._try_out(generation, snapshot)
        self._serve(
            Serving(state, generation), await asyncio.to_thread(DeployedFiles.of, generation, snapshot, contents)
        )
        await self._publish(None, report)
        self._pool.adopt(kernel)

    async def _rebuild(self, row: GenerationRow, report: Report) -> Generation:
        try:
            return await self._environments.build(row.number, row.lock, None, report)
        except AigbbError as error:
            for older in await asyncio.to_thread(self._registry.generations):
                if older.number != row.number and (found := self._environments.find(older.number, older.lock)):
                    log.error("start.older_generation", wanted=row.number, serves=older.number, why=error.detail)
                    return found
            raise

    # -- one change, all or nothing

    def refill(self) -> None:
        """Have the next change's child process started, once the caller of this one has what it asked for."""
        self._probes.refill(LATER)

    async def apply(self, change: Change, report: Report, clock: Clock, *, dry_run: bool = False) -> Applied:
        """Resolve, build, verify and commit; dry_run leaves out the commit and removes what was made for it.

        Raises what the packages or the imports deserve; then nothing has changed.
        """
        before = self._serving.state if self._serving else State()
        new = await asyncio.to_thread(self._number, change.parsed)
        after = before.with_changes([*new, *change.activated], change.removed, change.env)
        grants = self._admit(change, before, after)
        start: asyncio.Task[Kernel] | None = None
        done, plan = False, None
        try:
            with clock.stage("resolve"):
                plan = await self._plan(change, before, after, report)
            after = replace(after, snapshot=await asyncio.to_thread(self._next_snapshot, before), generation=plan.row)
            with clock.stage("build"):
                generation = await self._environment(plan, report)
                files = await on_disk(self._write_snapshot, after, generation)
            with clock.stage("verify"):
                trial = replace(self._trial(generation, after, change, plan), grants=grants)
                if plan.is_new:
                    await self._compile(trial, report)
                    start = self._begin_start(generation, after.snapshot)
                verified, stamp = await self._prove(trial, files, report)
                kernel = await start if start else None
            versions = [replace(v, function=f) for v, f in zip(new, verified.functions, strict=True)]
            applied = Applied(plan, [*versions, *change.activated], verified.warnings)
            if not dry_run:
                after = after.with_changes(versions, (), {})
                with clock.stage("switch"):
                    report(Step("switch", "Committing"))
                    await asyncio.to_thread(self._grants.approve, grants, change.caller)
                    events = change.events(applied.versions)
                    commit = Commit(change.reason, after, versions, change.activated, change.removed, events)
                    await on_disk(self._commit, commit, files, stamp)
                done = True
                await asyncio.to_thread(self._grants.forget, change.removed)
        except OSError as error:
            raise refusal("The change could not be made", error) from error
        finally:
            if not done and plan is not None:
                await self._end_start(start)
                await on_disk(self._undo, plan, after.snapshot)
        if not done:
            return applied
        return await self._switch(change, applied, Serving(after, generation), files, kernel, report, clock)

    def _admit(self, change: Change, before: State, after: State) -> list[Grant]:
        """Return the grants of secrets that come with a change. Raises VariableConflict, SecretNotGranted."""
        others = {n: v.function.env for n, v in after.active.items() if n not in change.names}
        check_conflicts(change.env, before.variables, others)
        return admitted(self._grants, RegistrationChange(before, after, change.names, change.caller))

    async def _plan(self, change: Change, before: State, after: State, report: Report) -> Plan:
        plan = await self._planner.plan(after, before.generation, change.names, report)
        if not change.may_install:
            _check_packages(plan, before.generation)
        if not plan.is_new and self._environment_is_lost():
            plan = await asyncio.to_thread(self._planner.renewed, plan)
        return plan

    def _environment_is_lost(self) -> bool:
        codes = {fault.code for fault in self._reconciler.faults}
        return not self.serving.generation.python.exists() or "environment_damaged" in codes

    async def _prove(self, trial: Trial, files: DeployedFiles, report: Report) -> tuple[Verified, Stamp]:
        """Import the functions, and look at each file of the snapshot meanwhile. Raises ProbeError, StorageFailed."""
        looking = asyncio.create_task(on_disk(files.checked))
        try:
            verified = await self._verify(trial, report)
        finally:
            await asyncio.gather(looking, return_exceptions=True)
        return verified, looking.result()

    def _commit(self, commit: Commit, files: DeployedFiles, stamp: Stamp) -> None:
        """Commit, if nothing came or went since all was there: what is committed is what kernels import."""
        if files.stamp() != stamp:
            files.checked()
        self._registry.commit(commit)

    def _serve(self, serving: Serving, files: DeployedFiles) -> None:
        self._serving, self._files = serving, files
        self._reconciler.trust(files)

    async def _switch(
        self,
        change: Change,
        applied: Applied,
        serving: Serving,
        files: DeployedFiles,
        kernel: Kernel | None,
        report: Report,
        clock: Clock,
    ) -> Applied:
        """From here on the new state serves."""
        names = [*change.names, *change.removed] if self._serving else None
        self._serve(serving, files)
        if applied.plan.is_new:
            await self._probes.drop()
        with clock.stage("publish"):
            warnings = await self._publish(names, report)
        if kernel is not None:
            self._pool.adopt(kernel)
        else:
            self._pool.refresh()
        return replace(applied, warnings={**applied.warnings, "": warnings})

    def _number(self, parsed: Sequence[Parsed]) -> list[Version]:
        now = moment()
        return [Version(p.function, self._registry.next_number(p.function.name), now) for p in parsed]

    async def _try_out(self, generation: Generation, snapshot: Path) -> Kernel:
        """The proof of a generation is a kernel that starts. Raises KernelStartFailed."""
        await asyncio.to_thread(self._prepare, generation, snapshot)
        return await self._pool.rehearse(self._launch(generation))

    async def _try_out_whole(self, generation: Generation, snapshot: Path) -> Kernel:
        """The same for one that was built long ago: a kernel may start without files that functions need."""
        looking = asyncio.create_task(asyncio.to_thread(generation.missing))
        kernel = await self._try_out(generation, snapshot)
        if (file := await looking) is not None:
            await kernel.stop()
            raise KernelStartFailed(f"{file} of it is gone or cut off.")
        return kernel

    def _begin_start(self, generation: Generation, number: int) -> asyncio.Task[Kernel]:
        """Beside the imports, and not after them: both take most of a second."""
        return asyncio.create_task(self._try_out(generation, self._home.snapshots / str(number)))

    async def _end_start(self, start: asyncio.Task[Kernel] | None) -> None:
        if start is not None:
            start.cancel()
            await asyncio.wait([start])
            if not start.cancelled() and start.exception() is None:
                await start.result().stop()

    def _trial(self, generation: Generation, after: State, change: Change, plan: Plan) -> Trial:
        activated = [v.function.name for v in change.activated]
        imported = generation.lock if generation.compiled else None
        if self._serving is not None and not plan.renewed:
            imported = self._serving.generation.lock
        # A renewed environment has the packages that all others were imported with.
        is_new, snapshot = plan.is_new and not plan.renewed, self._snapshot(after)
        return Trial(generation, snapshot, after, change.parsed, activated, change.removed, is_new, imported)

    async def _compile(self, trial: Trial, report: Report) -> None:
        """Before anything else of a new environment runs, which would compile the same and could not keep it."""
        await self._verifier.warm(trial, report)
        await on_disk(self._environments.gather, trial.generation, keep=trial.imported is None)

    async def _verify(self, trial: Trial, report: Report) -> Verified:
        serves = self._serving is not None and trial.generation is self._serving.generation
        child = await self._probes.take() if serves else None
        try:
            return await self._verifier.verify(replace(trial, child=child), report)
        except ProbeError as error:
            if serves:
                await self._blame(error)
            raise
        finally:
            if child is not None:
                await child.stop()

    async def _blame(self, error: ProbeError) -> None:
        """Raise EnvironmentDamaged if that is why nothing can be imported: no author has to do with it."""
        for fault in await self._reconciler.examine(packages=True):
            if fault.code == "environment_damaged":
                raise EnvironmentDamaged(fault.detail, retry_after=10) from error

    async def _environment(self, plan: Plan, report: Report) -> Generation:
        if not plan.is_new:
            return self.serving.generation
        previous = self._serving.generation if self._serving and not plan.renewed else None
        return await self._environments.build(plan.row.number, plan.row.lock, previous, report)

    def _prepare(self, generation: Generation, snapshot: Path) -> None:
        """What a kernel of it needs to start: the kernelspec that our own pool uses, and its functions."""
        Shelf(generation.kernelspecs, self._home.path, FORK).put(generation)
        write_if_other(generation.pointer, str(snapshot))

    def _next_snapshot(self, state: State) -> int:
        taken = [int(p.name) for p in self._home.snapshots.iterdir() if p.name.isdecimal()]
        return max([state.snapshot, *taken]) + 1

    def _snapshot(self, state: State) -> Path:
        return self._home.snapshots / str(state.snapshot)

    def _write_snapshot(self, state: State, generation: Generation) -> DeployedFiles:
        contents, folder = contents_of(state), self._snapshot(state)
        contents.write(folder, self._snapshot(self._serving.state) if self._serving else None)
        return DeployedFiles.of(generation, folder, contents)

    def _undo(self, plan: Plan, number: int) -> None:
        """Remove what was made aside for a change that did not come about."""
        if self._registry.last_snapshot() >= number:
            return  # the commit went through and only its answer was lost: the next start publishes it
        shutil.rmtree(self._home.snapshots / str(number), ignore_errors=True)
        if plan.is_new:
            shutil.rmtree(self._environments.at(plan.row.number).folder, ignore_errors=True)

    # -- what is visible

    async def _publish(self, names: Collection[str] | None, report: Report) -> list[Warn]:
        warnings = await self._publisher.publish(self.serving.state, self.serving.generation, names, report)
        self._reconciler.clean_soon(LATER)
        return warnings

    # -- what goes on behind the changes

    async def examine(self, *, packages: bool = False) -> Sequence[DeploymentFault]:
        """Return what is wrong with what serves; see `Reconciler.examine`. It is mended behind this."""
        return await self._reconciler.examine(packages=packages)

    @property
    def faults(self) -> Sequence[DeploymentFault]:
        """What was wrong with what serves when it was last looked at."""
        return self._reconciler.faults

    async def clean(self) -> None:
        """Delete what is old now, between the changes."""
        await self._reconciler.clean()

    def _clean(self) -> Iterator[int]:
        in_use = {self.serving.generation.number, *self._pool.generations()}
        return self._publisher.clean(self.serving.state, in_use)

    async def _mend(self) -> None:
        """A change that changes nothing: its snapshot is made of what the registry holds, its environment of the lock.

        Kernels see by its number that there is another one, and import again what failed.
        """
        await self.apply(Change("repair", caller=Caller()), silent, Clock())

    async def finish(self) -> None:
        """Leave off what goes on behind the changes, and delete what is old."""
        await self._reconciler.finish()


def _check_packages(plan: Plan, before: GenerationRow | None) -> None:
    """Raises Forbidden for packages that are not there yet: whoever installs one runs its code."""
    changes = plan.row.lock.changes(before.lock if before else None)
    if new := [*changes["added"], *changes["changed"]]:
        raise Forbidden(
            f"This would install {', '.join(new[:10])}, and the key does not have the scope packages:install.",
            hint="Use a key that has packages:install too, or packages that are installed already.",
            scopes=["packages:install"],
            packages=new,
        )
