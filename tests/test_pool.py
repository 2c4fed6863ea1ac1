"""Who gets which kernel: clean ones, sessions, limits, another generation, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from kernels.admission import Owner
from kernels.errors import KernelStartFailed, PoolExhausted, SessionBusy, SessionExists, SessionNotFound, ShuttingDown
from kernels.kernel import Kernel, Launch
from kernels.limits import PoolLimits
from kernels.outputs import Execution, Result, Stream, fold
from kernels.pool import Pool
from kernels.tasks import Task
from tests.waiting import until

pytestmark = pytest.mark.anyio

SLEEP = "import time\ntime.sleep(600)"


@asynccontextmanager
async def running(launch: Callable[[], Launch] | Launch, **limits: Any) -> AsyncIterator[Pool]:
    """A pool, by default without spares."""
    async with Pool(launch if callable(launch) else lambda: launch, PoolLimits(**{"spares": 0, **limits})) as pool:
        yield pool


async def run(pool: Pool, code: str, session: str | None = None, *, timeout: float = 60.0) -> Execution:
    """Execute and fold."""
    async with aclosing(pool.execute(Task.code(code), session=session, timeout=timeout, max_output=10_000)) as items:
        return await fold(item async for _, item in items)


async def run_on(kernel: Kernel, code: str) -> Execution:
    """The same on one kernel."""
    return await fold(kernel.execute(Task.code(code), timeout=60, max_output=10_000))


def alive(pid: object) -> bool:
    """Whether there is such a process that has not ended, even if its parent has yet to take note of that."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# -- clean kernels


async def test_an_execution_never_sees_what_another_left(launch: Launch) -> None:
    async with running(launch, spares=1) as pool:
        left = await run(pool, "import json\nkept = json.kept = 1\nopen('file', 'w').close()\nimport os\nos.getpid()")
        seen = await run(
            pool, "import json, os\n[hasattr(json, 'kept'), 'kept' in globals(), os.listdir(), os.getpid()]"
        )
        assert str(seen.result).startswith("[False, False, [")
        assert "file" not in str(seen.result) and str(left.result) not in str(seen.result)


async def test_spares_are_made_ready_and_replaced(launch: Launch) -> None:
    async with running(launch, spares=2) as pool:
        pool.roll_over()
        await until(lambda: pool.spares == 2)
        assert (await run(pool, "6 * 7")).result == "42"
        await until(lambda: pool.spares == 2)
        assert pool.generations() == {launch.generation}


async def test_a_spare_that_died_is_not_handed_out(launch: Launch) -> None:
    async with running(launch) as pool:
        dead = await pool.rehearse(launch)
        pool.adopt(dead)
        await dead.stop()
        assert (await run(pool, "6 * 7")).result == "42"
        assert pool.spares == 0


async def test_a_rehearsed_kernel_serves_first(launch: Launch) -> None:
    async with running(launch) as pool:
        kernel = await pool.rehearse(launch)
        pool.adopt(kernel)
        used = [used async for used, _ in pool.execute(Task.code("1"), session=None, timeout=60, max_output=999)]
        assert set(used) == {kernel}


async def test_a_kernel_that_does_not_start_is_the_callers_error_and_costs_no_place(launch: Launch) -> None:
    now = [replace(launch, name="nothing")]
    async with running(lambda: now[0], running=1, waiting=0, spares=1) as pool:
        for _ in range(2):
            with pytest.raises(KernelStartFailed):
                await run(pool, "1")
        with pytest.raises(KernelStartFailed):
            await pool.open_session("s")
        assert pool.admission.load == (0, 0) and pool.sessions() == []
        now[0] = launch
        assert (await run(pool, "6 * 7")).result == "42"
        await until(lambda: pool.spares == 1)


async def test_who_closes_the_stream_frees_the_kernel(launch: Launch) -> None:
    async with running(launch, running=1) as pool:
        code = f"import os\nprint(os.getpid(), flush=True)\n{SLEEP}"
        stream = pool.execute(Task.code(code), session=None, timeout=60, max_output=999)
        kernel, item = await anext(stream)
        assert isinstance(item, Stream) and alive(int(item.text))
        await stream.aclose()
        assert pool.admission.load == (0, 0)
        await until(lambda: not alive(int(item.text)))
        await until(lambda: not kernel.workdir.exists())


async def test_a_caller_that_is_cancelled_while_a_kernel_starts_leaves_none(launch: Launch) -> None:
    async with running(launch) as pool:
        waiting = asyncio.create_task(run(pool, "1"))
        await until(lambda: any(launch.runtime.glob("*/*")))
        while not waiting.done():  # as the web server does: at every wait
            waiting.cancel()
            await asyncio.sleep(0)
        await until(lambda: not any(launch.runtime.glob("*/*")) and not any(launch.workdir.iterdir()))
        assert pool.admission.load == (0, 0)


# -- limits


@pytest.mark.parametrize("launch", ["forked"], indirect=True)
async def test_executions_over_the_limit_wait_and_over_that_are_refused(launch: Launch) -> None:
    async with running(launch, running=1, waiting=1) as pool:
        first = asyncio.create_task(run(pool, SLEEP))
        await until(lambda: pool.admission.load == (1, 0))
        second = asyncio.create_task(run(pool, "6 * 7"))
        await until(lambda: pool.admission.load == (1, 1))
        with pytest.raises(PoolExhausted) as refused:
            await run(pool, "1")
        assert refused.value.extra["retry_after"] >= 1
        second.cancel()
        await asyncio.wait([second])
        assert pool.admission.load == (1, 0)
        third = asyncio.create_task(run(pool, "6 * 7"))
        await until(lambda: pool.admission.load == (1, 1))
        first.cancel()
        assert (await third).result == "42"
        assert pool.admission.load == (0, 0)


@pytest.mark.parametrize("launch", ["forked"], indirect=True)
async def test_sessions_are_limited_and_have_one_owner_of_a_name(launch: Launch) -> None:
    async with running(launch, sessions=1) as pool:
        opening = asyncio.create_task(pool.open_session("s"))
        await asyncio.sleep(0)
        with pytest.raises(PoolExhausted) as refused:
            await pool.open_session("t")
        assert refused.value.extra["retry_after"] >= 1
        await opening
        with pytest.raises(SessionExists):
            await pool.open_session("s")
        await pool.close_session("s")
        assert (await pool.open_session()).id not in ("s", "t", "")


@pytest.mark.parametrize("launch", ["forked"], indirect=True)
async def test_two_who_open_the_same_session_at_once_get_one(launch: Launch) -> None:
    async with running(launch) as pool:
        both = await asyncio.gather(pool.open_session("s"), pool.open_session("s"), return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in both) == ["SessionExists", "SessionInfo"]
        await until(lambda: len(list(launch.workdir.iterdir())) == 1)


@pytest.mark.parametrize("launch", ["forked"], indirect=True)
async def test_sessions_and_callers_take_turns_with_who_has_many_waiting(launch: Launch) -> None:
    async with running(launch, running=1) as pool:
        order = list[str]()

        async def enter(name: str, session: str | None, caller: str = "") -> None:
            task = Task.code("1")
            stream = pool.execute(
                task, session=session, timeout=60, max_output=999, caller=Owner(caller, unlimited=False)
            )
            async with aclosing(stream):
                order.extend([name for _ in [await anext(stream)]])

        await pool.open_session("s")
        first = asyncio.create_task(run(pool, SLEEP))
        await until(lambda: pool.admission.load == (1, 0))
        async with asyncio.TaskGroup() as group:
            for name, session, caller in [("a", None, "a")] * 3 + [("s", "s", "a"), ("b", None, "b")]:
                group.create_task(enter(name, session, caller))
            await until(lambda: pool.admission.load == (1, 5))
            first.cancel()
        assert "".join(order) == "asbaa"


# -- sessions


async def test_a_session_keeps_its_variables_also_after_an_error(launch: Launch) -> None:
    async with running(launch) as pool:
        opened = await pool.open_session("s")
        assert (opened.id, opened.kernel, opened.executions) == ("s", launch.name, 0)
        await run(pool, "kept = 7", "s")
        assert (await run(pool, "1 / 0", "s")).done.status == "error"
        assert (await run(pool, "kept", "s")).result == "7"
        (info,) = pool.sessions()
        assert (info.executions, info.state) == (3, "idle")
        assert info.created <= info.last_used < info.expires


@pytest.mark.parametrize("launch", ["forked"], indirect=True)
async def test_a_session_runs_one_execution_at_a_time_in_order(launch: Launch) -> None:
    async with running(launch) as pool:
        await pool.open_session("s")
        await run(pool, "order = []", "s")
        code = "import time\norder.append('{0} begins')\ntime.sleep(0.1)\norder.append('{0} ends')"
        await asyncio.gather(*(run(pool, code.format(name), "s") for name in "abc"))
        seen = (await run(pool, "print(*order, sep=', ')", "s")).text("stdout")
        assert seen == "a begins, a ends, b begins, b ends, c begins, c ends\n"


@pytest.mark.parametrize("launch", ["forked"], indirect=True)
async def test_who_waits_for_a_session_takes_nobody_elses_place(launch: Launch) -> None:
    async with running(launch, running=2, waiting=2) as pool:
        await pool.open_session("s")
        tasks = [asyncio.create_task(run(pool, SLEEP, "s")) for _ in range(3)]
        await until(lambda: pool.admission.load == (1, 0) and pool.sessions()[0].state == "busy")
        assert (await run(pool, "6 * 7")).result == "42"
        with pytest.raises(PoolExhausted, match="this session") as refused:
            await run(pool, "1", "s")
        assert refused.value.extra["retry_after"] >= 1
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert (await run(pool, "6 * 7", "s")).result == "42"


async def test_a_session_whose_kernel_dies_goes_on_with_a_fresh_one_and_says_so(launch: Launch) -> None:
    async with running(launch) as pool:
        await pool.open_session("s")
        died = await run(pool, "kept = 7\nimport os\nos._exit(1)", "s")
        assert died.done.status == "died" and died.done.kernel_lost
        after = await run(pool, "'kept' in globals()", "s")
        assert after.result == "False" and after.text("stderr") == ""
        assert not after.done.kernel_lost


async def test_a_death_between_executions_is_told_once(launch: Launch) -> None:
    async with running(launch) as pool:
        await pool.open_session("s")
        await run(pool, "import os, threading\nthreading.Timer(0.1, os._exit, [1]).start()", "s")
        await until(lambda: pool.sessions()[0].state == "dead")
        after = await run(pool, "6 * 7", "s")
        assert (after.result, after.done.status, after.done.kernel_lost) == ("42", "ok", True)
        assert "variables" in after.text("stderr")
        again = await run(pool, "6 * 7", "s")
        assert again.text("stderr") == "" and not again.done.kernel_lost


@pytest.mark.parametrize("launch", ["forked"], indirect=True)
async def test_an_idle_session_expires(launch: Launch) -> None:
    async with running(launch, idle_seconds=0.5) as pool:
        await pool.open_session("s")
        assert (await run(pool, "import time\ntime.sleep(1)\n6 * 7", "s")).result == "42"
        await until(lambda: not pool.sessions())
        with pytest.raises(SessionNotFound):
            await run(pool, "1", "s")
        await until(lambda: not any(launch.workdir.iterdir()))


async def test_an_interrupt_cancels_what_runs_in_a_session(launch: Launch) -> None:
    async with running(launch) as pool:
        await pool.open_session("s")
        with pytest.raises(SessionBusy):
            await pool.interrupt_session("s")
        execution = asyncio.create_task(run(pool, f"kept = 7\n{SLEEP}", "s"))
        await until(lambda: pool.sessions()[0].state == "busy")
        await pool.interrupt_session("s")
        assert (await execution).done.status == "cancelled"
        assert (await run(pool, "kept", "s")).result == "7"


async def test_a_restart_ends_what_runs_and_gives_a_clean_kernel_once(launch: Launch) -> None:
    async with running(launch) as pool:
        await pool.open_session("s")
        execution = asyncio.create_task(run(pool, f"kept = 7\n{SLEEP}", "s"))
        await until(lambda: pool.sessions()[0].state == "busy")
        waiting = asyncio.create_task(run(pool, "late = 'kept' in globals()", "s"))
        await asyncio.sleep(0)
        await pool.restart_session("s")
        ended = (await execution).done
        assert (ended.status, ended.detail, ended.kernel_lost) == ("died", "The kernel was stopped.", True)
        assert (await waiting).done.status == "ok"
        assert (await run(pool, "late", "s")).result == "False"


async def test_closing_a_session_ends_what_runs_in_it(launch: Launch) -> None:
    async with running(launch) as pool:
        await pool.open_session("s")
        tasks = [asyncio.create_task(run(pool, SLEEP, "s")) for _ in range(2)]
        await until(lambda: pool.sessions()[0].state == "busy")
        await pool.close_session("s")
        assert (await tasks[0]).done.status == "died"
        with pytest.raises(SessionNotFound):
            await tasks[1]
        for gone in (pool.close_session, pool.restart_session, pool.interrupt_session):
            with pytest.raises(SessionNotFound):
                await gone("s")
        await until(lambda: not any(launch.workdir.iterdir()))


async def test_a_session_closed_while_it_gets_a_fresh_kernel_leaves_none(launch: Launch) -> None:
    async with running(launch) as pool:
        await pool.open_session("s")
        await run(pool, "import os\nos._exit(1)", "s")
        execution = asyncio.create_task(run(pool, "1", "s"))
        await until(lambda: len(list(launch.workdir.iterdir())) == 2)
        await pool.close_session("s")
        with pytest.raises(SessionNotFound):
            await execution
        await until(lambda: not any(launch.workdir.iterdir()))
        assert pool.generations() == set()


async def test_a_session_goes_on_after_a_client_has_left(launch: Launch) -> None:
    async with running(launch) as pool:
        await pool.open_session("s")
        code = f"kept = 7\nprint('began', flush=True)\n{SLEEP}"
        stream = pool.execute(Task.code(code), session="s", timeout=60, max_output=999)
        await anext(stream)
        await stream.aclose()
        after = await run(pool, "kept", "s")
        assert (after.result, after.done.kernel_lost) == ("7", False)


async def test_a_client_whose_task_is_cancelled_again_and_again_does_no_harm(launch: Launch) -> None:
    async def leave_at_the_first_item(pool: Pool) -> None:
        with anyio.CancelScope() as scope:  # which cancels at every wait, as the web server's does
            code = f"kept = 7\nprint('began', flush=True)\n{SLEEP}"
            async with aclosing(pool.execute(Task.code(code), session="s", timeout=60, max_output=999)) as items:
                async for _ in items:
                    scope.cancel()

    async with running(launch) as pool:
        await pool.open_session("s")
        for _ in range(3):
            await leave_at_the_first_item(pool)
            after = await run(pool, "kept", "s", timeout=10)
            assert (after.result, after.done.status) == ("7", "ok")


# -- generations


async def test_another_generation_takes_over_and_sessions_stay(launch: Launch) -> None:
    now = [launch]
    async with running(lambda: now[0], spares=1) as pool:
        pool.roll_over()
        await pool.open_session("s")
        await run(pool, "kept = 7", "s")
        await until(lambda: pool.spares == 1)
        now[0] = replace(launch, generation=launch.generation + 1)
        pool.roll_over()
        used = [kernel async for kernel, _ in pool.execute(Task.code("1"), session=None, timeout=60, max_output=999)]
        assert {kernel.launch.generation for kernel in used} == {now[0].generation}
        assert (await run(pool, "kept", "s")).result == "7"
        await until(lambda: pool.spares == 1)
        assert pool.generations() == {launch.generation, now[0].generation}
        assert (await pool.restart_session("s")).generation == now[0].generation
        await until(lambda: pool.generations() == {now[0].generation})


async def test_a_spare_of_the_old_generation_that_is_still_starting_does_not_serve(launch: Launch) -> None:
    now = [launch]
    async with running(lambda: now[0], spares=1) as pool:
        pool.roll_over()
        await until(lambda: any(launch.runtime.glob("*/*")))
        now[0] = replace(launch, generation=launch.generation + 1)
        pool.roll_over()
        await until(lambda: pool.spares == 1)
        assert pool.generations() == {now[0].generation}


@pytest.mark.parametrize("launch", ["forked"], indirect=True)
async def test_a_task_may_run_on_another_generation_than_the_one_that_serves(launch: Launch) -> None:
    older = replace(launch, generation=launch.generation - 1)
    async with running(launch, spares=1) as pool:
        pool.roll_over()
        await until(lambda: pool.spares == 1)
        stream = pool.execute(Task.code("6 * 7"), session=None, timeout=60, max_output=999, launch=older)
        async with aclosing(stream):
            used = [kernel async for kernel, _ in stream]
        assert {kernel.launch.generation for kernel in used} == {older.generation}
        assert pool.spares == 1, "which is for others"
        await until(lambda: pool.generations() == {launch.generation})


@pytest.mark.parametrize("launch", ["forked"], indirect=True)
async def test_a_kernel_of_another_generation_that_does_not_start_costs_no_place(launch: Launch) -> None:
    async with running(launch, running=1, waiting=0) as pool:
        broken = replace(launch, name="nothing")
        with pytest.raises(KernelStartFailed):
            await anext(pool.execute(Task.code("1"), session=None, timeout=60, max_output=999, launch=broken))
        assert pool.admission.load == (0, 0)
        assert (await run(pool, "6 * 7")).result == "42"


# -- being prepared

LOADED = "import sys\n'aigbb_inside.contract' in sys.modules"


async def test_a_spare_has_loaded_what_calls_need_before_its_first_task(launch: Launch) -> None:
    async with running(launch, spares=1) as pool:
        pool.roll_over()
        await until(lambda: pool.spares == 1)
        execution = await run(pool, LOADED)
        assert (execution.result, execution.outputs) == ("True", (Result({"text/plain": "True"}, {}),))


@pytest.mark.parametrize("launch", ["spawned"], indirect=True)  # a fork has loaded what its parent has
async def test_new_functions_are_loaded_by_spares_at_once(launch: Launch) -> None:
    """And not by the task that comes next: an adopted kernel, which was never asked before, shows it."""
    async with running(launch) as pool:
        kernel = await pool.rehearse(launch)
        assert (await run_on(kernel, LOADED)).result == "False"
        pool.adopt(kernel)
        await asyncio.sleep(0)  # else the next task would be sent before what prepares for it
        assert (await run(pool, LOADED)).result == "True"


async def test_a_refresh_leaves_what_runs_and_who_has_died_alone(launch: Launch) -> None:
    async with running(launch) as pool:
        dead = await pool.rehearse(launch)
        pool.adopt(dead)
        await dead.stop()
        await pool.open_session("s")
        execution = asyncio.create_task(run(pool, "import time\ntime.sleep(0.2)\n6 * 7", "s"))
        await until(lambda: pool.sessions()[0].state == "busy")
        pool.refresh()
        assert (await execution).result == "42"


# -- the end


async def test_the_end_of_the_pool_is_the_end_of_every_kernel(launch: Launch) -> None:
    async with running(launch, spares=1) as pool:
        pool.roll_over()
        await pool.open_session("s")
        await until(lambda: pool.spares == 1)
        code = f"import os\nprint(os.getpid(), flush=True)\n{SLEEP}"
        streams = [pool.execute(Task.code(code), session=name, timeout=600, max_output=999) for name in (None, "s")]
        said = [item for _, item in [await anext(stream) for stream in streams]]
        await until(lambda: pool.spares == 1)
        await pool.open_session()  # takes the spare, so who comes late has to start a kernel
        late = asyncio.create_task(run(pool, "1"))
        starting = [asyncio.create_task(pool.open_session()) for _ in range(2)]
        await asyncio.sleep(0)
    pids = [int(item.text) for item in said if isinstance(item, Stream)]
    assert len(pids) == 2 and not any(alive(pid) for pid in pids)
    assert [*launch.runtime.glob("*/*"), *launch.workdir.iterdir()] == []
    for stream in streams:
        done = (await fold(item async for _, item in stream)).done
        assert (done.status, done.detail) == ("died", "The kernel was stopped.")
    for task in [late, *starting]:
        with pytest.raises(ShuttingDown):
            await task
