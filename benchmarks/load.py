"""Load from a process of its own: `python -m benchmarks.load` reads a plan as JSON and answers what happened.

Closed: each client sends its next request once it has its answer. Open: requests are due at even intervals, whoever is
free sends the next one, and its time runs from when it was due.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.wire import Channels, Http

ROOT = Path(__file__).parents[1]
WARM_UP = 0.5


@dataclass(frozen=True, slots=True)
class Target:
    """What one client asks for, again and again: over a kernel's websocket where a kernel is named, else over HTTP."""

    expected: str
    method: str = "POST"
    path: str = "/execute"
    body: dict[str, Any] | None = None
    kernel: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """clients take the targets in turn. rate: requests a second of all clients together; None: as fast as they can."""

    url: str
    headers: Mapping[str, str]
    targets: Sequence[Target]
    clients: int
    seconds: float
    rate: float | None = None

    def run(self) -> Happened:
        """In a process of its own. Raises RuntimeError where an answer was wrong."""
        argv = [sys.executable, "-m", "benchmarks.load"]
        asked = json.dumps(asdict(self))
        finished = subprocess.run(argv, cwd=ROOT, input=asked, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            raise RuntimeError(f"The load on {self.url} failed:\n{finished.stderr[-2000:]}")
        return Happened(**json.loads(finished.stdout))


@dataclass(frozen=True, slots=True)
class Happened:
    """Milliseconds of the answers within the window, which lasted that many seconds; how many requests were refused."""

    milliseconds: Sequence[float]
    seconds: float
    refused: int

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.milliseconds) / self.seconds


@dataclass
class _Run:
    """What the clients share."""

    load: Load
    milliseconds: list[float] = field(default_factory=list)
    refused: int = 0
    failures: list[str] = field(default_factory=list)
    slots: count[int] = field(default_factory=count)
    start: float = 0.0

    def client(self, ask: Callable[[], bool]) -> None:
        """One client, until the window is over. What ends it early is kept."""
        try:
            while self._one(ask):
                pass
        except (OSError, RuntimeError, ValueError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")

    def _one(self, ask: Callable[[], bool]) -> bool:
        begin = self._due()
        if begin >= self.start + self.load.seconds:
            return False
        answered, end = ask(), time.perf_counter()
        in_window = begin >= self.start if self.load.rate else self.start <= end < self.start + self.load.seconds
        if in_window and answered:
            self.milliseconds.append((end - begin) * 1000)
        self.refused += in_window and not answered
        return True

    def _due(self) -> float:
        now = time.perf_counter()
        if self.load.rate is None:
            return now
        due = self.start - WARM_UP + next(self.slots) / self.load.rate
        if due > now:
            time.sleep(due - now)
        return due


def over_http(load: Load, target: Target) -> Callable[[], bool]:
    """Asks once, and says whether it was answered; 503 is a refusal."""
    http = Http(load.url, load.headers)
    body = b"" if target.body is None else json.dumps(target.body).encode()
    expected = target.expected.encode()

    def ask() -> bool:
        status, answer = http.request(target.method, target.path, body)
        if status != 503 and (status != 200 or expected not in answer):
            raise RuntimeError(f"{status}: {answer[:500]!r}")
        return status == 200

    return ask


def over_websocket(load: Load, target: Target) -> Callable[[], bool]:
    """The same with a kernel's websocket, which refuses nothing."""
    channels = Channels(load.url, target.kernel, load.headers)

    def ask() -> bool:
        result = channels.execute(target.code)
        if result != target.expected:
            raise RuntimeError(f"{target.code} gave {result!r}")
        return True

    return ask


def generate(load: Load) -> Happened:
    """Have every client connect, then run for the time given. Raises RuntimeError where an answer was wrong."""
    run = _Run(load)
    targets = [load.targets[number % len(load.targets)] for number in range(load.clients)]
    asks = [(over_websocket if target.kernel else over_http)(load, target) for target in targets]
    run.start = time.perf_counter() + WARM_UP
    threads = [threading.Thread(target=run.client, args=(ask,)) for ask in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if run.failures:
        raise RuntimeError(run.failures[0])
    return Happened(run.milliseconds, load.seconds, run.refused)


def main() -> None:
    """A plan on stdin, what happened on stdout."""
    asked = json.load(sys.stdin)
    targets = [Target(**target) for target in asked.pop("targets")]
    json.dump(asdict(generate(Load(targets=targets, **asked))), sys.stdout)


if __name__ == "__main__":
    main()
