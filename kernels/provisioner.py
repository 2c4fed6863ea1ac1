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
            data = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
            if not data:
                raise EOFError("the parent has ended")
            self._data += data
        return self._take()

    def peek(self) -> Any:
        """The next answer if it has come, else None. Raises OSError, EOFError as `read`."""
        with suppress(BlockingIOError):
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("the parent has ended")
            self._data += data
        return self._take() if b"\n" in self._data else None

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
    # After `wait`: whether the system killed it for the memory that it used. Nobody here knows of any.
    out_of_memory = False

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """As LocalProvisioner does."""
        env = dict(kwargs.pop("env"))
        self.home = env["HOME"]
        address = env.pop(SOCKET, None)
        fork = await self._fork(address, cmd, env, kwargs) if address else None
        if fork is None:
            return await super().launch_kernel(cmd, env=env, **kwargs)
        self.process: Any = fork
        self.pid = self.pgid = fork.pid
        return self.connection_info

    async def wait(self) -> int | None:
        """The exit code, once the process has ended, and what it left running too."""
        if not isinstance(self.process, Fork):
            code = await super().wait()
            await asyncio.to_thread(kill_all_of, self.home)
            return code
        ended = await self.process.ended()
        self.process = None
        return ended

    async def _fork(self, address: str, cmd: list[str], env: dict[str, str], kwargs: dict[str, Any]) -> Fork | None:
        request = {"do": "fork", "argv": cmd[2:], "env": env, "cwd": str(kwargs["cwd"]), "owned": True}
        try:
            line = Line(address)
        except OSError as error:
            log.warning("forkserver.unreachable", error=str(error))
            return None
        try:
            async with asyncio.timeout(FORK_TIMEOUT):
                answer = await line.ask(request, (kwargs["stdout"], kwargs["stderr"]))
            return Fork(line, answer["pid"])
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
