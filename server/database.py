"""The home's SQLite file, as those who keep something in it open it: durable, and readable by its owner only."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import DatabaseError, OperationalError

from kernels.errors import AigbbError, InsufficientStorage
from server.errors import HomeUnusable, NewerHome, StoreDamaged

# Raised when an older service could not live with what a newer one writes.
SCHEMA = 1
# Why something could not be written that can wait for a better moment.
UNWRITABLE = (InsufficientStorage, StoreDamaged, OperationalError)
_LITTLE = 1 << 18  # bytes


class Database:
    """Reads of one moment, and writes that are whole or not at all. Calls block: on an event loop, use a thread."""

    def __init__(self, engine: sql.Engine, path: Path) -> None:
        self._engine = engine
        self._path = path
        self._writing = engine.execution_options(begin="BEGIN IMMEDIATE")

    @classmethod
    @contextmanager
    def open(cls, path: Path, schema: sql.MetaData) -> Iterator[Database]:
        """Open or create it, with the tables that are missing. Raises InsufficientStorage, StoreDamaged."""
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        engine = sql.create_engine(f"sqlite:///{path}")
        sql.event.listen(engine, "connect", _configure)
        sql.event.listen(engine, "begin", _begin)
        try:
            with _told("opened", path):
                schema.create_all(engine)
                _add_columns(engine, schema)
                _stamp(engine)
            yield cls(engine, path)
        finally:
            engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sql.Connection]:
        """A transaction that only reads. Raises StoreDamaged."""
        with _told("read", self._path), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sql.Connection]:
        """A transaction that writes. Raises InsufficientStorage, StoreDamaged."""
        with _told("written", self._path), self._writing.begin() as connection:
            yield connection

    def seal(self, table: str) -> None:
        """Rows of a table are added and never changed: triggers refuse all else."""
        with self.writing() as connection:
            for name, event in (
                ("update", f"BEFORE UPDATE ON {table}"),
                ("delete", f"BEFORE DELETE ON {table}"),
                ("replace", f"BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id)"),  # noqa: S608
            ):
                connection.exec_driver_sql(
                    f"CREATE TRIGGER IF NOT EXISTS {table}_no_{name} {event} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )


def is_full(said: str, path: Path) -> bool:
    """Whether an error of SQLite's means a full disk: of its shared memory it only says that it failed."""
    return "is full" in said or ("disk I/O error" in said and shutil.disk_usage(path.parent).free < _LITTLE)


def _stamp(engine: sql.Engine) -> None:
    with engine.begin() as connection:
        if connection.exec_driver_sql("PRAGMA user_version").scalar() != SCHEMA:
            connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA}")


def examine(path: Path) -> None:
    """Look at every page of a database that no service has open, and at its JSON.

    Raises StoreDamaged, NewerHome when a newer service wrote it, HomeUnusable when it cannot be looked at.
    """
    try:
        with closing(sqlite3.connect(path, timeout=1)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA:
                raise NewerHome(f"{path} has schema {version}; this service knows schemas up to {SCHEMA}.")
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        kind: type[AigbbError] = InsufficientStorage if is_full(str(error), path) else HomeUnusable
        raise kind(f"{path} could not be opened: {error}.") from error
    except sqlite3.DatabaseError as error:
        raise StoreDamaged(f"SQLite says: {error}.") from error
    if said != "ok":
        raise StoreDamaged(f"SQLite says: {said.splitlines()[-1]}.")


@contextmanager
def _told(done: str, path: Path) -> Iterator[None]:
    """SQLite's errors that we know something about."""
    try:
        yield
    except json.JSONDecodeError as error:
        raise StoreDamaged(f"The registry could not be {done}: a row of it is no JSON.") from error
    except DatabaseError as error:
        if (known := _known(str(error.orig), path)) is None:
            raise
        raise known(f"The registry could not be {done}: {error.orig}.") from error


def _known(said: str, path: Path) -> type[AigbbError] | None:
    if is_full(said, path):
        return InsufficientStorage
    damaged = ("malformed", "not a database", "no such table", "no such column", "NOT NULL column")
    return StoreDamaged if any(words in said for words in damaged) else None


def _add_columns(engine: sql.Engine, schema: sql.MetaData) -> None:
    """A database of an earlier version gets the columns that came since. They may be null: no version lacks others."""
    with engine.begin() as connection:
        missing = list(_missing(connection, schema))
        for column in missing:
            if not column.nullable:
                raise StoreDamaged(f"The table {column.table.name} has no column {column.name}.")
        for column in missing:
            made = sql.schema.CreateColumn(column).compile(dialect=engine.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {made}")


def _missing(connection: sql.Connection, schema: sql.MetaData) -> Iterator[sql.Column[Any]]:
    for table in schema.tables.values():
        there = {row.name for row in connection.exec_driver_sql(f"PRAGMA table_info({table.name})")}
        yield from (column for column in table.columns if column.name not in there)


def _configure(connection: Any, _: object) -> None:
    """Write-ahead log and full durability: a commit that returned survives a power cut."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin(connection: sql.Connection) -> None:
    """Python's own driver begins only at the first write, so that reads would be of several moments."""
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
