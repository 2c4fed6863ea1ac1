"""The same request again: one answer for one key, for a day."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.errors import IdempotencyKeyReused
from server.idempotency import DAY, Replays
from server.registry import Kept, Registry

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the answers are."""
    return tmp_path / "registry.sqlite3"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    """An empty one."""
    with Registry.open(path) as opened:
        yield opened


class Work:
    """What a request asks for. Each time that it is done, its answer has the next number."""

    def __init__(self, *, hold: bool = False) -> None:
        self.done = 0
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        if not hold:
            self.go_on.set()

    async def __call__(self) -> tuple[int, str]:
        """Do it."""
        self.begun.set()
        await self.go_on.wait()
        self.done += 1
        return 201, f"answer {self.done}"


async def test_the_same_request_is_done_once_and_answered_twice(registry: Registry) -> None:
    replays, work = Replays(registry), Work()
    assert await replays.once("key", b"body", work) == (201, "answer 1", False)
    assert await replays.once("key", b"body", work) == (201, "answer 1", True)
    assert work.done == 1


async def test_without_a_key_every_request_is_done(registry: Registry) -> None:
    replays, work = Replays(registry), Work()
    assert await replays.once(None, b"body", work) == (201, "answer 1", False)
    assert await replays.once(None, b"body", work) == (201, "answer 2", False)


async def test_another_key_is_another_request(registry: Registry) -> None:
    replays, work = Replays(registry), Work()
    assert await replays.once("one", b"body", work) == (201, "answer 1", False)
    assert await replays.once("two", b"body", work) == (201, "answer 2", False)


async def test_a_key_that_comes_with_another_body_is_refused_and_nothing_is_done(registry: Registry) -> None:
    replays, work = Replays(registry), Work()
    await replays.once("key", b"body", work)
    with pytest.raises(IdempotencyKeyReused):
        await replays.once("key", b"other", work)
    assert work.done == 1
    assert await replays.once("key", b"body", work) == (201, "answer 1", True)


async def test_two_at_once_wait_for_each_other(registry: Registry) -> None:
    replays, work = Replays(registry), Work(hold=True)
    first = asyncio.create_task(replays.once("key", b"body", work))
    await work.begun.wait()
    second = asyncio.create_task(replays.once("key", b"body", work))
    other = await replays.once("other key", b"body", Work())
    work.go_on.set()
    assert other == (201, "answer 1", False)
    assert (await first, await second) == ((201, "answer 1", False), (201, "answer 1", True))


async def test_what_failed_is_done_again(registry: Registry) -> None:
    replays, work = Replays(registry), Work()

    async def fail() -> tuple[int, str]:
        raise ValueError

    with pytest.raises(ValueError):
        await replays.once("key", b"body", fail)
    assert await replays.once("key", b"other", work) == (201, "answer 1", False)


async def test_who_waited_for_one_that_failed_has_a_turn(registry: Registry) -> None:
    replays, work, hold = Replays(registry), Work(), asyncio.Event()

    async def fail() -> tuple[int, str]:
        await hold.wait()
        raise ValueError

    first = asyncio.create_task(replays.once("key", b"body", fail))
    await asyncio.sleep(0)
    second = asyncio.create_task(replays.once("key", b"body", work))
    await asyncio.sleep(0)
    assert work.done == 0
    hold.set()
    with pytest.raises(ValueError):
        await first
    assert await second == (201, "answer 1", False)


async def test_who_leaves_while_waiting_stops_nobody(registry: Registry) -> None:
    replays, work = Replays(registry), Work(hold=True)
    first = asyncio.create_task(replays.once("key", b"body", work))
    await work.begun.wait()
    leaving = asyncio.create_task(replays.once("key", b"body", work))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    work.go_on.set()
    assert await first == (201, "answer 1", False)
    assert await replays.once("key", b"body", work) == (201, "answer 1", True)


async def test_nothing_is_held_for_keys_that_nobody_waits_for(registry: Registry) -> None:
    replays = Replays(registry)
    for number in range(10):
        await replays.once(str(number), b"", Work())
    assert (replays._turns, replays._waiting) == ({}, {})


def test_an_answer_outlives_the_service(path: Path) -> None:
    async def ask(opened: Registry) -> tuple[int, str, bool]:
        return await Replays(opened).once("key", b"body", Work())

    with Registry.open(path) as before:
        assert asyncio.run(ask(before)) == (201, "answer 1", False)
    with Registry.open(path) as after:
        assert asyncio.run(ask(after)) == (201, "answer 1", True)


@pytest.mark.parametrize(("age", "replayed"), [(DAY - 60, True), (DAY + 60, False)])
async def test_a_key_counts_for_a_day(registry: Registry, age: float, replayed: bool) -> None:
    digest = "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5"  # sha256 of b"body"
    await asyncio.to_thread(registry.keep, "key", Kept(digest, 200, "old"), time.time() - age, 0.0)
    expected = (200, "old", True) if replayed else (201, "answer 1", False)
    assert await Replays(registry).once("key", b"body", Work()) == expected
