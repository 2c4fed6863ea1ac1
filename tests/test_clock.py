"""The machine's date jumps, and nothing ends or lasts because of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kernels.clock import SteadyClock
from kernels.kernel import Launch
from kernels.limits import PoolLimits
from kernels.pool import Pool
from server.archive import Approval, Archive
from server.idempotency import Replays
from server.registry import Kept, Registry

pytestmark = [pytest.mark.anyio, pytest.mark.nightly]

YEAR = 365 * 86400.0
USER: dict[str, Any] = {"role": "user", "content": "x"}


@pytest.fixture(params=[YEAR, -YEAR], ids=["forwards", "back"])
def jump(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """Set the machine's date to another year, once the test asks for it. Returns by how many seconds."""
    seconds: float = request.param
    real = time.time

    def set_date() -> float:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)
        return seconds

    return set_date


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "registry.sqlite3"


@pytest.fixture
def archive(path: Path) -> Iterator[Archive]:
    """An empty one."""
    with Archive.open(path) as opened:
        yield opened


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    """An empty one."""
    with Registry.open(path) as opened:
        yield opened


def test_the_clock_counts_on_and_shows_the_date(jump: Callable[[], float]) -> None:
    clock = SteadyClock()
    before = clock.now()
    seconds = jump()
    assert 0 <= clock.now() - before < 100
    assert abs(clock.as_date(before).timestamp() - (before + seconds)) < 100


async def test_sessions_outlive_the_jump(jump: Callable[[], float], launch: Launch) -> None:
    async with Pool(lambda: launch, PoolLimits(spares=0, fork=False, idle_seconds=1000)) as pool:
        first = await pool.open_session("first")
        seconds = jump()
        await pool.open_session("second")  # has the pool look who has expired
        shown = {info.id: info for info in pool.sessions()}
        assert list(shown) == ["first", "second"]
        moved = (shown["first"].last_used - first.last_used).total_seconds()
        assert abs(moved - seconds) < 100
        assert shown["second"].expires > shown["second"].created


def hold(archive: Archive) -> None:
    """A conversation in which something waits for 1000 s."""
    now = archive.clock.now()
    archive.hold(Approval("a", "c", "waiting", (), "{}", now, now + 1000), [USER], {})


def test_approvals_and_conversations_outlive_the_jump(jump: Callable[[], float], archive: Archive) -> None:
    hold(archive)
    jump()
    now = archive.clock.now()
    archive.forget(now - 1000)
    assert archive.load("c") is not None
    assert [one.id for one in archive.waiting(now)] == ["a"]
    assert archive.settle("a", "decided", now)
    archive.leave("c", [])
    (summary,) = archive.listed(9)
    assert 0 <= summary.updated - summary.created < 100


async def test_an_answer_is_given_again_after_the_jump(jump: Callable[[], float], registry: Registry) -> None:
    async def work() -> tuple[int, str]:
        return 200, "once"

    replays = Replays(registry)
    await replays.once("key", b"", work)
    jump()
    assert await replays.once("key", b"", work) == (200, "once", True)


def test_a_start_with_the_right_date_brings_back_what_was_kept_in_the_future(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + YEAR)
    with Archive.open(path) as archive:
        hold(archive)
    with Registry.open(path) as registry:
        registry.keep("key", Kept("", 200, ""), time.time(), 0)
    monkeypatch.setattr(time, "time", real)
    with Archive.open(path) as archive, Registry.open(path) as registry:
        archive.correct(1000)
        registry.correct(archive.clock.now())
        now = archive.clock.now()
        assert archive.waiting(now + 1000) == []
        assert len(archive.waiting(now)) == 1
        assert registry.kept("key", now + 1) is None
        archive.forget(now + 1)
        assert archive.load("c") is None
