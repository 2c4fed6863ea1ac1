"""One running Jupyter kernel: its process, and what is asked of it.

Messages are matched by the id of the request that they answer. An execution is over when both its reply and its idle
status have come, when the process has ended, or at its deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Literal
from uuid import uuid4

import zmq.asyncio
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from kernels.channels import Channels, Manager, Message
from kernels.confinement import Cage, sockets
from kernels.endings import Death, Ending
from kernels.errors import InsufficientStorage, KernelStartFailed
from kernels.home import in_own_thread, on_disk
from kernels.messages import from_call, from_message, left_out
from kernels.outputs import Cap, Done, Output, Refused, Status
from kernels.sandbox import kill_group, process_end
from kernels.storage import is_full
from kernels.tasks import CALL, Run, Task, resolve
from kernels.workplace import Workplace, last_words

START_TIMEOUT = 60.0
# After a reply without idle, or idle without a reply: how long the other may take.
HALF_DONE_GRACE = 5.0
# How long code may take to begin, so that it can be interrupted, and then to stop before it is killed.
INTERRUPT_GRACE = 1.0
# The same, at most, for code that was given long: a tenth of that. For code that somebody cancelled, whose kernel may
# have variables that are still wanted; and for code that has written too much: what it wrote before comes first.
MAX_GRACE = 5.0
# The first moments of an execution are IPython's own, and an interrupt then costs the kernel its reply.
INTERRUPT_DELAY = 0.1
# How long what a dead kernel has sent may still be on its way.
LAST_WORDS = 0.05
# How long its sockets are kept then.
KEPT_OPEN = 1.0
# How long a spare may take to load what calls need.
PREPARE_SECONDS = 30.0

State = Literal["idle", "busy", "dead"]


@dataclass(frozen=True)
class Launch:
    """What a kernel is started from.

    kernelspecs is a folder with `name`/kernel.json, whose metadata may name a kernel provisioner: how the
    process is made is its business. env is the process's whole environment; cage is what it is confined to.
    """

    name: str
    generation: int
    kernelspecs: Path
    env: Mapping[str, str]
    runtime: Path
    workdir: Path
    cage: Cage = field(default_factory=Cage)


class Kernel:
    """A kernel process and our connection to it. Made by `Kernel.start`, ended by `stop`."""

    def __init__(
        self, launch: Launch, context: zmq.asyncio.Context, lost: Callable[[Death], None] | None = None
    ) -> None:
        self.id = uuid4().hex[:12]
        self.launch = launch
        self._place = Workplace(launch.workdir / self.id, sockets(launch.runtime) / self.id)
        self.workdir = self._place.workdir
        self._context = context
        self._manager = Manager(
            kernel_name=launch.name,
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(launch.kernelspecs)], ensure_native_kernel=False),
            transport="ipc",
            connection_file=str(self._place.connection_file),
            context=context,
        )
        self._loop = asyncio.get_running_loop()
        self._welcomed: asyncio.Future[None] = self._loop.create_future()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[Ending] = self._loop.create_future()
        self._watching: asyncio.Task[None] | None = None
        self._channels: Channels | None = None
        self._run: Run | None = None
        self._asked = count(1)
        self._stopped = False
        self._lost = lost
        self._killed_for: Death | None = None

    @classmethod
    async def start(
        cls, launch: Launch, context: zmq.asyncio.Context, lost: Callable[[Death], None] | None = None
    ) -> Kernel:
        """Start a kernel and wait until it answers and its output is heard. lost: told if it ends before `stop`.

        Raises KernelStartFailed, with the process's last words; nothing is left behind then.
        """
        kernel = cls(launch, context, lost)
        try:
            await kernel._launch()
        except BaseException:
            await kernel.stop()
            raise
        return kernel

    @property
    def state(self) -> State:
        """What the kernel does now."""
        return "dead" if self._ended.done() else "busy" if self._run else "idle"

    @property
    def name(self) -> str:
        """The kernelspec's name."""
        return self.launch.name

    async def execute(self, task: Task, *, timeout: float, max_output: int) -> AsyncGenerator[Output]:
        """Do a task and yield its items as they come; the last is always Done.

        timeout is in seconds; max_output in characters, see `Cap`. Closing the generator early leaves the
        code running: call `abandon` or `stop` then.
        """
        run = self._run = Run(self._new_id(), task.kind, Cap(max_output))
        run.timer = self._loop.call_later(timeout, self._bring_about, run, partial(self._time_out, run, timeout))
        try:
            if self._ended.done():
                run.done = self._died(run)
            else:
                if task.given is not None:  # a kernel takes its requests one after the other
                    told = task.given.message()
                    self._ask("aigbb_give_request", self._new_id(), told)
                self._ask(f"{task.kind}_request", run.id, task.content, quiet=True)
            item: Output | None = None
            while not isinstance(item, Done):
                for item in await run.take():
                    yield item
        finally:
            await run.leave()
            if self._run is run and (run.over.done() or self._ended.done()):
                self._run = None

    def prepare(self, *, pinned: bool = False) -> None:
        """Have an idle kernel load now what its next task needs: new functions, and what calls are made with.

        pinned: to stay with those functions. Not waited for: a kernel takes its requests one after the other.
        """
        if not self._ended.done():
            task = Task.prepare(pinned=pinned)
            self._ask(f"{task.kind}_request", self._new_id(), task.content)

    async def prepared(self) -> None:
        """Wait until an idle kernel has loaded what calls need."""
        async with aclosing(self.execute(Task.prepare(), timeout=PREPARE_SECONDS, max_output=1024)) as items:
            async for _ in items:
                pass

    async def interrupt(self) -> bool:
        """Interrupt the running code, which then ends as `cancelled`. False when nothing runs."""
        run = self._run
        if run is None or self._ended.done():
            return False
        run.interrupted = True
        await self._interrupt(run)
        return True

    def cancel(self, why: str = "") -> bool:
        """Bring the running code to its end as `cancelled`: interrupted, and its kernel killed if that stops nothing.

        False when nothing runs, or its end is near anyway.
        """
        run = self._run
        if run is None or run.settled or self._ended.done():
            return False
        run.interrupted, run.why = True, why
        self._bring_about(run, partial(self._give_up, run))
        return True

    async def abandon(self) -> bool:
        """Stop code that nobody waits for any more. Returns whether the kernel survived that."""
        run = self._run
        if run is not None and not self._ended.done():
            await self._interrupt(run)
            await self._first(run.over, timeout=INTERRUPT_GRACE)
            if not run.over.done():
                await self._kill("abandoned")
        if self._run is run:
            self._run = None
        return not self._ended.done()

    async def stop(self) -> None:
        """Kill the process and its group, free what it held, and wait for that. Safe to repeat."""
        await self._kill()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._channels is not None:
            self._channels.close()
        if self._manager.provisioner is not None:
            await self._manager.cleanup_resources()
        await in_own_thread(self._place.remove)

    async def _launch(self) -> None:
        with ExitStack() as opened:
            try:
                printed = await on_disk(lambda: opened.enter_context(self._place.open()))
                await self._start_process(printed)
            except (OSError, ValueError, NoSuchKernel) as error:
                kind = InsufficientStorage if isinstance(error, OSError) and is_full(error) else KernelStartFailed
                raise kind(f"{self.name} could not be started: {error}.") from error
            self._channels = Channels(self._manager, self._context, self._hear)
            failure = await self._greet() or await self._channels.strange(self._manager)
            if failure is not None:
                raise KernelStartFailed(f"{self.name} {failure}.", log=await on_disk(last_words, printed))
        await on_disk(self._place.close_sockets)

    async def _start_process(self, printed: BinaryIO) -> None:
        own, cage = self._place.folders, self.launch.cage
        env = {**self.launch.env, **self._place.environment, **cage.rules(*own)}
        more = {"cage": cage.narrowed(*own)} if cage.wraps else {}
        streams = {"stdout": printed.fileno(), "stderr": printed.fileno()}
        try:
            await self._manager.start_kernel(env=env, cwd=str(self.workdir), **streams, **more)
        finally:
            provisioner = self._manager.provisioner
            # Also when we were cancelled: start_kernel still waits after it has made the process.
            if provisioner is not None and provisioner.has_process:
                self._watching = asyncio.create_task(self._watch())

    async def _greet(self) -> str | None:
        """Wait until its output is heard and it answers. Returns what went wrong."""
        try:
            async with asyncio.timeout(START_TIMEOUT):
                self._ask("kernel_info_request", self._new_id(), {})
                await self._first(self._welcomed, timeout=None)
                await self._first(self._ready, timeout=None)
        except TimeoutError:
            return f"was not ready after {START_TIMEOUT:g} s"
        return f"{self._ended.result()} before it was ready" if self._ended.done() else None

    def _new_id(self) -> str:
        """Of a request, as Jupyter's clients name them: by the session, and a number."""
        return f"{self._manager.session.session}_{next(self._asked)}"

    def _ask(self, kind: str, identity: str, content: Mapping[str, Any], *, quiet: bool = False) -> None:
        assert self._channels is not None
        self._channels.ask(kind, identity, content, quiet=quiet)

    def _hear(self, message: Message) -> None:
        if message.kind == "iopub_welcome":
            resolve(self._welcomed)
        if message.kind == "kernel_info_reply":
            resolve(self._ready)
        run = self._run
        if run is None or message.parent != run.id:
            return
        run.heard += message.size
        if not message.whole:
            self._skip(run, message)
        elif message.channel == "shell":
            self._on_reply(run, message, message.content())
        else:
            self._on_iopub(run, message.kind, message.content())
        if run.heard > run.cap.most:
            self._bring_about(run, partial(self._overflow, run))

    def _on_reply(self, run: Run, message: Message, content: Mapping[str, Any]) -> None:
        if message.kind == f"{run.kind}_reply" and run.reply is None and isinstance(content, dict):
            run.reply = content
            number = message.metadata().get("aigbb_snapshot")
            run.snapshot = number if isinstance(number, int) else None
            self._progress(run)

    def _on_iopub(self, run: Run, kind: str, content: Mapping[str, Any]) -> None:
        if kind == "status" and content["execution_state"] == "idle":
            run.idle = True
            self._progress(run)
        elif kind == "execute_input" or (kind == "status" and run.kind == CALL):
            resolve(run.begun)
        elif item := from_message(kind, content):
            run.show(item)

    def _skip(self, run: Run, message: Message) -> None:
        """A message too large to decode: say so where it would have been shown."""
        run.cap.truncated = True
        if message.kind == f"{run.kind}_reply":
            # Its metadata repeats the status, and of a call all but the result.
            self._on_reply(run, message, message.metadata())
        elif item := left_out(message.kind, message.size):
            run.show(item)

    def _progress(self, run: Run) -> None:
        """The reply, or the idle status, has come: the deadline no longer counts, but the other may not take long."""
        run.progress()
        if run.settled:
            return
        if run.over.done():
            # Once what has come with it is read: raw writes to descriptors are heard by a thread of the kernel.
            self._loop.call_soon(self._conclude, run)
        else:
            run.timer.cancel()
            run.timer = self._loop.call_later(
                HALF_DONE_GRACE, self._bring_about, run, partial(self._half_finished, run)
            )

    def _conclude(self, run: Run) -> None:
        if not run.settled:
            run.end(self._finished(run))

    def _bring_about(self, run: Run, how: Callable[[], Coroutine[Any, Any, Done]]) -> None:
        """End a run that does not end by itself, whether or not anybody takes its items."""
        if not run.settled:
            run.settle(asyncio.create_task(how()))

    def _finished(self, run: Run) -> Done:
        reply = run.reply or {}
        answer = from_call(reply) if run.kind == CALL else None
        if answer is not None:
            run.show(answer)
        if reply.get("status") == "ok":
            return self._done(run, "ok", None)
        if not run.raised and not isinstance(answer, Refused) and (error := from_message("error", reply)):
            run.show(error)
        if run.interrupted:
            return self._done(run, "cancelled", f"{run.why}The execution was interrupted.")
        return self._done(run, "error", None)

    async def _outlived(self, run: Run) -> Done:
        """The kernel has ended; what it sent is still being read."""
        await asyncio.wait([run.over], timeout=LAST_WORDS)
        return self._finished(run) if run.over.done() else self._died(run)

    def _died(self, run: Run) -> Done:
        ending = self._ended.result()
        return self._done(run, "died", f"The kernel {ending}.", ending)

    async def _half_finished(self, run: Run) -> Done:
        """The kernel lost its wits: idle without a reply, or a reply whose output never ended."""
        await self._kill("poisoned")
        ending = Ending("poisoned")
        return self._done(run, "died", f"The kernel {ending}.", ending)

    async def _time_out(self, run: Run, timeout: float) -> Done:
        grace = min(max(INTERRUPT_GRACE, timeout / 10), MAX_GRACE)
        return await self._cut_short(run, "timeout", f"Timed out after {timeout:g} s", grace)

    async def _give_up(self, run: Run) -> Done:
        await self._interrupt(run)
        await self._first(run.over, timeout=INTERRUPT_GRACE if run.why else MAX_GRACE)
        if run.over.done():
            return self._finished(run)
        if self._ended.done():
            return await self._outlived(run)
        await self._kill("abandoned")
        words = f"{run.why}The code did not stop when it was interrupted; its kernel was killed."
        return self._done(run, "cancelled", words, Ending("killed"))

    async def _overflow(self, run: Run) -> Done:
        return await self._cut_short(run, "output_limit", f"Wrote more than {run.cap.most:,} bytes", MAX_GRACE)

    async def _cut_short(self, run: Run, status: Literal["timeout", "output_limit"], why: str, grace: float) -> Done:
        """Stop code that went over a limit, unless it comes to its end first: then it ended by itself."""
        sent = await self._interrupt(run)
        began = run.begun.done()
        await self._first(run.over, timeout=grace)
        if run.over.done():
            words = f"{why}; the code was interrupted."
            return self._done(run, status, words, Ending("interrupted")) if sent and began else self._finished(run)
        if self._ended.done() and not sent:
            return self._died(run)
        await self._kill(status)
        if not began:
            words = f"{why}, and the code had not begun: what ran before had left its kernel unable to; it was killed."
            return self._done(run, status, words, Ending("not_started"))
        return self._done(run, status, f"{why}; the code did not stop and its kernel was killed.", Ending("killed"))

    def _done(self, run: Run, status: Status, detail: str | None, ending: Ending | None = None) -> Done:
        count = (run.reply or {}).get("execution_count")
        return Done(
            status,
            execution_count=count if isinstance(count, int) else None,
            detail=detail,
            truncated=run.cap.truncated,
            kernel_lost=self._ended.done(),
            snapshot=run.snapshot,
            seconds=time.perf_counter() - run.started,
            reason=ending.reason if ending else None,
            exit_code=ending.exit_code if ending else None,
            signal=ending.signal if ending else None,
        )

    async def _interrupt(self, run: Run) -> bool:
        """Interrupt code once it has begun: before that, the kernel would ignore it. Whether there was need to."""
        await self._first(run.begun, timeout=INTERRUPT_GRACE)
        await self._first(run.over, timeout=INTERRUPT_DELAY)
        if self._ended.done() or run.over.done():
            return False
        with suppress(ProcessLookupError):
            await self._manager.interrupt_kernel()
        # An interrupt that meets an `await` takes effect only when another message arrives.
        self._ask("kernel_info_request", self._new_id(), {})
        return True

    async def _first(self, future: asyncio.Future[None], *, timeout: float | None) -> None:
        """Wait for a future or for the kernel's end, at most `timeout` seconds."""
        waited: list[asyncio.Future[Any]] = [future, self._ended]
        await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    async def _kill(self, because: Death | None = None) -> None:
        provisioner = self._manager.provisioner
        if provisioner is None or self._watching is None:
            return
        if not self._ended.done():
            self._stopped, self._killed_for = True, because
            await provisioner.kill()
            await asyncio.wait([self._ended])

    async def _watch(self) -> None:
        """See the process's end at once, end its group too, and keep how it ended."""
        provisioner: Any = self._manager.provisioner  # pid is not in the base class's types
        await process_end(provisioner.pid)
        kill_group(provisioner.pid)
        code = await provisioner.wait()
        ran_out = getattr(provisioner, "out_of_memory", None)  # only ours knows
        self._ended.set_result(Ending.of(code, stopped=self._stopped, out_of_memory=bool(ran_out)))
        if self._lost is not None and (death := self._death()):
            self._lost(death)
        if self._run is not None:
            self._bring_about(self._run, partial(self._outlived, self._run))
        if self._channels is not None:  # which would try to reach the kernel again, for ever
            self._loop.call_later(KEPT_OPEN, self._channels.close)

    def _death(self) -> Death | None:
        return self._killed_for if self._stopped else self._ended.result().cause
