"""A home as one file, and back: of one moment, whole, refused when it is not, and never half restored."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernels.home import Home
from server.backup import Choice, back_up
from server.callers import Caller
from server.database import SCHEMA
from server.errors import HomeInUse, HomeNotEmpty, HomeUnusable, InvalidBackup, NewerHome
from server.functions import Draft
from server.registrar import Wanted
from server.registry import Registry
from server.restoring import finish, holding, restore
from server.service import Service
from server.snapshots import Projection
from tests.conftest import ROOT, server_environment
from tests.homes import execute, home_of, settings_of
from tests.killing import killed_at_each_step
from tests.seeds import copied
from tests.test_damage import sql

pytestmark = pytest.mark.anyio
pytest_plugins = ["tests.homes_fixtures"]

EDIT = "def steady(n: int) -> int:\n    return n * 3  # ä\n"


@pytest.fixture
def home(folder: Path, cache: Path) -> Home:
    """One that a service has left, with a token, and an edit that is no version yet."""
    (folder / "aigbb_functions" / "fresh.py").write_text("def fresh() -> int:\n    return 1\n")
    (folder / "extra-requirements.txt").write_text("six  # mine\n")
    home = home_of(folder, cache)
    home.token.write_text("the-token\n")
    (home.path / "secrets.key").write_text("the-key\n")
    (home.results / f"{'r' * 22}.png").write_bytes(b"picture")
    return home


@pytest.fixture
def backup(home: Home, folder: Path, tmp_path: Path) -> Path:
    """A backup of it, with everything."""
    path = tmp_path / "backup.tar.gz"
    back_up(home, projection_of(folder), path, Choice(results=True, keys=True))
    return path


@pytest.fixture
def other(tmp_path: Path) -> Home:
    """An empty home elsewhere."""
    return Home.create(tmp_path / "other" / "home", tmp_path / "cache")


def projection_of(folder: Path) -> Projection:
    """The functions' folder beside a home."""
    return Projection(folder / "aigbb_functions")


def active(home: Home) -> dict[str, str]:
    """The sources that serve."""
    with Registry.open(home.database) as registry:
        return {name: version.function.source for name, version in registry.state().active.items()}


def files(folder: Path) -> dict[str, bytes]:
    """All files of a folder, but for a database's log and the locks."""
    found = (path for path in folder.rglob("*") if path.is_file() and "generations" not in path.parts)
    kept = (path for path in found if not path.name.endswith(("-wal", "-shm", ".lock")) and path.parent.name != "cache")
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept if "__pycache__" not in path.parts}


def members(backup: Path) -> dict[str, bytes]:
    """What is in an archive."""
    with tarfile.open(backup) as archive:
        return {one.name: file.read() for one in archive if (file := archive.extractfile(one))}


# -- there and back


def test_a_backup_holds_what_cannot_be_made_anew(backup: Path, home: Home) -> None:
    found = members(backup)
    assert list(found)[-1] == "manifest.json"
    assert found.keys() == {
        "registry.sqlite3",
        "audit.sqlite3",
        "token",
        "secrets.key",
        f"results/{'r' * 22}.png",
        "functions/fresh.py",  # steady is in the registry
        "extra-requirements.txt",
        "manifest.json",
    }
    assert backup.stat().st_mode & 0o777 == 0o600
    manifest = json.loads(found["manifest.json"])
    assert (manifest["functions"], manifest["schema_version"]) == (1, SCHEMA)
    assert [path.name for path in backup.parent.glob(".*")] == []


def test_keys_and_results_are_left_out_unless_asked_for(home: Home, folder: Path, tmp_path: Path) -> None:
    back_up(home, projection_of(folder), tmp_path / "small.tar.gz", Choice())
    found = members(tmp_path / "small.tar.gz").keys()
    assert found == {
        "registry.sqlite3",
        "audit.sqlite3",
        "functions/fresh.py",
        "extra-requirements.txt",
        "manifest.json",
    }


def test_what_comes_back_is_what_went(backup: Path, home: Home, other: Home) -> None:
    projection = projection_of(other.path.parent)
    done = restore(other, projection, backup, replace=False)
    assert done.replaced is None
    assert active(other) == active(home)
    assert projection.sources().keys() == {"fresh", "steady"}
    assert projection.requirements.read_text() == "six  # mine\n" or "six" in projection.requirements.read_text()
    assert (other.token.read_text(), (other.path / "secrets.key").read_text()) == ("the-token\n", "the-key\n")
    assert (other.results / f"{'r' * 22}.png").read_bytes() == b"picture"
    assert other.token.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in other.path.glob(".*")] == [] and not (other.path / "restore").exists()


def test_what_was_there_before_is_kept(backup: Path, home: Home, folder: Path) -> None:
    projection = projection_of(folder)
    before = home.database.read_bytes()
    (projection.folder / "steady.py").write_text(EDIT)
    (projection.folder / "later.py").write_text("def later() -> int:\n    return 1\n")
    with pytest.raises(HomeNotEmpty):
        restore(home, projection, backup, replace=False)
    done = restore(home, projection, backup, replace=True)
    assert done.replaced is not None
    assert (done.replaced / "functions" / "steady.py").read_text() == EDIT
    assert (done.replaced / "registry.sqlite3").read_bytes() == before
    assert {p.name for p in done.replaced.iterdir()} >= {"token", "secrets.key", "functions", "extra-requirements.txt"}
    assert "n * 2" in (projection.folder / "steady.py").read_text()
    assert projection.sources().keys() == {"fresh", "steady"}


def test_an_edit_of_a_registered_function_is_in_the_backup(home: Home, folder: Path, other: Home) -> None:
    (folder / "aigbb_functions" / "steady.py").write_text(EDIT)
    (folder / "aigbb_functions" / "steady.json").write_text('{"tags": ["a"]}')
    path = other.path.parent / "edited.tar.gz"
    back_up(home, projection_of(folder), path, Choice())
    projection = projection_of(other.path.parent)
    restore(other, projection, path, replace=False)
    assert projection.sources()["steady"] == EDIT
    with Registry.open(other.database) as registry:
        functions = {name: version.function for name, version in registry.state().active.items()}
        assert set(projection.edited(functions, registry.projected())) == {"fresh", "steady"}


def test_a_home_that_is_none_or_half_restored_is_not_backed_up(home: Home, folder: Path, other: Home) -> None:
    with pytest.raises(HomeUnusable, match="no registry"):
        back_up(other, projection_of(folder), other.path / "x", Choice())
    (home.path / "restore").mkdir()
    with pytest.raises(HomeUnusable, match="cut off"):
        back_up(home, projection_of(folder), other.path / "x", Choice())
    assert not (other.path / "x").exists()


def test_nothing_is_restored_under_a_running_service(backup: Path, home: Home, folder: Path) -> None:
    before = files(home.path)
    with holding(home), pytest.raises(HomeInUse):
        restore(home, projection_of(folder), backup, replace=True)
    assert files(home.path) == before


# -- what is refused


def rewritten(backup: Path, change: Callable[[dict[str, bytes]], Any]) -> None:
    """The archive with other members."""
    found = members(backup)
    change(found)
    with tarfile.open(backup, "w:gz") as archive:
        for name, data in found.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def traversing(name: str) -> Callable[[Path], None]:
    """An archive with a member that would land elsewhere."""
    return lambda backup: rewritten(backup, lambda found: found.update({name: b"evil"}))


def linking(backup: Path) -> None:
    """A link to elsewhere, and a file through it."""
    with tarfile.open(backup, "w:gz") as archive:
        member = tarfile.TarInfo("functions")
        member.type, member.linkname = tarfile.SYMTYPE, "/tmp"
        archive.addfile(member)


def twice(backup: Path) -> None:
    """One name, two members."""
    found = members(backup)
    with tarfile.open(backup, "w:gz") as archive:
        for name in (*found, "token"):
            member = tarfile.TarInfo(name)
            member.size = len(found[name])
            archive.addfile(member, io.BytesIO(found[name]))


def cut(share: float) -> Callable[[Path], None]:
    """Only the beginning of the file."""
    return lambda backup: os.truncate(backup, int(backup.stat().st_size * share))


def flipped(backup: Path) -> None:
    """One bit of the archive."""
    data = bytearray(backup.read_bytes())
    data[len(data) // 2] ^= 1
    backup.write_bytes(data)


BAD: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda backup: backup.write_bytes(b""),
    "garbage": lambda backup: backup.write_bytes(b"\x00garbage" * 999),
    "cut at the end": cut(0.99),
    "cut in the middle": cut(0.5),
    "a bit": flipped,
    "parent": traversing("../evil"),
    "inner parent": traversing("functions/../../evil.py"),
    "absolute": traversing("/tmp/evil"),
    "a generated file": traversing("functions/__init__/x.py"),
    "a pointer": traversing("generations/1/snapshot"),
    "link": linking,
    "twice": twice,
    "more": traversing("functions/evil.py"),
    "less": lambda backup: rewritten(backup, lambda found: found.pop("token")),
    "other bytes": lambda backup: rewritten(backup, lambda found: found.update(token=b"evil")),
    "no list": lambda backup: rewritten(backup, lambda found: found.pop("manifest.json")),
    "no registry": lambda backup: rewritten(backup, lambda found: found.pop("registry.sqlite3")),
    "another list": lambda backup: rewritten(backup, lambda found: found.update({"manifest.json": b"[]"})),
}


@pytest.mark.parametrize("harm", BAD.values(), ids=BAD.keys())
def test_what_is_no_whole_backup_is_refused_and_changes_nothing(
    harm: Callable[[Path], Any], backup: Path, home: Home, folder: Path, tmp_path: Path
) -> None:
    harm(backup)
    before, outside = files(folder), set(tmp_path.iterdir())
    with pytest.raises(InvalidBackup):
        restore(home, projection_of(folder), backup, replace=True)
    assert files(folder) == before
    assert set(tmp_path.iterdir()) == outside


def test_a_backup_of_a_damaged_or_newer_home_is_not_restored(backup: Path, home: Home, folder: Path) -> None:
    before = files(folder)

    def with_registry(change: Callable[[Path], None]) -> None:
        aside = folder / "aside.sqlite3"

        def replace(found: dict[str, bytes]) -> None:
            aside.write_bytes(found["registry.sqlite3"])
            change(aside)
            found["registry.sqlite3"] = data = aside.read_bytes()
            told = json.loads(found["manifest.json"])
            told["files"]["registry.sqlite3"] = {"size": len(data), "sha256": _sha256(data)}
            found["manifest.json"] = json.dumps(told).encode()

        rewritten(backup, replace)
        aside.unlink()

    with_registry(sql("UPDATE versions SET value = '{}'"))
    with pytest.raises(InvalidBackup, match="damaged"):
        restore(home, projection_of(folder), backup, replace=True)
    with_registry(sql(f"PRAGMA user_version={SCHEMA + 1}"))
    with pytest.raises(NewerHome):
        restore(home, projection_of(folder), backup, replace=True)
    assert files(folder) == before


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- killed


def test_a_restore_that_is_killed_anywhere_has_done_nothing_or_is_finished(
    backup: Path, home: Home, folder: Path, tmp_path: Path
) -> None:
    (folder / "aigbb_functions" / "steady.py").write_text(EDIT)
    sql("UPDATE versions SET created = 'before'")(home.database)
    slim = tmp_path / "slim"
    shutil.copytree(folder, slim, ignore=shutil.ignore_patterns("generations", "service.lock", "cache"))
    old = files(slim / "aigbb_functions")
    outcomes = set()

    def prepare() -> Callable[[], object]:
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        shutil.copytree(slim, tmp_path / "killed")
        here = Home.create(tmp_path / "killed" / "home")
        return lambda: restore(here, projection_of(tmp_path / "killed"), backup, replace=True)

    for _ in killed_at_each_step(prepare):
        here = Home.create(tmp_path / "killed" / "home")
        finished = finish(here, projection_of(tmp_path / "killed"))
        (replaced,) = here.path.glob("replaced-*") if finished else (None,)
        with Registry.open(here.database) as registry:
            version = registry.version("steady", 1)
        assert version is not None
        is_new = version.created != "before"
        outcomes.add(is_new)
        now = files(tmp_path / "killed" / "aigbb_functions")
        assert ("n * 2" if is_new else "n * 3") in now["steady.py"].decode()
        if replaced is not None:
            assert (replaced / "functions" / "steady.py").read_text() == EDIT
        elif not is_new:
            assert now == old
        assert not (here.path / "restore").exists()
    assert outcomes == {True, False}


def test_a_backup_that_is_killed_anywhere_leaves_the_one_before(home: Home, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    target = place / "backup.tar.gz"

    def prepare() -> Callable[[], object]:
        target.write_bytes(b"before")
        return lambda: back_up(home, projection_of(folder), target, Choice())

    for _ in killed_at_each_step(prepare):
        assert target.read_bytes() == b"before" or "registry.sqlite3" in members(target)


# -- beside a service


def aigbb(folder: Path, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command, with the settings of a home."""
    environment = {**server_environment(folder, cache), "AIGBB_KERNELSPECS_DIR": str(folder / "kernels")}
    command = [sys.executable, "-m", "server", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


async def test_a_running_service_is_backed_up_and_comes_back_elsewhere(
    template: Path, tmp_path: Path, cache: Path
) -> None:
    folder, other, file = copied(template, tmp_path / "one"), tmp_path / "other", str(tmp_path / "b.tar.gz")
    async with Service.open(settings_of(folder, cache)) as service:
        first = Draft(
            "import os\n\ndef keyed(n: int) -> str:\n    return os.environ['KEYED'] * n\n", env={"KEYED": "x"}
        )
        await service.register([Wanted(first)], Caller())

        async def register() -> None:
            for number in range(3):
                draft = Draft(f"def added{number}() -> int:\n    return {number}\n")
                await service.register([Wanted(draft)], Caller())

        registering = asyncio.create_task(register())
        done = await asyncio.to_thread(aigbb, folder, cache, "backup", file, "--json")
        assert done.returncode == 0, done.stderr
        refused = await asyncio.to_thread(aigbb, folder, cache, "restore", file, "--replace")
        assert (refused.returncode, "home_in_use" in refused.stderr) == (2, True)
        await registering
    restored = await asyncio.to_thread(aigbb, other, cache, "restore", file)
    assert restored.returncode == 0, restored.stderr
    assert "Start the service" in restored.stdout
    async with Service.open(settings_of(other, cache)) as service:
        assert service.notes == []
        assert await execute(service, "steady(21), keyed(2)") == "(42, 'xx')"
        names = list(service.signatures())
        assert names == [*(f"added{n}" for n in range(len(names) - 2)), "keyed", "steady"]
        assert [event.action for event in await service.history(None, 99, None)] == ["register"] * len(names)
