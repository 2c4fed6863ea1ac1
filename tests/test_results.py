"""Results that are kept as files: bounded, private, and served as what they are and as nothing else."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from server.callers import Caller
from server.errors import UnknownResult
from server.results import Results
from tests.conftest import Server
from tests.doors import problem


async def results_in(folder: Path, **bounds: int) -> Results:
    """What is kept in a folder: it is read at once."""
    return await asyncio.to_thread(Results, folder, **bounds)


def name_of(link: str) -> str:
    """The name at a link's end."""
    return link.removeprefix("/results/")


# -- keeping


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kind", "extension", "served"),
    [
        ("image/png", "png", "image/png"),
        ("image/jpeg", "jpg", "image/jpeg"),
        ("text/plain", "txt", "text/plain"),
        ("application/json", "json", "application/json"),
        ("text/html", "bin", "application/octet-stream"),
        ("application/octet-stream", "bin", "application/octet-stream"),
    ],
)
async def test_what_is_kept_can_be_read(tmp_path: Path, kind: str, extension: str, served: str) -> None:
    results = await results_in(tmp_path)
    link = await results.keep(b"data", kind, "service")
    assert re.fullmatch(rf"/results/[\w-]{{22}}\.{extension}", link)
    assert await results.read(name_of(link), Caller()) == (b"data", served)


@pytest.mark.anyio
async def test_files_are_for_their_owner_only_and_names_are_never_the_same(tmp_path: Path) -> None:
    results = await results_in(tmp_path)
    links = {await results.keep(b"same", "text/plain", "service") for _ in range(3)}
    files = await asyncio.to_thread(lambda: list(tmp_path.iterdir()))
    assert {f"/results/{file.name}" for file in files} == links
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert len(links) == 3


@pytest.mark.anyio
async def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    results = await results_in(tmp_path, max_files=2)
    first, second, third = [await results.keep(b"x", "text/plain", "service") for _ in range(3)]
    with pytest.raises(UnknownResult):
        await results.read(name_of(first), Caller())
    assert [await results.read(name_of(link), Caller()) for link in (second, third)] == [(b"x", "text/plain")] * 2


@pytest.mark.anyio
async def test_the_oldest_go_when_they_are_too_large(tmp_path: Path) -> None:
    results = await results_in(tmp_path, max_bytes=10)
    names = [name_of(await results.keep(b"x" * size, "text/plain", "service")) for size in (4, 4, 4, 12)]
    left = await asyncio.to_thread(os.listdir, tmp_path)
    assert left == names[-1:]


@pytest.mark.anyio
async def test_what_an_earlier_service_kept_is_there_and_counts(tmp_path: Path) -> None:
    links = [await (await results_in(tmp_path)).keep(b"x", "text/plain", "service") for _ in range(2)]
    old, new = (tmp_path / name_of(link) for link in links)
    os.utime(new, (2, 2))
    os.utime(old, (1, 1))
    (tmp_path / "notes").write_bytes(b"somebody else's")
    later = await results_in(tmp_path, max_files=2)
    last = await later.keep(b"y", "text/plain", "service")
    left = await asyncio.to_thread(os.listdir, tmp_path)
    assert sorted(left) == sorted(["notes", new.name, name_of(last)])


@pytest.mark.anyio
async def test_kept_at_once_they_are_within_the_bounds_all_the_same(tmp_path: Path) -> None:
    results = await results_in(tmp_path, max_files=5)
    async with asyncio.TaskGroup() as group:
        for _ in range(30):
            group.create_task(results.keep(b"x", "text/plain", "service"))
    last = await results.keep(b"x", "text/plain", "service")
    left = await asyncio.to_thread(os.listdir, tmp_path)
    assert len(left) <= 5 and name_of(last) in left


@pytest.mark.anyio
async def test_a_disk_that_says_no_is_an_os_error(tmp_path: Path) -> None:
    results = await results_in(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(OSError, match="No such file"):
        await results.keep(b"x", "text/plain", "service")


NAMES = ["", "x", "../token", "..%2ftoken", "a" * 22 + ".html", "a" * 22 + ".txt\n", "a" * 22, "/etc/passwd", "."]


@pytest.mark.anyio
@pytest.mark.parametrize("name", NAMES)
async def test_other_names_are_unknown(tmp_path: Path, name: str) -> None:
    (tmp_path / "token").write_text("secret")
    results = await results_in(tmp_path)
    with pytest.raises(UnknownResult):
        await results.read(name, Caller())


# -- over HTTP


LINKS = {extension: f"/results/{'a' * 22}.{extension}" for extension in ("png", "jpg", "txt", "json", "bin")}


@pytest.fixture
def three_results(server: Server) -> Iterator[None]:
    """A file of each kind, in the shared service."""
    files = [server.home / link.removeprefix("/") for link in LINKS.values()]
    for file in files:
        file.write_bytes(b"<script>")
    yield
    for file in files:
        file.unlink()


@pytest.mark.usefixtures("three_results")
@pytest.mark.parametrize(
    ("extension", "kind", "disposition"),
    [
        ("png", "image/png", None),
        ("jpg", "image/jpeg", None),
        ("txt", "text/plain; charset=utf-8", None),
        ("json", "application/json", None),
        ("bin", "application/octet-stream", "attachment"),
    ],
)
def test_a_result_is_served_as_what_it_is(
    client: httpx2.Client, extension: str, kind: str, disposition: str | None
) -> None:
    answer = client.get(LINKS[extension])
    assert (answer.status_code, answer.content) == (200, b"<script>")
    assert answer.headers["content-type"] == kind
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers.get("content-disposition") == disposition


@pytest.mark.usefixtures("three_results")
def test_a_result_is_for_those_with_the_token(server: Server) -> None:
    problem(httpx2.get(f"{server.url}{LINKS['png']}"), 401, "unauthorized")


@pytest.mark.parametrize("name", ["nothing", "b" * 22 + ".png", "..%2ftoken", "%2e%2e%2ftoken", "a" * 22 + ".txt%00"])
def test_what_is_not_there_is_not_found(client: httpx2.Client, name: str) -> None:
    answer = client.get(f"/results/{name}")
    assert answer.json()["code"] in ("unknown_result", "not_found")
    assert answer.status_code == 404


def test_an_unknown_result_says_so(client: httpx2.Client) -> None:
    problem(client.get(LINKS["png"]), 404, "unknown_result")
