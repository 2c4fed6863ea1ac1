"""The commands about functions, as a person or a script meets them: registering, finding, calling, versions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from server import printing
from server.cli import app
from server.client import Client, path_of
from tests.conftest import Server
from tests.index import serve_index

Run = Callable[..., Result]

AREA = '''
from typing import Literal

def cli_area(width: float, height: float = 1.0, unit: Literal["cm", "m"] = "cm", user: str = "me") -> str:
    """Say the area of a rectangle.

    Args:
        width: How wide it is.
    """
    print("measuring")
    return f"{width * height} {unit}2"
'''
AREA_SIGNATURE = "cli_area(width: float, height: float = 1.0, unit: Literal['cm', 'm'] = 'cm', user: str = 'me') -> str"


@pytest.fixture
def aigbb(server: Server, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Commands that find the shared service by its settings, on a wide terminal."""
    for console in (printing.out, printing.err):
        monkeypatch.setattr(console, "_width", 200)
    environment = {**server.environment, "AIGBB_PORT": server.url.rpartition(":")[2]}
    return lambda *arguments, stdin="": CliRunner().invoke(app, arguments, input=stdin, env=environment)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Make a file with a source in it; its path."""

    def put(name: str, source: str) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        return str(path)

    return put


@pytest.fixture
def area(aigbb: Run, write: Callable[[str, str], str], server: Server) -> Iterator[str]:
    """A registered function that is deleted afterwards; its file."""
    path = write("cli_area", AREA)
    done = aigbb("register", path, "--tag", "geometry", "--bound", "user")
    assert done.exit_code == 0, done.output
    yield path
    with server.client() as client:
        client.delete("/functions/cli_area")


def words(text: str) -> list[list[str]]:
    """A table's cells, row by row."""
    cells = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in text.splitlines()]
    return [row for row in cells if len(row) > 1]


# -- register


def test_a_dry_run_shows_what_would_become_of_a_function_and_leaves_nothing(
    aigbb: Run, write: Callable[[str, str], str]
) -> None:
    done = aigbb("register", write("cli_area", AREA), "--dry-run", "--bound", "user")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].startswith(f"{AREA_SIGNATURE}  would be version ")
    assert words(done.stdout) == [
        ["parameter", "type", "default", "description"],
        ["width", "number", "required", "How wide it is."],
        ["height", "number", "1.0", ""],
        ["unit", '"cm" | "m"', '"cm"', ""],
        ["user", "string", '"me", bound', ""],
    ]
    assert done.stdout.endswith("Dry run: nothing was changed.\n")
    assert aigbb("show", "cli_area").exit_code == 2


def test_a_dry_run_names_the_packages_that_would_come(aigbb: Run, write: Callable[[str, str], str]) -> None:
    source = "import colorama\n\ndef cli_colour() -> str:\n    return colorama.Fore.RED\n"
    done = aigbb("register", write("cli_colour", source), "--dry-run", "-p", "colorama")
    assert "would be version 1 on a new kernel" in done.stdout
    assert "  added: colorama==" in done.stdout


def test_several_files_are_registered_together_or_not_at_all(aigbb: Run, write: Callable[[str, str], str]) -> None:
    one = write("one", "def cli_one() -> int:\n    '''One.'''\n    return 1\n")
    two = write("two", "from aigbb_functions import cli_one\n\ndef cli_two() -> int:\n    return cli_one() + 1\n")
    bad = write("bad", "def cli_bad(:\n")
    refused = aigbb("register", one, two, bad)
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[1:3] == ["  line 1: def cli_bad(:", "                      ^"]
    assert aigbb("show", "cli_one").exit_code == 2
    done = aigbb("register", one, two)
    assert done.exit_code == 0, done.output
    assert [line.split("  ")[0] for line in done.stdout.splitlines() if "->" in line] == [
        "cli_one() -> int",
        "cli_two() -> int",
    ]
    assert aigbb("call", "cli_two").stdout == "2\n"
    assert aigbb("delete", "cli_two").exit_code == 0
    assert aigbb("delete", "cli_one").exit_code == 0


@pytest.mark.parametrize("option", ["--name", "--description", "--if-match"])
def test_what_is_of_one_function_is_refused_for_several(
    aigbb: Run, write: Callable[[str, str], str], option: str
) -> None:
    done = aigbb("register", write("a", "def a(): pass"), write("b", "def b(): pass"), option, "x")
    assert done.exit_code == 2
    assert "give one file" in done.stderr


def test_options_of_a_registration_arrive(aigbb: Run, area: str) -> None:
    done = aigbb(
        "register",
        area,
        "-t",
        "geometry",
        "-t",
        "cm",
        "--bound",
        "user",
        "--description",
        "Measure.",
        "--effects",
        "write",
        "--confirm",
        "never",
    )
    assert done.exit_code == 0, done.output
    shown = json.loads(aigbb("show", "cli_area", "--json").stdout)
    assert {name: shown[name] for name in ("tags", "bound", "description", "effects", "confirm")} == {
        "tags": ["cm", "geometry"],
        "bound": ["user"],
        "description": "Measure.",
        "effects": "write",
        "confirm": "never",
    }
    assert "effects  write\nconfirm  never\n" in aigbb("show", "cli_area").stdout


def test_a_taken_name_and_a_stale_digest_are_refused_with_what_to_try(aigbb: Run, area: str) -> None:
    clash = aigbb("register", area, "--on-conflict", "error")
    assert clash.exit_code == 2
    assert clash.stderr.startswith("name_clash  ")
    assert clash.stderr.endswith("try: --on-conflict new_version\n")
    stale = aigbb("register", area, "--if-match", "sha256:0")
    assert stale.exit_code == 2
    digest = json.loads(aigbb("show", "cli_area", "--json").stdout)["digest"]
    assert stale.stderr.endswith(f"try: --if-match {digest}\n")
    assert aigbb("register", area, "--if-match", digest).exit_code == 0


def test_a_file_that_is_no_text_is_refused(aigbb: Run, tmp_path: Path) -> None:
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    done = aigbb("register", str(tmp_path / "binary.py"))
    assert done.exit_code == 2
    assert "is not UTF-8 text" in done.stderr


def test_a_missing_package_is_named_as_an_option(aigbb: Run, write: Callable[[str, str], str]) -> None:
    done = aigbb("register", write("reads", "import yaml\n\ndef cli_reads(): return yaml\n"))
    assert done.exit_code == 2
    assert done.stderr.startswith("missing_dependency  ")
    assert done.stderr.endswith("try: --package PyYAML\n")


def test_sync_takes_over_files_and_reports_bad_ones(aigbb: Run, server: Server) -> None:
    assert aigbb("sync").stdout == "Every file is registered as it is.\n"
    good, bad = server.functions / "cli_good.py", server.functions / "cli_bad.py"
    good.write_text("def cli_good() -> int:\n    return 1\n")
    bad.write_text("def cli_bad(:\n")
    done = aigbb("sync")
    assert done.exit_code == 2
    assert words(done.stdout)[1:] == [
        ["cli_good.py", "version 1", ""],
        ["cli_bad.py", "syntax_error: Line 1: invalid syntax.", "Fix the line named in `location`."],
    ]
    bad.unlink()
    again = aigbb("sync", "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (0, {"registered": [], "problems": []})
    assert aigbb("delete", "cli_good").exit_code == 0


# -- find


def test_functions_are_found_by_words_and_by_tag(aigbb: Run, area: str) -> None:
    for arguments in (["rectangle"], ["--tag", "geometry"], ["area", "-t", "geometry"]):
        done = aigbb("functions", *arguments)
        row = [AREA_SIGNATURE, "geometry", "Say the area of a rectangle."]
        assert [[cells[0], *cells[2:]] for cells in words(done.stdout)[1:]] == [row]
    assert aigbb("functions", "--tag", "unknown").stdout == "No function fits.\n"
    assert json.loads(aigbb("functions", "--tag", "unknown", "--json").stdout) == []


def test_lists_are_read_to_the_last_page(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.client.PAGE", 1)
    found = Client(server.url, server.token).pages("/functions")
    assert [one["name"] for one in found] == ["markdown_table", "plot_series", "word_count"]


def test_show_has_parameters_facts_and_source(aigbb: Run, area: str) -> None:
    shown = aigbb("show", "cli_area").stdout
    assert shown.startswith(f"{AREA_SIGNATURE}  version ")
    assert "Say the area of a rectangle.\n" in shown
    assert ["unit", '"cm" | "m"', '"cm"', ""] in words(shown)
    assert "returns  string\ntags  geometry\n" in shown
    assert "digest  sha256:" in shown
    assert shown.endswith(AREA)


def test_an_older_version_is_shown_as_not_active(aigbb: Run, area: str) -> None:
    number = json.loads(aigbb("show", "cli_area", "--json").stdout)["version"]
    Path(area).write_text(AREA.replace("Say", "Tell"))
    assert aigbb("register", area).exit_code == 0
    shown = aigbb("show", f"cli_area@{number}").stdout
    assert f"version {number}, not active" in shown
    assert "Say the area" in shown


SHAPES = """
from typing import Any, Optional
from typing_extensions import TypedDict

class Node(TypedDict):
    value: int
    children: "list[Node]"

def cli_shapes(tree: Node, rows: list[dict[str, int]], when: Optional[str], any_of: Any, one: int | str = 1): pass
"""


def test_types_are_short_words(aigbb: Run, write: Callable[[str, str], str]) -> None:
    done = aigbb("register", write("shapes", SHAPES), "--dry-run")
    assert [row[:3] for row in words(done.stdout)[1:]] == [
        ["tree", "Node", "required"],
        ["rows", "array[object[integer]]", "required"],
        ["when", "string | null", "required"],
        ["any_of", "any", "required"],
        ["one", "integer | string", "1"],
    ]


def test_tools_are_printed_as_the_service_renders_them(aigbb: Run, area: str, server: Server) -> None:
    done = aigbb("tools", "--format", "anthropic", "--tag", "geometry")
    [tool] = json.loads(done.stdout)
    assert tool["name"] == "cli_area"
    assert "user" not in tool["input_schema"]["properties"]
    assert aigbb("tools", "--format", "prompt", "-t", "geometry").stdout.startswith("### Tool: cli_area\nSay the area")
    strict = aigbb("tools", "--strict")
    with server.client() as client:
        assert json.loads(strict.stdout) == client.get("/tools?strict=true").json()
    assert strict.stderr.startswith("not strict  ")
    assert aigbb("tools", "--format", "unknown").exit_code == 2


def test_tools_are_exported_to_a_file(aigbb: Run, area: str, server: Server, tmp_path: Path) -> None:
    done = aigbb("tools", "export", str(tmp_path / "tools.json"), "--tag", "geometry")
    assert (done.exit_code, done.stdout) == (0, "") and "1 function in" in done.stderr
    written = json.loads((tmp_path / "tools.json").read_text(encoding="utf-8"))
    assert written == json.loads(aigbb("tools", "--tag", "geometry").stdout)
    refused = aigbb("tools", "export", str(tmp_path / "none" / "tools.json"))
    assert refused.exit_code == 2 and "could not be written" in refused.stderr


# -- call


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (['{"width": 2, "unit": "m"}'], "2.0 m2"),
        (["-a", "width=2"], "2.0 cm2"),
        (["-a", 'width="2"', "-a", "unit=m"], "2.0 m2"),
        (['{"width": 2}', "-a", "width=3"], "3.0 cm2"),
        (["-a", "width=Infinity"], "inf cm2"),
    ],
)
def test_a_call_prints_what_the_function_prints_and_its_result(
    aigbb: Run, area: str, arguments: list[str], printed: str
) -> None:
    done = aigbb("call", "cli_area", *arguments)
    assert (done.exit_code, done.stdout) == (0, f"measuring\n{printed}\n"), done.output


def test_a_call_reads_stdin_and_prints_json(aigbb: Run) -> None:
    done = aigbb("call", "word_count", "-", stdin='{"text": "b a b"}')
    assert (done.exit_code, done.stdout) == (0, '{\n  "b": 2,\n  "a": 1\n}\n')
    answer = json.loads(aigbb("call", "word_count", "-a", "text=b", "--json").stdout)
    assert (answer["result"], answer["version"]) == ({"b": 1}, 1)


def test_a_function_that_shows_and_returns_nothing_says_so(aigbb: Run) -> None:
    done = aigbb("call", "plot_series", '{"series": {"a": [1, 2]}}')
    assert done.exit_code == 0
    assert done.stdout.startswith("<Figure size")
    told = r"The function returned nothing.\nIt showed: image/png \(/results/[\w-]+\.png\)\.\n"
    assert re.fullmatch(told, done.stderr)


def test_wrong_arguments_are_a_table_and_do_not_run(aigbb: Run, area: str) -> None:
    done = aigbb("call", "cli_area", "-a", "widht=2", "-a", "height=tall")
    assert (done.exit_code, done.stdout) == (2, "")
    assert words(done.stderr) == [
        ["parameter", "what is wrong", "did you mean"],
        ["width", "This argument is required", ""],
        ["height", "Input should be a valid number, unable to parse string as a number", ""],
        ["widht", "There is no such argument", "width"],
    ]
    assert f"call it as: {AREA_SIGNATURE}" in done.stderr
    assert done.stderr.endswith("try: width instead of widht\n")


def test_a_function_that_fails_ends_with_1(aigbb: Run, write: Callable[[str, str], str]) -> None:
    source = "def cli_fails(wait: float = 0):\n    import time\n    time.sleep(wait)\n    return 1 / 0\n"
    assert aigbb("register", write("fails", source)).exit_code == 0
    done = aigbb("call", "cli_fails")
    assert done.exit_code == 1
    assert "ZeroDivisionError: division by zero" in done.stderr
    slow = aigbb("call", "cli_fails", "-a", "wait=60", "--timeout", "1")
    assert slow.exit_code == 1
    assert slow.stderr.startswith("timeout  Timed out after 1 s")
    assert aigbb("delete", "cli_fails").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["word_count", "{"], "not JSON"),
        (["word_count", "[1]"], "one object"),
        (["word_count", "-a", "text"], "NAME=VALUE"),
        (["word_cont"], "try: name word_count"),
        (["word_count@77"], "there are: 1"),
    ],
)
def test_a_call_that_cannot_be_is_refused(aigbb: Run, arguments: list[str], said: str) -> None:
    done = aigbb("call", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr


# -- versions


def test_versions_are_compared_rolled_back_deleted_and_brought_back(
    aigbb: Run, write: Callable[[str, str], str]
) -> None:
    path = write("turns", "def cli_turns() -> int:\n    return 1\n")
    assert aigbb("register", path).exit_code == 0
    assert aigbb("diff", "cli_turns").stdout == "Nothing differs between cli_turns@1 and cli_turns@1.\n"
    write("turns", "def cli_turns() -> int:\n    return 2\n")
    assert aigbb("register", path).exit_code == 0
    lines = ["@@ -1,2 +1,2 @@", " def cli_turns() -> int:", "-    return 1", "+    return 2"]
    assert aigbb("diff", "cli_turns").stdout.splitlines() == ["--- cli_turns@1", "+++ cli_turns@2", *lines]
    assert "+    return 1" in aigbb("diff", "cli_turns", "1", "--against", "2").stdout
    assert aigbb("call", "cli_turns@1").stdout == "1\n"
    assert "version 1 on" in aigbb("activate", "cli_turns", "1").stdout
    assert aigbb("call", "cli_turns").stdout == "1\n"
    listed = words(aigbb("versions", "cli_turns").stdout)
    assert [row[:2] for row in listed] == [["version", ""], ["2", ""], ["1", "active"]]
    deleted = aigbb("delete", "cli_turns").stdout
    assert deleted == "cli_turns@1 is out of service. Undo: aigbb activate cli_turns 1\n"
    assert aigbb("call", "cli_turns").exit_code == 2
    assert "unchanged" not in aigbb("activate", "cli_turns", "2").stdout
    assert json.loads(aigbb("delete", "cli_turns", "--json").stdout) == {"name": "cli_turns", "version": 2}
    past = words(aigbb("history", "cli_turns", "--limit", "4").stdout)
    assert [row[1:4] for row in past] == [
        ["action", "function", "outcome"],
        ["delete", "cli_turns@2", "ok"],
        ["activate", "cli_turns@2", "ok"],
        ["delete", "cli_turns@1", "ok"],
        ["activate", "cli_turns@1", "ok"],
    ]


def test_a_version_whose_variables_are_gone_asks_for_them(aigbb: Run, write: Callable[[str, str], str]) -> None:
    path = write("keyed", "import os\n\ndef cli_keyed() -> str:\n    return os.environ['CLI_KEY']\n")
    assert aigbb("register", path, "-e", "CLI_KEY=a").exit_code == 0
    assert aigbb("delete", "cli_keyed").exit_code == 0
    refused = aigbb("activate", "cli_keyed", "1")
    assert refused.exit_code == 2
    assert refused.stderr.endswith("try: --env CLI_KEY=...\n")
    assert aigbb("activate", "cli_keyed", "1", "-e", "CLI_KEY=b").exit_code == 0
    assert aigbb("call", "cli_keyed").stdout == "b\n"
    assert aigbb("delete", "cli_keyed").exit_code == 0


# -- all commands


def test_every_command_but_serve_answers_json_and_takes_an_address() -> None:
    told: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    groups = {name: vars(one)["commands"] for name, one in told.items() if "commands" in vars(one)}
    commands = {name: one for name, one in told.items() if name not in groups or one.invoke_without_command}
    commands |= {f"{group} {name}": one for group, members in groups.items() for name, one in members.items()}
    flags = {name: {flag for p in one.params for flag in p.opts} for name, one in commands.items()}
    assert sorted(flags) == [
        "activate", "approvals", "approve", "backup", "call", "chat", "conversations", "delete", "diff", "doctor",
        "execute", "executions", "functions", "history", "kernels", "keys create", "keys list", "keys revoke",
        "keys rotate", "register", "restore", "secrets delete", "secrets grant", "secrets list", "secrets set", "serve",
        "sessions", "show", "sync", "tools", "tools export", "versions",
    ]  # fmt: skip
    assert sorted(name for name in flags if not {"--json", "--url"} <= flags[name]) == ["backup", "restore", "serve"]


def test_a_foreign_service_is_recognised(tmp_path: Path, aigbb: Run) -> None:
    with serve_index(tmp_path) as foreign:
        (tmp_path / "kernels").write_text("<p>Hello")
        done = aigbb("kernels", "--url", foreign.url)
    assert done.exit_code == 2
    assert done.stderr.startswith("unexpected_answer  ")
    assert aigbb("kernels", "--url", "no address").exit_code == 3


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        (["functions", "f@2", "call"], "/functions/f@2/call"),
        (["functions", "a/b?c#d", 3], "/functions/a%2Fb%3Fc%23d/3"),
        (["functions", "é\udcff"], "/functions/%C3%A9%3F"),
    ],
)
def test_names_stay_in_their_part_of_the_path(parts: list[object], path: str) -> None:
    assert path_of(*parts) == path
