"""One running Jupyter kernel, and the only place that speaks its protocol.

One reader a channel; messages are matched by the id of the request that they answer. An execution is over
when both its reply and its idle status have come, when the process has ended, or at its deadline.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import shutil
import signal
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal
from uuid import uuid4

import structlog
import zmq
import zmq.asyncio
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager

from kernels.errors import KernelStartFailed
from kernels.messages import clean, from_call, from_message, left_out
from kernels.outputs import Cap, Done, Output, Refused
from kernels.sandbox import kill_group, process_end
from kernels.tasks import CALL, Run, Task, resolve

log = structlog.get_logger(__name__)

START_TIMEOUT = 60.0
# After a reply without idle, or idle without a reply: how long the other may take.
HALF_DONE_GRACE = 3.0
# How long code may take to begin, so that it can be interrupted, and then to stop before it is killed.
INTERRUPT_GRACE = 1.0
# The first moments of an execution are IPython's own, and an interrupt then costs the kernel its reply.
INTERRUPT_DELAY = 0.1
# Larger messages are not decoded.
MAX_MESSAGE = 32 * 1024 * 1024

State = Literal["idle", "busy", "dead"]
# What decoding bytes that a hostile kernel wrote can raise.
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)


@dataclass(frozen=True)
class Launch:
    """What a kernel is started from.

    kernelspecs is a folder with `name`/kernel.json, whose metadata may name a kernel provisioner: how the
    process is made is its business. env is the process's whole environment.
    """

    name: str
    generation: int
    kernelspecs: Path
    env: Mapping[str, str]
    runtime: Path
    workdir: Path


class Kernel:
    """A kernel process and our connection to it. Made by `Kernel.start`, ended by `stop`."""

    def __init__(self, launch: Launch, context: zmq.asyncio.Context) -> None:
        self.id = uuid4().hex[:12]
        self.launch = launch
        self.workdir = launch.workdir / self.id
        self._context = context
        self._manager = AsyncKernelManager(
            kernel_name=launch.name,
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(launch.kernelspecs)], ensure_native_kernel=False),
            transport="ipc",
            connection_file=str(launch.runtime / f"{self.id}.json"),
            context=context,
        )
        loop = asyncio.get_running_loop()
        self._welcomed: asyncio.Future[None] = loop.create_future()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[int | None] = loop.create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._sockets: dict[str, zmq.asyncio.Socket] = {}
        self._run: Run | None = None
        self._stopped = False

    @classmethod
    async def start(cls, launch: Launch, context: zmq.asyncio.Context) -> Kernel:
        """Start a kernel and wait until it answers and its output is heard.

        Raises KernelStartFailed, with the process's last words; nothing is left behind then.
        """
        kernel = cls(launch, context)
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
        run = self._run = Run(uuid4().hex, task.kind, Cap(max_output))
        settle = asyncio.create_task(self._settle(run, timeout))
        settle.add_done_callback(lambda _: run.queue.put_nowait(None))
        try:
            if not self._ended.done():
                await self._request(f"{task.kind}_request", run.id, task.content)
            while (item := await run.queue.get()) is not None:
                yield item
            done = await settle
            for item in run.cap.finish():
                yield item
            yield done
        finally:
            settle.cancel()
            await asyncio.wait([settle])
            if run.over.done() or self._ended.done():
                self._run = None

    async def prepare(self) -> None:
        """Have an idle kernel load now what its next task needs: new functions, and what calls are made with.

        Not waited for: a kernel takes its requests one after the other.
        """
        if not self._ended.done():
            task = Task.prepare()
            await self._request(f"{task.kind}_request", uuid4().hex, task.content)

    async def interrupt(self) -> bool:
        """Interrupt the running code, which then ends as `cancelled`. False when nothing runs."""
        run = self._run
        if run is None or self._ended.done():
            return False
        run.interrupted = True
        await self._interrupt(run)
        return True

    async def abandon(self) -> bool:
        """Stop code that nobody waits for any more. Returns whether the kernel survived that."""
        run = self._run
        if run is not None and not self._ended.done():
            await self._interrupt(run)
            await self._first(run.over, timeout=INTERRUPT_GRACE)
            if not run.over.done():
                await self._kill()
        if self._run is run:
            self._run = None
        return not self._ended.done()

    async def stop(self) -> None:
        """Kill the process and its group, free what it held, and wait for that. Safe to repeat."""
        await self._kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for socket in self._sockets.values():
            socket.close(linger=0)
        if self._manager.provisioner is not None:
            await self._manager.cleanup_resources()
        await asyncio.to_thread(shutil.rmtree, self.workdir, ignore_errors=True)

    async def _launch(self) -> None:
        words = self.workdir / ".start.log"
        try:
            await self._start_process(words)
        except (OSError, ValueError, NoSuchKernel) as error:
            raise KernelStartFailed(f"{self.name} could not be started: {error}.") from error
        for channel, kind in (("shell", zmq.DEALER), ("iopub", zmq.SUB)):
            self._sockets[channel] = self._connect(channel, kind)
            self._tasks.append(asyncio.create_task(self._read(channel)))
        failure = await self._greet()
        if failure is not None:
            said = await asyncio.to_thread(_tail, words)
            raise KernelStartFailed(f"{self.name} {failure}.", log=said)

    async def _start_process(self, words: Path) -> None:
        file = await asyncio.to_thread(_open_new, words)
        try:
            await self._manager.start_kernel(
                env=dict(self.launch.env, HOME=str(self.workdir), IPYTHONDIR=str(self.workdir / ".ipython")),
                cwd=str(self.workdir),
                stdout=file.fileno(),
                stderr=file.fileno(),
            )
        finally:
            file.close()
            provisioner = self._manager.provisioner
            # Also when we were cancelled: start_kernel still waits after it has made the process.
            if provisioner is not None and provisioner.has_process:
                self._tasks.append(asyncio.create_task(self._watch()))

    async def _greet(self) -> str | None:
        """Wait until its output is heard and it answers. Returns what went wrong."""
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._first(self._welcomed, timeout=None)
                await self._request("kernel_info_request", uuid4().hex, {})
                await self._first(self._ready, timeout=None)
        except TimeoutError:
            return f"was not ready after {START_TIMEOUT:g} s"
        return f"{self._ending()} before it was ready" if self._ended.done() else None

    def _connect(self, channel: str, kind: int) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.reconnect_ivl = 10
        socket.rcvhwm = 0  # the default drops messages silently when a burst is faster than we are
        if kind == zmq.SUB:
            socket.subscribe(b"")
        port = getattr(self._manager, f"{channel}_port")
        socket.connect(f"ipc://{self._manager.ip}-{port}")
        return socket

    async def _request(self, kind: str, identity: str, content: Mapping[str, Any]) -> None:
        session = self._manager.session
        header = session.msg_header(kind)
        header["msg_id"] = identity
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": dict(content)}
        await self._sockets["shell"].send_multipart(session.serialize(message))

    async def _read(self, channel: str) -> None:
        socket = self._sockets[channel]
        while True:
            frames = await socket.recv_multipart()
            try:
                self._dispatch(channel, frames)
            except _MALFORMED as error:
                log.warning("kernel.malformed_message", kernel=self.id, channel=channel, error=repr(error)[:200])
            # Receiving what is there already does not wait: a flood would leave no turn to anybody else.
            await asyncio.sleep(0)

    def _dispatch(self, channel: str, frames: list[bytes]) -> None:
        session = self._manager.session
        _, parts = session.feed_identities(frames)
        if len(parts[4]) > MAX_MESSAGE:
            self._skip(parts)
            return
        # As session.deserialize does, but without looking for dates in each text: a quarter of its time.
        if not hmac.compare_digest(session.sign(parts[1:5]), parts[0]):
            raise ValueError("the signature is wrong")
        header, parent, content = (session.unpack(parts[index]) for index in (1, 2, 4))
        kind = header["msg_type"]
        if kind == "iopub_welcome":
            resolve(self._welcomed)
        if kind == "kernel_info_reply":
            resolve(self._ready)
        run = self._run
        if run is None or parent.get("msg_id") != run.id:
            return
        if channel == "shell":
            self._on_reply(run, kind, content)
        else:
            self._on_iopub(run, kind, content)

    def _on_reply(self, run: Run, kind: str, content: Mapping[str, Any]) -> None:
        if kind == f"{run.kind}_reply" and run.reply is None and isinstance(content, dict):
            run.reply = content
            run.progress()

    def _on_iopub(self, run: Run, kind: str, content: Mapping[str, Any]) -> None:
        if kind == "status" and content["execution_state"] == "idle":
            run.idle = True
            run.progress()
        elif kind == "execute_input" or (kind == "status" and run.kind == CALL):
            resolve(run.begun)
        elif item := from_message(kind, content):
            run.show(item)

    def _skip(self, parts: list[bytes]) -> None:
        """A message too large to decode: say so where it would have been shown."""
        run, kind = self._run, json.loads(parts[1])["msg_type"]
        if run is None or json.loads(parts[2]).get("msg_id") != run.id:
            return
        run.cap.truncated = True
        if kind == f"{run.kind}_reply":
            # Its metadata repeats the status, and of a call all but the result.
            self._on_reply(run, kind, json.loads(parts[3]))
        elif item := left_out(kind, len(parts[4])):
            run.show(item)

    async def _settle(self, run: Run, timeout: float) -> Done:
        """Wait for the run's end, or bring it about."""
        await self._first(run.half, timeout=timeout)
        if run.half.done():
            await self._first(run.over, timeout=HALF_DONE_GRACE)
        if run.over.done():
            return self._finished(run)
        if self._ended.done():
            await asyncio.wait([run.over], timeout=0.05)  # what the dead kernel sent is still being read
            return self._done(run, "died", f"The kernel {self._ending()}.")
        if run.half.done():
            return await self._half_finished(run)
        return await self._time_out(run, timeout)

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
            return self._done(run, "cancelled", "The execution was interrupted.")
        return self._done(run, "error", None)

    async def _half_finished(self, run: Run) -> Done:
        """The kernel lost its wits: idle without a reply, or a reply whose output never ended."""
        await self._kill()
        return self._done(run, "died", "The kernel stopped answering properly and was replaced.")

    async def _time_out(self, run: Run, timeout: float) -> Done:
        await self._interrupt(run)
        await self._first(run.over, timeout=INTERRUPT_GRACE)
        if run.over.done():
            return self._done(run, "timeout", f"Timed out after {timeout:g} s; the code was interrupted.")
        await self._kill()
        return self._done(
            run, "timeout", f"Timed out after {timeout:g} s; the code did not stop and its kernel was killed."
        )

    def _done(self, run: Run, status: Any, detail: str | None) -> Done:
        count = (run.reply or {}).get("execution_count")
        return Done(
            status,
            execution_count=count if isinstance(count, int) else None,
            detail=detail,
            truncated=run.cap.truncated,
            kernel_lost=self._ended.done(),
            seconds=time.perf_counter() - run.started,
        )

    async def _interrupt(self, run: Run) -> None:
        """Interrupt code once it has begun: before that, the kernel would ignore it."""
        await self._first(run.begun, timeout=INTERRUPT_GRACE)
        await self._first(run.over, timeout=INTERRUPT_DELAY)
        if self._ended.done() or run.over.done():
            return
        with suppress(ProcessLookupError):
            await self._manager.interrupt_kernel()
        # An interrupt that meets an `await` takes effect only when another message arrives.
        await self._request("kernel_info_request", uuid4().hex, {})

    async def _first(self, future: asyncio.Future[None], *, timeout: float | None) -> None:
        """Wait for a future or for the kernel's end, at most `timeout` seconds."""
        waited: list[asyncio.Future[Any]] = [future, self._ended]
        await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    async def _kill(self) -> None:
        provisioner = self._manager.provisioner
        if provisioner is None or not self._tasks:
            return
        if not self._ended.done():
            self._stopped = True
            await provisioner.kill()
            await asyncio.wait([self._ended])

    async def _watch(self) -> None:
        """See the process's end at once, end its group too, and keep the exit code."""
        provisioner: Any = self._manager.provisioner  # pid is not in the base class's types
        await process_end(provisioner.pid)
        kill_group(provisioner.pid)
        self._ended.set_result(await provisioner.wait())

    def _ending(self) -> str:
        if self._stopped:
            return "was stopped"
        code = self._ended.result()
        if code is None or code >= 0:
            return f"exited with code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        memory = "; often the machine, or its limit, ran out of memory" if name == "SIGKILL" else ""
        return f"was killed by {name}{memory}"


def _open_new(path: Path) -> BinaryIO:
    path.parent.mkdir(mode=0o700, parents=True)
    return path.open("wb")


def _tail(path: Path) -> str:
    return clean(path.read_bytes()[-4000:].decode(errors="replace"))
