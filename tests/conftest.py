"""What the tests share: one real environment for the engine's tests, one real server for the doors' tests.

Both are made once a run, in a temporary folder; nothing of the user's own is read or written.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
import zmq.asyncio
from blockbuster import BlockBuster, blockbuster_ctx
from filelock import FileLock
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from kernels import sandbox
from kernels.environments import Environments, Generation
from kernels.forkserver import command
from kernels.home import Home
from kernels.kernel import Kernel, Launch
from kernels.kernelspecs import FORK, Shelf
from kernels.packages import DEFAULT_REQUIREMENTS, Lock, Uv, parse_requirements
from kernels.progress import silent
from kernels.provisioner import SOCKET
from server.settings import Settings
from server.snapshots import write_if_other, write_snapshot
from tests.artifacts import ArtifactCache, link_tree
from tests.node import Programs, install
from tests.provider import Provider, serving
from tests.seeds import seed

ROOT = Path(__file__).parents[1]

# How long an example takes says how busy the machine is.
hypothesis_settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("steady")


def pytest_configure() -> None:
    """A shell that runs the tests in the background has them, and all that they start, ignore interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Files that take longest. Workers get whole files: those that begin last decide when all is over.
LONGEST = (
    "confinement",
    "crash",
    "faults",
    "docs",
    "examples",
    "cli",
    "calling",
    "api_packages",
    "backup",
    "approvals",
    "postman",
    "forkserver",
    "kernel",
    "errors",
    "secrets",
    "notebook",
    "chat",
    "cli_functions",
    "unprivileged",
    "extreme",
    "client",
    "following",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    rank = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What this machine could not test is said at the end, and not only counted."""
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", ())]
    reasons = {str(found[2]) for found in skipped if isinstance(found, tuple)}
    for reason in sorted(reason for reason in reasons if "NOT TESTED" in reason):
        terminalreporter.write_line(reason.removeprefix("Skipped: "), yellow=True, bold=True)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's leaks into a test."""
    for name in [n for n in os.environ if n.startswith("AIGBB_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop that the service runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def no_blocking() -> Iterator[BlockBuster]:
    """A test in which our code blocks the event loop fails."""
    with blockbuster_ctx(["kernels", "server"]) as blockbuster:
        # A look at a file's metadata is quick, and shutil no longer works once os.stat is wrapped.
        blockbuster.functions["os.stat"].deactivate()
        for function in blockbuster.functions.values():
            # Before it serves, nobody waits for the loop.
            function.can_block_in("server/service.py", {"open"})
            # Starting a kernel writes a small connection file and forks: jupyter_client's own way.
            function.can_block_in("jupyter_client/manager.py", {"_async_start_kernel", "_async_cleanup_resources"})
            function.can_block_in("jupyter_client/manager.py", {"__init__"})
        yield blockbuster


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all workers of this run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session")
def artifacts(shared: Path) -> ArtifactCache:
    """What runs of the same sources have in common."""
    return ArtifactCache.beside(shared.parent)


@pytest.fixture(scope="session")
def cache(shared: Path, artifacts: ArtifactCache) -> Path:
    """The installer's cache of this run, with what services need to start."""
    folder = shared / "cache"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            for shipped in (True, False):
                seed_of(artifacts, shipped=shipped)
            artifacts.finish_cache()
            link_tree(artifacts.cache, folder)
    return folder


# -- the engine


@pytest.fixture(scope="session")
def uv(cache: Path) -> Uv:
    """uv as the service runs it."""
    return Uv(Path(sys.executable), cache / "uv", Settings().uv_environment())


@pytest.fixture(scope="session")
def default_lock(artifacts: ArtifactCache, uv: Uv) -> Lock:
    """The default packages, resolved."""

    def resolve(folder: Path) -> None:
        requirements = parse_requirements(DEFAULT_REQUIREMENTS.read_text().splitlines())
        resolved = asyncio.run(uv.resolve({r: ["default"] for r in requirements}, None, silent))
        (folder / "default.lock").write_text(resolved.lock.text)

    return Lock((artifacts.made("lock", resolve) / "default.lock").read_text())


@pytest.fixture(scope="session")
def home(shared: Path, cache: Path) -> Home:
    """A home with one generation in it, shared by all workers: nothing may change it."""
    return Home.create(shared / "home", cache)


@pytest.fixture(scope="session")
def generation(artifacts: ArtifactCache, home: Home, uv: Uv, default_lock: Lock) -> Generation:
    """The default packages, installed, without any function."""

    def build(folder: Path) -> None:
        apart = Environments(Home.create(folder, home.cache), uv)
        made = asyncio.run(apart.build(1, default_lock, None, silent))
        fonts = {"MPLCONFIGDIR": str(made.folder / "matplotlib"), "PATH": os.defpath}
        subprocess.run([made.python, "-c", "import matplotlib.font_manager"], env=fonts, check=True)

    with FileLock(home.path / "test.lock"):
        found = Environments(home, uv).find(1, default_lock)
        if found is None:
            template = artifacts.made("generation", build) / "generations" / "1"
            link_tree(template, home.generations / "1")
            found = Environments(home, uv).find(1, default_lock)
            assert found is not None
            write_snapshot(home.snapshots / "1", [], {})
            write_if_other(found.pointer, str(home.snapshots / "1"))
            Shelf(found.kernelspecs, home.path, FORK).put(found)
    return found


@contextmanager
def launching(generation: Generation, home: Home, folder: Path) -> Iterator[Launch]:
    """How a kernel of the shared generation starts, with folders of its own."""
    env = sandbox.kernel_environment(generation.python, folder, {})
    with tempfile.TemporaryDirectory(prefix="aigbb-") as runtime:
        yield Launch(
            generation.kernel_name,
            generation.number,
            generation.kernelspecs,
            {**env, "AIGBB_OWNED": "1"},
            Path(runtime),
            folder / "work",
        )


@pytest.fixture(scope="session")
def warm_parent(generation: Generation, home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a parent that the shared generation's kernels can be forked from."""
    with launching(generation, home, tmp_path_factory.mktemp("warm")) as launch, socket.socket(socket.AF_UNIX) as door:
        address = launch.runtime / "parent"
        door.bind(str(address))
        door.listen()
        argv, env = command(launch)
        parent = subprocess.Popen(argv, env=env, stdin=door.fileno(), stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(str(address))
                line.sendall(b'{"do": "refresh"}\n')
                assert line.recv(4096).startswith(b'{"late": {}, ')
            yield address
        finally:
            parent.kill()
            parent.wait()


@pytest.fixture(params=[pytest.param("spawned", marks=pytest.mark.nightly), "forked"])
def launch(request: pytest.FixtureRequest, generation: Generation, home: Home, tmp_path: Path) -> Iterator[Launch]:
    """How a kernel of the shared generation starts: by itself, or as a fork of a warm parent."""
    with launching(generation, home, tmp_path) as found:
        forked = {SOCKET: str(request.getfixturevalue("warm_parent"))} if request.param == "forked" else {}
        yield replace(found, env={**found.env, **forked})


@pytest.fixture
async def kernel(launch: Launch) -> AsyncIterator[Kernel]:
    """A running kernel."""
    context = zmq.asyncio.Context()
    try:
        started = await Kernel.start(launch, context)
        yield started
        await started.stop()
    finally:
        context.term()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give an interrupt the time that it takes on a busy machine, before the kernel is killed."""
    for grace in ("INTERRUPT_GRACE", "MAX_GRACE"):
        monkeypatch.setattr(f"kernels.kernel.{grace}", 100.0)


# -- the doors


@dataclass
class Server:
    """A real service in a process of its own. `client` sends its token; `said` is what it printed."""

    process: subprocess.Popen[str]
    home: Path
    functions: Path
    environment: dict[str, str]
    url: str = ""
    said: list[str] = field(default_factory=list)

    @property
    def token(self) -> str:
        """The token that it generated."""
        return (self.home / "token").read_text().strip()

    def client(self, token: str | None = None) -> httpx2.Client:
        """A client of it."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=120)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it, and wait for that."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(30)


def shown_beside(folder: Path) -> Path:
    """A folder beside a test's own, which kernels of its service may write."""
    found = folder.parent / "shown"
    found.mkdir(exist_ok=True)
    return found


@pytest.fixture
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new folder that kernels of the services of this run may write, and the test too."""
    found = tmp_path_factory.getbasetemp() / "shown" / uuid4().hex[:8]
    found.mkdir(parents=True)
    return found


def server_environment(folder: Path, cache: Path, **settings: object) -> dict[str, str]:
    """The environment of a service that lives in `folder` alone."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIGBB_", "OPENAI_", "AZURE_"))}
    ours = {
        "home": folder / "home",
        "functions_dir": folder / "aigbb_functions",
        "kernelspecs_dir": folder / "jupyter" / "kernels",
        "cache": cache,
        "port": 0,
        "pool_size": 1,
        "mounts": f"{shown_beside(folder)}:rw",
        **settings,
    }
    return {**kept, **{f"AIGBB_{name.upper()}": str(value) for name, value in ours.items()}, "COLUMNS": "200"}


def seed_of(artifacts: ArtifactCache, *, shipped: bool) -> Path:
    """Return the folder of a service that started once and was stopped."""

    def start(folder: Path) -> None:
        with running_server(folder, artifacts.cache, seeded=False, shipped=shipped):
            pass

    return artifacts.made("shipped" if shipped else "seed", start)


@contextmanager
def running_server(
    folder: Path,
    cache: Path,
    more: Mapping[str, str] | None = None,
    /,
    *,
    runner: Any = (),
    seeded: Any = True,
    shipped: Any = False,
    **settings: object,
) -> Iterator[Server]:
    """Start a service in `folder`, with more in its environment, and wait until it is ready.

    runner: list of str, a command that starts the service, such as one that changes the user. shipped: bool, whether
    it is as users have it, with the functions that ship and all default packages; else it has no function of its own,
    and kernels have only what they cannot do without. seeded: bool, whether a new home has all of that already, in
    place of building it.
    """
    if shipped and not (folder / "aigbb_functions").exists():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "aigbb_functions", folder / "aigbb_functions", ignore=ignored)
    if seeded and not (folder / "home").exists():
        seed(seed_of(ArtifactCache.beside(cache.parents[1]), shipped=shipped), folder)
    environment = {**server_environment(folder, cache, **settings), **(more or {})}
    argv = [*runner, sys.executable, "-m", "server" if shipped else "tests.lean", "serve"]
    process = subprocess.Popen(argv, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    server = Server(process, folder / "home", folder / "aigbb_functions", environment)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            server.said.append(line)
            if match := re.search(r"API +(http://\S+)", line):
                server.url = match[1]
            if line.startswith("curl"):
                break
        assert server.url, "".join(server.said)
        reader = threading.Thread(target=lambda: server.said.extend(process.stderr or ()))
        reader.start()
        yield server
        server.stop()
        reader.join()
    finally:
        server.stop(signal.SIGKILL)
        if process.stderr:
            process.stderr.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Server]:
    """A service with the functions that ship, for tests that leave it as they found it."""
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder, cache, shipped=True) as started:
        yield started


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    """A model's service that says what tests have written down."""
    with serving() as started:
        yield started


@pytest.fixture(scope="session")
def programs(artifacts: ArtifactCache) -> Programs:
    """What tests run in Node."""
    return Programs(artifacts.made("javascript", install))


@pytest.fixture
def client(server: Server) -> Iterator[httpx2.Client]:
    """A client of the shared service."""
    with server.client() as opened:
        yield opened
