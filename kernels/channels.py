"""The sockets of one kernel: requests are signed and sent, and what it says is read, checked and handed on.

Plain sockets, watched by the event loop: a future for each part of each message would cost more than the message.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, NamedTuple

import structlog
import zmq
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_client.session import DELIM
from pydantic_core import from_json, to_json

log = structlog.get_logger(__name__)

# Larger messages are not decoded.
MAX_MESSAGE = 32 * 1024 * 1024
# How many messages are read, and from what size on none after it, before everybody else has a turn.
TURN = 8
LARGE = 64 * 1024
# How many messages may wait here to be read. More wait in the kernel, which then waits too.
WAITING = 4
# As plain ints: arithmetic with flags makes objects.
NOBLOCK, SNDMORE, EVENTS, POLLIN = int(zmq.NOBLOCK), int(zmq.SNDMORE), int(zmq.EVENTS), int(zmq.POLLIN)
# Seconds for which the iopub channel is left alone after a request. Most are answered by then, and all that a kernel
# has said is read at once: each time that it has to wake us costs more than what it says.
QUIET = 0.002
# Milliseconds until the next try to reach a kernel that has not made its sockets yet.
RETRY = 2

# Process, user and group at the other end of a unix socket.
_CREDENTIALS = struct.Struct("3i")

Channel = Literal["shell", "iopub"]
# What decoding bytes that a hostile kernel wrote can raise.
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)


class Message(NamedTuple):
    """What a kernel said. parent is the id of the request that it answers; size is in bytes of the content.

    whole: small enough to be read, and its signature is right; of another one the content is not to be asked for.
    A tuple: frozen dataclasses take four times as long to make.
    """

    channel: Channel
    kind: str
    parent: str | None
    whole: bool
    size: int
    packed_metadata: bytes
    packed_content: bytes

    def content(self) -> dict[str, Any]:
        """Its content. Raises ValueError, RecursionError."""
        return _decoded(self.packed_content)

    def metadata(self) -> dict[str, Any]:
        """What is said beside the content. Raises as `content`."""
        return _decoded(self.packed_metadata)


class Manager(AsyncKernelManager):
    """A manager that removes no file by its path, where a kernel could have put a link. `Workplace` removes them."""

    def cleanup_connection_file(self) -> None:
        """Remove nothing."""

    def cleanup_ipc_files(self) -> None:
        """Remove nothing."""

    async def kernel_process(self) -> int | None:
        """Return the process of the kernel itself, None where only its sandbox is known."""
        provisioner: Any = self.provisioner
        try:
            found: int = await provisioner.kernel_process()
        except (AttributeError, OSError, IndexError):  # not a provisioner of ours; the kernel has ended
            return None
        return found


class Channels:
    """The shell and iopub channels of the kernel that a manager has started.

    hear is called with each message, in order of arrival, from the event loop. What it raises for a message that makes
    no sense is logged, and the message passed over.
    """

    def __init__(self, manager: KernelManager, context: zmq.Context[Any], hear: Callable[[Message], None]) -> None:
        self._session = manager.session
        self._hear = hear
        session = manager.session
        self._header = {"username": session.username, "session": session.session, "version": "5.3"}
        self._shell = _connect(context, zmq.DEALER, f"ipc://{manager.ip}-{manager.shell_port}")
        self._iopub = _connect(context, zmq.SUB, f"ipc://{manager.ip}-{manager.iopub_port}")
        self._peers: dict[Channel, int] = {}
        self._replies = _Reader(self._shell, partial(self._take, "shell"))
        self._published = _Reader(self._iopub, partial(self._take, "iopub"))

    def ask(self, kind: str, identity: str, content: Mapping[str, Any], *, quiet: bool = False) -> None:
        """Send a request under this id. Does not wait: what a kernel has not taken yet is kept.

        quiet: what is published before the reply may be heard up to two milliseconds late.
        """
        header = {"msg_id": identity, "msg_type": kind, "date": datetime.now(UTC).isoformat(), **self._header}
        parts = [self._packed(header), b"{}", b"{}", self._packed(dict(content))]
        send = super(zmq.Socket, self._shell).send
        for part in (DELIM, self._session.sign(parts), *parts[:3]):
            send(part, NOBLOCK | SNDMORE)
        send(parts[3], NOBLOCK)
        # The descriptor tells of each change once, and sending may have taken notice of one for us.
        self._replies.look()
        if quiet:
            self._published.rest()

    async def strange(self, manager: Manager) -> str | None:
        """Return what is wrong if others than the kernel answer: it can put a link in the place of a socket."""
        own, peers = await manager.kernel_process(), set(self._peers.values()) - {0}
        return "is not what answers at its sockets" if own is not None and peers - {own} else None

    def close(self) -> None:
        """Hear nothing more. Safe to repeat."""
        self._replies.close()
        self._published.close()

    def _take(self, channel: Channel, frames: list[zmq.Frame]) -> None:
        if channel == "shell":
            self._published.wake()
        if channel not in self._peers:
            self._peers[channel] = _peer(frames[0])
        try:
            self._hear(self._message(channel, frames))
        except _MALFORMED as error:
            log.warning("kernel.malformed_message", channel=channel, error=repr(error)[:200])

    def _packed(self, value: dict[str, Any]) -> bytes:
        try:
            return to_json(value)
        except ValueError:  # what is no valid Unicode
            packed: bytes = self._session.pack(value)
            return packed

    def _message(self, channel: Channel, frames: list[zmq.Frame]) -> Message:
        start = 0
        while frames[start].bytes != DELIM:
            start += 1
        signature, *rest = frames[start + 1 : start + 6]
        size = len(rest[3])
        whole = size <= MAX_MESSAGE
        parts = [part.bytes for part in (rest if whole else rest[:3])]
        # As session.deserialize does, but without looking for dates in each text: a quarter of its time.
        if whole and not hmac.compare_digest(self._session.sign(parts), signature.bytes):
            raise ValueError("the signature is wrong")
        kind, answers = _decoded(parts[0])["msg_type"], _decoded(parts[1]).get("msg_id")
        return Message(channel, kind, answers, whole, size, parts[2], parts[3] if whole else b"")


class _Reader:
    """Hands on what a socket receives, a few messages a turn.

    Its descriptor wants everything to be read before it tells of more.
    """

    def __init__(self, socket: zmq.Socket[bytes], take: Callable[[list[zmq.Frame]], None]) -> None:
        self._socket = socket
        # The methods in C, which for so short a work take half the time.
        self._receive: Callable[..., Any] = super(zmq.Socket, socket).recv
        self._get: Callable[..., Any] = super(zmq.Socket, socket).get
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._descriptor = socket.FD
        self._scheduled = False
        self._resting: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._descriptor, self._readable)
        self.look()

    def rest(self) -> None:
        """Read nothing for a moment, or until `wake`."""
        if self._resting is None:
            self._loop.remove_reader(self._descriptor)
            self._resting = self._loop.call_later(QUIET, self.wake)

    def wake(self) -> None:
        """Read what has come meanwhile."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
            self._loop.add_reader(self._descriptor, self._readable)
            self.look()

    def look(self) -> None:
        """See whether something has come that the descriptor does not tell of, to be read at the next turn."""
        if not self._scheduled and self._get(EVENTS) & POLLIN:
            self._later()

    def close(self) -> None:
        """Hear nothing more. Safe to repeat."""
        if not self._socket.closed:
            if self._resting is not None:
                self._resting.cancel()
                self._resting = None
            self._loop.remove_reader(self._descriptor)
            self._socket.close(linger=0)

    def _later(self) -> None:
        self._scheduled = True
        self._loop.call_soon(self._read)

    def _readable(self) -> None:
        if not self._scheduled:
            self._read()

    def _read(self) -> None:
        self._scheduled = False
        for _ in range(TURN):
            if self._socket.closed or not self._get(EVENTS) & POLLIN:  # an exception would take three times as long
                return
            frames = [self._receive(NOBLOCK, False)]
            while frames[-1].more:  # half the time of recv_multipart, which asks the socket
                frames.append(self._receive(NOBLOCK, False))
            self._take(frames)
            if len(frames[-1]) > LARGE:
                break
        self._later()


def _connect(context: zmq.Context[Any], kind: int, address: str) -> zmq.Socket[bytes]:
    made: zmq.Socket[bytes] = context.socket(kind, socket_class=zmq.Socket)
    made.linger = 0
    made.reconnect_ivl = RETRY
    made.sndhwm = 0
    made.rcvhwm = WAITING
    if kind == zmq.SUB:
        made.subscribe(b"")
    made.connect(address)
    return made


def _peer(frame: zmq.Frame) -> int:
    """Return the process that listens where a message came from; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    try:
        with socket.socket(fileno=os.dup(int(frame.get(zmq.SRCFD)))) as connection:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:  # the connection is closed again
        return 0
    return int(_CREDENTIALS.unpack(credentials)[0])


def _decoded(data: bytes) -> dict[str, Any]:
    found: dict[str, Any]
    try:
        found = from_json(data)
    except ValueError:  # lone surrogates, other encodings: json takes more, in five times the time
        found = json.loads(str(data, "utf-8", "replace"))
    return found
