"""What is registered: versions, variables, snapshots and generations. One transaction is the commit point.

SQLite in the home folder. Everything else on disk is immutable and rebuilt from this. Calls block: callers
on an event loop use a thread.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import OperationalError

from kernels.errors import InsufficientStorage
from kernels.packages import Lock
from server.functions import Function

_schema = sql.MetaData()

_versions = sql.Table(
    "versions",
    _schema,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("version", sql.Integer, primary_key=True),
    sql.Column("digest", sql.Text, nullable=False),
    sql.Column("value", sql.JSON, nullable=False),
    sql.Column("created", sql.Text, nullable=False),
)
_active = sql.Table(
    "active",
    _schema,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("version", sql.Integer, nullable=False),
)
_variables = sql.Table(
    "variables",
    _schema,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)
_generations = sql.Table(
    "generations",
    _schema,
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("lock", sql.Text, nullable=False),
    sql.Column("inputs", sql.Text, nullable=False),
    sql.Column("created", sql.Text, nullable=False),
)
_snapshots = sql.Table(
    "snapshots",
    _schema,
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("generation", sql.Integer, nullable=False),
    sql.Column("reason", sql.Text, nullable=False),
    sql.Column("created", sql.Text, nullable=False),
)
# What was last written into the functions' folder: tells a stale file of ours from somebody's edit.
_projected = sql.Table(
    "projected",
    _schema,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("digest", sql.Text, nullable=False),
)


@dataclass(frozen=True)
class Version:
    """An immutable, numbered function. created is UTC, ISO 8601."""

    function: Function
    number: int
    created: str


@dataclass(frozen=True)
class GenerationRow:
    """What is known of a generation: its lock, and the digest of the requirements that it was made for."""

    number: int
    lock: Lock
    inputs: str
    created: str


@dataclass(frozen=True)
class State:
    """What serves: the active versions, all variables, and the numbers of snapshot and generation."""

    active: Mapping[str, Version] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    snapshot: int = 0
    generation: GenerationRow | None = None

    def variables_in_use(self) -> dict[str, str]:
        """Those that an active function names."""
        names = {name for version in self.active.values() for name in version.function.env}
        return {name: value for name, value in self.variables.items() if name in names}

    def with_changes(self, functions: Collection[Function], removed: Collection[str], env: Mapping[str, str]) -> State:
        """The state that would be, before anything is numbered: new versions have number 0."""
        active = {name: version for name, version in self.active.items() if name not in removed}
        active |= {f.name: Version(f, 0, "") for f in functions}
        return replace(self, active=dict(sorted(active.items())), variables={**self.variables, **env})


@dataclass(frozen=True)
class Commit:
    """One change of the registry, whole or not at all."""

    reason: str
    snapshot: int
    generation: GenerationRow
    functions: Collection[Function] = ()
    removed: Collection[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)


class Registry:
    """The store. `with Registry.open(path)` holds it."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine
        self._writing = engine.execution_options(begin="BEGIN IMMEDIATE")

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Registry]:
        """Open or create the database, readable by its owner only."""
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        engine = sql.create_engine(f"sqlite:///{path}")
        sql.event.listen(engine, "connect", _configure)
        sql.event.listen(engine, "begin", _begin)
        try:
            _schema.create_all(engine)
            yield cls(engine)
        finally:
            engine.dispose()

    def state(self) -> State:
        """What serves now, read in one transaction."""
        with self._engine.begin() as connection:
            active = {row.name: _version(row) for row in connection.execute(_active_versions())}
            variables = {row.name: row.value for row in connection.execute(sql.select(_variables))}
            last = connection.execute(sql.select(_snapshots).order_by(_snapshots.c.number.desc()).limit(1)).first()
        if last is None:
            return State(active, variables)
        return State(active, variables, last.number, self.generation(last.generation))

    def generation(self, number: int) -> GenerationRow | None:
        """One generation, or None."""
        with self._engine.begin() as connection:
            row = connection.execute(sql.select(_generations).where(_generations.c.number == number)).first()
        return None if row is None else GenerationRow(row.number, Lock(row.lock), row.inputs, row.created)

    def generations(self) -> list[GenerationRow]:
        """All that there ever were, newest first."""
        with self._engine.begin() as connection:
            rows = connection.execute(sql.select(_generations).order_by(_generations.c.number.desc())).all()
        return [GenerationRow(row.number, Lock(row.lock), row.inputs, row.created) for row in rows]

    def snapshot_of(self, generation: int) -> int | None:
        """The last snapshot that a generation served."""
        query = sql.select(sql.func.max(_snapshots.c.number)).where(_snapshots.c.generation == generation)
        with self._engine.begin() as connection:
            return connection.execute(query).scalar()

    def commit(self, change: Commit) -> State:
        """Make a change, in one transaction. Returns the state after it. Raises InsufficientStorage."""
        try:
            self._write(change)
        except OperationalError as error:
            if "full" not in str(error.orig):
                raise
            raise InsufficientStorage(f"The registry could not be written: {error.orig}.") from error
        return self.state()

    def _write(self, change: Commit) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._writing.begin() as connection:
            for function in change.functions:
                _add_version(connection, function, now)
            if change.removed:
                connection.execute(sql.delete(_active).where(_active.c.name.in_(change.removed)))
            for name, value in change.env.items():
                row = insert(_variables).values(name=name, value=value)
                connection.execute(row.on_conflict_do_update(index_elements=["name"], set_={"value": value}))
            _drop_unused_variables(connection)
            generation = change.generation
            connection.execute(
                insert(_generations)
                .values(number=generation.number, lock=generation.lock.text, inputs=generation.inputs, created=now)
                .on_conflict_do_update(index_elements=["number"], set_={"inputs": generation.inputs})
            )
            connection.execute(
                sql.insert(_snapshots).values(
                    number=change.snapshot, generation=generation.number, reason=change.reason, created=now
                )
            )

    def projected(self) -> dict[str, str]:
        """The digests of the files last written into the functions' folder, by name."""
        with self._engine.begin() as connection:
            return {row.name: row.digest for row in connection.execute(sql.select(_projected))}

    def set_projected(self, digests: Mapping[str, str]) -> None:
        """Remember what was written there."""
        with self._writing.begin() as connection:
            connection.execute(sql.delete(_projected))
            if digests:
                rows = [{"name": name, "digest": digest} for name, digest in digests.items()]
                connection.execute(sql.insert(_projected), rows)


def _configure(connection: Any, _: object) -> None:
    """Write-ahead log and full durability: a commit that returned survives a power cut."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin(connection: sql.Connection) -> None:
    """Python's own driver begins only at the first write, so that reads would be of several moments."""
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _add_version(connection: sql.Connection, function: Function, now: str) -> None:
    query = sql.select(sql.func.max(_versions.c.version)).where(_versions.c.name == function.name)
    number = (connection.execute(query).scalar() or 0) + 1
    connection.execute(
        sql.insert(_versions).values(
            name=function.name, version=number, digest=function.digest, value=_dump(function), created=now
        )
    )
    active = insert(_active).values(name=function.name, version=number)
    connection.execute(active.on_conflict_do_update(index_elements=["name"], set_={"version": number}))


def _drop_unused_variables(connection: sql.Connection) -> None:
    """Values that no active function names any more are not kept."""
    rows = connection.execute(_active_versions()).all()
    used = {name for row in rows for name in _version(row).function.env}
    connection.execute(sql.delete(_variables).where(_variables.c.name.not_in(used)))


def _active_versions() -> sql.Select[Any]:
    on = (_active.c.name == _versions.c.name) & (_active.c.version == _versions.c.version)
    return sql.select(_versions).join(_active, on).order_by(_versions.c.name)


def _dump(function: Function) -> dict[str, Any]:
    value = {name: getattr(function, name) for name in Function.__dataclass_fields__}
    value["parameters"] = json.dumps(function.parameters)
    return value


def _version(row: Any) -> Version:
    value = dict(row.value)
    value["parameters"] = json.loads(value["parameters"])
    for name in ("packages", "env"):
        value[name] = tuple(value[name])
    return Version(Function(**value), row.version, row.created)
