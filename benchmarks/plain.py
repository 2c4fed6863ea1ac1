"""The same things done with plain jupyter_client and pip, as one would without a service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

from benchmarks.timing import Sample, Watch

SECONDS = 120.0


def isolate(folder: Path) -> None:
    """Keep the user's Jupyter and IPython folders, and switches of this Python, out of what is measured."""
    for name in [n for n in os.environ if n.startswith("PYTHON")]:
        del os.environ[name]
    os.environ["JUPYTER_PATH"] = str(folder)
    os.environ["JUPYTER_RUNTIME_DIR"] = str(folder / "runtime")
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
        return start_new_kernel(kernel_name=self.name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @contextmanager
    def running(self) -> Iterator[BlockingKernelClient]:
        """A client of a kernel that stays."""
        manager, client = self.start()
        try:
            yield client
        finally:
            client.stop_channels()
            manager.shutdown_kernel()

    def fresh(self, code: str, expected: str) -> Sample:
        """Start a kernel for one piece of code."""
        watch = Watch()
        manager, client = self.start()
        watch.lap("start")
        try:
            _check(code, round_trip(client, code), expected)
            watch.lap("execute")
        finally:
            client.stop_channels()
            manager.shutdown_kernel()
        watch.lap("shutdown")
        return watch.laps


def timed(client: BlockingKernelClient, code: str, expected: str) -> Sample:
    """One round trip to a kernel that runs."""
    watch = Watch()
    result = round_trip(client, code)
    watch.lap("round trip")
    _check(code, result, expected)
    return watch.laps


def round_trip(client: BlockingKernelClient, code: str) -> str:
    """Execute, and wait for the reply and for idle. Returns the result's text."""
    asked, result = client.execute(code), ""
    while client.get_shell_msg(timeout=SECONDS)["parent_header"].get("msg_id") != asked:
        pass
    while True:
        message = client.get_iopub_msg(timeout=SECONDS)
        kind, content = message["msg_type"], message["content"]
        if message["parent_header"].get("msg_id") != asked:
            continue
        if kind == "execute_result":
            result = content["data"]["text/plain"]
        if kind == "status" and content["execution_state"] == "idle":
            return result


def environment(folder: Path, wheels: Path, requirements: list[str]) -> Sample:
    """A new virtual environment with these packages, from wheels on this disk; no index is asked."""
    watch = Watch()
    _run(sys.executable, "-m", "venv", folder)
    watch.lap("venv")
    _pip(folder, "--isolated", "install", "-q", "--no-index", "--find-links", wheels, *requirements)
    watch.lap("pip install")
    return watch.laps


def download(folder: Path, wheels: Path, requirements: list[str]) -> None:
    """Fetch wheels, with the pip of a throw-away environment."""
    _run(sys.executable, "-m", "venv", folder)
    _pip(folder, "download", "-q", "--only-binary", ":all:", "-d", wheels, *requirements)


def _pip(environment: Path, *arguments: str | Path) -> None:
    _run(environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check", *arguments)


def _run(*argv: str | Path) -> None:
    finished = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if finished.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, argv))}:\n{finished.stderr[-4000:]}")


def _check(code: str, result: str, expected: str) -> None:
    if result != expected:
        raise RuntimeError(f"{code} gave {result!r}, not {expected!r}")
