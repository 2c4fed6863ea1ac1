"""What tests share that do harm to a home; the homes are in `homes_fixtures`."""

from __future__ import annotations

from pathlib import Path

from kernels.home import Home
from server.callers import Caller
from server.running import Running
from server.service import Service
from server.settings import Settings
from tests.conftest import shown_beside


def settings_of(folder: Path, cache: Path, *, fork: bool = False) -> Settings:
    """A service that lives in one folder. Without forks it has no kernel until one is asked for."""
    return Settings(
        home=folder / "home",
        functions_dir=folder / "aigbb_functions",
        kernelspecs_dir=folder / "kernels",
        cache=cache,
        pool_size=0,
        fork=fork,
        mounts=(f"{shown_beside(folder)}:rw",),
    )


def left_over(home: Path) -> list[str]:
    """What was begun and never finished."""
    return [p.name for kind in ("generations", "snapshots") for p in (home / kind).glob(".*")]


def home_of(folder: Path, cache: Path) -> Home:
    """Its home."""
    return Home.create(folder / "home", cache)


async def execute(service: Service, code: str) -> str | None:
    """The text of the last expression."""
    with service.executions.recorded(Running(Caller())) as running:
        execution = await service.execute(code, running)
    assert execution.done.status == "ok", execution
    return execution.result
