"""Files that a kernel could have written: removed, listed and read without following links.

Every step goes through an open folder with `O_NOFOLLOW`. A folder that is replaced by a link meanwhile is not entered.
Only the parent of the given path is trusted.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath
from uuid import uuid4

# Seconds for one tree. What is left then is removed at the next start.
REMOVAL_SECONDS = 60.0
# Rounds over a tree in which something is created while it is removed.
ROUNDS = 5
# Levels that `plain_files` enters: packages have fewer.
MAX_DEPTH = 40
_ENTRY = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = _ENTRY | os.O_DIRECTORY


def remove_tree(path: Path, *, seconds: float = REMOVAL_SECONDS) -> bool:
    """Remove a folder, or what is in its place: however deep it is, and whatever may not be read in it.

    Return whether it is gone. What the system does not remove stays.
    """
    deadline = time.monotonic() + seconds
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return not os.path.lexists(path)
    try:
        for _ in range(ROUNDS):
            if time.monotonic() > deadline or _remove(path.name, parent, deadline):
                break
        return not _exists(path.name, parent)
    finally:
        os.close(parent)


def read_end(path: Path, size: int) -> bytes:
    """Read the last `size` bytes of a plain file. Raises OSError for anything else, a link or a pipe included."""
    descriptor = os.open(path, _ENTRY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a plain file")
        return read_end_of(descriptor, size)
    finally:
        os.close(descriptor)


def read_end_of(descriptor: int, size: int) -> bytes:
    """Read the last `size` bytes of an open file, wherever it is now."""
    return os.pread(descriptor, size, max(0, os.fstat(descriptor).st_size - size))


def plain_files(folder: Path, *, max_size: int) -> Iterator[tuple[int, PurePath]]:
    """Yield the plain files below a folder, each with its folder's descriptor and its relative path.

    Links, hard links included, pipes, devices and larger files are left out.
    """
    pending = [PurePath()]
    while pending:
        inner = pending.pop()
        with suppress(OSError), _descended(folder, inner) as here:
            for name in os.listdir(here):  # noqa: PTH208
                found = os.stat(name, dir_fd=here, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode) and len(inner.parts) < MAX_DEPTH:
                    pending.append(inner / name)
                elif stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size <= max_size:
                    yield here, inner / name


class _DeadlinePassedError(Exception):
    """The tree takes too long."""


def _remove(name: str, parent: int, deadline: float) -> bool:
    """Remove what has this name in an open folder, as far as one round gets. Return whether it is gone."""
    with suppress(OSError, _DeadlinePassedError):
        if not _is_folder(name, parent):
            os.unlink(name, dir_fd=parent)
            return True
        with _opened(name, parent) as top:
            _clear(top, deadline)
        os.rmdir(name, dir_fd=parent)
        return True
    return not _exists(name, parent)


def _clear(top: int, deadline: float) -> None:
    """Empty a folder. Inner folders are moved to the top one by one, so no path gets too long."""
    left = _emptied(top, top, deadline)
    while left:
        name = left.pop()
        with suppress(OSError):
            with _opened(name, top) as here:
                left += _emptied(here, top, deadline)
            os.rmdir(name, dir_fd=top)


def _emptied(here: int, top: int, deadline: float) -> list[str]:
    """Remove the files of an open folder. Return the names of its folders, which are at the top then."""
    inner = []
    with os.scandir(here) as entries:
        for entry in entries:
            if time.monotonic() > deadline:
                raise _DeadlinePassedError
            with suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=here)
                else:
                    inner.append(entry.name if here == top else _moved(entry.name, here, top))
    return inner


def _moved(name: str, here: int, top: int) -> str:
    """Move a folder to the top, under a new name. Raises OSError."""
    free = uuid4().hex
    with suppress(PermissionError):
        os.rename(name, free, src_dir_fd=here, dst_dir_fd=top)
        return free
    with _opened(name, here):  # makes it writable, as its link to its parent has to be
        os.rename(name, free, src_dir_fd=here, dst_dir_fd=top)
    return free


@contextmanager
def _opened(name: str, parent: int) -> Iterator[int]:
    """Open a folder of an open folder, and let its owner do everything in it. Raises OSError."""
    try:
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        _make_readable(name, parent)
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
    try:
        with suppress(PermissionError):  # another user's
            os.fchmod(descriptor, 0o700)
        yield descriptor
    finally:
        os.close(descriptor)


def _make_readable(name: str, parent: int) -> None:
    """Change the mode of a folder that can't be opened, and of nothing that a link names. Raises OSError."""
    if sys.platform != "linux":
        os.chmod(name, 0o700, dir_fd=parent, follow_symlinks=False)
        return
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{descriptor}", 0o700)  # noqa: PTH101
    finally:
        os.close(descriptor)


@contextmanager
def _descended(folder: Path, inner: PurePath) -> Iterator[int]:
    """Open a folder below another one, step by step. Raises OSError where one step is a link."""
    with ExitStack() as opened:
        here = os.open(folder, _FOLDER)
        opened.callback(os.close, here)
        for name in inner.parts:
            here = os.open(name, _FOLDER, dir_fd=here)
            opened.callback(os.close, here)
        yield here


def _is_folder(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _exists(name: str, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
