"""Clean kernels kept ready: how many, which one is taken, when one goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import zmq.asyncio

from kernels.errors import KernelStartFailed
from kernels.kernel import Kernel, Launch
from kernels.spares import AT_ONCE, Spares, Stock
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("launch", ["forked"], indirect=True)]

LONG = 3600.0


@dataclass
class Owner:
    """What spares need of whoever owns them."""

    launch: Launch
    context: zmq.asyncio.Context = field(default_factory=zmq.asyncio.Context)
    made: list[Kernel] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    cheap: bool = True
    fails: bool = False
    tried: int = 0
    starting: int = 0
    most_at_once: int = 0
    unfit: set[Kernel] = field(default_factory=set)

    async def make(self) -> Kernel:
        """Start a kernel."""
        self.tried += 1
        if self.fails:
            raise KernelStartFailed("No kernel today.")
        self.starting += 1
        self.most_at_once = max(self.most_at_once, self.starting)
        try:
            self.made.append(await Kernel.start(self.launch, self.context))
        finally:
            self.starting -= 1
        return self.made[-1]

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run in the background."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def serves(self, kernel: Kernel) -> bool:
        """Whether it may be handed out."""
        return kernel.state == "idle" and kernel not in self.unfit

    @property
    def living(self) -> int:
        """How many kernels run."""
        return sum(kernel.state != "dead" for kernel in self.made)


@asynccontextmanager
async def kept(
    launch: Launch, least: int, most: int = 0, *, unneeded: float = LONG, age: float = LONG, cheap: bool = True
) -> AsyncIterator[tuple[Spares, Owner]]:
    """So many spares, once they wait."""
    owner = Owner(launch, cheap=cheap)
    stock = Stock(least, max(least, most), unneeded, age)
    spares = Spares(stock, owner.make, owner.serves, lambda: owner.cheap, owner.spawn)
    try:
        spares.open()
        spares.refill()
        await until(lambda: len(spares) == least)
        yield spares, owner
    finally:
        spares.close()
        while owner.tasks:
            await asyncio.wait(owner.tasks)
        await asyncio.gather(*(kernel.stop() for kernel in owner.made))
        owner.context.term()


def take(spares: Spares) -> Kernel | None:
    """One, and another in its place."""
    kernel = spares.take()
    spares.refill_soon()
    return kernel


async def test_the_oldest_is_taken_first_and_never_comes_back(launch: Launch) -> None:
    async with kept(launch, 2) as (spares, _):
        first, second = spares
        assert [take(spares), take(spares)] == [first, second]
        await until(lambda: len(spares) == 2)
        assert not {first, second} & set(spares)


async def test_no_more_are_started_at_once_than_there_are_processors(launch: Launch) -> None:
    async with kept(launch, AT_ONCE + 2) as (_, owner):
        assert owner.most_at_once == AT_ONCE
        assert owner.tried == AT_ONCE + 2, "and no more than are wanted"


async def test_who_finds_none_or_takes_the_last_one_makes_it_more_up_to_the_most(launch: Launch) -> None:
    async with kept(launch, 1, 3) as (spares, _):
        assert spares.take() and spares.wanted == 2
        assert spares.take() is None and spares.wanted == 3
        assert spares.take() is None and spares.wanted == 3
        spares.refill()
        await until(lambda: len(spares) == 3)
        assert spares.take() and spares.wanted == 3


async def test_there_are_no_more_than_the_least_where_each_costs_much(launch: Launch) -> None:
    async with kept(launch, 1, 3, cheap=False) as (spares, owner):
        assert spares.take() and spares.wanted == 1
        owner.cheap = True
        assert not spares.take() and spares.wanted == 2
        owner.cheap = False  # as when the warm parent is lost
        spares.refill()
        await until(lambda: len(spares) and not owner.tasks)
        assert len(spares) == 1


async def test_those_that_nobody_needs_are_stopped_by_the_timer(launch: Launch) -> None:
    async with kept(launch, 1, 3, unneeded=0.05) as (spares, owner):
        for _ in range(3):
            spares.take()
        spares.refill()
        await until(lambda: owner.tried >= 2)
        await until(lambda: spares.wanted == 1 and len(spares) == 1 and not owner.tasks)
        assert owner.living == 2, "the one that waits, and the one that was taken"


async def test_one_that_was_put_there_goes_before_the_others_and_stays_no_longer_than_it_is_needed(
    launch: Launch,
) -> None:
    async with kept(launch, 0, unneeded=0.05) as (spares, owner):
        kernel = await owner.make()
        spares.put(kernel)
        assert spares.take() is kernel
        spares.put(kernel)
        await until(lambda: kernel.state == "dead" and not len(spares))


async def test_one_that_is_too_old_is_replaced_by_the_timer_once_another_is_there(launch: Launch) -> None:
    async with kept(launch, 1, age=0.05) as (spares, _):
        [old] = spares
        while old in spares:
            assert len(spares) == 1
            await asyncio.sleep(0)
        assert len(spares) == 1
        await until(lambda: old.state == "dead")


async def test_one_that_has_died_is_replaced_by_the_timer(launch: Launch) -> None:
    async with kept(launch, 1, unneeded=0.05) as (spares, _):
        [died] = spares
        await died.stop()
        await until(lambda: len(spares) == 1 and died not in spares)
        assert take(spares)


async def test_one_that_may_not_be_handed_out_is_stopped(launch: Launch) -> None:
    async with kept(launch, 2) as (spares, owner):
        first, second = spares
        owner.unfit.add(first)
        assert spares.take() is second
        await until(lambda: first.state == "dead")
        owner.spawn(second.stop())
        spares.refill()
        await until(lambda: len(spares) == 2)
        owner.unfit.update(spares)
        spares.sweep()
        assert not len(spares)
        await until(lambda: not owner.living)


async def test_a_start_that_fails_is_tried_again_by_the_timer_and_not_at_once(launch: Launch) -> None:
    async with kept(launch, 1) as (spares, owner):
        owner.fails = True
        take(spares)
        await until(lambda: owner.tried == 2 and not owner.tasks)
        assert not len(spares)
    async with kept(launch, 1, unneeded=0.05) as (spares, owner):
        owner.fails = True
        take(spares)
        await until(lambda: owner.tried >= 4)
        owner.fails = False
        await until(lambda: len(spares) == 1)


async def test_nothing_is_started_after_the_end(launch: Launch) -> None:
    async with kept(launch, 1) as (spares, owner):
        take(spares)
        spares.close()
        await until(lambda: not owner.tasks)
        spares.refill()
        assert (len(spares), owner.tried, len(owner.tasks)) == (0, 2, 0)
        assert owner.made[-1].state == "dead", "which was being started"
