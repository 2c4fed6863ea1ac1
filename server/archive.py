"""Conversations that are kept, calls that were begun, and decisions that are waited for, in the home's database.

A turn is written down as it goes, so that whoever comes after a crash knows what was done. Calls block.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sql
from sqlalchemy.dialects.sqlite import insert

from kernels.clock import SteadyClock
from server.conversations import Message
from server.database import Database

_schema = sql.MetaData()

_conversations = sql.Table(
    "conversations",
    _schema,
    sql.Column("id", sql.Text, primary_key=True),
    sql.Column("status", sql.Text, nullable=False),
    sql.Column("approved", sql.JSON, nullable=False),
    sql.Column("created", sql.Float, nullable=False),
    sql.Column("updated", sql.Float, nullable=False, index=True),
    sql.Column("owner", sql.Text),
)
_messages = sql.Table(
    "messages",
    _schema,
    sql.Column("conversation", sql.Text, primary_key=True),
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("message", sql.JSON, nullable=False),
)
# The calls of a conversation's last message. content is null from the beginning of a call until its end.
_attempts = sql.Table(
    "attempts",
    _schema,
    sql.Column("conversation", sql.Text, primary_key=True),
    sql.Column("call", sql.Text, primary_key=True),
    sql.Column("content", sql.Text),
)
_approvals = sql.Table(
    "approvals",
    _schema,
    sql.Column("id", sql.Text, primary_key=True),
    sql.Column("conversation", sql.Text, index=True),
    sql.Column("status", sql.Text, nullable=False),
    sql.Column("calls", sql.JSON, nullable=False),
    sql.Column("suspended", sql.Text, nullable=False),
    sql.Column("created", sql.Float, nullable=False),
    sql.Column("expires", sql.Float, nullable=False),
    sql.Column("owner", sql.Text),
    sql.Column("outcome", sql.Text),
)

Status = Literal["idle", "running", "waiting"]
# What became of an approval: nobody decided so far, somebody did, or the conversation went on without.
Outcome = Literal["waiting", "decided", "withdrawn"]


@dataclass(frozen=True)
class Summary:
    """A conversation in a list. Times are seconds since 1970; messages counts them."""

    id: str
    status: Status
    messages: int
    created: float
    updated: float


@dataclass(frozen=True)
class Stored:
    """A conversation as it was left. approved are functions that need no decision in it, as name@version.

    attempts are the calls of the last message that were begun, by id, with what came of them; None if nobody knows.
    owner: the id of the key that began it.
    """

    id: str
    status: Status
    approved: tuple[str, ...]
    messages: tuple[Message, ...]
    attempts: Mapping[str, str | None]
    created: float
    updated: float
    owner: str = ""


@dataclass(frozen=True)
class Approval:
    """Calls that wait for a person. suspended is the rest of the turn, as JSON; times are seconds since 1970.

    owner: the id of the key that asked. outcome: what a decision about calls of no conversation came to, as JSON.
    """

    id: str
    conversation: str | None
    status: Outcome
    calls: tuple[Mapping[str, Any], ...]
    suspended: str
    created: float
    expires: float
    owner: str = ""
    outcome: str | None = None


class Archive:
    """The store. `with Archive.open(path)` holds it."""

    def __init__(self, database: Database, clock: SteadyClock) -> None:
        self._database = database
        self.clock = clock

    @classmethod
    @contextmanager
    def open(cls, path: Path, clock: SteadyClock | None = None) -> Iterator[Archive]:
        """Open or create the tables. clock: of those who compare with it."""
        with Database.open(path, _schema) as database:
            yield cls(database, clock or SteadyClock())

    # -- conversations

    def load(self, identity: str) -> Stored | None:
        """One conversation, read in one transaction."""
        with self._database.reading() as connection:
            row = connection.execute(sql.select(_conversations).where(_conversations.c.id == identity)).first()
            if row is None:
                return None
            said = sql.select(_messages.c.message).where(_messages.c.conversation == identity)
            messages = connection.execute(said.order_by(_messages.c.number)).scalars().all()
            begun = connection.execute(sql.select(_attempts).where(_attempts.c.conversation == identity)).all()
        attempts = {attempt.call: attempt.content for attempt in begun}
        told = (row.id, row.status, tuple(row.approved), tuple(messages), attempts, row.created, row.updated)
        return Stored(*told, owner=row.owner or "")

    def owner(self, identity: str) -> str | None:
        """Who began a conversation; None if there is none."""
        query = sql.select(sql.func.coalesce(_conversations.c.owner, "")).where(_conversations.c.id == identity)
        with self._database.reading() as connection:
            return connection.execute(query).scalar()

    def listed(self, limit: int, owner: str | None = None) -> list[Summary]:
        """The conversations that went on last, newest first: all, or those of one owner."""
        count = sql.select(sql.func.count()).where(_messages.c.conversation == _conversations.c.id).scalar_subquery()
        query = sql.select(_conversations, count.label("messages")).order_by(_conversations.c.updated.desc())
        query = query if owner is None else query.where(_conversations.c.owner == owner)
        with self._database.reading() as connection:
            rows = connection.execute(query.limit(limit)).all()
        return [Summary(row.id, row.status, row.messages, row.created, row.updated) for row in rows]

    def begin(self, identity: str, messages: Sequence[Message], approved: Collection[str], owner: str = "") -> None:
        """A turn begins: these messages are new, and the answers to what was open are among them.

        owner: whose conversation it is, if it is new.
        """
        now = self.clock.now()
        row = {"status": "running", "approved": sorted(approved), "updated": now}
        made = insert(_conversations).values(id=identity, created=now, owner=owner, **row)
        with self._database.writing() as connection:
            connection.execute(made.on_conflict_do_update(index_elements=["id"], set_=row))
            _add(connection, identity, messages)

    def say(self, identity: str, messages: Sequence[Message]) -> None:
        """More messages. What was begun for the message before them has its answers now."""
        with self._database.writing() as connection:
            _add(connection, identity, messages)

    def began(self, identity: str, call: str) -> None:
        """A call is about to be run."""
        with self._database.writing() as connection:
            connection.execute(insert(_attempts).values(conversation=identity, call=call).on_conflict_do_nothing())

    def ended(self, identity: str, call: str, content: str) -> None:
        """A call has been run, and this is what its answer will be."""
        with self._database.writing() as connection:
            _end(connection, identity, call, content)

    def leave(self, identity: str, approved: Collection[str]) -> None:
        """The turn is over, and these functions need no decision any more."""
        own = _conversations.c.id == identity
        with self._database.writing() as connection:
            connection.execute(sql.update(_conversations).where(own).values(approved=sorted(approved)))
            _mark(connection, identity, "idle", self.clock.now())

    def delete(self, identity: str) -> bool:
        """Forget a conversation, and what waits in it. Whether there was one."""
        with self._database.writing() as connection:
            for table in (_messages, _attempts, _approvals):
                connection.execute(sql.delete(table).where(table.c.conversation == identity))
            return connection.execute(sql.delete(_conversations).where(_conversations.c.id == identity)).rowcount > 0

    def forget(self, before: float) -> None:
        """Forget conversations that did not go on since then, and approvals that expired before."""
        old = sql.select(_conversations.c.id).where(_conversations.c.updated < before)
        with self._database.writing() as connection:
            for table in (_messages, _attempts, _approvals):
                connection.execute(sql.delete(table).where(table.c.conversation.in_(old)))
            connection.execute(sql.delete(_conversations).where(_conversations.c.updated < before))
            connection.execute(sql.delete(_approvals).where(_approvals.c.expires < before))

    def correct(self, approval_seconds: float) -> None:
        """Bring back what has a date in the future, which the machine had wrong then: it would be kept for ever."""
        now = self.clock.now()
        late = now + approval_seconds
        with self._database.writing() as connection:
            ahead = _conversations.c.updated > now
            connection.execute(sql.update(_conversations).where(ahead).values(updated=now))
            ahead = _approvals.c.expires > late
            connection.execute(sql.update(_approvals).where(ahead).values(created=now, expires=late))

    # -- decisions

    def hold(self, approval: Approval, messages: Sequence[Message], ended: Mapping[str, str]) -> None:
        """Calls wait, others have ended. A conversation that was not kept yet is from now on, with these messages."""
        row = {name: getattr(approval, name) for name in Approval.__dataclass_fields__}
        with self._database.writing() as connection:
            connection.execute(sql.insert(_approvals).values({**row, "calls": [dict(call) for call in approval.calls]}))
            if approval.conversation is not None:
                now = approval.created
                made = insert(_conversations).values(
                    id=approval.conversation,
                    status="waiting",
                    approved=[],
                    created=now,
                    updated=now,
                    owner=approval.owner,
                )
                connection.execute(made.on_conflict_do_nothing())
                _add(connection, approval.conversation, messages)
                for call, content in ended.items():
                    _end(connection, approval.conversation, call, content)
                _mark(connection, approval.conversation, "waiting", self.clock.now())

    def approval(self, identity: str) -> Approval | None:
        """One of them, whatever became of it."""
        with self._database.reading() as connection:
            row = connection.execute(sql.select(_approvals).where(_approvals.c.id == identity)).first()
        return None if row is None else _approval(row)

    def waiting(self, now: float) -> list[Approval]:
        """Those that can still be decided, oldest first."""
        query = sql.select(_approvals).where((_approvals.c.status == "waiting") & (_approvals.c.expires > now))
        with self._database.reading() as connection:
            return [_approval(row) for row in connection.execute(query.order_by(_approvals.c.created))]

    def settle(self, identity: str, outcome: Outcome, now: float) -> bool:
        """Claim an approval: true for one caller only, and only while it can be decided."""
        own = (_approvals.c.id == identity) & (_approvals.c.status == "waiting") & (_approvals.c.expires > now)
        with self._database.writing() as connection:
            done = connection.execute(sql.update(_approvals).where(own).values(status=outcome))
            return done.rowcount == 1

    def finish(self, identity: str, outcome: str) -> None:
        """Keep what a decision came to."""
        with self._database.writing() as connection:
            connection.execute(sql.update(_approvals).where(_approvals.c.id == identity).values(outcome=outcome))

    def pending(self, owner: str, now: float) -> int:
        """Count the approvals of one key that can still be decided."""
        own = (_approvals.c.owner == owner) & (_approvals.c.status == "waiting") & (_approvals.c.expires > now)
        with self._database.reading() as connection:
            return connection.execute(sql.select(sql.func.count()).where(own)).scalar() or 0

    def expire(self, before: float) -> None:
        """Delete the approvals of no conversation that expired before."""
        own = (_approvals.c.expires < before) & _approvals.c.conversation.is_(None)
        with self._database.writing() as connection:
            connection.execute(sql.delete(_approvals).where(own))

    def withdraw(self, conversation: str) -> None:
        """Whatever waits in a conversation can be decided no more."""
        own = (_approvals.c.conversation == conversation) & (_approvals.c.status == "waiting")
        with self._database.writing() as connection:
            connection.execute(sql.update(_approvals).where(own).values(status="withdrawn"))


def _add(connection: sql.Connection, identity: str, messages: Sequence[Message]) -> None:
    """Messages at the end; what was begun before them is over."""
    if not messages:
        return
    last = sql.select(sql.func.max(_messages.c.number)).where(_messages.c.conversation == identity)
    first = (connection.execute(last).scalar() or 0) + 1
    rows = [{"conversation": identity, "number": first + n, "message": dict(m)} for n, m in enumerate(messages)]
    connection.execute(sql.insert(_messages), rows)
    connection.execute(sql.delete(_attempts).where(_attempts.c.conversation == identity))


def _end(connection: sql.Connection, identity: str, call: str, content: str) -> None:
    row = insert(_attempts).values(conversation=identity, call=call, content=content)
    connection.execute(row.on_conflict_do_update(index_elements=["conversation", "call"], set_={"content": content}))


def _mark(connection: sql.Connection, identity: str, status: Status, now: float) -> None:
    own = _conversations.c.id == identity
    connection.execute(sql.update(_conversations).where(own).values(status=status, updated=now))


def _approval(row: Any) -> Approval:
    return Approval(**{**row._mapping, "calls": tuple(row.calls), "owner": row.owner or ""})
