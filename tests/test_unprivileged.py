"""A service of a user without privileges: limits that Linux holds for users, and not for root."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.conftest import Server, running_server
from tests.doors import wait_until
from tests.processes import BOMB

# Whoever it is: nobody needs to have an account.
USER = 61234
OWNER = os.geteuid() or USER
PROCESSES = 40
THREADS = """
import threading
count, over = 0, threading.Event()
try:
    while True:
        threading.Thread(target=over.wait).start()
        count += 1
except RuntimeError as error:
    over.set()
    print(count, type(error).__name__)
"""


@pytest.fixture(scope="module")
def service() -> Iterator[Server]:
    """A service with nothing that belongs to somebody else, its cache of packages included."""
    if not shutil.which("bwrap"):
        pytest.skip("NOT TESTED: limits of a service without privileges, since bubblewrap is missing.")
    runner = [sys.executable, "-m", "tests.unprivileged", str(USER)] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="aigbb-") as base:
        cache = Path(base, "cache")
        for folder in (Path(base), cache, Path(base, "shown")):
            folder.mkdir(exist_ok=True)
            os.chown(folder, OWNER, -1)
        settings = {"kernel_pids": PROCESSES, "pool_size": 2}
        with running_server(
            Path(base, "service"), cache, {"HOME": base}, runner=runner, seeded=False, **settings
        ) as started:
            yield started


@pytest.fixture
def client(service: Server) -> Iterator[httpx2.Client]:
    """A client of it."""
    with service.client() as opened:
        yield opened


def test_it_forks_kernels_and_runs_functions(client: httpx2.Client) -> None:
    wait_until(lambda: client.get("/healthz").json()["fork"] == "ready")
    assert client.get("/healthz").json()["confinement"]["profile"] == "default"
    body = {"source": "def who() -> int:\n    import os\n    return os.getuid()\n"}
    assert client.post("/register", json=body).status_code == 201
    assert client.post("/functions/who/call", json={}).json()["result"] == OWNER


def printed(client: httpx2.Client, body: dict[str, str]) -> list[str]:
    """The words that code prints."""
    [output] = client.post("/execute", json=body).json()["outputs"]
    words: list[str] = output["text"].split()
    return words


@pytest.mark.capability("processes and threads")
@pytest.mark.parametrize("code", [BOMB, THREADS], ids=["processes", "threads"])
@pytest.mark.parametrize("pinned", [None, False, True], ids=["clean", "session", "pinned"])
def test_processes_and_threads_are_bounded_for_each_kernel(
    client: httpx2.Client, code: str, *, pinned: bool | None
) -> None:
    body = {"code": code}
    if pinned is not None:
        body["session"] = client.post("/sessions", json={"pinned": pinned}).json()["id"]
    count, error = printed(client, body)
    assert 0 < int(count) < PROCESSES
    assert error == ("BlockingIOError" if code == BOMB else "RuntimeError")
    # What one kernel has used up is not another's.
    assert int(printed(client, {"code": THREADS})[0]) > PROCESSES // 2
    if pinned is not None:
        client.delete(f"/sessions/{body['session']}")
