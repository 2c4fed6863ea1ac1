"""Makes what was committed visible: to kernels, to Jupyter, and in the functions' folder.

Everything here can be done again: the start of the service does, after a crash between commit and publish.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import structlog

from kernels.environments import Environments, Generation
from kernels.home import Home, on_disk
from kernels.kernelspecs import Shelf
from kernels.progress import Report, Step
from kernels.untrusted_files import remove_tree
from server.functions import Warn
from server.registry import Registry, State
from server.snapshots import Projection, doom_snapshots, sweep_snapshots, write_if_other

log = structlog.get_logger(__name__)

RECENT_SNAPSHOTS = 5
# What a change may have to wait for the clean-up, and after how many such steps a folder is left to the next one.
STEP_SECONDS, STEPS = 0.03, 1000


@dataclass(frozen=True)
class Publisher:
    """shelf is the user's own folder of kernelspecs; keep is how many generations stay for rollback."""

    home: Home
    registry: Registry
    environments: Environments
    projection: Projection
    shelf: Shelf
    keep: int

    async def publish(
        self, state: State, generation: Generation, names: Collection[str] | None, report: Report
    ) -> list[Warn]:
        """Point kernels, kernelspecs and files at the state. What fails is a warning: the commit stands.

        names are the functions that changed or went, None for all.
        """
        warnings = []
        steps = (
            ("kernels see the new functions", lambda: self._point(state, generation)),
            ("Jupyter sees the kernel", lambda: self._list(generation)),
            ("the functions' folder is up to date", lambda: self._project(state, names)),
        )
        for message, step in steps:
            try:
                await on_disk(step)
            except OSError as error:
                log.error("publish.failed", step=message, error=str(error))
                warnings.append(Warn("not_published", f"Not so yet: {message} ({error.strerror})."))
            report(Step("switch", message))
        return warnings

    def sweep(self, state: State) -> None:
        """Clear away what a killed service left. Only while nothing else is going on."""
        self.environments.sweep({row.number for row in self.registry.generations()})
        sweep_snapshots(self.home.snapshots, state.snapshot)
        self.home.clear_work()

    def clean(self, state: State, in_use: Collection[int]) -> Iterator[int]:
        """Delete generations beyond those kept, unless a kernel of them runs, and snapshots of none.

        Each step is short, so that a change can come between two: the first one takes folders away, the others delete
        what is in them. Raises OSError.
        """
        assert state.generation is not None
        there = set(self.environments.numbers())
        numbers = [row.number for row in self.registry.generations() if row.number in there]
        removed = self.environments.doom({*numbers[: self.keep], *in_use}, state.generation.number)
        if removed:
            log.info("generations.pruned", numbers=removed)
        left = there - set(removed)
        self.shelf.prune({self.environments.at(number).kernel_name for number in left})
        # Code that runs now may still import from the snapshots before.
        recent = range(state.snapshot - RECENT_SNAPSHOTS, state.snapshot + 1)
        last = {self.registry.snapshot_of(number) for number in left}
        doomed = doom_snapshots(self.home.snapshots, {*recent, *(n for n in last if n)}, state.snapshot)
        yield len(doomed)
        for folder in (*doomed, *self.environments.doomed):
            for _ in range(STEPS):
                if remove_tree(folder, seconds=STEP_SECONDS):
                    break
                yield 1

    def _point(self, state: State, generation: Generation) -> None:
        write_if_other(generation.pointer, str(self.home.snapshots / str(state.snapshot)))

    def _list(self, generation: Generation) -> None:
        self.shelf.put(generation)
        self.shelf.put_alias(generation)

    def _project(self, state: State, names: Collection[str] | None) -> None:
        functions = [version.function for version in state.active.values()]
        before = self.registry.projected(names)
        written = self.projection.write(functions, before, names)
        # A file that was left alone stays as unknown as it was.
        self.registry.set_projected(written, gone=before.keys() - state.active.keys())
