"""A registration that is killed leaves what was before it, or all that it was to be; the start clears the rest."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from server.callers import Caller
from server.functions import Draft
from server.registrar import Wanted
from server.running import Running
from server.service import Service
from server.settings import Settings

pytestmark = pytest.mark.anyio

BEFORE_THE_COMMIT = [
    "Resolving",
    "Resolved",
    "Creating the environment",
    "Fetching",
    "Installed",
    "rename 2",  # the built generation, and the written snapshot
    "Importing",
    "Committing",
]
AFTER_THE_COMMIT = [
    "rename aigbb_functions",  # the alias kernelspec
    "kernels see",
    "Jupyter sees",
    "rename crashed.py",
    "rename extra-requirements.txt",
    "the functions' folder",
]


def settings_of(folder: Path, cache: Path) -> Settings:
    """A service that lives in one folder."""
    return Settings(
        home=folder / "home",
        functions_dir=folder / "aigbb_functions",
        kernelspecs_dir=folder / "kernels",
        cache=cache,
        pool_size=0,
    )


async def execute(service: Service, code: str) -> str | None:
    """The text of the last expression."""

    with service.executions.recorded(Running(Caller())) as running:
        execution = await service.execute(code, running)
    assert execution.done.status == "ok", execution
    return execution.result


@pytest.fixture(scope="session")
def template(shared: Path, cache: Path) -> Path:
    """A folder in which a service ran and registered one function."""
    folder = shared / "template"

    async def prepare() -> None:
        async with Service.open(settings_of(folder, cache)) as service:
            draft = Draft("def steady(n: int) -> int:\n    return n * 2\n")
            await service.register([Wanted(draft)], Caller())

    with FileLock(shared / "template.lock"):
        if not (folder / "done").exists():
            asyncio.run(prepare())
            (folder / "done").touch()
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """A copy of it; the environments' files are linked, as they never change."""
    copy = tmp_path / "service"
    shutil.copytree(template, copy, copy_function=os.link, symlinks=True)
    (copy / "home" / "service.lock").unlink()  # a link is the same lock
    for name in ("registry.sqlite3", "snapshot"):
        for path in (copy / "home").rglob(name):
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)
    return copy


def kill_at(point: str, folder: Path, cache: Path) -> None:
    """Register in a child that dies at the point; its kernels die with it."""
    script = Path(__file__).with_name("killed_registration.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    child = subprocess.run(
        [sys.executable, str(script), str(folder), str(cache), point],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == -signal.SIGKILL, f"{point} was never reached: {child.stderr}"


@asynccontextmanager
async def restarted(folder: Path, cache: Path) -> AsyncIterator[Service]:
    """The service after a start; whatever the crash left must not show."""
    async with Service.open(settings_of(folder, cache)) as service:
        assert await execute(service, "steady(21)") == "42"
        hidden = [p.name for p in (folder / "home").glob("*/.*")]
        assert hidden == []
        numbers = {info.number for info in await service.generations()}
        assert {int(p.name) for p in (folder / "home" / "generations").iterdir()} <= numbers
        yield service


@pytest.mark.parametrize("point", BEFORE_THE_COMMIT)
async def test_killed_before_the_commit_nothing_has_changed(point: str, folder: Path, cache: Path) -> None:
    kill_at(point, folder, cache)
    async with restarted(folder, cache) as service:
        assert list(service.signatures()) == ["steady"]
        assert service.health().generation == 1
        assert await service.history("crashed", 5, None) == []
        assert not (folder / "aigbb_functions" / "crashed.py").exists()
        assert "iniconfig" not in (folder / "extra-requirements.txt").read_text()


@pytest.mark.parametrize("point", AFTER_THE_COMMIT)
async def test_killed_after_the_commit_everything_is_there(point: str, folder: Path, cache: Path) -> None:
    kill_at(point, folder, cache)
    async with restarted(folder, cache) as service:
        assert list(service.signatures()) == ["crashed", "steady"]
        assert await execute(service, "import os; (crashed(1), os.environ['CRASH_KEY'])") == "(2, 'hidden')"
        lines = await service.history("crashed", 5, None)
        assert [(line.action, line.version, line.outcome) for line in lines] == [("register", 1, "ok")]
        assert (folder / "aigbb_functions" / "crashed.py").exists()
        assert "iniconfig  # used by: crashed" in (folder / "extra-requirements.txt").read_text()


async def test_the_same_registration_succeeds_after_a_crash(folder: Path, cache: Path) -> None:
    kill_at("Installed", folder, cache)
    async with restarted(folder, cache) as service:
        draft = Draft("import iniconfig\n\ndef crashed() -> int:\n    return 1\n", None, ["iniconfig"])
        (done,) = await service.register([Wanted(draft)], Caller())
        assert done.serving.generation.number == 2
        assert await execute(service, "crashed()") == "1"


async def test_no_kernel_outlives_a_killed_service(folder: Path, cache: Path) -> None:
    kill_at("Committing", folder, cache)
    marker = str(folder / "home")
    left = [p for p in psutil.process_iter() if any(marker in part for part in _command(p))]
    _, alive = psutil.wait_procs(left, timeout=10)
    assert alive == []


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


async def test_a_lost_environment_is_built_again_from_its_lock(folder: Path, cache: Path) -> None:
    shutil.rmtree(folder / "home" / "generations" / "1" / "venv")
    async with restarted(folder, cache) as service:
        assert service.health().generation == 1


async def test_a_broken_environment_is_built_again_from_its_lock(folder: Path, cache: Path) -> None:
    site = next((folder / "home" / "generations" / "1" / "venv" / "lib").glob("python3*/site-packages"))
    shutil.rmtree(site / "ipykernel")
    async with restarted(folder, cache) as service:
        assert service.health().generation == 1


async def test_lost_snapshots_and_kernelspecs_come_back(folder: Path, cache: Path) -> None:
    shutil.rmtree(folder / "home" / "snapshots")
    shutil.rmtree(folder / "kernels")
    async with restarted(folder, cache):
        names = {p.name for p in (folder / "kernels").iterdir()}
    assert names == {"aigbb_functions", "aigbb_functions_kernel_1"}


async def test_without_its_home_a_service_is_rebuilt_from_the_functions_folder(folder: Path, cache: Path) -> None:
    shutil.rmtree(folder / "home")
    async with restarted(folder, cache) as service:
        assert list(service.signatures()) == ["steady"]
