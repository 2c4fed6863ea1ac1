"""Chat with @copilotkit/aimock as the model's service: a mock that others wrote, and a journal of what it was asked.

It answers by what is in a request: the last question, how many answers came before, whether there are results. It holds
nobody to `tool_choice`, nor to one result for each call: the tests do, with its journal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import Server, running_server
from tests.doors import problem, stream, told
from tests.node import Programs

SOURCES = [
    'def add(n: int) -> int:\n    """Add one."""\n    return n + 1\n',
    "def boom(n: int) -> int:\n    raise ValueError('no such n')\n",
]


def call(name: str, arguments: Any) -> dict[str, Any]:
    """A call; arguments that are no text are written as JSON."""
    return {"name": name, "arguments": arguments}


def when(question: str, answer: str | list[dict[str, Any]], finish: str = "", /, **more: Any) -> dict[str, Any]:
    """What is answered to a question: words, or calls. more says in which state of the conversation."""
    response: dict[str, Any] = {"content": answer} if isinstance(answer, str) else {"toolCalls": answer}
    if finish:
        response["finishReason"] = finish
    return {"match": {"userMessage": question, **more}, "response": response}


def calls_then_words(question: str, calls: list[dict[str, Any]], words: str, finish: str = "") -> list[dict[str, Any]]:
    """Calls first, and words once there are results."""
    return [
        when(question, calls, finish, hasToolResult=False),
        when(question, words, hasToolResult=True),
    ]


FIXTURES: list[dict[str, Any]] = [
    *calls_then_words("one call", [call("add", {"n": 41})], "It is 42."),
    *calls_then_words(
        "side by side", [call("add", {"n": 1}), call("boom", {"n": 1}), call("add", {"n": 2})], "2, none and 3."
    ),
    when("cut arguments", [call("add", '{"n": 3')], turnIndex=0),
    when("cut arguments", [call("add", {"n": 3})], turnIndex=1),
    when("cut arguments", "It is 4.", turnIndex=2),
    *calls_then_words("ends with stop", [call("add", {"n": 1})], "It is 2.", "stop"),
    *calls_then_words("forced", [call("add", {"n": 1})], "It is 2."),
    *(when("climb", [call("add", {"n": n})], turnIndex=n) for n in range(3)),
    when("climb", "It is 3.", turnIndex=3),
    *calls_then_words("to begin with", [call("add", {"n": 1})], "It is 2."),
    *calls_then_words("and then", [call("add", {"n": 2}), call("add", {"n": 3})], "3 and 4."),
    when("for ever", [call("add", {"n": 1})]),
    when("after a fault", "Here I am."),
    {**when("cut in the middle", "Good 👍👍👍 indeed."), "chunkSize": 1},
    {**when("malformed", "never read"), "chaos": {"malformedRate": 1}},
    {**when("hangs up", "never read"), "chaos": {"disconnectRate": 1}},
    when("breaks off", [call("add", {"n": 1})], hasToolResult=False),
    # Pieces come one by one, so that some arrive before the end of the connection.
    {
        **when("breaks off", "One, two, three, four.", hasToolResult=True),
        "chunkSize": 3,
        "latency": 20,
        "truncateAfterChunks": 4,
    },
]


@dataclass(frozen=True)
class Mock:
    """aimock while it runs."""

    url: str

    def fail_once(self, status: int) -> None:
        """Answer the next request with an error."""
        body = {"status": status, "body": {"message": "for once", "type": "server_error"}}
        httpx2.post(f"{self.url}/__aimock/error", json=body).raise_for_status()

    def clear(self) -> None:
        """Forget what was asked."""
        httpx2.post(f"{self.url}/__aimock/reset/journal").raise_for_status()

    def asked(self) -> list[dict[str, Any]]:
        """What was asked since then."""
        entries = httpx2.get(f"{self.url}/__aimock/journal").raise_for_status().json()
        return [entry["body"] for entry in entries]

    def statuses(self) -> list[int]:
        """How it was answered."""
        entries = httpx2.get(f"{self.url}/__aimock/journal").raise_for_status().json()
        return [entry["response"]["status"] for entry in entries]


@pytest.fixture(scope="module")
def mock(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mock]:
    """aimock with these answers."""
    file = tmp_path_factory.mktemp("fixtures") / "answers.json"
    file.write_text(json.dumps({"fixtures": FIXTURES}))
    with programs.serving(programs.aimock, "--port", "0", "--fixtures", str(file)) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if match := re.search(r"listening on (http://\S+)", line):
                yield Mock(match[1])
                return
        raise AssertionError("".join(said))


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory, cache: Path, mock: Mock) -> Iterator[Server]:
    """A service with it as its model."""
    folder = tmp_path_factory.mktemp("aimock")
    with running_server(folder, cache, {"OPENAI_BASE_URL": f"{mock.url}/v1"}, model="m") as server:
        with server.client() as client:
            bodies = [{"source": source, "confirm": "never"} for source in SOURCES]
            assert client.post("/register/batch", json={"functions": bodies}).status_code == 201
        yield server


@pytest.fixture
def client(chatting: Server, mock: Mock) -> Iterator[httpx2.Client]:
    """A client of the service. Whatever a test had it ask, each call was answered once."""
    mock.clear()
    with chatting.client() as opened:
        yield opened
    for request in mock.asked():
        check_pairs(request["messages"])


def check_pairs(messages: list[dict[str, Any]]) -> None:
    """Each call is answered exactly once, in order, right after it was made; nothing else is answered."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert waiting, f"nobody made the call {message['tool_call_id']}"
            assert message["tool_call_id"] == waiting.pop(0)
        else:
            assert waiting == []
            waiting = [each["id"] for each in message.get("tool_calls", [])]
            assert len(set(waiting)) == len(waiting)
    assert waiting == []


Ask = Callable[..., dict[str, Any]]


@pytest.fixture(params=["json", "events"])
def ask(request: pytest.FixtureRequest, client: httpx2.Client) -> Ask:
    """Ask the service, as one answer or as events."""

    def asked(*questions: str | dict[str, Any], **more: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": q} if isinstance(q, str) else q for q in questions]
        body = {"messages": messages, **more}
        if request.param == "json":
            answer = client.post("/chat", json=body)
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found
        *events, (kind, done) = stream(client, "/chat", body)
        assert kind == "done", done
        assert "".join(data["text"] for kind, data in events if kind == "content.delta") == done["content"]
        last: dict[str, Any] = done
        return last

    return asked


@pytest.fixture(params=["json", "events"])
def fail(request: pytest.FixtureRequest, client: httpx2.Client) -> Ask:
    """Ask what cannot be answered: the problem."""

    def asked(question: str) -> dict[str, Any]:
        body = {"messages": [{"role": "user", "content": question}]}
        if request.param == "json":
            return problem(client.post("/chat", json=body), 502, "model_failed")
        kind, data = list(stream(client, "/chat", body))[-1]
        assert (kind, data["code"], data["status"]) == ("problem", "model_failed", 502)
        found: dict[str, Any] = data
        return found

    return asked


# -- turns


def test_a_call_and_its_summing_up(ask: Ask, mock: Mock) -> None:
    found = ask("one call")
    assert (found["status"], found["content"], told(found)) == ("done", "It is 42.", ["42"])
    assert [request["messages"] for request in mock.asked()] == [found["messages"][:1], found["messages"][:3]]
    assert found["usage"]["total_tokens"] > 0


def test_calls_of_one_answer_are_answered_in_order(ask: Ask) -> None:
    found = ask("side by side")
    first, second, third = told(found)
    assert (first, third) == ("2", "3")
    assert "ValueError: no such n" in second
    assert found["content"] == "2, none and 3."


def test_arguments_that_are_cut_go_back_to_the_model(ask: Ask) -> None:
    found = ask("cut arguments")
    broken, mended = told(found)
    assert "not JSON" in broken
    assert (mended, found["content"]) == ("4", "It is 4.")


def test_calls_are_run_though_the_end_is_called_stop(ask: Ask) -> None:
    found = ask("ends with stop")
    assert (told(found), found["content"]) == (["2"], "It is 2.")


def test_a_turn_goes_on_as_long_as_there_are_calls(ask: Ask, mock: Mock) -> None:
    found = ask("climb")
    assert (told(found), found["content"]) == (["1", "2", "3"], "It is 3.")
    counts = [sum(m["role"] == "assistant" for m in request["messages"]) for request in mock.asked()]
    assert counts == [0, 1, 2, 3]


def test_a_conversation_goes_on_turn_by_turn(ask: Ask, mock: Mock) -> None:
    first = ask("to begin with")
    second = ask(*first["messages"], "and then")
    assert (first["content"], second["content"]) == ("It is 2.", "3 and 4.")
    assert told(second) == ["2", "3", "4"]
    assert mock.asked()[-1]["messages"] == second["messages"][:-1]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_what_is_forced_is_forced_in_the_first_request_only(ask: Ask, mock: Mock, choice: Any) -> None:
    assert ask("forced", tool_choice=choice)["content"] == "It is 2."
    assert [request["tool_choice"] for request in mock.asked()] == [choice, "auto"]


def test_a_model_that_never_stops_is_stopped(ask: Ask, mock: Mock) -> None:
    found = ask("for ever", max_rounds=2)
    assert (found["status"], told(found)) == ("limit", ["2", "2"])
    assert [request["tool_choice"] for request in mock.asked()] == ["auto", "auto", "none"]


def test_a_character_that_is_cut_in_two_is_put_together(ask: Ask) -> None:
    """Its pieces are of JavaScript's text, where such a character has two halves."""
    assert ask("cut in the middle")["content"] == "Good 👍👍👍 indeed."


# -- faults


def test_an_error_that_passes_is_passed_over(ask: Ask, mock: Mock) -> None:
    mock.fail_once(500)
    assert ask("after a fault")["content"] == "Here I am."
    assert mock.statuses() == [500, 200]


def test_a_refusal_says_what_the_service_said(fail: Ask) -> None:
    assert "No fixture matched" in fail("nobody wrote this down")["detail"]


def test_a_connection_that_ends_without_an_answer_is_a_failure_of_the_model(fail: Ask) -> None:
    assert fail("hangs up")["detail"].startswith("m could not answer")


def test_an_answer_that_is_no_stream_of_completions_is_a_failure_of_the_model(fail: Ask) -> None:
    assert fail("malformed")["detail"].startswith("m could not answer")


def test_an_answer_that_breaks_off_leaves_the_conversation_so_far(fail: Ask) -> None:
    found = fail("breaks off")
    assert [message["role"] for message in found["messages"]] == ["user", "assistant", "tool"]
    assert found["messages"][-1]["content"] == "2"
