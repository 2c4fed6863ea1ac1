"""Homes in which a service ran and registered one function, for tests that then do harm to them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.callers import Caller
from server.functions import Draft
from server.registrar import Wanted
from server.service import Service
from tests.artifacts import ArtifactCache
from tests.homes import settings_of
from tests.lean import LEAN
from tests.seeds import copied


@pytest.fixture(scope="session")
def template(artifacts: ArtifactCache, cache: Path) -> Path:
    """A folder in which a service ran and registered one function."""

    async def prepare(folder: Path) -> None:
        async with Service.open(settings_of(folder, cache)) as service:
            draft = Draft("def steady(n: int) -> int:\n    return n * 2\n")
            await service.register([Wanted(draft)], Caller())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kernels.packages.DEFAULT_REQUIREMENTS", LEAN)
        return artifacts.made("template", lambda folder: asyncio.run(prepare(folder)))


@pytest.fixture
def lean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the environments of a test's own services have few packages."""
    monkeypatch.setattr("kernels.packages.DEFAULT_REQUIREMENTS", LEAN)


@pytest.fixture
def folder(template: Path, tmp_path: Path, lean: None) -> Path:
    """A copy of it, for lean services; the environments' files are linked, as they never change."""
    return copied(template, tmp_path / "service")
