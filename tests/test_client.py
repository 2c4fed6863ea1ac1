"""The client for builders of agents: what it sends, what it makes of answers, and how it fails. Sync and async."""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage

from server import asking
from server.client import (
    Aigbb,
    AsyncAigbb,
    CallFailed,
    ChatResult,
    NeedsConfirmation,
    RunResult,
    ServiceProblem,
    Unreachable,
)
from tests.conftest import ROOT, Server, running_server
from tests.provider import Broken, Provider, Refusal, Whole, asks, says, whole

FUNCTIONS = {
    "add": 'def add(n: int) -> int:\n    """Add one."""\n    return n + 1\n',
    "mine": "def mine(n: int, whose: str) -> str:\n    return f'{n} of {whose}'\n",
    "halve": "def halve(n: int) -> float:\n    m = n - n\n    return n / m\n",
    "note": "def note(text: str) -> str:\n    return f'noted {text}'\n",
}
MORE: dict[str, dict[str, Any]] = {"mine": {"bound": ["whose"]}, "note": {"effects": "write"}}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, cache: Path, provider: Provider) -> Iterator[Server]:
    """A service with a model, and with functions that were registered through the client."""
    folder = tmp_path_factory.mktemp("client")
    with running_server(folder, cache, {"OPENAI_BASE_URL": provider.url}, model="m") as started:
        with Aigbb(started.url, started.token) as client:
            for name, source in FUNCTIONS.items():
                told = {"effects": "read", "tags": [f"t-{name}"], **MORE.get(name, {})}
                assert client.register(source, **told)["name"] == name
        yield started


@pytest.fixture
def aigbb(service: Server) -> Iterator[Aigbb]:
    """A client of it."""
    with Aigbb(service.url, service.token) as opened:
        yield opened


def tool_call(name: str, arguments: str, identity: str = "c1") -> dict[str, Any]:
    """As a model asks for it."""
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


# -- finding the service


def test_it_is_found_as_the_command_line_finds_it(service: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGBB_PORT", service.url.rpartition(":")[2])
    monkeypatch.setenv("AIGBB_HOME", str(service.home))
    with Aigbb() as found, Aigbb(service.url + "/") as by_address:
        assert found.call("add", n=1) == by_address.call("add", n=1) == 2


def test_a_wrong_token_is_a_problem(service: Server) -> None:
    with Aigbb(service.url, "wrong") as client, pytest.raises(ServiceProblem) as raised:
        client.tools()
    assert raised.value.body["code"] == "unauthorized"
    assert "token" in raised.value.hint


def test_no_service_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", "http://"):
        with Aigbb(url, "x") as client, pytest.raises(Unreachable, match=f"No service answers at {url.rstrip('/')}"):
            client.tools()
    with pytest.raises(Unreachable):
        Aigbb("http://localhost:port", "x")


def test_another_service_is_a_problem(provider: Provider) -> None:
    provider.write_down("a page", Whole("<html>"), says("hello"))
    with Aigbb(provider.url, "x") as client:
        with pytest.raises(ServiceProblem, match="is not this service"):
            client.chat("a page")
        with pytest.raises(ServiceProblem, match="not JSON"):
            list(client.chat_events("a page"))


def test_what_has_the_client_needs_neither_web_framework_nor_model() -> None:
    code = "import sys, server.client; print({'fastapi', 'starlette', 'openai', 'sqlalchemy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# -- functions


def test_a_call_answers_with_the_result(aigbb: Aigbb) -> None:
    assert aigbb.call("add", n="3") == 4
    assert aigbb.call("add@1", n=3) == 4


def test_a_call_that_raises_says_where(aigbb: Aigbb) -> None:
    with pytest.raises(CallFailed) as raised:
        aigbb.call("halve", n=1)
    assert str(raised.value) == (
        "halve: ZeroDivisionError: division by zero (File aigbb_functions/halve.py:3, in halve(n))"
    )
    assert "----> 3     return n / m" in raised.value.traceback
    assert raised.value.body["status"] == "error"


def test_a_call_that_ended_otherwise_says_how(aigbb: Aigbb) -> None:
    aigbb.register("import os\n\ndef leave() -> None:\n    os._exit(1)\n", effects="read")
    with pytest.raises(CallFailed, match=r"^leave: ") as raised:
        aigbb.call("leave")
    assert (raised.value.traceback, raised.value.body["status"]) == ("", "died")
    aigbb.delete("leave")


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [("add", {"m": 1}, "invalid_arguments"), ("ad", {}, "unknown_function"), ("a b?", {}, "unknown_function")],
)
def test_a_call_that_is_refused_is_a_problem(aigbb: Aigbb, name: str, arguments: dict[str, Any], code: str) -> None:
    with pytest.raises(ServiceProblem) as raised:
        aigbb.call(name, **arguments)
    assert raised.value.body["code"] == code


def test_code_answers_with_what_it_did(aigbb: Aigbb) -> None:
    done = aigbb.execute("print('hi')\nadd(1)")
    assert (done.status, done.output, done.result, done.error) == ("ok", "hi\n", "2", None)
    assert done.outputs[0]["output_type"] == "stream"
    failed = aigbb.execute("1/0")
    assert (failed.status, failed.error) == ("error", "ZeroDivisionError: division by zero")
    with pytest.raises(ServiceProblem, match="nobody"):
        aigbb.execute("1", session="nobody")


def test_a_registration_that_is_refused_is_a_problem(aigbb: Aigbb) -> None:
    with pytest.raises(ServiceProblem) as raised:
        aigbb.register("def f(:\n", packages=["httpx2"])
    assert raised.value.body["location"]["line"] == 1


# -- tools


def test_tools_come_in_the_form_that_is_wanted(aigbb: Aigbb) -> None:
    assert [tool["function"]["name"] for tool in aigbb.tools()] == sorted(FUNCTIONS)
    [chosen] = aigbb.tools("openai-responses", names=["add", "mine"], tags=["t-add"], strict=True)
    assert (chosen["name"], chosen["strict"]) == ("add", True)
    assert "add" in aigbb.tools("prompt", ["add"])
    with pytest.raises(ServiceProblem):
        aigbb.tools("smoke signals")


CALL = tool_call("add", '{"n": 1}')
ITEM = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"n": 1}'}
MESSAGE = {"role": "assistant", "content": None, "tool_calls": [CALL]}
SAID = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": []}
CHAT = [{"role": "tool", "tool_call_id": "c1", "content": "2"}]
RESPONSE = [{"type": "function_call_output", "call_id": "c1", "output": "2"}]


@pytest.mark.parametrize(
    ("asked", "messages"),
    {
        "a message": (MESSAGE, CHAT),
        "a message of the client": (ChatCompletionMessage.model_validate(MESSAGE), CHAT),
        "its tool calls": ([CALL], CHAT),
        "its tool calls, of the client": (ChatCompletionMessage.model_validate(MESSAGE).tool_calls, CHAT),
        "one call": (CALL, CHAT),
        "a message without calls": ({"role": "assistant", "content": "Hello", "tool_calls": None}, []),
        "nothing": ([], []),
        "the output of a response": ([SAID, ITEM], RESPONSE),
        "a response": ({"id": "r", "output": (SAID, ITEM)}, RESPONSE),
        "an item of a response": (ITEM, RESPONSE),
        "the client's output": (
            [ResponseOutputMessage.model_validate(SAID), ResponseFunctionToolCall.model_validate(ITEM)],
            RESPONSE,
        ),
    }.values(),
)
def test_calls_are_run_however_they_come(aigbb: Aigbb, asked: object, messages: list[dict[str, Any]]) -> None:
    assert aigbb.run(asked).messages == messages


@pytest.mark.parametrize("asked", ["add(1)", None, {"messages": []}, 3])
def test_what_holds_no_calls_is_not_sent(aigbb: Aigbb, asked: object) -> None:
    with pytest.raises(TypeError, match=type(asked).__name__):
        aigbb.run(asked)


def test_what_goes_wrong_in_a_call_is_for_the_model_and_its_traceback_for_people(aigbb: Aigbb) -> None:
    done = aigbb.run([tool_call("halve", '{"n": 1}'), tool_call("mine", '{"n": 2}', "c2")], bound={"whose": "Ada"})
    assert [run.status for run in done.runs] == ["error", "ok"]
    assert "line" not in done.messages[0]["content"]
    assert "halve.py:3" in done.runs[0].traceback
    assert done.messages[1]["content"] == "2 of Ada"
    with pytest.raises(ServiceProblem) as raised:
        aigbb.run([tool_call("mine", '{"n": 2}')])
    assert raised.value.body["code"] == "missing_bound"


# -- decisions about somebody's own calls

NOTE = tool_call("note", '{"text": "x"}', "c2")


def held(aigbb: Aigbb) -> asking.Approval[RunResult]:
    """A call that waits, beside one that does not."""
    done = aigbb.run([CALL, NOTE])
    assert done.messages == CHAT
    assert done.approval is not None
    return done.approval


def test_a_call_that_may_change_something_waits_and_is_run_when_approved(aigbb: Aigbb) -> None:
    approval = held(aigbb)
    assert [(call.name, call.arguments, call.effects) for call in approval.calls] == [("note", {"text": "x"}, "write")]
    assert approval in aigbb.approvals()
    done = aigbb.decide(approval, "approve")
    assert [message["content"] for message in done.messages] == ["2", "noted x"]
    assert done.approval is None
    with pytest.raises(ServiceProblem) as raised:
        aigbb.decide(approval, "approve")
    assert raised.value.body["code"] == "approval_settled"


@pytest.fixture
def agent(service: Server) -> Iterator[Aigbb]:
    """A client whose key does not act for a person."""
    with service.client() as client:
        made = client.post("/keys", json={"name": "agent", "scopes": ["execute:function"]}).json()
    with Aigbb(service.url, made["key"]) as opened:
        yield opened


def test_a_call_of_an_agent_waits_and_its_result_comes_with_the_decision(aigbb: Aigbb, agent: Aigbb) -> None:
    asked: list[Callable[[], object]] = [
        lambda: agent.call("note", text="x"),
        lambda: agent.start_call("note", text="x"),
    ]
    for ask in asked:
        with pytest.raises(NeedsConfirmation, match=r"note waits for a decision") as waits:
            ask()
        [call] = waits.value.approval.calls
        assert (call.name, call.arguments, call.effects) == ("note", {"text": "x"}, "write")
        with pytest.raises(ServiceProblem) as raised:
            agent.decide(waits.value.approval, "approve")
        assert raised.value.body["code"] == "forbidden"
        assert aigbb.decide(waits.value.approval, "approve") == "noted x"
    with pytest.raises(NeedsConfirmation) as waits:
        agent.call("note", text="y")
    assert aigbb.decide(waits.value.approval, "reject") is None
    assert agent.call("add", n=1) == 2


def test_a_rejection_says_why(aigbb: Aigbb) -> None:
    done = aigbb.decide(held(aigbb), "reject", reason="Not on Sundays.")
    assert done.runs[1].status == "rejected"
    assert "Not on Sundays." in done.messages[1]["content"]


def test_decisions_can_differ_from_call_to_call(aigbb: Aigbb) -> None:
    [call] = (approval := held(aigbb)).calls
    edit = {"call_id": call.call_id, "decision": "edit", "arguments": {"text": "y"}, "scope": "session"}
    done = aigbb.decide(approval, [edit])
    assert "noted y" in done.messages[1]["content"]
    assert aigbb.run([NOTE], approved=done.approved).messages[0]["content"] == "noted x"


def test_a_decision_holds_for_what_was_looked_at(aigbb: Aigbb) -> None:
    approval = held(aigbb)
    other = {"call_id": approval.calls[0].call_id, "decision": "approve", "args_hash": "0" * 64}
    with pytest.raises(ServiceProblem) as raised:
        aigbb.decide(approval, [other])
    assert raised.value.body["code"] == "approval_void"
    [sent] = asking.decide(approval, "approve").body["decisions"]  # type: ignore[index]
    assert sent["args_hash"] == approval.calls[0].args_hash


# -- chat


def test_a_question_is_answered(aigbb: Aigbb, provider: Provider) -> None:
    provider.write_down("one", asks(("add", {"n": 1})), says("It is 2."), says("Still 2."))
    done = aigbb.chat("one", tools=["add"])
    assert (done.status, done.text, done.approval) == ("done", "It is 2.", None)
    assert [(run.name, run.arguments, run.content) for run in done.runs] == [("add", '{"n": 1}', "2")]
    assert done.body["offered"] == ["add"]
    again = aigbb.chat([*done.messages, {"role": "user", "content": "sure?"}])
    assert again.text == "Still 2."
    assert len(again.messages) == 6


def test_messages_of_the_openai_client_are_taken(aigbb: Aigbb, provider: Provider) -> None:
    provider.write_down("theirs", says("yes"))
    said = ChatCompletionMessage.model_validate({"role": "assistant", "content": "What?"})
    aigbb.chat([{"role": "user", "content": "theirs"}, said, {"role": "user", "content": "This."}])
    assert provider.asked["theirs"][0]["messages"][1] == {"role": "assistant", "content": "What?"}


def test_a_turn_that_waits_goes_on(aigbb: Aigbb, provider: Provider) -> None:
    provider.write_down("write it down", asks(("note", {"text": "x"})), says("Done."))
    done = aigbb.chat("write it down")
    assert done.status == "needs_confirmation"
    assert done.approval is not None
    [kept] = [one for one in aigbb.approvals() if one.id == done.approval.id]
    finished = aigbb.decide(kept, "approve")
    assert isinstance(finished, ChatResult)
    assert (finished.status, finished.text, finished.conversation) == ("done", "Done.", done.conversation)


def test_events_come_as_they_happen_up_to_the_result(aigbb: Aigbb, provider: Provider) -> None:
    provider.write_down("events", asks(("add", {"n": 1}), ("note", {"text": "x"})), says("Done."))
    events = list(aigbb.chat_events("events"))
    told = [name for name, _ in events if not name.endswith(".delta") and name != "usage"]
    assert told == ["tool_call.ready", "tool_call.ready", "tool_result", "needs_confirmation", "done"]
    result = ChatResult.of(events[-1][1])
    assert result.approval is not None
    *_, (last, data) = aigbb.decide_events(result.approval, "reject")
    assert (last, ChatResult.of(data).text) == ("done", "Done.")


def test_a_turn_that_fails_is_a_problem_that_holds_the_messages(aigbb: Aigbb, provider: Provider) -> None:
    for door in (aigbb.chat, lambda question: list(aigbb.chat_events(question))):
        provider.write_down("fails", asks(("add", {"n": 1})), Refusal(400, "not today"))
        with pytest.raises(ServiceProblem, match="not today") as raised:
            door("fails")
        assert [message["role"] for message in raised.value.body["messages"]] == ["user", "assistant", "tool"]
    with pytest.raises(ServiceProblem) as raised:
        list(aigbb.chat_events([{"role": "nobody"}]))
    assert raised.value.body["code"] == "invalid_request"


def test_events_that_break_off_are_unreachable(provider: Provider) -> None:
    provider.write_down("breaks", Broken(says("The")[:1]), Whole(""))
    with Aigbb(provider.url, "x") as client:
        for _ in range(2):
            with pytest.raises(Unreachable):
                list(client.chat_events("breaks"))


# -- async


def test_both_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        found = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_") and name != "close"}
        return {name: list(inspect.signature(method).parameters) for name, method in found.items()}

    assert methods(Aigbb) == methods(AsyncAigbb)
    for name in methods(Aigbb):
        assert inspect.getdoc(getattr(Aigbb, name))


@pytest.mark.anyio
async def test_async_methods_are_awaited(service: Server, provider: Provider) -> None:
    provider.write_down("asynchronously", asks(("note", {"text": "x"})), says("Done."))
    async with AsyncAigbb(service.url, service.token) as aigbb:
        assert list(await asyncio.gather(aigbb.call("add", n=1), aigbb.call("add", n=2))) == [2, 3]
        assert (await aigbb.run(MESSAGE)).messages == CHAT
        done = await aigbb.chat("asynchronously")
        assert done.approval is not None
        assert (await aigbb.decide(done.approval, "approve")).text == "Done."
        with pytest.raises(CallFailed):
            await aigbb.call("halve", n=1)


@pytest.mark.anyio
async def test_async_events(service: Server, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    provider.write_down("async events", asks(("note", {"text": "x"})), says("Done."), Refusal(400, "not today"))
    monkeypatch.setenv("AIGBB_PORT", service.url.rpartition(":")[2])
    monkeypatch.setenv("AIGBB_HOME", str(service.home))
    async with AsyncAigbb() as aigbb:
        events = [event async for event in aigbb.chat_events("async events")]
        waits = ChatResult.of(events[-1][1]).approval
        assert waits is not None
        told = [name async for name, _ in aigbb.decide_events(waits, "approve")]
        assert (told[0], told[-1]) == ("tool_result", "done")
        with pytest.raises(ServiceProblem, match="not today"):
            _ = [event async for event in aigbb.chat_events("async events")]
        with pytest.raises(ServiceProblem):
            _ = [event async for event in aigbb.chat_events([{"role": "nobody"}])]


@pytest.mark.anyio
async def test_async_failures(provider: Provider) -> None:
    provider.write_down("breaks", Whole(""))
    async with AsyncAigbb(provider.url, "x") as aigbb:
        with pytest.raises(Unreachable, match="early"):
            _ = [event async for event in aigbb.chat_events("breaks")]
    with pytest.raises(RuntimeError, match="async with"):
        await AsyncAigbb().tools()


# -- its page

PAGE = ROOT / "docs" / "client.md"
MARK = "-- next --"


def test_the_snippets_of_the_page_print_what_it_says(tmp_path: Path, cache: Path, provider: Provider) -> None:
    fences = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    snippets = [(code, said) for (kind, code), (after, said) in pairwise(fences) if (kind, after) == ("python", "text")]
    assert len(snippets) == sum(kind == "python" for kind, _ in fences)
    text = "to be or not to be"
    count = ("word_count", {"text": text})
    asked = {"id": "c", "type": "function", "function": {"name": count[0], "arguments": f'{{"text": "{text}"}}'}}
    provider.write_down(f"Count the words of: {text}", whole("tool_calls", tool_calls=[asked]), whole(content="Six."))
    provider.write_down(f"Which words are there twice in: {text}", asks(count), says("to, be"), says("not, or"))
    provider.write_down("Note that it rains.", asks(("keep_note", {"text": "It rains."})), says("Noted."))
    model = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": "none"}
    with running_server(tmp_path, cache, model, shipped=True, model="m") as started:
        environment = {**started.environment, "AIGBB_PORT": started.url.rpartition(":")[2]}
        script = f"print({MARK!r})\n".join(code for code, _ in snippets)
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(f"{MARK}\n") == [said for _, said in snippets]
