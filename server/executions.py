"""Everything that runs on a kernel, whoever asks for it and by whichever door."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from kernels.kernel import Kernel, Launch
from kernels.outputs import Output
from kernels.pool import Pool
from kernels.tasks import CALL, Task
from server.callers import Caller
from server.observing import Observer, Timing
from server.registry import Version
from server.settings import Settings


class Executions:
    """The one way to the pool."""

    def __init__(self, settings: Settings, pool: Pool, observer: Observer) -> None:
        self._settings = settings
        self._pool = pool
        self._observer = observer

    def run(
        self,
        task: Task,
        caller: Caller,
        *,
        session: str | None = None,
        timeout: float | None = None,
        launch: Launch | None = None,
        versions: Sequence[Version] = (),
    ) -> AsyncGenerator[tuple[Kernel, Output]]:
        """Do a task and yield each item with its kernel; see `Pool.execute`. Close it to free the kernel.

        timeout: seconds, by default and at most what the settings say. versions: what the task is known to call.
        """
        limit = min(timeout or self._settings.timeout, self._settings.max_timeout)
        kind = "call" if task.kind == CALL else "execute"
        timing = Timing(kind, tuple(str(version) for version in versions), session)
        stream = self._pool.execute(
            task,
            session=session,
            timeout=limit,
            max_output=self._settings.max_output,
            launch=launch,
            reached=timing.reached,
        )
        return timing.watch(stream, self._observer)
