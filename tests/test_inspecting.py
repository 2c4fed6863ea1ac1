"""Packages that would do what none may are refused before anything of them runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from kernels.environments import Environments, Generation
from kernels.errors import UnsafePackage
from kernels.home import Home
from kernels.progress import silent
from tests.index import Index, serve_index

pytestmark = pytest.mark.anyio

HOOK = "import os; os.environ['HOOKED'] = '1'\n"
NASTY: dict[str, tuple[dict[str, str], str]] = {
    "hooked": ({"hooked.pth": HOOK}, "runs code at every start"),
    "posing_hook": ({"distutils-precedence.pth": HOOK}, "runs code at every start"),
    "customizing": ({"sitecustomize.py": "x = 1\n"}, "is run at every start"),
    "customizing_user": ({"usercustomize/__init__.py": "x = 1\n"}, "is run at every start"),
    "posing": ({"aigbb_functions/add.py": "x = 1\n"}, "poses as a part of the service"),
    "overwriting": ({"alpha/__init__.py": "x = 1\n"}, "is also alpha==1.0's"),
}
HARMLESS: dict[str, dict[str, str]] = {
    "paths": {"paths.pth": "../somewhere\n# import nothing\n"},
    "same": {"alpha/shared.py": "# the same\n", "tests/__init__.py": ""},
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """One package a trick, and two without any."""
    with serve_index(tmp_path_factory.mktemp("index") / "files") as served:
        served.add_wheel("alpha", "1.0", files={"alpha/shared.py": "# the same\n", "tests/__init__.py": ""})
        wheels: Mapping[str, dict[str, str]] = {name: files for name, (files, _) in NASTY.items()} | HARMLESS
        for name, files in wheels.items():
            served.add_wheel(name, "1.0", files=files)
        yield served


async def build(index: Index, folder: Path, *requirements: str) -> Generation:
    """An environment with these packages."""
    home = await asyncio.to_thread(Home.create, folder / "home")
    environments = Environments(home, index.uv(Path(sys.executable), home.cache / "uv"))
    resolved = await environments.uv.resolve({r: ["f"] for r in requirements}, None, silent)
    try:
        return await environments.build(1, resolved.lock, None, silent)
    except UnsafePackage:
        assert list(home.generations.iterdir()) == []
        raise


@pytest.mark.parametrize("name", NASTY)
async def test_a_package_that_does_what_none_may_is_refused_with_its_name(
    index: Index, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UnsafePackage) as caught:
        await build(index, tmp_path, "alpha", name.replace("_", "-"))
    files, reason = NASTY[name]
    [finding] = caught.value.extra["findings"]
    assert finding["file"] in files
    assert reason in finding["reason"]
    assert finding["package"] == f"{name}==1.0"
    assert caught.value.detail.startswith(f"{name}==1.0 is refused")


async def test_files_that_harm_nobody_are_let_be(index: Index, tmp_path: Path) -> None:
    generation = await build(index, tmp_path, "alpha", *HARMLESS)
    assert generation.python.exists()
