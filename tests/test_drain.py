"""A service that is told to stop: nothing new, time for what is going on, the truth for the rest, and nothing left."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kernels.errors import ShuttingDown
from server.draining import Drain
from server.registry import Registry
from tests import processes
from tests.conftest import ROOT, Server, running_server, server_environment
from tests.doors import problem, stream, wait_until
from tests.provider import Provider, Silence

pytestmark = pytest.mark.anyio

# Code that runs until there is a file of that name, having made another so that one knows that it runs.
UNTIL = (
    "import pathlib, time\npathlib.Path({begun!r}).touch()\nwhile not pathlib.Path({go!r}).exists(): time.sleep(0.02)\n"
)
# Ctrl-C is nothing to this.
STUBBORN = (
    "import pathlib, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\npathlib.Path({begun!r}).touch()\n"
)
IMPORT = (
    "import pathlib, time\n\nwhile not pathlib.Path({go!r}).exists(): time.sleep(0.02)\n\ndef late() -> int: return 1\n"
)
SLOW_IMPORT = "import time\n\ntime.sleep(15)\n\ndef slow() -> None: ...\n"


class Asking:
    """Requests that go on beside the test. Code in them is given two files: one it makes, one it waits for."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._threads = ThreadPoolExecutor(8)
        self.go = folder / "go"

    def begun(self, name: str) -> Path:
        """What the code of that name makes when it runs."""
        return self._folder / f"begun-{name}"

    def code(self, template: str, name: str) -> str:
        """Code with its files."""
        return template.format(begun=str(self.begun(name)), go=str(self.go))

    def ask(self, how: Callable[[httpx2.Client], Any]) -> Future[Any]:
        """A request, with a client of its own."""

        def work() -> Any:
            with self._server.client() as client:
                return how(client)

        return self._threads.submit(work)

    def register(self, source: str, name: str) -> Future[list[tuple[str, Any]]]:
        """A registration as events, of a source whose import has begun by now. It can't write a file that says so."""

        def noted(client: httpx2.Client) -> Iterator[tuple[str, Any]]:
            for event in stream(client, "/register", {"source": source}):
                if event[1].get("phase") == "verify":
                    self.begun(name).touch()
                yield event

        answer = self.ask(lambda client: list(noted(client)))
        wait_until(self.begun(name).exists)
        return answer

    def execute(self, template: str, name: str, **more: Any) -> Future[httpx2.Response]:
        """An execution that runs by now."""
        body = {"code": self.code(template, name), "timeout": 60, **more}
        answer = self.ask(lambda client: client.post("/execute", json=body))
        wait_until(self.begun(name).exists)
        return answer


def test_what_is_going_on_ends_and_nothing_else_is_taken(tmp_path: Path, shown: Path, cache: Path) -> None:
    with running_server(tmp_path, cache, pool_size=1, drain_seconds=60) as server, server.client() as client:
        asking = Asking(server, shown)
        running = asking.execute(UNTIL + "6 * 7", "execution")
        code = asking.code(UNTIL + "print('last')", "stream")
        streaming = asking.ask(lambda c: list(stream(c, "/execute", {"code": code})))
        registering = asking.register(asking.code(IMPORT, "registration"), "registration")
        wait_until(asking.begun("stream").exists)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: client.get("/healthz").json()["status"] == "draining")
        for path, body in (
            ("/execute", {"code": "1"}),
            ("/register", {"source": ""}),
            ("/chat", {}),
            ("/sessions", {}),
        ):
            refused = client.post(path, json=body)
            problem(refused, 503, "shutting_down")
            assert int(refused.headers["retry-after"]) > 0
        assert client.get("/functions").status_code == 200
        assert client.delete("/sessions/nobody").status_code == 404
        asking.go.touch()
        assert running.result().json()["result"] == "42"
        assert registering.result()[-1][1]["name"] == "late"
        assert [(name, item.get("text")) for name, item in streaming.result()][-2:] == [
            ("stdout", "last\n"),
            ("done", None),
        ]
        assert server.process.wait(30) == 0
    assert processes.left_of(tmp_path) == []


def asked(text: str) -> dict[str, Any]:
    """A conversation of one message."""
    return {"messages": [{"role": "user", "content": text}]}


def test_a_turn_of_chat_that_lasts_too_long_is_told_so(
    tmp_path: Path, shown: Path, cache: Path, provider: Provider
) -> None:
    for key in ("seen", "whole"):
        provider.write_down(key, Silence())
    with running_server(tmp_path, cache, provider.environment, pool_size=0, drain_seconds=600, model="m") as server:
        asking = Asking(server, shown)
        body = {"conversation": "k", **asked("seen")}
        seen = asking.ask(lambda c: list(stream(c, "/chat", body)))
        whole = asking.ask(lambda c: c.post("/chat", json=asked("whole")))
        wait_until(lambda: len(provider.asked["seen"]) == len(provider.asked["whole"]) == 1)
        server.process.send_signal(signal.SIGTERM)
        with server.client() as client:
            wait_until(lambda: client.get("/healthz").json()["status"] == "draining")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0
    name, last = seen.result()[-1]
    assert (name, last["code"]) == ("problem", "shutting_down")
    problem(whole.result(), 503, "shutting_down")
    assert processes.left_of(tmp_path) == []


async def test_events_end_where_time_is_up_and_who_makes_them_is_cancelled() -> None:
    drain, went = Drain(), asyncio.Event()
    cancelled = False

    async def making() -> AsyncGenerator[int]:
        nonlocal cancelled
        yield 1
        went.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled = True
            raise

    async def failing() -> AsyncGenerator[int]:
        yield 1
        raise TimeoutError

    async def read(events: AsyncGenerator[int]) -> list[int]:
        return [event async for event in drain.until_cut(events)]

    with pytest.raises(TimeoutError):
        await read(failing())
    reading = asyncio.create_task(read(making()))
    await went.wait()
    drain.cut()
    with pytest.raises(ShuttingDown):
        await reading
    assert cancelled
    with pytest.raises(ShuttingDown):
        await read(making())


def test_what_lasts_too_long_is_cut_and_told_so(tmp_path: Path, shown: Path, cache: Path) -> None:
    with running_server(tmp_path, cache, pool_size=1, drain_seconds=600, max_running=3, import_timeout=60) as server:
        asking = Asking(server, shown)
        running = asking.execute(UNTIL, "execution")
        stubborn = asking.execute(
            STUBBORN + "while True:\n    try: time.sleep(60)\n    except BaseException: pass", "stubborn"
        )
        code = asking.code(UNTIL, "stream")
        streaming = asking.ask(lambda c: list(stream(c, "/execute", {"code": code})))
        wait_until(asking.begun("stream").exists)
        queued = asking.ask(lambda c: c.post("/execute", json={"code": "1"}))
        watched = asking.register(SLOW_IMPORT, "registration")
        source = SLOW_IMPORT.replace("slow", "slower")
        registering = asking.ask(lambda c: c.post("/register", json={"source": source}))
        with server.client() as client:
            wait_until(lambda: client.get("/healthz").json()["waiting"] == 1)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: client.get("/healthz").json()["status"] == "draining")
        server.process.send_signal(signal.SIGINT)  # who sends a second one is in a hurry
        assert server.process.wait(30) == 0
    done = running.result().json()
    assert (done["status"], done["error"].partition(".")[0]) == ("cancelled", "The service is shutting down")
    killed = stubborn.result().json()
    assert (killed["status"], "its kernel was killed" in killed["error"]) == ("cancelled", True)
    assert streaming.result()[-1][1]["status"] == "cancelled"
    problem(queued.result(), 503, "shutting_down")
    problem(registering.result(), 503, "shutting_down")
    name, last = watched.result()[-1]
    assert (name, last["code"]) == ("problem", "shutting_down")
    assert processes.left_of(tmp_path) == []
    left = [path.name for path in (server.home / "work").iterdir()]
    assert set(left) <= {".ipython"}  # of no kernel: the next start clears it away
    assert not (server.home / "runtime").is_symlink()
    with Registry.open(server.home / "registry.sqlite3") as registry:
        assert registry.state().active == {}


def test_a_start_that_is_told_to_stop_leaves_nothing_running(tmp_path: Path, cache: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "serve"],
        cwd=ROOT, env=server_environment(tmp_path, cache), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        assert any("Creating the environment" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()
        assert process.wait(30) == 0
    assert processes.left_of(tmp_path) == []
    assert [path.name for path in (tmp_path / "home" / "generations").iterdir()] == []


async def test_time_is_up_after_the_seconds_or_at_once_for_who_is_in_a_hurry() -> None:
    drain = Drain()
    assert await drain.quiet(600)
    with drain.working():
        assert not await drain.quiet(0.01)
        drain.hasten()
        assert not await drain.quiet(600)
        waiting = asyncio.create_task(drain.quiet(600))
        await asyncio.sleep(0)
        assert not waiting.done()  # the haste was for the wait before
    assert await waiting
