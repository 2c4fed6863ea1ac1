"""Traces: what a collector really receives of a registration, an execution and a turn of chat."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from server.settings import Traces, traces
from server.tracing import Tracing, tracing
from tests.conftest import Server, running_server
from tests.doors import execute, register, source_of, stream, wait_until
from tests.provider import Provider, Refusal, asks, says
from tests.test_metrics import figures

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLERS = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
SECRET = "hush-77aa"


@dataclass
class Received:
    """A span as a collector has it."""

    name: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    failed: bool
    attributes: dict[str, Any]


@dataclass
class Collector:
    """Takes OTLP over HTTP."""

    url: str = ""
    spans: list[Received] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    raw: bytes = b""

    def take(self, body: bytes) -> None:
        """One request's spans."""
        self.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(_attributes(resource.resource))
            for scope in resource.scope_spans:
                self.spans += [
                    Received(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        span.status.code == 2,
                        _attributes(span),
                    )
                    for span in scope.spans
                ]

    def of(self, trace: str) -> list[Received]:
        """The spans of a trace, in the order of their beginning."""
        return sorted((s for s in list(self.spans) if s.trace == trace), key=lambda s: s.start)

    def whole(self, trace: str) -> list[Received]:
        """As `of`, once the span of the request itself has come, which is the last."""
        wait_until(lambda: any(s.parent == SPAN for s in self.of(trace)))
        return self.of(trace)


def _attributes(of: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in of.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on this machine."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield collector
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Where the service sends its traces."""
    with collecting() as started:
        yield started


@pytest.fixture(scope="module")
def traced(
    collector: Collector, provider: Provider, tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Iterator[Server]:
    """A service that sends traces."""
    folder = tmp_path_factory.mktemp("traced")
    more = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OPENAI_BASE_URL": provider.url,
    }
    with running_server(folder, cache, more, shipped=True, model="m", pool_size=1) as started:
        yield started


@pytest.fixture
def trace(request: pytest.FixtureRequest) -> str:
    """A trace of the test's own."""
    return f"{abs(hash(request.node.name)) + 1:032x}"[-32:]


@pytest.fixture
def traced_client(traced: Server, trace: str) -> Iterator[httpx2.Client]:
    """A client that is part of that trace."""
    with traced.client() as client:
        client.headers["traceparent"] = f"00-{trace}-{SPAN}-01"
        yield client


def tree(spans: list[Received]) -> list[tuple[str, str]]:
    """Each span's name, and its parent's, in alphabetical order."""
    names = {span.id: span.name for span in spans}
    return sorted((span.name, names.get(span.parent, "")) for span in spans)


def named(spans: list[Received], name: str) -> Received:
    """The last span of that name."""
    return [span for span in spans if span.name == name][-1]


def test_an_execution_is_part_of_its_callers_trace(
    traced_client: httpx2.Client, collector: Collector, trace: str
) -> None:
    execute(traced_client, f"import time; time.sleep(0.2); print('{SECRET}')")
    spans = collector.whole(trace)
    parts = [(f"execution.{part}", "execution") for part in ("queue", "start", "run")]
    assert tree(spans) == [("POST /execute", ""), ("execution", "POST /execute"), *sorted(parts)]
    request, execution = named(spans, "POST /execute"), named(spans, "execution")
    queue, start, run = (named(spans, name) for name, _ in parts)
    assert request.attributes["http.route"] == "/execute"
    assert execution.attributes.items() >= {"aigbb.kind": "execute", "aigbb.outcome": "ok"}.items()
    assert queue.start <= queue.end <= start.start <= start.end <= run.start
    assert run.end - run.start >= 0.2e9
    assert not any(span.failed for span in spans)


def test_what_goes_wrong_is_an_error_with_its_code(
    traced_client: httpx2.Client, collector: Collector, trace: str
) -> None:
    assert traced_client.post("/functions/word_count/call", json={SECRET: SECRET}).status_code == 422
    execution = next(span for span in collector.whole(trace) if span.name == "execution")
    assert execution.failed
    assert execution.attributes["error.type"] == "error"
    assert execution.attributes["aigbb.functions"] == ["word_count@1"]


def test_a_registration_has_a_span_a_stage(traced_client: httpx2.Client, collector: Collector, trace: str) -> None:
    register(traced_client, source_of("seen", f"return n  # {SECRET}"))
    spans = collector.whole(trace)
    stages = ("parse", "resolve", "build", "verify", "switch", "publish")
    assert tree(spans) == [
        ("POST /register", ""),
        ("registration", "POST /register"),
        *sorted((f"registration.{stage}", "registration") for stage in stages),
    ]
    assert named(spans, "registration").attributes == {
        "aigbb.action": "register",
        "aigbb.outcome": "ok",
        "aigbb.functions": ["seen"],
    }


def test_a_registration_that_fails_shows_where(traced_client: httpx2.Client, collector: Collector, trace: str) -> None:
    traced_client.post("/register", json={"source": f"import nope\n{source_of('seen')}"})
    failed = [span for span in collector.whole(trace) if span.failed]
    assert sorted(span.name for span in failed) == ["registration", "registration.verify"]
    assert {span.attributes["error.type"] for span in failed} == {"missing_dependency"}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_turn_of_chat_has_rounds_requests_and_calls(
    traced_client: httpx2.Client, collector: Collector, provider: Provider, trace: str, streamed: bool
) -> None:
    question = f"How often? {SECRET} {streamed}"
    provider.write_down(question, asks(("word_count", {"text": SECRET})), says(SECRET))
    body = {"messages": [{"role": "user", "content": question}]}
    if streamed:
        list(stream(traced_client, "/chat", body))
    else:
        assert traced_client.post("/chat", json=body).status_code == 200
    spans = collector.whole(trace)
    assert tree(spans) == [
        ("POST /chat", ""),
        *[("chat m", "round")] * 2,
        ("execute_tool", "round"),
        ("execution", "execute_tool"),
        *((f"execution.{part}", "execution") for part in ("queue", "run", "start")),
        ("invoke_agent", "POST /chat"),
        *[("round", "invoke_agent")] * 2,
    ]
    chat, tool = named(spans, "chat m"), named(spans, "execute_tool")
    assert chat.attributes["gen_ai.usage.input_tokens"] == 10
    assert chat.attributes["gen_ai.request.model"] == "m"
    assert tool.attributes["gen_ai.tool.name"] == "word_count"
    assert not any(span.failed for span in spans)


def test_turns_are_counted_too(traced: Server, provider: Provider) -> None:
    question = "Counted?"
    provider.write_down(question, asks(("word_count", {"text": "a"}), ("nope", {})), says("ok"), Refusal(400, "no"))
    with traced.client() as client:
        body = {"messages": [{"role": "user", "content": question}]}
        before = figures(client)
        assert client.post("/chat", json=body).status_code == 200
        assert client.post("/chat", json=body).status_code == 502
        after = figures(client)
    grown = {key: value - before.get(key, 0) for key, value in after.items()}

    def of(name: str, **labels: str) -> float:
        return grown[f"aigbb_{name}", frozenset(labels.items())]

    assert of("chat_turns_total", outcome="done") == of("chat_turns_total", outcome="model_failed") == 1
    assert of("model_request_seconds_count", outcome="ok") == 2
    assert of("model_request_seconds_count", outcome="model_failed") == 1
    assert of("chat_tokens_total", kind="prompt") == 10
    assert of("tool_calls_total", outcome="ok") == of("tool_calls_total", outcome="unknown_function") == 1


def test_no_span_holds_what_was_sent_or_said(traced: Server, collector: Collector) -> None:
    with traced.client() as client:
        client.headers.update(CALLERS)
        client.get("/functions", params={"q": SECRET, "token": SECRET})
        collector.whole(TRACE)
    assert collector.spans
    assert SECRET.encode() not in collector.raw
    assert traced.token.encode() not in collector.raw


def test_the_service_has_its_name_and_what_the_environment_adds(traced: Server, collector: Collector) -> None:
    with traced.client() as client:
        client.get("/healthz")
    wait_until(lambda: bool(collector.resources))
    assert collector.resources[0]["service.name"] == "aigbb-functions"
    assert collector.resources[0]["deployment.environment.name"] == "test"


# -- without a service


@pytest.mark.parametrize(
    ("environment", "wanted", "problem"),
    [
        ({}, False, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True, ""),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x/y"}, True, ""),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True, ""),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False, ""),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False, ""),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, False, "zipkin"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False, "grpc"),
        ({"OTEL_SERVICE_NAME": "x"}, False, ""),
    ],
)
def test_the_standard_environment_decides(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], wanted: bool, problem: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = traces()
    assert found.on == wanted
    assert problem in found.problem
    assert bool(found.problem) == bool(problem)


@pytest.mark.anyio
async def test_without_the_extra_the_banner_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "server.exporting", None)
    async with tracing(Traces(on=True), "1") as found:
        assert found.provider is None
        assert "[otel]" in found.problem


def test_without_a_provider_nothing_is_made() -> None:
    off = Tracing()
    with off.doing("a", {"b": 1}) as doing, off.inside(doing):
        assert not doing.span.is_recording()
    assert off.provider is None
    assert Traces(on=False) == traces()
