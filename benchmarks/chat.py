"""What the loop of chat takes for itself: without the model, which answers at once, and without the functions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from openai import OpenAI

from benchmarks import model
from benchmarks.bench import Bench
from benchmarks.model import Model, calls, words
from benchmarks.rows import Goal, Row, timed_row
from benchmarks.service import Service
from benchmarks.timing import Sample, interleave

ROUNDS = 9  # with calls; the last one is in words
PARALLEL = 4
ADD = 'def bench_add(n: int) -> int:\n    """Add one."""\n    return n + 1\n'
WAIT = 'import time\n\ndef bench_wait(n: int) -> int:\n    """Wait a second."""\n    time.sleep(1)\n    return n\n'
TOOLS: Any = [{"type": "function", "function": {"name": "bench_add", "parameters": {"type": "object"}}}]


def chat(bench: Bench) -> Iterator[Row]:
    """A turn of ten rounds, four calls at once, and the first word of an answer."""
    with model.serving() as provider, bench.with_model(provider.url) as service:
        for source in (ADD, WAIT):
            service.ask("POST", "/register", {"source": source, "effects": "read"})
        yield from _rounds(bench, service, provider)
        at_once = interleave(
            bench.times(5),
            0,
            {"ours": lambda _: _at_once(service, provider), "one": lambda _: _one(service)},
            bench.pause,
        )
        yield timed_row(
            "chat",
            "four calls of 1 s that a model asks for at once, a turn of /chat",
            "one such call with /functions/{name}/call",
            at_once["ours"],
            at_once["one"],
            Goal(own=1300.0),
        )
        first = interleave(
            bench.times(20),
            bench.times(3, 0),
            {"ours": lambda _: _first(service, provider), "client": lambda _: _direct(provider)},
            bench.pause,
        )
        yield timed_row(
            "chat",
            "from the model's first chunk to the first content.delta of /chat as events",
            "to the first chunk in the openai client itself",
            first["ours"],
            first["client"],
            Goal(own=10.0),
        )


def _rounds(bench: Bench, service: Service, provider: Model) -> Iterator[Row]:
    """In a session first: without one, kernels are forked for the next calls while the loop runs."""
    other = "the openai client's tutorial loop with a function of its own process: without the model's answer"
    with service.sessions(1) as [session]:
        contenders = {
            "session": lambda _: _turn(service, provider, session),
            "clean": lambda _: _turn(service, provider),
            "tutorial": lambda _: _tutorial(provider),
        }
        found = interleave(bench.times(20), bench.times(3, 0), contenders, bench.pause)
    title = "the loop's own time a round of /chat, without the model's answer and the function's call"
    yield timed_row("chat", f"{title}, in a session", other, found["session"], found["tutorial"], Goal(own=5.0))
    yield timed_row("chat", f"{title}, on clean kernels", other, found["clean"], found["tutorial"])


def _body(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Add."}], "tools": ["bench_add", "bench_wait"], **more}


def _turn(service: Service, provider: Model, session: str | None = None) -> Sample:
    provider.write_down(*(calls("bench_add", {"n": n}) for n in range(ROUNDS)), words("All is added."))
    begin = time.monotonic()
    answer = service.ask("POST", "/chat", _body(session=session))
    total = (time.monotonic() - begin) * 1000
    _check(answer["status"] == "done" and len(answer["rounds"]) == ROUNDS + 1, answer)
    functions = sum(run["duration_ms"] for each in answer["rounds"] for run in each["runs"])
    return {"own": (total - provider.busy - functions) / (ROUNDS + 1)}


def _tutorial(provider: Model) -> Sample:
    """As guides show it, with a client that is warm."""
    provider.write_down(words("Warm."), *(calls("bench_add", {"n": n}) for n in range(ROUNDS)), words("All is added."))
    with OpenAI(base_url=provider.url, api_key="none") as client:
        messages: Any = [{"role": "user", "content": "Add."}]
        _streamed(client, messages)
        provider.spans.clear()
        del provider.answers[0]
        begin = time.monotonic()
        while asked := _streamed(client, messages):
            messages.append({"role": "assistant", "content": None, "tool_calls": asked})
            for call in asked:
                result = json.loads(call["function"]["arguments"])["n"] + 1
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": str(result)})
        total = (time.monotonic() - begin) * 1000
    return {"own": (total - provider.busy) / (ROUNDS + 1)}


def _streamed(client: OpenAI, messages: Any) -> list[dict[str, Any]]:
    with client.chat.completions.create(model="bench", messages=messages, tools=TOOLS, stream=True) as stream:
        deltas = [chunk.choices[0].delta for chunk in stream]
    return [call.to_dict() for delta in deltas for call in delta.tool_calls or ()]


def _at_once(service: Service, provider: Model) -> Sample:
    provider.write_down(calls("bench_wait", *({"n": n} for n in range(PARALLEL))), words("All have waited."))
    begin = time.monotonic()
    answer = service.ask("POST", "/chat", _body())
    total = (time.monotonic() - begin) * 1000
    told = [message["content"] for message in answer["messages"] if message["role"] == "tool"]
    _check(told == [str(n) for n in range(PARALLEL)], answer)
    return {"turn": total}


def _one(service: Service) -> Sample:
    return service.call("bench_wait", {"n": 1}, 1)


def _first(service: Service, provider: Model) -> Sample:
    provider.write_down(words("Here is the answer."))
    body = json.dumps(_body()).encode()
    service.http.first("POST", "/chat", body, "Accept: text/event-stream\r\n", b"event: content.delta")
    arrived = time.monotonic()
    service.http.drain()
    return {"first": (arrived - provider.spans[0].first) * 1000}


def _direct(provider: Model) -> Sample:
    provider.write_down(words("Warm."), words("Here is the answer."))
    with OpenAI(base_url=provider.url, api_key="none") as client:
        _streamed(client, [{"role": "user", "content": "Warm."}])
        asked: Any = [{"role": "user", "content": "Add."}]
        with client.chat.completions.create(model="bench", messages=asked, stream=True) as stream:
            next(stream)
            arrived = time.monotonic()
            for _ in stream:
                pass
    return {"first": (arrived - provider.spans[1].first) * 1000}


def _check(fine: bool, answer: Any) -> None:
    if not fine:
        raise RuntimeError(f"Not what is measured: {answer}")
