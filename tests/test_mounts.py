"""AIGBB_MOUNTS: what it may name, and what it may not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kernels.errors import InvalidMount
from kernels.mounts import Exposure, Mount
from server.settings import Settings
from tests.conftest import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the home of a service, data, and links to both."""
    for name in ("data/rows", "data/service/.aigbb", "out", "functions", "specs"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data" / "service")
    return tmp_path


def exposure(folder: Path, mounts: str) -> Exposure:
    """What a service whose home is in `data` shows."""
    settings = Settings(
        home=folder / "data/service/.aigbb",
        cache=folder / "cache",
        functions_dir=folder / "functions",
        kernelspecs_dir=folder / "specs",
        mounts=mounts,  # type: ignore[arg-type]
    )
    return settings.exposure()


def test_paths_are_read_only_unless_they_say_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("AIGBB_MOUNTS", "~/data, ~/out:rw ,/srv/a:b")
    expected = (Mount(Path("/home/ada/data")), Mount(Path("/home/ada/out"), writable=True), Mount(Path("/srv/a:b")))
    assert Settings().exposure().mounts == expected


@pytest.mark.parametrize("mounts", ["{0}/out:rw", "{0}/data/rows:rw", "{0}/data", "{0}/data,{0}/data/rows:rw", "/opt"])
def test_what_holds_nothing_of_the_service_may_be_mounted(folder: Path, mounts: str) -> None:
    exposure(folder, mounts.format(folder)).check()


@pytest.mark.parametrize(
    ("mounts", "reason"),
    [
        ("{0}/nowhere", "does not exist"),
        ("out:rw", "relative"),
        ("/:rw", "overlaps with /"),
        ("/", "overlaps with /"),
        ("/proc", "overlaps with /proc"),
        ("/run", "overlaps with /run"),
        ("/usr/share:rw", "overlaps with /usr"),
        ("/etc:rw", "overlaps with /etc"),
        ("{0}:rw", "may not write"),
        ("{0}/data:rw", "may not write"),
        ("{0}/link:rw", "may not write"),
        ("{0}/data/service/.aigbb", "is hidden"),
        ("{0}/link/.aigbb", "is hidden"),
        ("{0}/functions:rw", "may not write"),
        ("{0}/specs:rw", "may not write"),
        (f"{ROOT}:rw", "may not write"),
        (f"{ROOT}/kernels:rw", "may not write"),
        (f"{sys.prefix}/lib:rw", "may not write"),
        (f"{sys.base_prefix}/lib:rw", "may not write"),
        ("{0}/out:rw,{0}/out/inner", "lies in"),
    ],
)
def test_what_would_open_the_service_is_refused(folder: Path, mounts: str, reason: str) -> None:
    (folder / "out" / "inner").mkdir()
    with pytest.raises(InvalidMount) as refused:
        exposure(folder, mounts.format(folder)).check()
    assert reason in refused.value.detail
