"""What one would use instead: each from the index, in an environment of its own, used as its documentation shows."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from uv import find_uv_bin

from benchmarks.load import Load, Target
from benchmarks.plain import run
from benchmarks.servers import Server, serving
from benchmarks.timing import Sample, Watch
from benchmarks.wire import Channels, Http

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(__file__).parent / "peer"
KERNEL = "ipykernel==7.4.0"
PINS: Mapping[str, tuple[str, ...]] = {
    "plain": ("jupyter_client==8.10.0", KERNEL),
    "obvious": ("fastapi==0.165.0", "uvicorn[standard]==0.54.0", "jupyter_client==8.10.0", KERNEL),
    "gateway": ("jupyter_kernel_gateway==3.0.1", KERNEL),
    "server": ("jupyter_server==2.21.1", "jupyter_kernel_client==1.0.2", KERNEL),
}
NOTEBOOK = {
    "cells": [
        {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": "# GET /two\n1+1"}
    ],
    "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 4,
}


@dataclass(frozen=True)
class Environments:
    """The peers' environments, kept below the cache, so that the next run finds them."""

    cache: Path

    def python(self, name: str, more: Sequence[str] = ()) -> Path:
        """The interpreter of a peer's environment: built once for its pins, bytecode compiled."""
        wanted = [*PINS[name], *more]
        digest = hashlib.sha256("\n".join([sys.version, *wanted]).encode()).hexdigest()[:12]
        folder = self.cache / "peers" / f"{name}-{digest}"
        if not folder.exists():
            self._build(folder, wanted)
        return folder / "bin" / "python"

    def _build(self, folder: Path, wanted: Sequence[str]) -> None:
        """Whole, or not there at all."""
        shutil.rmtree(aside := folder.with_name(f"{folder.name}.new"), ignore_errors=True)
        run(find_uv_bin(), "venv", "--quiet", "--python", sys.executable, "--relocatable", aside)
        options = ["--quiet", "--compile-bytecode", "--cache-dir", str(self.cache / "uv"), "--python", str(aside)]
        run(find_uv_bin(), "pip", "install", *options, *wanted)
        aside.rename(folder)

    def versions(self, name: str, more: Sequence[str] = ()) -> dict[str, str]:
        """What a peer's environment has."""
        listed = run(find_uv_bin(), "pip", "list", "--format", "json", "--python", self.python(name, more))
        return {found["name"].lower().replace("-", "_"): found["version"] for found in json.loads(listed)}


@dataclass(frozen=True)
class Jupyter:
    """A running jupyter_server, or a kernel_gateway with its websockets."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    token: str = ""

    @cached_property
    def http(self) -> Http:
        """Its REST API."""
        return Http(self.url, self.headers)

    def create(self, name: str = "python3") -> str:
        """Start a kernel; its id."""
        status, answer = self.http.request("POST", "/api/kernels", json.dumps({"name": name}).encode())
        if status != 201:
            raise RuntimeError(f"{name} did not start: {status} {answer.decode(errors='replace')}")
        return str(json.loads(answer)["id"])

    def delete(self, kernel: str) -> None:
        """End a kernel."""
        self.http.request("DELETE", f"/api/kernels/{kernel}")

    def channels(self, kernel: str) -> Channels:
        """A kernel's websocket."""
        return Channels(self.url, kernel, self.headers)

    def first_result(self, name: str) -> Sample:
        """Create a kernel, connect to it, execute; it is deleted afterwards, untimed."""
        watch = Watch()
        kernel = self.create(name)
        watch.lap("create")
        channels = self.channels(kernel)
        watch.lap("websocket")
        result = channels.execute("1+1")
        watch.lap("first result")
        channels.close()
        self.delete(kernel)
        if result != "2":
            raise RuntimeError(f"{name} gave {result!r}")
        return watch.laps

    def load(self, kernels: Sequence[str], *, clients: int, seconds: float) -> Load:
        """Clients over the websockets of these kernels."""
        targets = [Target("2", kernel=kernel, code="1+1") for kernel in kernels]
        return Load(self.url, self.headers, targets, clients, seconds)


def websocket_sample(channels: Channels) -> Sample:
    """One round trip."""
    watch = Watch()
    result = channels.execute("1+1")
    watch.lap("round trip")
    if result != "2":
        raise RuntimeError(f"1+1 gave {result!r}")
    return watch.laps


def http_sample(http: Http, method: str, path: str, body: Any, expected: bytes) -> Sample:
    """One request."""
    watch = Watch()
    status, answer = http.request(method, path, b"" if body is None else json.dumps(body).encode())
    watch.lap("answer")
    if status != 200 or expected not in answer:
        raise RuntimeError(f"{path} answered {status}: {answer[:500]!r}")
    return watch.laps


@contextmanager
def obvious(folder: Path, python: Path, kernels: int) -> Iterator[str]:
    """FastAPI with so many kernels; yields its URL."""
    argv = [str(python), "-m", "uvicorn", "obvious:app", "--app-dir", str(SCRIPTS), "--no-access-log", "--port"]
    environment = {"KERNELS": str(kernels)}
    server = Server("/openapi.json", lambda port: [*argv, str(port)], environment, folder=folder)
    with serving(folder / f"obvious-{kernels}.log", server) as running:
        yield running.url


@contextmanager
def gateway_http(folder: Path, python: Path, kernels: int) -> Iterator[str]:
    """kernel_gateway that serves a notebook's cell at /two, with so many kernels; yields its URL."""
    notebook = folder / "two.ipynb"
    notebook.write_text(json.dumps(NOTEBOOK))
    mode = ["kernel_gateway.notebook_http", f"--KernelGatewayApp.seed_uri={notebook}"]
    argv = [str(python), "-m", "kernel_gateway", f"--KernelGatewayApp.api={mode[0]}", mode[1]]
    argv.append(f"--KernelGatewayApp.prespawn_count={kernels}")
    server = Server("/two", lambda port: [*argv, f"--KernelGatewayApp.port={port}"], folder=folder)
    with serving(folder / f"gateway-{kernels}.log", server) as running:
        yield running.url


@contextmanager
def gateway(folder: Path, python: Path, *, patched: bool) -> Iterator[Jupyter]:
    """kernel_gateway with its websockets."""
    argv = [str(python), "-m", "kernel_gateway", *_patch(patched)]
    server = Server("/api", lambda port: [*argv, f"--KernelGatewayApp.port={port}"], folder=folder)
    with serving(folder / f"gateway-{patched=}.log", server) as running:
        yield Jupyter(running.url)


@contextmanager
def jupyter_server(
    folder: Path, python: Path, *, patched: bool, environment: Mapping[str, str] | None = None
) -> Iterator[Jupyter]:
    """jupyter_server. environment: more variables for it."""
    token = uuid4().hex
    headers = {"Authorization": f"token {token}"}
    argv = [str(python), "-m", "jupyter_server", "--no-browser", "--allow-root", *_patch(patched)]
    argv += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    server = Server("/api", lambda port: [*argv, f"--ServerApp.port={port}"], environment or {}, headers, folder)
    with serving(folder / f"server-{patched=}.log", server) as running:
        yield Jupyter(running.url, headers, token)


def _patch(patched: bool) -> list[str]:
    return [f"--config={SCRIPTS / 'nodelay.py'}"] if patched else []


@dataclass(frozen=True)
class KernelClient:
    """jupyter_kernel_client with one kernel, in the process of its own environment."""

    process: subprocess.Popen[str]
    log: Path

    def sample(self, _: int) -> Sample:
        """One round trip; the time is its own."""
        assert self.process.stdin
        assert self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.write('"1+1"\n')
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"jupyter_kernel_client ended:\n{self.log.read_text()[-4000:]}")
        answer = json.loads(line)
        if answer["result"] != "2":
            raise RuntimeError(f"1+1 gave {answer['result']!r}")
        return {"round trip": answer["milliseconds"]}


@contextmanager
def kernel_client(log: Path, python: Path, server: Jupyter) -> Iterator[KernelClient]:
    """The client of a server."""
    argv = [str(python), str(SCRIPTS / "client.py"), server.url, server.token]
    pipe = subprocess.PIPE
    with log.open("w") as said, subprocess.Popen(argv, text=True, stdin=pipe, stdout=pipe, stderr=said) as process:
        yield KernelClient(process, log)
