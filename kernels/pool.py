"""Who gets which kernel: spares kept ready, one clean kernel an execution, named sessions, admission."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any, Self
from uuid import uuid4
from weakref import WeakSet

import structlog
import zmq.asyncio

from kernels.admission import ANYBODY, Admission, Owner, Places, seconds_for
from kernels.clock import SteadyClock
from kernels.endings import Death
from kernels.errors import PoolExhausted, SessionBusy, SessionExists, SessionNotFound, ShuttingDown
from kernels.forkserver import Forks
from kernels.kernel import Kernel, Launch, State
from kernels.limits import PoolLimits
from kernels.outputs import Done, Output, Stream
from kernels.spares import Spares, Stock
from kernels.tasks import Task

log = structlog.get_logger(__name__)

# Seconds after new functions until what can wait: whoever registered one is likely to call it at once.
LATER = 0.5

# Told how far an execution has come: without a kernel when it was let in, and then with the one that it gets.
Reached = Callable[[Kernel | None], None]
Lost = Callable[[Death], None]

_LOST = "The session's kernel has ended since the last execution, and its variables with it.\n"


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as others see it. Times are UTC."""

    id: str
    kernel: str
    generation: int
    state: str
    executions: int
    pinned: bool
    owner: str
    created: datetime
    last_used: datetime
    expires: datetime


@dataclass
class _Session:
    id: str
    kernel: Kernel
    created: float  # this and the next two by the pool's clock
    used: float
    began: float
    pinned: bool = False  # to the functions that its kernel had first
    owner: Owner = ANYBODY
    executions: int = 0
    users: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    abandoning: asyncio.Task[Any] | None = None
    told: bool = False  # that the kernel has ended

    def tell(self, item: Output, lost: bool) -> Output:
        """Have the last item say that the kernel was lost, during this execution or before."""
        if not isinstance(item, Done):
            return item
        self.told = item.kernel_lost
        return replace(item, kernel_lost=item.kernel_lost or lost)


class Pool:
    """Owns every kernel of the service. `async with Pool(...)` starts it and ends all of them.

    launch is asked anew for each kernel, so what it answers decides which generation serves.
    """

    def __init__(self, launch: Callable[[], Launch], limits: PoolLimits, lost: Lost | None = None) -> None:
        self._launch = launch
        self._lost = lost
        self.limits = limits
        self.forks = Forks(launch, wanted=limits.fork, unforkable=limits.unforkable)
        self.admission = Admission(limits.running, limits.waiting)
        self._context = zmq.asyncio.Context()
        self._clock = SteadyClock()
        stock = Stock(limits.spares, max(limits.spares, limits.max_spares), limits.unneeded_seconds, limits.max_age)
        self._spares = Spares(stock, self._make_spare, self._is_clean, lambda: self.forks.ready, self._spawn)
        self._sessions: dict[str, _Session] = {}
        self._opened = Places(limits.sessions, reserve=True)  # or being opened
        self._tasks: set[asyncio.Task[Any]] = set()
        self._starts: set[asyncio.Task[Kernel]] = set()
        self._kernels: WeakSet[Kernel] = WeakSet()  # all that were started; one that runs is held by the loop
        self._refreshing: asyncio.TimerHandle | None = None
        self._closed = False
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._spawn(self._expire_sessions())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        self._changed.set()
        self._spares.close()
        if self._refreshing is not None:
            self._refreshing.cancel()
        self._sessions.clear()
        for start in self._starts:
            if not start.cancelling():  # once only: it has to clean up
                start.cancel()
        await asyncio.gather(*self._starts, return_exceptions=True)
        await asyncio.gather(*(kernel.stop() for kernel in list(self._kernels)))
        await self.forks.close()
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._context.term()

    async def rehearse(self, launch: Launch) -> Kernel:
        """Start a kernel of a generation that does not serve yet. Raises KernelStartFailed.
        Give it back with `adopt` once the generation serves, or stop it.
        """
        return await self._start(launch)

    def adopt(self, kernel: Kernel) -> None:
        """Take a rehearsed kernel as the first spare of the generation that serves now."""
        self._spares.put(kernel)
        self.forks.notice()
        self.refresh()
        self.roll_over()

    def refresh(self) -> None:
        """New functions serve. The next spare loads them now; the others, and the warm parent, when it is quieter."""
        for kernel in islice(self._spares, 1):
            kernel.prepare()
        if self._refreshing is not None:
            self._refreshing.cancel()
        self._refreshing = asyncio.get_running_loop().call_later(LATER, self._refresh_all)

    def _refresh_all(self) -> None:
        self.forks.notice()
        for kernel in self._spares:
            kernel.prepare()

    def execute(
        self,
        task: Task,
        *,
        session: str | None,
        timeout: float,
        max_output: int,
        launch: Launch | None = None,
        caller: Owner = ANYBODY,
        reached: Reached = lambda _: None,
    ) -> AsyncGenerator[tuple[Kernel, Output]]:
        """Do a task on a clean kernel, or in a session; yields each item with the kernel that it ran on.
        launch: a clean kernel of another generation than the one that serves. caller: whose share and, but in a
        session, whose line it is in. reached is told how far it has come. Raises PoolExhausted, SessionNotFound,
        KernelStartFailed. Closing the generator frees the kernel.
        """
        if session is not None:
            return self._run_in(self._find(session), caller, task, timeout, max_output, reached)
        return self._run_clean(launch, caller, task, timeout, max_output, reached)

    def roll_over(self) -> None:
        """Another generation serves: clean kernels of the old one go; what runs, and sessions, stay."""
        self._spares.open()
        self._spares.sweep()
        self._spares.refill()

    def generations(self) -> set[int]:
        """Those that a kernel of ours is of."""
        return {kernel.launch.generation for kernel in self._kernels if kernel.state != "dead"}

    def states(self) -> Mapping[State, int]:
        """How many kernels there are, by what they do."""
        return Counter(kernel.state for kernel in self._kernels if kernel.state != "dead")

    @property
    def spares(self) -> int:
        """How many clean kernels wait."""
        return len(self._spares)

    @property
    def wanted_spares(self) -> int:
        """How many are to wait, after the demand of late."""
        return self._spares.wanted

    def cut(self, why: str) -> None:
        """End before its time whatever runs, as `cancelled`, and refuse with ShuttingDown whatever waits."""
        self.admission.dismiss(lambda: ShuttingDown(why, retry_after=5))
        for kernel in list(self._kernels):
            kernel.cancel(f"{why} ")

    # -- sessions

    async def open_session(self, identity: str = "", *, pinned: bool = False, owner: Owner = ANYBODY) -> SessionInfo:
        """A new session on a clean kernel. pinned: it keeps the functions that serve now. owner: who opened it.
        Raises SessionExists, PoolExhausted, KernelStartFailed.
        """
        if (identity := identity or uuid4().hex[:12]) in self._sessions:
            raise SessionExists(f"There is a session {identity!r} already.")
        if not self._opened.has_room(owner):
            raise PoolExhausted(
                f"{self._opened.told(owner)} sessions are open, and more are not allowed.",
                hint="Delete one with DELETE /sessions/{id}, or wait until an idle one expires.",
                retry_after=30,
            )
        with self._opened.kept(owner):
            kernel = await self._take()
            if identity in self._sessions:
                self._spawn(kernel.stop())
                raise SessionExists(f"There is a session {identity!r} already.")
        self._sessions[identity] = _Session(identity, kernel, (now := self._clock.now()), now, now, pinned, owner)
        if pinned:
            kernel.prepare(pinned=True)
        self._changed.set()
        return self._info(self._sessions[identity])

    def sessions(self) -> list[SessionInfo]:
        """All that are open, oldest first."""
        return [self._info(session) for session in self._sessions.values()]

    def owner_of(self, identity: str) -> str:
        """Who opened a session. Raises SessionNotFound."""
        return self._find(identity).owner.name

    async def close_session(self, identity: str) -> None:
        """End a session and its kernel; code that runs in it dies. Raises SessionNotFound."""
        session = self._find(identity)
        self._drop(session)
        await self._end(session.kernel)

    async def interrupt_session(self, identity: str) -> None:
        """Interrupt what runs in a session. Raises SessionNotFound, or SessionBusy when nothing runs."""
        if not await self._find(identity).kernel.interrupt():
            raise SessionBusy(f"Nothing runs in session {identity!r}.", hint="There is nothing to interrupt.")

    async def restart_session(self, identity: str) -> SessionInfo:
        """A clean kernel of the newest generation for a session. Code that runs in it dies."""
        session = self._find(identity)
        kernel = session.kernel
        await self._end(kernel)
        async with self._turn(session):
            if session.kernel is kernel:  # else somebody who waited before us has a clean one already
                await self._renew(session)
        return self._info(session)

    # -- inside

    async def _run_clean(
        self, launch: Launch | None, caller: Owner, task: Task, timeout: float, max_output: int, reached: Reached
    ) -> AsyncGenerator[tuple[Kernel, Output]]:
        async with self.admission.admitted("clean", caller):
            reached(None)
            kernel = await (self._take() if launch is None else self._start(launch))
            try:
                reached(kernel)
                async with aclosing(kernel.execute(task, timeout=timeout, max_output=max_output)) as items:
                    async for item in items:
                        yield kernel, item
            finally:
                self._spawn(kernel.stop())

    async def _run_in(
        self, session: _Session, caller: Owner, task: Task, timeout: float, max_output: int, reached: Reached
    ) -> AsyncGenerator[tuple[Kernel, Output]]:
        # In this order: who waits for a session's turn takes nobody else's place.
        async with self._turn(session), self.admission.admitted(f"session {session.id}", caller):
            reached(None)
            lost = await self._revive(session)
            session.executions += 1
            kernel = session.kernel
            reached(kernel)
            if lost:
                yield kernel, Stream("stderr", _LOST)
            try:
                async with aclosing(kernel.execute(task, timeout=timeout, max_output=max_output)) as items:
                    async for item in items:
                        yield kernel, session.tell(item, lost)
            finally:
                if kernel.state == "busy":
                    # Not awaited here: who leaves may be cancelled again, and the next one must not come too soon.
                    session.abandoning = self._spawn(kernel.abandon())

    @asynccontextmanager
    async def _turn(self, session: _Session) -> AsyncIterator[None]:
        """One execution at a time in a session. Raises PoolExhausted when too many wait."""
        if session.users > self.limits.waiting:
            seconds = seconds_for(session.users, self.admission.held, [self._clock.now() - session.began])
            raise PoolExhausted(f"{session.users - 1} executions wait for this session already.", retry_after=seconds)
        session.users += 1
        try:
            async with session.turn:
                session.began = self._clock.now()
                if session.abandoning is not None:
                    await asyncio.wait([session.abandoning])
                yield
        finally:
            session.users -= 1
            session.used = self._clock.now()

    async def _revive(self, session: _Session) -> bool:
        """See to it that a session's kernel lives. Returns whether one was lost that nobody was told of."""
        if session.kernel.state != "dead":
            return False
        told = session.told
        await self._renew(session)
        return not told

    async def _renew(self, session: _Session) -> None:
        self._check_open(session)
        kernel = await self._take()
        try:
            self._check_open(session)
        except SessionNotFound:
            self._spawn(kernel.stop())
            raise
        old, session.kernel, session.told = session.kernel, kernel, False
        if session.pinned:
            kernel.prepare(pinned=True)
        self._spawn(old.stop())

    def _drop(self, session: _Session) -> None:
        del self._sessions[session.id]
        self._opened.free(session.owner)

    def _check_open(self, session: _Session) -> None:
        if self._sessions.get(session.id) is not session:
            raise SessionNotFound(f"Session {session.id!r} has ended.")

    async def _take(self) -> Kernel:
        """A clean kernel of the current generation: a spare, else a fresh one."""
        kernel = self._spares.take() or await self._start(self._launch())
        self._spares.refill_soon()
        return kernel

    def _is_clean(self, kernel: Kernel) -> bool:
        """Whether a spare may be handed out."""
        return kernel.state == "idle" and kernel.launch.generation == self._launch().generation

    async def _make_spare(self) -> Kernel:
        kernel = await self._start(self._launch())
        await kernel.prepared()
        return kernel

    async def _start(self, launch: Launch) -> Kernel:
        """Start a kernel that the pool ends with itself. Raises KernelStartFailed, ShuttingDown."""
        self._check_serving()
        start = asyncio.create_task(self._begin(launch))
        self._starts.add(start)
        start.add_done_callback(self._starts.discard)
        try:
            return await asyncio.shield(start)
        except asyncio.CancelledError:
            # A caller may be cancelled more than once, but the start only once: it has to clean up.
            if not start.cancel() and not start.cancelled() and start.exception() is None:
                self._spawn(start.result().stop())
            if not ((task := asyncio.current_task()) and task.cancelling()):
                self._check_serving()
            raise

    def _check_serving(self) -> None:
        if self._closed:
            raise ShuttingDown("The service is shutting down.", retry_after=5)

    async def _begin(self, launch: Launch) -> Kernel:
        kernel = await Kernel.start(self.forks.through(launch), self._context, self._lost)
        self._kernels.add(kernel)
        return kernel

    async def _expire_sessions(self) -> None:
        """A timer set to the moment when the next session may end. One that was used since then has it set anew."""
        while not self._closed:
            now = self._clock.now()
            for session in [s for s in self._sessions.values() if not s.users and self._ends(s) <= now]:
                log.info("pool.session_expired", session=session.id)
                self._drop(session)
                self._spawn(session.kernel.stop())
            waits = [self.limits.idle_seconds if s.users else self._ends(s) - now for s in self._sessions.values()]
            self._changed.clear()
            try:
                async with asyncio.timeout(min(waits, default=None)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _ends(self, session: _Session) -> float:
        return session.used + self.limits.idle_seconds

    def _find(self, identity: str) -> _Session:
        if (session := self._sessions.get(identity)) is None:
            raise SessionNotFound.of(identity)
        return session

    def _info(self, session: _Session) -> SessionInfo:
        return SessionInfo(
            session.id,
            session.kernel.name,
            session.kernel.launch.generation,
            session.kernel.state,
            session.executions,
            session.pinned,
            session.owner.name,
            *map(self._clock.as_date, (session.created, session.used, self._ends(session))),
        )

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run in the background, owned by the pool, which awaits it before it ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("pool.background_task_failed", exc_info=error)

    async def _end(self, kernel: Kernel) -> None:
        """Stop a kernel, to the end even when our caller is cancelled."""
        await asyncio.wait([self._spawn(kernel.stop())])
