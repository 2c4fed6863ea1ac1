"""Who may go in, and who is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
import pytest

from kernels.admission import Admission
from kernels.errors import PoolExhausted

pytestmark = pytest.mark.anyio


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that comes by itself."""
    with anyio.fail_after(30):
        while not condition():
            await asyncio.sleep(0)


async def test_places_are_given_in_order() -> None:
    admission, order = Admission(1, 10), list[int]()

    async def enter(number: int) -> None:
        async with admission.admitted():
            order.append(number)

    async with asyncio.TaskGroup() as group, admission.admitted():
        for number in range(5):
            group.create_task(enter(number))
        await until(lambda: admission.load == (1, 5))
    assert order == [0, 1, 2, 3, 4]
    assert admission.load == (0, 0)


@pytest.mark.parametrize("leave_first", [True, False])
async def test_a_place_is_not_lost_when_its_waiter_is_cancelled_meanwhile(leave_first: bool) -> None:
    admission = Admission(1, 2)

    async def enter() -> None:
        async with admission.admitted():
            pass

    place = admission.admitted()
    await place.__aenter__()
    cancelled, other = asyncio.create_task(enter()), asyncio.create_task(enter())
    await until(lambda: admission.load == (1, 2))
    if leave_first:
        await place.__aexit__(None, None, None)
        cancelled.cancel()
    else:
        cancelled.cancel()
        await place.__aexit__(None, None, None)
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await other
    assert admission.load == (0, 0)


async def test_who_comes_when_all_places_are_taken_is_refused_at_once() -> None:
    admission = Admission(1, 1)

    async def enter() -> None:
        async with admission.admitted():
            pass

    async with admission.admitted():
        assert (admission.load, admission.full) == ((1, 0), False)
        waiting = asyncio.create_task(enter())
        await until(lambda: admission.load == (1, 1) and admission.full)
        with pytest.raises(PoolExhausted, match="1 executions run and 1 wait already") as refused:
            await enter()
        assert refused.value.extra["retry_after"] == 1
        assert admission.load == (1, 1)
    await waiting
    assert admission.load == (0, 0)


async def test_a_place_is_free_again_after_an_error_inside() -> None:
    admission = Admission(1, 0)

    async def divide(divisor: int) -> float:
        async with admission.admitted():
            return 1 / divisor

    with pytest.raises(ZeroDivisionError):
        await divide(0)
    assert admission.load == (0, 0)
    assert await divide(1) == 1
