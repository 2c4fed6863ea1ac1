"""`aigbb doctor`: what can be wrong with an installation, and what to do about it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jupyter_core.paths import jupyter_path
from uv import find_uv_bin

from kernels import machine
from kernels.clock import as_time
from kernels.forkserver import can_fork
from kernels.kernelspecs import ALIAS
from server.client import Client, ServiceProblem
from server.errors import Unreachable
from server.serving import bound
from server.settings import Settings, traces, unknown

GIB = 1024**3
INDEX_SECONDS = 20.0
# A service that is starting takes requests, and answers once it is ready.
SERVICE_SECONDS = 10.0

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. A warning is something to know of, a problem keeps the service from working.

    fix says what to do when it is not ok.
    """

    check: str
    state: State
    detail: str
    fix: str = ""

    @classmethod
    def of(cls, check: str, ok: bool, detail: str, fix: str, otherwise: State = "problem") -> Finding:
        """What was found, and what it is if it is not ok."""
        return cls(check, "ok" if ok else otherwise, detail, fix)


def examine(settings: Settings, client: Client) -> list[Finding]:
    """Look at everything that does not depend on the service running, then at the service."""
    return [
        _python(),
        *_programs(settings),
        *_home(settings),
        *_folders(settings),
        *_jupyter(settings),
        *_confinement(settings),
        _fork(settings),
        *_chat(settings),
        *_environment(),
        *_service(settings, replace(client, patience=SERVICE_SECONDS)),
    ]


def _python() -> Finding:
    return Finding.of("Python", sys.version_info >= (3, 11), sys.version.split()[0], "Install Python 3.11 or newer.")


# -- what environments are built with


def _programs(settings: Settings) -> Iterator[Finding]:
    try:
        done = subprocess.run([find_uv_bin(), "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("uv", "problem", str(error), "Run `make clean serve` to install it again.")
        return
    yield Finding("uv", "ok", done.stdout.strip())
    yield _index(settings)


def _index(settings: Settings) -> Finding:
    """Ask the package index for one package, past every cache."""
    argv = [find_uv_bin(), "pip", "compile", "-", "--no-deps", "--no-cache", "--quiet", "--no-config"]
    argv += ["--python", sys.executable, "--color", "never"]
    env = dict(settings.uv_environment())
    fix = "Only functions that need new packages are concerned. Check the network, a proxy, or UV_INDEX_URL."
    try:
        subprocess.run(
            argv, input="packaging\n", env=env, capture_output=True, text=True, timeout=INDEX_SECONDS, check=True
        )
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["no words"])[-1].strip(" ╰─▶│├·")
        return Finding("package index", "warning", said[:200], fix)
    except (OSError, subprocess.SubprocessError):
        return Finding("package index", "warning", f"no answer in {INDEX_SECONDS:g} s", fix)
    return Finding("package index", "ok", "it answers")


# -- folders


def _home(settings: Settings) -> Iterator[Finding]:
    home = settings.home
    if not home.is_dir():
        yield Finding("home", "problem", f"{home} is not there", "Start the service once: `make serve`.")
        return
    private = stat.S_IMODE(home.stat().st_mode) & 0o077 == 0
    yield Finding.of("home", private, str(home), f"Close it to others: chmod 700 '{home}'")
    free = shutil.disk_usage(home).free / GIB
    state: State = "problem" if free < 1 else "warning" if free < 3 else "ok"
    yield Finding("disk", state, f"{free:.1f} GiB free", "Free some space: an environment needs up to 0.5 GiB.")
    readable = settings.find_token() is not None
    yield Finding.of("token", readable, "found" if readable else "none", "Start the service once, or set AIGBB_TOKEN.")
    yield _clock(home)


def _clock(home: Path) -> Finding:
    """Expiry and history go by the clock; one that was set back is seen by what was written later than now."""
    written = max((path.stat().st_mtime for path in home.iterdir()), default=0.0)
    now = as_time(time.time())
    fix = "The home was written to in the future: set the clock, and have it kept by NTP."
    return Finding.of("clock", written <= time.time() + 60, now, fix, "warning")


def _folders(settings: Settings) -> Iterator[Finding]:
    for check, folder, name in (
        ("functions", settings.functions_dir, "AIGBB_FUNCTIONS_DIR"),
        ("kernelspecs", settings.kernelspecs_dir, "AIGBB_KERNELSPECS_DIR"),
    ):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        fix = f"Make {there} writable for you, or name another folder in {name}."
        yield Finding.of(f"{check} folder", os.access(there, os.W_OK), str(folder), fix)


def _jupyter(settings: Settings) -> Iterator[Finding]:
    path = settings.kernelspecs_dir / ALIAS / "kernel.json"
    seen = str(settings.kernelspecs_dir) in jupyter_path("kernels")
    fix = f"Notebooks won't offer the kernel: add {settings.kernelspecs_dir.parent} to JUPYTER_PATH."
    yield Finding.of("Jupyter looks there", seen, "yes" if seen else "no", fix, "warning")
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
        python = str(spec["argv"][0])
    except (OSError, ValueError, KeyError, IndexError):
        yield Finding("Jupyter kernel", "problem", f"no {ALIAS} in {path.parents[1]}", "Start the service once.")
        return
    there = shutil.which(python) is not None
    fix = "Start the service: it writes the kernelspec anew."
    yield Finding.of("Jupyter kernel", there, python if there else f"{python} is gone", fix)


# -- what the machine has


def _confinement(settings: Settings) -> Iterator[Finding]:
    """What kernels can be confined by here; it has to be there where it is required, or others may call."""
    for part in asyncio.run(machine.examine()):
        needed = settings.sandbox == "required" or (
            settings.sandbox == "auto" and part.name == "bubblewrap" and not settings.is_loopback
        )
        otherwise: State = "warning" if part.optional or not needed else "problem"
        yield Finding.of(part.name, part.ok, part.detail, part.fix, otherwise)


def _fork(settings: Settings) -> Finding:
    if not settings.fork:
        return Finding("fork", "warning", "switched off", "Kernels start in a second: unset AIGBB_FORK.")
    fix = "Kernels start in a second and not in milliseconds: only Linux can fork them."
    return Finding.of("fork", can_fork(), "kernels can be forked" if can_fork() else "not here", fix, "warning")


def _chat(settings: Settings) -> Iterator[Finding]:
    if settings.model_service() is None:
        fix = "Chat has no model. Set OPENAI_API_KEY, or OPENAI_BASE_URL for a service of your own."
        yield Finding("model", "warning", "none configured", fix)
        return
    named = settings.model is not None
    fix = "Each request must name its model, unless AIGBB_MODEL names one."
    yield Finding.of("model", named, settings.model or "a service, and no name", fix, "warning")


def _environment() -> Iterator[Finding]:
    for sentence in unknown():
        yield Finding("settings", "warning", sentence, "Correct the variable's name, or remove it.")
    wanted = traces()
    if wanted.problem:
        yield Finding("traces", "warning", wanted.problem, "See docs/observability.md.")
    elif wanted.on:
        there = importlib.util.find_spec("opentelemetry.sdk") is not None
        fix = "pip install 'aigbb-functions[otel]'"
        yield Finding.of("traces", there, "sent" if there else "wanted, but not installed", fix, "warning")


# -- the service


def _service(settings: Settings, client: Client) -> Iterator[Finding]:
    try:
        health = client.request("GET", "/healthz")
    except (Unreachable, ServiceProblem) as error:
        yield from _without_service(settings, client, error.detail, error.hint)
        return
    if not isinstance(health, dict) or "status" not in health:
        yield Finding("service", "problem", f"something else answers at {client.url}", "Choose another AIGBB_PORT.")
        return
    detail = f"{health['status']} at {client.url}"
    yield Finding.of("service", health["status"] == "ok", detail, "Wait, or raise AIGBB_MAX_WAITING.", "warning")
    for fault in health.get("faults", ()):
        fix = "The service makes it again; if that fails, its log says why: deployment.not_mended."
        yield Finding(str(fault["code"]), "problem", str(fault["detail"]), fix)
    try:
        kernels: list[dict[str, Any]] = client.request("GET", "/kernels")
    except ServiceProblem as error:
        yield Finding("token fits", "problem", error.detail, error.hint)
        return
    current = next(k for k in kernels if k["current"])
    fix = "Restart the service: it rebuilds it."
    yield Finding.of("serving kernel", current["available"], current["kernel"], fix)


def _without_service(settings: Settings, client: Client, detail: str, hint: str) -> Iterator[Finding]:
    """Nobody answers: because nobody is there, or because another program has the port."""
    yield Finding("service", "problem", detail, hint)
    try:
        with bound(settings):
            yield Finding("port", "ok", f"{settings.port} is free")
    except OSError as error:
        fix = "Find out who listens there, or choose another AIGBB_PORT."
        yield Finding("port", "problem", f"{settings.host}:{settings.port}: {error.strerror}", fix)
