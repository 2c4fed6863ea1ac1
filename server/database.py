"""The home's SQLite file, as those who keep something in it open it: durable, and readable by its owner only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import OperationalError

from kernels.errors import InsufficientStorage


class Database:
    """Reads of one moment, and writes that are whole or not at all. Calls block: on an event loop, use a thread."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine
        self._writing = engine.execution_options(begin="BEGIN IMMEDIATE")

    @classmethod
    @contextmanager
    def open(cls, path: Path, schema: sql.MetaData) -> Iterator[Database]:
        """Open or create it, with the tables that are missing."""
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        engine = sql.create_engine(f"sqlite:///{path}")
        sql.event.listen(engine, "connect", _configure)
        sql.event.listen(engine, "begin", _begin)
        try:
            schema.create_all(engine)
            yield cls(engine)
        finally:
            engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sql.Connection]:
        """A transaction that only reads."""
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sql.Connection]:
        """A transaction that writes. Raises InsufficientStorage."""
        try:
            with self._writing.begin() as connection:
                yield connection
        except OperationalError as error:
            if "full" not in str(error.orig):
                raise
            raise InsufficientStorage(f"The registry could not be written: {error.orig}.") from error


def _configure(connection: Any, _: object) -> None:
    """Write-ahead log and full durability: a commit that returned survives a power cut."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin(connection: sql.Connection) -> None:
    """Python's own driver begins only at the first write, so that reads would be of several moments."""
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
