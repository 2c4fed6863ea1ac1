"""The home folder, the folder of sockets, and files that are replaced whole."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from kernels.home import Home, in_own_thread, on_disk, write_atomically


def mode(path: Path) -> int:
    """The permission bits."""
    return path.stat().st_mode & 0o777


def test_a_home_is_made_for_its_owner_only(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "deep" / "home")
    for folder in (home.path, home.generations, home.snapshots, home.work, home.results, home.cache):
        assert mode(folder) == 0o700
    assert home.cache == home.path / "cache"


def test_a_home_that_others_could_read_is_closed_and_keeps_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    (tmp_path / "home" / "registry.sqlite3").write_text("x")
    home = Home.create(tmp_path / "home")
    assert mode(home.path) == 0o700
    assert home.database.read_text() == "x"
    assert Home.create(tmp_path / "home") == home


def test_a_cache_may_be_elsewhere(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home", tmp_path / "cache")
    assert home.cache == tmp_path / "cache"
    assert not (home.path / "cache").exists()


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home.create(Path("home"))
    assert home.path == tmp_path / "home"
    assert home.cache == tmp_path / "home" / "cache"


def test_a_file_in_the_way_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(OSError, match="home"):
        Home.create(tmp_path / "home")


# -- the runtime folder


def test_the_runtime_folder_is_private_short_and_gone_afterwards(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home")
    with home.runtime() as folder:
        assert mode(folder) == 0o700
        assert len(str(folder)) < 60
        assert (home.path / "runtime").readlink() == folder
        (folder / "socket").touch()
    assert not folder.exists()
    assert not (home.path / "runtime").is_symlink()


def test_a_long_temporary_folder_is_not_used_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with Home.create(tmp_path / "home").runtime() as folder:
        assert len(str(folder)) < 60


def test_the_runtime_folder_goes_when_the_service_fails(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home")
    with pytest.raises(ZeroDivisionError), home.runtime() as folder:
        raise ZeroDivisionError
    assert not folder.exists()


def test_the_next_start_removes_what_a_killed_service_left(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home")
    left = Path(tempfile.mkdtemp(prefix="aigbb-"))
    (left / "socket").touch()
    (home.path / "runtime").symlink_to(left)
    with home.runtime() as folder:
        assert folder != left
        assert not left.exists()


def test_a_link_to_somebody_elses_folder_is_not_followed(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home")
    (tmp_path / "precious").mkdir()
    (home.path / "runtime").symlink_to(tmp_path / "precious")
    with home.runtime():
        pass
    assert (tmp_path / "precious").exists()


def test_a_link_in_place_of_the_runtime_folder_is_removed_and_not_followed(tmp_path: Path) -> None:
    home, precious = Home.create(tmp_path / "home"), tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    swapped = tmp_path / "aigbb-swapped"
    swapped.symlink_to(precious)
    (home.path / "runtime").symlink_to(swapped)
    with home.runtime():
        assert not swapped.is_symlink()
        assert (precious / "file").exists()


def test_a_link_to_nothing_is_replaced(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home")
    (home.path / "runtime").symlink_to(tmp_path / "aigbb-gone")
    with home.runtime() as folder:
        assert folder.is_dir()


# -- files


def test_a_file_is_replaced_with_its_mode_and_exact_text(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "one\r\ntwo\né", mode=0o600)
    assert path.read_bytes() == "one\r\ntwo\né".encode()
    assert mode(path) == 0o600
    write_atomically(path, "")
    assert path.read_bytes() == b""
    assert mode(path) == 0o644
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fails", ["os.fsync", "pathlib.Path.chmod", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_the_old_text_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def disk_full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(fails, disk_full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_is_no_text_leaves_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_meets_the_old_text_or_the_new(tmp_path: Path) -> None:
    path, done = tmp_path / "file", threading.Event()
    write_atomically(path, "a" * 100_000)

    def replace_often() -> None:
        for n in range(60):
            write_atomically(path, "ab"[n % 2] * 100_000)
        done.set()

    writer = threading.Thread(target=replace_often)
    writer.start()
    seen = set()
    while not done.is_set():
        text = path.read_text()
        seen.add((text[0], len(set(text)), len(text)))
    writer.join()
    assert seen <= {("a", 1, 100_000), ("b", 1, 100_000)}
    assert seen


# -- work in threads


@pytest.mark.anyio
async def test_work_on_the_disk_answers_and_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    assert await on_disk((tmp_path / "file").read_text, encoding="utf-8") == "text"
    with pytest.raises(FileNotFoundError):
        await on_disk((tmp_path / "nowhere").read_text)


@pytest.mark.anyio
async def test_long_work_does_not_occupy_the_threads_of_others(tmp_path: Path) -> None:
    may_end = threading.Event()
    long = [asyncio.create_task(in_own_thread(may_end.wait, 20)) for _ in range(40)]
    await asyncio.sleep(0)
    assert await on_disk(tmp_path.is_dir)
    may_end.set()
    assert all(await asyncio.gather(*long))


@pytest.mark.anyio
@pytest.mark.parametrize("somewhere", [on_disk, in_own_thread])
async def test_a_cancelled_caller_waits_for_the_end_of_the_work(somewhere: Any) -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(20)
        ended.set()

    task = asyncio.create_task(somewhere(work))
    assert await asyncio.to_thread(begun.wait, 20)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
