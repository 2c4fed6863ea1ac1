"""What a kernel publishes: its IOPub socket, and its stdout and stderr."""

# ipykernel is largely untyped.
# mypy: disable-error-code="no-untyped-call"

import os
import select
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from itertools import repeat
from operator import length_hint
from typing import Any

import zmq
from ipykernel.iostream import PIPE_BUFFER_SIZE, IOPubThread, OutStream
from zmq.eventloop.zmqstream import ZMQStream

# How many messages may wait for a subscriber before the kernel waits for it too.
MAX_WAITING = 64
# How long that lasts, in milliseconds, until a subscriber that reads nothing loses messages instead.
PATIENCE = 60_000
# How long one try to send takes. While a subscriber has stalled, each message has just one: nobody can say who it is,
# and the others need time to read. An interrupt is noticed between two.
TRY = 10
# Characters in one message of a stream, and gathered for the next one.
MAX_TEXT = 1 << 16
# How many reads empty a full pipe.
PIPE_READS = (1 << 16) // PIPE_BUFFER_SIZE + 1
# From this many bytes on, frames are sent without being copied.
LARGE = 1 << 16
# As plain ints: arithmetic with flags makes objects.
READABLE, MORE, NOBLOCK, EVENTS = int(zmq.POLLIN), int(zmq.SNDMORE), int(zmq.NOBLOCK), int(zmq.EVENTS)


def transmit(socket: Any, frames: list[Any]) -> None:
    """Hand all frames of a message to zmq, or none. Raises zmq.ZMQError.

    zmq runs the handlers of signals, also between two frames. What one of them raises breaks this message, but no more.
    """
    copy = max(map(len, frames)) < LARGE
    send = super(zmq.Socket, socket).send  # the method in C
    left = iter(frames)
    try:
        deque(map(send, left, [MORE] * (len(frames) - 1) + [0], repeat(copy)), 0)
    except zmq.ZMQError:
        raise  # the first frame is the only one that may be refused
    except BaseException:
        if length_hint(left) < len(frames):
            with suppress(zmq.ZMQError):
                send(b"", NOBLOCK)  # or the next message would be taken for the rest of this one
        raise


class Shield:
    """While it is held, an interrupt waits, and a message is sent whole. For the thread that made it, the main one."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.lower()

    def lower(self) -> None:
        """Hold it no more, and forget what came meanwhile."""
        self.depth = 0
        self.interrupted = False

    def __enter__(self) -> None:
        if threading.get_ident() == self.thread:
            self.depth += 1

    def __exit__(self, *_: object) -> None:
        if threading.get_ident() == self.thread:
            self.depth -= 1
            if self.interrupted and not self.depth:
                self.interrupted = False
                raise KeyboardInterrupt

    def on_interrupt(self, *_: object) -> None:
        """The handler of SIGINT. Raises KeyboardInterrupt, as Python's own does, now or when it is held no more."""
        if not self.depth or threading.get_ident() != self.thread:
            raise KeyboardInterrupt
        self.interrupted = True


class ReplyStream(ZMQStream):
    """pyzmq's own, but a reply is sent at once, not queued for the loop: saves 0.05 ms."""

    def __init__(self, socket: Any, io_loop: Any, shield: Shield) -> None:
        super().__init__(socket, io_loop)
        self.shield = shield

    def send_multipart(self, msg: Any, *args: Any, **options: Any) -> None:
        """Send now. For the thread of the loop only."""
        if self.sending():
            super().send_multipart(msg, *args, **options)
            return
        with self.shield:
            transmit(self.socket, msg)
        self._update_handler(READABLE)  # sending may have taken the sign that a request has come


class Publisher(IOPubThread):
    """ipykernel's own, but whoever publishes sends at once, under a lock: saves 0.2 ms of changing threads.

    Its thread is left with timers, new subscribers, and what forked children print. With `lossless`, the kernel
    waits for subscribers that are slow; otherwise, as in ipykernel, they lose what they are too slow for.
    """

    def __init__(self, socket: Any, session: Any, lossless: bool) -> None:
        self.lock = threading.RLock()
        self.sender = 0  # the thread that is sending
        self.shield = Shield()
        self.stalled = False
        if lossless:
            socket.xpub_nodrop = True
            socket.sndtimeo = TRY
        super().__init__(socket, pipe=True, session=session)
        os.register_at_fork(after_in_child=self.forget_lock)

    def forget_lock(self) -> None:
        """In a forked child, whoever held the lock is not there."""
        self.lock = threading.RLock()
        self.sender = 0

    def send_multipart(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Send now. What a forked child sends, and what a finaliser sends while its thread does, goes the usual way."""
        if os.getpid() != self._master_pid:
            self._really_send(msg, *args, **kwargs)
        elif self.sender == threading.get_ident():
            super().send_multipart(msg, *args, **kwargs)
        else:
            self.publish(msg)

    def publish(self, frames: list[Any]) -> None:
        """Send one message, and welcome the subscribers that have come meanwhile."""
        with self.lock:
            self.sender = threading.get_ident()
            try:
                with self.shield:
                    self.send_frames(frames)
                    if self.socket.get(EVENTS) & READABLE:  # sending may have taken the sign that the thread waits for
                        self.welcome()
            except (AttributeError, zmq.ZMQError) as error:
                if isinstance(error, zmq.ZMQError) and error.errno not in (zmq.ENOTSOCK, zmq.ETERM):
                    raise  # otherwise the kernel is ending
            finally:
                self.sender = 0

    def send_frames(self, frames: list[Any]) -> None:
        """Send all frames, or none. A subscriber that has stalled loses this message and those until it reads."""
        for _ in range(1 if self.stalled else PATIENCE // TRY):
            try:
                transmit(self.socket, frames)
            except zmq.Again:
                if self.shield.interrupted:
                    return
            else:
                self.stalled = False
                return
        self.stalled = True
        self.socket.xpub_nodrop = False
        try:
            transmit(self.socket, frames)
        finally:
            self.socket.xpub_nodrop = True

    def welcome(self) -> None:
        """Tell new subscribers that they will hear what comes now."""
        while self.socket.get(EVENTS) & READABLE:
            self._handle_subscription(self.socket.recv_multipart(zmq.NOBLOCK))

    def on_subscription(self, *_: Any) -> None:
        """In the thread: a subscriber came or went."""
        with self.lock:
            if not self.closed and not self.socket.closed:
                self.welcome()

    def _setup_xpub_listener(self) -> None:
        self.io_loop.add_handler(self.socket, self.on_subscription, self.io_loop.READ)


class Stream(OutStream):
    """ipykernel's own, but it sends at once and in its own thread, which is a third of a small request's time.

    What is written is gathered for each request without a hash of its header, a third of the time of a print.
    """

    flush_interval = 0.01  # the first byte is seen twenty times sooner

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.send_lock = threading.RLock()
        self.pipe_lock = threading.RLock()
        self.timed = False
        self.length = 0
        super().__init__(*args, **kwargs)
        self._buffers: Any = {}  # by the identity of a request's header: the header, and what was written for it
        os.register_at_fork(after_in_child=self.forget_parent)

    def forget_parent(self) -> None:
        """In a forked child: what the parent wrote is the parent's to send, and its threads hold no locks here."""
        self.send_lock, self.pipe_lock, self._buffer_lock = threading.RLock(), threading.RLock(), threading.RLock()
        self._buffers = {}

    def write(self, string: str) -> int:
        """Take text, to be sent soon. Where much has been gathered, it is sent first."""
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string)}")
        if self.pub_thread is None:
            raise ValueError("I/O operation on closed file")
        if self.echo is not None:
            self.echo.write(string)
        parent = self.parent_header
        with self._buffer_lock:
            kept = self._buffers.get(id(parent)) or self._buffers.setdefault(id(parent), (parent, StringIO()))
            kept[1].write(string)
            self.length += len(string)
        if self.length > MAX_TEXT or os.getpid() != self._master_pid:
            self.send_written()
        elif not self.timed:
            self.timed = True
            self.pub_thread.schedule(self.start_timer)
        return len(string)

    def flush(self) -> None:
        """Send what was written. When it returns, nothing of it is still to be sent, by no thread."""
        if self._should_watch and os.getpid() == self._master_pid:
            for _ in range(PIPE_READS):  # a child may write for ever
                if not self.take_from_pipe():
                    break
        self.send_written()

    def send_written(self) -> None:
        """Send what has been gathered."""
        with self.send_lock:
            if self._buffers or self.echo is not None:
                self._flush()

    def take_from_pipe(self) -> bytes | None:
        """Take what was written to the descriptor itself, also by child processes. None where nothing was."""
        pipe: Any = self._fid
        with self.pipe_lock:
            if not select.select([pipe], [], [], 0)[0]:
                return None
            data = os.read(pipe, PIPE_BUFFER_SIZE)
            if data:
                self.write(data.decode(errors="replace"))
        os.write(self._original_stdstream_copy, data)
        return data

    def _watch_pipe_fd(self) -> None:
        """In a thread of its own, which only looks before it takes: `flush` may be first, and then has all of it."""
        pipe: Any = self._fid
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        with suppress(OSError, ValueError):
            while self._should_watch and poll.poll() and self.take_from_pipe() != b"":
                pass

    def start_timer(self) -> None:
        """In the publisher's thread."""
        self._io_loop.call_later(self.flush_interval, self.on_time)

    def on_time(self) -> None:
        """In the publisher's thread, some time after something was written."""
        self.timed = False
        self.flush()

    def _flush_buffers(self) -> Iterator[tuple[Any, str]]:
        """What is to be sent, in pieces."""
        for parent, buffer in self._rotate_buffers().values():
            text = buffer.getvalue()
            for start in range(0, len(text), MAX_TEXT):
                yield parent, text[start : start + MAX_TEXT]

    def _rotate_buffers(self) -> dict[int, tuple[Any, StringIO]]:
        with self._buffer_lock:
            old: dict[int, tuple[Any, StringIO]] = self._buffers
            self._buffers, self.length = {}, 0
        return old
