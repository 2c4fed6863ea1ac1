"""Every example runs against a fresh service, prints what it promises, and leaves the functions as they were."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Server, running_server
from tests.provider import Provider, asks, says

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, cache: Path, provider: Provider) -> Iterator[Server]:
    """A service without functions. No two examples ask for the same package, so their order does not matter."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "aigbb_functions").mkdir()
    with running_server(folder, cache, {"OPENAI_BASE_URL": provider.url}, model="m") as started:
        yield started


def run(service: Server, name: str) -> list[str]:
    """The lines that an example prints; it has found the service by its settings."""
    environment = {**service.environment, "AIGBB_PORT": service.url.rpartition(":")[2], "AIGBB_URL": service.url}
    done = subprocess.run(
        [sys.executable, f"examples/{name}.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def names(service: Server) -> list[str]:
    """The registered functions."""
    with service.client() as client:
        return [one["name"] for one in client.get("/functions").json()]


def test_register_and_execute(service: Server) -> None:
    lines = run(service, "register_and_execute")
    assert lines[0].startswith("registered slug(title: str) -> str in aigbb_functions_kernel_")
    assert lines[1:] == ["ok 'every-function-by-its-name'"]
    with service.client() as client:
        assert client.delete("/functions/slug").status_code == 204


def test_typed_calls(service: Server) -> None:
    assert run(service, "typed_calls") == [
        "registered example_book(room: Literal['single', 'double'], arrives: date, "
        "nights: Annotated[int, Field(ge=1)] = 1) -> Stay",
        '  room: {"description": "Which kind of room.", "enum": ["single", "double"], "type": "string"}',
        '  arrives: {"description": "The first night.", "format": "date", "type": "string"}',
        '  nights: {"default": 1, "description": "How many nights.", "minimum": 1, "type": "integer"}',
        "result: {'room': 'single', 'leaves': '2030-05-04'}",
        "wrong: room: This argument is required",
        "wrong: nights: Input should be greater than or equal to 1",
        "wrong: rom: There is no such argument",
        "rename: {'rom': 'room'}",
        "result: {'room': 'double', 'leaves': '2030-05-03'}",
    ]
    assert names(service) == []


def test_chat(service: Server, provider: Provider) -> None:
    both = [("example_forecast", {"city": city}) for city in ("Rome", "London")]
    question = "Where do I need an umbrella tomorrow, in Rome or in London?"
    provider.write_down(question, asks(*both), says("In London."), says("A coat."))
    assert run(service, "chat") == [
        'asks for example_forecast {"city": "Rome"}',
        'asks for example_forecast {"city": "London"}',
        'is told  {"city":"Rome","sky":"sun","degrees":16}',
        'is told  {"city":"London","sky":"rain","degrees":18}',
        "done: In London.",
        "done: A coat.",
    ]
    assert names(service) == []


def test_versions(service: Server) -> None:
    lines = run(service, "versions")
    assert lines[:2] == ["--- example_greet@1", "+++ example_greet@2"]
    assert '-    return f"Hello, {name}!"' in lines
    assert '+    return f"Good evening, {name}!"' in lines
    assert lines[lines.index("") + 1 :] == [
        "active:      version 2 says Good evening, Ada!",
        "pinned:      version 1 says Hello, Ada!",
        "rolled back: version 1 says Hello, Ada!",
        "deleted:     True",
        "undone:      version 2 says Good evening, Ada!",
        "history:     delete example_greet@2 ok",
        "history:     activate example_greet@2 ok",
        "history:     delete example_greet@1 ok",
        "history:     activate example_greet@1 ok",
        "history:     register example_greet@2 ok",
        "history:     register example_greet@1 ok",
    ]
    assert names(service) == []


def test_dry_run_and_batch(service: Server) -> None:
    lines = run(service, "dry_run_and_batch")
    assert lines[0] == (
        'schema: {"additionalProperties": false, "properties": {"size": {"type": "integer"}, '
        '"digits": {"default": 1, "type": "integer"}}, "required": ["size"], "type": "object"}'
    )
    assert lines[1].startswith("packages: {'added': ['humanize==")
    assert lines[2:4] == ["new environment: True", "registered after the dry run: []"]
    assert lines[4].startswith("refused: import_failed Importing example_total raised ImportError")
    assert lines[5] == "registered after the refusal: []"
    assert lines[6].startswith("registered together: ['example_size', 'example_total'] in {'aigbb_functions_kernel_")
    assert lines[7:] == ["result: 2 files, 2.2 MB"]
    assert names(service) == []


def test_would_break(service: Server) -> None:
    lines = run(service, "would_break")
    assert lines[0].startswith("more-itertools: registered example_until, added ['more-itertools==")
    assert lines[1] == ("more-itertools<9: would_break. With these packages, example_until would not import any more.")
    assert lines[2].startswith(
        "  example_until: Importing example_until raised ImportError: "
        "cannot import name 'takewhile_inclusive' from 'more_itertools'"
    )
    assert lines[3:] == [
        "more-itertools>=10: registered example_until, added []",
        "more-itertools<9: dependency_conflict. "
        "'more-itertools<9' and 'more-itertools>=10' cannot be installed together.",
        "  more-itertools<9 for example_chunks",
        "  more-itertools>=10 for example_until",
        "  would have to give way: ['example_until@2']",
        "still works: [1, 5]",
    ]
    assert names(service) == []


def test_tools(service: Server) -> None:
    lines = run(service, "tools")
    assert lines[0].startswith('tools: [{"type": "function", "function": {"name": "example_note"')
    assert "user_id" not in lines[0]
    assert lines[1] == "tool call_1 noted for u-17 (low): Buy milk"
    assert lines[2].startswith('tool call_2 {"error": "invalid_arguments"')
    assert "Input should be 'low' or 'high'" in lines[2]
    assert lines[3:] == ["statuses: ['ok', 'invalid_arguments']"]
    assert names(service) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_is_short_and_has_its_test(name: str) -> None:
    assert (ROOT / "examples" / f"{name}.py").read_text().count("\n") < 60
    assert f"test_{name}" in globals()
