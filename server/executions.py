"""Everything that runs on a kernel, whoever asks for it and by whichever door."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Self

import structlog

from kernels.kernel import Kernel, Launch
from kernels.outputs import Execution
from kernels.pool import Pool
from kernels.tasks import CALL, Task
from server.audit import Line, ran
from server.callers import Caller
from server.errors import AigbbError
from server.granting import Secrets, SecretUse
from server.observing import LEFT, Executed, Observer
from server.registry import Version
from server.running import Keep, Records, Running
from server.sessions import Sessions
from server.settings import Settings

log = structlog.get_logger(__name__)


class Executions:
    """The one way to the pool. `async with` it: what runs by itself ends with it. The audit is told of what passes."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        sessions: Sessions,
        secrets: Secrets,
        observer: Observer,
        audit: Callable[[Line], None],
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._sessions = sessions
        self._records = Records(Keep(settings.keep_executions, settings.execution_seconds))
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._observer = observer
        self._secrets = secrets
        self._audit = audit

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._records.close()

    # -- what there is

    @property
    def live(self) -> Sequence[Running]:
        """Those that have not ended, oldest first. Each can be cancelled, and waited for with `over`."""
        return self._records.live

    def seen_by(self, caller: Caller) -> Sequence[Running]:
        """Those that live or are kept, and are the caller's to see, newest first."""
        return self._records.seen_by(caller)

    def find(self, identity: str, caller: Caller) -> Running:
        """One of them. Raises ExecutionNotFound."""
        return self._records.find(identity, caller)

    # -- to run

    @contextmanager
    def recorded(self, running: Running) -> Iterator[Running]:
        """An execution that lasts as long as the block, in which it is to be run."""
        with structlog.contextvars.bound_contextvars(execution_id=running.id), self._records.living(running):
            yield running

    async def begin(self, running: Running, work: Callable[[Running], Awaitable[Any]]) -> None:
        """Have an execution run by itself; what `work` returns is its answer.

        Raises what it failed with, where that was at once: it is not kept then.
        """
        task = self._tasks[running.id] = asyncio.create_task(self._alone(running, work))
        task.add_done_callback(partial(self._reap, running.id))
        await asyncio.sleep(0)
        if running.problem is not None:
            self._records.forget(running.id)
            raise running.problem

    def leave(self, running: Running) -> None:
        """Nobody waits any more for one that runs by itself: its kernel is free for others."""
        if (task := self._tasks.get(running.id)) is not None:
            task.cancel()

    async def run(
        self,
        task: Task,
        running: Running,
        *,
        timeout: float | None = None,
        launch: Launch | None = None,
        versions: Sequence[Version] = (),
        check: Callable[[], None] = lambda: None,
    ) -> Execution:
        """Do a task to its end, and note in the record what happens; see `Pool.execute` for what it raises.

        timeout: seconds, by default and at most what the settings say. versions: what the task is known to call.
        check: called when its waiting is over and when it has a kernel; what it raises ends it unrun. Raises
        SessionNotFound, also for a session of somebody else, SecretsLocked, MissingSecret.
        """
        if running.session is not None:
            self._sessions.check(running.session, running.caller)
        session = running.session
        # Code in a session outlives the call: only whoever may grant secrets has some in a session, and in their own.
        own = session is not None and self._sessions.is_owner(session, running.caller)
        keeps = own and running.caller.may("secrets:grant")
        use = SecretUse(running.caller, clean=not keeps)
        task = await self._secrets.given(task, versions, use) if versions or session is None or keeps else task
        if task.given is not None and not keeps:
            session = None
        stream = self._pool.execute(
            task,
            session=session,
            timeout=min(timeout or self._settings.timeout, self._settings.max_timeout),
            max_output=self._settings.max_output,
            launch=launch,
            caller=running.caller.owner,
            reached=lambda kernel: _reached(running, kernel, check),
        )
        outcome = LEFT
        try:
            execution = await running.drive(self._secrets.scrubbed(stream))
            outcome = execution.done.status
        except AigbbError as error:
            outcome = error.code
            raise
        finally:
            kind = "call" if task.kind == CALL else "execute"
            event = running.executed(kind, outcome, versions)
            self._observer.note(event)
            self._note(task, running.caller, versions, event)
        return execution

    # -- inside

    def _note(self, task: Task, caller: Caller, versions: Sequence[Version], event: Executed) -> None:
        """Who ran what goes into the audit, which events do not say."""
        code = str(task.content["code"]) if event.kind == "execute" else None
        line = ran(caller, event, versions, code, keep=self._settings.audit_code)
        self._audit(replace(line, detail=self._secrets.scrub(line.detail)))

    async def _alone(self, running: Running, work: Callable[[Running], Awaitable[Any]]) -> None:
        with self.recorded(running):
            running.answer = await work(running)

    def _reap(self, identity: str, task: asyncio.Task[None]) -> None:
        del self._tasks[identity]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, AigbbError):  # the record keeps it, but not all that was there when it was raised
            error.__traceback__ = None
        elif error is not None:
            log.error("execution.bug", execution_id=identity, exc_info=error)


def _reached(running: Running, kernel: Kernel | None, check: Callable[[], None]) -> None:
    check()
    running.reached(kernel)
