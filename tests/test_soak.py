"""A short soak: nothing is lost, wrong or left. `make soak` is the long one."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from benchmarks.census import Census, Place
from benchmarks.soak import KEEP, run
from tests.conftest import running_server

AT_REST = Census(
    processes=3,
    strays=0,
    descriptors=40,
    sockets=9,
    work=2,
    generations=1,
    snapshots=2,
    temporary=1,
    memory=100,
    parents=200,
)


@pytest.mark.nightly
@pytest.mark.timeout(400)
def test_nothing_is_lost_wrong_or_left(tmp_path: Path, cache: Path) -> None:
    own = tmp_path / "t"
    own.mkdir()
    with running_server(
        tmp_path, cache, {"TMPDIR": str(own)}, shipped=True, pool_max=2, keep_generations=KEEP
    ) as server:
        place = Place(psutil.Process(server.process.pid), server.home, own)
        outcome = run(place, server.url, operations=240, seed=3, say=print)
    assert outcome.faults == []
    assert outcome.tally.asked == 240


@pytest.mark.parametrize(
    ("name", "value"),
    [("processes", 4), ("strays", 1), ("descriptors", 80), ("sockets", 14), ("work", 3), ("generations", 4),
     ("snapshots", 50), ("temporary", 2), ("memory", 900.0)],
)  # fmt: skip
def test_what_is_left_is_told(name: str, value: float) -> None:
    after = Census(**{**vars(AT_REST), name: value})
    assert len(list(after.leaks(AT_REST, KEEP))) == 1


def test_the_same_again_is_no_leak() -> None:
    assert list(AT_REST.leaks(AT_REST, KEEP)) == []
