"""Executions as records: followed from anywhere, cancelled wherever they are, kept within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.environments import Generation
from kernels.errors import PoolExhausted
from kernels.home import Home
from kernels.kernel import Kernel
from kernels.limits import PoolLimits
from kernels.outputs import Done, Execution, Output, Stream
from kernels.pool import Pool
from kernels.tasks import Task
from server.audit import Line
from server.callers import Caller
from server.database import Database
from server.errors import AigbbError, ExecutionNotFound
from server.executions import Executions
from server.granting import Secrets
from server.grants import GrantStore
from server.observing import Observer
from server.registry import Registry, State
from server.running import Cut, Ended, Entry, Keep, Log, Queued, Records, Running
from server.sessions import Sessions
from server.settings import Settings
from server.source_reader import start_reader
from server.vault import Vault
from tests.conftest import launching
from tests.waiting import until

pytestmark = pytest.mark.anyio

ANN, BOB, ROOT = Caller("ann", admin=False), Caller("bob", admin=False), Caller()
SLEEP = "import time; time.sleep(100)"
DEAF = """
import time
print("on", flush=True)
while True:
    try:
        time.sleep(100)
    except KeyboardInterrupt:
        pass
"""


def text(number: int, length: int = 0) -> Stream:
    """An item that can be told from others."""
    return Stream("stdout", str(number).ljust(length))


async def items(*found: Output, gate: asyncio.Event | None = None) -> AsyncGenerator[tuple[Kernel, Output]]:
    """What a pool would answer with; the last one waits for the gate."""
    for item in found:
        if item is found[-1] and gate is not None:
            await gate.wait()
        yield cast("Kernel", None), item


async def heard(running: Running, after: int = 0) -> list[tuple[int, Entry | None]]:
    """All that is told to who follows from there."""
    return [pair async for pair in running.follow(after)]


# -- the log


@given(st.lists(st.one_of(st.none(), st.integers(0, 2000)), max_size=30), st.integers(0, 40))
def test_a_log_replays_from_any_number_and_says_what_is_gone(steps: list[int | None], after: int) -> None:
    log, added = Log(), list[Entry]()
    for step in steps:
        if step is None:
            added.append(text(len(added), 100))
            log.add(added[-1])
        else:
            weight = log.weight
            assert weight - log.cut(step) == log.weight <= max(step, 0)
    found = log.after(after)
    gone = 0
    if found and isinstance(found[0][1], Cut):
        number, cut = found.pop(0)
        gone = cast("Cut", cut).entries
        assert number == after + gone
    assert [number for number, _ in found] == list(range(after + gone + 1, max(after, len(added)) + 1))
    assert [entry for _, entry in found] == added[after + gone :]


@given(st.integers(0, 6), st.integers(0, 9), st.booleans())
def test_who_follows_hears_the_same_from_anywhere(at: int, after: int, late: bool) -> None:
    async def scene() -> None:
        running, gate = Running(ANN), asyncio.Event()
        original = [(1, Queued()), *((n + 2, text(n)) for n in range(5)), (7, Ended())]
        following = asyncio.create_task(heard(running, after)) if not late else None
        for n in range(at):
            await asyncio.sleep(0) if n % 2 else None
        gate.set()
        await running.drive(items(*map(text, range(5)), Done("ok"), gate=gate))
        running.end()
        assert await heard(running) == original
        assert await heard(running, after) == original[min(after, 6) :]
        if following is not None:
            # Who has seen more than there is waits for what is new, and is told the end at least.
            assert (await following)[-1] == (7, Ended())
            assert after > 1 or await following == original[after:]

    asyncio.run(scene())


async def test_followers_that_leave_disturb_no_others() -> None:
    running, gate = Running(ANN), asyncio.Event()
    stays, leaves = asyncio.create_task(heard(running)), asyncio.create_task(heard(running))
    driving = asyncio.create_task(running.drive(items(text(1), Done("ok"), gate=gate)))
    await until(lambda: running.log.last == 2)
    leaves.cancel()
    gate.set()
    await driving
    running.end()
    assert [number for number, _ in await stays] == [1, 2, 3]


async def test_a_silent_execution_gives_a_sign_of_life() -> None:
    running = Running(ANN)
    async for number, entry in running.follow(1, pause=0.01):
        assert (number, entry) == (1, None)
        break


# -- the records


async def ended(records: Records, caller: Caller, *outputs: Output, answer: object = None) -> Running:
    """One that has lived."""
    running = Running(caller, kept=True)
    with records.living(running):
        await running.drive(items(*outputs, Done("ok")))
        running.answer = answer
    return running


async def test_the_oldest_are_dropped_and_the_newest_stay() -> None:
    records = Records(Keep(count=2, seconds=60))
    first, second, third = [await ended(records, ANN) for _ in range(3)]
    assert records.seen_by(ANN) == [third, second]
    with pytest.raises(ExecutionNotFound, match=first.id):
        records.find(first.id, ANN)
    records.close()
    assert records.seen_by(ROOT) == []


async def test_output_is_bounded_in_all() -> None:
    records = Records(Keep(count=100, seconds=60, weight=10_000))
    kept = [await ended(records, ANN, text(n, 3000)) for n in range(5)]
    assert records.seen_by(ANN) == kept[:-4:-1]
    twice = await ended(records, ANN, text(0, 6000), answer="which says the same once more")
    assert records.seen_by(ANN) == [twice]
    assert len(await heard(twice)) == 3
    small = await ended(records, ANN)
    assert records.seen_by(ANN) == [small]
    records.close()


async def test_the_beginning_of_what_runs_long_is_cut_and_said_to_be() -> None:
    records, running = Records(Keep(count=9, seconds=60, weight=10_000)), Running(ANN, kept=True)
    with records.living(running):
        await running.drive(items(*(text(n, 1000) for n in range(50)), Done("ok")))
    assert running.log.weight < 10_000
    (number, cut), (following, _), *_ = await heard(running)
    assert isinstance(cut, Cut)
    assert cut.entries == number == following - 1 > 40
    assert (await heard(running))[-1] == (52, Ended())
    assert running.execution.text("stdout").startswith(str(number - 1))
    records.close()


async def test_after_its_time_it_is_forgotten() -> None:
    records = Records(Keep(count=9, seconds=0.01))
    await ended(records, ANN)
    await until(lambda: records.seen_by(ANN) == [])


async def test_what_nobody_comes_back_for_is_known_while_it_runs_only() -> None:
    records, running = Records(Keep(count=9, seconds=60)), Running(ANN)
    with records.living(running):
        assert records.find(running.id, ANN) is running
    assert records.seen_by(ROOT) == []


async def test_others_are_not_seen_but_by_who_sees_all() -> None:
    records = Records(Keep(count=9, seconds=60))
    anns, bobs = await ended(records, ANN), await ended(records, BOB)
    assert (records.seen_by(ANN), records.seen_by(ROOT)) == ([anns], [bobs, anns])
    with pytest.raises(ExecutionNotFound):
        records.find(bobs.id, ANN)
    assert records.find(bobs.id, ROOT) is bobs
    records.close()


# -- on kernels


def nothing_secret() -> Secrets:
    """Of a service without any secret: no store is asked."""
    vault = Vault(cast("Database", None), Path(), "")
    return Secrets(vault, cast("GrantStore", None), cast("Registry", None), State, start_reader)


def unheard(_: Line) -> None:
    """An audit that keeps nothing."""


@asynccontextmanager
async def executing(
    generation: Generation, home: Home, folder: Path, **limits: Any
) -> AsyncIterator[tuple[Executions, Pool]]:
    """Executions on a pool without spares and without a warm parent."""
    settings = await asyncio.to_thread(Settings)
    with launching(generation, home, folder) as launch:
        async with (
            Pool(lambda: launch, PoolLimits(**{"spares": 0, "fork": False, **limits})) as pool,
            Executions(settings, pool, Sessions(pool), nothing_secret(), Observer(), unheard) as executions,
        ):
            yield executions, pool


async def begin(executions: Executions, code: str, session: str | None = None, caller: Caller = ANN) -> Running:
    """One that goes on by itself."""
    running = Running(caller, session, kept=True)

    async def work(running: Running) -> Execution:
        return await executions.run(Task.code(code), running)

    await executions.begin(running, work)
    return running


async def end(running: Running) -> tuple[str, str | None]:
    """How it ended, and what its last expression was."""
    await running.over()
    return running.state, running.execution.result


async def test_cancelled_wherever_it_is(generation: Generation, home: Home, tmp_path: Path) -> None:
    async with executing(generation, home, tmp_path, running=1) as (executions, pool):
        starting = await begin(executions, SLEEP)
        assert (starting.state, starting.kernel, starting.start_ms is None) == ("starting", None, False)
        queued = await begin(executions, "1")
        assert (queued.state, queued.start_ms, queued.run_ms) == ("queued", None, None)
        assert list(executions.live) == [starting, queued]
        for running in (queued, starting):
            running.cancel()
            running.cancel()
            assert await end(running) == ("cancelled", None)
            assert (running.kernel, running.run_ms) == (None, None)
        await until(lambda: pool.admission.load == (0, 0))

        await pool.open_session("s", owner=ANN.owner)
        assert await end(await begin(executions, "x = 1; x", "s")) == ("ok", "1")
        running = await begin(executions, f"print('on', flush=True); {SLEEP}", "s")
        waits = await begin(executions, "x = 3", "s")
        await until(lambda: running.log.last == 3)
        assert (running.state, running.kernel, waits.state) == ("running", generation.kernel_name, "queued")
        waits.cancel()
        running.cancel()
        assert [(await end(one))[0] for one in (running, waits)] == ["cancelled", "cancelled"]
        assert running.execution.text("stdout") == "on\n"
        assert running.done is not None and not running.done.kernel_lost
        assert await end(await begin(executions, "x", "s")) == ("ok", "1")

        deaf = await begin(executions, DEAF, "s")
        await until(lambda: deaf.log.last == 3)
        deaf.cancel()
        assert (await end(deaf))[0] == "cancelled"
        assert deaf.done is not None and deaf.done.kernel_lost
        assert await end(await begin(executions, "'x' in globals()", "s")) == ("ok", "False")
        assert pool.admission.load == (0, 0)


async def test_who_cancels_too_late_disturbs_nobody(generation: Generation, home: Home, tmp_path: Path) -> None:
    async with executing(generation, home, tmp_path) as (executions, pool):
        await pool.open_session("s", owner=ANN.owner)
        running, told = Running(ANN, "s", kept=True), asyncio.Event()

        async def work(running: Running) -> Execution:
            execution = await executions.run(Task.code("1"), running)
            await told.wait()
            return execution

        await executions.begin(running, work)
        await until(lambda: running.done is not None)
        other = await begin(executions, "import time; time.sleep(0.2); 2", "s")
        await until(lambda: other.state == "running")
        running.cancel()
        told.set()
        assert [await end(running), await end(other)] == [("ok", "1"), ("ok", "2")]
        running.cancel()
        assert running.state == "ok"


async def test_cancelled_at_any_moment_it_ends_and_leaves_nothing(
    generation: Generation, home: Home, tmp_path: Path
) -> None:
    async with executing(generation, home, tmp_path, running=1) as (executions, pool):
        await pool.open_session("s", owner=ANN.owner)
        states = list[str]()
        moments = [("s", n / 80) for n in range(20)] + [(None, n / 20) for n in range(8)]
        for session, seconds in moments:
            running = await begin(executions, "import time; time.sleep(0.15)", session)
            await asyncio.sleep(seconds)
            running.cancel()
            states.append((await end(running))[0])
            assert running.done is not None and not running.done.kernel_lost
        assert set(states) <= {"ok", "cancelled"}
        assert "cancelled" in states
        assert await end(await begin(executions, "6 * 7", "s")) == ("ok", "42")
        assert pool.admission.load == (0, 0)


async def test_what_fails_at_once_is_not_begun(generation: Generation, home: Home, tmp_path: Path) -> None:
    async with executing(generation, home, tmp_path, running=1, waiting=0) as (executions, _):
        with pytest.raises(AigbbError, match="no session 'nobody'"):
            await begin(executions, "1", "nobody")
        first = await begin(executions, SLEEP)
        with pytest.raises(PoolExhausted):
            await begin(executions, "1")
        assert list(executions.seen_by(ROOT)) == [first]
        first.cancel()
        await first.over()


async def test_what_fails_later_says_why(generation: Generation, home: Home, tmp_path: Path) -> None:
    async with executing(generation, home, tmp_path) as (executions, _):

        async def fails(_: Running) -> None:
            await asyncio.sleep(0)
            raise PoolExhausted("Full.")

        async def is_wrong(_: Running) -> None:
            await asyncio.sleep(0)
            raise ZeroDivisionError

        for work, detail in ((fails, "Full."), (is_wrong, "Something went wrong inside.")):
            running = Running(ANN, kept=True)
            await executions.begin(running, work)
            await running.over()
            assert running.state == "failed"
            assert running.problem is not None and running.problem.detail == detail
            assert executions.find(running.id, ANN) is running


async def test_all_end_with_their_owner(generation: Generation, home: Home, tmp_path: Path) -> None:
    async with executing(generation, home, tmp_path, running=1) as (executions, pool):
        begun: Sequence[Running] = [await begin(executions, SLEEP) for _ in range(3)]
        executions.leave(begun[1])
        await begun[1].over()
        await until(lambda: begun[0].state == "running")
    assert [one.state for one in begun] == ["cancelled"] * 3
    assert pool.admission.load == (0, 0)
    assert list(executions.seen_by(ROOT)) == []
