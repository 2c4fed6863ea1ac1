"""A real service in a process of its own, and what a client asks of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import Load, Target
from benchmarks.servers import Running, Server, serving
from benchmarks.timing import Sample, Watch
from benchmarks.wire import Http

ROOT = Path(__file__).parents[1]
SETTLE_SECONDS = 120.0
# Processes that are started ahead begin half a second after what used the last one.
QUIET_SECONDS = 0.7
QUIET_SHARE = 0.1  # of one core, all processes of a service together


@dataclass(frozen=True)
class Service:
    """A connection that stays open, and how many spare kernels the service keeps.

    The client is a bare socket: what is measured is the service, not a client's comforts.
    """

    folder: Path
    url: str
    headers: Mapping[str, str]
    http: Http
    process: psutil.Process
    spares: int

    @classmethod
    def connect(cls, folder: Path, running: Running, spares: int | None) -> Service:
        """To the service that lives in the folder. spares: as many as it keeps, if that isn't its own choice."""
        headers = {"Authorization": f"Bearer {(folder / 'home' / 'token').read_text().strip()}"}
        http = Http(running.url, headers)
        if spares is None:
            spares = int(json.loads(http.request("GET", "/healthz")[1])["spares"])
        return cls(folder, running.url, headers, http, psutil.Process(running.pid), spares)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """One request; its answer's JSON."""
        status, answer = self.http.request(method, path, b"" if body is None else json.dumps(body).encode())
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {answer.decode(errors='replace')}")
        return json.loads(answer) if answer else None

    def has_spares(self) -> bool:
        """Whether every spare kernel is ready."""
        return bool(self.ask("GET", "/healthz")["spares"] >= self.spares)

    def used(self) -> float:
        """Seconds of CPU of the service and all its children, those that ended left out."""
        total = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    @contextmanager
    def sessions(self, count: int) -> Iterator[list[str]]:
        """So many sessions; closed afterwards."""
        opened: list[str] = [self.ask("POST", "/sessions")["id"] for _ in range(count)]
        try:
            yield opened
        finally:
            for session in opened:
                self.ask("DELETE", f"/sessions/{session}")

    def execute(self, code: str, expected: str, session: str | None = None) -> Sample:
        """Run code; its result has to be the expected one."""
        return self._timed("/execute", {"code": code, "session": session}, expected)

    def call(self, name: str, arguments: dict[str, Any], expected: object, session: str | None = None) -> Sample:
        """Call a function; its result has to be the expected one."""
        return self._timed(f"/functions/{name}/call" + (f"?session={session}" if session else ""), arguments, expected)

    def _timed(self, path: str, body: object, expected: object) -> Sample:
        watch = Watch()
        answer = self.ask("POST", path, body)
        watch.lap("answer")
        if answer["result"] != expected:
            raise RuntimeError(f"{path} gave {answer['result']}, not {expected}: {answer['error']}")
        inside = answer["duration_ms"]
        return {"inside the service": inside, "HTTP and client": watch.laps["answer"] - inside}

    def first_output(self, code: str, session: str) -> Sample:
        """Until the first text of stdout is here, as an event; then the code is left to end."""
        watch = Watch()
        body = json.dumps({"code": code, "session": session}).encode()
        self.http.first("POST", "/execute", body, "Accept: text/event-stream\r\n", b"event: stdout")
        watch.lap("first event")
        self.http.drain()
        return watch.laps

    def register(self, source: str, packages: list[str], *, new_generation: bool) -> Sample:
        """Register a function; the stages are the service's own."""
        watch = Watch()
        answer = self.ask("POST", "/register", {"source": source, "packages": packages})
        watch.lap("answer")
        if answer["new_generation"] is not new_generation or answer["resolution"] == "index":
            raise RuntimeError(f"Not what is measured: {answer['new_generation']=}, {answer['resolution']=}")
        stages: dict[str, float] = answer["timings_ms"]
        return {**stages, "HTTP and client": watch.laps["answer"] - sum(stages.values())}

    def generation(self) -> dict[str, Any]:
        """The one that serves."""
        return next(found for found in self.ask("GET", "/kernels") if found["current"])

    @property
    def python(self) -> Path:
        """The interpreter of the generation that serves."""
        return self.folder / "home" / "generations" / str(self.generation()["number"]) / "venv" / "bin" / "python"

    def load(
        self, code: str, sessions: Sequence[str | None], *, clients: int, seconds: float, rate: float | None = None
    ) -> Load:
        """Clients that execute code whose result is 2: in these sessions, or on clean kernels where that is None."""
        targets = [Target('"result":"2"', body={"code": code, "session": session}) for session in sessions]
        return Load(self.url, self.headers, targets, clients, seconds, rate)


def settle(services: Sequence[Service]) -> None:
    """Wait until every spare kernel is ready and all is quiet, so that nothing of ours runs beside a sample."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while not all(service.has_spares() for service in services) or not _are_quiet(services):
        if time.monotonic() > deadline:
            raise RuntimeError("The service did not come to rest.")
        time.sleep(0.05)


def _are_quiet(services: Sequence[Service]) -> bool:
    before = [service.used() for service in services]
    time.sleep(QUIET_SECONDS)
    most = QUIET_SHARE * QUIET_SECONDS
    return all(abs(service.used() - used) < most for service, used in zip(services, before, strict=True))


@contextmanager
def running(
    folder: Path, cache: Path, pool_size: int | None = None, more: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """A service that lives in `folder`, with the functions that ship, as `make serve` starts it.

    pool_size: another number of spares than the default. more: of its environment.
    """
    folder.mkdir()
    shutil.copytree(ROOT / "aigbb_functions", folder / "aigbb_functions", ignore=shutil.ignore_patterns("__pycache__"))
    size = {} if pool_size is None else {"AIGBB_POOL_SIZE": str(pool_size)}
    serve = [sys.executable, "-m", "server", "serve", "--port"]
    environment = {**_places(folder, cache), **size, **(more or {})}
    server = Server("/healthz", lambda port: [*serve, str(port)], environment, folder=folder)
    for name in [name for name in os.environ if name.startswith("AIGBB_")]:
        del os.environ[name]  # no setting of the developer's
    with serving(folder / "service.log", server) as started:
        service = Service.connect(folder, started, pool_size)
        try:
            yield service
        finally:
            service.http.close()


def _places(folder: Path, cache: Path) -> dict[str, str]:
    """Folders of our own."""
    places = {
        "HOME": folder / "home",
        "FUNCTIONS_DIR": folder / "aigbb_functions",
        "KERNELSPECS_DIR": folder / "kernels",
    }
    return {f"AIGBB_{name}": str(place) for name, place in {**places, "CACHE": cache}.items()}
