"""A service that is killed leaves what was before, or all that was to be; the next start clears the rest.

Each child is killed at one point, and the next one begins with a start on what the one before it left: it sees that all
is as it should be before it goes on. `EVERY_STEP=1` takes all points, else some are left out where each costs a start.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from server.callers import Caller
from server.functions import Draft
from server.registrar import Wanted
from server.service import Service
from tests import processes
from tests.homes import execute, left_over, settings_of

pytestmark = pytest.mark.anyio
pytest_plugins = ["tests.homes_fixtures"]

EVERY = bool(os.environ.get("EVERY_STEP"))

# A registration that needs another environment, a name for which is {name}, and what is renamed last.
BEFORE_THE_COMMIT = [
    "Resolving",
    "Resolved",
    "Creating the environment",
    "Fetching",
    "Installed",
    "rename {generation}",
    "rename {snapshot}",
    "Importing",
    "Committing",
]
AFTER_THE_COMMIT = [
    "rename aigbb_functions",  # the alias kernelspec
    "kernels see",
    "Jupyter sees",
    "rename {name}.py",
    "rename extra-requirements.txt",
    "the functions' folder",
]
ACTIVATED_BEFORE = ["rename {snapshot}", "Importing", "Committing"]
ACTIVATED_AFTER = ["kernels see", "Jupyter sees", "rename steady.py", "the functions' folder"]
STARTED_BEFORE = [
    "Resolving",
    "Creating the environment",
    "Installed",
    "rename {generation}",
    "Importing",
    "Committing",
]
# What a person wrote into extra-requirements.txt stays as it is: a start renames nothing to it.
STARTED_AFTER = ["kernels see", "the functions' folder"]
# What served before is published before anything is taken over.
PUBLISHED_FIRST = ["rename aigbb_functions"]

SOURCE = "import os\n\ndef {name}(n: int) -> tuple:\n    return n + 1, os.environ['CRASH_KEY']\n"
# Small ones that nothing else asks for: with each, the environment is another one.
PACKAGES = ["iniconfig", "toml", "appdirs"]
# A file of a default package that kernels do without.
UNUSED = "pydantic/mypy.py"


def sampled(points: list[str], *kept: str) -> list[str]:
    """All points, or where each costs a start, one for each stage."""
    return points if EVERY else [point for point in points if point in kept]


def chained(points: list[str]) -> list[list[str]]:
    """Three of them on one home, one after the other."""
    return [points[start : start + 3] for start in range(0, len(points), 3)]


REGISTERED_BEFORE = sampled(BEFORE_THE_COMMIT, "rename {generation}", "Importing", "Committing")
REGISTERED_AFTER = sampled(AFTER_THE_COMMIT, "Jupyter sees", "rename extra-requirements.txt")


@dataclass
class Life:
    """A home over many services. serves: versions by name, as the next one must find it."""

    folder: Path
    cache: Path
    serves: dict[str, int] = field(default_factory=lambda: {"steady": 1})

    def kill(self, do: str, at: str, **plan: Any) -> None:
        """Start a service that must find all as it should be, and dies at the point; its kernels die with it."""
        script = Path(__file__).with_name("killed_service.py")
        plan = {"do": do, "at": at, "serves": self.serves, **plan}
        child = subprocess.run(
            [sys.executable, str(script), str(self.folder), str(self.cache), json.dumps(plan)],
            env={**os.environ, "PYTHONPATH": str(script.parents[1])},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert child.returncode == -signal.SIGKILL, f"{at} was never reached: {child.stderr}"
        assert processes.left_of(self.folder) == []

    def register(self, name: str, at: str, package: str) -> None:
        """Kill a registration that needs another environment."""
        source, env = SOURCE.format(name=name), {"CRASH_KEY": "hidden"}
        self.kill("register", at.format(name=name, **self.next()), source=source, packages=[package], env=env)

    def next(self) -> dict[str, int]:
        """The numbers that the next generation and the next snapshot will have."""
        home = self.folder / "home"
        there = {kind: [p.name for p in home.glob(f"{kind}s/*")] for kind in ("generation", "snapshot")}
        return {kind: max([int(n) for n in names if n.isdecimal()], default=0) + 1 for kind, names in there.items()}

    @asynccontextmanager
    async def restarted(self) -> AsyncIterator[Service]:
        """The service after a start; whatever the crash left must not show."""
        async with Service.open(settings_of(self.folder, self.cache)) as service:
            assert {v.function.name: v.number for v in service.catalog(Caller()).versions} == self.serves
            assert left_over(self.folder / "home") == []
            numbers = {info.number for info in await service.generations()}
            assert {int(p.name) for p in (self.folder / "home" / "generations").iterdir()} <= numbers
            yield service


@pytest.fixture
def life(folder: Path, cache: Path) -> Life:
    """One that begins with a function."""
    return Life(folder, cache)


# -- a registration


@pytest.mark.parametrize("points", chained(REGISTERED_BEFORE), ids="-".join)
async def test_a_registration_killed_before_the_commit_has_changed_nothing(points: list[str], life: Life) -> None:
    for point in points:
        life.register("crashed", point, "iniconfig")
    async with life.restarted() as service:
        assert await execute(service, "steady(21)") == "42"
        assert service.health().generation == 1
        assert await service.history("crashed", 5, None) == []
        assert not (life.folder / "aigbb_functions" / "crashed.py").exists()
        assert "iniconfig" not in (life.folder / "extra-requirements.txt").read_text()
        draft = Draft(SOURCE.format(name="crashed"), None, ["iniconfig"], {"CRASH_KEY": "hidden"})
        (done,) = await service.register([Wanted(draft)], Caller())  # the same one, not cut off
        assert done.serving.generation.number == 2
        assert await execute(service, "crashed(1)") == "(2, 'hidden')"


@pytest.mark.parametrize("points", chained(REGISTERED_AFTER), ids="-".join)
async def test_a_registration_killed_after_the_commit_is_there(points: list[str], life: Life) -> None:
    names = [f"crashed{number}" for number in range(len(points))]
    for name, point, package in zip(names, points, PACKAGES, strict=False):
        life.register(name, point, package)
        life.serves[name] = 1
    async with life.restarted() as service:
        code = f"steady(21), {names[0]}(1), {names[-1]}(1)"
        assert await execute(service, code) == "(42, (2, 'hidden'), (2, 'hidden'))"
        for name, package in zip(names, PACKAGES, strict=False):
            lines = await service.history(name, 5, None)
            assert [(line.action, line.version, line.outcome) for line in lines] == [("register", 1, "ok")]
            assert (life.folder / "aigbb_functions" / f"{name}.py").exists()
            assert f"{package}  # used by: {name}" in (life.folder / "extra-requirements.txt").read_text()


# -- an activation


async def test_a_killed_activation_is_there_or_it_is_not(life: Life) -> None:
    async with life.restarted() as service:
        await service.register([Wanted(Draft("def steady(n: int) -> int:\n    return n * 3\n"))], Caller())
    life.serves["steady"] = 2
    for point in sampled(ACTIVATED_BEFORE, "Committing"):
        life.kill("activate", point.format(**life.next()), name="steady", version=1)
    version = 2
    for point in sampled(ACTIVATED_AFTER, "kernels see", "rename steady.py"):
        version = 3 - version  # there and back again
        life.kill("activate", point, name="steady", version=version)
        life.serves["steady"] = version
    async with life.restarted() as service:
        assert await execute(service, "steady(21)") == str(21 * (version + 1))
        assert f"n * {version + 1}" in (life.folder / "aigbb_functions" / "steady.py").read_text()
        done = [line.version for line in await service.history("steady", 99, None) if line.action == "activate"]
        assert done == [version, 3 - version] * (len(done) // 2)


# -- a start


async def test_a_first_start_that_is_killed_is_begun_again(tmp_path: Path, cache: Path, lean: None) -> None:
    life = Life(tmp_path, cache)
    functions = tmp_path / "aigbb_functions"
    functions.mkdir()
    (functions / "steady.py").write_text("import iniconfig\n\ndef steady(n: int) -> int:\n    return n * 2\n")
    (tmp_path / "extra-requirements.txt").write_text("iniconfig\n")
    for point in sampled(STARTED_BEFORE, "rename {generation}"):
        life.kill("start", point.format(generation=1))
        assert life.next()["generation"] <= 2
    life.kill("start", "kernels see")
    async with life.restarted() as service:
        assert await execute(service, "steady(21)") == "42"
        lines = await service.history("steady", 99, None)
        assert [(line.action, line.version, line.outcome) for line in lines] == [("sync", 1, "ok")]
        assert service.health().generation == 1


async def test_a_later_start_that_is_killed_has_taken_over_what_was_edited_or_has_not(life: Life) -> None:
    for number, point in enumerate([*sampled(PUBLISHED_FIRST), *sampled(STARTED_BEFORE, "Committing")]):
        edit(life.folder, number + 2, PACKAGES[0])
        life.kill("start", point.format(generation=2))
    for number, point in enumerate(sampled(STARTED_AFTER, "the functions' folder")):
        edit(life.folder, 10 + number, PACKAGES[number % len(PACKAGES)])
        life.kill("start", point, times=2)  # what served before is published first
        life.serves["steady"] += 1  # and never twice
    async with life.restarted() as service:
        assert await execute(service, "steady(1)") == str(10 + number)
        lines = await service.history("steady", 99, None)
        assert [line.version for line in lines if line.action == "sync"] == list(range(life.serves["steady"], 1, -1))


def edit(folder: Path, factor: int, package: str) -> None:
    """What a person does while no service runs."""
    source = f"import os\n\ndef steady(n: int) -> int:\n    return n * {factor}\n"
    (folder / "aigbb_functions" / "steady.py").write_text(source)
    with (folder / "extra-requirements.txt").open("a") as file:
        file.write(f"{package}\n")


# -- what was lost


async def test_a_lost_environment_is_built_again_from_its_lock(life: Life) -> None:
    shutil.rmtree(life.folder / "home" / "generations" / "1" / "venv")
    async with life.restarted() as service:
        assert service.health().generation == 1
        assert await execute(service, "steady(21)") == "42"


@pytest.mark.parametrize("harm", [pytest.param("deleted", marks=pytest.mark.nightly), "cut off", "another"])
async def test_a_broken_environment_is_built_again_from_its_lock(harm: str, life: Life) -> None:
    generation = life.folder / "home" / "generations" / "1"
    site = next((generation / "venv" / "lib").glob("python3*/site-packages"))
    if harm == "another":
        (generation / "lock.txt").unlink()
        (generation / "lock.txt").write_text("six==1\n")
    else:
        (site / UNUSED).unlink()
        if harm == "cut off":
            (site / UNUSED).write_text("version = 1\n")
    async with life.restarted() as service:
        assert service.health().generation == 1
        assert "plugin" in (site / UNUSED).read_text()
        assert (generation / "lock.txt").read_text() != "six==1\n"


async def test_a_sound_environment_is_not_built_again(life: Life) -> None:
    folder = life.folder / "home" / "generations" / "1"
    before = folder.stat().st_ino
    async with life.restarted():
        assert folder.stat().st_ino == before


async def test_lost_snapshots_and_kernelspecs_come_back(life: Life) -> None:
    shutil.rmtree(life.folder / "home" / "snapshots")
    shutil.rmtree(life.folder / "kernels")
    async with life.restarted():
        names = {p.name for p in (life.folder / "kernels").iterdir()}
    assert names == {"aigbb_functions", "aigbb_functions_kernel_1"}


async def test_without_its_home_a_service_is_rebuilt_from_the_functions_folder(life: Life) -> None:
    shutil.rmtree(life.folder / "home")
    async with life.restarted() as service:
        assert await execute(service, "steady(21)") == "42"
