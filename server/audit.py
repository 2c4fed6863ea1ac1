"""Who ran what, who decided, who changed keys: lines that are added and never changed, in a file of their own.

What is noted waits in memory for a moment and is written with others, so that nothing that runs waits for the disk.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import sqlalchemy as sql
import structlog

from kernels.home import on_disk
from server.callers import Caller
from server.database import UNWRITABLE, Database
from server.observing import Executed
from server.registry import Version, moment

log = structlog.get_logger(__name__)

# Seconds that lines wait for others; and how many wait at most while the disk says no.
TOGETHER = 0.5
MAX_WAITING = 20_000
MAX_NAME, MAX_DETAIL = 200, 10_000

_schema = sql.MetaData()
_lines = sql.Table(
    "audit",
    _schema,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("at", sql.Text, nullable=False),
    sql.Column("key", sql.Text, nullable=False, index=True),
    sql.Column("request_id", sql.Text, nullable=False),
    sql.Column("action", sql.Text, nullable=False),
    sql.Column("outcome", sql.Text, nullable=False),
    sql.Column("name", sql.Text),
    sql.Column("version", sql.Integer),
    sql.Column("code", sql.Text),
    sql.Column("detail", sql.Text),
    sql.Column("duration_ms", sql.Float, nullable=False),
    sql.Column("execution", sql.Text),
)


@dataclass(frozen=True)
class Line:
    """Something that was done. key: who did it. name and version: the function, or the key that it was about.

    code: sha256 of the code that ran, hex. execution: the id of what ran. at: UTC, ISO 8601, set when it is noted.
    """

    key: str
    request_id: str
    action: str
    outcome: str
    name: str | None = None
    version: int | None = None
    code: str | None = None
    detail: str | None = None
    duration_ms: float = 0.0
    execution: str | None = None
    at: str = ""
    id: int = 0


@dataclass(frozen=True)
class Looked:
    """Which lines are looked for: with an id under `before`, of this key, of this action."""

    limit: int = 100
    before: int | None = None
    key: str | None = None
    action: str | None = None


class Audit:
    """The lines. `async with Audit(database)` writes what is noted until its end."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[Line] = []
        self._noted = asyncio.Event()
        self._closing = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Audit]:
        """Open or create the file."""
        with Database.open(path, _schema) as database:
            database.seal("audit")
            yield cls(database)

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write_together())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        self._noted.set()
        if self._writer is not None:
            await self._writer
        await self.flush()

    def note(self, line: Line) -> None:
        """Have a line written soon. Costs microseconds; a crash loses what was noted in the last moments."""
        self._waiting.append(_cut(line))
        self._noted.set()

    async def flush(self) -> None:
        """Write what was noted. What cannot be written waits on; when that is too much, the oldest lines give way."""
        lines, self._waiting = self._waiting, []
        if not lines:
            return
        try:
            await on_disk(self._add, lines)
        except UNWRITABLE as error:
            waiting = [*lines, *self._waiting]
            self._waiting = waiting[-MAX_WAITING:]
            self._noted.set()
            lost = len(waiting) - len(self._waiting)
            log.error("audit.not_written", waiting=len(self._waiting), lost=lost, error=str(error))

    async def lines(self, looked: Looked) -> list[Line]:
        """Lines, newest first, those that were noted before included."""
        await self.flush()
        return await asyncio.to_thread(self._read, looked)

    # -- inside

    async def _write_together(self) -> None:
        while not self._closing.is_set():
            await self._noted.wait()
            try:
                async with asyncio.timeout(TOGETHER):
                    await self._closing.wait()
            except TimeoutError:
                pass
            self._noted.clear()
            await self.flush()

    def _add(self, lines: Sequence[Line]) -> None:
        rows = [{name: value for name, value in asdict(line).items() if name != "id"} for line in lines]
        with self._database.writing() as connection:
            connection.execute(sql.insert(_lines), rows)

    def _read(self, looked: Looked) -> list[Line]:
        query = sql.select(_lines).order_by(_lines.c.id.desc()).limit(looked.limit)
        query = query.where(_lines.c.id < looked.before) if looked.before is not None else query
        query = query.where(_lines.c.key == looked.key) if looked.key is not None else query
        query = query.where(_lines.c.action == looked.action) if looked.action is not None else query
        with self._database.reading() as connection:
            return [Line(**row._mapping) for row in connection.execute(query)]


def _cut(line: Line) -> Line:
    """With its moment, and no value that is too long."""
    name = line.name and line.name[:MAX_NAME]
    detail = line.detail and line.detail[:MAX_DETAIL]
    return replace(line, at=line.at or moment(), name=name, detail=detail)


def ran(caller: Caller, event: Executed, versions: Sequence[Version], code: str | None, *, keep: bool) -> Line:
    """The line of an execution, or of a call. keep: the code too, and not only its hash."""
    version = versions[0] if versions else None
    return Line(
        caller.key,
        caller.request_id,
        event.kind,
        event.outcome,
        name=version.function.name if version else None,
        version=version.number if version else None,
        code=None if code is None else hashlib.sha256(code.encode("utf-8", "replace")).hexdigest(),
        detail=code if keep else None,
        duration_ms=round((event.ended - event.began) * 1000, 1),
        execution=event.id,
    )
