"""Rates: how often a key may ask, how much at once, and how often an address may guess keys."""

from __future__ import annotations

import asyncio
import time

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.callers import Caller
from server.rates import Guesses, Rates
from server.refusals import RateLimited

pytestmark = pytest.mark.anyio


class Door:
    """An application behind Rates, asked by keys of which only the names count."""

    def __init__(self, rate: str | None = None, running: int | None = 128) -> None:
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.begun = 0
        self.rates = Rates(self._app, rate=rate, running=running, free="/healthz", refused=self._refused)

    async def ask(self, key: str = "a", path: str = "/functions") -> tuple[int, dict[str, str]]:
        """Status and headers of an answer."""
        told: list[Message] = []

        async def send(message: Message) -> None:
            told.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope: Scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "headers": [],
            "query_string": b"",
            "server": None,
        }
        await self.rates({**scope, "state": {"caller": Caller(key)}}, receive, send)
        return told[0]["status"], {name.decode(): value.decode() for name, value in told[0]["headers"]}

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        await self.go_on.wait()
        if scope["path"] == "/fails":
            raise ValueError("a fault")
        await Response("ok")(scope, receive, send)

    def _refused(self, error: RateLimited, request: Request) -> Response:
        return Response(error.code, error.status, {"Retry-After": str(error.extra["retry_after"])})


async def test_answers_tell_what_is_left_until_there_is_nothing() -> None:
    door = Door(rate="3/minute")
    for left in (2, 1, 0):
        status, headers = await door.ask()
        assert status == 200
        assert headers["ratelimit-policy"] == '"rate";q=3;w=60, "running";q=128;qu="concurrent-requests"'
        assert headers["ratelimit"] == f'"rate";r={left};t=60'
    status, headers = await door.ask()
    assert status == 429
    assert headers["ratelimit"] == '"rate";r=0;t=60'
    assert headers["retry-after"] == "60"
    assert door.begun == 3


async def test_one_key_takes_nothing_of_another_and_health_is_free() -> None:
    door = Door(rate="1/hour")
    assert [(await door.ask(key))[0] for key in "aabb"] == [200, 429, 200, 429]
    for _ in range(3):
        status, headers = await door.ask(path="/healthz")
        assert status == 200
        assert "ratelimit" not in headers


async def test_the_window_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(rate="1/10 second")
    assert [(await door.ask())[0] for _ in range(2)] == [200, 429]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 11)
    assert (await door.ask())[0] == 200


async def test_a_clock_that_is_set_back_locks_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(rate="1/minute")
    assert [(await door.ask())[0] for _ in range(2)] == [200, 429]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    status, headers = await door.ask()
    assert (status, headers["ratelimit"]) == (200, '"rate";r=0;t=60')


async def test_a_key_has_only_so_many_requests_at_once() -> None:
    door = Door(running=2)
    door.go_on.clear()
    tasks = [asyncio.create_task(door.ask()) for _ in range(2)]
    while door.begun < 2:
        await asyncio.sleep(0)
    status, headers = await door.ask()
    assert (status, headers["retry-after"]) == (429, "1")
    assert headers["ratelimit-policy"] == '"running";q=2;qu="concurrent-requests"'
    assert "ratelimit" not in headers
    other = asyncio.create_task(door.ask("b"))
    door.go_on.set()
    assert [(await task)[0] for task in (*tasks, other)] == [200, 200, 200]
    assert (await door.ask())[0] == 200


async def test_a_request_that_fails_or_is_given_up_gives_its_place_back() -> None:
    door = Door(running=1)
    with pytest.raises(ValueError, match="a fault"):
        await door.ask(path="/fails")
    door.go_on.clear()
    task = asyncio.create_task(door.ask())
    while door.begun < 2:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    door.go_on.set()
    assert (await door.ask())[0] == 200


async def test_both_can_be_switched_off() -> None:
    door = Door(running=None)
    for _ in range(200):
        status, headers = await door.ask()
        assert status == 200
        assert "ratelimit-policy" not in headers


# -- guesses


def from_(host: str) -> Scope:
    """A request from an address."""
    return {"type": "http", "client": (host, 1)}


async def test_an_address_with_too_many_wrong_keys_is_refused() -> None:
    guesses = Guesses("2/minute")
    for _ in range(2):
        await guesses.wrong(from_("10.0.0.1"), "Bearer wrong")
    with pytest.raises(RateLimited) as caught:
        await guesses.wrong(from_("10.0.0.1"), "Bearer wrong")
    assert caught.value.extra["retry_after"] == 60
    await guesses.wrong(from_("10.0.0.2"), "Bearer wrong")


async def test_a_request_without_a_key_is_no_guess() -> None:
    guesses = Guesses("1/minute")
    for _ in range(5):
        await guesses.wrong(from_("10.0.0.1"), "")
    await guesses.wrong(from_("10.0.0.1"), "Bearer wrong")


async def test_one_network_of_ipv6_is_one_address() -> None:
    guesses = Guesses("1/minute")
    await guesses.wrong(from_("2001:db8::1"), "Bearer wrong")
    with pytest.raises(RateLimited):
        await guesses.wrong(from_("2001:db8::2:3"), "Bearer wrong")
    await guesses.wrong(from_("2001:db8:0:1::1"), "Bearer wrong")


async def test_addresses_without_number_are_not_kept_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.rates.ADDRESSES", 3)
    guesses = Guesses("100/minute")
    for number in range(50):
        await guesses.wrong(from_(f"10.0.0.{number}"), "Bearer wrong")
    assert guesses._window is not None
    assert guesses._window.names == 4


async def test_guessing_can_be_left_alone() -> None:
    guesses = Guesses(None)
    for _ in range(50):
        await guesses.wrong(from_("10.0.0.1"), "Bearer wrong")
