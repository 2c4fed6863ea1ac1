"""How a child process is confined: what it sees of our environment, how long it may run, how it ends."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernels.cgroups import Group
from kernels.confinement import Cage, exit_code
from kernels.home import on_disk

# Seconds for what is still in the pipes of a child that has ended.
DRAIN = 2.0
_PR_SET_DUMPABLE = 4  # as linux/prctl.h has it


@dataclass(frozen=True, slots=True)
class Finished:
    """How a child ended. returncode is negative for a signal; timed_out says that we killed it."""

    returncode: int
    stdout: bytes
    stderr: str
    timed_out: bool


def kernel_environment(python: Path, workdir: Path, passed: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a kernel: nothing of the service's own leaks into it.

    `passed` is what the operator chose to hand through. Functions' variables come from the snapshot.
    """
    return {
        "PATH": f"{python.parent}{os.pathsep}{os.defpath}",
        "LANG": "C.UTF-8",
        **passed,
        "HOME": str(workdir),
        "IPYTHONDIR": str(workdir / ".ipython"),
        "MPLCONFIGDIR": str(workdir / ".config" / "matplotlib"),
        "VIRTUAL_ENV": str(python.parent.parent),
    }


@dataclass(frozen=True)
class Child:
    """A process of ours that reads what it is asked from stdin. Made by `start`, ended by `finish` or `stop`."""

    process: asyncio.subprocess.Process
    stdout: bytearray
    stderr: bytearray
    collecting: asyncio.Future[tuple[None, None]]
    cage: Cage = field(default_factory=Cage)
    group: Group | None = None

    @classmethod
    async def start(
        cls,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        on_line: Callable[[str], None] | None = None,
        limit: int = 4 * 1024 * 1024,
        cage: Cage | None = None,
    ) -> Child:
        """Start it, in a process group of its own. `on_line` hears each line of stderr as it comes.

        At most `limit` bytes of each stream are kept. cage: what it is confined to.
        """
        cage = cage or Cage()
        async with cage.entered(argv) as entered:
            process = await asyncio.create_subprocess_exec(
                *entered.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**env, **cage.rules()},
                cwd=cwd,
                start_new_session=True,
                pass_fds=entered.pass_fds,
            )
            stdout, stderr = bytearray(), bytearray()
            out, err = _collect(process.stdout, stdout, limit), _collect(process.stderr, stderr, limit, on_line)
            child = cls(process, stdout, stderr, asyncio.gather(out, err), cage, cage.group())
            try:
                await entered.admit(child.group)
            except BaseException:
                await child.stop()
                raise
        return child

    async def finish(self, stdin: bytes, timeout: float) -> Finished:
        """Ask, and wait for the end; after `timeout` seconds, kill its whole process group."""
        feeding = asyncio.create_task(_feed(self.process, stdin))
        timed_out = False
        try:
            async with asyncio.timeout(timeout):
                await self.process.wait()
        except TimeoutError:
            timed_out = True
        finally:
            drained = await self._end(feeding)
        for stream in drained:
            stream.result()
        stderr = self.stderr.decode(errors="replace")
        code = exit_code(self.process.returncode or 0, self.cage)
        return Finished(code, bytes(self.stdout), stderr, timed_out)

    async def stop(self) -> None:
        """End it unasked. Does nothing once it has finished: its id may be another's by then."""
        if not self.process._transport.is_closing():  # type: ignore[attr-defined]
            await self._end()

    async def _end(self, *tasks: asyncio.Task[None]) -> set[asyncio.Future[Any]]:
        kill_group(self.process.pid)
        await self.process.wait()
        if self.group is not None:
            await on_disk(self.group.remove)
        # A descendant that left the group may hold a pipe open for ever: do not wait for it.
        waited: list[asyncio.Future[Any]] = [self.collecting, *tasks]
        drained, _ = await asyncio.wait(waited, timeout=DRAIN)
        for one in waited:
            one.cancel()
        await asyncio.gather(*waited, return_exceptions=True)
        self.process._transport.close()  # type: ignore[attr-defined]  # nothing public lets go of the pipes
        return drained


async def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    timeout: float,
    stdin: bytes = b"",
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    limit: int = 4 * 1024 * 1024,
    cage: Cage | None = None,
) -> Finished:
    """Run a child to its end or to `timeout` seconds; see `Child`."""
    child = await Child.start(argv, env=env, cwd=cwd, on_line=on_line, limit=limit, cage=cage)
    return await child.finish(stdin, timeout)


def hide_memory() -> None:
    """Let no other process of this user read our environment and memory, unless it may trace all processes.

    On Linux only; root may trace all, where nobody has taken that from it. Children that run another program are as
    readable as ever.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def kill_group(pid: int) -> None:
    """SIGKILL the process group that `pid` leads, if there still is one."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


async def _feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    assert process.stdin is not None
    # RuntimeError is uvloop's word for the pipe of a child that has ended.
    with suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
        process.stdin.write(data)
        await process.stdin.drain()
        process.stdin.close()


async def _collect(
    stream: asyncio.StreamReader | None,
    kept: bytearray,
    limit: int,
    on_line: Callable[[str], None] | None = None,
) -> None:
    assert stream is not None
    partial = b""
    while chunk := await stream.read(65536):
        kept += chunk[: max(0, limit - len(kept))]
        if on_line is not None:
            *lines, partial = (partial + chunk).split(b"\n")
            for line in lines:
                on_line(line.decode(errors="replace").strip())


async def process_end(pid: int) -> None:
    """Wait until a child has ended, without reaping it."""
    if not hasattr(os, "pidfd_open"):
        await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    descriptor = os.pidfd_open(pid)
    loop.add_reader(descriptor, _end, ended)
    try:
        await ended
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
