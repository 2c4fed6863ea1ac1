"""Generations: whole or not there, and deleted only when nobody uses them."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kernels import sandbox
from kernels.environments import Environments, Generation
from kernels.errors import AigbbError, BuildFailed, IndexUnavailable, InsufficientStorage, InvalidPackage
from kernels.home import Home
from kernels.packages import Lock
from kernels.probing import Probe
from kernels.progress import Step, silent
from server.snapshots import write_snapshot
from tests.index import Index, serve_index

PYC = f"cpython-{sys.version_info[0]}{sys.version_info[1]}.pyc"
LIBRARY = Path("venv", "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """A package with a console script in two versions, and one that ships bytecode."""
    with serve_index(tmp_path_factory.mktemp("index") / "files") as served:
        served.add_wheel("alpha", "1.0", script="run-alpha")
        served.add_wheel("alpha", "2.0", script="run-alpha")
        served.add_wheel("beta", "1.0")
        served.add_wheel("compiled", "1.0", files={f"compiled/__pycache__/__init__.{PYC}": "not bytecode"})
        yield served


@pytest.fixture
def environments(index: Index, tmp_path: Path) -> Environments:
    """A home of its own."""
    home = Home.create(tmp_path / "home")
    return Environments(home, index.uv(Path(sys.executable), home.cache / "uv"))


async def build(
    environments: Environments, number: int, *requirements: str, after: Generation | None = None
) -> Generation:
    """Resolve and build."""
    resolved = await environments.uv.resolve({r: ["f"] for r in requirements}, None, silent)
    return await environments.build(number, resolved.lock, after, silent)


def ask(generation: Generation, code: str) -> str:
    """What code prints in a generation's Python."""
    argv = [str(generation.python), "-I", "-c", code]
    ran = subprocess.run(argv, env={}, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def folders(environments: Environments) -> list[str]:
    """What lies beside the generations."""
    return sorted(path.name for path in environments.home.generations.iterdir())


def make(environments: Environments, *numbers: int) -> None:
    """Folders that look like generations."""
    for number in numbers:
        environments.at(number).python.parent.mkdir(parents=True)


# -- building


@pytest.mark.anyio
async def test_a_generation_is_a_whole_environment_under_its_number(environments: Environments) -> None:
    generation = await build(environments, 3, "alpha", "beta")
    assert folders(environments) == ["3"]
    assert generation.kernel_name == "aigbb_functions_kernel_3"
    assert ask(generation, "import alpha, beta; print(alpha.version, beta.version)") == "2.0 1.0"
    assert (generation.folder / "lock.txt").read_text() == generation.lock.text
    facts = json.loads((generation.folder / "generation.json").read_text())
    assert facts["digest"] == generation.lock.digest
    assert generation.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.anyio
async def test_console_scripts_work_where_the_environment_ends_up(environments: Environments) -> None:
    generation = await build(environments, 1, "alpha")
    script = generation.python.parent / "run-alpha"
    ran = subprocess.run([script], capture_output=True, text=True, check=True)
    assert ran.stdout == f"ran {generation.folder / 'venv'}\n"


@pytest.mark.anyio
async def test_the_environment_has_nothing_of_the_service(environments: Environments) -> None:
    generation = await build(environments, 1, "beta")
    found = ask(generation, "import importlib.util as u; print([u.find_spec(n) for n in ('fastapi', 'server')])")
    assert found == "[None, None]"


@pytest.mark.anyio
async def test_a_build_tells_its_phases(environments: Environments) -> None:
    steps: list[Step] = []
    resolved = await environments.uv.resolve({"alpha": ["f"], "beta": ["f"]}, None, silent)
    await environments.build(1, resolved.lock, None, steps.append)
    assert [step.message for step in steps] == [
        "Creating the environment",
        "Fetching what is not cached",
        "Downloaded 2 packages",
        "Installed 2 packages",
    ]


@pytest.mark.anyio
async def test_what_a_killed_build_left_is_in_nobodys_way(environments: Environments) -> None:
    make(environments, 2)
    (environments.home.generations / ".building-2" / "venv").mkdir(parents=True)
    generation = await build(environments, 2, "beta")
    assert folders(environments) == ["2"]
    assert ask(generation, "import beta; print(beta.version)") == "1.0"


WRONG_HASH = f"beta==1.0 --hash=sha256:{'0' * 64}\n"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "text", [WRONG_HASH, "beta==1.0\n", "lost==1.0 " + WRONG_HASH.split()[1] + "\n", "-r nowhere\n"]
)
async def test_a_failing_build_leaves_nothing(environments: Environments, text: str) -> None:
    with pytest.raises((BuildFailed, InvalidPackage)) as caught:
        await environments.build(1, Lock(text), None, silent)
    extra = caught.value.extra
    assert extra["explanation" if isinstance(caught.value, InvalidPackage) else "log"]
    assert folders(environments) == []


@pytest.mark.anyio
async def test_a_download_that_fails_leaves_nothing(environments: Environments, tmp_path: Path) -> None:
    lock = (await environments.uv.resolve({"beta": ["f"]}, None, silent)).lock
    env = {**environments.uv.env, "UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple"}
    cut_off = replace(environments, uv=replace(environments.uv, env=env, cache=tmp_path / "empty"))
    with pytest.raises(IndexUnavailable):
        await cut_off.build(1, lock, None, silent)
    assert folders(environments) == []


@pytest.mark.anyio
async def test_a_build_that_takes_too_long_leaves_nothing(environments: Environments, tmp_path: Path) -> None:
    slow = replace(environments, uv=replace(environments.uv, program=program(tmp_path), build_timeout=0.3))
    with pytest.raises(BuildFailed):
        await slow.build(1, Lock(""), None, silent)
    assert folders(environments) == []


@pytest.mark.anyio
async def test_an_interrupted_build_leaves_nothing(environments: Environments, tmp_path: Path) -> None:
    started = asyncio.Event()
    slow = replace(environments, uv=replace(environments.uv, program=program(tmp_path)))
    task = asyncio.create_task(slow.build(1, Lock(""), None, lambda _: started.set()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert folders(environments) == []


def program(folder: Path) -> str:
    """In place of uv: never ends by itself."""
    path = folder / "uv"
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.anyio
async def test_a_full_disk_is_called_that(environments: Environments, tmp_path: Path) -> None:
    path = Path(program(tmp_path))
    path.write_text("#!/bin/sh\necho 'No space left on device (os error 28)' >&2\nexit 2\n")
    full = replace(environments, uv=replace(environments.uv, program=str(path)))
    with pytest.raises(InsufficientStorage):
        await full.build(1, Lock(""), None, silent)


@pytest.mark.anyio
async def test_a_folder_that_cannot_be_made_is_an_error_of_ours(environments: Environments) -> None:
    environments.home.generations.rmdir()
    with pytest.raises(AigbbError):
        await environments.build(1, Lock(""), None, silent)


# -- bytecode


@pytest.mark.anyio
async def test_bytecode_is_carried_over_for_unchanged_files_alone(environments: Environments) -> None:
    old = await build(environments, 1, "alpha<2", "beta")
    ask(old, "import alpha, beta")
    new = await build(environments, 2, "alpha>=2", "beta", after=old)
    compiled = LIBRARY / "beta" / "__pycache__" / f"__init__.{PYC}"
    assert (new.folder / compiled).samefile(old.folder / compiled)
    assert not (new.folder / LIBRARY / "alpha" / "__pycache__").exists()
    assert ask(new, "import alpha, beta; print(alpha.version, beta.version)") == "2.0 1.0"


@pytest.mark.anyio
async def test_bytecode_that_a_package_ships_is_left_as_it_is(environments: Environments) -> None:
    old = await build(environments, 1, "compiled")
    new = await build(environments, 2, "compiled", "beta", after=old)
    shipped = new.folder / LIBRARY / "compiled" / "__pycache__" / f"__init__.{PYC}"
    assert shipped.read_text() == "not bytecode"


async def warmed(environments: Environments, number: int, *requirements: str) -> Generation:
    """A generation whose packages were imported by a child that leaves their bytecode aside."""
    generation = await build(environments, number, *requirements)
    snapshot = environments.home.snapshots / str(number)
    await asyncio.to_thread(write_snapshot, snapshot, [], {})
    env = sandbox.kernel_environment(generation.python, environments.home.work, {})
    names = [re.split("[<=>]", requirement)[0] for requirement in requirements]
    assert await Probe(env, environments.home.work, 30).warm(generation, snapshot, [], names) is None
    return generation


@pytest.mark.anyio
async def test_bytecode_is_left_aside_by_an_import_and_put_in_its_place_afterwards(environments: Environments) -> None:
    generation = await warmed(environments, 1, "beta", "compiled")
    compiled = LIBRARY / "beta" / "__pycache__" / f"__init__.{PYC}"
    assert not (generation.folder / compiled).exists()
    await asyncio.to_thread(environments.gather, generation, keep=False)
    assert (generation.folder / compiled).is_file()
    shipped = generation.folder / LIBRARY / "compiled" / "__pycache__" / f"__init__.{PYC}"
    assert shipped.read_text() == "not bytecode"
    assert not generation.bytecode.exists()


@pytest.mark.anyio
async def test_only_plain_files_beside_a_source_are_gathered(environments: Environments, tmp_path: Path) -> None:
    generation = await build(environments, 1, "beta")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / f"__init__.{PYC}").write_text("of another")
    left = generation.bytecode / LIBRARY.relative_to("venv")
    (left / "beta" / "__pycache__").mkdir(parents=True)
    (left / "beta" / "__pycache__" / f"__init__.{PYC}").symlink_to(tmp_path / "else" / f"__init__.{PYC}")
    (left / "beta" / "__pycache__" / f"nothing.{PYC}").write_text("of no source")
    (left / "beta" / "evil.py").write_text("1")
    (left / "other").mkdir()
    (left / "other" / "__pycache__").symlink_to(tmp_path / "else")
    before = sorted(generation.folder.glob("venv/**/*"))
    await asyncio.to_thread(environments.gather, generation, keep=False)
    assert [path for path in sorted(generation.folder.glob("venv/**/*")) if path not in before] == []
    assert (tmp_path / "else" / f"__init__.{PYC}").read_text() == "of another"


@pytest.mark.anyio
async def test_the_first_generation_of_another_home_has_the_bytecode_of_the_same_lock(
    environments: Environments, tmp_path: Path
) -> None:
    first = await warmed(environments, 1, "alpha<2")
    fonts = first.bytecode / "matplotlib" / "fontlist-v1.json"
    fonts.parent.mkdir(exist_ok=True)
    fonts.write_text("{}")
    await asyncio.to_thread(environments.gather, first, keep=True)
    compiled = LIBRARY / "alpha" / "__pycache__" / f"__init__.{PYC}"
    others = replace(
        environments, home=await asyncio.to_thread(Home.create, tmp_path / "others", environments.home.cache)
    )
    same, other = await build(others, 1, "alpha<2"), await build(others, 2, "alpha>=2")
    assert (same.folder / compiled).samefile(first.folder / compiled)
    assert not (other.folder / compiled).exists()
    lists = [generation.folder / "matplotlib" / fonts.name for generation in (first, same, other)]
    assert lists[0].samefile(lists[1])
    assert not lists[2].exists()
    assert (first.compiled, same.compiled, other.compiled) == (False, True, False)
    assert ask(other, "import alpha; print(alpha.version)") == "2.0"


@pytest.mark.anyio
async def test_kept_bytecode_that_python_would_not_use_is_not_linked(environments: Environments) -> None:
    first = await warmed(environments, 1, "alpha")
    await asyncio.to_thread(environments.gather, first, keep=True)
    compiled = LIBRARY / "alpha" / "__pycache__" / f"__init__.{PYC}"
    os.utime(first.folder / LIBRARY / "alpha" / "__init__.py", (1, 1))  # as when it was unpacked again
    second = await warmed(environments, 2, "alpha")
    assert not (second.folder / compiled).exists()
    await asyncio.to_thread(environments.gather, second, keep=True)
    assert not (second.folder / compiled).samefile(first.folder / compiled)
    third = await build(environments, 3, "alpha")
    assert (third.folder / compiled).samefile(second.folder / compiled)
    assert (second.compiled, third.compiled) == (False, True)


# -- finding and deleting


def test_a_generation_is_found_by_a_working_interpreter(environments: Environments) -> None:
    make(environments, 1)
    assert environments.find(1, Lock("")) is None
    environments.at(1).python.symlink_to(sys.executable)
    (environments.at(1).folder / "lock.txt").write_text("x")
    assert environments.find(1, Lock("x")) == environments.at(1, Lock("x"))
    assert environments.find(1, Lock("y")) is None
    environments.at(1).python.unlink()
    environments.at(1).python.symlink_to("/nowhere/python")
    assert environments.find(1, Lock("")) is None
    assert environments.find(2, Lock("")) is None


@pytest.fixture
def held(environments: Environments) -> Iterator[int]:
    """The number of a generation that a kernel holds."""
    make(environments, 1)
    descriptor = os.open(environments.at(1).folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    yield 1
    os.close(descriptor)


def test_a_held_generation_is_in_use(environments: Environments, held: int) -> None:
    make(environments, 2)
    assert environments.at(held).in_use()
    assert environments.at(held).in_use(), "asking does not take the lock away"
    assert not environments.at(2).in_use()
    assert not environments.at(9).in_use()


def test_asking_leaves_no_lock_behind(environments: Environments) -> None:
    make(environments, 1)
    assert not environments.at(1).in_use()
    descriptor = os.open(environments.at(1).folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_pruning_keeps_what_is_kept_held_newest_or_newer(environments: Environments, held: int) -> None:
    make(environments, 2, 3, 4, 5)
    assert environments.doom(keep={3}, newest=4) == [2]
    assert environments.doomed == [environments.home.generations / ".removing-2"]
    assert folders(environments) == [".removing-2", "1", "3", "4", "5"]
    assert environments.doom(keep={3}, newest=4) == []
    assert held in environments.numbers()


def test_sweeping_deletes_what_was_begun_and_what_was_never_committed(environments: Environments) -> None:
    make(environments, 1, 2, 12)
    for name in (".building-3", ".removing-1"):
        (environments.home.generations / name / "venv").mkdir(parents=True)
    (environments.home.generations / ".DS_Store").touch()
    (environments.home.generations / "notes").mkdir()
    environments.sweep({1, 7})
    assert folders(environments) == [".DS_Store", "1", "notes"]


def test_sweeping_an_empty_home_is_nothing(environments: Environments) -> None:
    environments.sweep(())
    assert folders(environments) == []


def test_while_a_generation_is_claimed_no_kernel_can_begin_to_use_it(tmp_path: Path) -> None:
    generation = Generation(1, tmp_path, Lock(""))
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with generation.claimed() as idle:
            assert idle
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with generation.claimed() as idle:
            assert not idle
    finally:
        os.close(descriptor)
