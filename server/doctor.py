"""`aigbb doctor`: what can be wrong with an installation, and what to do about it."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from uv import find_uv_bin

from kernels.kernelspecs import ALIAS
from server.client import Client, ServiceProblem
from server.errors import Unreachable
from server.settings import Settings

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. fix says what to do when it is not ok."""

    check: str
    ok: bool
    detail: str
    fix: str


def examine(settings: Settings, client: Client) -> list[Finding]:
    """Look at everything that does not depend on the service running, then at the service."""
    return [_python(), _uv(), *_home(settings), _kernelspec(settings), *_service(client)]


def _python() -> Finding:
    version = sys.version.split()[0]
    return Finding("Python", sys.version_info >= (3, 11), version, "Install Python 3.11 or newer.")


def _uv() -> Finding:
    try:
        done = subprocess.run([find_uv_bin(), "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("uv", False, str(error), "Run `make clean serve` to install it again.")
    return Finding("uv", True, done.stdout.strip(), "")


def _home(settings: Settings) -> Iterator[Finding]:
    home = settings.home
    if not home.is_dir():
        yield Finding("home", False, f"{home} is not there", "Start the service once: `make serve`.")
        return
    private = stat.S_IMODE(home.stat().st_mode) & 0o077 == 0
    yield Finding("home", private, str(home), f"Close it to others: chmod 700 '{home}'")
    free = shutil.disk_usage(home).free / GIB
    yield Finding("disk", free > 1, f"{free:.1f} GiB free", "Free some space: an environment needs up to 0.5 GiB.")
    readable = settings.find_token() is not None
    yield Finding("token", readable, "found" if readable else "none", "Start the service once, or set AIGBB_TOKEN.")


def _kernelspec(settings: Settings) -> Finding:
    path = settings.kernelspecs_dir / ALIAS / "kernel.json"
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
        python = str(spec["argv"][0])
    except (OSError, ValueError, KeyError, IndexError):
        return Finding("Jupyter kernel", False, f"no {ALIAS} in {path.parents[1]}", "Start the service once.")
    ok = shutil.which(python) is not None
    fix = "Start the service: it writes the kernelspec anew."
    return Finding("Jupyter kernel", ok, python if ok else f"{python} is gone", fix)


def _service(client: Client) -> Iterator[Finding]:
    try:
        health = client.request("GET", "/healthz")
    except (Unreachable, ServiceProblem) as error:
        yield Finding("service", False, error.detail, error.hint)
        return
    yield Finding(
        "service", health["status"] == "ok", f"{health['status']} at {client.url}", "Wait, or raise AIGBB_MAX_WAITING."
    )
    try:
        kernels = client.request("GET", "/kernels")
    except ServiceProblem as error:
        yield Finding("token fits", False, error.detail, error.hint)
        return
    current = next(k for k in kernels if k["current"])
    yield Finding("serving kernel", current["available"], current["kernel"], "Restart the service: it rebuilds it.")
