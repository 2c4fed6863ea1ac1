"""The same things done with plain jupyter_client and pip, as one would without a service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from benchmarks.timing import Sample, Watch

SECONDS = 120.0
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def isolate(folder: Path) -> None:
    """Keep the user's Jupyter and IPython folders, and switches of this Python, out of what is measured."""
    for name in [n for n in os.environ if n.startswith(("PYTHON", "JUPYTER"))]:
        del os.environ[name]
    os.environ["JUPYTER_PATH"] = str(folder)
    for name in ("DATA", "CONFIG", "RUNTIME"):
        os.environ[f"JUPYTER_{name}_DIR"] = str(folder / "jupyter" / name.lower())
    os.environ["IPYTHONDIR"] = str(folder / "ipython")


@dataclass(frozen=True)
class Stock:
    """A kernelspec as `python -m ipykernel install` writes it: the stock ipykernel_launcher of some Python."""

    name: str

    @classmethod
    def write(cls, folder: Path, name: str, python: Path) -> Stock:
        """Put the kernelspec where Jupyter looks, which `isolate` has made `folder`."""
        spec = folder / "kernels" / name
        spec.mkdir(parents=True)
        argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": name, "language": "python"}))
        return cls(name)

    def start(self) -> tuple[KernelManager, BlockingKernelClient]:
        """A fresh kernel, ready. The caller ends it."""
        return start_new_kernel(kernel_name=self.name, **QUIET)

    @contextmanager
    def running(self) -> Iterator[BlockingKernelClient]:
        """A client of a kernel that stays."""
        with self.process() as (_, client):
            yield client

    @contextmanager
    def process(self) -> Iterator[tuple[int, BlockingKernelClient]]:
        """The same with the kernel's process id."""
        manager, client = self.start()
        try:
            assert isinstance(manager.provisioner, LocalProvisioner)
            assert manager.provisioner.pid
            yield manager.provisioner.pid, client
        finally:
            _end(manager, client)

    def fresh(self, code: str, expected: str, *, now: bool = False) -> Sample:
        """Start a kernel for one piece of code. now: end it without asking it first."""
        watch = Watch()
        manager, client = self.start()
        watch.lap("start")
        try:
            _check(code, round_trip(client, code), expected)
            watch.lap("execute")
        finally:
            _end(manager, client, now=now)
        watch.lap("shutdown")
        return watch.laps

    def cold(self, code: str) -> Sample:
        """From the start of the process to the first reply, without waiting for the kernel to say that it is ready."""
        watch = Watch()
        manager = KernelManager(kernel_name=self.name)
        manager.start_kernel(**QUIET)
        client = manager.blocking_client()
        client.start_channels()
        try:
            asked = client.execute(code)
            reply = _reply(client, asked)
            watch.lap("start and execute")
        finally:
            _end(manager, client, now=True)
        _check(code, reply["content"]["status"], "ok")
        return watch.laps

    def starts(self, code: str, expected: str, threads: int, each: int) -> float:
        """Fresh kernels a second, in so many threads, each starting so many."""
        begin = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            jobs = [pool.submit(self.fresh, code, expected, now=True) for _ in range(threads * each)]
            for job in jobs:
                job.result()
        return threads * each / (time.perf_counter() - begin)


def _end(manager: KernelManager, client: BlockingKernelClient, *, now: bool = False) -> None:
    client.stop_channels()
    manager.shutdown_kernel(now=now)


def timed(client: BlockingKernelClient, code: str, expected: str) -> Sample:
    """One round trip to a kernel that runs."""
    watch = Watch()
    result = round_trip(client, code)
    watch.lap("round trip")
    _check(code, result, expected)
    return watch.laps


def printed(client: BlockingKernelClient, code: str, characters: int) -> Sample:
    """One round trip that writes so many characters to stdout."""
    watch = Watch()
    asked = client.execute(code)
    _reply(client, asked)
    texts = [content["text"] for kind, content in _until_idle(client, asked) if kind == "stream"]
    received = len("".join(texts))
    watch.lap("round trip")
    _check(code, str(received), str(characters))
    return watch.laps


def first_output(client: BlockingKernelClient, code: str) -> Sample:
    """Until the first text of stdout is here; then the code is left to end."""
    watch = Watch()
    messages = _until_idle(client, client.execute(code))
    next(content for kind, content in messages if kind == "stream")
    watch.lap("first text")
    for _ in messages:
        pass
    return watch.laps


def round_trip(client: BlockingKernelClient, code: str) -> str:
    """Execute, and wait for the reply and for idle. Returns the result's text."""
    asked, result = client.execute(code), ""
    _reply(client, asked)
    for kind, content in _until_idle(client, asked):
        if kind == "execute_result":
            result = content["data"]["text/plain"]
    return result


def _reply(client: BlockingKernelClient, asked: str) -> Any:
    while True:
        message = client.get_shell_msg(timeout=SECONDS)
        if message["parent_header"].get("msg_id") == asked:
            return message


def _until_idle(client: BlockingKernelClient, asked: str) -> Iterator[tuple[str, Any]]:
    while True:
        message = client.get_iopub_msg(timeout=SECONDS)
        kind, content = message["msg_type"], message["content"]
        if message["parent_header"].get("msg_id") != asked:
            continue
        if kind == "status" and content["execution_state"] == "idle":
            return
        yield kind, content


def environment(folder: Path, wheels: Path, requirements: Sequence[str]) -> Sample:
    """A new virtual environment with these packages, from wheels on this disk; no index is asked."""
    watch = Watch()
    run(sys.executable, "-m", "venv", folder)
    watch.lap("venv")
    _pip(folder, "--isolated", "install", "-q", "--no-index", "--find-links", wheels, *requirements)
    watch.lap("pip install")
    return watch.laps


def download(folder: Path, wheels: Path, requirements: Sequence[str]) -> None:
    """Fetch wheels, with the pip of a throw-away environment."""
    run(sys.executable, "-m", "venv", folder)
    _pip(folder, "download", "-q", "--only-binary", ":all:", "-d", wheels, *requirements)


def _pip(environment: Path, *arguments: str | Path) -> None:
    run(environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check", *arguments)


def run(*argv: str | Path) -> str:
    """Run a program; its stdout. Raises RuntimeError with what it said where it fails."""
    finished = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if finished.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, argv))}:\n{finished.stderr[-4000:]}")
    return finished.stdout


def _check(code: str, result: str, expected: str) -> None:
    if result != expected:
        raise RuntimeError(f"{code} gave {result!r}, not {expected!r}")
