"""The documentation is true: its commands answer as printed, its tables are complete, its links lead somewhere."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from server.settings import rows
from tests.conftest import ROOT, Server, running_server

README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Server]:
    """A service as a newcomer has it after `make serve`."""
    folder = tmp_path_factory.mktemp("readme")
    subprocess.run(["cp", "-R", ROOT / "aigbb_functions", folder], check=True)
    with running_server(folder, cache) as started:
        (folder / ".aigbb").symlink_to(started.home)
        yield started


def test_the_readmes_commands_answer_as_printed(fresh: Server) -> None:
    fences = re.findall(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
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
        _assert_holds(_last_json(last), json.loads(printed))


def _last_json(text: str) -> Any:
    """The last of several JSON objects written after each other."""
    decoder, at, value = json.JSONDecoder(), 0, None
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
    return value


def _assert_holds(answer: Any, printed: dict[str, Any]) -> None:
    assert {name: answer[name] for name in printed if name in answer} == printed


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
    for path, verbs in paths.items():
        for verb in verbs:
            assert f"`{verb.upper()} {path.replace('{identity}', '{id}')}`" in README, path


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda p: p.name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_version_has_its_entry_in_the_changelog() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_architecture_page_names_every_module() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    small = {"errors", "progress", "home", "sandbox", "settings", "__init__", "__main__"}
    for folder in ("kernels", "server"):
        for path in (ROOT / folder).glob("*.py"):
            assert path.stem in small or f"{path.stem}.py" in page, path.name
