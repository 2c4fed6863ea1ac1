"""Which processes belong to a service: those that have its folder in their command or environment."""

from __future__ import annotations

from pathlib import Path

import psutil

# Code that forks until it may not, and prints how often it could.
BOMB = """
import os, time
count = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(600)
        count += 1
except OSError as error:
    print(count, type(error).__name__)
"""


def of(folder: Path) -> list[psutil.Process]:
    """All of them that live, the service itself included."""
    return [process for process in psutil.process_iter() if _mentions(process, str(folder))]


def left_of(folder: Path, seconds: float = 60) -> list[psutil.Process]:
    """Those that do not end by themselves in that time: one that still imports sees its end of input after that."""
    _, alive = psutil.wait_procs(of(folder), timeout=seconds)
    return list(alive)


def _mentions(process: psutil.Process, marker: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return any(marker in part for part in (*process.cmdline(), *process.environ().values()))
    except psutil.Error:
        return False
