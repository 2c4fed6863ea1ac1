"""Homes in which a service ran and registered one function, for tests that then do harm to them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from filelock import FileLock

from server.callers import Caller
from server.functions import Draft
from server.registrar import Wanted
from server.service import Service
from tests.homes import settings_of
from tests.lean import LEAN
from tests.seeds import copied


@pytest.fixture(scope="session")
def template(shared: Path, cache: Path) -> Path:
    """A folder in which a service ran and registered one function."""
    folder = shared / "template"

    async def prepare() -> None:
        async with Service.open(settings_of(folder, cache)) as service:
            draft = Draft("def steady(n: int) -> int:\n    return n * 2\n")
            await service.register([Wanted(draft)], Caller())

    with FileLock(shared / "template.lock"), pytest.MonkeyPatch.context() as patch:
        if not (folder / "done").exists():
            patch.setattr("kernels.packages.DEFAULT_REQUIREMENTS", LEAN)
            asyncio.run(prepare())
            (folder / "done").touch()
    return folder


@pytest.fixture
def lean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the environments of a test's own services have few packages."""
    monkeypatch.setattr("kernels.packages.DEFAULT_REQUIREMENTS", LEAN)


@pytest.fixture
def folder(template: Path, tmp_path: Path, lean: None) -> Path:
    """A copy of it, for lean services; the environments' files are linked, as they never change."""
    return copied(template, tmp_path / "service")
