"""What serves stays whole: clean-up never runs beside a change, and what somebody deletes or edits is made again.

`EVERY_STEP=1` has the two writers make 200 rounds, else they make 20.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from kernels.errors import AigbbError, EnvironmentDamaged, InsufficientStorage, ProcessUnavailable, StorageFailed
from kernels.progress import Step, silent
from kernels.storage import refusal
from server.callers import Caller
from server.functions import Draft
from server.reconciler import contents_of
from server.registrar import Wanted
from server.service import Service
from tests.homes import execute, left_over, settings_of
from tests.waiting import until

pytestmark = pytest.mark.anyio
pytest_plugins = ["tests.homes_fixtures"]

ROUNDS = 200 if os.environ.get("EVERY_STEP") else 20
FUNCTIONS = 300


@pytest.fixture
async def service(folder: Path, cache: Path) -> AsyncIterator[Service]:
    """One that serves `steady`."""
    async with Service.open(settings_of(folder, cache)) as opened:
        yield opened


def wanted(name: str) -> Wanted:
    """A small function."""
    return Wanted(Draft(f"def {name}() -> str:\n    return {name!r}\n"))


def snapshot_of(service: Service) -> Path:
    """The folder of the snapshot that serves."""
    return service.home.snapshots / str(service.serving.state.snapshot)


async def fault_of(service: Service) -> str | None:
    """The first file of what serves that is not as it must be."""
    return await asyncio.to_thread(contents_of(service.serving.state).fault, snapshot_of(service))


# -- clean-up and changes


async def test_two_writers_and_the_clean_up_lose_nothing(service: Service) -> None:
    names = [f"f{n:03}" for n in range(FUNCTIONS + 2 * ROUNDS)]
    await service.register([wanted(name) for name in names], Caller())
    done, broken = asyncio.Event(), []

    async def write(mine: list[str]) -> None:
        for name in mine:
            await service.delete(name, Caller())
            if (file := await fault_of(service)) is not None:
                broken.append(file)

    async def clean() -> None:
        while not done.is_set():
            await service.changer.clean()

    cleaning = asyncio.create_task(clean())
    await asyncio.gather(write(names[FUNCTIONS::2]), write(names[FUNCTIONS + 1 :: 2]))
    done.set()
    await cleaning
    await service.changer.clean()
    assert broken == []
    assert sorted(service.serving.state.active) == [*names[:FUNCTIONS], "steady"]
    there = [path.name for path in service.home.snapshots.iterdir() if path.name.isdecimal()]
    assert len(there) <= 8, "old ones are deleted while there are changes"
    assert left_over(service.home.path) == []
    assert await execute(service, f"f000() + f{FUNCTIONS - 1}()") == f"'f000f{FUNCTIONS - 1}'"


# -- damage while it serves


def gone(path: Path) -> None:
    """Delete it."""
    path.unlink()


def edited(path: Path) -> None:
    """Change the text; not in place, as tests share the files of their homes."""
    path.unlink()
    path.write_text("def steady(n: int) -> int:\n    return 666\n")


def beside(path: Path) -> None:
    """Put a module there that would hide one of the library's."""
    (path.parents[1] / "json.py").write_text("raise SystemExit\n")


async def test_a_snapshot_that_is_damaged_is_told_of_and_made_again_and_never_passed_on(
    service: Service, no_blocking: BlockBuster
) -> None:
    assert (await service.examined()).status == "ok"
    for damage in (gone, beside):
        await asyncio.to_thread(damage, snapshot_of(service) / "aigbb_functions" / "steady.py")
        health = await service.examined()
        assert health.status == "degraded"
        assert [fault.code for fault in health.faults] == ["snapshot_damaged"]
        await until(lambda: service.health().status == "ok")
        assert await fault_of(service) is None
        assert service.health().snapshot == health.snapshot + 1
    await asyncio.to_thread(edited, snapshot_of(service) / "aigbb_functions" / "steady.py")
    await service.register([wanted("other")], Caller())
    assert await fault_of(service) is None
    assert await execute(service, "steady(21)") == "42"

    no_blocking.functions["os.unlink"].can_block_in("tests/test_reconciler.py", {"lose"})
    before = service.serving

    def lose(step: Step) -> None:
        if step.message == "Committing":
            (service.home.snapshots / str(before.state.snapshot + 1) / "aigbb_functions" / "steady.py").unlink()

    with pytest.raises(StorageFailed):
        await service.register([wanted("more")], Caller(), lose)
    assert service.serving is before
    service.home.snapshots.rename(service.home.path / "elsewhere")
    with pytest.raises(StorageFailed) as refused:  # and no full disk
        await service.register([wanted("more")], Caller())
    assert refused.value.status == 500
    (service.home.path / "elsewhere").rename(service.home.snapshots)
    assert left_over(service.home.path) == []


async def test_a_registration_that_is_cut_off_leaves_nothing(service: Service) -> None:
    number = service.serving.state.snapshot
    cut = [asyncio.create_task(service.registrar.register([wanted(f"g{n}")], Caller(), silent)) for n in range(4)]
    await until((service.home.snapshots / str(number + 1)).exists)
    for task in cut:
        task.cancel()
    await asyncio.gather(*cut, return_exceptions=True)
    await service.register([wanted("after")], Caller())
    assert await fault_of(service) is None
    assert await execute(service, "after()") == "'after'"


async def test_a_damaged_snapshot_is_made_again_at_the_start(folder: Path, cache: Path) -> None:
    newest = max((folder / "home" / "snapshots").iterdir(), key=lambda path: int(path.name))
    (newest / "aigbb_functions" / "__init__.py").unlink()
    async with Service.open(settings_of(folder, cache)) as service:
        assert await fault_of(service) is None
        assert (await service.examined()).status == "ok"


async def test_an_environment_that_loses_files_is_made_again_and_no_author_is_blamed(service: Service) -> None:
    first = service.serving.generation
    (site,) = first.folder.glob("venv/lib/python3*/site-packages")
    await asyncio.to_thread(shutil.rmtree, site / "pydantic")
    with pytest.raises(EnvironmentDamaged) as refused:
        await service.register([wanted("other")], Caller())
    assert refused.value.status == 503 and refused.value.extra["retry_after"]
    health = await service.examined()
    assert health.status == "degraded"
    assert [fault.code for fault in health.faults] == ["environment_damaged"]
    await until(lambda: service.health().status == "ok", 120)
    second = service.serving.generation
    assert second.number == first.number + 1 and second.lock == first.lock
    assert await execute(service, "steady(21)") == "42"

    await asyncio.to_thread(shutil.rmtree, second.folder)
    (registered,) = await service.register([wanted("other")], Caller())
    assert registered.new_generation
    assert registered.packages == {"added": [], "removed": [], "changed": []}
    assert await execute(service, "other() + str(steady(1))") == "'other2'"
    assert (await service.examined()).status == "ok"


# -- the cause of a refusal


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, InsufficientStorage),
        (errno.EDQUOT, InsufficientStorage),
        (errno.EROFS, InsufficientStorage),
        (errno.ENOENT, StorageFailed),
        (errno.EACCES, StorageFailed),
        (errno.EIO, StorageFailed),
        (errno.EAGAIN, ProcessUnavailable),
        (errno.EMFILE, ProcessUnavailable),
    ],
)
def test_what_the_system_refuses_has_its_cause(number: int, kind: type[AigbbError]) -> None:
    error = refusal("It could not be written", OSError(number, os.strerror(number), "/a/path"))
    assert type(error) is kind
    assert error.detail == f"It could not be written: {os.strerror(number)}."
