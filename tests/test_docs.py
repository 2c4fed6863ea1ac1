"""The documentation is true: its commands answer as printed, its tables are complete, its links lead somewhere."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest

from server.settings import rows
from tests.conftest import ROOT, Server, running_server
from tests.provider import asks, says, serving

README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Server]:
    """A service as a newcomer has it after `make serve`."""
    folder = tmp_path_factory.mktemp("readme")
    with running_server(folder, cache, seeded=False, shipped=True) as started:
        (folder / ".aigbb").symlink_to(started.home)
        yield started


def test_the_readmes_commands_answer_as_printed(fresh: Server) -> None:
    fences = FENCE.findall(README)
    blocks = [
        (text, answer)
        for (kind, text), (after, answer) in pairwise(fences)
        if kind == "sh" and "curl" in text and after == "json"
    ]
    assert len(blocks) == 2
    script = ""
    for commands, printed in blocks:
        assert "http://127.0.0.1:8000" in commands
        script += commands.replace("http://127.0.0.1:8000", fresh.url)
        said = subprocess.run(
            ["bash", "-euc", script], cwd=fresh.home.parent, capture_output=True, text=True, check=True
        )
        last = said.stdout.strip().splitlines()[-1]
        assert_holds(last_json(last), json.loads(printed))


def last_json(text: str) -> Any:
    """The last of several JSON values written after each other."""
    decoder, at, value = json.JSONDecoder(), 0, None
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
    return value


def assert_holds(answer: Any, printed: Any, place: str = "answer") -> None:
    """What is printed is in the answer: objects may be shortened, at any depth, lists and values may not."""
    if isinstance(printed, dict) and isinstance(answer, dict):
        assert printed.keys() <= answer.keys(), place
        for name, value in printed.items():
            assert_holds(answer[name], value, f"{place}.{name}")
    elif isinstance(printed, list) and isinstance(answer, list):
        assert len(answer) == len(printed), place
        for index, (one, other) in enumerate(zip(answer, printed, strict=True)):
            assert_holds(one, other, f"{place}.{index}")
    else:
        assert answer == printed, place


PAGES = [("functions.md", 23), ("errors.md", 1), ("secrets.md", 5), ("keys.md", 3)]


@pytest.mark.parametrize(("page", "requests"), PAGES)
def test_the_requests_of_a_page_answer_as_printed(
    page: str, requests: int, tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> None:
    fences = FENCE.findall((ROOT / "docs" / page).read_text())
    folder = tmp_path_factory.mktemp("page")
    source, sent = "", 0
    with running_server(folder, cache, shipped=True) as started, started.client() as client:
        for (kind, text), (after, printed) in pairwise([*fences, ("", "")]):
            if kind == "python":
                source = text
            elif kind == "http":
                answer = send(client, text, source)
                assert answer.is_success or after == "json", answer.text
                assert_holds(answer.json(), json.loads(printed)) if after == "json" else None
                sent += 1
    assert sent == requests


def test_the_page_of_chat_answers_as_printed(tmp_path: Path, cache: Path) -> None:
    fences = FENCE.findall((ROOT / "docs" / "chat.md").read_text())
    blocks = [text for kind, text in fences if kind in ("http", "json")]
    asked, printed, registered, held_asked, held_printed, decided, done_printed, kept = blocks
    told, held, done = (json.loads(text) for text in (printed, held_printed, done_printed))
    call, waiting = told["messages"][1]["tool_calls"][0]["function"], held["approval"]["calls"][0]
    with serving() as provider:
        first = asks((call["name"], call["arguments"])), says(told["content"])
        provider.write_down(told["messages"][0]["content"], *first, *first)
        mail = asks((waiting["name"], waiting["arguments"]))
        question = json.loads(held_asked.partition("\n")[2])["messages"][0]["content"]
        provider.write_down(question, mail, says(done["content"]))
        more = {"OPENAI_BASE_URL": provider.url}
        with running_server(tmp_path, cache, more, shipped=True, model="m") as started, started.client() as client:
            assert_holds(send(client, asked, "").json(), told)
            assert send(client, registered, "").status_code == 201
            answer = send(client, held_asked, "").json()
            held["conversation"], held["approval"]["id"] = answer["conversation"], answer["approval"]["id"]
            assert_holds(answer, held)
            assert_holds(send(client, decided.replace("/ID", f"/{answer['approval']['id']}"), "").json(), done)
            assert send(client, kept, "").json()["conversation"] == "words-1"


def test_the_page_of_executions_answers_as_printed(fresh: Server) -> None:
    fences = FENCE.findall((ROOT / "docs" / "executions.md").read_text())
    identity, sent = "", 0
    with fresh.client() as client:
        for (kind, text), (after, printed) in pairwise([*fences, ("", "")]):
            if kind == "http":
                answer = send(client, text.replace("/ID", f"/{identity}"), "")
                assert answer.is_success, answer.text
                identity, sent = answer.headers.get("X-Execution-Id", identity), sent + 1
                if after == "json":
                    assert_holds(answer.json(), json.loads(printed))
                elif after == "text":
                    assert re.findall(r"^event: (\w+)$", answer.text, re.MULTILINE) == printed.split()
    assert sent == 6


def send(client: httpx2.Client, text: str, source: str) -> httpx2.Response:
    """A printed request; the source is what stands for three dots."""
    head, _, body = text.partition("\n\n")
    line, *lines = head.strip().splitlines()
    method, path = line.split()
    headers = dict(each.split(": ") for each in lines)
    if not body.strip():
        return client.request(method, path, headers=headers)
    told = json.loads(body)
    if told.get("source") == "...":
        told["source"] = source
    return client.request(method, path, headers=headers, json=told)


def test_the_banners_command_works_when_pasted(fresh: Server) -> None:
    command = next(line for line in fresh.said if line.startswith("curl"))
    said = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, check=True)
    assert json.loads(said.stdout)["output"] == "42\n"


def test_the_banner_says_where_everything_is(fresh: Server) -> None:
    banner = "".join(fresh.said)
    assert fresh.url in banner
    assert "aigbb_functions_kernel_1" in banner
    assert "markdown_table, plot_series, word_count" in banner
    assert str(fresh.home / "token") in banner
    assert fresh.token not in banner


def test_every_setting_is_in_the_readme() -> None:
    table = README.split("<!-- settings -->\n")[1].split("<!-- /settings -->")[0]
    expected = ["| variable | default | what it is |", "|---|---|---|"]
    expected += [f"| `{name}` | {default} | {text} |" for name, default, text in rows()]
    assert table.splitlines() == expected


def test_every_route_is_in_the_readme(fresh: Server) -> None:
    with fresh.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    functions = {path.stem for path in fresh.functions.glob("*.py")}
    own = {f"/functions/{name}/call" for name in functions}
    for path, verbs in paths.items():
        for verb in verbs:
            listed = f"`{verb.upper()} {path.replace('{identity}', '{id}')}`"
            assert path in own or listed in README, path


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda p: p.name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_each_capability_of_a_kernel_has_a_test() -> None:
    page = (ROOT / "docs" / "confinement.md").read_text()
    table = page.split("## What holds in each profile\n\n")[1].split("\n\n")[0]
    rows = {line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]} - {"runs"}
    marked = re.compile(r'^@(?:pytest\.mark\.)?capability\("(.+)"\)$', re.MULTILINE)
    tested = {row for path in (ROOT / "tests").glob("test_*.py") for row in marked.findall(path.read_text())}
    assert tested == rows


def test_the_version_has_its_entry_in_the_changelog() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_architecture_page_names_every_module() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    small = {"errors", "progress", "home", "sandbox", "settings", "__init__", "__main__"}
    for folder in ("kernels", "kernels/inside", "server"):
        for path in (ROOT / folder).glob("*.py"):
            assert path.stem in small or f"{path.stem}.py" in page, path.name
