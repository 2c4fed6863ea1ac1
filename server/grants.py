"""Grants of secrets: which function may have which secret, and for which code that was approved.

A grant names a function. What it allows is the code that the function had when somebody with the scope `secrets:grant`
granted it: its own source, and those of the functions that it imports. With other code, the function has no secret
until it is granted again. Calls block.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sql

from server.callers import Caller
from server.database import UNWRITABLE, Database
from server.errors import AigbbError
from server.functions import Function
from server.registry import State, moment
from server.snapshots import PACKAGE

_schema = sql.MetaData()

_grants = sql.Table(
    "secret_grants",
    _schema,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("secret", sql.Text, nullable=False),
    sql.Column("function", sql.Text, nullable=False),
    sql.Column("code", sql.Text),
    sql.Column("key", sql.Text, nullable=False),
    sql.Column("at", sql.Text, nullable=False),
)
# A row with these names says that the grants of an older service's registrations were taken over.
_MARKER = ""

_WORD = re.compile(r"[^\W\d]\w*")
# With one of these, a source can reach a function by a string.
_DYNAMIC = frozenset(
    ("getattr", "attrgetter", "importlib", "import_module", "__import__", "modules", "vars", "__dict__", "eval", "exec")
)

# The sources that run when a function is called, by function: SHA-256, hex.
Code = Mapping[str, str]


class SecretNotGranted(AigbbError):
    """A function asks for a secret that does not name it, or not with this code."""

    code, status = "secret_not_granted", 403
    hint = "An admin, or a key with the scope secrets:grant, can register it or grant the secret: PUT /secrets/{name}."


@dataclass(frozen=True, slots=True)
class Grant:
    """A function that a secret names. code is None where there was no such function yet."""

    secret: str
    function: str
    code: Code | None


@dataclass(frozen=True, slots=True)
class RegistrationChange:
    """What a change does to the active functions, and who makes it."""

    before: State
    after: State
    changed: Collection[str]
    caller: Caller


class GrantStore:
    """Grants in the home's database, and in memory. `with GrantStore.open(...)` holds it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = threading.Lock()  # what is withdrawn beside a registration must not come back with its grants
        self._grants: tuple[Grant, ...] = ()
        self.adopted = False  # whether the grants of an older service's registrations were taken over

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[GrantStore]:
        """Open or create it. Raises InsufficientStorage, StoreDamaged."""
        with Database.open(path, _schema) as database:
            store = cls(database)
            store._load()
            yield store

    def functions(self, secret: str) -> tuple[str, ...]:
        """Return the functions that a secret names."""
        return tuple(sorted({grant.function for grant in self._grants if grant.secret == secret}))

    def allows(self, secret: str, function: str, code: Code) -> bool:
        """Whether a function may have a secret while this is the code that runs."""
        return any(
            grant.code is not None and code.items() <= grant.code.items()
            for grant in self._grants
            if grant.secret == secret and grant.function == function
        )

    def approve(self, grants: Iterable[Grant], caller: Caller) -> None:
        """Add grants. Raises InsufficientStorage."""
        with self._turn:
            if new := [grant for grant in grants if grant not in self._grants]:
                with self._database.writing() as connection:
                    _insert(connection, new, caller)
                self._grants = (*self._grants, *new)

    def replace(self, secret: str, grants: Collection[Grant], caller: Caller) -> None:
        """Withdraw a secret from all functions but these. Raises InsufficientStorage."""
        with self._turn:
            with self._database.writing() as connection:
                connection.execute(sql.delete(_grants).where(_grants.c.secret == secret))
                _insert(connection, grants, caller)
            self._grants = (*(grant for grant in self._grants if grant.secret != secret), *grants)

    def forget(self, functions: Collection[str]) -> None:
        """Withdraw all secrets from functions that were deleted; what cannot be written now, the next start removes."""
        with self._turn:
            kept = tuple(grant for grant in self._grants if grant.function not in functions)
            if kept != self._grants:
                self._grants = kept
                with suppress(*UNWRITABLE), self._database.writing() as connection:
                    connection.execute(sql.delete(_grants).where(_grants.c.function.in_(functions)))

    def reconcile(self, state: State) -> None:
        """Take over the grants of an older service's registrations, once; drop those of functions that are gone.

        Raises InsufficientStorage.
        """
        if not self.adopted:
            with self._database.writing() as connection:
                _insert(connection, [Grant(_MARKER, _MARKER, None)], Caller())
            self.adopted = True
            self.approve(ungranted(self, state), Caller())
        self.forget({grant.function for grant in self._grants if grant.code is not None} - state.active.keys())

    def _load(self) -> None:
        with self._database.reading() as connection:
            rows = connection.execute(sql.select(_grants).order_by(_grants.c.id)).all()
        self.adopted = any(row.function == _MARKER for row in rows)
        self._grants = tuple(
            Grant(row.secret, row.function, None if row.code is None else json.loads(row.code))
            for row in rows
            if row.function != _MARKER
        )


def _insert(connection: sql.Connection, grants: Iterable[Grant], caller: Caller) -> None:
    for grant in grants:
        code = None if grant.code is None else json.dumps(dict(grant.code), sort_keys=True)
        row = {"secret": grant.secret, "function": grant.function, "code": code}
        connection.execute(sql.insert(_grants).values(**row, key=caller.key, at=moment()))


# -- what functions need


def granted(functions: Collection[Function]) -> dict[str, tuple[str, ...]]:
    """Return the secrets that each function needs: its own, and those of functions that it imports."""
    found = {f.name: set(f.secrets) for f in functions if f.secrets}
    if not found:
        return {}
    used = _imports(functions)
    grows = True
    while grows:
        grows = False
        for name, others in used.items():
            more = {secret for other in others for secret in found.get(other, ())} - found.get(name, set())
            if more:
                found.setdefault(name, set()).update(more)
                grows = True
    return {name: tuple(sorted(secrets)) for name, secrets in found.items()}


def code_of(name: str, functions: Collection[Function]) -> dict[str, str]:
    """Return the sources that run when a function is called: its own, and those of functions that it imports."""
    return _code(name, _imports(functions), {f.name: f for f in functions})


def _code(name: str, used: Mapping[str, Collection[str]], by_name: Mapping[str, Function]) -> dict[str, str]:
    left, found = [name], set()
    while left:
        one = left.pop()
        if one not in found and one in by_name:
            found.add(one)
            left += [*used.get(one, ()), *_reached(by_name[one])]
    return {n: hashlib.sha256(by_name[n].source.encode("utf-8", "surrogatepass")).hexdigest() for n in sorted(found)}


def _imports(functions: Collection[Function]) -> dict[str, set[str]]:
    """Which functions each may import. A version of an older service says it by the words of its source."""
    names = {f.name for f in functions}
    found: dict[str, set[str]] = {}
    for f in functions:
        words = _words(f) if f.uses is None else set(f.uses)
        if words:
            found[f.name] = (names if "*" in words else names & words) - {f.name}
    return found


def _reached(function: Function) -> set[str]:
    """Return the words of a source that may import functions by strings; only the code that is granted counts them."""
    words = _words(function)
    return words - {function.name} if words & _DYNAMIC else set()


def _words(function: Function) -> set[str]:
    return set(_WORD.findall(function.source)) if PACKAGE in function.source else set()


def ungranted(store: GrantStore, state: State) -> list[Grant]:
    """Return what active functions need and have no grant for, as grants for the code that they have."""
    return [grant for grant in _needed(state) if not _holds(store, grant)]


def admitted(store: GrantStore, change: RegistrationChange) -> list[Grant]:
    """Return the grants that a change makes: whoever may grant secrets grants what they register.

    Raises SecretNotGranted where somebody else registers code that would have a secret.
    """
    before, after = _needed(change.before), _needed(change.after)
    held = [grant for grant in before if _holds(store, grant)]
    pairs = {(grant.secret, grant.function) for grant in held}
    lacking = [grant for grant in after if not _holds(store, grant)]
    new = [g for g in lacking if g.function in change.changed or (g.secret, g.function) in pairs]
    if change.caller.may("secrets:grant"):
        return new
    if new:
        raise _refusal(store, new[0], change)
    _check_held(held, change)
    return []


def _needed(state: State) -> list[Grant]:
    by_name = {name: version.function for name, version in state.active.items()}
    if not (needs := granted(by_name.values())):
        return []
    used = _imports(by_name.values())
    code = {name: _code(name, used, by_name) for name in needs}
    return [Grant(secret, name, code[name]) for name, secrets in needs.items() for secret in secrets]


def _holds(store: GrantStore, grant: Grant) -> bool:
    return store.allows(grant.secret, grant.function, grant.code or {})


def _check_held(held: Iterable[Grant], change: RegistrationChange) -> None:
    """Raises SecretNotGranted for a change of what runs with a secret, or of what steers it."""
    before, after = change.before, change.after
    moved = {name for name, value in after.variables.items() if before.variables.get(name) != value}
    for grant in held:
        for name in grant.code or {}:
            if name in change.changed:
                _check_same(grant, before.active[name].function, after.active[name].function)
            if read := moved & _variables(before.active[name].function):
                raise _steered(grant, name, f"another value of the variable {min(read)}")


def _check_same(grant: Grant, old: Function, new: Function) -> None:
    """Raises SecretNotGranted."""
    if old.source != new.source:
        raise _refused(grant, new.name)
    for what in ("packages", "network"):
        if getattr(old, what) != getattr(new, what):
            raise _steered(grant, new.name, f"a change of `{what}`")


def _variables(function: Function) -> set[str]:
    """Return the names of variables that a function may read: a value could send its secret somewhere else."""
    return {*function.env, *_WORD.findall(function.source)}


def _refusal(store: GrantStore, grant: Grant, change: RegistrationChange) -> SecretNotGranted:
    if grant.function not in change.changed:
        return _refused(grant, next(n for n in [*change.changed, grant.function] if n in (grant.code or {})))
    if grant.function in store.functions(grant.secret):
        return _refused(grant, grant.function)
    return not_granted(f"The secret {grant.secret} does not name the function {grant.function}.", grant)


def _refused(grant: Grant, name: str) -> SecretNotGranted:
    who = f"{grant.function} has" if name == grant.function else f"{grant.function}, which imports {name}, has"
    return not_granted(f"{who} the secret {grant.secret}: another source of {name} needs a new grant.", grant)


def _steered(grant: Grant, name: str, what: str) -> SecretNotGranted:
    detail = f"{name} runs with the secret {grant.secret}: {what} could send it somewhere else."
    hint = "An admin or a key with the scope secrets:grant can send this request."
    secrets, scopes = [grant.secret], ["secrets:grant"]
    return SecretNotGranted(detail, hint=hint, function=grant.function, secrets=secrets, scopes=scopes)


def not_granted(detail: str, grant: Grant) -> SecretNotGranted:
    """Return the refusal, which says who can grant the secret, and how."""
    hint = (
        f"Only an admin or a key with the scope secrets:grant can register this source. They can also approve the "
        f'active source of {grant.function}: PUT /secrets/{grant.secret} {{"functions": ["{grant.function}", ...]}}, '
        f"or `aigbb secrets grant {grant.secret} --function {grant.function} ...`. "
        "The list replaces the one that GET /secrets shows."
    )
    secrets, scopes = [grant.secret], ["secrets:grant"]
    return SecretNotGranted(detail, hint=hint, function=grant.function, secrets=secrets, scopes=scopes)
