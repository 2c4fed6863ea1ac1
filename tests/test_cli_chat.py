"""A conversation in the terminal: what is shown where, what is kept, and how it ends."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server import printing
from server.cli import app
from tests.conftest import Server, running_server
from tests.provider import Provider, Refusal, Whole, asks, chunk, says, serving

Run = Callable[..., Result]

# A picture of one dot, twice.
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
DRAW = f"""
def draw() -> None:
    from IPython.display import display
    for _ in range(2):
        display({{"image/png": "{DOT}"}}, raw=True)
"""


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory, cache: Path, provider: Provider) -> Iterator[Server]:
    """A service that has it, and functions."""
    folder = tmp_path_factory.mktemp("talk")
    with running_server(folder, cache, {"OPENAI_BASE_URL": provider.url}, model="m", max_rounds=2) as server:
        with server.client() as client:
            sources = [
                "def add(n: int) -> int:\n    return n + 1\n",
                "def big(n: int, whose: str) -> str:\n    return whose * n\n",
            ]
            bodies = [{"source": sources[0], "tags": ["sums"]}, {"source": sources[1], "bound": ["whose"]}]
            bodies += [{"source": DRAW, "effects": "read"}]
            assert client.post("/register/batch", json={"functions": bodies}).status_code == 201
        yield server


@pytest.fixture
def command(chatting: Server, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`aigbb` with this service."""
    for console in (printing.out, printing.err):
        monkeypatch.setattr(console, "_width", 200)
    environment = {**chatting.environment, "AIGBB_PORT": chatting.url.rpartition(":")[2]}
    return lambda *arguments, stdin="": CliRunner().invoke(app, arguments, input=stdin, env=environment)


@pytest.fixture
def aigbb(command: Run) -> Run:
    """`aigbb chat` with this service."""
    return lambda *arguments, stdin="": command("chat", *arguments, stdin=stdin)


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
    provider.write_down("options", says("ok"), says("ok"), says("ok"))
    aigbb("--once", "options", "--model", "other", "--tool", "add")
    aigbb("--once", "options", "--tools", "add")
    aigbb("--once", "options", "--tag", "sums")
    first, *_ = provider.asked["options"]
    assert first["model"] == "other"
    offered = [tool["function"]["name"] for asked in provider.asked["options"] for tool in asked["tools"]]
    assert offered == ["add", "add", "add"]


def test_a_mode_is_how_the_model_is_spoken_to(aigbb: Run, provider: Provider) -> None:
    provider.write_down("mode", says("ok"))
    assert aigbb("--once", "mode", "--mode", "legacy", "--tool", "add").exit_code == 0
    assert [function["name"] for function in provider.asked["mode"][0]["functions"]] == ["add"]
    assert aigbb("--once", "mode", "--mode", "loud").exit_code == 2


def test_another_model_service_is_asked_with_ones_own_key(
    aigbb: Run, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-own")
    with serving() as other:
        other.write_down("elsewhere", asks(("add", {"n": 1})), says("2"))
        assert aigbb("--once", "elsewhere", "--base-url", other.url).stdout == "2\n"
    assert other.keys == {"Bearer sk-own"}
    assert "elsewhere" not in provider.asked


def test_without_a_key_none_is_sent(aigbb: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent is looked at by a service that is none."""
    monkeypatch.setenv("OPENAI_API_KEY", "")
    with serving() as listening:
        listening.write_down("keyless", Whole({"status": "done", "approval": None}))
        ran = aigbb("--once", "keyless", "--base-url", "http://127.0.0.1:9/v1", "--json", "--url", listening.url)
    assert ran.exit_code == 0, ran.stderr
    assert listening.asked["keyless"][0]["service"] == {"base_url": "http://127.0.0.1:9/v1", "api_key": None}


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


# -- what is kept


def test_a_kept_conversation_goes_on_and_is_told_its_beginning_once(
    aigbb: Run, command: Run, provider: Provider
) -> None:
    provider.write_down("kept", asks(("add", {"n": 1})), says("2"), says("As I said."), says("Yes, [bold]really[/]."))
    told = ["--conversation", "sums-1", "--system", "Be brief."]
    assert aigbb(*told, "--once", "kept").stdout == "2\n"
    assert aigbb(*told, stdin="again\nreally?\n").stdout == "As I said.\nYes, [bold]really[/].\n"
    roles = [message["role"] for message in provider.asked["kept"][-1]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user", "assistant", "user"]
    shown = command("conversations", "sums-1")
    assert shown.stdout.splitlines() == [
        "system> Be brief.",
        "you> kept",
        '→ add {"n": 1}',
        "← 2",
        "2",
        "you> again",
        "As I said.",
        "you> really?",
        "Yes, [bold]really[/].",
    ]
    assert shown.stderr == "sums-1: idle, 9 messages\n"
    assert json.loads(command("conversations", "sums-1", "--json").stdout)["id"] == "sums-1"
    [line] = [line for line in command("conversations").stdout.splitlines() if "sums-1" in line]
    assert [cell.strip() for cell in line.strip("│").split("│")][:3] == ["sums-1", "idle", "9"]
    assert command("conversations", "--delete", "sums-1").stdout == "sums-1 is forgotten.\n"
    assert command("conversations", "--delete", "sums-1").exit_code == 2
    assert "sums-1" not in command("conversations").stdout


def test_a_kept_conversation_survives_a_turn_that_fails(aigbb: Run, provider: Provider) -> None:
    provider.write_down("broken", Refusal(400, "not today"), says("better now"))
    ran = aigbb("--conversation", "broken", "--system", "Be brief.", stdin="broken\nand now?\n")
    assert (ran.exit_code, ran.stdout) == (0, "better now\n")
    roles = [message["role"] for message in provider.asked["broken"][-1]["messages"]]
    assert roles == ["system", "user", "user"]


# -- pictures


def test_pictures_are_saved_beside_those_that_are_there(aigbb: Run, provider: Provider, tmp_path: Path) -> None:
    provider.write_down("draw", asks(("draw", {})), says("Look."))
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "draw-1.png").write_text("mine")
    ran = aigbb("--once", "draw", "--pictures", str(folder))
    assert ran.exit_code == 0
    assert [line for line in ran.stderr.splitlines() if line.startswith("picture")] == [
        f"picture: {folder / 'draw-2.png'}",
        f"picture: {folder / 'draw-3.png'}",
    ]
    assert (folder / "draw-1.png").read_text() == "mine"
    assert (folder / "draw-3.png").read_bytes() == b64decode(DOT)


def test_a_picture_that_cannot_be_saved_is_not_the_end(aigbb: Run, provider: Provider, tmp_path: Path) -> None:
    provider.write_down("blocked", asks(("draw", {})), says("Look."))
    (tmp_path / "file").touch()
    ran = aigbb("--once", "blocked", "--pictures", str(tmp_path / "file" / "folder"))
    assert (ran.exit_code, ran.stdout) == (0, "Look.\n")
    assert "a picture of draw is not saved" in ran.stderr


def test_the_whole_of_a_long_result_is_one_link_away(aigbb: Run, chatting: Server, provider: Provider) -> None:
    provider.write_down("whole", asks(("big", {"n": 50_000})), says("ok"))
    ran = aigbb("--once", "whole", "--bound", "whose=x")
    [link] = [line.removeprefix("whole: ") for line in ran.stderr.splitlines() if line.startswith("whole: ")]
    with chatting.client() as client:
        assert client.get(link.removeprefix(chatting.url)).text == "x" * 50_000
