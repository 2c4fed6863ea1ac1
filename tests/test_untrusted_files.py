"""What kernels leave is removed and read without following what they put in its place."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kernels import untrusted_files
from kernels.bytecode import _LIBRARY, Bytecode
from kernels.font_lists import FontLists
from kernels.untrusted_files import plain_files, read_end, read_end_of, remove_tree


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of the service's own, to which links may lead."""
    folder = tmp_path / "precious"
    (folder / "inner").mkdir(parents=True)
    for file in ("registry.sqlite3", "inner/file"):
        (folder / file).write_text("canary")
    folder.chmod(0o750)
    return folder


def assert_whole(precious: Path) -> None:
    """Nothing of it has gone, and its mode is as it was."""
    assert [(precious / file).read_text() for file in ("registry.sqlite3", "inner/file")] == ["canary"] * 2
    assert stat.S_IMODE(precious.stat().st_mode) == 0o750


# -- removing


def test_a_folder_is_removed_however_deep_it_is_and_whatever_may_not_be_read(tmp_path: Path) -> None:
    top = tmp_path / "work"
    (top / "closed" / "inner").mkdir(parents=True)
    (top / "closed" / "inner" / "file").touch()
    (top / "closed" / "inner").chmod(0)
    (top / "closed").chmod(0)
    (top / "away").symlink_to(tmp_path)
    os.mkfifo(top / "pipe")
    Path(os.fsdecode(os.fsencode(top) + b"/not-\xff-utf-8")).mkdir()
    Path(os.fsdecode(os.fsencode(top) + b"/not-\xff-utf-8/\xfe")).touch()
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(10_000):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    assert remove_tree(top)
    assert list(tmp_path.iterdir()) == []
    assert remove_tree(top)
    assert remove_tree(tmp_path / "no" / "such" / "folder")


def test_a_link_a_file_or_a_pipe_in_place_of_the_folder_is_removed_itself(tmp_path: Path, precious: Path) -> None:
    work = tmp_path / "work"
    makers: list[Callable[[], object]] = [lambda: work.symlink_to(precious), work.touch, lambda: os.mkfifo(work)]
    for make in makers:
        make()
        assert remove_tree(work)
        assert not os.path.lexists(work)
    assert_whole(precious)


def test_links_within_are_removed_themselves(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "work" / "inner").mkdir(parents=True)
    for name in ("link", "inner/link"):
        (tmp_path / "work" / name).symlink_to(precious)
    assert remove_tree(tmp_path / "work")
    assert_whole(precious)


@pytest.mark.parametrize("swapped", ["work", "inner", "deep"])
def test_a_folder_that_is_swapped_for_a_link_while_it_is_removed_is_not_entered(
    tmp_path: Path, precious: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    work = tmp_path / "work"
    (work / "inner" / "deep" / "er").mkdir(parents=True)
    (work / "inner" / "deep" / "file").touch()
    plain_open, done = os.open, list[object]()

    def swap(path: object, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        """Replace it in the last moment, as a process that goes on could."""
        where = Path(f"/proc/self/fd/{dir_fd}/{path}")
        is_it = path == swapped or (swapped == "deep" and (where / "er").exists())
        if dir_fd is not None and not done and is_it:
            done.append(path)
            where.rename(tmp_path / "aside")
            where.symlink_to(precious)
        return plain_open(path, flags, mode, dir_fd=dir_fd)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", swap)
    assert remove_tree(work)
    assert done
    assert_whole(precious)
    assert not work.exists()


def test_a_tree_that_takes_too_long_is_left_and_said_to_be(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / "work" / str(number)).mkdir(parents=True)
    assert not remove_tree(tmp_path / "work", seconds=-1)
    assert (tmp_path / "work").is_dir()
    assert remove_tree(tmp_path / "work")


@pytest.mark.parametrize(("most", "gone"), [(3, True), (10**9, False)])
def test_files_that_are_created_meanwhile_go_too_or_are_left_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, gone: bool
) -> None:
    work, plain_rmdir, rounds = tmp_path / "work", os.rmdir, list[str]()

    def create(name: str, *, dir_fd: int | None = None) -> None:
        """Make one more file before the folder goes."""
        rounds.append(name)
        if len(rounds) < most:
            (work / str(len(rounds))).touch()
        plain_rmdir(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", create)
    work.mkdir()
    assert remove_tree(work) is gone
    assert work.exists() is not gone
    assert len(rounds) <= untrusted_files.ROUNDS


# -- reading


def test_only_the_end_of_a_plain_file_is_read_and_nothing_else_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    assert [read_end(file, size) for size in (3, 10, 20)] == [b"789", b"0123456789", b"0123456789"]
    os.truncate(file, 10**12)  # sparse
    assert read_end(file, 4) == bytes(4)
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder", "none"):
        with pytest.raises(OSError, match=name):
            read_end(tmp_path / name, 4)


def test_an_open_file_is_read_whatever_is_in_its_place(tmp_path: Path, precious: Path) -> None:
    with (tmp_path / "file").open("xb+", buffering=0) as file:
        file.write(b"printed")
        (tmp_path / "file").unlink()
        (tmp_path / "file").symlink_to(precious / "registry.sqlite3")
        assert read_end_of(file.fileno(), 100) == b"printed"


def test_plain_files_are_listed_and_no_link_is_followed(tmp_path: Path, precious: Path) -> None:
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "file").touch()
    (top / "a" / "large").write_bytes(bytes(11))
    (top / "a" / "folder").symlink_to(precious)
    (top / "a" / "link").symlink_to(precious / "registry.sqlite3")
    os.link(precious / "registry.sqlite3", top / "a" / "hard")
    os.mkfifo(top / "a" / "pipe")
    deep = top / Path(*"d" * 60)
    deep.mkdir(parents=True)
    (deep / "file").touch()
    assert [str(path) for _, path in plain_files(top, max_size=10)] == ["a/b/file"]
    (tmp_path / "swapped").symlink_to(precious)
    assert list(plain_files(tmp_path / "swapped", max_size=10)) == []


def test_compiled_files_are_taken_from_a_gathered_folder_and_from_nowhere_else(tmp_path: Path) -> None:
    gathered, venv, other = Bytecode(tmp_path / "gathered"), tmp_path / "venv", tmp_path / "other"
    library = _LIBRARY
    for folder in (venv, other):
        site = folder / library
        (site / "pack").mkdir(parents=True)
        for name in ("pack/a.py", "pack/b.py", "one.py"):
            (site / name).touch()
    (other / library / "pack" / "__pycache__").mkdir()
    (other / library / "pack" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"other's")
    site = gathered.folder / library
    (site / "__pycache__").mkdir(parents=True)
    for name in ("one.cpython-311.pyc", "none.cpython-311.pyc"):
        (site / "__pycache__" / name).write_bytes(b"good")
    (site / "pack").symlink_to(other / library / "pack")
    gathered.move_into(venv)
    compiled = sorted(str(path.relative_to(venv / library)) for path in venv.rglob("*.pyc"))
    assert compiled == ["__pycache__/one.cpython-311.pyc"]
    assert (other / library / "pack" / "__pycache__" / "a.cpython-311.pyc").read_bytes() == b"other's"
    assert not gathered.folder.exists()
    (tmp_path / "linked" / "lib").parent.mkdir()
    (tmp_path / "linked" / "lib").symlink_to(other / "lib")
    Bytecode(tmp_path / "linked").move_into(venv)
    assert (other / library / "pack" / "__pycache__" / "a.cpython-311.pyc").read_bytes() == b"other's"


def test_lists_of_fonts_are_taken_from_plain_files_alone_and_carried_on(tmp_path: Path, precious: Path) -> None:
    for name in ("gathered/matplotlib/deep", "environment", "next"):
        (tmp_path / name).mkdir(parents=True)
    gathered = tmp_path / "gathered" / "matplotlib"
    (gathered / "fontlist-v1.json").write_text("{}")
    (gathered / "fontlist-v2.json").symlink_to(precious / "registry.sqlite3")
    (gathered / "deep" / "fontlist-v3.json").touch()
    (gathered / "matplotlibrc").touch()
    lists = FontLists(tmp_path / "environment")
    assert not lists
    FontLists(tmp_path / "gathered").move_into(lists.owner)
    assert [path.name for path in lists.folder.iterdir()] == ["fontlist-v1.json"]
    for _ in range(2):
        lists.link_into(tmp_path / "next")
    assert (tmp_path / "next" / "matplotlib" / "fontlist-v1.json").samefile(lists.folder / "fontlist-v1.json")
    gathered.rename(tmp_path / "aside")
    gathered.symlink_to(precious)
    FontLists(tmp_path / "gathered").move_into(lists.owner)
    assert_whole(precious)
