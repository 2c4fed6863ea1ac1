"""Secrets at rest: encrypted in the home's database, with a key that is not in it.

Each is a Fernet token of its name and value, so that no row can stand in another's place. Several keys are taken: the
first encrypts, all decrypt, and opening the vault turns what is under an older one over to the first. Calls block.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy.dialects.sqlite import insert

from kernels.home import write_atomically
from server.database import Database
from server.errors import InvalidEnv, InvalidSecret, SecretsLocked, UnknownSecret
from server.registry import moment
from server.scrubbing import Scrubber
from server.variables import check_env

_schema = sql.MetaData()

_secrets = sql.Table(
    "secrets",
    _schema,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("token", sql.LargeBinary, nullable=False),
    sql.Column("set", sql.Text, nullable=False),
)

# Shorter ones could not be told from other text, and so not be scrubbed from it.
MIN_VALUE = 6


@dataclass(frozen=True)
class Secret:
    """What may be known of a secret: its name, and when it was set (UTC, ISO 8601)."""

    name: str
    set: str


class Vault:
    """The store. `with Vault.open(...)` holds it. Its values are in memory, for tasks and to be scrubbed from texts."""

    def __init__(self, database: Database, file: Path, keys: str | None) -> None:
        """keys: Fernet keys, by comma or a line each; None for those in the file, where one is made if need be."""
        self._database = database
        self._file = file if keys is None else None
        self._keys = _listed(keys if keys is not None else _text(file))
        self._fernet, self._trouble = _made(self._keys)
        self._turn = threading.Lock()
        self._stored: dict[str, Secret] = {}
        self._values: dict[str, str] = {}
        self._former: list[tuple[str, str]] = []  # kernels may still have them
        self.scrubber = Scrubber()

    @classmethod
    @contextmanager
    def open(cls, path: Path, file: Path, keys: str | None) -> Iterator[Vault]:
        """Open or create it. A key that is missing or wrong is told when a secret is needed, not now."""
        with Database.open(path, _schema) as database:
            vault = cls(database, file, keys)
            vault._load()
            yield vault

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def stored(self) -> list[Secret]:
        """All there are, by name."""
        return [self._stored[name] for name in sorted(self._stored)]

    def find(self, name: str) -> Secret:
        """Return one. Raises UnknownSecret."""
        if name not in self._stored:
            raise UnknownSecret(f"There is no secret {name[:80]!r}.")
        return self._stored[name]

    def values(self, names: Collection[str]) -> dict[str, str]:
        """The values of those that are there. Raises SecretsLocked where one cannot be read."""
        wanted = [name for name in names if name in self._stored]
        for name in wanted:
            if name not in self._values:
                why = self._trouble or "it was encrypted with another key"
                raise SecretsLocked(f"The secret {name} cannot be read: {why}.")
        return {name: self._values[name] for name in wanted}

    def scrub(self, value: Any) -> Any:
        """A JSON value without any secret that there is or was."""
        return self.scrubber.json(value) if self.scrubber else value

    def put(self, name: str, value: str) -> tuple[Secret, bool]:
        """Set or replace one; and whether it is new. Raises InvalidSecret, SecretsLocked, InsufficientStorage."""
        check_secret(name, value)
        with self._turn:
            token = self._unlocked().encrypt(json.dumps([name, value]).encode())
            secret = Secret(name, moment())
            self._write(name, token, secret.set)
            is_new = name not in self._stored
            self._forget(name)
            self._stored[name], self._values[name] = secret, value
            self._see()
        return secret, is_new

    def remove(self, name: str) -> None:
        """Delete one. Raises UnknownSecret, InsufficientStorage."""
        with self._turn:
            if name not in self._stored:
                raise UnknownSecret(f"There is no secret {name[:80]!r}.")
            with self._database.writing() as connection:
                connection.execute(sql.delete(_secrets).where(_secrets.c.name == name))
            self._forget(name)
            del self._stored[name]
            self._see()

    def _load(self) -> None:
        with self._database.reading() as connection:
            rows = connection.execute(sql.select(_secrets)).all()
        self._stored = {row.name: Secret(row.name, row.set) for row in rows}
        if (fernet := self._fernet) is not None:
            for row in rows:
                self._decrypt(fernet, row.name, row.token, row.set)
        self._see()

    def _decrypt(self, fernet: MultiFernet, name: str, token: bytes, when: str) -> None:
        with suppress(InvalidToken, ValueError):
            named, value = json.loads(fernet.decrypt(token))
            if named == name:
                self._values[name] = value
                if len(self._keys) > 1:
                    self._write(name, fernet.rotate(token), when)

    def _unlocked(self) -> MultiFernet:
        """What encrypts; the first time, with a new key. Never with another key than what is there is under."""
        if self._fernet is None and self._file is not None and not self._stored and not _text(self._file):
            key = Fernet.generate_key().decode()
            write_atomically(self._file, key + "\n", mode=0o600)
            self._fernet, self._trouble = _made([key])
        if self._fernet is None or self._stored.keys() - self._values.keys():
            raise SecretsLocked(f"The secrets that there are cannot be read: {self._trouble or 'the key is another'}.")
        return self._fernet

    def _write(self, name: str, token: bytes, when: str) -> None:
        row = insert(_secrets).values(name=name, token=token, set=when)
        with self._database.writing() as connection:
            connection.execute(row.on_conflict_do_update(index_elements=["name"], set_={"token": token, "set": when}))

    def _forget(self, name: str) -> None:
        if (value := self._values.pop(name, None)) is not None:
            self._former.append((value, f"[secret {name}]"))

    def _see(self) -> None:
        current = [(value, f"[secret {name}]") for name, value in self._values.items()]
        self.scrubber = Scrubber.of([*self._former, *current])


def check_secret(name: str, value: str) -> None:
    """Raises InvalidSecret."""
    try:
        check_env({name: value})
    except InvalidEnv as error:
        raise InvalidSecret(error.detail) from error
    if len(value) < MIN_VALUE:
        raise InvalidSecret(f"The value of {name!r} has fewer than {MIN_VALUE} characters.")


def _listed(keys: str) -> list[str]:
    return keys.replace(",", " ").split()


def _made(keys: Sequence[str]) -> tuple[MultiFernet | None, str]:
    """What the keys make, or why they make nothing."""
    if not keys:
        return None, "the key is missing"
    try:
        return MultiFernet([Fernet(key) for key in keys]), ""
    except ValueError:
        return None, "what is given as the key is none"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
