"""The kernel provisioner that forks kernels from a warm parent, and the connection that it asks for them on.

`kernels/inside/warm.py` is the parent's own program, and says what goes over the connection.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from kernels.cgroups import Group
from kernels.confinement import Cage, exit_code
from kernels.home import on_disk

log = structlog.get_logger(__name__)

# In a kernel's environment: the socket of the parent that it may be forked from. It does not see it.
SOCKET = "AIGBB_FORK_SERVER"
# A parent that imports something may take its time. Who waits longer starts a kernel of his own.
FORK_TIMEOUT = 2.0


class Line:
    """A connection to a parent: one request, then what it answers, line by line."""

    def __init__(self, address: str) -> None:
        """Connect. Raises OSError where nobody listens."""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)
        self._data = b""
        self._process = -1  # an open file that stands for the kernel's process
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise

    async def ask(self, request: Mapping[str, Any], descriptors: tuple[int, ...] = ()) -> Any:
        """Send the request with open files for the kernel; its first answer. Raises OSError, EOFError."""
        data = json.dumps(request).encode() + b"\n"
        if descriptors:
            sent = socket.send_fds(self.socket, [data], descriptors)
            data = data[sent:]
        await asyncio.get_running_loop().sock_sendall(self.socket, data)
        return await self.read()

    async def read(self) -> Any:
        """The next answer. Raises OSError, EOFError once the parent is gone."""
        while b"\n" not in self._data:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.socket, 65536, 1)
            except BlockingIOError:
                await self._wait()
                continue
            self._process = next(iter(descriptors), self._process)
            if not data:
                raise EOFError("the parent has ended")
            self._data += data
        return self._take()

    async def process(self) -> int:
        """The number that the kernel's process has here: in its sandbox it has another. Raises OSError, EOFError."""
        try:
            return await asyncio.to_thread(_number_of, self._process)
        finally:
            self._forget_process()

    def peek(self) -> Any:
        """The next answer if it has come, else None. Raises OSError, EOFError as `read`."""
        with suppress(BlockingIOError):
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("the parent has ended")
            self._data += data
        return self._take() if b"\n" in self._data else None

    async def _wait(self) -> None:
        """Until there is something to read."""
        loop = asyncio.get_running_loop()
        come: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self.socket.fileno(), _resolve, come)
        try:
            await come
        finally:
            loop.remove_reader(self.socket.fileno())

    def _forget_process(self) -> None:
        if self._process >= 0:
            os.close(self._process)
            self._process = -1

    def _take(self) -> Any:
        line, _, self._data = self._data.partition(b"\n")
        return json.loads(line)

    async def end(self) -> None:
        """Give the connection up, and wait until the parent has killed a kernel that runs on it."""
        try:
            async with asyncio.timeout(FORK_TIMEOUT):
                self.socket.shutdown(socket.SHUT_WR)
                while await asyncio.get_running_loop().sock_recv(self.socket, 65536):
                    pass
        except (OSError, TimeoutError):  # the parent is gone, or busy, and will see it before it forks
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Give the connection up: a kernel that runs on it is killed, and its id may be another's."""
        self._forget_process()
        self.socket.close()


class Fork:
    """A forked kernel's process, with the part of `subprocess.Popen` that a provisioner needs."""

    stdin = stdout = stderr = None

    def __init__(self, line: Line, pid: int) -> None:
        self.line = line
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """How it ended, or None while it runs."""
        if self.returncode is None:
            try:
                self._end(self.line.peek())
            except (OSError, EOFError):
                self._end({"exit": -signal.SIGKILL})  # the parent is gone, and its kernels with it
        return self.returncode

    async def ended(self) -> int:
        """Wait for the end: the exit code, negative for a signal."""
        while self.returncode is None:
            try:
                self._end(await self.line.read())
            except (OSError, EOFError):
                self._end({"exit": -signal.SIGKILL})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """As `poll`: whoever calls this knows that it has ended."""
        return self.poll()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def _end(self, told: Any) -> None:
        if told is not None:
            self.returncode = int(told["exit"])
            self.line.close()


class ForkProvisioner(LocalProvisioner):
    """Forks a kernel from the warm parent that its environment names, or starts it as any other where none answers."""

    home = ""  # the kernel's own folder
    cage = Cage()
    group: Group | None = None
    # After `wait`: whether the system killed it, or what it started, because its group had no memory left.
    out_of_memory = False

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """As LocalProvisioner does."""
        env = dict(kwargs.pop("env"))
        self.home = env["HOME"]
        address, cage = env.pop(SOCKET, None), kwargs.pop("cage", self.cage)
        fork = await self._fork(address, cmd, env, kwargs) if address else None
        if fork is None:
            self.cage, self.group = cage, cage.group()
            async with cage.entered(cmd) as entered:
                info = await super().launch_kernel(entered.argv, env=env, pass_fds=entered.pass_fds, **kwargs)
                await entered.admit(self.group)
            return info
        self.process: Any = fork
        self.pid = self.pgid = fork.pid
        self.group = cage.group()
        if self.group is not None:
            await on_disk(self.group.add, fork.pid)
        return self.connection_info

    async def wait(self) -> int | None:
        """The exit code, once the process has ended, and what it left running too."""
        if not isinstance(self.process, Fork):
            ended = await super().wait()
            code = None if ended is None else exit_code(ended, self.cage)
            if not self.cage.wraps:  # else it has ended with its sandbox
                await asyncio.to_thread(kill_all_of, self.home)
        else:
            code = await self.process.ended()
            self.process = None
        await self._leave_group()
        return code

    async def cleanup(self, restart: bool = False) -> None:
        """As LocalProvisioner does; also for one that came to nothing."""
        await super().cleanup(restart)
        await self._leave_group()

    async def _leave_group(self) -> None:
        """End what the kernel has left running, and see what it ended by."""
        if (group := self.group) is not None:
            self.group = None
            self.out_of_memory = await on_disk(group.oom_killed)
            await on_disk(group.remove)

    async def kernel_process(self) -> int:
        """Return the number that the kernel itself has here, within its sandbox. Raises OSError, IndexError."""
        if self.cage.wraps and not isinstance(self.process, Fork):
            return await asyncio.to_thread(_inmost, self.process.pid)
        return int(self.process.pid)

    async def send_signal(self, signum: int) -> None:
        """To the kernel's group. An interrupt goes past bubblewrap, which would end, and the kernel with it."""
        if signum == signal.SIGINT and self.cage.wraps and self.process is not None:
            with suppress(OSError, IndexError):  # it is ending
                os.killpg(await asyncio.to_thread(_inmost, self.process.pid), signum)
            return
        await super().send_signal(signum)

    async def _fork(self, address: str, cmd: list[str], env: dict[str, str], kwargs: dict[str, Any]) -> Fork | None:
        request = {"do": "fork", "argv": cmd[2:], "env": env, "cwd": str(kwargs["cwd"]), "owned": True}
        try:
            line = Line(address)
        except OSError as error:
            log.warning("forkserver.unreachable", error=str(error))
            return None
        try:
            async with asyncio.timeout(FORK_TIMEOUT):
                await line.ask(request, (kwargs["stdout"], kwargs["stderr"]))
                return Fork(line, await line.process())
        except (OSError, EOFError, ValueError, LookupError, TimeoutError) as error:
            log.warning("forkserver.no_fork", error=repr(error))
        except asyncio.CancelledError:
            await line.end()
            raise
        line.close()
        return None


def kill_all_of(home: str) -> None:
    """SIGKILL what a kernel has left running that no warm parent knows of: what still has its folder as HOME."""
    marker = f"HOME={home}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is not ours
            if marker in environ.read_bytes().split(b"\0"):
                os.kill(int(environ.parent.name), signal.SIGKILL)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _number_of(descriptor: int) -> int:
    """What the process behind a pidfd is called in our namespace. Raises OSError, EOFError."""
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
        if line.startswith("Pid:") and (number := int(line.split()[1])) > 0:
            return number
    raise EOFError("the kernel has ended")


def _inmost(pid: int) -> int:
    """The program that bubblewrap runs, by the number of the outer one of its two processes."""
    for _ in range(2):
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return pid
