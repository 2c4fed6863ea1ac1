"""The disk is full, at each thing that writes: 507, what was stays as it was, and it goes on once there is space."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kernels.errors import InsufficientStorage
from kernels.home import Home
from server.archive import Archive
from server.backup import Choice, back_up
from server.callers import Caller
from server.functions import Draft
from server.registrar import Wanted
from server.registry import Registry
from server.restoring import restore
from server.service import Service
from server.settings import Settings
from server.snapshots import Projection
from tests.homes import execute, left_over, settings_of
from tests.seeds import copied

pytestmark = pytest.mark.anyio
pytest_plugins = ["tests.homes_fixtures"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command: list[str | Path] = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        failed = done.stderr if done.returncode else ""
    except FileNotFoundError as error:
        failed = str(error)
    if failed:
        pytest.skip(f"NOT TESTED: what happens on a full disk. That takes a small tmpfs, which needs root: {failed}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def settings(template: Path, tmp_path: Path, disk: Path, cache: Path, lean: None) -> Settings:
    """A service whose home is on that disk, but for the environment that it has already."""
    folder = copied(template, tmp_path / "service")
    real = folder / "home" / "generations" / "1"
    shutil.copytree(folder / "home", disk / "home", ignore=lambda at, _: ["1"] if at.endswith("generations") else [])
    there = disk / "home" / "generations" / "1"
    there.mkdir()
    # A link would lead out of what a sandbox shows.
    subprocess.run(["mount", "--bind", real, there], check=True)
    return settings_of(folder, cache).model_copy(update={"home": disk / "home"})


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for piece in (1 << 16, 1 << 12, 1):
            try:
                while file.write(b"\0" * piece):
                    pass
            except OSError:
                continue


def free(disk: Path) -> None:
    """Somebody has deleted something."""
    (disk / "filler").unlink()


def picture(home: Path) -> dict[str, Any]:
    """What must not change."""
    with Registry.open(home / "registry.sqlite3") as registry:
        state = registry.state()
    folders = {kind: sorted(os.listdir(home / kind)) for kind in ("generations", "snapshots")}  # noqa: PTH208
    return {"state": state, **folders}


def names(disk: Path) -> list[str]:
    """All that is there, but for what SQLite has beside an open database."""
    return sorted(p.name for p in disk.rglob("*") if not p.name.endswith(("-wal", "-shm", ".lock")))


def draft(body: str = "return 1", *packages: str) -> Wanted:
    """A function whose file has some size."""
    return Wanted(Draft(f"def added() -> int:\n    {body}\n\n# {'x' * 100_000}\n", None, packages))


async def test_a_full_disk_refuses_changes_and_nothing_is_lost(settings: Settings, disk: Path) -> None:
    async with Service.open(settings) as service:
        await service.register([draft()], Caller())
        before = await asyncio.to_thread(picture, settings.home)
        with pytest.raises(InsufficientStorage) as refused:  # the disk is too small for an environment
            await service.register([draft("return 2", "iniconfig")], Caller())
        assert refused.value.status == 507 and "Free space" in refused.value.hint
        assert await asyncio.to_thread(picture, settings.home) == before
        fill(disk)
        with pytest.raises(InsufficientStorage):
            await service.register([draft("return 3")], Caller())
        with pytest.raises(InsufficientStorage):
            await service.delete("added", Caller())
        assert await execute(service, "added() + steady(4)") == "9"
        free(disk)
        assert await asyncio.to_thread(picture, settings.home) == before
        await service.register([draft("return 4")], Caller())
        assert await execute(service, "added()") == "4"
        fill(disk)
        with pytest.raises(InsufficientStorage):
            await service.activate("added", 1, {}, Caller())
        free(disk)
        await service.activate("added", 1, {}, Caller())
        assert await execute(service, "added()") == "1"
        assert left_over(settings.home) == []


async def test_a_start_on_a_full_disk_says_so_and_the_next_one_serves(settings: Settings, disk: Path) -> None:
    fill(disk)
    with pytest.raises(InsufficientStorage):
        async with Service.open(settings):
            raise AssertionError
    free(disk)
    async with Service.open(settings) as service:
        assert service.notes == []
        assert await execute(service, "steady(21)") == "42"


def test_conversations_and_answers_are_kept_whole_or_not_at_all(settings: Settings, disk: Path) -> None:
    message = {"role": "user", "content": "x" * 100_000}
    with Archive.open(settings.home / "registry.sqlite3") as archive:
        archive.begin("c", [message], [])
        fill(disk)
        with pytest.raises(InsufficientStorage):
            archive.say("c", [message])
        with pytest.raises(InsufficientStorage):
            archive.begin("d", [message], [])
        found = archive.load("c")
        assert found is not None and len(found.messages) == 1
        assert archive.load("d") is None
        free(disk)
        archive.say("c", [message])


def backing_up(home: Home, projection: Projection, disk: Path) -> Callable[[], object]:
    """To the full disk."""
    return lambda: back_up(home, projection, disk / "backup.tar.gz", Choice())


def test_a_backup_or_a_restore_on_a_full_disk_leaves_nothing(settings: Settings, disk: Path, tmp_path: Path) -> None:
    home, projection = settings.open_home(), Projection(settings.functions_dir)
    back_up(home, projection, tmp_path / "good.tar.gz", Choice())
    before = picture(home.path)
    fill(disk)
    there = names(disk)
    for work in (
        backing_up(home, projection, disk),
        lambda: restore(home, projection, tmp_path / "good.tar.gz", replace=True),
    ):
        with pytest.raises(InsufficientStorage):
            work()
        assert names(disk) == there
    free(disk)
    assert picture(home.path) == before
    restore(home, projection, tmp_path / "good.tar.gz", replace=True)
    assert picture(home.path)["state"] == before["state"]
