"""Who leaves frees the kernel soon, wherever the request was: queued, at the kernel's start, running or streaming."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.conftest import Server, running_server
from tests.doors import EVENTS, execute, register, tool_call
from tests.waiting import until

pytestmark = pytest.mark.anyio

SLEEPS = 'import time\n\ndef sleeps() -> int:\n    """Sleep."""\n    time.sleep(600)\n    return 1\n'
LONG = "import time\nprint('began', flush=True)\ntime.sleep(600)"
CODE, JSON = {"code": LONG, "timeout": 900}, {"Accept": "application/json"}
TOOLS = {"tool_calls": [tool_call("1", "sleeps", {})], "timeout": 900}

# Every way to a kernel: a path, a body, and what is accepted.
DOORS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "execute": ("/execute", CODE, JSON),
    "execute, as events": ("/execute", CODE, EVENTS),
    "call": ("/functions/sleeps/call?timeout=900", {}, JSON),
    "tools": ("/tools/run", TOOLS, JSON),
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Server]:
    """A service with one place and no kernel that waits: a start takes its time."""
    folder = tmp_path_factory.mktemp("leaving")
    (folder / "aigbb_functions").mkdir()
    with running_server(folder, cache, max_running=1, pool_size=0, fork="false", confirm="never") as started:
        with started.client() as client:
            register(client, SLEEPS, effects="read")
            execute(client, "1")  # on the kernel that came with the first environment; from now on each is started
        yield started


@pytest.fixture
async def client(own: Server) -> AsyncIterator[httpx2.AsyncClient]:
    """Who stays."""
    headers = {"Authorization": f"Bearer {own.token}"}
    async with httpx2.AsyncClient(base_url=own.url, headers=headers, timeout=120) as opened:
        yield opened


async def busy(client: httpx2.AsyncClient) -> tuple[int, int]:
    """How many run, and how many wait."""
    health = (await client.get("/healthz")).json()
    return health["running"], health["waiting"]


async def states(client: httpx2.AsyncClient) -> list[str]:
    """Where executions are that have not ended."""
    found = (await client.get("/executions")).json()
    listed = found["executions"] if isinstance(found, dict) else found
    return sorted(one["status"] for one in listed if one["ended"] is None)


async def wait(client: httpx2.AsyncClient, place: list[str]) -> None:
    """Until executions are in these places, and no others are under way."""
    async with asyncio.timeout(100):
        while await states(client) != place:
            await asyncio.sleep(0.01)


async def freed(client: httpx2.AsyncClient, own: Server) -> None:
    """Until nothing runs, nothing waits, and no kernel's process is left."""
    await wait(client, [])
    async with asyncio.timeout(100):
        while await busy(client) != (0, 0):
            await asyncio.sleep(0.01)
    service = psutil.Process(own.process.pid)
    await until(
        lambda: not any("launch.py" in str(child.cmdline()) and "-f" in child.cmdline() for child in running(service))
    )


def running(service: psutil.Process) -> list[psutil.Process]:
    """Its children that have not ended."""
    return [child for child in service.children() if child.status() != psutil.STATUS_ZOMBIE]


@asynccontextmanager
async def asking(own: Server, door: str) -> AsyncIterator[asyncio.Task[httpx2.Response]]:
    """Somebody asks by this door, and has gone at the end."""
    path, body, accept = DOORS[door]
    headers = {"Authorization": f"Bearer {own.token}", **accept}
    async with httpx2.AsyncClient(base_url=own.url, headers=headers, timeout=600) as impatient:
        asked = asyncio.create_task(impatient.post(path, json=body))
        try:
            yield asked
            assert not asked.done(), asked.result().text
        finally:
            asked.cancel()
            with suppress(asyncio.CancelledError):
                await asked


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("place", ["starting", "running"])
async def test_who_leaves_frees_the_kernel(door: str, place: str, client: httpx2.AsyncClient, own: Server) -> None:
    async with asking(own, door):
        await wait(client, [place])
    await freed(client, own)


async def test_who_leaves_the_queue_is_not_run(client: httpx2.AsyncClient, own: Server) -> None:
    async with asking(own, "execute"):
        await wait(client, ["running"])
        for door in DOORS:
            async with asking(own, door):
                await wait(client, ["queued", "running"])
            await wait(client, ["running"])
            assert await busy(client) == (1, 0)
    await freed(client, own)


async def test_who_leaves_the_line_of_a_session_leaves_its_variables(client: httpx2.AsyncClient, own: Server) -> None:
    session = (await client.post("/sessions")).json()["id"]
    code = {"code": "kept = 42\nimport time\ntime.sleep(600)", "session": session, "timeout": 900}
    first = asyncio.create_task(client.post("/execute", json=code))
    await wait(client, ["running"])
    second = asyncio.create_task(client.post("/execute", json={"code": "kept = 0", "session": session}))
    await wait(client, ["queued", "running"])
    for left in (second, first):
        left.cancel()
        with suppress(asyncio.CancelledError):
            await left
    answer = (await client.post("/execute", json={"code": "kept", "session": session})).json()
    assert answer["result"] == "42" or answer["state_preserved"] is False, answer
    await client.delete(f"/sessions/{session}")
    await freed(client, own)


async def test_who_leaves_in_the_middle_of_a_stream_frees_the_kernel(client: httpx2.AsyncClient, own: Server) -> None:
    async with client.stream("POST", "/execute", json=CODE, headers=EVENTS) as answer:
        async for line in answer.aiter_lines():
            if line == "event: stdout":
                break
    await freed(client, own)
