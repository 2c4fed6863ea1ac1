"""What a home holds that cannot be made anew, as one file, checked to the last byte.

That is the databases, edits in the functions' folder that are no versions yet, and people's own requirements.
Environments are built again from their locks, snapshots and files written again from the registry.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import platform
import re
import sqlite3
import tarfile
import tempfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kernels.errors import InsufficientStorage
from kernels.home import Home
from server.damage import usable
from server.database import SCHEMA, examine, is_full
from server.errors import HomeUnusable, InvalidBackup, StoreDamaged
from server.registry import Registry, moment
from server.snapshots import Projection, beside, digest_of

FORMAT = 1
REGISTRY, AUDIT, MANIFEST, REQUIREMENTS = "registry.sqlite3", "audit.sqlite3", "manifest.json", "extra-requirements.txt"
DATABASES, KEYS = (REGISTRY, AUDIT), ("token", "secrets.key")
FUNCTIONS, RESULTS = "functions", "results"
# A cut-off restore: all of it is there, and the next start, or restore, puts it into its places.
READY = "restore"

# Nothing else is taken out of an archive, so no name in it leads anywhere else.
_MEMBER = re.compile(
    r"(registry|audit)\.sqlite3|manifest\.json|extra-requirements\.txt|token|secrets\.key"
    r"|functions/[^\W\d]\w{0,63}\.(py|json)|results/[\w-]{22}\.\w{1,8}"
)
_PIECE = 1 << 20
_MAX_MANIFEST = 16 * 1024 * 1024


class File(BaseModel):
    """A file of a backup. sha256 is hex."""

    model_config = ConfigDict(frozen=True)

    size: int
    sha256: str


class Manifest(BaseModel):
    """What a backup holds. created is UTC, ISO 8601; functions counts those that are active."""

    model_config = ConfigDict(frozen=True)

    format: int
    created: str
    python: str
    schema_version: int
    functions: int
    files: dict[str, File]


@dataclass(frozen=True)
class Choice:
    """What a backup holds beside the rest. keys: the token, and the key that secrets are encrypted with."""

    results: bool = False
    keys: bool = False


def default_name() -> str:
    """Of a backup that is made now."""
    return f"aigbb-backup-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}.tar.gz"


def back_up(home: Home, projection: Projection, target: Path, choice: Choice) -> Manifest:
    """Write a backup of a home, whether or not a service runs on it; of one moment, however much goes on.

    Raises HomeUnusable, NewerHome, StoreDamaged, InsufficientStorage; then there is no file, or the one from before.
    """
    if (home.path / READY).exists():
        raise HomeUnusable("A restore was cut off here.", hint="Start the service, or restore again; then back up.")
    if not home.database.exists():
        raise HomeUnusable(f"There is no registry in {home.path}.", hint="See AIGBB_HOME: which folder is meant?")
    with usable(target), tempfile.TemporaryDirectory(prefix=".aigbb-backup-", dir=target.parent) as folder:
        aside = Path(folder)
        edits = projection.texts()  # before the database: what is registered meanwhile is in it
        for name in DATABASES:
            if (home.path / name).exists():
                _copy_database(home.path / name, aside / name)
        functions, known = _read(aside / REGISTRY)
        part = aside / "archive"
        with part.open("xb") as file:
            part.chmod(0o600)
            members = chain(_members(home, aside, choice), _edited(projection, edits, known))
            manifest = _write(file, members, functions)
        part.replace(target)
    return manifest


def _copy_database(source: Path, copy: Path) -> None:
    try:
        with closing(sqlite3.connect(source, timeout=60)) as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
    except sqlite3.OperationalError as error:
        if is_full(str(error), source) or is_full(str(error), copy):
            raise InsufficientStorage(f"The backup could not be written: {error}.") from error
        raise HomeUnusable(f"{source} could not be read: {error}.") from error
    except sqlite3.DatabaseError as error:
        raise StoreDamaged(f"{source} could not be read: {error}.") from error
    copy.chmod(0o600)
    examine(copy)


def _read(copy: Path) -> tuple[int, set[str]]:
    """How many functions are active, and the digests of all files that ever were versions."""
    with Registry.open(copy) as registry:
        registry.examine()
        versions = registry.every_version()
        return len(registry.state().active), {digest_of(v.function.source + beside(v.function)) for v in versions}


def _members(home: Home, aside: Path, choice: Choice) -> Iterator[tuple[str, bytes | Path]]:
    """Names and contents: bytes of what may change at any time, the path of what does not."""
    yield from ((name, aside / name) for name in DATABASES if (aside / name).exists())
    if choice.keys:
        yield from ((name, (home.path / name).read_bytes()) for name in KEYS if (home.path / name).exists())
    if choice.results:
        names = (f"{RESULTS}/{path.name}" for path in sorted(home.results.iterdir()))
        found = ((name, _read_if_there(home.path / name)) for name in names if _MEMBER.fullmatch(name))
        yield from ((name, data) for name, data in found if data is not None)


def _edited(
    projection: Projection, edits: Mapping[str, Mapping[str, str]], known: Collection[str]
) -> Iterator[tuple[str, bytes]]:
    """What people wrote that is in no database."""
    for files in edits.values():
        if digest_of("".join(files.values())) not in known:
            for name, text in files.items():
                yield f"{FUNCTIONS}/{name}", text.encode("utf-8", "surrogateescape")
    if projection.requirements.exists():
        yield REQUIREMENTS, projection.requirements.read_bytes()


def _read_if_there(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # the oldest results go as new ones come
        return None


def _write(file: Any, members: Iterable[tuple[str, bytes | Path]], functions: int) -> Manifest:
    files: dict[str, File] = {}
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as archive:
        for name, content in members:
            files[name] = _add(archive, name, content)
        manifest = Manifest(
            format=FORMAT,
            created=moment(),
            python=platform.python_version(),
            schema_version=SCHEMA,
            functions=functions,
            files=files,
        )
        _add(archive, MANIFEST, manifest.model_dump_json(indent=2).encode())
    return manifest


def _add(archive: tarfile.TarFile, name: str, content: bytes | Path) -> File:
    member = tarfile.TarInfo(name)
    member.mode, member.mtime = 0o600, int(datetime.now(UTC).timestamp())
    digest = hashlib.sha256()
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
        member.size = file.tell()
        file.seek(0)
        archive.addfile(member, file)
    return File(size=member.size, sha256=digest.hexdigest())


# -- back


def unpack(backup: Path, folder: Path) -> Manifest:
    """Take a backup apart into an empty folder, and check all of it. Raises InvalidBackup, NewerHome."""
    try:
        found = _extract(backup, folder)
        text = (folder / MANIFEST).read_bytes() if MANIFEST in found else b""
        manifest = Manifest.model_validate_json(text)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidBackup(f"{backup} is no backup, or is cut off: {error}.") from error
    except ValidationError as error:
        raise InvalidBackup(f"{backup} has no list of what it holds.") from error
    if manifest.format != FORMAT:
        raise InvalidBackup(f"{backup} has format {manifest.format}; this version reads format {FORMAT}.")
    found.pop(MANIFEST)
    if wrong := sorted(n for n in {*found, *manifest.files} if found.get(n) != manifest.files.get(n)):
        raise InvalidBackup(f"{wrong[0]} in {backup} is not what was backed up.")
    if REGISTRY not in found:
        raise InvalidBackup(f"{backup} holds no registry.")
    _check_databases(folder)
    return manifest


def _extract(backup: Path, folder: Path) -> dict[str, File]:
    found: dict[str, File] = {}
    with tarfile.open(backup, "r:gz") as archive:
        for member in archive:
            if not member.isreg() or not _MEMBER.fullmatch(member.name) or member.name in found:
                raise InvalidBackup(f"{backup} holds {member.name[:80]!r}, which no backup does.")
            if member.name == MANIFEST and member.size > _MAX_MANIFEST:
                raise InvalidBackup(f"The list of what {backup} holds is too long.")
            source = archive.extractfile(member)
            assert source is not None, "a regular file"
            found[member.name] = _take(source, folder / member.name)
    return found


def _take(source: Any, path: Path) -> File:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("xb") as file:
        path.chmod(0o600)
        while piece := source.read(_PIECE):
            digest.update(piece)
            file.write(piece)
        return File(size=file.tell(), sha256=digest.hexdigest())


def _check_databases(folder: Path) -> None:
    try:
        for name in DATABASES:
            if (folder / name).exists():
                examine(folder / name)
        with Registry.open(folder / REGISTRY) as registry:
            registry.examine()
    except StoreDamaged as error:
        raise InvalidBackup(f"Its registry is damaged. {error.detail}") from error
