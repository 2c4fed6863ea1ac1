"""A real service in a process of its own, and what a client asks of it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import psutil

from benchmarks.timing import Sample, Watch

ROOT = Path(__file__).parents[1]
START_SECONDS = 600.0
SETTLE_SECONDS = 120.0
# Processes that are started ahead begin half a second after what used the last one.
QUIET_SECONDS = 0.7
QUIET_SHARE = 0.1  # of one core, all processes of a service together


@dataclass(frozen=True)
class Service:
    """A connection that stays open, and how many spare kernels the service keeps.

    The client is the standard library's: what is measured is the service, not a client's comforts.
    """

    connection: http.client.HTTPConnection
    token: str
    process: psutil.Process
    spares: int

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """One request; its answer's JSON."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        sent = (method, path, None if body is None else json.dumps(body), headers)
        try:
            self.connection.request(*sent)
            answer = self.connection.getresponse()
        except (BrokenPipeError, http.client.RemoteDisconnected):
            self.connection.close()  # it was idle for longer than the server keeps connections
            self.connection.request(*sent)
            answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text) if text else None

    def settle(self) -> None:
        """Wait until every spare kernel is ready and all is quiet, so that nothing of ours runs beside a sample."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while self.ask("GET", "/healthz")["spares"] < self.spares or not self._is_quiet():
            if time.monotonic() > deadline:
                raise RuntimeError("The service did not come to rest.")
            time.sleep(0.05)

    def _is_quiet(self) -> bool:
        before = self._used()
        time.sleep(QUIET_SECONDS)
        return abs(self._used() - before) < QUIET_SHARE * QUIET_SECONDS

    def _used(self) -> float:
        """Seconds of CPU of the service and all its children, those that ended left out."""
        total = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def execute(self, code: str, expected: str, session: str | None = None) -> Sample:
        """Run code; its result has to be the expected one."""
        watch = Watch()
        answer = self.ask("POST", "/execute", {"code": code, "session": session})
        watch.lap("answer")
        if answer["result"] != expected:
            raise RuntimeError(f"{code} gave {answer['result']}, not {expected}: {answer['error']}")
        inside = answer["duration_ms"]
        return {"inside the service": inside, "HTTP and client": watch.laps["answer"] - inside}

    def call(self, name: str, arguments: dict[str, Any], expected: object, session: str | None = None) -> Sample:
        """Call a function; its result has to be the expected one."""
        query = f"?session={session}" if session else ""
        watch = Watch()
        answer = self.ask("POST", f"/functions/{name}/call{query}", arguments)
        watch.lap("answer")
        if answer["result"] != expected:
            raise RuntimeError(f"{name} gave {answer['result']}, not {expected}: {answer['error']}")
        inside = answer["duration_ms"]
        return {"inside the service": inside, "HTTP and client": watch.laps["answer"] - inside}

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


@contextmanager
def running(folder: Path, cache: Path, **settings: object) -> Iterator[Service]:
    """A service that lives in `folder`, with the functions that ship, as `make serve` starts it."""
    shutil.copytree(ROOT / "aigbb_functions", folder / "aigbb_functions", ignore=shutil.ignore_patterns("__pycache__"))
    port = _free_port()
    environment = _environment(folder, cache, port=port, **settings)
    with (folder / "service.log").open("wb") as log:
        argv = [sys.executable, "-m", "server", "serve"]
        process = subprocess.Popen(argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            with closing(_connect(process, folder, port)) as connection:
                token = (folder / "home" / "token").read_text().strip()
                service = Service(connection, token, psutil.Process(process.pid), 0)
                spares = settings.get("pool_size", service.ask("GET", "/healthz")["spares"])
                yield replace(service, spares=int(str(spares)))
        finally:
            _stop(process)


def _environment(folder: Path, cache: Path, **settings: object) -> dict[str, str]:
    """No setting of the developer's, and only folders and a port of our own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIGBB_")}
    ours = {
        "home": folder / "home",
        "functions_dir": folder / "aigbb_functions",
        "kernelspecs_dir": folder / "kernels",
        "cache": cache,
        **settings,
    }
    return {**kept, **{f"AIGBB_{name.upper()}": str(value) for name, value in ours.items()}}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _connect(process: subprocess.Popen[bytes], folder: Path, port: int) -> http.client.HTTPConnection:
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_SECONDS
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"The service did not start:\n{(folder / 'service.log').read_text()[-4000:]}")
        time.sleep(0.1)
    return http.client.HTTPConnection("127.0.0.1", port, timeout=300)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/healthz", trust_env=False).is_success
    except httpx2.TransportError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
