"""Packages that would do what none may are refused before anything of them runs."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from kernels.environments import Environments, Generation
from kernels.errors import UnsafePackage
from kernels.home import Home
from kernels.progress import silent
from tests.index import PROGRAM, Index, serve_index

pytestmark = pytest.mark.anyio

HOOK = "import os; os.environ['HOOKED'] = '1'\n"
NASTY: dict[str, tuple[dict[str, str], str]] = {
    "hooked": ({"hooked.pth": HOOK}, "runs code at every start"),
    "posing_hook": ({"distutils-precedence.pth": HOOK}, "runs code at every start"),
    "customizing": ({"sitecustomize.py": "x = 1\n"}, "is run at every start"),
    "customizing_user": ({"usercustomize/__init__.py": "x = 1\n"}, "is run at every start"),
    "posing": ({"aigbb_functions/add.py": "x = 1\n"}, "poses as a part of the service"),
    "overwriting": ({"alpha/__init__.py": "x = 1\n"}, "is also alpha==1.0's"),
    "replacing_by_package": ({"six/__init__.py": "x = 1\n"}, "is imported as six, as six.py of beta==1.0 is"),
    "replacing_by_extension": ({"six.abi3.so": "x"}, "is imported as six"),
    "replacing_compiled": ({"__pycache__/six.cpython-311.pyc": "x"}, "is imported as six"),
    "replacing_deeper": ({"space/one/__init__.py": ""}, "is imported as space.one"),
    "replacing_from_data": (
        {"replacing_from_data-1.0.data/data/lib/python3.11/site-packages/six/__init__.py": "x = 1\n"},
        "is imported as six",
    ),
    "intruding": ({"alpha/more.py": "x = 1\n"}, "is in the package alpha of alpha==1.0"),
    "intruding_deeper": ({"alpha/deep/er/data.txt": "x"}, "is in the package alpha of alpha==1.0"),
    "customizing_compiled": ({"sitecustomize.abi3.so": "x"}, "is run at every start"),
    "starting": (
        {"starting-1.0.data/data/etc/ipython/ipython_config.py": "x = 1\n"},
        "is run at every start of a kernel",
    ),
    "configuring": ({"configuring-1.0.data/data/pyvenv.cfg": "home = /tmp\n"}, "replaces the environment's own"),
}
HARMLESS: dict[str, dict[str, str]] = {
    "paths": {"paths.pth": "../somewhere\n# import nothing\n"},
    "shares_a_namespace": {"space/two.py": "", "pkg/two.py": ""},
    "same": {
        "alpha/__init__.py": "version = '1.0'\n" + PROGRAM,
        "alpha/shared.py": "# the same\n",
        "tests/__init__.py": "",
    },
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """One package a trick, and two without any."""
    with serve_index(tmp_path_factory.mktemp("index") / "files") as served:
        served.add_wheel("alpha", "1.0", files={"alpha/shared.py": "# the same\n", "tests/__init__.py": ""})
        extend = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"
        beta = {"six.py": "x = 1\n", "space/one.py": "", "pkg/__init__.py": extend, "pkg/one.py": ""}
        served.add_wheel("beta", "1.0", files=beta)
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
        await build(index, tmp_path, "alpha", "beta", name.replace("_", "-"))
    files, reason = NASTY[name]
    [finding] = caught.value.extra["findings"]
    assert any(re.sub(r".*\.data/data/(.*site-packages/)?", "", file) in finding["file"] for file in files)
    assert reason in finding["reason"]
    assert "==1.0" in finding["package"]
    assert caught.value.detail.startswith(f"{finding['package']} is refused")


async def test_files_that_harm_nobody_are_let_be(index: Index, tmp_path: Path) -> None:
    generation = await build(index, tmp_path, "alpha", "beta", *(name.replace("_", "-") for name in HARMLESS))
    assert generation.python.exists()
