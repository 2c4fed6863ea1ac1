"""Calls that wait for a person, at the command line: what is asked, what an answer does, and what waits for later."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from server import printing
from server.cli import app
from tests.conftest import Server, running_server
from tests.person import Person, at_a_terminal
from tests.provider import Provider, Silence, asks, says

Run = Callable[..., Result]
Sit = Callable[..., AbstractContextManager[Person]]

PAY = 'def pay(whom: str, amount: int) -> str:\n    return f"{whom} has {amount}"\n'
CHOICE = "in its stead > "


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory, cache: Path, provider: Provider) -> Iterator[Server]:
    """A service with a model, and a function that is not to be called just so."""
    folder = tmp_path_factory.mktemp("bank")
    with running_server(folder, cache, {"OPENAI_BASE_URL": provider.url}, model="m") as server:
        with server.client() as client:
            assert client.post("/register", json={"source": PAY, "effects": "write"}).status_code == 201
        yield server


@pytest.fixture
def environment(bank: Server) -> dict[str, str]:
    """Commands find the service by its settings."""
    return {**bank.environment, "AIGBB_PORT": bank.url.rpartition(":")[2]}


@pytest.fixture
def aigbb(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Commands with this service, and nobody to be asked."""
    for console in (printing.out, printing.err):
        monkeypatch.setattr(console, "_width", 200)
    return lambda *arguments, stdin="": CliRunner().invoke(app, arguments, input=stdin, env=environment)


@pytest.fixture
def sit(environment: dict[str, str], tmp_path: Path) -> Sit:
    """`aigbb chat` at a terminal."""
    return lambda *arguments: at_a_terminal(tmp_path, environment, "chat", *arguments)


@pytest.fixture
def held(aigbb: Run, provider: Provider) -> Callable[..., str]:
    """Have calls wait; the approval's id."""

    def hold(*calls: dict[str, Any], then: str = "Paid.") -> str:
        question = f"hold {len(provider.asked)}"
        wanted = calls or ({"whom": "ann", "amount": 5},)
        provider.write_down(question, asks(*(("pay", arguments) for arguments in wanted)), says(then))
        return identity(aigbb("chat", "--once", question).stderr)

    return hold


def identity(shown: str) -> str:
    """The id in what is said of how to decide."""
    found = re.search(r"aigbb approve (\S+)", shown)
    assert found, shown
    return found[1]


def paying(*whom: str) -> list[dict[str, Any]]:
    """An answer that asks for these to be paid."""
    return asks(*(("pay", {"whom": each, "amount": 5}) for each in whom))


def results(provider: Provider, question: str) -> list[str]:
    """What the model read of its calls."""
    return [message["content"] for message in provider.asked[question][-1]["messages"] if message["role"] == "tool"]


# -- at a terminal


def test_a_person_is_asked_and_each_answer_does_what_it_says(sit: Sit, provider: Provider) -> None:
    turns = [(paying(name), says(f"So much for {name}.")) for name in ("yes", "edit", "no", "respond", "ann")]
    provider.write_down("q", *(answer for turn in turns for answer in turn), paying("bob"), says("All paid."))
    with sit() as person:
        person.sees("you> ")
        person.types("q")
        asked = person.sees(CHOICE)
        assert 'pay@1  effects: write\n{\n  "whom": "yes",\n  "amount": 5\n}\n' in asked
        person.types("hm")
        person.sees(CHOICE)
        person.types("y")
        assert "yes has 5\nSo much for yes.\n" in person.sees("you> ")

        person.types("next")
        person.sees(CHOICE)
        person.types("e")
        person.sees('arguments > {"whom": "edit", "amount": 5}')
        person.types("}")
        assert "not JSON" in person.sees("5}}")
        person.presses("u")
        person.types('{"whom": "edit", "amount": 4}')
        assert "edit has 4\n" in person.sees("you> ")

        person.types("next")
        person.sees(CHOICE)
        person.types("no")
        person.sees("why not, if you like to say > ")
        person.types("too much")
        person.sees("you> ")

        person.types("next")
        person.sees(CHOICE)
        person.types("r")
        person.sees("what the model is to read > ")
        person.types("paid by hand")
        person.sees("you> ")

        person.types("next")
        person.sees(CHOICE)
        person.types("a")
        person.sees("you> ")
        person.types("next")
        assert CHOICE not in person.sees("you> ")
        assert person.leaves() == 0
    first, edited, rejected, answered, always, later = results(provider, "q")
    assert (first, answered, always, later) == ("yes has 5", "paid by hand", "ann has 5", "bob has 5")
    assert edited.endswith("\nedit has 4")
    assert "too much" in rejected
    assert [m["content"] for m in provider.asked["q"][-1]["messages"] if m["role"] == "user"] == ["q"] + ["next"] * 5


def test_calls_that_wait_together_are_asked_about_one_by_one(sit: Sit, provider: Provider) -> None:
    provider.write_down("both", paying("one", "two"), paying("three"), says("ok"))
    with sit() as person:
        person.sees("you> ")
        person.types("both")
        person.sees(CHOICE)
        person.types("y")
        assert '"two"' in person.sees(CHOICE)
        person.types("a")
        assert CHOICE not in person.sees("you> ")
    assert results(provider, "both") == ["one has 5", "two has 5", "three has 5"]


@pytest.mark.parametrize("key", ["c", "d"])
def test_a_question_that_is_left_can_be_decided_later(sit: Sit, aigbb: Run, provider: Provider, key: str) -> None:
    provider.write_down(f"left {key}", paying("late"), says("Paid late."))
    with sit() as person:
        person.sees("you> ")
        person.types(f"left {key}")
        person.sees(CHOICE)
        if key == "c":
            waiting = identity(person.interrupts("you> "))
        else:
            person.presses(key)
            waiting = identity(person.sees("you> "))
        assert person.leaves() == 0
    done = aigbb("approve", waiting)
    assert (done.exit_code, done.stdout) == (0, "Paid late.\n")


def test_a_conversation_that_waits_asks_when_it_is_opened_again(sit: Sit, aigbb: Run, provider: Provider) -> None:
    provider.write_down("later", paying("ann"), says("Paid after all."))
    assert aigbb("chat", "--conversation", "open", "--once", "later").exit_code == 1
    with sit("--conversation", "open") as person:
        assert "open: waiting, 2 messages" in person.sees(CHOICE)
        person.types("y")
        assert "Paid after all.\n" in person.sees("you> ")
        assert person.leaves() == 0


def test_what_came_too_late_is_explained_and_the_conversation_goes_on(sit: Sit, aigbb: Run, provider: Provider) -> None:
    provider.write_down("slow", paying("ann"), says("Paid."), says("Still here."))
    with sit("--conversation", "slow") as person:
        person.sees("you> ")
        person.types("slow")
        person.sees(CHOICE)
        [waiting] = [a["id"] for a in listed(aigbb) if a["conversation"] == "slow"]
        assert aigbb("approve", waiting).exit_code == 0
        person.types("y")
        assert "was decided already" in person.sees("you> ")
        person.types("well?")
        assert "Still here." in person.sees("you> ")


def listed(aigbb: Run) -> list[dict[str, Any]]:
    """What waits."""
    found: list[dict[str, Any]] = json.loads(aigbb("approvals", "--json").stdout)["approvals"]
    return found


def test_ctrl_c_stops_a_turn_and_not_the_conversation(sit: Sit, provider: Provider) -> None:
    provider.write_down("hangs", paying("ann"), Silence())
    provider.write_down("next", says("Here."))
    with sit("--approve", "pay") as person:
        person.sees("you> ")
        person.types("hangs")
        person.sees("← pay ok")
        person.interrupts("stopped")
        person.sees("you> ")
        person.types("next")
        person.sees("Here.\n")
        person.sees("you> ")
        assert person.leaves() == 0


# -- with nobody there


def test_once_says_what_waits_and_is_no_success(aigbb: Run, provider: Provider) -> None:
    provider.write_down("once", paying("ann"), says("Paid."))
    ran = aigbb("chat", "--once", "once")
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert '"whom": "ann"' in ran.stderr
    done = aigbb("approve", identity(ran.stderr))
    assert (done.exit_code, done.stdout) == (0, "Paid.\n")
    assert "← pay ok" in done.stderr


def test_questions_from_a_pipe_end_where_something_waits(aigbb: Run, provider: Provider) -> None:
    provider.write_down("piped", paying("ann"), says("Paid."))
    ran = aigbb("chat", stdin="piped\nand then?\n")
    assert ran.exit_code == 1
    assert len(provider.asked["piped"]) == 1
    assert aigbb("approve", identity(ran.stderr)).stdout == "Paid.\n"


def test_functions_that_are_approved_beforehand_do_not_wait(aigbb: Run, provider: Provider) -> None:
    provider.write_down("beforehand", paying("ann"), says("Paid."), paying("bob"), says("Again."))
    ran = aigbb("chat", "--approve", "pay", stdin="beforehand\nagain\n")
    assert (ran.exit_code, ran.stdout) == (0, "Paid.\nAgain.\n")


def test_json_has_what_waits(aigbb: Run, provider: Provider) -> None:
    provider.write_down("json", paying("ann"), says("Paid."))
    ran = aigbb("chat", "--once", "json", "--json")
    told = json.loads(ran.stdout)
    assert (ran.exit_code, told["status"], ran.stderr) == (1, "needs_confirmation", "")
    done = aigbb("approve", told["approval"]["id"], "--json")
    assert (done.exit_code, json.loads(done.stdout)["content"]) == (0, "Paid.")


def test_what_waits_is_listed_in_short_and_shown_in_full(aigbb: Run, held: Callable[..., str]) -> None:
    waiting = held({"whom": "\u202eeve" + "x" * 80, "amount": 5})
    lines = aigbb("approvals").stdout.splitlines()
    [line] = [line for line in lines if waiting in line]
    assert "pay@1" in line and '{"whom": "\\u202eevexxx' in line and "x ..." in line
    shown = aigbb("approvals", waiting).stderr
    assert "x" * 80 in shown and "waiting, until" in shown
    assert json.loads(aigbb("approvals", waiting, "--json").stdout)["id"] == waiting
    assert aigbb("approve", waiting).exit_code == 0
    assert waiting not in aigbb("approvals").stdout


def test_a_rejection_says_why_to_the_model(aigbb: Run, held: Callable[..., str], provider: Provider) -> None:
    done = aigbb("approve", held(then="Then not."), "--reject", "too much")
    assert (done.exit_code, done.stdout) == (0, "Then not.\n")
    assert "← pay rejected" in done.stderr
    assert "too much" in results(provider, list(provider.asked)[-1])[0]


def test_arguments_are_edited(aigbb: Run, held: Callable[..., str]) -> None:
    assert "bob has 1" in aigbb("approve", held(), "--edit", '{"whom": "bob", "amount": 1}').stderr
    both = held({"whom": "ann", "amount": 1}, {"whom": "bob", "amount": 2})
    done = aigbb("approve", both, "--edit", 'call_1={"whom": "bob", "amount": 3}')
    assert "ann has 1" in done.stderr and "bob has 3" in done.stderr


def test_edits_that_cannot_be_are_refused_and_it_still_waits(aigbb: Run, held: Callable[..., str]) -> None:
    waiting = held({"whom": "ann", "amount": 1}, {"whom": "bob", "amount": 2})
    for edit, said in [
        ('{"whom": "bob"}', "say which"),
        ("call_7={}", "no call 'call_7'"),
        ("call_0={", "not JSON"),
        ("call_0=[1]", "one object"),
        ('call_0={"amount": NaN}', "NaN"),
    ]:
        ran = aigbb("approve", waiting, "--edit", edit)
        assert ran.exit_code == 2
        assert said in ran.stderr
    assert aigbb("approve", waiting, "--reject", "no", "--always").exit_code == 2
    assert waiting in aigbb("approvals").stdout
    assert aigbb("approve", waiting, "--reject", "").exit_code == 0


def test_always_is_for_the_conversation(aigbb: Run, provider: Provider) -> None:
    provider.write_down("always", paying("ann"), paying("bob"), says("Both."))
    assert aigbb("chat", "--conversation", "regulars", "--once", "always").exit_code == 1
    [waiting] = [a["id"] for a in listed(aigbb) if a["conversation"] == "regulars"]
    done = aigbb("approve", waiting, "--always")
    assert (done.exit_code, done.stdout) == (0, "Both.\n")
    assert "without a decision: pay@1" in aigbb("conversations", "regulars").stderr


def test_what_waits_next_is_said_too(aigbb: Run, provider: Provider) -> None:
    provider.write_down("twice", paying("ann"), paying("bob"), says("Both."))
    first = identity(aigbb("chat", "--once", "twice").stderr)
    done = aigbb("approve", first)
    assert done.exit_code == 1
    second = re.findall(r"aigbb approve (\S+)", done.stderr)[-1]
    assert second != first
    assert aigbb("approve", second).stdout == "Both.\n"


def test_calls_of_somebody_elses_loop_are_decided_too(aigbb: Run, bank: Server) -> None:
    function = {"name": "pay", "arguments": '{"whom": "ann", "amount": 5}'}
    for call in (
        {"id": "a", "type": "function", "function": function},
        {"call_id": "a", "type": "function_call", **function},
    ):
        with bank.client() as client:
            waiting = client.post("/tools/run", json={"tool_calls": [call]}).json()["approval"]["id"]
        done = aigbb("approve", waiting)
        assert done.exit_code == 0
        assert re.search(r"← pay ok .* ms  ann has 5", done.stderr)


@pytest.fixture
def agent(bank: Server, environment: dict[str, str]) -> Run:
    """Commands with a key that does not act for a person."""
    with bank.client() as client:
        made = client.post("/keys", json={"name": "agent", "scopes": ["execute:function"]}).json()
    env = {**environment, "AIGBB_TOKEN": made["key"]}
    return lambda *arguments: CliRunner().invoke(app, arguments, env=env)


@pytest.mark.parametrize("flags", [(), ("--detach",)], ids=["waited for", "detached"])
def test_a_call_of_an_agent_is_held_and_decided_by_somebody_else(
    aigbb: Run, agent: Run, flags: tuple[str, ...]
) -> None:
    held = agent("call", "pay", "-a", "whom=ann", "-a", "amount=5", *flags)
    waiting = held.stdout.strip()
    assert "pay@1 waits for a decision until" in held.stderr
    assert held.exit_code == (0 if flags else 1)
    refused = agent("approve", waiting)
    assert (refused.exit_code, "forbidden" in refused.stderr) == (2, True)
    assert "waiting, until" in agent("approvals", waiting).stderr
    done = aigbb("approve", waiting)
    assert (done.exit_code, done.stdout) == (0, "ann has 5\n")
    shown = json.loads(agent("approvals", waiting, "--json").stdout)
    assert (shown["status"], shown["outcome"]["result"]) == ("decided", "ann has 5")


def test_a_held_call_of_an_agent_is_json_too_and_can_be_rejected(aigbb: Run, agent: Run) -> None:
    held = json.loads(agent("call", "pay", "-a", "whom=ann", "-a", "amount=5", "--json").stdout)
    assert (held["status"], held["name"]) == ("needs_confirmation", "pay")
    rejected = aigbb("approve", held["approval"]["id"], "--reject", "Not on Sundays.")
    assert "ann has 5" not in rejected.stdout
    shown = json.loads(agent("approvals", held["approval"]["id"], "--json").stdout)
    assert "Not on Sundays." in shown["outcome"]["problem"]["detail"]


def test_what_is_decided_or_unknown_is_refused(aigbb: Run, held: Callable[..., str]) -> None:
    waiting = held()
    assert aigbb("approve", waiting).exit_code == 0
    again = aigbb("approve", waiting)
    assert again.exit_code == 2
    assert "was decided already" in again.stderr
    for command in ("approve", "approvals", "conversations"):
        unknown = aigbb(command, "-qFs4x")
        assert unknown.exit_code == 2
        assert "unknown_" in unknown.stderr
