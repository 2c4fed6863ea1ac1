"""Fixtures of the REST door's tests; the modules that use them name this one in `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from tests.conftest import Server
from tests.doors import delete_all, server_with
from tests.index import Index, serve_index


@pytest.fixture
def fresh() -> str:
    """A name that no function ever had."""
    return f"f_{uuid4().hex[:10]}"


@pytest.fixture
def name(client: httpx2.Client, fresh: str) -> Iterator[str]:
    """Such a name in the shared service, where it is free again afterwards."""
    yield fresh
    assert client.delete(f"/functions/{fresh}").status_code in (204, 404)


@pytest.fixture
def names(client: httpx2.Client) -> Iterator[list[str]]:
    """Three names that are free, and free again afterwards."""
    fresh = [f"f_{uuid4().hex[:10]}" for _ in range(3)]
    yield fresh
    assert {client.delete(f"/functions/{name}").status_code for name in fresh} <= {204, 404}


# -- a service with an index of its own


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """Packages in versions that fit together, and others that do not; asked before the real index."""
    folder = tmp_path_factory.mktemp("index") / "files"
    yield from _served(folder)


def _served(folder: Path) -> Iterator[Index]:
    with serve_index(folder) as served:
        for version in ("1.0", "2.0"):
            served.add_wheel("solid", version)
            served.add_wheel("loose", version)
        served.add_wheel("wants_old", "1.0", requires=["solid<2"])
        served.add_wheel("elsewhere", "1.0", tag="cp39-cp39-win_amd64")
        served.add_wheel("future", "1.0", python=">=3.99")
        served.add_source("raw", "1.0", folder / "ran")
        served.add_wheel("pulled", "1.0")
        _edit(folder, "pulled", lambda page: page.replace('">', '" data-yanked="broken">'))
        served.add_wheel("gone", "1.0")
        (folder / "simple" / "gone" / "gone-1.0-py3-none-any.whl").unlink()
        served.add_wheel("altered", "1.0")
        _edit(folder, "altered", lambda page: page.replace("sha256=", f"sha256={'0' * 63}1#"))
        yield served


def _edit(folder: Path, package: str, change: Callable[[str], str]) -> None:
    page = folder / "simple" / package / "index.html"
    page.write_text(change(page.read_text()))


@pytest.fixture(scope="session")
def indexed(tmp_path_factory: pytest.TempPathFactory, index: Index, cache: Path) -> Iterator[Server]:
    """A service without functions, for tests that leave none. Models are shown little text."""
    folder = tmp_path_factory.mktemp("indexed")
    with server_with(index, folder, cache, max_content=256) as started:
        yield started


@pytest.fixture
def own(indexed: Server) -> Iterator[httpx2.Client]:
    """A client of it, whose functions are deleted afterwards."""
    with indexed.client() as opened:
        yield opened
        delete_all(opened)


@pytest.fixture
def package(index: Index) -> str:
    """A package that nothing has asked for yet. Only its version 2.0 has `new`."""
    name = f"p{uuid4().hex[:8]}"
    index.add_wheel(name, "1.0", files={f"{name}/__init__.py": "version = '1.0'\n"})
    index.add_wheel(name, "2.0", files={f"{name}/__init__.py": "version = '2.0'\nnew = True\n"})
    return name
