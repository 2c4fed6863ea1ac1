"""A conversation in the terminal: what is shown where, what is kept, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server import printing
from server.cli import app
from tests.conftest import Server, running_server
from tests.provider import Provider, Refusal, asks, chunk, says

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory, cache: Path, provider: Provider) -> Iterator[Server]:
    """A service that has it, and two functions."""
    folder = tmp_path_factory.mktemp("talk")
    with running_server(folder, cache, {"OPENAI_BASE_URL": provider.url}, model="m", max_rounds=2) as server:
        with server.client() as client:
            sources = [
                "def add(n: int) -> int:\n    return n + 1\n",
                "def big(n: int, whose: str) -> str:\n    return whose * n\n",
            ]
            bodies = [{"source": sources[0], "tags": ["sums"]}, {"source": sources[1], "bound": ["whose"]}]
            assert client.post("/register/batch", json={"functions": bodies}).status_code == 201
        yield server


@pytest.fixture
def aigbb(chatting: Server, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`aigbb chat` with this service."""
    for console in (printing.out, printing.err):
        monkeypatch.setattr(console, "_width", 200)
    environment = {**chatting.environment, "AIGBB_PORT": chatting.url.rpartition(":")[2]}
    return lambda *arguments, stdin="": CliRunner().invoke(app, ["chat", *arguments], input=stdin, env=environment)


def test_the_answer_is_on_stdout_and_what_happens_beside_it(aigbb: Run, provider: Provider) -> None:
    provider.write_down("one", asks(("add", {"n": 1})), [chunk(reasoning_content="Easy."), *says("It is 2.")])
    ran = aigbb("--once", "one")
    assert (ran.exit_code, ran.stdout) == (0, "It is 2.\n")
    lines = ran.stderr.splitlines()
    assert lines[0] == '→ add {"n": 1}'
    assert lines[1].startswith("← add ok ") and lines[1].endswith(" ms  2")
    assert lines[2] == "Easy."


def test_calls_of_one_answer_have_a_line_each(aigbb: Run, provider: Provider) -> None:
    provider.write_down("two", asks(("add", {"n": 1}), ("add", {"n": 2})), says("ok"))
    lines = aigbb("--once", "two").stderr.splitlines()
    assert lines[:2] == ['→ add {"n": 1}', '→ add {"n": 2}']
    assert len(lines) == 4


def test_large_results_are_folded(aigbb: Run, provider: Provider) -> None:
    provider.write_down("large", asks(("big", {"n": 5000})), says("ok"))
    ran = aigbb("--once", "large", "--bound", "whose=x")
    assert "x ... 5,000 characters" in ran.stderr
    assert "x" * 300 not in ran.stderr


def test_a_question_is_read_from_stdin(aigbb: Run, provider: Provider) -> None:
    provider.write_down("from a pipe", says("yes"))
    assert aigbb("--once", "-", stdin="from a pipe").stdout == "yes\n"


def test_a_conversation_goes_on_from_turn_to_turn(aigbb: Run, provider: Provider) -> None:
    provider.write_down("first", asks(("add", {"n": 1})), says("2"), says("As I said."))
    ran = aigbb("--system", "Be brief.", stdin="first\n\nagain\n")
    assert (ran.exit_code, ran.stdout) == (0, "2\nAs I said.\n")
    roles = [message["role"] for message in provider.asked["first"][-1]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user"]


def test_a_failed_turn_is_explained_and_the_conversation_goes_on(aigbb: Run, provider: Provider) -> None:
    provider.write_down("fails", asks(("add", {"n": 1})), Refusal(400, "not today"), says("better now"))
    ran = aigbb(stdin="fails\nand now?\n")
    assert (ran.exit_code, ran.stdout) == (0, "better now\n")
    assert "model_failed" in ran.stderr and "not today" in ran.stderr
    roles = [message["role"] for message in provider.asked["fails"][-1]["messages"]]
    assert roles == ["user", "assistant", "tool", "user"]


def test_options_choose_model_and_tools(aigbb: Run, provider: Provider) -> None:
    provider.write_down("options", says("ok"), says("ok"))
    aigbb("--once", "options", "--model", "other", "--tool", "add")
    aigbb("--once", "options", "--tag", "sums")
    first, second = provider.asked["options"]
    assert first["model"] == "other"
    assert [tool["function"]["name"] for asked in (first, second) for tool in asked["tools"]] == ["add", "add"]


def test_an_answer_that_is_not_complete_says_so_and_is_no_success(aigbb: Run, provider: Provider) -> None:
    provider.write_down("limit", asks(("add", {"n": 1})), asks(("add", {"n": 2})), says("So far."))
    ran = aigbb("--once", "limit")
    assert (ran.exit_code, ran.stdout) == (1, "So far.\n")
    assert "limit of rounds" in ran.stderr


def test_json_is_the_whole_answer(aigbb: Run, provider: Provider) -> None:
    provider.write_down("json", says("yes"))
    ran = aigbb("--once", "json", "--json")
    assert json.loads(ran.stdout)["content"] == "yes"


def test_what_a_terminal_would_obey_is_not_shown(aigbb: Run, provider: Provider) -> None:
    provider.write_down("nasty", asks(("add", '{"n": "\x1b[2J"}')), says("\x1b]0;gotcha\x07words\r"))
    ran = aigbb("--once", "nasty")
    assert "words" in ran.stdout
    assert not {"\x1b", "\x07", "\r"} & set(ran.stdout + ran.stderr)


def test_a_refusal_ends_with_its_code(aigbb: Run, server: Server) -> None:
    assert aigbb("--once", "x", "--tool", "nothing").exit_code == 2
    environment = {**server.environment, "AIGBB_PORT": server.url.rpartition(":")[2]}
    ran = CliRunner().invoke(app, ["chat", "--once", "x"], env=environment)
    assert ran.exit_code == 2
    assert "AIGBB_MODEL" in ran.stderr
