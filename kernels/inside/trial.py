"""Imports are tried in a process that nobody needs, before the warm parent of all kernels does them itself.

What an import leaves behind may not survive a fork, or must not be shared by those who come after: a thread, an
open file, a process, random numbers. Such an import is left to each kernel, after the fork.
"""

import contextlib
import gc
import json
import os
import random
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence

SECONDS = 20.0  # that one import may take


class Trial:
    """Runs imports one after another in a fork of this process, and hears how each went."""

    def __init__(self, imports: Mapping[str, Callable[[], None]]) -> None:
        """Begin. imports raise nothing that matters: one that fails is told by whoever does it in earnest."""
        self.left = list(imports)
        self.good: list[str] = []
        self.bad: dict[str, str] = {}
        self.deadline = time.monotonic() + SECONDS
        self.partial = b""
        self.ours, theirs = socket.socketpair()
        self.pid = fork()
        if self.pid == 0:
            self.ours.close()
            attempt(theirs, imports)
        theirs.close()
        self.ours.setblocking(False)

    def fileno(self) -> int:
        """For a selector: there is something to read."""
        return self.ours.fileno()

    def read(self) -> bool:
        """Take in what has come. True when this trial is over; `left` then has what was not tried."""
        with contextlib.suppress(BlockingIOError):
            data = self.ours.recv(65536)
            *lines, self.partial = (self.partial + data).split(b"\n")
            for line in lines:
                self.hear(*json.loads(line))
            if not data:
                self.close("ends the process")
                return True
        return False

    def hear(self, name: str, reasons: Sequence[str]) -> None:
        """One import is done."""
        self.left.remove(name)
        self.deadline = time.monotonic() + SECONDS
        if reasons:
            self.bad[name] = ", ".join(reasons)
        else:
            self.good.append(name)

    def expire(self) -> bool:
        """End it if an import takes too long; whether it did."""
        late = time.monotonic() > self.deadline
        if late:
            self.close(f"takes longer than {SECONDS:g} s")
        return late

    def close(self, reason: str = "") -> None:
        """End the process. What it was at, if anything, is bad for this reason."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.ours.close()
        if self.left and reason:
            self.bad[self.left.pop(0)] = reason


def attempt(answers: socket.socket, imports: Mapping[str, Callable[[], None]]) -> None:
    """In the fork: do the imports and tell of each. Ends this process."""
    with contextlib.suppress(BaseException):
        os.setpgid(0, 0)
        silence()
        gc.freeze()  # so that what is new is quickly found
        for name, do in imports.items():
            before = look()
            with contextlib.suppress(BaseException):
                do()
            answers.sendall(json.dumps([name, differences(before, look())]).encode() + b"\n")
            gc.freeze()
    os._exit(0)


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """What an import did that must not be inherited, in words."""
    return [what for what, state in before.items() if after[what] != state]


def look() -> dict[str, object]:
    """What an import should leave as it was, by what it does otherwise."""
    seen = {
        "starts threads": threads(),
        "starts processes": children(),
        "opens files": sorted(descriptors()),
        "draws random numbers": random.getstate(),
        "keeps a random generator": generators(),
        "changes environment variables": dict(os.environ),
        "changes the working directory": os.getcwd(),  # noqa: PTH109
        "changes sys.path": list(sys.path),
        "handles signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "replaces standard streams": [id(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
    }
    if numpy := sys.modules.get("numpy.random"):
        seen["draws numpy's random numbers"] = repr(numpy.get_state(legacy=False))
    return seen


def threads() -> int:
    """How many threads there are, without those of libraries that end theirs at a fork."""
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208
        pid = fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def children() -> list[str]:
    """The processes that this one has started."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:  # noqa: PTH123
        return file.read().split()


def descriptors() -> set[int]:
    """The open files of this process."""
    found = {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208
    return {number for number in found if is_open(number)}  # without the one of that folder


def is_open(number: int) -> bool:
    """Whether a number is an open file."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def generators() -> int:
    """How many generators of random numbers that fork with their state have come since the last `gc.freeze`."""
    numpy = sys.modules.get("numpy.random")
    kinds = (random.Random, *((numpy.Generator, numpy.RandomState) if numpy else ()))
    found = [each for each in gc.get_objects() if issubclass(type(each), kinds)]
    return sum(not isinstance(each, random.SystemRandom) for each in found)


def fork() -> int:
    """`os.fork`, which newer Pythons warn about once there are threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def silence() -> None:
    """Nothing of a trial is heard: whoever imports in earnest says it again."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
