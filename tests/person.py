"""A person at a terminal: a command runs in one, what it shows is waited for, lines are typed."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT

# A person would have given up.
PATIENCE = 60
# Keys that interrupt are for this process.
OWN_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from server.cli import main
main()
"""
_CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Person:
    """Types into a terminal, and reads it."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self._process = process
        self._screen = screen
        self._shown = b""
        self._looked = 0

    @property
    def seen(self) -> str:
        """All that was shown, without colours."""
        return _CODES.sub("", self._shown.decode(errors="replace")).replace("\r\n", "\n")

    def sees(self, text: str) -> str:
        """Wait until this is shown; all that was shown since the last time, up to there."""
        while (found := self.seen.find(text, self._looked)) < 0:
            ready, _, _ = select.select([self._screen], [], [], PATIENCE)
            assert ready, f"{text!r} is not shown: {self.seen}"
            assert self._read(), f"ended before {text!r}: {self.seen}"
        before, self._looked = self._looked, found + len(text)
        return self.seen[before : self._looked]

    def types(self, line: str) -> None:
        """A line."""
        os.write(self._screen, f"{line}\r".encode())

    def presses(self, key: str) -> None:
        """c or d, with the control key."""
        os.write(self._screen, bytes([ord(key) - 96]))

    def interrupts(self, until: str) -> str:
        """Press Ctrl-C until this is shown. Python's line editor does not hear one that comes just as it begins."""
        for _ in range(PATIENCE // 5):
            self.presses("c")
            if select.select([self._screen], [], [], 5)[0]:
                break
        return self.sees(until)

    def leaves(self) -> int:
        """Press Ctrl-D, and wait for the end; the exit code."""
        self.presses("d")
        while self._read():
            pass
        return self._process.wait(PATIENCE)

    def _read(self) -> bytes:
        try:
            piece = os.read(self._screen, 65536)
        except OSError:  # the other end is closed
            return b""
        self._shown += piece
        return piece


@contextmanager
def at_a_terminal(folder: Path, environment: Mapping[str, str], *arguments: str) -> Iterator[Person]:
    """A person before `aigbb` with these arguments, run in a folder."""
    screen, side = pty.openpty()
    env = {**environment, "TERM": "xterm", "COLUMNS": "200", "LINES": "50", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", OWN_TERMINAL, *arguments],
        cwd=folder,
        env=env,
        stdin=side,
        stdout=side,
        stderr=side,
        start_new_session=True,
    )
    os.close(side)
    try:
        yield Person(process, screen)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(screen)
