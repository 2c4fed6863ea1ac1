"""Turns of chat, over HTTP, with a model that says what a test wrote down: what is run, what goes back, how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import Server, running_server
from tests.doors import Requests, execute, problem, stream, told
from tests.provider import (
    Answer,
    Broken,
    Provider,
    Refusal,
    Silence,
    asks,
    asks_in_words,
    asks_legacy,
    chunk,
    says,
)

pytest_plugins = ["tests.chat_fixtures"]

KEY = "sk-of-the-test"
SOURCES = {
    "add": 'def add(n: int) -> int:\n    """Add one."""\n    return n + 1\n',
    "total": "def total(xs: list[int]) -> int:\n    return sum(xs)\n",
    "flag": "def flag(b: bool) -> bool:\n    return b\n",
    "boom": "def boom(n: int) -> int:\n    raise ValueError('no such n')\n",
    "noarg": "def noarg() -> str:\n    return 'here'\n",
    "big": "def big(n: int) -> str:\n    return 'x' * n\n",
    "obj": "def obj(n: int):\n    return {'o': object(), 't': (1, 2), 'b': b'raw'}\n",
    "silent": "def silent() -> None:\n    pass\n",
    "counts": "SEEN = []\n\ndef counts() -> int:\n    SEEN.append(1)\n    return len(SEEN)\n",
    "meets": """
import time
from pathlib import Path

def meets(folder: Path, mine: str, other: str) -> str:
    (folder / mine).touch()
    while not (folder / other).exists():
        time.sleep(0.01)
    return f"{mine} met {other}"
""",
    "whose": "def whose(user_id: str, thing: str) -> str:\n    return f'{thing} of {user_id}'\n",
}
MORE: dict[str, dict[str, Any]] = {
    "whose": {"bound": ["user_id"], "tags": ["own"]},
    "add": {"tags": ["sums"]},
    "counts": {"effects": "read"},
    "meets": {"effects": "read"},
}


@pytest.fixture
def tmp_path(shown: Path) -> Path:
    """A folder that kernels may write, too."""
    return shown


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory, cache: Path, provider: Provider) -> Iterator[Server]:
    """A service that has this model, and the functions that are called here."""
    folder = tmp_path_factory.mktemp("chat")
    more = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": provider.url}
    with running_server(folder, cache, more, model="m", model_timeout=2, max_rounds=4, max_content=4096) as server:
        with server.client() as client:
            bodies = [{"source": source, **MORE.get(name, {})} for name, source in SOURCES.items()]
            answer = client.post("/register/batch", json={"functions": bodies})
            assert answer.status_code == 201, answer.text
        yield server


@pytest.fixture
def client(chatting: Server) -> Iterator[httpx2.Client]:
    """A client of it."""
    with chatting.client() as opened:
        yield opened


Say = Callable[..., dict[str, Any]]


@pytest.fixture(params=["json", "events"])
def say(request: pytest.FixtureRequest, client: httpx2.Client, provider: Provider) -> Say:
    """Write answers down, ask, and what came of it: as one answer, or as the last of the events."""

    def turn(*answers: Answer, **more: Any) -> dict[str, Any]:
        question = request.node.name
        provider.write_down(question, *answers)
        body = {"messages": [{"role": "user", "content": question}], **more}
        if request.param == "json":
            answer = client.post("/chat", json=body)
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found
        events = list(stream(client, "/chat", body))
        assert events[-1][0] == "done", events[-1]
        done: dict[str, Any] = events[-1][1]
        return done

    return turn


# -- the sequence


def test_an_answer_in_words_is_the_end(say: Say, requests: Requests) -> None:
    found = say(says("Hello there."))
    assert (found["status"], found["content"]) == ("done", "Hello there.")
    assert found["messages"][-1] == {"role": "assistant", "content": "Hello there."}
    assert (found["added"], len(found["rounds"]), found["model"]) == (1, 1, "m")
    [asked] = requests()
    assert asked["model"] == "m"
    assert asked["tool_choice"] == "auto"
    assert {tool["function"]["name"] for tool in asked["tools"]} == set(SOURCES) == set(found["offered"])


def test_a_call_is_run_and_its_result_goes_back(say: Say, requests: Requests) -> None:
    found = say(asks(("add", {"n": 41})), says("It is 42."))
    assert found["content"] == "It is 42."
    asking, result, final = found["messages"][1:]
    assert asking["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"n": 41}'}
    assert result == {"role": "tool", "tool_call_id": "call_0", "content": "42"}
    assert final["content"] == "It is 42."
    assert requests()[1]["messages"] == found["messages"][:3]
    assert [run["status"] for run in found["rounds"][0]["runs"]] == ["ok"]


def test_usage_is_counted_by_round_and_in_sum(say: Say) -> None:
    found = say([*asks(("add", {"n": 1})), *says("x")[-1:]], says("two"))
    first, second = (each["usage"]["total_tokens"] for each in found["rounds"])
    assert first > 10 and second > 10
    assert found["usage"]["total_tokens"] == first + second
    assert found["usage"]["prompt_tokens"] == 20


def test_a_conversation_goes_on_where_it_ended(client: httpx2.Client, provider: Provider) -> None:
    provider.write_down("first question", asks(("add", {"n": 1})), says("2"), says("as I said, 2"))
    body = {"messages": [{"role": "user", "content": "first question"}]}
    before = client.post("/chat", json=body).json()["messages"]
    again = [*before, {"role": "user", "content": "again?"}]
    found = client.post("/chat", json={"messages": again}).json()
    assert found["messages"][: len(again)] == again
    assert (found["added"], found["content"]) == (1, "as I said, 2")


def test_events_show_a_turn_as_it_goes(client: httpx2.Client, provider: Provider) -> None:
    provider.write_down("events", asks(("add", {"n": 1})), [chunk(reasoning_content="hm"), *says("It is 2.")])
    body = {"messages": [{"role": "user", "content": "events"}]}
    events = list(stream(client, "/chat", body))
    kinds = [kind for kind, _ in events]
    assert kinds[:3] == ["tool_call.delta", "tool_call.delta", "usage"]
    assert kinds[3:6] == ["tool_call.ready", "tool_result", "thought.delta"]
    assert set(kinds[6:-2]) == {"content.delta"} and kinds[-2:] == ["usage", "done"]
    assert "".join(data["text"] for kind, data in events if kind == "content.delta") == "It is 2."
    assert events[3][1] == {"id": "call_0", "name": "add", "arguments": '{"n": 1}'}
    assert {"id": "call_0", "status": "ok", "content": "2"}.items() <= events[4][1].items()


# -- sixteen things that models send


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("ad", {"n": 1}, ["unknown_function", "Did you mean 'add'?", "The tools are"]),
        ("add", '{"n": 3', ["invalid_arguments", "not JSON"]),
        ("add", "[1]", ["invalid_arguments", "not a JSON object"]),
        ("boom", {"n": 1}, ["ValueError: no such n"]),
        ("add", {"n": 1, "extra": 2}, ["invalid_arguments", "extra"]),
        ("add", {}, ["invalid_arguments", '"n"']),
        ("whose", {"user_id": "x", "thing": "y"}, ["invalid_arguments", "user_id"]),
    ],
)
def test_what_is_wrong_goes_back_to_the_model(say: Say, name: str, arguments: Any, expected: list[str]) -> None:
    found = say(asks((name, arguments)), says("I see."), bound={"user_id": "me"})
    [content] = told(found)
    assert all(part in content for part in expected), content
    assert json.loads(content)["error"]
    assert found["status"] == "done"


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("add", {"n": "3"}, "4"),
        ("total", {"xs": "[1,2]"}, "3"),
        ("flag", {"b": "false"}, "false"),
        ("noarg", "", "here"),
        ("noarg", "null", "here"),
        ("whose", {"thing": "hat"}, "hat of me"),
    ],
)
def test_what_is_meant_is_run(say: Say, name: str, arguments: Any, expected: str) -> None:
    assert told(say(asks((name, arguments)), says("ok"), bound={"user_id": "me"})) == [expected]


def test_two_calls_under_one_id_both_run_under_ids_of_their_own(say: Say, requests: Requests) -> None:
    found = say(asks(("add", {"n": 1}), ("add", {"n": 2}), ids=["x", "x"]), says("ok"))
    ids = [call["id"] for call in found["messages"][1]["tool_calls"]]
    assert len(set(ids)) == 2
    assert [(m["tool_call_id"], m["content"]) for m in requests()[1]["messages"][2:]] == [*zip(ids, "23", strict=True)]


def test_calls_of_one_answer_run_side_by_side(say: Say, tmp_path: Path) -> None:
    both = [("meets", {"folder": str(tmp_path), "mine": a, "other": b}) for a, b in ("xy", "yx")]
    assert told(say(asks(*both), says("ok"))) == ["x met y", "y met x"]


def test_a_large_result_is_cut(say: Say) -> None:
    [content] = told(say(asks(("big", {"n": 300_000})), says("ok")))
    assert len(content) <= 4096
    assert "characters left out" in content


def test_a_result_that_is_no_json_is_told_all_the_same(say: Say) -> None:
    [content] = told(say(asks(("obj", {"n": 1})), says("ok")))
    assert "object" in content


def test_nothing_returned_is_said_in_words(say: Say) -> None:
    [content] = told(say(asks(("silent", {})), says("ok")))
    assert content


@pytest.mark.parametrize("finish", ["stop", "", "tool-calls"])
def test_calls_count_whatever_the_end_is_called(say: Say, finish: str) -> None:
    assert told(say(asks(("add", {"n": 1}), finish=finish), says("ok"))) == ["2"]


def test_an_end_for_tool_calls_without_any_is_an_answer(say: Say) -> None:
    assert say(says("words", finish="tool_calls"))["content"] == "words"


# -- ends


@pytest.mark.parametrize(("finish", "status"), [("length", "length"), ("content_filter", "filtered")])
def test_calls_of_an_answer_that_broke_off_are_not_run(say: Say, finish: str, status: str) -> None:
    found = say([*says("I would", finish="")[:-2], *asks(("add", {"n": 1}), finish=finish)])
    assert (found["status"], found["content"]) == (status, "I would")
    assert found["messages"][-1] == {"role": "assistant", "content": "I would"}
    assert found["rounds"][0]["runs"] == []


def test_at_the_limit_the_best_answer_is_asked_for(say: Say, requests: Requests) -> None:
    found = say(*(asks(("add", {"n": n})) for n in range(4)), [*asks(("add", {"n": 9})), *says("So far, 4.")])
    assert (found["status"], found["content"]) == ("limit", "So far, 4.")
    assert [asked["tool_choice"] for asked in requests()] == ["auto"] * 4 + ["none"]
    assert len(told(found)) == 4
    assert "tool_calls" not in found["messages"][-1]


def test_fewer_rounds_can_be_asked_for(say: Say) -> None:
    found = say(asks(("add", {"n": 1})), says("2"), max_rounds=1)
    assert (found["status"], len(found["rounds"])) == ("limit", 2)


def test_the_same_failure_three_times_is_enough(say: Say, requests: Requests) -> None:
    found = say(*[asks(("boom", {"n": 1}))] * 3, says("It does not work."))
    assert (found["status"], found["content"]) == ("stuck", "It does not work.")
    assert requests()[-1]["tool_choice"] == "none"


# -- choices


def test_what_is_forced_holds_for_the_first_round_only(say: Say, requests: Requests) -> None:
    forced = {"type": "function", "function": {"name": "add"}}
    say(asks(("add", {"n": 1})), says("2"), tool_choice=forced)
    assert [asked["tool_choice"] for asked in requests()] == [forced, "auto"]


def test_required_holds_for_the_first_round_only(say: Say, requests: Requests) -> None:
    say(asks(("add", {"n": 1})), says("2"), tool_choice="required")
    assert [asked["tool_choice"] for asked in requests()] == ["required", "auto"]


def test_none_is_obeyed_in_every_round(say: Say, requests: Requests) -> None:
    say(says("words"), tool_choice="none")
    assert [asked["tool_choice"] for asked in requests()] == ["none"]


def test_allowed_tools_are_all_that_is_offered(say: Say, requests: Requests) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "add"}}]}
    found = say(
        asks(("total", {"xs": [1]})), says("ok"), tool_choice={"type": "allowed_tools", "allowed_tools": allowed}
    )
    assert found["offered"] == ["add"]
    assert [asked["tool_choice"] for asked in requests()] == ["required", "auto"]
    assert "unknown_function" in told(found)[0]


@pytest.mark.parametrize(
    "choice",
    [
        "sometimes",
        {"type": "function"},
        {"type": "function", "function": {"name": "add"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": [{"function": {"name": "add"}}]}},
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(client: httpx2.Client, choice: Any) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "tools": ["total"], "tool_choice": choice}
    problem(client.post("/chat", json=body), 422, "invalid_request")


def test_one_call_at_a_time_is_obeyed_for_the_model(say: Say, requests: Requests) -> None:
    found = say(asks(("add", {"n": 1}), ("add", {"n": 2})), says("ok"), parallel_tool_calls=False)
    assert told(found)[0] == "2"
    assert json.loads(told(found)[1])["error"] == "not_run"
    assert requests()[0]["parallel_tool_calls"] is False


def test_tools_are_chosen_by_name_and_by_tag(say: Say) -> None:
    assert say(says("ok"), tools=["total", "add"])["offered"] == ["add", "total"]
    assert say(says("ok"), tags=["sums"])["offered"] == ["add"]


def test_a_tool_that_does_not_exist_is_refused(client: httpx2.Client) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "tools": ["ad"]}
    assert problem(client.post("/chat", json=body), 404, "unknown_function")["suggestions"] == ["add"]


def test_without_any_tool_none_is_mentioned(say: Say, requests: Requests) -> None:
    say(says("ok"), tags=["nobody has this"])
    assert not requests()[0].keys() & {"tools", "tool_choice", "parallel_tool_calls"}


def test_strict_tools_are_marked_as_such(say: Say, requests: Requests) -> None:
    say(says("ok"), tools=["add"], strict=True)
    [tool] = requests()[0]["tools"]
    assert tool["function"]["strict"] is True


def test_options_reach_the_model_as_they_are(say: Say, requests: Requests) -> None:
    options = {"temperature": 0.5, "max_tokens": 7, "top_k": 3, "extra_headers": {"X": "y"}, "timeout": 1}
    say(says("ok"), options=options, model="another")
    assert {**options, "model": "another"}.items() <= requests()[0].items()


def test_of_too_many_tools_those_that_fit_the_question_are_offered(client: httpx2.Client, provider: Provider) -> None:
    names = [f"many_{n}" for n in range(25)]
    bodies = [
        {"source": f'def {name}() -> int:\n    """Numbered."""\n    return 1\n', "tags": ["many"]} for name in names
    ]
    bodies.append({"source": 'def zebra() -> str:\n    """Stripes of animals."""\n    return ""\n', "tags": ["many"]})
    assert client.post("/register/batch", json={"functions": bodies}).status_code == 201
    try:
        provider.write_down("which animals have stripes?", says("zebras"))
        body = {"messages": [{"role": "user", "content": "which animals have stripes?"}], "tags": ["many"]}
        offered = client.post("/chat", json=body).json()["offered"]
        assert len(offered) == 20 and "zebra" in offered
    finally:
        for name in [*names, "zebra"]:
            client.delete(f"/functions/{name}")


def test_in_a_session_calls_share_their_kernel(say: Say, client: httpx2.Client) -> None:
    session = client.post("/sessions").json()["id"]
    found = say(asks(("counts", {})), asks(("counts", {})), says("ok"), session=session)
    assert told(found) == ["1", "2"]
    client.delete(f"/sessions/{session}")


# -- the model's faults


def test_without_a_model_chat_says_how_to_have_one(server: Server) -> None:
    with server.client() as client:
        for more in ({}, {"model": "m"}):
            body = {"messages": [{"role": "user", "content": "x"}], **more}
            found = problem(client.post("/chat", json=body), 503, "model_not_configured")
            assert "AIGBB_MODEL" in found["hint"] and "OPENAI_API_KEY" in found["hint"]


@pytest.mark.parametrize("status", [401, 403, 404, 400])
def test_a_refusal_of_the_model_is_told_without_the_key(client: httpx2.Client, provider: Provider, status: int) -> None:
    question = f"refused {status}"
    provider.write_down(question, Refusal(status, f"Not with {KEY}."))
    found = problem(
        client.post("/chat", json={"messages": [{"role": "user", "content": question}]}), 502, "model_failed"
    )
    assert "Not with ***" in found["detail"]
    assert found["provider_status"] == status
    assert KEY not in json.dumps(found)
    assert f"Bearer {KEY}" in provider.keys


def test_a_busy_model_is_asked_again(say: Say, requests: Requests) -> None:
    found = say(Refusal(429, "slow down", {"Retry-After": "0"}), Refusal(500, "oh", {"Retry-After": "0"}), says("ok"))
    assert found["content"] == "ok"
    assert len(requests()) == 3


def test_a_model_that_does_not_answer_is_not_waited_for(client: httpx2.Client, provider: Provider) -> None:
    provider.write_down("silence", *[Silence()] * 3)
    answer = client.post("/chat", json={"messages": [{"role": "user", "content": "silence"}]}, timeout=60)
    assert "2 s" in problem(answer, 504, "model_timed_out")["detail"]


def test_what_was_done_before_a_failure_is_not_lost(client: httpx2.Client, provider: Provider) -> None:
    provider.write_down("half", asks(("add", {"n": 1})), Refusal(400, "too long"))
    answer = client.post("/chat", json={"messages": [{"role": "user", "content": "half"}]})
    assert [m["role"] for m in problem(answer, 502, "model_failed")["messages"]] == ["user", "assistant", "tool"]


def test_a_stream_that_breaks_off_is_a_failure_and_the_last_event(client: httpx2.Client, provider: Provider) -> None:
    provider.write_down("broken", Broken(says("The answer is ")[:1]))
    events = list(stream(client, "/chat", {"messages": [{"role": "user", "content": "broken"}]}))
    assert events[0][0] == "content.delta"
    assert events[-1][0] == "problem"
    assert events[-1][1]["code"] == "model_failed"


@pytest.mark.parametrize("feature", ["parallel_tool_calls", "stream_options", "strict"])
def test_what_a_model_does_not_take_is_left_out(
    say: Say, requests: Requests, request: pytest.FixtureRequest, feature: str
) -> None:
    options = {"parallel_tool_calls": True, "strict": True, "model": request.node.name, "tools": ["add"]}
    assert say(Refusal(400, f"Unknown parameter: '{feature}'"), says("ok"), **options)["content"] == "ok"
    first, second = requests()
    assert f'"{feature}"' in json.dumps(first)
    assert f'"{feature}"' not in json.dumps(second)


def test_the_key_reaches_neither_kernels_nor_the_log(
    client: httpx2.Client, chatting: Server, provider: Provider
) -> None:
    provider.write_down("log", Refusal(401, f"Wrong key: {KEY}"))
    client.post("/chat", json={"messages": [{"role": "user", "content": "log"}]})
    code = "import os; [name for name in os.environ if 'OPENAI' in name or 'AZURE' in name]"
    assert execute(client, code)["result"] == "[]"
    assert KEY not in "".join(chatting.said)


# -- models without tool calls

OTHERWISE = [
    ("ad", {"n": 1}, "Did you mean 'add'?"),
    ("boom", {"n": 1}, "ValueError: no such n"),
    ("add", {"n": 1, "extra": 2}, "extra"),
    ("add", {}, "invalid_arguments"),
    ("add", {"n": "3"}, "4"),
    ("total", {"xs": "[1,2]"}, "3"),
    ("flag", {"b": "false"}, "false"),
    ("noarg", {}, "here"),
    ("big", {"n": 300_000}, "characters left out"),
    ("obj", {"n": 1}, "object"),
    ("silent", {}, ""),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), OTHERWISE)
def test_a_legacy_model_calls_functions(say: Say, requests: Requests, name: str, arguments: Any, expected: str) -> None:
    found = say(asks_legacy(name, arguments), says("I see."), mode="legacy")
    assert found["content"] == "I see."
    assert expected in told(found)[0]
    first, second = requests()
    assert {f["name"] for f in first["functions"]} == set(SOURCES) and "tools" not in first
    assert [m["role"] for m in second["messages"]] == ["user", "assistant", "function"]
    assert second["messages"][2] == {"role": "function", "name": name, "content": told(found)[0]}


@pytest.mark.parametrize(("name", "arguments", "expected"), OTHERWISE)
def test_a_model_that_knows_only_text_calls_functions(
    say: Say, requests: Requests, name: str, arguments: Any, expected: str
) -> None:
    found = say(asks_in_words((name, arguments)), says("I see."), mode="prompt")
    assert found["content"] == "I see."
    assert expected in told(found)[0]
    assert found["messages"][1]["content"] == "Let me see."
    assert found["messages"][1]["tool_calls"][0]["function"]["name"] == name
    assert [m["role"] for m in requests()[1]["messages"]] == ["system", "user", "assistant", "user"]


def test_several_calls_in_text_run_side_by_side(say: Say, tmp_path: Path) -> None:
    both = [("meets", {"folder": str(tmp_path), "mine": a, "other": b}) for a, b in ("xy", "yx")]
    assert told(say(asks_in_words(*both), says("ok"), mode="prompt")) == ["x met y", "y met x"]


def test_json_that_is_no_call_is_an_answer(say: Say) -> None:
    assert say(says('{"name": "Ada", "age": 36}'), mode="prompt")["content"] == '{"name": "Ada", "age": 36}'


def test_of_text_that_is_a_call_nothing_is_shown_as_the_answer(client: httpx2.Client, provider: Provider) -> None:
    provider.write_down("shown", asks_in_words(("add", {"n": 1})), says("It is 2."))
    body = {"messages": [{"role": "user", "content": "shown"}], "mode": "prompt"}
    shown = [data["text"] for kind, data in stream(client, "/chat", body) if kind == "content.delta"]
    assert shown == ["Let me see.", "It is 2."]


@pytest.mark.parametrize(("mode", "told_"), [("legacy", "none"), ("prompt", "answer in words now")])
def test_at_the_limit_these_models_are_asked_for_words_too(say: Say, requests: Requests, mode: str, told_: str) -> None:
    ask = asks_legacy("add", {"n": 1}) if mode == "legacy" else asks_in_words(("add", {"n": 1}))
    found = say(ask, says("So far, 2."), mode=mode, max_rounds=1)
    assert (found["status"], found["content"]) == ("limit", "So far, 2.")
    last = requests()[-1]
    assert told_ in (last["function_call"] if mode == "legacy" else last["messages"][0]["content"])


def test_what_a_legacy_model_thinks_is_kept(say: Say) -> None:
    found = say(asks_legacy("add", {"n": 1}, thoughts="I add."), says("2"), mode="legacy")
    assert [each["thoughts"] for each in found["rounds"]] == ["I add.", ""]


# -- bodies


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": [{"content": "no role"}]},
        {"messages": [{"role": "poet", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}], "options": {"stream": False}},
        {"messages": [{"role": "user", "content": "x"}], "options": {"n": 2}},
        {"messages": [{"role": "user", "content": "x"}], "max_rounds": 0},
        {"messages": [{"role": "user", "content": "x"}], "max_rounds": 5},
        {"messages": [{"role": "user", "content": "x"}], "timeout": 3601},
        {"messages": [{"role": "user", "content": "x"}], "total_timeout": 1e9},
        {"messages": [{"role": "user", "content": "x"}], "mode": "morse"},
        {"messages": [{"role": "user", "content": "x"}], "tool": ["add"]},
    ],
)
def test_a_body_that_is_not_valid_is_refused(client: httpx2.Client, body: dict[str, Any]) -> None:
    problem(client.post("/chat", json=body), 422, "invalid_request")


def test_an_answer_that_is_missing_is_put_in_before_the_model_sees_it(
    client: httpx2.Client, provider: Provider
) -> None:
    provider.write_down("dangling", says("I see."))
    function = {"name": "add", "arguments": "{}"}
    asking = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "a", "type": "function", "function": function}],
    }
    body = {"messages": [{"role": "user", "content": "dangling"}, asking, {"role": "user", "content": "go on"}]}
    assert client.post("/chat", json=body).status_code == 200
    sent = provider.asked["dangling"][0]["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "tool", "user"]
    assert sent[2]["tool_call_id"] == "a"


def test_a_value_that_is_bound_and_missing_is_the_callers_to_give(client: httpx2.Client, provider: Provider) -> None:
    provider.write_down("bound", asks(("whose", {"thing": "hat"})))
    answer = client.post("/chat", json={"messages": [{"role": "user", "content": "bound"}]})
    found = problem(answer, 422, "missing_bound")
    assert [m["role"] for m in found["messages"]] == ["user", "assistant", "tool"]
