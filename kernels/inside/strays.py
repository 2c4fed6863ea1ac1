"""What a kernel that has ended left running: it becomes a child of the warm parent, which ends it.

A child that leaves its process group, or whose own parent has ended, is reached by no signal to a group. Linux gives
whatever loses its parent to the nearest process above that asked for it. Each kernel asks, so that all that it starts
stays below it for as long as it lives; the warm parent asks, so that it gets all that is left when a kernel ends.
"""

import ctypes
import os
import selectors
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from .trial import children

_PR_SET_CHILD_SUBREAPER = 36


def adopt() -> None:
    """Ask for the processes below this one that lose their parent. No fork inherits that."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Strays:
    """Ends what was adopted: every child of this process that is none of `own`, which are asked for each time."""

    def __init__(self, selector: selectors.BaseSelector, own: Callable[[], set[int]]) -> None:
        self.selector = selector
        self.own = own
        self.ending: set[int] = set()

    def end(self) -> None:
        """Kill them. Waits for none: the selector tells of their ends."""
        for pid in {int(child) for child in children()} - self.own() - self.ending:
            with suppress(OSError):
                pidfd = os.pidfd_open(pid)
                self.ending.add(pid)
                os.kill(pid, signal.SIGKILL)
                self.selector.register(pidfd, selectors.EVENT_READ, partial(self.on_end, pid, pidfd))

    def on_end(self, pid: int, pidfd: int) -> None:
        """One has ended, and what it started is ours now."""
        self.selector.unregister(pidfd)
        os.close(pidfd)
        os.waitpid(pid, 0)
        self.ending.discard(pid)
        self.end()
