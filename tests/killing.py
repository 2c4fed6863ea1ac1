"""Kill a child at each step that it takes on the disk: a power cut, at every moment at which it could matter."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator

# What changes a folder, as Python's audit hooks name it.
STEPS = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "shutil.copyfile",
    "sqlite3.connect",
)


def killed_at_each_step(prepare: Callable[[], Callable[[], object]]) -> Iterator[int]:
    """Do some work in a child, killed just before its first step, then anew before its second, until it comes through.

    prepare is asked before each; the number of the step is given after each but the last.
    """
    number = 0
    while True:
        number += 1
        if _killed(prepare(), number):
            yield number
        else:
            assert number > 1, "there was nothing to kill"
            return


def _killed(work: Callable[[], object], at: int) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other threads do not come with us, and nothing here waits for one
        child = os.fork()
    if child == 0:
        _die_at(at)
        try:
            work()
            os._exit(0)
        finally:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.WIFSIGNALED(status)


def _die_at(number: int) -> None:
    left = number

    def hook(event: str, _: tuple[object, ...]) -> None:
        nonlocal left
        if event in STEPS:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
