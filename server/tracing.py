"""The service's work as OpenTelemetry's spans. The only place with opentelemetry, but for `exporting`.

Without a provider nothing is made, and nothing is costed. Attributes are ids, names, versions, statuses and counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from threading import Thread
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, TracerProvider

from kernels.errors import AigbbError
from server.observing import LEFT, Changed, Event, Executed
from server.settings import Traces

# Seconds for what is left to be sent, at the end.
LAST_SECONDS = 3.0
# What is no failure of the work.
_FINE = ("ok", "unchanged", "done", "answered", "calls", "needs_confirmation")
Attributes = Mapping[str, Any]


@dataclass
class Doing:
    """Work that is traced. outcome: a status, or an error's code; attributes: what is known of it at its end."""

    span: Span
    outcome: str = LEFT
    attributes: dict[str, Any] = field(default_factory=dict)


class Tracing:
    """Makes spans, children of the one that is current. provider None: none is made; problem says why, if wanted."""

    def __init__(self, provider: TracerProvider | None = None, problem: str = "") -> None:
        self.provider = provider
        self.problem = problem
        self._tracer: Tracer | None = provider.get_tracer("aigbb") if provider else None
        self._offset = 0  # nanoseconds from the performance counter to the clock

    def note(self, event: Event) -> None:
        """Spans of work that is over: of an execution and of a change, with their parts."""
        if self._tracer is None:
            return
        self._offset = time.time_ns() - time.perf_counter_ns()
        match event:
            case Executed():
                self._executed(event)
            case Changed():
                self._changed(event)

    @contextmanager
    def doing(
        self, name: str, attributes: Attributes, within: Doing | None = None, *, client: bool = False
    ) -> Iterator[Doing]:
        """A span of what is done meanwhile, and what became of it. It is not current: see `inside`."""
        doing = Doing(self._begin(name, attributes, within, client=client))
        try:
            yield doing
        except AigbbError as error:
            doing.outcome = error.code
            raise
        finally:
            _finish(doing.span, doing.outcome, doing.attributes)

    @contextmanager
    def inside(self, doing: Doing | None) -> Iterator[None]:
        """What is made inside is part of that. Not around a generator's `yield`: contexts are its caller's."""
        if self._tracer is None or doing is None:
            yield
            return
        with trace.use_span(doing.span, record_exception=False, set_status_on_exception=False):
            yield

    def _begin(self, name: str, attributes: Attributes, within: Doing | None, *, client: bool) -> Span:
        if self._tracer is None:
            return trace.INVALID_SPAN
        context = trace.set_span_in_context(within.span) if within is not None else None
        kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
        return self._tracer.start_span(name, context, kind, _given(attributes))

    def _executed(self, event: Executed) -> None:
        attributes = {
            "aigbb.kind": event.kind,
            "aigbb.outcome": event.outcome,
            "aigbb.functions": event.functions or None,
            "aigbb.session": event.session,
            "aigbb.kernel": event.kernel,
            "aigbb.execution": event.id,
        }
        parts = [("queue", event.began, event.admitted or event.ended)]
        if event.admitted is not None:
            parts.append(("start", event.admitted, event.placed or event.ended))
        if event.placed is not None:
            parts.append(("run", event.placed, event.ended))
        with self._over("execution", event.began, event.ended, event.outcome, attributes):
            for name, began, ended in parts:
                with self._over(f"execution.{name}", began, ended, "ok", {}):
                    pass

    def _changed(self, event: Changed) -> None:
        attributes = {"aigbb.action": event.action, "aigbb.outcome": event.outcome, "aigbb.functions": event.functions}
        with self._over("registration", event.began, event.ended, event.outcome, attributes):
            for stage in event.stages:
                outcome = "ok" if stage.ok else event.outcome
                with self._over(f"registration.{stage.name}", stage.began, stage.ended, outcome, {}):
                    pass

    @contextmanager
    def _over(self, name: str, began: float, ended: float, outcome: str, attributes: Attributes) -> Iterator[None]:
        """A span of the past; what is made inside is part of it."""
        assert self._tracer is not None
        start, end = (int(moment * 1e9) + self._offset for moment in (began, ended))
        span = self._tracer.start_span(name, attributes=_given(attributes), start_time=start)
        try:
            with self.inside(Doing(span)):
                yield
        finally:
            _finish(span, outcome, {}, at=end)


def _finish(span: Span, outcome: str, attributes: Attributes, *, at: int | None = None) -> None:
    """End a span, at so many nanoseconds since 1970, or now."""
    if not span.is_recording():
        return
    span.set_attributes(_given(attributes))
    if outcome not in _FINE:
        span.set_attribute("error.type", outcome)
        span.set_status(StatusCode.ERROR)
    span.end(at)


def _given(attributes: Attributes) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value not in (None, ())}


@asynccontextmanager
async def tracing(wanted: Traces, version: str) -> AsyncIterator[Tracing]:
    """As the standard environment wants it; at the end, what is left is sent."""
    if not wanted.on:
        yield Tracing(problem=wanted.problem)
        return
    try:
        exporting = await asyncio.to_thread(import_module, "server.exporting")
    except ImportError:
        yield Tracing(problem="Traces are wanted, but not installed: pip install 'aigbb-functions[otel]'.")
        return
    provider = exporting.provider(version)
    try:
        yield Tracing(provider)
    finally:
        # A collector that is down must not keep the service from ending: OpenTelemetry itself waits for half a minute.
        ending = Thread(target=provider.shutdown, daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, LAST_SECONDS)
