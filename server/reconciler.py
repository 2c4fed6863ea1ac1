"""Keeps what serves whole and the home tidy, beside no change: each step waits for its turn among the changes.

What serves can lose files while it does: somebody deletes an environment, or edits a snapshot. That is looked for now
and then, reported by `GET /healthz`, and mended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from kernels.environments import Generation
from kernels.errors import AigbbError, StorageFailed
from kernels.home import on_disk
from kernels.progress import Report, Step
from kernels.storage import refusal
from server.grants import granted
from server.registry import State
from server.snapshots import PACKAGE, SnapshotContents

log = structlog.get_logger(__name__)

# Seconds between two looks at every file of the snapshot; one that comes or goes is seen by the next GET /healthz.
EVERY = 30.0

# By folder: which one it is, and when something last came or went.
Stamp = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class DeploymentFault:
    """What is wrong with what serves. code is snapshot_damaged or environment_damaged."""

    code: str
    detail: str


@dataclass(frozen=True)
class DeployedFiles:
    """The files that serve: a generation's environment, and a snapshot with what it must contain.

    folders are those in which something comes or goes when one of the files does.
    """

    generation: Generation
    snapshot: Path
    contents: SnapshotContents
    folders: tuple[Path, ...]

    @classmethod
    def of(cls, generation: Generation, snapshot: Path, contents: SnapshotContents) -> DeployedFiles:
        """Return them, found on the disk."""
        return cls(generation, snapshot, contents, (snapshot, snapshot / PACKAGE, *generation.parts()))

    def stamp(self) -> Stamp:
        """Return what changes when a file comes or goes. Quick: nothing is read."""
        return tuple(map(_stamp, self.folders))

    def checked(self) -> Stamp:
        """Look at every file of the snapshot. Returns the stamp from before. Raises StorageFailed."""
        stamp = self.stamp()
        if fault := next(self._snapshot(), None):
            raise StorageFailed(f"{fault.detail} Nothing was committed.")
        return stamp

    def faults(self, *, packages: bool) -> list[DeploymentFault]:
        """Look at every file of the snapshot, and with `packages` at those of installed packages too."""
        return [*self._environment(packages), *self._snapshot()]

    def _environment(self, packages: bool) -> Iterator[DeploymentFault]:
        name = self.generation.kernel_name
        if not self.generation.works:
            yield DeploymentFault("environment_damaged", f"The interpreter of {name} is gone.")
        elif packages and (file := self.generation.missing()) is not None:
            yield DeploymentFault("environment_damaged", f"{file} of {name} is gone or cut off.")

    def _snapshot(self) -> Iterator[DeploymentFault]:
        if (file := self.contents.fault(self.snapshot)) is not None:
            detail = f"Snapshot {self.snapshot.name} is not as it was written."
            log.error("snapshot.damaged", snapshot=str(self.snapshot), file=file)
            yield DeploymentFault("snapshot_damaged", detail)


@dataclass(frozen=True)
class Duties:
    """What there is to look after. clean deletes what is old, in short steps; mend has what serves made again."""

    files: Callable[[], DeployedFiles | None]
    clean: Callable[[], Iterator[int]]
    mend: Callable[[], Coroutine[Any, Any, None]]


@dataclass
class Reconciler:
    """Cleans up behind changes and mends what serves. turn is the changes' own: neither runs beside one."""

    turn: asyncio.Lock
    duties: Duties
    faults: Sequence[DeploymentFault] = ()
    _seen: DeployedFiles | None = None
    _stamp: Stamp = ()
    _soon: asyncio.TimerHandle | None = None
    _running: asyncio.Task[None] | None = None
    _again: set[str] = field(default_factory=set)
    _cleaning: asyncio.Lock = field(default_factory=asyncio.Lock)

    def clean_soon(self, seconds: float) -> None:
        """Clean up in so many seconds: at once, it would take time from whoever calls what is new."""
        self._again.add("clean")
        self._in(seconds)

    def trust(self, files: DeployedFiles) -> None:
        """Take it that these serve from now on and are whole: they have just been looked at."""
        self._seen, self._stamp, self.faults = files, files.stamp(), ()

    async def examine(self, *, packages: bool = False) -> Sequence[DeploymentFault]:
        """Return what is wrong with what serves, looking at files again where one came or went, and have it mended.

        packages: look in any case, and at each file of the installed packages too.
        """
        files = self.duties.files()
        if files is None or (not packages and files is self._seen and files.stamp() == self._stamp):
            return self.faults
        return await self._look(files, packages=True)

    async def _look(self, files: DeployedFiles, *, packages: bool) -> Sequence[DeploymentFault]:
        stamp = files.stamp()
        found = await on_disk(files.faults, packages=packages)
        if files is self.duties.files():  # else a change has made others meanwhile
            known = () if packages else [f for f in self.faults if f.code == "environment_damaged"]
            self._seen, self._stamp, self.faults = files, stamp, tuple(dict.fromkeys([*known, *found]))
        if self.faults:
            self._again.add("mend")
            self._in(0)
        return self.faults

    def _in(self, seconds: float) -> None:
        """Have what is to be done done in so many seconds, unless that is sooner already."""
        loop = asyncio.get_running_loop()
        if self._soon is not None and self._soon.when() <= loop.time() + seconds:
            return
        if self._soon is not None:
            self._soon.cancel()
        self._soon = loop.call_later(seconds, self._begin)

    def _begin(self) -> None:
        self._soon = None
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        else:
            self._in(1.0)

    async def _run(self) -> None:
        again, self._again = self._again, set()
        if (files := self.duties.files()) is not None and not again:
            await self._look(files, packages=False)
        if "clean" in again:
            await self.clean()
        if "mend" in again:
            await self.mend()
        self._in(EVERY)

    async def clean(self) -> None:
        """Delete what is old. A change waits for one step at most."""
        steps: Iterator[int] | None = None
        try:
            async with self._cleaning:
                while True:
                    async with self.turn:
                        steps = steps or self.duties.clean()
                        if await on_disk(next, steps, None) is None:
                            return
        except OSError as error:  # what is left is taken up by the next one
            log.warning("prune.failed", path=str(error.filename or ""), error=str(error))

    async def mend(self) -> None:
        """Have what serves made again if something is wrong with it."""
        async with self.turn:
            if not self.faults:  # a change has done it meanwhile
                return
            log.error("deployment.damaged", faults=[fault.detail for fault in self.faults])
            try:
                await self.duties.mend()
            except AigbbError as error:
                log.error("deployment.not_mended", error=error.detail, code=error.code)
            else:
                log.info("deployment.mended")

    async def finish(self) -> None:
        """Leave off what has begun, and clean up a last time."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        if self._soon is not None:
            self._soon.cancel()
        await self.clean()


def _stamp(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def contents_of(state: State) -> SnapshotContents:
    """Return what the snapshot of a state has to contain."""
    functions = [version.function for version in state.active.values()]
    numbers = {name: version.number for name, version in state.active.items()}
    return SnapshotContents.of(functions, state.variables_in_use(), numbers, granted(functions))


def make_whole(contents: SnapshotContents, snapshot: Path, report: Report) -> None:
    """Write a snapshot again that is not what it has to be. Raises InsufficientStorage, StorageFailed."""
    if (file := contents.fault(snapshot)) is None:
        return
    log.error("snapshot.damaged", snapshot=str(snapshot), file=file)
    report(Step("install", f"Writing snapshot {snapshot.name} again"))
    try:
        contents.write(snapshot)
    except OSError as error:
        raise refusal("The snapshot could not be written", error) from error
