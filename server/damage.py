"""Damage in the home, found at the start: what is broken is set aside, never deleted, and told in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import structlog

from kernels.errors import InsufficientStorage
from kernels.home import Home
from kernels.storage import is_full
from server.database import examine
from server.errors import HomeUnusable, StoreDamaged
from server.registry import Registry

log = structlog.get_logger(__name__)

_LOST = (
    "It was made anew from aigbb_functions/ and extra-requirements.txt. Lost with it: older versions, history, values "
    "of variables and secrets, API keys, conversations and approvals. If there is a backup: stop the service, then run "
    "`aigbb restore FILE`."
)


@contextmanager
def usable(home: Path) -> Iterator[None]:
    """What the disk refuses while a home is opened. Raises HomeUnusable, InsufficientStorage."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename or home}: {error.strerror or error}"
        if is_full(error):
            raise InsufficientStorage(f"The home could not be opened. {what}.") from error
        raise HomeUnusable(f"The home cannot be used. {what}.") from error


def mend(home: Home, requirements: Path) -> list[str]:
    """Set aside what is broken, so that a start can go on without it. A sentence or two for each.

    requirements: people's own, a text file. Raises NewerHome, HomeUnusable.
    """
    found = [
        _mend_registry(home),
        _mend_database(home.audit, examine, "The audit begins anew."),
        _mend_text(home.token, "A new token was generated: clients need it.", empty=True),
        _mend_text(requirements, "It is written anew with what functions ask for; what else it held is not installed."),
    ]
    notes = [note for note in found if note is not None]
    for note in notes:
        log.error("home.damaged", detail=note)
    return notes


def set_aside(path: Path, why: str = "damaged") -> Path:
    """Rename a file, as `registry.damaged-20260131T120000.sqlite3`; a database with its log. Returns the new path."""
    aside = dated(path, f".{why}")
    for ending in ("-wal", "-shm", ""):
        beside = path.with_name(path.name + ending)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + ending))
    return aside


def dated(path: Path, why: str = "") -> Path:
    """A path that nothing has, with the moment in its name; with a number, too, where several have the same."""
    stem = f"{path.stem}{why}-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S')}"
    paths = (path.with_stem(f"{stem}{extra}") for extra in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(each for each in paths if not each.exists())


def _mend_registry(home: Home) -> str | None:
    path = home.database
    there = path.exists() and path.stat().st_size > 0
    if not there and any(one.name.isdecimal() for one in home.snapshots.iterdir()):
        path.unlink(missing_ok=True)
        return f"{path.name} was gone or empty. {_LOST}"
    return _mend_database(path, _read_all, _LOST) if there else None


def _read_all(path: Path) -> None:
    examine(path)
    with Registry.open(path) as registry:
        registry.examine()


def _mend_database(path: Path, look: Callable[[Path], None], lost: str) -> str | None:
    if not path.exists():
        return None
    try:
        look(path)
    except StoreDamaged as error:
        return f"{path.name} was damaged and is now {set_aside(path).name}. {error.detail} {lost}"
    return None


def _mend_text(path: Path, lost: str, *, empty: bool = False) -> str | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, IsADirectoryError):
        return f"{path.name} was no text and is now {set_aside(path).name}. {lost}"
    if "\0" in text:
        return f"{path.name} was no text and is now {set_aside(path).name}. {lost}"
    return f"{path.name} was empty. {lost}" if empty and not text.strip() else None
