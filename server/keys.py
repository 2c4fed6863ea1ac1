"""API keys: who may pass, and what each key allows. Kept as hashes; those in use are known without asking the disk."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import sqlalchemy as sql
import structlog
from sqlalchemy.dialects.sqlite import insert

from kernels.clock import as_time
from kernels.home import on_disk
from server.audit import Audit, Line
from server.callers import EVERYTHING, Caller, Reach, Scope
from server.database import UNWRITABLE, Database
from server.errors import InvalidRequest, Unauthorized, UnknownKey

log = structlog.get_logger(__name__)

PREFIX = "aigbb_"
DAY = 86400.0
# Seconds between two writes of when keys were used last.
NOW_AND_THEN = 60.0
# What reaches every function, so that a key that is narrowed to some cannot hold it.
WIDE: tuple[Scope, ...] = ("execute:code", "functions:register", "packages:install", "secrets:grant", "admin")

_schema = sql.MetaData()
_keys = sql.Table(
    "keys",
    _schema,
    sql.Column("id", sql.Text, primary_key=True),
    sql.Column("name", sql.Text, nullable=False),
    sql.Column("digest", sql.Text, nullable=False),
    sql.Column("scopes", sql.JSON, nullable=False),
    sql.Column("names", sql.JSON, nullable=False),
    sql.Column("tags", sql.JSON, nullable=False),
    sql.Column("created", sql.Float, nullable=False),
    sql.Column("expires", sql.Float),
    sql.Column("revoked", sql.Float),
    sql.Column("used", sql.Float),
)

Status = Literal["active", "expired", "revoked"]


@dataclass(frozen=True)
class Rights:
    """What a key is to allow, and for how many days; None is for ever."""

    name: str
    scopes: frozenset[Scope]
    reach: Reach = EVERYTHING
    days: float | None = None

    def check(self) -> None:
        """Raises InvalidRequest for scopes that do not go with being narrowed."""
        wide = [scope for scope in WIDE if scope in self.scopes]
        if self.reach.narrow and wide:
            raise InvalidRequest(
                f"A key that is narrowed to some functions cannot hold {', '.join(wide)}: that reaches all of them.",
                hint="Leave out those scopes, or `functions` and `tags`.",
            )


@dataclass(frozen=True)
class Key:
    """A key without its secret, of which digest is the sha256. Times are seconds since 1970."""

    id: str
    name: str
    digest: str
    scopes: frozenset[str]
    reach: Reach
    created: float
    expires: float | None = None
    revoked: float | None = None
    used: float | None = None

    def status(self, now: float) -> Status:
        """Whether it opens anything."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"

    def caller(self, request_id: str) -> Caller:
        """Who asks with it."""
        return Caller(self.id, request_id, "admin" in self.scopes, self.scopes, self.reach)


class Keyring:
    """All keys, and the token of the first start, which is an admin's key. `async with` it.

    Every change is on the disk before it is answered, and holds from then on.
    """

    def __init__(self, database: Database, token: str, audit: Audit) -> None:
        self._database = database
        self._audit = audit
        self._token = token.encode()
        identity = f"token-{hashlib.sha256(self._token).hexdigest()[:8]}"
        self.token_key = Key(identity, "the service's token", "", frozenset({"admin"}), EVERYTHING, 0.0)
        self._keys: dict[str, Key] = {}
        self._used: dict[str, float] = {}
        self._changing = asyncio.Lock()
        self._closing = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    @classmethod
    @contextmanager
    def open(cls, path: Path, token: str, audit: Audit) -> Iterator[Keyring]:
        """Open or create the table."""
        with Database.open(path, _schema) as database:
            yield cls(database, token, audit)

    async def __aenter__(self) -> Self:
        self._keys = await asyncio.to_thread(self._read)
        self._writer = asyncio.create_task(self._write_now_and_then())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        if self._writer is not None:
            await self._writer

    # -- who asks

    def caller(self, given: Iterable[bytes], request_id: str) -> Caller:
        """Who has one of these keys. Raises Unauthorized, which says why only to whoever has the secret."""
        sent = False
        for one in given:
            sent = True
            if hmac.compare_digest(one, self._token):
                self._used[self.token_key.id] = time.time()
                return self.token_key.caller(request_id)
            if (key := self._opened(one)) is not None:
                return self._passed(key, request_id)
        raise Unauthorized("The key is wrong." if sent else "No key was sent.")

    def _opened(self, given: bytes) -> Key | None:
        """The key of this secret. One that is not known takes as long as one that is."""
        identity, _, secret = given.decode("latin-1").removeprefix(PREFIX).partition("_")
        key = self._keys.get(identity)
        digest = _digest(secret)
        same = hmac.compare_digest(digest, key.digest if key else _NO_DIGEST)
        return key if same and key and given.startswith(PREFIX.encode()) else None

    def _passed(self, key: Key, request_id: str) -> Caller:
        now = time.time()
        if (status := key.status(now)) != "active":
            when = key.revoked if key.revoked is not None else key.expires
            said = {"revoked": "was revoked", "expired": "expired"}[status]
            hint = "Ask an admin for another one." if status == "revoked" else "Ask an admin to rotate it."
            raise Unauthorized(f"The key {key.id} {said} at {as_time(when or 0.0)}.", hint=hint)
        self._used[key.id] = now
        return key.caller(request_id)

    def holds(self, caller: Caller) -> bool:
        """Whether the key of a caller of before is still good."""
        key = self._keys.get(caller.key)
        return key.status(time.time()) == "active" if key else caller.key in (self.token_key.id, Caller().key)

    # -- changes

    def listed(self) -> list[Key]:
        """The token, then all keys there ever were, oldest first, with the moment of their last use."""
        keys = [self.token_key, *sorted(self._keys.values(), key=lambda key: key.created)]
        return [replace(key, used=self._used.get(key.id, key.used)) for key in keys]

    async def create(self, rights: Rights, caller: Caller) -> tuple[Key, str]:
        """A new key, and the text of it, which nobody can be told again. Raises InvalidRequest, InsufficientStorage."""
        rights.check()
        now, secret = time.time(), secrets.token_urlsafe(32)
        expires = None if rights.days is None else now + rights.days * DAY
        key = Key(secrets.token_hex(6), rights.name, _digest(secret), rights.scopes, rights.reach, now, expires)
        async with self._changing:
            await self._change(key, _line(caller, "key.create", key))
        return key, f"{PREFIX}{key.id}_{secret}"

    async def revoke(self, identity: str, caller: Caller) -> None:
        """It opens nothing from now on. Raises UnknownKey, InvalidRequest, InsufficientStorage."""
        async with self._changing:
            key = self._find(identity)
            if key.revoked is None:
                await self._change(replace(key, revoked=time.time()), _line(caller, "key.revoke", key))

    async def rotate(self, identity: str, days: float | None, caller: Caller) -> tuple[Key, str]:
        """Another secret for a key; the one before opens nothing from now on. days: from now, else as it was.

        Raises UnknownKey, InvalidRequest, InsufficientStorage.
        """
        async with self._changing:
            key, now, secret = self._find(identity), time.time(), secrets.token_urlsafe(32)
            status = key.status(now)
            if status == "revoked":
                raise UnknownKey(f"The key {identity} is revoked.", hint="Create another one.")
            if status == "expired" and days is None:
                raise InvalidRequest(f"The key {identity} has expired.", hint="Say in `expires_in_days` until when.")
            expires = key.expires if days is None else now + days * DAY
            key = replace(key, digest=_digest(secret), expires=expires)
            await self._change(key, _line(caller, "key.rotate", key))
        return key, f"{PREFIX}{key.id}_{secret}"

    # -- inside

    def _find(self, identity: str) -> Key:
        if identity == self.token_key.id:
            hint = "Set another AIGBB_TOKEN, or delete the file `token` of the home, and start the service again."
            raise InvalidRequest("The service's token is not changed here.", hint=hint)
        if (key := self._keys.get(identity)) is None:
            raise UnknownKey(f"There is no key {identity[:80]!r}.")
        return key

    async def _change(self, key: Key, line: Line) -> None:
        await on_disk(self._put, key)
        self._audit.note(line)
        await self._audit.flush()

    def _put(self, key: Key) -> None:
        """On the disk, and then at once for everybody, whoever waits for it or has left."""
        row = {**_row(key), "used": self._used.get(key.id, key.used)}
        with self._database.writing() as connection:
            statement = insert(_keys).values(row)
            connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))
        self._keys[key.id] = key

    def _read(self) -> dict[str, Key]:
        with self._database.reading() as connection:
            return {row.id: _key(dict(row._mapping)) for row in connection.execute(sql.select(_keys))}

    async def _write_now_and_then(self) -> None:
        """When keys were used last: never while somebody waits."""
        written: Mapping[str, float] = {}
        while True:
            try:
                async with asyncio.timeout(NOW_AND_THEN):
                    await self._closing.wait()
            except TimeoutError:
                pass
            used = {name: when for name, when in self._used.items() if written.get(name) != when}
            try:
                await on_disk(self._touch, used)
                written = {**written, **used}
            except UNWRITABLE as error:
                log.error("keys.last_use_not_written", error=str(error))
            if self._closing.is_set():
                return

    def _touch(self, used: Mapping[str, float]) -> None:
        changed = [{"one": name, "when": when} for name, when in used.items() if name in self._keys]
        if changed:
            statement = sql.update(_keys).where(_keys.c.id == sql.bindparam("one"))
            with self._database.writing() as connection:
                connection.execute(statement.values(used=sql.bindparam("when")), changed)


def _digest(secret: str) -> str:
    """sha256 is enough for 32 random bytes: nobody can try them all."""
    return hashlib.sha256(secret.encode()).hexdigest()


_NO_DIGEST = _digest("")


def _line(caller: Caller, action: str, key: Key) -> Line:
    return Line(caller.key, caller.request_id, action, "ok", name=key.id, detail=f"{key.name}: {_listed(key)}")


def _listed(key: Key) -> str:
    narrowed: Collection[str] = [*key.reach.names, *(f"tag {tag}" for tag in key.reach.tags)]
    return ", ".join(sorted(key.scopes)) + (f"; only {', '.join(narrowed)}" if narrowed else "")


def _row(key: Key) -> dict[str, Any]:
    names, tags = list(key.reach.names), list(key.reach.tags)
    told = {name: getattr(key, name) for name in ("id", "name", "digest", "created", "expires", "revoked")}
    return {**told, "scopes": sorted(key.scopes), "names": names, "tags": tags}


def _key(row: Mapping[str, Any]) -> Key:
    reach = Reach(tuple(row["names"]), tuple(row["tags"]))
    told = {name: row[name] for name in ("id", "name", "digest", "created", "expires", "revoked", "used")}
    return Key(**told, scopes=frozenset(row["scopes"]), reach=reach)
