"""Who may go in, and who is refused."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from kernels.admission import Admission, Owner, seconds_for, share_of
from kernels.errors import PoolExhausted
from tests.waiting import until

pytestmark = pytest.mark.anyio


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


# -- fairness


async def let_in(keys: str, running: int = 1, leave: str = "") -> str:
    """The order in which callers get in that came in this one; those in `leave` stop waiting, once each."""
    admission, order = Admission(running, 100), list[str]()

    async def enter(key: str) -> None:
        async with admission.admitted(key):
            order.append(key)

    async with asyncio.TaskGroup() as group, admission.admitted("first"):
        tasks = [(key, group.create_task(enter(key))) for key in keys]
        await until(lambda: admission.load == (1, len(keys)))
        for gone in leave:
            next(task for key, task in tasks if key == gone and not task.cancelling()).cancel()
        await until(lambda: admission.load == (1, len(keys) - len(leave)))
    assert admission.load == (0, 0)
    assert not admission._lines, "a caller who has left costs nothing"
    return "".join(order)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("aaaa", "aaaa"),
        ("aaaab", "abaaa"),
        ("aaaabb", "ababaa"),
        ("aabbcc", "abcabc"),
        ("abaca", "abcaa"),
        ("a" * 60 + "b", "ab" + "a" * 59),
    ],
)
async def test_lines_take_turns(keys: str, expected: str) -> None:
    assert await let_in(keys) == expected


@pytest.mark.parametrize(
    ("keys", "leave", "expected"),
    [("aab", "b", "aa"), ("aab", "a", "ab"), ("aabb", "aa", "bb"), ("abab", "ab", "ab")],
)
async def test_who_stops_waiting_is_passed_over(keys: str, leave: str, expected: str) -> None:
    assert await let_in(keys, leave=leave) == expected


async def test_the_same_caller_again_goes_behind_those_who_wait() -> None:
    admission, order = Admission(1, 10), list[str]()

    async def enter(key: str, times: int) -> None:
        for _ in range(times):
            async with admission.admitted(key):
                order.append(key)

    async with asyncio.TaskGroup() as group, admission.admitted("first"):
        for key, times in [("a", 3), ("b", 1), ("c", 2)]:
            group.create_task(enter(key, times))
        await until(lambda: admission.load == (1, 3))
    assert "".join(order) == "abcaca"


# -- how long to wait


@pytest.mark.parametrize(
    ("leaving", "held", "ages", "seconds"),
    [
        (1, 0.0, [], 1),
        (1, 0.0, [0.0], 1),
        (65, 0.01, [0.0] * 4, 1),
        (8, 2.0, [1.0, 1.0], 8),
        (9, 1.0, [0.0, 0.0], 5),
        (1, 0.0, [20.0], 20),
        (1, 2.0, [20.0], 20),
        (4, 1.0, [50.0, 0.0], 4),
        (65, 30.0, [1.0] * 4, 60),
    ],
)
def test_the_estimate_is_how_long_those_who_wait_will_take(
    leaving: int, held: float, ages: list[float], seconds: int
) -> None:
    assert seconds_for(leaving, held, ages) == seconds


async def test_who_is_refused_is_told_what_the_last_executions_took() -> None:
    admission = Admission(1, 0)
    async with admission.admitted():
        await asyncio.sleep(0.01)
    assert admission.held > 0
    async with admission.admitted():
        admission.held = 7.5
        with pytest.raises(PoolExhausted) as refused:
            await admission._enter("")
        assert refused.value.extra["retry_after"] == 8
    assert admission.held < 7.5, "it follows what is measured"


# -- shares


@pytest.mark.parametrize(("places", "share"), [(0, 0), (1, 1), (2, 1), (4, 3), (16, 12), (64, 48)])
def test_the_share_of_one_owner(places: int, share: int) -> None:
    assert share_of(places) == share


async def test_no_owner_takes_all_places_and_an_unlimited_one_always_gets_one() -> None:
    admission = Admission(4, 4)
    ann, bob, admin = Owner("ann", unlimited=False), Owner("bob", unlimited=False), Owner("admin")
    inside, go_on = list[str](), asyncio.Event()

    async def enter(owner: Owner) -> None:
        async with admission.admitted("clean", owner):
            inside.append(owner.name)
            await go_on.wait()

    def has(load: tuple[int, int]) -> bool:
        return admission.load == load

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(enter(ann))
            await until(partial(has, (min(number + 1, 3), max(0, number - 2))))
        assert admission.load == (3, 3), "a place is left for others"
        with pytest.raises(PoolExhausted, match="share of one key"):
            await admission._enter("clean", ann)
        for owner, load in ((bob, (4, 3)), (bob, (4, 4)), (admin, (5, 4))):
            group.create_task(enter(owner))
            await until(partial(has, load))
        for owner in (bob, admin):
            with pytest.raises(PoolExhausted):
                await admission._enter("clean", owner)
        go_on.set()
    assert admission.load == (0, 0)
    assert sorted(inside) == ["admin"] + ["ann"] * 6 + ["bob"] * 2


async def test_whoever_waits_for_the_share_of_an_owner_is_in_nobody_elses_way() -> None:
    admission, order = Admission(2, 8), list[str]()
    ann, bob = Owner("ann", unlimited=False), Owner("bob", unlimited=False)

    async def enter(owner: Owner) -> None:
        async with admission.admitted("clean", owner):
            order.append(owner.name)

    async with asyncio.TaskGroup() as group, admission.admitted("clean", ann):
        group.create_task(enter(ann))
        await until(lambda: admission.load == (1, 1))
        await enter(bob)
        assert order == ["bob"]
    assert order == ["bob", "ann"]
    assert admission.load == (0, 0)
