"""The one folder that holds runtime data, and the short-lived one that holds sockets."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from kernels.untrusted_files import remove_tree

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Home:
    """Where everything lives. Readable by its owner only; safe to delete while nothing runs."""

    path: Path
    cache: Path

    @classmethod
    def create(cls, path: Path, cache: Path | None = None) -> Home:
        """Make the folders that are missing. Raises OSError where the disk says no."""
        home = cls(path.absolute(), (cache or path / "cache").absolute())
        for folder in (home.path, home.generations, home.snapshots, home.work, home.results, home.cache):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.path.chmod(0o700)
        return home

    @property
    def generations(self) -> Path:
        """One folder a generation, named by its number."""
        return self.path / "generations"

    @property
    def snapshots(self) -> Path:
        """One folder a snapshot, named by its number."""
        return self.path / "snapshots"

    @property
    def work(self) -> Path:
        """One working folder a kernel, gone with it."""
        return self.path / "work"

    def clear_work(self) -> None:
        """Delete what kernels and their parent left there. Only while none of them runs."""
        for left in self.work.iterdir():
            remove_tree(left)

    @property
    def results(self) -> Path:
        """Pictures and wholes of results, one file each."""
        return self.path / "results"

    @property
    def database(self) -> Path:
        """The registry."""
        return self.path / "registry.sqlite3"

    @property
    def audit(self) -> Path:
        """Who ran what, and who decided."""
        return self.path / "audit.sqlite3"

    @property
    def token(self) -> Path:
        """The generated token, mode 0600."""
        return self.path / "token"

    @property
    def secrets_key(self) -> Path:
        """The generated key that secrets are encrypted with, mode 0600."""
        return self.path / "secrets.key"

    @property
    def lock(self) -> Path:
        """Held by the service that runs on this home."""
        return self.path / "service.lock"

    @contextmanager
    def runtime(self) -> Iterator[Path]:
        """A private folder with a path short enough for unix sockets (107 bytes).

        A link in the home remembers it, so that the next start can remove what a killed service left. At its end,
        whatever uses it has ended: what was left in `work` goes too.
        """
        link = self.path / "runtime"
        _remove_runtime(link)
        folder = Path(tempfile.mkdtemp(prefix="aigbb-", dir=_short_temporary_folder()))
        link.symlink_to(folder)
        try:
            yield folder
        finally:
            _remove_runtime(link)
            self.clear_work()


def _short_temporary_folder() -> str | None:
    return "/tmp" if len(tempfile.gettempdir()) > 40 and os.access("/tmp", os.W_OK) else None  # noqa: S108


def _remove_runtime(link: Path) -> None:
    if not link.is_symlink():
        return
    target = link.readlink()
    if target.name.startswith("aigbb-") and os.path.lexists(target) and target.lstat().st_uid == os.getuid():
        remove_tree(target)
    link.unlink()


async def on_disk(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Blocking work in a thread. Whoever is cancelled waits for its end: nothing goes on behind a clean-up."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


async def in_own_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `on_disk`, for work that may take long: it does not occupy one of the few threads that all others share."""
    loop, executor = asyncio.get_running_loop(), ThreadPoolExecutor(1, "aigbb-long")
    running = loop.run_in_executor(executor, partial(work, *args, **kwargs))
    executor.shutdown(wait=False)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace `path` so that a reader, or a crash, meets the old text or the new, never a part."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
