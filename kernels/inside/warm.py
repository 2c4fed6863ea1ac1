"""The warm parent of a generation's kernels: all is imported, nothing runs, and each kernel is a fork of it.

`python launch.py --warm` with a listening unix socket as its stdin. A connection carries one request, a line of
JSON, and is answered by lines of JSON:

- {"do": "fork", "argv", "env", "cwd", "owned"} with two or three descriptors (stdout and stderr, or all three):
  {"pid"} with a pidfd, and {"exit": code} when the kernel has ended. Until the connection is closed, the pid stays
  taken; if it is closed before the end, the kernel's process group is killed.
- {"do": "refresh"}: look at the pointer to the functions; {"late": {name: reason}, "memory": bytes} says what is not
  imported here, and what is held.
- {"do": "retire"}: {}; it ends with the last kernel of its own service.
"""

import contextlib
import fcntl
import gc
import importlib
import itertools
import json
import os
import random
import selectors
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from . import confine, fonts
from .library import Library
from .package import PACKAGE
from .strays import Strays, adopt
from .trial import Trial, fork, threads

# What every kernel has by default and imports slowly, and what each imports once it runs.
PRELOADED = ("pydantic", "numpy", "pandas", "matplotlib.pyplot", "ipykernel.debugger")
ONCE_RUNNING = ("IPython.core.debugger", "IPython.core.logger", "IPython.extensions.storemagic", "faulthandler", "pdb")
# What the first exception needs to be shown.
TRACEBACKS = ("stack_data", "pygments.formatters.terminal256", "pygments.styles.default", "pygments.console")
OURS = ("calling", "contract", "forms", "functions", "streams")
# Beyond this a request is not one of ours.
MAX_REQUEST = 4 * 1024 * 1024


class Request:
    """A connection, what has come of its request, and the descriptors that came with it."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.data = bytearray()
        self.descriptors: list[int] = []

    def read(self) -> Mapping[str, Any] | None:
        """The request, once all of it is there. Raises EOFError, ValueError."""
        data, descriptors, _, _ = socket.recv_fds(self.connection, 65536, 3)
        self.descriptors += descriptors
        self.data += data
        if not data or len(self.data) > MAX_REQUEST:
            raise EOFError
        if not self.data.endswith(b"\n"):
            return None
        found = json.loads(self.data)
        if not isinstance(found, dict):
            raise ValueError("not a request")
        return found

    def given_up(self) -> bool:
        """Whether the other end is closed. Nothing comes after a request."""
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def answer(self, descriptor: int | None = None, **content: object) -> None:
        """Send a line, with an open file. Whoever has gone does not hear it."""
        data = json.dumps(content).encode() + b"\n"
        with contextlib.suppress(OSError):
            if descriptor is not None:
                data = data[socket.send_fds(self.connection, [data], [descriptor]) :]
            self.connection.sendall(data)

    def let_go(self) -> None:
        """Close the descriptors that came with it."""
        for number in self.descriptors:
            os.close(number)
        self.descriptors.clear()

    def close(self) -> None:
        """Close all of it."""
        self.connection.close()
        self.let_go()


class Child:
    """A kernel that was forked: its process, and the connection that asked for it."""

    def __init__(self, pid: int, request: Request, owned: bool) -> None:
        self.pid = pid
        self.request = request
        self.owned = owned
        self.pidfd = os.pidfd_open(pid)
        self.ended = False

    def tell(self) -> None:
        """The process has ended: say how, but do not let its id go yet."""
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        assert found is not None
        code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        self.ended = True
        self.request.answer(exit=code)

    def let_go(self) -> None:
        """Whoever asked for it is gone, or knows how it ended. At its birth it has no group yet."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        self.request.close()


class Parent:
    """Serves one request after another, in one thread."""

    def __init__(self, listener: socket.socket, library: Library, wake: Callable[..., NoReturn]) -> None:
        self.listener = listener
        self.library = library
        self.wake = wake
        self.late: dict[str, str] = {}
        self.trial: Trial | None = None
        self.asked: list[Request] = []  # who waits for the end of the trial
        self.children: set[Child] = set()
        self.retired = False
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ, self.accept)
        self.strays = Strays(self.selector, self.own)

    def serve(self) -> None:
        """Until it is retired and its last kernel has ended."""
        while not (self.retired and not any(child.owned for child in self.children)):
            for key, _ in self.selector.select(1.0 if self.trial else None):
                if key.fd in self.selector.get_map():
                    key.data()
            if self.trial and self.trial.expire():
                self.end_trial()

    def accept(self) -> None:
        """A new connection."""
        with contextlib.suppress(BlockingIOError):
            connection, _ = self.listener.accept()
            request = Request(connection)
            self.selector.register(connection, selectors.EVENT_READ, partial(self.hear, request))

    def hear(self, request: Request) -> None:
        """Something came on a connection whose request is not complete."""
        try:
            asked = request.read()
        except BlockingIOError:
            return
        except (EOFError, ValueError, OSError):
            self.drop(request)
            return
        if asked is None:
            return
        self.selector.unregister(request.connection)
        match asked:
            case {"do": "fork", "argv": list(), "env": dict(), "cwd": str(), "owned": bool()}:
                self.fork(request, asked)
            case {"do": "refresh"}:
                self.asked.append(request)
                self.refresh()
            case {"do": "retire"}:
                self.retired = True
                request.answer()
                request.close()
            case _:
                request.close()

    def drop(self, request: Request) -> None:
        """A connection that is of no use."""
        self.selector.unregister(request.connection)
        request.close()

    # -- kernels

    def own(self) -> set[int]:
        """The processes that are to run: all other children are what kernels left behind."""
        return {child.pid for child in self.children} | ({self.trial.pid} if self.trial else set())

    def fork(self, request: Request, asked: Mapping[str, Any]) -> None:
        """Make a kernel, unless nobody waits for it any more: it would take the files of the one in its place."""
        if request.given_up():
            request.close()
            return
        pid = fork()
        if pid == 0:
            self.become(request, asked)
        child = Child(pid, request, asked["owned"])
        request.let_go()
        self.children.add(child)
        self.selector.register(child.pidfd, selectors.EVENT_READ, partial(self.on_end, child))
        self.selector.register(request.connection, selectors.EVENT_READ, partial(self.on_closed, child))
        request.answer(child.pidfd, pid=pid)

    def on_end(self, child: Child) -> None:
        """A kernel's process has ended."""
        self.selector.unregister(child.pidfd)
        self.strays.end()
        child.tell()

    def on_closed(self, child: Child) -> None:
        """Nobody waits for a kernel any more."""
        with contextlib.suppress(OSError):
            if child.request.connection.recv(1):
                return
        if not child.ended:
            self.selector.unregister(child.pidfd)
        self.selector.unregister(child.request.connection)
        child.let_go()
        self.children.discard(child)
        self.strays.end()

    def become(self, request: Request, asked: Mapping[str, Any]) -> NoReturn:
        """In the fork: a process as `asked` says, which hands itself to the kernel."""
        status = 1
        try:
            parent = os.getppid()
            os.setsid()
            streams = request.descriptors
            if len(streams) == 2:
                streams = [os.open(os.devnull, os.O_RDONLY), *streams]
            for number, descriptor in enumerate(streams):
                os.dup2(descriptor, number)
            self.selector.close()
            adopt()
            held = request.connection.detach()
            close_all_but({0, 1, 2, held} if not asked["owned"] else {0, 1, 2})
            rules = confine.take(asked["env"])
            confine.apply(rules, forked=True)
            if "namespaces" in rules:
                hold_again(os.environ["AIGBB_GENERATION"], int(os.environ["AIGBB_LOCK"]))
            os.chdir(asked["cwd"])  # what was open before shows what is covered now
            os.environ.clear()
            os.environ.update(asked["env"])
            os.environ.update(self.library.environment)
            if asked["owned"]:
                fonts.provide()
            fonts.look_again()
            tempfile.tempdir = None  # found anew, where the kernel has it
            self.library.warm = False
            sys.argv[1:] = asked["argv"]
            time.tzset()
            reseed()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            status = 0
            self.wake(asked["argv"], owned=asked["owned"], parent=parent, held=held)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            status = 1
            traceback.print_exc(file=sys.__stderr__)
        finally:
            for stream in (sys.stdout, sys.stderr, sys.__stderr__):
                with contextlib.suppress(BaseException):
                    stream.flush()  # type: ignore[union-attr]
            os._exit(status)

    # -- functions

    def refresh(self) -> None:
        """Turn to the newest functions: what waits is tried, and then imported."""
        if self.trial is None:
            before = self.library.known
            self.library.look()
            self.late = {n: r for n, r in self.late.items() if before.get(n) == self.library.known.get(n)}
            untried = sorted(self.library.ready - self.late.keys())
            if untried:
                self.try_out(untried)
            else:
                self.reply()

    def try_out(self, names: list[str]) -> None:
        """Begin a trial of these functions."""
        self.trial = Trial({name: partial(self.library.take, name) for name in names})
        self.selector.register(self.trial, selectors.EVENT_READ, self.on_trial)

    def on_trial(self) -> None:
        """A trial has something to say."""
        assert self.trial is not None
        if self.trial.read():
            self.end_trial()

    def end_trial(self) -> None:
        """Import what was good, and go on with what was not tried."""
        trial, self.trial = self.trial, None
        assert trial is not None
        self.selector.unregister(trial)
        self.strays.end()
        for name in trial.good:
            self.library.take(name)
            if name in self.library.failures:
                self.put_off(name, self.library.failures.pop(name))
        for name, reason in trial.bad.items():
            self.put_off(name, reason)
        if trial.left:
            self.try_out(trial.left)
        else:
            gc.freeze()  # a collection would write to every object, and pages written to are no longer shared
            self.refresh()

    def put_off(self, name: str, reason: str) -> None:
        """Leave a function to each kernel, after the fork."""
        self.library.waiting.add(name)
        self.late[name] = reason

    def reply(self) -> None:
        """Whoever asked for the newest functions may know that they are here."""
        asked, self.asked = self.asked, []
        late = {name: reason for name, reason in self.late.items() if name in self.library.waiting}
        for request in asked:
            request.answer(late=late, memory=memory())
            request.close()


def close_all_but(kept: set[int]) -> None:
    """Nothing of the parent, or of another kernel, is open in a kernel; the generation's lock is, in each."""
    lock = int(os.environ["AIGBB_LOCK"])
    limits = [-1, *sorted({*kept, lock}), os.sysconf("SC_OPEN_MAX")]
    for low, high in itertools.pairwise(limits):
        if low + 1 < high:  # an empty range would be taken for all
            os.closerange(low + 1, high)


def hold_again(generation: str, lock: int) -> None:
    """Have the generation's lock in this process's own view of files: the old one leads to what others see."""
    descriptor = os.open(generation, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.dup2(descriptor, lock, inheritable=False)
    os.close(descriptor)


def memory() -> int:
    """Bytes that this process holds, shared ones included."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def reseed() -> None:
    """No two kernels draw the same random numbers. OpenSSL sees by itself that it was forked."""
    random.seed()
    if numpy := sys.modules.get("numpy.random"):
        numpy.seed()


def preload() -> None:
    """Import what every kernel has, and what calls are made with."""
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # it would say that debugging works all the same
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as ipykernel does
    ours = (f"{__package__}.{name}" for name in OURS)
    for name in (*PRELOADED, *ONCE_RUNNING, *TRACEBACKS, "tornado.platform.asyncio", *ours):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def main(generation: Path, lock: int) -> None:
    """Serve until the service ends, or retires it."""
    from .forked import Template

    listener = socket.socket(fileno=os.dup(0))
    listener.setblocking(False)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.environ["AIGBB_LOCK"] = str(lock)
    with fonts.temporary():
        preload()
    library = Library(generation, warm=True)
    sys.modules[PACKAGE] = library.package
    template = Template()
    if (count := threads()) > 1:
        sys.exit(f"{count - 1} threads run after importing {', '.join(PRELOADED)}: nothing can be forked from here")
    adopt()
    parent = Parent(listener, library, template.wake)
    gc.collect()
    gc.freeze()
    parent.refresh()
    parent.serve()
