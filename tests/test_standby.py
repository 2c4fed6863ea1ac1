"""A child that waits: taken once, replaced when it has died, gone with its owner."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import pytest

from kernels.sandbox import Child, Finished
from kernels.standby import Standby

pytestmark = pytest.mark.anyio

ECHO = "import sys; sys.stdout.write(sys.stdin.read().upper())"


def starting(made: list[Child]) -> Callable[[], Awaitable[Child]]:
    """Starts a child that answers in capitals; each is kept in `made`."""

    async def start() -> Child:
        made.append(await Child.start([sys.executable, "-I", "-S", "-c", ECHO], env={}))
        return made[-1]

    return start


async def asked(child: Child, text: str = "hello") -> Finished:
    """What it answers."""
    return await child.finish(text.encode(), 30)


async def waiting(made: list[Child], count: int = 1) -> None:
    """Until so many children were started."""
    async with asyncio.timeout(30):
        while len(made) < count:
            await asyncio.sleep(0.01)


async def test_a_child_that_waits_is_taken_once_and_answers() -> None:
    made: list[Child] = []
    async with Standby(starting(made)) as standby:
        standby.refill()
        standby.refill()
        await waiting(made)
        first, second = await asyncio.gather(standby.take(), standby.take())
        assert {id(first), id(second)} == {id(child) for child in made}
        assert [(await asked(child)).stdout for child in (first, second)] == [b"HELLO", b"HELLO"]


async def test_without_one_that_waits_a_new_one_is_started() -> None:
    made: list[Child] = []
    async with Standby(starting(made)) as standby:
        assert (await asked(await standby.take(), "a")).stdout == b"A"
    assert len(made) == 1


async def test_one_that_died_while_it_waited_is_replaced() -> None:
    made: list[Child] = []
    async with Standby(starting(made)) as standby:
        standby.refill()
        await waiting(made)
        os.kill(made[0].process.pid, signal.SIGKILL)
        await made[0].process.wait()
        child = await standby.take()
        assert child is not made[0]
        assert (await asked(child)).returncode == 0


async def test_one_that_waits_ends_when_it_is_dropped_and_with_its_owner() -> None:
    made: list[Child] = []
    async with Standby(starting(made)) as standby:
        standby.refill()
        await waiting(made)
        await standby.drop()
        assert made[0].process.returncode == -signal.SIGKILL
        standby.refill()
        await waiting(made, 2)
    assert made[1].process.returncode == -signal.SIGKILL
    standby.refill()
    await standby.drop()
    assert len(made) == 2


async def test_a_taker_that_leaves_takes_nothing_with_it() -> None:
    made: list[Child] = []
    async with Standby(starting(made)) as standby:
        standby.refill()
        taker = asyncio.create_task(standby.take())
        await asyncio.sleep(0)
        taker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taker
        child = await standby.take()
        assert made == [child]
        assert (await asked(child)).stdout == b"HELLO"


async def test_one_that_cannot_be_started_is_the_takers_to_know() -> None:
    async def start() -> Child:
        return await Child.start(["/nowhere/program"], env={})

    async with Standby(start) as standby:
        standby.refill()
        with pytest.raises(OSError, match="No such file"):
            await standby.take()


async def test_a_child_that_has_finished_is_not_ended_again() -> None:
    made: list[Child] = []
    child = await starting(made)()
    assert (await asked(child)).returncode == 0
    await child.stop()
    assert child.process.returncode == 0
