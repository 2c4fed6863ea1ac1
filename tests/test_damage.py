"""A home with damage in it: what is broken is set aside and told of, and the service serves what can be had."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock

from kernels.errors import InsufficientStorage, InvalidRequirement
from kernels.home import Home
from server.damage import mend, set_aside, usable
from server.database import SCHEMA
from server.errors import HomeInUse, HomeUnusable, NewerHome, StoreDamaged
from server.registry import Registry
from server.service import Service
from server.snapshots import Projection
from tests.homes import execute, home_of, settings_of

pytestmark = pytest.mark.anyio
pytest_plugins = ["tests.homes_fixtures"]


def sql(*statements: str) -> Callable[[Path], None]:
    """Damage by SQL."""

    def harm(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA writable_schema=1")
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return harm


def overwritten(path: Path) -> None:
    path.write_bytes(b"\x00garbage" * 1000)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_page_of_noise(path: Path) -> None:
    """The second page is the root of the first table."""
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    path.write_bytes(data)


HARMS: dict[str, Callable[[Path], None]] = {
    "overwritten": overwritten,
    "cut off": cut_off,
    "a page of noise": a_page_of_noise,
    "no JSON": sql("UPDATE versions SET value = '{\"name\":'"),
    "other JSON": sql("UPDATE versions SET value = '[1, 2]'"),
    "JSON that lacks something": sql("UPDATE versions SET value = '{}'"),
    "a lock's requirements": sql("UPDATE generations SET inputs = 'what'"),
    "another schema": sql("DROP TABLE versions", "CREATE TABLE versions (name TEXT, version INTEGER)"),
    "lost rows": sql("DELETE FROM snapshots"),
    "lost versions": sql("DELETE FROM versions"),
    "a lost generation": sql("DELETE FROM generations"),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
def test_a_damaged_registry_is_set_aside_whole_and_told_of(
    harm: Callable[[Path], None], folder: Path, cache: Path
) -> None:
    home = home_of(folder, cache)
    harm(home.database)
    before = home.database.read_bytes()
    (note,) = mend(home, folder / "extra-requirements.txt")
    (aside,) = home.path.glob("registry.damaged-*.sqlite3")
    assert aside.read_bytes() == before
    assert not home.database.exists()
    assert aside.name in note and "aigbb restore" in note and "history" in note
    assert mend(home, folder / "extra-requirements.txt") != [note]


def test_a_sound_home_is_left_alone(folder: Path, cache: Path) -> None:
    home = home_of(folder, cache)
    before = home.database.read_bytes()
    assert mend(home, folder / "extra-requirements.txt") == []
    assert home.database.read_bytes() == before


@pytest.mark.parametrize("gone", [True, False])
def test_an_empty_or_lost_registry_is_told_of(gone: bool, folder: Path, cache: Path) -> None:
    home = home_of(folder, cache)
    if gone:
        home.database.unlink()
    else:
        home.database.write_bytes(b"")
    (note,) = mend(home, folder / "extra-requirements.txt")
    assert "gone or empty" in note
    assert mend(Home.create(folder / "new"), folder / "nothing") == []


def test_what_a_newer_service_wrote_is_not_touched(folder: Path, cache: Path) -> None:
    home = home_of(folder, cache)
    sql(f"PRAGMA user_version={SCHEMA + 1}")(home.database)
    with pytest.raises(NewerHome, match=f"schema {SCHEMA + 1}"):
        mend(home, folder / "extra-requirements.txt")
    assert not list(home.path.glob("*damaged*"))


def test_what_an_older_service_wrote_is_taken_as_it_is(folder: Path, cache: Path) -> None:
    home = home_of(folder, cache)
    sql("PRAGMA user_version=0")(home.database)
    assert mend(home, folder / "extra-requirements.txt") == []
    with Registry.open(home.database) as registry:
        assert list(registry.state().active) == ["steady"]
    with closing(sqlite3.connect(home.database)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA,)


def test_a_database_is_set_aside_with_its_log(tmp_path: Path) -> None:
    names = ("registry.sqlite3", "registry.sqlite3-wal", "registry.sqlite3-shm")
    for name in (*names, *names):
        (tmp_path / name).write_text(name)
        if name == names[2]:
            aside = set_aside(tmp_path / names[0])
            assert [aside.with_name(aside.name + n[16:]).read_text() for n in names] == list(names)
    assert len(list(tmp_path.glob("registry.damaged-*"))) == 6  # the second one took no name of the first's


def test_a_row_that_breaks_while_the_service_runs_is_an_answer(folder: Path, cache: Path) -> None:
    with Registry.open(home_of(folder, cache).database) as registry:
        sql("UPDATE versions SET value = '{}'")(folder / "home" / "registry.sqlite3")
        with pytest.raises(StoreDamaged, match="Version 1 of steady"):
            registry.version("steady", 1)
        sql("UPDATE versions SET value = '{'")(folder / "home" / "registry.sqlite3")
        with pytest.raises(StoreDamaged, match="no JSON"):
            registry.versions("steady")


@pytest.mark.parametrize(("data", "told"), [(b"", "was empty"), (b"\xff\xfe", "no text"), (b"a\0b", "no text")])
def test_a_token_file_that_is_none_is_replaced(data: bytes, told: str, folder: Path, cache: Path) -> None:
    home = home_of(folder, cache)
    home.token.write_bytes(data)
    (note,) = mend(home, folder / "extra-requirements.txt")
    assert told in note and "new token" in note
    assert len(settings_of(folder, cache).require_token(home)) > 20


def test_requirements_that_are_no_text_are_set_aside(folder: Path, cache: Path) -> None:
    path = folder / "extra-requirements.txt"
    path.write_bytes(b"\x80\x81")
    with pytest.raises(InvalidRequirement, match="UTF-8"):
        Projection(folder / "aigbb_functions").own_requirements()
    (note,) = mend(home_of(folder, cache), path)
    assert "extra-requirements.damaged-" in note
    assert not path.exists()


async def test_the_service_starts_with_all_of_it_damaged_and_says_so(folder: Path, cache: Path) -> None:
    home = await asyncio.to_thread(home_of, folder, cache)
    overwritten(home.database)
    home.token.write_bytes(b"\xff")
    (folder / "extra-requirements.txt").write_bytes(b"\xff")
    shutil.rmtree(home.results)
    async with Service.open(settings_of(folder, cache)) as service:
        assert await execute(service, "steady(21)") == "42"
        assert [note.partition(" ")[0] for note in service.notes] == [
            "registry.sqlite3",
            "token",
            "extra-requirements.txt",
        ]
        assert [event.action for event in await service.history(None, 9, None)] == ["sync"]
        token = (await asyncio.to_thread(home.token.read_text)).strip()
        assert service.keys.caller([token.encode()], "").admin
    async with Service.open(settings_of(folder, cache)) as service:
        assert service.notes == []


@pytest.mark.parametrize(
    ("path", "is_folder"), [("service.lock", True), ("results", False), ("registry.sqlite3", True)]
)
async def test_what_is_in_the_way_is_named(path: str, is_folder: bool, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    place = tmp_path / "home" / path
    place.mkdir() if is_folder else place.touch()
    with pytest.raises(HomeUnusable, match=path):
        async with Service.open(settings_of(tmp_path, tmp_path / "cache")):
            raise AssertionError
    place.rmdir() if is_folder else place.unlink()


async def test_two_services_do_not_share_a_home(tmp_path: Path) -> None:
    home = await asyncio.to_thread(Home.create, tmp_path / "home")
    with FileLock(home.lock), pytest.raises(HomeInUse, match=str(home.path)):
        async with Service.open(settings_of(tmp_path, tmp_path / "cache")):
            raise AssertionError


def test_a_full_disk_is_told_apart_from_one_that_refuses(tmp_path: Path) -> None:
    with pytest.raises(InsufficientStorage, match="No space left"), usable(tmp_path):
        raise OSError(28, "No space left on device", "there")
    with pytest.raises(HomeUnusable, match="there"), usable(tmp_path):
        raise PermissionError(13, "Permission denied", "there")
