"""A backup becomes a home: made ready aside, then put into its places, which the next start can do again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from kernels.home import Home, write_atomically
from server.backup import DATABASES, FUNCTIONS, KEYS, READY, REQUIREMENTS, RESULTS, Manifest, unpack
from server.damage import dated, usable
from server.errors import HomeInUse, HomeNotEmpty
from server.registry import Registry
from server.snapshots import Projection

_PLAN = "plan.json"


@dataclass(frozen=True)
class Restored:
    """What was restored, and the folder that what was there before is in now, if there was anything."""

    manifest: Manifest
    replaced: Path | None


def restore(home: Home, projection: Projection, backup: Path, *, replace: bool) -> Restored:
    """Make a home what a backup holds: all of it or nothing. replace: even if it holds functions.

    What was there before is kept in a folder of the home. Raises InvalidBackup, NewerHome, HomeInUse, HomeNotEmpty,
    HomeUnusable, InsufficientStorage.
    """
    with usable(home.path), holding(home):
        finish(home, projection)
        if home.database.exists() and not replace:
            raise HomeNotEmpty(f"{home.path} holds a registry already.")
        aside = home.path / ".restoring"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        try:
            manifest = unpack(backup, aside)
            replaced = dated(home.path / "replaced")
            write_atomically(aside / _PLAN, json.dumps({"replaced": replaced.name}))
            aside.rename(home.path / READY)  # from here on it will be, whatever happens
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        finish(home, projection)
    return Restored(manifest, replaced if replaced.exists() else None)


@contextmanager
def holding(home: Home) -> Iterator[None]:
    """Be the only one on a home. Raises HomeInUse."""
    lock = FileLock(home.lock, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise HomeInUse(f"A service runs on {home.path}.") from error
    try:
        yield
    finally:
        lock.release()


def finish(home: Home, projection: Projection) -> bool:
    """Put into its places what a restore has made ready. Does nothing twice; whoever calls holds the home.

    Returns whether there was anything to do.
    """
    ready = home.path / READY
    if not ready.is_dir():
        return False
    replaced = home.path / str(json.loads((ready / _PLAN).read_text())["replaced"])
    for name in (*DATABASES, *KEYS):
        _swap(ready / name, home.path / name, replaced)
    if (ready / RESULTS).is_dir():
        for path in (ready / RESULTS).iterdir():
            path.replace(home.results / path.name)
    _swap_files(ready, projection, replaced)
    _publish(home, projection)
    done = home.path / f".restored-{ready.stat().st_ino}"
    ready.rename(done)
    shutil.rmtree(done)
    return True


def _swap(new: Path, place: Path, replaced: Path) -> None:
    """Keep what is in a place, a database with its log, and put the new one there."""
    if not new.exists():
        return
    for ending in ("-wal", "-shm", ""):
        old = place.with_name(place.name + ending)
        if old.exists():
            replaced.mkdir(mode=0o700, exist_ok=True)
            old.rename(replaced / old.name)
    new.rename(place)


def _swap_files(ready: Path, projection: Projection, replaced: Path) -> None:
    """The functions' folder and the requirements, which may be on another disk: copied, then replaced."""
    copied = ready / "copied"
    if not copied.exists():
        for path in projection.files():
            _keep(path, replaced / (FUNCTIONS if path != projection.requirements else ""))
        copied.touch()
    for path in projection.files():
        path.unlink()
    projection.folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((ready / FUNCTIONS).glob("*")):
        shutil.copyfile(path, projection.folder / path.name)
    if (ready / REQUIREMENTS).exists():
        shutil.copyfile(ready / REQUIREMENTS, projection.requirements)


def _keep(path: Path, folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(path, folder / path.name)


def _publish(home: Home, projection: Projection) -> None:
    """Write the functions' files; snapshots of the same numbers that are others' make room, the start writes them."""
    with Registry.open(home.database) as registry:
        functions = [version.function for version in registry.state().active.values()]
        written = projection.write(functions, registry.projected())
        registry.set_projected(written, gone=())
    for snapshot in home.snapshots.iterdir():
        shutil.rmtree(snapshot, ignore_errors=True)
