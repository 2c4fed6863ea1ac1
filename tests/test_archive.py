"""What is kept of conversations: whole or not at all, by whoever opens the file next, and claimed once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from server.archive import Approval, Archive

USER: dict[str, Any] = {"role": "user", "content": "ä"}
ASKING: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}
FAR = time.time() + 100_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "registry.sqlite3"


@pytest.fixture
def archive(path: Path) -> Iterator[Archive]:
    """An empty one."""
    with Archive.open(path) as opened:
        yield opened


def approval(identity: str = "x", conversation: str | None = "c", expires: float = FAR) -> Approval:
    """Something that waits."""
    return Approval(identity, conversation, "waiting", ({"call_id": "a"},), "{}", time.time(), expires)


def test_the_file_is_its_owners_only(archive: Archive, path: Path) -> None:
    assert archive.load("c") is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_messages_are_kept_in_order_and_found_by_the_next(archive: Archive, path: Path) -> None:
    archive.begin("c", [USER], ["send@1"])
    archive.say("c", [ASKING])
    with Archive.open(path) as other:
        found = other.load("c")
    assert found is not None
    assert (found.messages, found.status, found.approved) == ((USER, ASKING), "running", ("send@1",))


def test_calls_are_known_until_they_are_answered(archive: Archive) -> None:
    archive.begin("c", [USER], [])
    archive.say("c", [ASKING])
    archive.began("c", "a")
    archive.began("c", "a")
    archive.began("c", "b")
    archive.ended("c", "a", "1")
    found = archive.load("c")
    assert found is not None and found.attempts == {"a": "1", "b": None}
    archive.say("c", [USER])
    found = archive.load("c")
    assert found is not None and found.attempts == {}


def test_a_turn_that_ends_leaves_what_was_approved(archive: Archive) -> None:
    archive.begin("c", [USER], [])
    archive.leave("c", ["send@1"])
    found = archive.load("c")
    assert found is not None and (found.status, found.approved) == ("idle", ("send@1",))


def test_what_waits_is_kept_with_the_conversation(archive: Archive) -> None:
    archive.hold(approval(), [USER, ASKING], {"b": "2"})
    found = archive.load("c")
    assert found is not None
    assert (found.status, found.messages, found.attempts) == ("waiting", (USER, ASKING), {"b": "2"})
    assert archive.approval("x") == archive.waiting(time.time())[0]
    assert archive.approval("y") is None


def test_it_is_claimed_once(archive: Archive) -> None:
    archive.hold(approval(), [USER], {})
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: archive.settle("x", "decided", time.time()), range(16)))
    assert claims.count(True) == 1
    assert archive.waiting(time.time()) == []


def test_what_has_expired_cannot_be_claimed(archive: Archive) -> None:
    archive.hold(approval(expires=5.0), [USER], {})
    assert archive.waiting(5.0) == []
    assert not archive.settle("x", "decided", 5.0)
    assert archive.settle("x", "decided", 4.0)


def test_a_conversation_that_goes_on_withdraws_what_waits_in_it(archive: Archive) -> None:
    archive.hold(approval("x", "c"), [USER], {})
    archive.hold(approval("y", "d"), [USER], {})
    archive.withdraw("c")
    assert [one.id for one in archive.waiting(time.time())] == ["y"]
    found = archive.approval("x")
    assert found is not None and found.status == "withdrawn"


def test_what_is_deleted_is_gone_with_all_that_waits(archive: Archive) -> None:
    archive.hold(approval(), [USER], {"b": "2"})
    assert archive.delete("c") and not archive.delete("c")
    assert archive.load("c") is None and archive.approval("x") is None
    archive.begin("c", [USER], [])
    found = archive.load("c")
    assert found is not None and (found.messages, found.attempts) == ((USER,), {})


def test_the_old_are_forgotten_and_no_others(archive: Archive) -> None:
    archive.begin("old", [USER], [])
    archive.hold(approval("tools", None, expires=5.0), [], {})
    moment = time.time()
    archive.begin("new", [USER], [])
    archive.forget(moment)
    assert [one.id for one in archive.listed(10)] == ["new"]
    assert archive.approval("tools") is None


def test_conversations_are_listed_by_their_last_turn(archive: Archive) -> None:
    for identity in "abc":
        archive.begin(identity, [USER, USER], [])
    archive.leave("a", [])
    assert [(one.id, one.messages, one.status) for one in archive.listed(2)] == [("a", 2, "idle"), ("c", 2, "running")]
