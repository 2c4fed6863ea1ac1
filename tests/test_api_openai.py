"""The service as a model, driven by OpenAI's own client as tutorials do it, streaming and not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.conftest import Server, running_server
from tests.doors import tool_call
from tests.provider import Answer, Broken, Provider, Refusal, asks, chunk, says

SOURCES = {
    "add": ('def add(n: int) -> int:\n    """Add one."""\n    return n + 1\n', ["sums"]),
    "hello": ("def hello() -> str:\n    return 'hi'\n", ["words", "polite"]),
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory, cache: Path, provider: Provider) -> Iterator[Server]:
    """A service that has it, and some functions."""
    folder = tmp_path_factory.mktemp("openai")
    with running_server(folder, cache, {"OPENAI_BASE_URL": provider.url}, model="behind") as server:
        with server.client() as client:
            bodies = [{"source": source, "tags": tags} for source, tags in SOURCES.values()]
            assert client.post("/register/batch", json={"functions": bodies}).status_code == 201
        yield server


@pytest.fixture
def client(chatting: Server) -> Iterator[OpenAI]:
    """OpenAI's client of the service."""
    with OpenAI(base_url=f"{chatting.url}/v1", api_key=chatting.token, max_retries=0) as opened:
        yield opened


Ask = Callable[..., Any]


@pytest.fixture
def ask(request: pytest.FixtureRequest, client: OpenAI, provider: Provider) -> Ask:
    """Write the model's answers down, and ask the service."""

    def asked(*answers: Answer, model: str = "aigbb", **more: Any) -> Any:
        provider.write_down(request.node.name, *answers)
        messages: Any = [{"role": "user", "content": request.node.name}]
        return client.chat.completions.create(model=model, messages=messages, **more)

    return asked


def sent(provider: Provider, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What the model behind was asked."""
    return provider.asked[request.node.name]


def test_the_models_are_all_functions_and_those_of_each_tag(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["aigbb", "aigbb:polite", "aigbb:sums", "aigbb:words"]


def test_functions_are_run_here_and_the_answer_is_in_words(ask: Ask) -> None:
    answer = ask(asks(("add", {"n": 1})), says("It is 2."))
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "It is 2.")
    assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
    assert answer.model == "aigbb"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_what_ran_is_in_one_field_more(ask: Ask) -> None:
    ran = ask(asks(("add", {"n": 1})), says("It is 2.")).model_extra["aigbb"]
    assert (ran["status"], ran["model"], ran["offered"]) == ("done", "behind", ["add", "hello"])
    assert [run["name"] for run in ran["rounds"][0]["runs"]] == ["add"]


def test_a_stream_survives_the_loop_of_a_tutorial(ask: Ask) -> None:
    text, finish = "", None
    for part in ask(asks(("add", {"n": 1})), [chunk(reasoning_content="hm"), *says("It is 2.")], stream=True):
        if part.choices[0].delta.content:
            text += part.choices[0].delta.content
        finish = part.choices[0].finish_reason or finish
    assert (text, finish) == ("It is 2.", "stop")


def test_the_clients_own_stream_helper_takes_it(client: OpenAI, provider: Provider) -> None:
    provider.write_down("helper", asks(("add", {"n": 1})), says("It is 2."))
    with client.chat.completions.stream(model="aigbb", messages=[{"role": "user", "content": "helper"}]) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "It is 2."


def test_a_stream_has_what_ran_and_the_usage_if_asked_for(ask: Ask) -> None:
    options = {"include_usage": True}
    parts = list(ask(asks(("add", {"n": 1})), says("It is 2."), stream=True, stream_options=options))
    assert parts[0].choices[0].delta.role == "assistant"
    told = [part.model_extra["aigbb"] for part in parts if "aigbb" in part.model_extra]
    assert told[0]["call"]["function"] == {"name": "add", "arguments": '{"n": 1}'}
    assert told[1]["result"]["content"] == "2"
    assert told[2]["status"] == "done"
    assert parts[-1].usage.total_tokens > 0 and parts[-1].choices == []


def test_a_tag_chooses_the_functions(ask: Ask) -> None:
    assert ask(says("ok"), model="aigbb:sums").model_extra["aigbb"]["offered"] == ["add"]


# -- the client's own tools


@pytest.mark.parametrize("stream", [False, True])
def test_calls_of_the_clients_tools_come_back_to_it(ask: Ask, stream: bool) -> None:
    answer = ask(asks(("weather", {"city": "Rome"})), tools=[WEATHER], stream=stream)
    choices = [part.choices[0] for part in answer] if stream else answer.choices
    calls = [call for c in choices for call in ((c.delta if stream else c.message).tool_calls or [])]
    assert [(call.function.name, call.function.arguments) for call in calls] == [("weather", '{"city": "Rome"}')]
    assert choices[-1].finish_reason == "tool_calls"


def test_the_loop_of_a_tutorial_runs_its_tools_and_ours(client: OpenAI, provider: Provider) -> None:
    provider.write_down(
        "tutorial", asks(("add", {"n": 1})), asks(("weather", {"city": "Rome"}), ids=["w"]), says("2, and sunny.")
    )
    messages: list[Any] = [{"role": "user", "content": "tutorial"}]
    while True:
        reply = client.chat.completions.create(model="aigbb", messages=messages, tools=[WEATHER]).choices[0].message
        messages.append(reply)
        if not reply.tool_calls:
            break
        for call in reply.tool_calls:
            assert call.type == "function" and call.function.name == "weather"
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    assert reply.content == "2, and sunny."
    assert [m["role"] for m in provider.asked["tutorial"][-1]["messages"]] == ["user", "assistant", "tool"]


def test_the_loop_of_a_tutorial_puts_calls_together_from_a_stream(client: OpenAI, provider: Provider) -> None:
    both = asks(("weather", {"city": "Rome"}), ("weather", {"city": "Oslo"}), ids=["r", "o"])
    provider.write_down("streamed tutorial", asks(("add", {"n": 1})), both, says("2, and sunny."))
    messages: list[Any] = [{"role": "user", "content": "streamed tutorial"}]
    while True:
        text = ""
        calls: dict[int, dict[str, Any]] = {}
        for part in client.chat.completions.create(model="aigbb", messages=messages, tools=[WEATHER], stream=True):
            delta = part.choices[0].delta
            text += delta.content or ""
            for piece in delta.tool_calls or []:
                assert piece.function
                call = calls.setdefault(piece.index, {"id": piece.id, "name": piece.function.name, "arguments": ""})
                call["arguments"] += piece.function.arguments or ""
        if not calls:
            break
        asked = [tool_call(call["id"], call["name"], call["arguments"]) for call in calls.values()]
        messages.append({"role": "assistant", "content": text or None, "tool_calls": asked})
        for call in calls.values():
            city = json.loads(call["arguments"])["city"]
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": f"sunny in {city}"})
    assert text == "2, and sunny."
    assert [m["content"] for m in provider.asked["streamed tutorial"][-1]["messages"][2:]] == [
        "sunny in Rome",
        "sunny in Oslo",
    ]


LEGACY = {"name": "city", "description": "Where I am.", "parameters": {"type": "object", "properties": {}}}


def test_the_loop_of_an_old_tutorial_with_functions(client: OpenAI, provider: Provider) -> None:
    provider.write_down("old tutorial", asks(("city", {})), asks(("add", {"n": 1})), says("Berlin, and 2."))
    messages: list[Any] = [{"role": "user", "content": "old tutorial"}]
    functions: Any = [LEGACY]
    first = client.chat.completions.create(model="aigbb", messages=messages, functions=functions)
    [choice] = first.choices
    assert choice.finish_reason == "function_call" and choice.message.tool_calls is None
    assert choice.message.function_call is not None and choice.message.function_call.name == "city"
    messages += [choice.message, {"role": "function", "name": "city", "content": "Berlin"}]
    last = client.chat.completions.create(model="aigbb", messages=messages, functions=functions)
    assert last.choices[0].message.content == "Berlin, and 2."
    sent = provider.asked["old tutorial"][1]["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "tool"]
    assert sent[2]["tool_call_id"] == sent[1]["tool_calls"][0]["id"] and sent[2]["content"] == "Berlin"


@pytest.mark.parametrize(("choice", "told"), [("none", "none"), ({"name": "city"}, LEGACY["name"])])
def test_a_function_can_be_forced_as_before(
    client: OpenAI, provider: Provider, choice: Any, told: str, request: pytest.FixtureRequest
) -> None:
    question = request.node.name
    provider.write_down(question, asks(("city", {})) if told == "city" else says("ok"))
    functions: Any = [LEGACY]
    stream = client.chat.completions.create(
        model="aigbb",
        messages=[{"role": "user", "content": question}],
        functions=functions,
        function_call=choice,
        stream=True,
    )
    chunks = list(stream)
    calls = [c.choices[0].delta.function_call for c in chunks if c.choices[0].delta.function_call]
    assert [call.name for call in calls if call] == (["city"] if told == "city" else [])
    assert told in json.dumps(provider.asked[question][0]["tool_choice"])


def test_of_a_mixed_answer_only_the_clients_calls_come_back(ask: Ask) -> None:
    answer = ask(asks(("add", {"n": 1}), ("weather", {"city": "Rome"})), tools=[WEATHER])
    assert [call.function.name for call in answer.choices[0].message.tool_calls] == ["weather"]
    assert answer.model_extra["aigbb"]["rounds"][0]["runs"] == []


def test_a_tool_of_the_client_hides_a_function_of_that_name(
    ask: Ask, provider: Provider, request: pytest.FixtureRequest
) -> None:
    own = {"type": "function", "function": {"name": "add", "description": "mine", "parameters": {"type": "object"}}}
    answer = ask(asks(("add", {"n": 1})), tools=[own])
    assert answer.choices[0].finish_reason == "tool_calls"
    offered = [tool["function"]["description"] for tool in sent(provider, request)[0]["tools"]]
    assert sorted(offered) == ["hello() -> str", "mine"]


def allowed(mode: str, name: str) -> dict[str, Any]:
    """A tool_choice of one tool."""
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [{"function": {"name": name}}]}}


@pytest.mark.parametrize(
    ("choice", "names", "told"),
    [
        ({"type": "function", "function": {"name": "weather"}}, {"add", "hello", "weather"}, None),
        (allowed("required", "weather"), {"weather"}, "required"),
        (allowed("auto", "add"), {"add"}, "auto"),
    ],
)
def test_choices_are_of_both(
    ask: Ask, provider: Provider, request: pytest.FixtureRequest, choice: Any, names: set[str], told: str | None
) -> None:
    ask(says("ok"), tools=[WEATHER], tool_choice=choice)
    [asked] = sent(provider, request)
    assert {tool["function"]["name"] for tool in asked["tools"]} == names
    assert asked["tool_choice"] == (told or choice)


def test_what_is_not_ours_goes_to_the_model(ask: Ask, provider: Provider, request: pytest.FixtureRequest) -> None:
    more = {"extra_body": {"top_k": 3}}
    ask(says("ok"), temperature=0.2, max_tokens=5, user="me", response_format={"type": "text"}, **more)
    [asked] = sent(provider, request)
    assert {"temperature": 0.2, "max_tokens": 5, "model": "behind"}.items() <= asked.items()
    assert (asked["response_format"], asked["top_k"]) == ({"type": "text"}, 3)
    assert "user" not in asked


@pytest.mark.parametrize(("finish", "told"), [("length", "length"), ("content_filter", "content_filter")])
def test_an_answer_that_broke_off_says_so(ask: Ask, finish: str, told: str) -> None:
    assert ask(says("I would", finish=finish)).choices[0].finish_reason == told


# -- refusals


@pytest.mark.parametrize("stream", [False, True])
def test_refusals_have_the_form_that_the_client_reads(ask: Ask, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError, match="There is no model 'gpt-9'"):
        ask(model="gpt-9", stream=stream)
    with pytest.raises(openai.UnprocessableEntityError, match="sometimes") as refused:
        ask(tool_choice="sometimes", stream=stream)
    assert refused.value.code == "invalid_request"
    with pytest.raises(openai.UnprocessableEntityError, match="send tools only"):
        both = {"name": "f", "parameters": {"type": "object"}}
        ask(functions=[both], tools=[{"type": "function", "function": both}], stream=stream)
    with pytest.raises(openai.InternalServerError, match="not today") as failed:
        ask(Refusal(400, "not today"), stream=stream)
    assert (failed.value.status_code, failed.value.code) == (502, "model_failed")


def test_a_failure_in_the_middle_of_a_stream_is_raised_there(ask: Ask) -> None:
    parts = ask(Broken(says("The answer is ")[:2]), stream=True)
    with pytest.raises(openai.APIError, match="could not answer"):
        list(parts)


def test_a_wrong_token_is_refused(chatting: Server) -> None:
    with OpenAI(base_url=f"{chatting.url}/v1", api_key="wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_without_a_model_behind_the_client_is_told_how_to_have_one(server: Server) -> None:
    with (
        OpenAI(base_url=f"{server.url}/v1", api_key=server.token, max_retries=0) as client,
        pytest.raises(openai.InternalServerError, match="AIGBB_MODEL"),
    ):
        client.chat.completions.create(model="aigbb", messages=[{"role": "user", "content": "x"}])


def test_results_are_json_that_any_client_reads(chatting: Server, provider: Provider) -> None:
    provider.write_down("raw", asks(("hello", {})), says("hi"))
    body = {"model": "aigbb", "messages": [{"role": "user", "content": "raw"}], "stream": True}
    with chatting.client() as client:
        text = client.post("/v1/chat/completions", json=body).text
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    assert all(json.loads(line)["object"] == "chat.completion.chunk" for line in lines[:-1])
