"""Every example runs against a fresh service, prints what it promises, and leaves the functions as they were."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Server, running_server
from tests.provider import Provider, asks, asks_in_words, asks_legacy, says, whole

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
# Where there is a model, those that ask one do it with that too.
WITH_MODEL = ["chat", "parallel", "extract", "approval", "retrieval", "legacy", "prompt_mode", "own_loop"]
MODEL = os.environ.get("AIGBB_MODEL", "")
KEYS = {name: value for name, value in os.environ.items() if name in ("OPENAI_API_KEY", "OPENAI_BASE_URL")}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, cache: Path, provider: Provider) -> Iterator[Server]:
    """A service without functions. No two examples ask for the same package, so their order does not matter."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "aigbb_functions").mkdir()
    with running_server(folder, cache, {"OPENAI_BASE_URL": provider.url}, model="m") as started:
        yield started


def run(service: Server, name: str, *arguments: str, stdin: int = subprocess.DEVNULL) -> list[str]:
    """The lines that an example prints; it has found the service by its settings."""
    environment = {"OPENAI_API_KEY": "none", **service.environment, "AIGBB_URL": service.url}
    done = subprocess.run(
        [sys.executable, f"examples/{name}.py", *arguments],
        cwd=ROOT,
        env={**environment, "AIGBB_PORT": service.url.rpartition(":")[2]},
        stdin=stdin,
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


def test_a_talk_in_the_terminal_keeps_its_history(service: Server, provider: Provider, tmp_path: Path) -> None:
    source = (ROOT / "finetune" / "functions" / "add.py").read_text()
    typed = tmp_path / "typed"
    typed.write_text("What is 3 plus 4?\nAnd 5 more?\n\n")
    provider.write_down(
        "What is 3 plus 4?", asks(("add", {"a": 3, "b": 4})), says("7."), asks(("add", {"a": 7, "b": 5})), says("12.")
    )
    with service.client() as client, typed.open() as stdin:
        assert client.post("/register", json={"source": source}).status_code == 201
        lines = run(service, "../finetune/examples/test_infer", stdin=stdin.fileno())
        assert client.delete("/functions/add").status_code == 204
    assert lines == [
        'What would you like to know?   calls add({"a": 3, "b": 4})',
        "  the kernel answers 7",
        "7.",
        'Anything else?   calls add({"a": 7, "b": 5})',
        "  the kernel answers 12",
        "12.",
        "Anything else? ",
    ]


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


def test_parallel(service: Server, provider: Provider) -> None:
    cities = [("example_weather", {"city": city}) for city in ("Paris", "London")]
    provider.write_down("What is the weather in Paris and in London?", asks(*cities), says("Sun, and rain."))
    assert run(service, "parallel") == [
        'asks for example_weather {"city": "Paris"}',
        'asks for example_weather {"city": "London"}',
        'is told  {"city":"Paris","sky":"sun","degrees":17}',
        'is told  {"city":"London","sky":"rain","degrees":18}',
        "done: Sun, and rain.",
    ]
    assert names(service) == []


def test_extract(service: Server, provider: Provider) -> None:
    question = "Hi, it's Ada. Could you put two large pizzas aside for me? And a lemonade, thanks!"
    items = [{"name": "pizza", "quantity": 2, "size": "large"}, {"name": "lemonade", "quantity": 1, "size": None}]
    order = {"customer": "Ada", "items": items}
    # What does not fit the types is told to the model, and does not come out.
    wrong = {**order, "items": [{**items[0], "quantity": 0}]}
    provider.write_down(question, asks(("extract_data", wrong)), asks(("extract_data", order)))
    lines = run(service, "extract")
    assert json.loads("\n".join(lines[:-1])) == order
    assert lines[-1] == "to make: 3"
    first, second = provider.asked[question]
    assert first["tool_choice"] == {"type": "function", "function": {"name": "extract_data"}}
    assert first["tools"][0]["function"]["strict"] is True
    assert "greater than or equal to 1" in second["messages"][-1]["content"]
    assert names(service) == []


MAIL = {"to": "ada@example.com", "subject": "Lunch", "body": "At one."}
ASKED = "Tell ada@example.com by email that lunch is at one."
WAITS = f"send_email waits: {json.dumps(MAIL)}"


def test_approval(service: Server, provider: Provider) -> None:
    provider.write_down(ASKED, asks(("send_email", MAIL)), says("I have sent it."))
    lines = [re.sub(r"(?<=send_email)@\d+", "", line) for line in run(service, "approval", "--yes")]
    assert lines == [WAITS, "send_email: ok", "done: I have sent it."]
    assert names(service) == []


def test_approval_that_is_not_given(service: Server, provider: Provider) -> None:
    for arguments in (["--no"], []):
        provider.write_down(ASKED, asks(("send_email", MAIL)), says("I have not sent it."))
        _, *lines = run(service, "approval", *arguments)
        assert lines == ["send_email: rejected", "done: I have not sent it."]
        assert "Do not send anything today." in provider.asked[ASKED][1]["messages"][-1]["content"]


@pytest.mark.parametrize(("typed", "outcome"), [("y", "ok"), ("n", "rejected")])
def test_approval_in_a_terminal(service: Server, provider: Provider, typed: str, outcome: str) -> None:
    provider.write_down(ASKED, asks(("send_email", MAIL)), says("Well."))
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{typed}\n".encode())
        _, *lines = run(service, "approval", stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert lines == [f"Send it? [y/n] send_email: {outcome}", "done: Well."]


def test_retrieval(service: Server, provider: Provider, shown: Path) -> None:
    shutil.copytree(ROOT / "examples" / "notes", shown / "notes")
    question = "How many days of holiday do I have, and who agrees to them?"
    search = ("search_notes", {"query": "days of holiday, agreed with", "limit": 2})
    provider.write_down(question, asks(search), says("28; Grace (holidays.txt)."))
    lines = run(service, "retrieval", str(shown / "notes"))
    assert lines[0] == f"searched {json.dumps(search[1])}"
    assert lines[1].startswith("  holidays.txt: Everybody has 28 days of holiday a year.")
    assert lines[2].startswith("  holidays.txt: Holidays are agreed with the team first")
    assert lines[3:] == ["done: 28; Grace (holidays.txt)."]
    [tool] = provider.asked[question][0]["tools"]
    assert "folder" not in json.dumps(tool)
    assert names(service) == []


def test_legacy(service: Server, provider: Provider) -> None:
    question = "How many dollars are 8 euros?"
    provider.write_down(question, asks_legacy("example_rate", {"currency": "USD"}), says("10."))
    offered, user, called, told, said = run(service, "legacy")
    assert offered.startswith("offered: [{'name': 'example_rate', 'description': 'What a euro costs in another")
    assert (user, told, said) == (f"user: {question}", "tool: 1.25", "assistant: 10.")
    assert called.startswith("assistant: [{'id': ") and "'example_rate'" in called
    first, second = provider.asked[question]
    assert first["functions"][0]["responses"] == {"type": "number"}
    assert "tools" not in first
    assert second["messages"][-1] == {"role": "function", "name": "example_rate", "content": "1.25"}
    assert names(service) == []


def test_prompt_mode(service: Server, provider: Provider) -> None:
    question = "Are there any lamps left?"
    provider.write_down(question, asks_in_words(("example_stock", {"article": "lamp"})), says("Yes, twelve."))
    lines = run(service, "prompt_mode")
    assert any("example_stock" in line for line in lines[:3])
    assert lines[-3:] == [
        'called: example_stock {"article": "lamp"} -> 12',
        "done: Yes, twelve.",
        "roles: ['user', 'assistant', 'tool', 'assistant']",
    ]
    assert not {"tools", "functions"} & provider.asked[question][0].keys()
    assert names(service) == []


def test_own_loop(service: Server, provider: Provider) -> None:
    question = "What of my orders has not arrived?"
    call = {"name": "example_orders", "arguments": '{"open_only": true}'}
    asked = whole("tool_calls", tool_calls=[{"id": "call_0", "type": "function", "function": call}])
    provider.write_down(question, asked, whole(content="The chair."))
    assert run(service, "own_loop") == ['example_orders: ok, {"chair":"open"}', "answers:  The chair."]
    last: dict[str, Any] = provider.asked[question][1]["messages"][-1]
    assert last == {"role": "tool", "tool_call_id": "call_0", "content": '{"chair":"open"}'}
    assert names(service) == []


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Server]:
    """A service with the model that the developer has."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "aigbb_functions").mkdir()
    with running_server(folder, cache, KEYS, model=MODEL) as started:
        yield started


@pytest.mark.skipif(not (MODEL and KEYS.get("OPENAI_API_KEY")), reason="needs OPENAI_API_KEY and AIGBB_MODEL")
@pytest.mark.parametrize("name", WITH_MODEL)
def test_with_a_real_model(real: Server, name: str, shown: Path) -> None:
    notes = shutil.copytree(ROOT / "examples" / "notes", shown / "notes")
    assert run(real, name, *([str(notes)] if name == "retrieval" else []))
    assert names(real) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_is_short_and_has_its_test(name: str) -> None:
    assert (ROOT / "examples" / f"{name}.py").read_text().count("\n") < 60
    assert f"test_{name}" in globals()
