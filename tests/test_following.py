"""An execution followed by the clients: through connections that break, to its end, and stopped."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from server.client import Aigbb, AsyncAigbb, CallFailed, Execution, ServiceProblem, Unreachable
from tests.conftest import Server

COUNTS = "for n in range(300):\n    print(n, flush=True)\nn"


@contextmanager
def breaking(server: Server, room: int) -> Iterator[tuple[str, list[int]]]:
    """An address at which each connection is cut off after so many bytes of the answer, and how many it had."""
    port, had = int(server.url.rpartition(":")[2]), list[int]()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_relay, args=(listener, port, room, had))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", had
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _relay(listener: socket.socket, port: int, room: int, had: list[int]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        had.append(0)
        with client, socket.create_connection(("127.0.0.1", port)) as service:
            # One small request. A service that keeps the connection after a whole answer would hold up the next one.
            service.sendall(client.recv(65536).replace(b"keep-alive", b"close"))
            while (left := room - had[-1]) > 0 and (data := service.recv(1000)):
                client.sendall(data[:left])
                had[-1] += len(data[:left])


@pytest.fixture
def aigbb(server: Server) -> Iterator[Aigbb]:
    """A client of the shared service."""
    with Aigbb(server.url, server.token) as opened:
        yield opened


def numbers(events: list[tuple[str, Any]]) -> str:
    """What was printed."""
    return "".join(data["text"] for name, data in events if name == "stdout")


def test_a_connection_that_breaks_is_resumed(server: Server, aigbb: Aigbb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.following.PAUSE", 0.001)
    begun = aigbb.start(COUNTS)
    whole = list(aigbb.follow(begun))
    assert [name for name, _ in (*whole[:2], *whole[-2:])] == ["queued", "started", "result", "done"]
    assert numbers(whole) == "".join(f"{n}\n" for n in range(300))
    with breaking(server, 4000) as (url, had):
        with Aigbb(url, server.token) as broken:
            assert list(broken.follow(begun.id)) == whole
        assert len(had) > 3
        assert asyncio.run(followed(url, server.token, begun)) == whole


async def followed(url: str, token: str, begun: Execution) -> list[tuple[str, Any]]:
    """All events, as the other client hears them."""
    async with AsyncAigbb(url, token) as client:
        return [event async for event in client.follow(begun)]


def test_who_hears_nothing_for_long_gives_up(server: Server, aigbb: Aigbb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.following.PAUSE", 0.001)
    begun = aigbb.start("1")
    with breaking(server, 10) as (url, had):
        with Aigbb(url, server.token) as broken, pytest.raises(Unreachable):
            list(broken.follow(begun))
        assert len(had) == 6
        with pytest.raises(Unreachable):
            asyncio.run(followed(url, server.token, begun))


def test_it_is_waited_for_and_says_what_it_came_to(aigbb: Aigbb) -> None:
    begun = aigbb.start("import time\nprint('on', flush=True)\ntime.sleep(100)")
    assert (begun.ended, begun.answer()) == (False, None)
    assert aigbb.wait(begun, 0).ended is False
    assert begun.id in [one.id for one in aigbb.executions()]
    stopped = aigbb.cancel(begun)
    assert (stopped.status, stopped.ended, stopped.answer().status) == ("cancelled", True, "cancelled")
    assert aigbb.execution(begun.id) == stopped
    called = aigbb.wait(aigbb.start_call("word_count", text="a b a"))
    assert (called.function, called.answer()) == ("word_count", {"a": 2, "b": 1})


@pytest.mark.anyio
async def test_and_by_the_client_for_asyncio(server: Server) -> None:
    async with AsyncAigbb(server.url, server.token) as client:
        done: Execution = await client.wait(await client.start("6 * 7"))
        assert done.answer().result == "42"
        begun = await client.start("import time; time.sleep(100)")
        assert (await client.wait(begun, 0.01)).ended is False
        assert (await client.cancel(begun.id)).status == "cancelled"


def test_what_could_not_be_done_is_raised(aigbb: Aigbb) -> None:
    wrong = aigbb.wait(aigbb.start_call("word_count", txt="a"))
    assert wrong.status == "failed"
    with pytest.raises(ServiceProblem) as raised:
        wrong.answer()
    assert raised.value.body["code"] == "invalid_arguments"
    with pytest.raises(ServiceProblem):
        list(aigbb.follow(wrong))
    aigbb.register("def fails() -> None:\n    raise ValueError('no')\n", effects="read")
    try:
        with pytest.raises(CallFailed, match="ValueError: no"):
            aigbb.wait(aigbb.start_call("fails")).answer()
    finally:
        aigbb.delete("fails")
    with pytest.raises(ServiceProblem, match="no execution 'ex_0'"):
        list(aigbb.follow("ex_0"))
