"""The warm parent of a generation's kernels: started, kept up to date, replaced when it fails.

`kernels/inside/warm.py` is its own program.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import structlog

from kernels.cgroups import Group
from kernels.confinement import sockets
from kernels.home import on_disk, write_atomically
from kernels.kernel import Launch
from kernels.messages import clean
from kernels.provisioner import FORK_TIMEOUT, SOCKET, Line
from kernels.untrusted_files import read_end

log = structlog.get_logger(__name__)

# Seconds until one that does not answer is given up, and between looks at whether it does.
HANGS, PING = 60.0, 5.0
# Seconds in which one is ready, and in which the end of one shows that answers no more.
STARTS, ENDS = 120.0, 1.0
# Seconds after which a parent counts as one that lasts; the longest pause before the next one of those that do not.
LASTING, MAX_PAUSE = 60.0, 60.0
# Bytes by which a parent may grow beyond twice its first size: what functions imported that are gone stays in it.
GROWTH = 256 * 1024 * 1024
BACKLOG = 1024
# As much as so many kernels may have is for the parent, which imports every function and makes every fork.
PARENT = 2


class ForkServer:
    """The warm parent of one generation. Made by `start`, ended by `stop` or `retire`."""

    def __init__(
        self, process: asyncio.subprocess.Process, address: Path, said: Path, sign: Path | None, group: Group | None
    ) -> None:
        self._process = process
        self._group = group
        self.address = address
        self._said = said
        self._sign = sign
        self.memory = 0  # bytes that it held when it was last asked, shared ones included

    @classmethod
    async def start(cls, launch: Launch) -> ForkServer:
        """Start one; who asks it for a kernel before it is ready waits. Raises OSError."""
        address = launch.runtime / f"fork-{launch.generation}-{uuid4().hex[:6]}"
        said = address.with_suffix(".log")
        argv, env = await asyncio.to_thread(command, launch)
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(str(address))
            listener.listen(BACKLOG)
            with ExitStack() as opened:
                words = await on_disk(lambda: opened.enter_context(said.open("wb")))
                async with launch.cage.nesting().entered(argv) as entered:
                    process = await asyncio.create_subprocess_exec(
                        *entered.argv, env=env, stdin=listener.fileno(), stdout=words, stderr=words,
                        cwd=launch.runtime, start_new_session=True, pass_fds=entered.pass_fds,
                    )  # fmt: skip
                    sign = None if launch.cage.wraps else Path(env["AIGBB_GENERATION"], "warm")
                    server = cls(process, address, said, sign, launch.cage.group(kernels=PARENT))
                    await entered.admit(server._group)
        finally:
            listener.close()
        return server

    async def show(self) -> None:
        """Let notebooks find it: their kernels are forked from it too, unless it sees less than their users do."""
        if self._sign is not None:
            with suppress(OSError):  # they start then as they would without it
                await asyncio.to_thread(write_atomically, self._sign, str(self.address))

    async def hide(self) -> None:
        """Let nobody new find it."""
        if self._sign is not None:
            with suppress(OSError):
                await asyncio.to_thread(self._sign.unlink)

    @property
    def pid(self) -> int:
        """Its process, or the sandbox around it."""
        return self._process.pid

    async def refresh(self) -> Mapping[str, str]:
        """Have it import the newest functions: why some are left to each kernel, by name. Raises OSError, EOFError."""
        line = Line(str(self.address))
        try:
            answer = await line.ask({"do": "refresh"})
            self.memory = int(answer["memory"])
            found: dict[str, str] = answer["late"]
            return found
        finally:
            line.close()

    async def ended(self) -> str:
        """Wait for its end; its last words."""
        await self._process.wait()
        self._process._transport.close()  # type: ignore[attr-defined]  # nothing public lets go of it
        if self._group is not None:
            await on_disk(self._group.remove)
        return await on_disk(_last_words, self._said, self.address)

    async def retire(self) -> None:
        """Let it end with the last of the service's kernels."""
        await self.hide()
        with suppress(OSError, EOFError):
            line = Line(str(self.address))
            try:
                await line.ask({"do": "retire"})
            finally:
                line.close()

    async def stop(self) -> None:
        """End it at once, and the service's kernels with it."""
        await self.hide()
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


class Forks:
    """Keeps a warm parent of the generation that serves. `close` ends it, and every kernel that it forks.

    Who asks for a kernel never waits for a parent: while there is none, kernels are started one by one.
    """

    def __init__(
        self, launch: Callable[[], Launch], *, wanted: bool = True, has_more: bool = False, unforkable: str = ""
    ) -> None:
        self._launch = launch
        self._has_more = has_more  # the network, where others have none
        self._wanted = wanted and can_fork() and not unforkable
        self._server: tuple[int, ForkServer] | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._retired: dict[asyncio.Task[str], ForkServer] = {}
        self._networked: Forks | None = None  # for kernels that have the network where others have none
        self.reason = unforkable if can_fork() else "kernels can't be forked on this system"
        self.reason = self.reason if wanted else "switched off"
        self.late: Mapping[str, str] = {}

    async def close(self) -> None:
        """End the parents, and every kernel of the service that they forked."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for ended, server in list(self._retired.items()):
            await server.stop()
            await ended
        if self._networked is not None:
            await self._networked.close()

    def notice(self) -> None:
        """Another generation or snapshot serves."""
        self._changed.set()
        if self._networked is not None:
            self._networked.notice()
        if self._wanted and self._task is None:
            self._task = asyncio.create_task(self._keep())

    @property
    def ready(self) -> bool:
        """Whether kernels are forked now."""
        return self._server is not None

    @property
    def state(self) -> str:
        """ready, or why kernels are started one by one."""
        return "ready" if self.ready else self.reason or "starting"

    @property
    def pid(self) -> int | None:
        """The parent's process."""
        return self._server[1].pid if self._server else None

    def through(self, launch: Launch) -> Launch:
        """The same launch, forked where that can be."""
        if launch.cage.has_more and not self._has_more:
            return self._with_network().through(launch)
        if self._server is None or self._server[0] != launch.generation:
            return launch
        return replace(launch, env={**launch.env, SOCKET: str(self._server[1].address)})

    def _with_network(self) -> Forks:
        """Those that have the network: there are none until one is asked for."""
        if self._networked is None:
            self._networked = Forks(lambda: networked(self._launch()), wanted=self._wanted, has_more=True)
            self._networked.notice()
        return self._networked

    async def _keep(self) -> None:
        """One parent after another, with a growing pause when they do not last."""
        failures = 0
        while True:
            launch, began = self._launch(), asyncio.get_running_loop().time()
            self.reason = await self._serve(launch)
            if not self.reason:
                continue
            failures = 1 if asyncio.get_running_loop().time() - began > LASTING else failures + 1
            log.warning("forkserver.lost", generation=launch.generation, reason=self.reason)
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(MAX_PAUSE, 2.0**failures - 2)):
                    await self._changed.wait()

    async def _serve(self, launch: Launch) -> str:
        """Start a parent and keep it up to date until another is needed; what was wrong with it, if anything."""
        try:
            server = await ForkServer.start(launch)
        except OSError as error:
            return f"it could not be started: {error}"
        ended = asyncio.create_task(server.ended())
        reason = "the service ends"
        try:
            reason = await self._attend(launch.generation, server, ended)
        finally:
            self._server = None
            self._retired[ended] = server
            ended.add_done_callback(self._retired.pop)
            if reason:
                await server.stop()
            else:
                await server.retire()
        return reason

    async def _attend(self, generation: int, server: ForkServer, ended: asyncio.Task[str]) -> str:
        size = 0
        while True:
            self._changed.clear()
            if reason := await self._update(generation, server, ended):
                return reason
            size = size or server.memory
            if server.memory > size * 2 + GROWTH:
                return ""
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait([changed, ended], timeout=PING, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if self._launch().generation != generation:
                return ""

    async def _update(self, generation: int, server: ForkServer, ended: asyncio.Task[str]) -> str:
        """Have it look at the functions. One that takes long is passed over; one that takes too long is lost."""
        asked = asyncio.create_task(server.refresh())
        try:
            for seconds in (FORK_TIMEOUT, HANGS) if self._server else (STARTS,):
                await asyncio.wait([asked, ended], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if asked.done() or ended.done():
                    break
                self._server = None
            if not asked.done() or asked.exception():
                await asyncio.wait([ended], timeout=ENDS)
                return f"it ended: {ended.result() or 'no words'}" if ended.done() else "it does not answer"
        finally:
            asked.cancel()
        self._tell(asked.result())
        if self._server is None:
            self._server = generation, server
            await server.show()
        return ""

    def _tell(self, late: Mapping[str, str]) -> None:
        for name in late.keys() - self.late.keys():
            log.warning("forkserver.imported_after_fork", function=name, because=late[name])
        self.late = late


def networked(launch: Launch) -> Launch:
    """The same launch with the network."""
    return replace(launch, cage=replace(launch.cage, network=True))


def command(launch: Launch) -> tuple[list[str], dict[str, str]]:
    """How a generation's parent is started: as its kernels are, but with no connection file. Raises OSError."""
    spec = json.loads((launch.kernelspecs / launch.name / "kernel.json").read_text(encoding="utf-8"))
    sockets(launch.runtime).mkdir(mode=0o700, exist_ok=True)
    return [*spec["argv"][:2], "--warm"], {**launch.env, **spec["env"], **launch.cage.nesting().rules()}


def _last_words(said: Path, address: Path) -> str:
    """What it said last; its files go with it."""
    words = clean(read_end(said, 2000).decode(errors="replace")).strip()
    for path in (said, address):
        path.unlink(missing_ok=True)
    return words


def can_fork() -> bool:
    """Whether this system has what the parent needs; elsewhere kernels are started one by one."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")
