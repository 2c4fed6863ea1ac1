"""What goes over the wire about keys, and about who did what."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

from kernels.clock import as_time
from server.audit import Line
from server.callers import Reach, Scope
from server.keys import Key, Rights, Status
from server.wire import Answer, Body

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80)]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Days = Annotated[float | None, Field(gt=0, le=36500, description="Days until it expires; left out, it does not")]


class KeyBody(Body):
    """A key to make."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "agent", "scopes": ["execute:function"], "functions": ["word_count"]}]}
    )

    name: Annotated[Name, Field(description="What it is for, for people")]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=20, description="What it allows")]
    functions: Annotated[
        list[Word], Field(max_length=200, description="Only these functions, and those of `tags`; empty: all")
    ] = []
    tags: Annotated[list[Word], Field(max_length=50, description="Only functions with one of these tags")] = []
    expires_in_days: Days = None

    def rights(self) -> Rights:
        """The same as a value of ours."""
        reach = Reach(tuple(dict.fromkeys(self.functions)), tuple(dict.fromkeys(self.tags)))
        return Rights(self.name, frozenset(self.scopes), reach, self.expires_in_days)


class RotateBody(Body):
    """Until when the new secret is good."""

    expires_in_days: Annotated[
        float | None, Field(gt=0, le=36500, description="Days from now until it expires; left out, as it was")
    ] = None


class KeyAnswer(Answer):
    """A key without its secret."""

    id: Annotated[str, Field(description="As history and lists name it")]
    name: str
    status: Status
    scopes: list[str]
    functions: Annotated[list[str], Field(description="Narrowed to these, and to those of `tags`; both empty: all")]
    tags: list[str]
    created: str | None
    expires: str | None
    revoked: str | None
    last_used: Annotated[str | None, Field(description="Lost, for the last minute, by a crash")]

    @classmethod
    def of(cls, key: Key, now: float) -> KeyAnswer:
        """From a key."""
        return cls(**_told(key, now))


class NewKeyAnswer(KeyAnswer):
    """A key with its secret."""

    key: Annotated[str, Field(description="What is sent as the bearer token. It is shown this once")]

    @classmethod
    def of_new(cls, key: Key, secret: str, now: float) -> NewKeyAnswer:
        """From a key that was just made."""
        return cls(**_told(key, now), key=secret)


def _told(key: Key, now: float) -> dict[str, Any]:
    times = {"created": key.created or None, "expires": key.expires, "revoked": key.revoked, "last_used": key.used}
    return {
        "id": key.id,
        "name": key.name,
        "status": key.status(now),
        "scopes": sorted(key.scopes),
        "functions": list(key.reach.names),
        "tags": list(key.reach.tags),
        **{name: None if when is None else as_time(when) for name, when in times.items()},
    }


class LineAnswer(Answer):
    """Something that was done. key: the id of the key that did it; outcome: ok, or what went wrong."""

    id: int
    at: str
    key: str
    request_id: str
    action: Annotated[str, Field(description="execute, call, decide, key.create, key.rotate, key.revoke")]
    name: Annotated[str | None, Field(description="The function, or the id of the key, that it was about")]
    version: int | None
    code: Annotated[str | None, Field(description="sha256 of the code that ran")]
    detail: str | None
    outcome: str
    duration_ms: float
    execution: Annotated[str | None, Field(description="The id of the execution or call that it was")]

    @classmethod
    def of(cls, line: Line) -> LineAnswer:
        """From a line."""
        return cls.model_validate(line)
