"""The service in figures, as Prometheus reads them. The only place with prometheus_client.

Labels have few values: names that callers choose are no labels, but for the functions that serve, up to a number.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector
from prometheus_client.exposition import choose_encoder

from server.observing import Answered, Changed, Event, Executed, Lost, Served, ToolCalled, Turned

# Seconds. A clean kernel is there in a millisecond, and a start without a warm parent takes one or two seconds.
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
# Functions that have a series of their own; the rest is one, `other`.
MAX_FUNCTIONS = 200
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})

GAUGES: Mapping[str, str] = {
    "spares": "Clean kernels that wait",
    "spares_wanted": "Clean kernels that are to wait, after the demand of late",
    "executions_running": "Executions that were let in",
    "executions_waiting": "Executions that wait to be let in",
    "sessions": "Open sessions",
    "kernels_idle": "Kernels that do nothing, spares and sessions",
    "kernels_busy": "Kernels that run something",
    "functions": "Active functions",
    "generation": "Number of the environment that serves",
    "snapshot": "Number of the functions' snapshot that serves",
    "fork_ready": "1 while kernels are forked from a warm parent, 0 while each is started",
    "full": "1 while another execution would be refused",
}


class Metrics:
    """Counts what it is told of. Its registry is its own."""

    def __init__(self, version: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._functions: set[str] = set()
        self._gauges = {name: Gauge(f"aigbb_{name}", text, registry=self._registry) for name, text in GAUGES.items()}
        self._queue = self._histogram("execution_queue", "Wait until an execution is let in", _SHORT, "kind", "outcome")
        self._start = self._histogram("execution_start", "Wait for its kernel after that", _SHORT, "kind", "outcome")
        self._run = self._histogram("execution_run", "Run on that kernel", _LONG, "kind", "outcome")
        self._calls = self._counter("function_calls", "Calls of a function by its name", "function", "outcome")
        self._deaths = self._counter("kernel_deaths", "Kernels that ended while they were needed", "cause")
        self._changes = self._counter("registrations", "Registrations and other changes", "action", "outcome")
        self._stages = self._histogram("registration_stage", "A stage of a change", _LONG, "stage", "outcome")
        self._requests = self._counter("http_requests", "Requests", "method", "route", "status")
        self._seconds = self._histogram("http_request", "A request until its answer's end", _LONG, "method", "route")
        self._turns = self._counter("chat_turns", "Turns of chat", "outcome")
        self._asked = self._histogram("model_request", "A request to a model: a round of a turn", _LONG, "outcome")
        self._tokens = self._counter("chat_tokens", "Tokens, as models count them", "kind")
        self._tools = self._counter("tool_calls", "Tool calls of models", "outcome")
        about = self._gauge("build_info", "What runs; always 1", "version", "python")
        about.labels(version, platform.python_version()).set(1)

    def note(self, event: Event) -> None:
        """Count an event."""
        match event:
            case Served():
                self._served(event)
            case Executed():
                self._executed(event)
            case Changed():
                self._changed(event)
            case Lost():
                self._deaths.labels(event.cause).inc()
            case Answered():
                self._asked.labels(event.outcome).observe(event.seconds)
                self._tokens.labels("prompt").inc(event.prompt)
                self._tokens.labels("completion").inc(event.completion)
            case ToolCalled():
                self._tools.labels(event.outcome).inc()
            case Turned():
                self._turns.labels(event.outcome).inc()

    def set(self, gauges: Mapping[str, float]) -> None:
        """What is so now, by the names in GAUGES."""
        for name, value in gauges.items():
            self._gauges[name].set(value)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """All of it, and its media type: Prometheus's text, or OpenMetrics for those who accept that."""
        encode, kind = choose_encoder(accept)
        return encode(self), kind

    def collect(self) -> Iterator[Metric]:
        """The registry's, without the moments at which series began: a third of all lines that nobody reads."""
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric

    def _served(self, event: Served) -> None:
        method = event.method if event.method in _METHODS else "other"
        route = event.route or "other"
        self._requests.labels(method, route, str(event.status)).inc()
        self._seconds.labels(method, route).observe(event.seconds)

    def _executed(self, event: Executed) -> None:
        labels = event.kind, event.outcome
        self._queue.labels(*labels).observe((event.admitted or event.ended) - event.began)
        if event.admitted is not None:
            self._start.labels(*labels).observe((event.placed or event.ended) - event.admitted)
        if event.placed is not None:
            self._run.labels(*labels).observe(event.ended - event.placed)
        for name in event.functions:
            self._calls.labels(self._known(name.partition("@")[0]), event.outcome).inc()

    def _known(self, name: str) -> str:
        """A function's name, while there is room for it."""
        if name not in self._functions and len(self._functions) < MAX_FUNCTIONS:
            self._functions.add(name)
        return name if name in self._functions else "other"

    def _changed(self, event: Changed) -> None:
        self._changes.labels(event.action, event.outcome).inc()
        for stage in event.stages:
            self._stages.labels(stage.name, "ok" if stage.ok else "failed").observe(stage.ended - stage.began)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"aigbb_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"aigbb_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"aigbb_{name}_seconds", text, labels, buckets=buckets, registry=self._registry)
