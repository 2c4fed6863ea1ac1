"""What is registered: versions, variables, snapshots, generations and history. One transaction is the commit point.

SQLite in the home folder. Everything else on disk is immutable and rebuilt from this. Calls block: callers
on an event loop use a thread.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.dialects.sqlite import insert

from kernels.packages import Lock
from server.callers import Caller
from server.database import Database
from server.errors import StoreDamaged
from server.functions import Declared, Function

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
_history = sql.Table(
    "history",
    _schema,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("at", sql.Text, nullable=False),
    sql.Column("key", sql.Text, nullable=False),
    sql.Column("request_id", sql.Text, nullable=False),
    sql.Column("action", sql.Text, nullable=False),
    sql.Column("name", sql.Text, index=True),
    sql.Column("version", sql.Integer),
    sql.Column("digest", sql.Text),
    sql.Column("outcome", sql.Text, nullable=False),
    sql.Column("duration_ms", sql.Float, nullable=False),
)
# Answers that are given again to the same Idempotency-Key.
_answers = sql.Table(
    "answers",
    _schema,
    sql.Column("key", sql.Text, primary_key=True),
    sql.Column("body", sql.Text, nullable=False),
    sql.Column("status", sql.Integer, nullable=False),
    sql.Column("answer", sql.Text, nullable=False),
    sql.Column("created", sql.Float, nullable=False),
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
    """An immutable, numbered function, written `name@number`. created is UTC, ISO 8601."""

    function: Function
    number: int
    created: str

    def __str__(self) -> str:
        return f"{self.function.name}@{self.number}"


@dataclass(frozen=True)
class GenerationRow:
    """What is known of a generation: its lock, and the requirements that it was made for, as JSON."""

    number: int
    lock: Lock
    inputs: str
    created: str

    def has(self, requirement: str) -> bool:
        """Whether its environment was made for a requirement, or has what it asks for anyway."""
        return requirement in json.loads(self.inputs) or self.lock.satisfies(requirement)


@dataclass(frozen=True)
class State:
    """What serves: the active versions, all variables, and the numbers of snapshot and generation."""

    active: Mapping[str, Version] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    snapshot: int = 0
    generation: GenerationRow | None = None

    def serves(self, version: Version) -> bool:
        """Whether this version is the active one of its function."""
        active = self.active.get(version.function.name)
        return active is not None and active.number == version.number

    def seen_by(self, caller: Caller) -> State:
        """The same with those functions only that a caller may know of."""
        if not caller.reach.narrow:
            return self
        covers = caller.reach.covers
        seen = {name: version for name, version in self.active.items() if covers(name, version.function.tags)}
        return replace(self, active=seen)

    def variables_in_use(self) -> dict[str, str]:
        """Those that an active function names."""
        names = {name for version in self.active.values() for name in version.function.env}
        return {name: value for name, value in self.variables.items() if name in names}

    def with_changes(self, versions: Collection[Version], removed: Collection[str], env: Mapping[str, str]) -> State:
        """The state with these versions active, those names not, and of the variables those that are in use."""
        active = {name: version for name, version in self.active.items() if name not in removed}
        active |= {version.function.name: version for version in versions}
        after = replace(self, active=dict(sorted(active.items())), variables={**self.variables, **env})
        return replace(after, variables=after.variables_in_use())


@dataclass(frozen=True)
class Event:
    """A line of history: who did what to which function, and what came of it.

    key is the id of the caller's key, outcome ok, unchanged or an error's code; at is UTC, ISO 8601.
    """

    key: str
    request_id: str
    action: str
    name: str | None
    version: int | None
    digest: str | None
    outcome: str
    duration_ms: float
    at: str = ""
    id: int = 0


@dataclass(frozen=True)
class Kept:
    """An answer that was given, with the digest of the body that it answered."""

    body: str
    status: int
    answer: str


@dataclass(frozen=True)
class Commit:
    """One change of the registry, whole or not at all. state is what serves afterwards."""

    reason: str
    state: State
    added: Collection[Version] = ()
    activated: Collection[Version] = ()
    removed: Collection[str] = ()
    events: Collection[Event] = ()


class Registry:
    """The store. `with Registry.open(path)` holds it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Registry]:
        """Open or create the database."""
        with Database.open(path, _schema) as database:
            database.seal("history")
            yield cls(database)

    def state(self) -> State:
        """What serves now, read in one transaction."""
        with self._database.reading() as connection:
            active = {row.name: _version(row) for row in connection.execute(_active_versions())}
            variables = {row.name: row.value for row in connection.execute(sql.select(_variables))}
            last = connection.execute(sql.select(_snapshots).order_by(_snapshots.c.number.desc()).limit(1)).first()
        if last is None:
            return State(active, variables)
        return State(active, variables, last.number, self.generation(last.generation))

    def examine(self) -> None:
        """Read what a start depends on, and every version. Raises StoreDamaged."""
        self.every_version()
        for generation in self.generations():
            if not isinstance(_parsed(generation.inputs), list):
                raise StoreDamaged(f"Generation {generation.number} is no row of ours.")
        state = self.state()
        if state.generation is None and (state.active or state.snapshot):
            raise StoreDamaged("It has functions, and nothing that serves them.")
        with self._database.reading() as connection:
            names = {row.name for row in connection.execute(sql.select(_active.c.name))}
        if names != state.active.keys():
            raise StoreDamaged("It has functions without the version that serves.")

    def every_version(self) -> list[Version]:
        """Every version of every function. Raises StoreDamaged."""
        with self._database.reading() as connection:
            return [_version(row) for row in connection.execute(sql.select(_versions))]

    def last_snapshot(self) -> int:
        """The number of the newest snapshot that was committed; 0 if there is none."""
        with self._database.reading() as connection:
            return int(connection.execute(sql.select(sql.func.max(_snapshots.c.number))).scalar() or 0)

    def generation(self, number: int) -> GenerationRow | None:
        """One generation, or None."""
        with self._database.reading() as connection:
            row = connection.execute(sql.select(_generations).where(_generations.c.number == number)).first()
        return None if row is None else GenerationRow(row.number, Lock(row.lock), row.inputs, row.created)

    def generations(self) -> list[GenerationRow]:
        """All that there ever were, newest first."""
        with self._database.reading() as connection:
            rows = connection.execute(sql.select(_generations).order_by(_generations.c.number.desc())).all()
        return [GenerationRow(row.number, Lock(row.lock), row.inputs, row.created) for row in rows]

    def snapshot_of(self, generation: int) -> int | None:
        """The last snapshot that a generation served."""
        query = sql.select(sql.func.max(_snapshots.c.number)).where(_snapshots.c.generation == generation)
        with self._database.reading() as connection:
            return connection.execute(query).scalar()

    def commit(self, change: Commit) -> None:
        """Make a change, in one transaction. Raises InsufficientStorage."""
        with self._database.writing() as connection:
            _put_versions(connection, change)
            if change.removed:
                connection.execute(sql.delete(_active).where(_active.c.name.in_(change.removed)))
            _put_variables(connection, change.state.variables)
            _put_snapshot(connection, change)
            _put_events(connection, change.events)

    # -- versions

    def next_number(self, name: str) -> int:
        """The number of a function's next version."""
        query = sql.select(sql.func.max(_versions.c.version)).where(_versions.c.name == name)
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar() or 0) + 1

    def versions(self, name: str) -> list[Version]:
        """Every version that a function ever had, newest first."""
        query = sql.select(_versions).where(_versions.c.name == name).order_by(_versions.c.version.desc())
        with self._database.reading() as connection:
            return [_version(row) for row in connection.execute(query)]

    def version(self, name: str, number: int) -> Version | None:
        """One of them, or None."""
        query = sql.select(_versions).where((_versions.c.name == name) & (_versions.c.version == number))
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else _version(row)

    # -- history

    def record(self, events: Collection[Event]) -> None:
        """Add lines to the history that belong to no commit. Raises InsufficientStorage."""
        with self._database.writing() as connection:
            _put_events(connection, events)

    def history(self, name: str | None, limit: int, before: int | None) -> list[Event]:
        """Lines of history, newest first: of one function or of all, those with an id under `before`."""
        query = sql.select(_history).order_by(_history.c.id.desc()).limit(limit)
        query = query.where(_history.c.name == name) if name is not None else query
        query = query.where(_history.c.id < before) if before is not None else query
        with self._database.reading() as connection:
            return [Event(**row._mapping) for row in connection.execute(query)]

    # -- answers to be given again

    def kept(self, key: str, newer_than: float) -> Kept | None:
        """The answer to an Idempotency-Key, if it was given after that moment (seconds since 1970)."""
        query = sql.select(_answers).where((_answers.c.key == key) & (_answers.c.created > newer_than))
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else Kept(row.body, row.status, row.answer)

    def keep(self, key: str, kept: Kept, now: float, oldest: float) -> None:
        """Remember an answer, and forget those from before `oldest`. Raises InsufficientStorage."""
        row = {"key": key, "body": kept.body, "status": kept.status, "answer": kept.answer, "created": now}
        with self._database.writing() as connection:
            connection.execute(sql.delete(_answers).where((_answers.c.created <= oldest) | (_answers.c.key == key)))
            connection.execute(sql.insert(_answers).values(row))

    def correct(self, now: float) -> None:
        """Bring back answers with a date in the future, which would be given for ever."""
        with self._database.writing() as connection:
            connection.execute(sql.update(_answers).where(_answers.c.created > now).values(created=now))

    # -- the functions' folder

    def projected(self, names: Collection[str] | None = None) -> dict[str, str]:
        """The digests of the files last written into the functions' folder, by name: all, or of some."""
        query = sql.select(_projected)
        query = query if names is None else query.where(_projected.c.name.in_(names))
        with self._database.reading() as connection:
            return {row.name: row.digest for row in connection.execute(query)}

    def set_projected(self, digests: Mapping[str, str], gone: Collection[str]) -> None:
        """Remember what was written there, and forget what is gone."""
        with self._database.writing() as connection:
            connection.execute(sql.delete(_projected).where(_projected.c.name.in_([*digests, *gone])))
            if digests:
                rows = [{"name": name, "digest": digest} for name, digest in digests.items()]
                connection.execute(sql.insert(_projected), rows)


def _put_versions(connection: sql.Connection, change: Commit) -> None:
    for version in change.added:
        function = version.function
        row = {"name": function.name, "version": version.number, "digest": function.digest, "created": version.created}
        connection.execute(sql.insert(_versions).values(**row, value=_dump(function)))
    for version in (*change.added, *change.activated):
        active = insert(_active).values(name=version.function.name, version=version.number)
        connection.execute(active.on_conflict_do_update(index_elements=["name"], set_={"version": version.number}))


def _put_variables(connection: sql.Connection, variables: Mapping[str, str]) -> None:
    """These and no others: values that no active function names any more are not kept."""
    connection.execute(sql.delete(_variables).where(_variables.c.name.not_in(variables)))
    for name, value in variables.items():
        row = insert(_variables).values(name=name, value=value)
        connection.execute(row.on_conflict_do_update(index_elements=["name"], set_={"value": value}))


def _put_snapshot(connection: sql.Connection, change: Commit) -> None:
    generation, number = change.state.generation, change.state.snapshot
    assert generation is not None, "a commit has a generation"
    connection.execute(
        insert(_generations)
        .values(
            number=generation.number,
            lock=generation.lock.text,
            inputs=generation.inputs,
            created=generation.created,
        )
        .on_conflict_do_update(index_elements=["number"], set_={"inputs": generation.inputs})
    )
    row = {"number": number, "generation": generation.number, "reason": change.reason, "created": moment()}
    connection.execute(sql.insert(_snapshots).values(row))


def _put_events(connection: sql.Connection, events: Collection[Event]) -> None:
    rows = [{k: v for k, v in asdict(event).items() if k != "id"} for event in events]
    if rows:
        connection.execute(sql.insert(_history), [row | {"at": row["at"] or moment()} for row in rows])


def moment() -> str:
    """Now, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _active_versions() -> sql.Select[Any]:
    on = (_active.c.name == _versions.c.name) & (_active.c.version == _versions.c.version)
    return sql.select(_versions).join(_active, on).order_by(_versions.c.name)


_JSON = ("parameters", "returns")
_TUPLES = ("packages", "env", "tags", "bound", "written", "secrets", "uses")


def _dump(function: Function) -> dict[str, Any]:
    """As JSON; schemas as text in it, because the order of a schema's members is for people to read."""
    value = {name: getattr(function, name) for name in Function.__dataclass_fields__}
    value |= {name: json.dumps(value[name]) for name in _JSON}
    return value | {"declared": json.dumps(asdict(function.declared))}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise StoreDamaged("A row of the registry is no JSON.") from error


def _version(row: Any) -> Version:
    """Raises StoreDamaged."""
    try:
        return _version_of(row)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreDamaged(f"Version {row.version} of {row.name} is no row of ours.") from error


def _version_of(row: Any) -> Version:
    value = dict(row.value)
    value |= {name: json.loads(value[name]) for name in _JSON if name in value}
    value |= {name: tuple(value[name]) for name in _TUPLES if value.get(name) is not None}
    value["declared"] = Declared(**json.loads(value.get("declared", "{}")))
    return Version(Function(**value), row.version, row.created)
