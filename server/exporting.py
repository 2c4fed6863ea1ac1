"""Where spans go: over OTLP. Needs the extra `otel`, so `tracing` imports it where traces are wanted only."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


class _Discreet(SpanProcessor):
    """Leaves out what a query holds: it may be anything that a caller sent."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """A span begins."""
        if span.attributes is not None and "url.query" in span.attributes:
            span.set_attribute("url.query", "REDACTED")


def provider(version: str) -> TracerProvider:
    """Makes spans and sends them. OpenTelemetry itself reads where to, which part of them, and under which name."""
    resource = Resource.create({SERVICE_VERSION: version})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "aigbb-functions"}))
    made = TracerProvider(resource=resource, shutdown_on_exit=False)
    made.add_span_processor(_Discreet())
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made
