"""Servers in processes of their own, on free ports of this machine: started, waited for, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.wire import Http

START_SECONDS = 600.0
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Server:
    """How to start one on a port, what to ask until it answers, and its variables besides ours."""

    path: str
    argv: Callable[[int], Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    url: str
    pid: int


@contextmanager
def serving(log: Path, server: Server) -> Iterator[Running]:
    """A server, once it answers. Raises RuntimeError with its log where it does not start."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, **server.environment}
    with process(server.argv(port), log, environment, server.folder) as started:
        _wait(Http(url, server.headers), server.path, started, log)
        yield Running(url, started.pid)


@contextmanager
def process(
    argv: Sequence[str], log: Path, environment: Mapping[str, str], folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended with all that it started in its process group."""
    with log.open("wb") as output:
        started = subprocess.Popen(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield started
        finally:
            _stop(started)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait(http: Http, path: str, started: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(http, path):
        if started.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"The server did not start:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.1)
    http.close()


def _answers(http: Http, path: str) -> bool:
    try:
        return http.request("GET", path)[0] < 400
    except (OSError, ValueError):
        return False


def _stop(started: subprocess.Popen[bytes]) -> None:
    started.terminate()
    try:
        started.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        started.kill()
        started.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(started.pid, signal.SIGKILL)
