"""A turn's limits, its other ends, what a model looks for and looks at, and what it is asked when it refuses."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import Server, running_server
from tests.doors import Ask, Requests, problem, stream, told
from tests.provider import Provider, Refusal, asks, asks_in_words, asks_legacy, says, serving

pytest_plugins = ["tests.chat_fixtures"]

SECRET = "hunter2-hunter2"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SHOWS = f"""
import base64
from IPython.display import Image, display

def shows() -> None:
    display(Image(base64.b64decode("{PIXEL}"), format="png"))
"""
LEAKS = """
import os

def leaks(n: int) -> int:
    raise ValueError(f"cannot log in with {os.environ['LOOP_SECRET']}")
"""
MARKS = """
from pathlib import Path

def marks(folder: str, name: str) -> list[str]:
    (Path(folder) / name).touch()
    return sorted(path.name for path in Path(folder).iterdir())
"""
LOOKS = """
from pathlib import Path

def looks(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())
"""
FUNCTIONS: list[dict[str, Any]] = [
    {"source": "def add(n: int) -> int:\n    return n + 1\n"},
    {"source": "def total(xs: list[int]) -> int:\n    return sum(xs)\n"},
    {"source": "def loose(x):\n    return x\n"},
    {"source": "def big(n: int) -> str:\n    return 'a' + 'x' * n + 'z'\n"},
    {"source": SHOWS, "effects": "read"},
    {"source": LEAKS, "effects": "read", "env": {"LOOP_SECRET": SECRET}},
    {"source": MARKS, "effects": "write", "confirm": "never"},
    {"source": LOOKS, "effects": "read"},
]


@pytest.fixture
def tmp_path(shown: Path) -> Path:
    """A folder that kernels may write, too."""
    return shown


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, cache: Path, provider: Provider) -> Iterator[Server]:
    """A service whose model says what tests wrote down."""
    folder = tmp_path_factory.mktemp("loop")
    models = json.dumps({"sees": {"pictures": True}})
    with running_server(folder, cache, provider.environment, model="m", max_calls=6, models=models) as server:
        with server.client() as client:
            answer = client.post("/register/batch", json={"functions": FUNCTIONS})
            assert answer.status_code == 201, answer.text
        yield server


@pytest.fixture
def client(service: Server) -> Iterator[httpx2.Client]:
    """A client of it."""
    with service.client() as opened:
        yield opened


# -- limits


def adds(count: int) -> list[tuple[str, Any]]:
    """So many calls."""
    return [("add", {"n": n}) for n in range(count)]


@pytest.mark.parametrize(
    "most", [{"max_tool_calls": 2}, {"max_total_tokens": 1}, {"total_timeout": 1e-6}, {"max_rounds": 1}]
)
def test_at_any_limit_the_best_answer_is_asked_for(ask: Ask, requests: Requests, most: dict[str, Any]) -> None:
    calls = [*asks(*adds(2)), *says("x")[-1:]]
    found = ask(calls, says("So far: 2."), **most)
    assert (found["status"], found["content"], len(told(found))) == ("limit", "So far: 2.", 2)
    assert [each["tool_choice"] for each in requests()] == ["auto", "none"]


@pytest.mark.parametrize("most", [{"max_tool_calls": 2}, {"max_total_tokens": 1}, {"max_rounds": 1}])
def test_or_it_is_an_error(client: httpx2.Client, provider: Provider, most: dict[str, Any]) -> None:
    provider.write_down(f"error {most}", [*asks(*adds(2)), *says("x")[-1:]])
    body = {"messages": [{"role": "user", "content": f"error {most}"}], "on_limit": "error", **most}
    found = problem(client.post("/chat", json=body), 422, "limit_reached")
    assert [m["role"] for m in found["messages"]] == ["user", "assistant", "tool", "tool"]


def test_calls_beyond_the_limit_are_not_run(ask: Ask) -> None:
    found = ask(asks(*adds(4)), says("ok"), max_tool_calls=3)
    assert told(found)[:3] == ["1", "2", "3"]
    assert json.loads(told(found)[3])["error"] == "not_run"


@pytest.mark.parametrize(("field", "most"), [("max_tool_calls", 6), ("timeout", 3600)])
def test_a_request_cannot_widen_what_the_service_allows(client: httpx2.Client, field: str, most: int) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], field: most + 1}
    told = problem(client.post("/chat", json=body), 422, "invalid_request")
    assert (told["errors"][0]["field"], str(most) in told["detail"]) == (field, True)
    assert "AIGBB_MAX_" in told["hint"]
    with client.stream("POST", "/chat", json=body, headers={"Accept": "text/event-stream"}) as answer:
        assert "invalid_request" in answer.read().decode()


# -- without summing up


def test_a_result_can_be_the_answer_itself(ask: Ask, requests: Requests) -> None:
    found = ask(asks(("total", {"xs": [1, 2]})), final=False)
    assert (found["status"], found["content"], len(requests())) == ("done", "3", 1)
    assert [m["role"] for m in found["messages"]] == ["user", "assistant", "tool"]


def test_but_not_one_that_failed(ask: Ask) -> None:
    found = ask(asks(("total", {})), asks(("total", {"xs": [4]})), final=False)
    assert (found["content"], len(found["rounds"])) == ("4", 2)


def test_words_are_the_answer_all_the_same(ask: Ask) -> None:
    assert ask(says("No idea."), final=False)["content"] == "No idea."


# -- what is run


def test_a_write_is_a_barrier(ask: Ask, tmp_path: Path) -> None:
    folder = str(tmp_path)
    look, mark = ("looks", {"folder": folder}), ("marks", {"folder": folder, "name": "a"})
    found = ask(asks(look, mark, look, ("marks", {"folder": folder, "name": "b"}), look), says("ok"))
    assert told(found) == ["[]", '["a"]', '["a"]', '["a","b"]', '["a","b"]']


def test_a_secret_in_an_error_is_masked(ask: Ask) -> None:
    found = ask(asks(("leaks", {"n": 1})), says("ok"))
    assert "ValueError: cannot log in with ***" in told(found)[0]
    assert "Traceback" not in told(found)[0]
    [run] = found["rounds"][0]["runs"]
    assert "leaks.py:5" in run["traceback"] and "leaks.py" not in told(found)[0]
    assert SECRET not in json.dumps(found)


def test_of_a_large_result_head_and_tail_are_told_and_the_whole_is_kept(ask: Ask, client: httpx2.Client) -> None:
    found = ask(asks(("big", {"n": 300_000})), says("ok"))
    [content] = told(found)
    assert len(content) <= 20_000 and content.startswith("ax") and content.endswith("xz")
    [run] = found["rounds"][0]["runs"]
    assert run["whole"] in content
    assert client.get(run["whole"]).text == "a" + "x" * 300_000 + "z"


def test_people_see_what_was_asked_and_answered(ask: Ask) -> None:
    found = ask(asks(("add", '{"n":')), says("ok"))
    [run] = found["rounds"][0]["runs"]
    assert (run["name"], run["arguments"], run["status"]) == ("add", '{"n":', "invalid_arguments")
    assert run["content"] == told(found)[0]


# -- pictures


def test_a_model_that_can_looks_at_what_a_function_showed(ask: Ask, requests: Requests, client: httpx2.Client) -> None:
    found = ask(asks(("shows", {}), ("add", {"n": 1})), says("A dot."), model="sees")
    picture = found["messages"][4]
    link = picture["content"][1]["image_url"]["url"]
    assert picture["role"] == "user" and link.startswith("/results/")
    assert client.get(link).content == base64.b64decode(PIXEL)
    sent = requests()[1]["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "tool", "tool", "user"]
    assert sent[4]["content"][1]["image_url"]["url"] == f"data:image/png;base64,{PIXEL}"


def test_a_model_that_cannot_reads_that_there_is_one(ask: Ask) -> None:
    found = ask(asks(("shows", {})), says("ok"))
    assert [m["role"] for m in found["messages"]] == ["user", "assistant", "tool", "assistant"]
    [link] = found["rounds"][0]["runs"][0]["pictures"]
    assert link in told(found)[0]


def test_a_picture_that_is_gone_is_said_to_be(ask: Ask, requests: Requests) -> None:
    part = {"type": "image_url", "image_url": {"url": "/results/AAAAAAAAAAAAAAAAAAAAAA.png"}}
    name = "test_a_picture_that_is_gone_is_said_to_be"
    ask(says("ok"), messages=[{"role": "user", "content": name}, {"role": "user", "content": [part]}])
    assert requests()[0]["messages"][1]["content"][0]["type"] == "text"


# -- many functions


@pytest.fixture
def many(client: httpx2.Client) -> Iterator[None]:
    """More functions than are offered."""
    names = [f"filler_{n}" for n in range(25)]
    sources = [f'def {name}() -> int:\n    """Numbered."""\n    return 1\n' for name in names]
    sources.append('def zebra(n: int) -> int:\n    """Count the stripes of animals."""\n    return n\n')
    bodies = [{"source": source, "tags": ["many"]} for source in sources]
    assert client.post("/register/batch", json={"functions": bodies}).status_code == 201
    yield
    for name in [*names, "zebra"]:
        client.delete(f"/functions/{name}")


@pytest.mark.usefixtures("many")
def test_a_model_may_look_for_functions_itself(ask: Ask, requests: Requests) -> None:
    search = asks(("search_functions", {"query": "stripes of animals"}))
    found = ask(search, asks(("zebra", {"n": 7})), says("7."), search="model", tags=["many"])
    first, second, _ = ([tool["function"]["name"] for tool in each["tools"]] for each in requests())
    assert first == ["search_functions"]
    assert "zebra" in second and "search_functions" in second
    assert json.loads(told(found)[0])[0] == {"name": "zebra", "description": "Count the stripes of animals."}
    assert told(found)[1] == "7" and "zebra" in found["offered"]


@pytest.mark.usefixtures("many")
def test_what_is_not_offered_only_for_want_of_room_may_be_called(ask: Ask, requests: Requests) -> None:
    found = ask(asks(("filler_7", {}), ("add", {"n": 1})), says("ok"), search="model", tags=["many"])
    assert found["offered"] == [] and told(found)[0] == "1"
    assert "unknown_function" in told(found)[1], "another tag is another matter"


@pytest.mark.usefixtures("many")
def test_what_a_conversation_has_used_stays_offered(ask: Ask, client: httpx2.Client) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "zebra", "arguments": '{"n": 1}'}}
    earlier = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "1"}]
    name = "test_what_a_conversation_has_used_stays_offered"
    messages = [{"role": "user", "content": name}, *earlier, {"role": "user", "content": "And now?"}]
    found = ask(says("ok"), messages=messages, tags=["many"])
    assert len(found["offered"]) == 20 and "zebra" in found["offered"]
    without = ask(says("ok"), messages=messages[:1] + messages[3:], tags=["many"])
    assert "zebra" not in without["offered"]


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("arguments", ["{}", '{"query": 1}', "[", '{"query": ""}'])
def test_a_search_for_nothing_harms_nobody(ask: Ask, arguments: str) -> None:
    found = ask(asks(("search_functions", arguments)), says("ok"), search="model", tags=["many"])
    assert found["status"] == "done"


def test_few_functions_are_offered_and_not_looked_for(ask: Ask, requests: Requests) -> None:
    ask(says("ok"), search="model", tools=["add"])
    assert [tool["function"]["name"] for tool in requests()[0]["tools"]] == ["add"]


# -- strict


def test_strict_takes_what_has_a_strict_form_or_nothing(ask: Ask, requests: Requests, client: httpx2.Client) -> None:
    ask(says("ok"), strict="auto", tools=["add", "loose"])
    tools = {tool["function"]["name"]: tool["function"] for tool in requests()[0]["tools"]}
    assert tools["add"]["strict"] is True and not tools["loose"].get("strict")
    body = {"messages": [{"role": "user", "content": "x"}], "strict": True, "tools": ["add", "loose"]}
    assert problem(client.post("/chat", json=body), 422, "invalid_request")["function"] == "loose"


# -- models that cannot


REFUSES = "does not support tools"


def test_a_model_that_refuses_tools_is_asked_in_words(
    ask: Ask, requests: Requests, request: pytest.FixtureRequest
) -> None:
    model = request.node.name
    found = ask(Refusal(400, f"{model} {REFUSES}"), asks_in_words(("add", {"n": 1})), says("2."), model=model)
    assert (found["content"], told(found)) == ("2.", ["2"])
    assert [("tools" in each) for each in requests()] == [True, False, False]
    assert found["warnings"]


def test_one_that_takes_neither_tools_nor_functions_too(ask: Ask, requests: Requests) -> None:
    refusals = [Refusal(400, f"gpt-4 {REFUSES}"), Refusal(400, "functions are not supported")]
    found = ask(*refusals, asks_in_words(("add", {"n": 1})), says("2."), model="gpt-4")
    assert (found["content"], told(found)) == ("2.", ["2"])
    assert [each.keys() & {"tools", "functions"} for each in requests()] == [{"tools"}, {"functions"}, set(), set()]


def test_a_mode_that_was_asked_for_is_kept(client: httpx2.Client, provider: Provider) -> None:
    provider.write_down("kept mode", Refusal(400, f"native-only {REFUSES}"))
    body = {"messages": [{"role": "user", "content": "kept mode"}], "model": "native-only", "mode": "native"}
    problem(client.post("/chat", json=body), 502, "tools_refused")


def test_the_mode_is_that_which_a_model_has(ask: Ask, requests: Requests) -> None:
    assert told(ask(asks_legacy("add", {"n": 1}), says("2."), model="ernie-3.5-8k")) == ["2"]
    assert "functions" in requests()[0]


# -- another service


def test_a_caller_may_name_another_service_with_a_key_of_its_own(ask: Ask, provider: Provider) -> None:
    with serving() as other:
        other.write_down("elsewhere", asks(("add", {"n": 1})), says("From elsewhere."))
        place = {"base_url": other.url, "api_key": "the-callers"}
        found = ask(messages=[{"role": "user", "content": "elsewhere"}], service=place)
        assert found["content"] == "From elsewhere."
        assert other.keys == {"Bearer the-callers"}
        other.write_down("no key", says("Without."))
        assert (
            ask(messages=[{"role": "user", "content": "no key"}], service={"base_url": other.url})["content"]
            == "Without."
        )
        assert not other.keys & provider.keys and "Bearer sk-of-a-test" not in other.keys


def test_a_service_that_is_none_is_refused(client: httpx2.Client) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "service": {"base_url": "file:///etc/passwd"}}
    problem(client.post("/chat", json=body), 422, "invalid_request")


def test_the_callers_key_is_masked(client: httpx2.Client) -> None:
    with serving() as other:
        other.write_down("masked", Refusal(401, "Wrong: the-callers-key."))
        place = {"base_url": other.url, "api_key": "the-callers-key"}
        body = {"messages": [{"role": "user", "content": "masked"}], "service": place}
        assert "Wrong: ***" in problem(client.post("/chat", json=body), 502, "model_failed")["detail"]


def test_events_come_in_the_order_of_what_happens(client: httpx2.Client, provider: Provider) -> None:
    provider.write_down("order of events", asks(("add", {"n": 1})), says("It is 2.", pieces=1))
    body = {"messages": [{"role": "user", "content": "order of events"}]}
    names = [name for name, _ in stream(client, "/chat", body)]
    first = ["tool_call.delta", "tool_call.delta", "usage", "tool_call.ready", "tool_result"]
    assert names == [*first, "content.delta", "usage", "done"]
