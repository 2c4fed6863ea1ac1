"""A model's calls side by side or one after the other, by what they may change, and who is told of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from server.callers import Caller
from server.calls import ToolResult
from server.completions import ToolCall
from server.permits import Permit
from server.registry import Version
from server.running import Running
from server.service import Service
from server.settings import Settings
from tests.conftest import shown_beside

pytestmark = pytest.mark.anyio

MEETS = """
import time
from pathlib import Path

def meets(folder: Path, mine: str, other: str) -> str:
    (folder / mine).touch()
    while not (folder / other).exists():
        time.sleep(0.01)
    return f"{mine} met {other}"
"""
LISTS = """
from pathlib import Path

def lists(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
"""
FAILS = """
import os

def fails(n: int) -> int:
    print(os.environ["PASSED_KEY"])
    raise ValueError("the key is " + os.environ["PASSED_KEY"])
"""
PICKY = """
import os
from typing import Annotated
from pydantic import AfterValidator

def known(value: str) -> str:
    raise ValueError("only " + os.environ["PASSED_KEY"])

def picky(value: Annotated[str, AfterValidator(known)]) -> str:
    return value
"""
# `lists` says nothing of its effects, so it counts as one that changes things.
FUNCTIONS = {
    "meets": (MEETS, {"effects": "read"}),
    "lists": (LISTS, None),
    "fails": (FAILS, {"effects": "read"}),
    "picky": (PICKY, None),
}


@pytest.fixture
def tmp_path(shown: Path) -> Path:
    """A folder that kernels may write, too."""
    return shown


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """One event loop for the service of all tests."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> AsyncIterator[Service]:
    """A service with these functions, without its doors."""
    folder = tmp_path_factory.mktemp("calls")
    functions = folder / "aigbb_functions"
    functions.mkdir()
    for name, (source, beside) in FUNCTIONS.items():
        (functions / f"{name}.py").write_text(source)
        if beside:
            (functions / f"{name}.json").write_text(json.dumps(beside))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PASSED_KEY", "hunter2-hunter2")
        settings = Settings(
            home=folder / "home",
            functions_dir=functions,
            kernelspecs_dir=folder / "kernels",
            cache=cache,
            pass_env=("PASSED_KEY",),
            mounts=(f"{shown_beside(folder)}:rw",),
        )
        async with Service.open(settings) as opened:
            assert opened.notes == []
            yield opened


def call(name: str, **arguments: Any) -> ToolCall:
    """A call of a model."""
    return ToolCall(f"{name}-{sorted(map(str, arguments.values()))}", name, json.dumps(arguments, default=str))


class Log:
    """What was told, in order: `began` with the function's name, and the content of what ended."""

    def __init__(self, failing: Mapping[str, Exception] | None = None) -> None:
        self.lines: list[str] = []
        self.failing = failing or {}

    async def began(self, call: ToolCall, version: Version) -> None:
        """Before a call that may change something."""
        self._note(f"began {call.name} {version.number}")

    async def ended(self, result: ToolResult) -> None:
        """After any."""
        self._note(f"ended {result.content}")

    def _note(self, line: str) -> None:
        self.lines.append(line)
        if line in self.failing:
            raise self.failing[line]


def permitted(service: Service, *calls: ToolCall) -> list[tuple[ToolCall, Permit | None]]:
    """Calls with their permits, as if a person had decided about them."""
    judged = service.calls.judged(Caller())
    return [(call, judged[call.name].for_decision() if call.name in judged else None) for call in calls]


async def run(service: Service, *calls: ToolCall, log: Log | None = None, session: str | None = None) -> list[str]:
    """The contents."""
    log = log or Log()
    asked = permitted(service, *calls)
    results = await service.calls.run_tools(asked, {}, Caller(), session=session, began=log.began, ended=log.ended)
    assert [result.call for result in results] == list(calls)
    return [result.content for result in results]


# -- order


async def test_reads_run_side_by_side_and_a_write_alone(service: Service, tmp_path: Path) -> None:
    log = Log()
    found = await run(
        service,
        call("meets", folder=tmp_path, mine="a", other="b"),
        call("meets", folder=tmp_path, mine="b", other="a"),
        call("lists", folder=tmp_path),
        call("meets", folder=tmp_path, mine="c", other="a"),
        log=log,
    )
    assert found == ["a met b", "b met a", '["a","b"]', "c met a"]
    assert sorted(log.lines[:2]) == ["ended a met b", "ended b met a"]
    assert log.lines[2:] == ["began lists 1", 'ended ["a","b"]', "ended c met a"]


async def test_writes_run_one_after_the_other(service: Service, tmp_path: Path) -> None:
    log = Log()
    await run(service, *[call("lists", folder=tmp_path)] * 2, log=log)
    assert log.lines == ["began lists 1", "ended []"] * 2


async def test_what_is_refused_is_told_first_and_is_no_barrier(service: Service, tmp_path: Path) -> None:
    log = Log()
    found = await run(
        service,
        call("meets", folder=tmp_path, mine="a", other="b"),
        call("lits", folder=tmp_path),
        ToolCall("x", "lists", "{"),
        call("meets", folder=tmp_path, mine="b", other="a"),
        log=log,
    )
    assert [found[0], found[3]] == ["a met b", "b met a"]
    assert [json.loads(content)["error"] for content in found[1:3]] == ["unknown_function", "invalid_arguments"]
    assert sorted(log.lines[:2]) == sorted(f"ended {content}" for content in found[1:3])


async def test_in_a_session_all_run_in_order(service: Service, tmp_path: Path) -> None:
    log = Log()
    session = (await service.pool.open_session("")).id
    calls = [call("meets", folder=tmp_path, mine=name, other=name) for name in "abc"]
    found = await run(service, *calls, log=log, session=session)
    await service.pool.close_session(session)
    assert log.lines == [f"ended {content}" for content in found]


async def test_no_calls_have_no_results(service: Service) -> None:
    assert await run(service) == []


# -- who is told


async def test_a_result_says_which_version_was_called(service: Service, tmp_path: Path) -> None:
    calls = [call("lists", folder=tmp_path), call("lists", folder=1, x=2), ToolCall("x", "lists", "["), call("lits")]
    results = await service.calls.run_tools(permitted(service, *calls), {}, Caller())
    assert [result.status for result in results] == ["ok", "invalid_arguments", "invalid_arguments", "unknown_function"]
    assert [result.version for result in results] == [1, 1, 1, None]


@pytest.mark.parametrize("line", ["began lists 1", "ended []"])
async def test_when_the_log_fails_no_more_is_started(service: Service, tmp_path: Path, line: str) -> None:
    error = OSError("The disk is full.")
    log = Log({line: error})
    meets = call("meets", folder=tmp_path, mine="a", other="a")
    with pytest.raises(OSError, match="The disk is full") as raised:
        await run(service, call("lists", folder=tmp_path), meets, log=log)
    assert raised.value is error
    assert log.lines[-1] == line
    assert await asyncio.to_thread(lambda: list(tmp_path.iterdir())) == []


async def test_when_the_log_fails_for_a_read_those_beside_it_are_given_up(service: Service, tmp_path: Path) -> None:
    log = Log({"ended a met a": OSError("The disk is full.")})
    waits = call("meets", folder=tmp_path, mine="b", other="nobody")
    with pytest.raises(OSError, match="The disk is full"):
        await run(service, call("meets", folder=tmp_path, mine="a", other="a"), waits, log=log)
    assert service.pool.admission.load == (0, 0)


async def test_who_gives_up_frees_the_kernels(service: Service, tmp_path: Path) -> None:
    begun, log = asyncio.Event(), Log()

    async def ended(_: ToolResult) -> None:
        begun.set()

    waits = call("meets", folder=tmp_path, mine="b", other="nobody")
    asked = permitted(service, waits, call("lits"), waits)
    work = service.calls.run_tools(asked, {}, Caller(), began=log.began, ended=ended)
    task = asyncio.create_task(work)
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert service.pool.admission.load == (0, 0)


async def test_a_call_without_a_permit_is_not_run(service: Service, tmp_path: Path) -> None:
    [result] = await service.calls.run_tools([(call("lists", folder=tmp_path), None)], {}, Caller())
    assert (result.status, result.version, result.execution) == ("needs_confirmation", 1, None)


# -- secrets


async def test_variables_of_the_service_are_masked_in_errors(service: Service) -> None:
    [result] = await service.calls.run_tools(permitted(service, call("fails", n=1)), {}, Caller())
    assert json.loads(result.content)["detail"] == "ValueError: the key is ***"
    assert result.status == "error"
    assert "the key is ***" in result.traceback and 'os.environ["PASSED_KEY"]' in result.traceback
    assert "hunter2" not in f"{result}"
    permit = service.calls.judged(Caller())["fails"].for_decision()
    with service.executions.recorded(Running(Caller())) as running:
        called = await service.calls.call(running, permit, {"n": 1})
    assert called.execution.error is not None
    assert called.execution.error.evalue == "the key is hunter2-hunter2"


async def test_variables_are_masked_in_what_validators_say(service: Service) -> None:
    [result] = await service.calls.run_tools(permitted(service, call("picky", value="x")), {}, Caller())
    assert (result.status, result.traceback) == ("invalid_arguments", "")
    assert "only ***" in result.content and "hunter2" not in result.content
