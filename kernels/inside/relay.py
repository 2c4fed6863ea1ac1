"""Stands in for a notebook's kernel: asks the warm parent for it, passes signals on, and ends as it ends."""

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

SECONDS = 2.0  # for an answer; after that, a kernel is started as any other
# What Python reads at its start: a fork has it from its parent.
AT_START = {f"PYTHON{name}" for name in ("PATH", "HOME", "HASHSEED", "WARNINGS", "OPTIMIZE", "DEVMODE", "MALLOC")}
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def relay(generation: Path, argv: list[str]) -> None:
    """Be the kernel for whoever started this process. Returns where there is no parent to ask."""
    if AT_START & os.environ.keys():
        return
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SECONDS)
        request = {"do": "fork", "argv": argv, "env": dict(os.environ), "cwd": os.getcwd(), "owned": False}  # noqa: PTH109
        try:
            connection.connect((generation / "warm").read_text(encoding="utf-8"))
            data = json.dumps(request).encode() + b"\n"
            sent = socket.send_fds(connection, [data], [0, 1, 2])
            connection.sendall(data[sent:])
            lines = connection.makefile("r", encoding="utf-8")
            pid = json.loads(lines.readline())["pid"]
        except (OSError, ValueError):
            return
        connection.settimeout(None)
        stand_in(pid, lines)


def stand_in(pid: int, lines: Any) -> NoReturn:
    """Pass signals on until the kernel has ended."""

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    line = lines.readline()
    code = json.loads(line)["exit"] if line else 1
    if code < 0:
        with contextlib.suppress(OSError):  # some can't be handled by anybody
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
