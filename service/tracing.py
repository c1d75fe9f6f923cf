"""Traces by OpenTelemetry: a span for each request and for each of its stages. Optional, and off unless asked for.

Spans are made here and not by the instrumentation for ASGI, because that one writes paths, queries and addresses of
clients into them. Their attributes are the method, the template of the route, the status and the request's id. Nothing
of OpenTelemetry is imported here before `tracing_of_environment` finds an endpoint.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from service.current import Current, StageName

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger("facemargin.service")

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""The standard's variables that say where traces go; without one there are none."""

_SERVICE: Final = "facemargin"


class Answer(Protocol):
    """What a span tells of a request, at its end."""

    request: Current
    method: str
    route: str
    status: int


class Tracing:
    """The spans of one service.

    Args:
        provider: makes and exports them; ended by `close`.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer(_SERVICE)
        self._server = SpanKind.SERVER
        self._parent = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, answer: Answer, headers: Mapping[str, str]) -> Iterator[None]:
        """A span around a request, below the client's own span where the header ``traceparent`` names one."""
        parent = self._parent.extract(headers)
        name = f"{answer.method} {answer.route}"
        with self._tracer.start_as_current_span(
            name, parent, self._server, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            finally:
                span.set_attribute("http.request.method", answer.method)
                span.set_attribute("http.route", answer.route)
                span.set_attribute("http.response.status_code", answer.status)
                span.set_attribute("facemargin.request_id", answer.request.id)

    def stage(self, name: StageName, began: int, took: int) -> None:
        """A span for a stage that ended, below the one of the present request."""
        self._tracer.start_span(name, start_time=began).end(began + took)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def tracing_of_environment() -> Tracing | None:
    """Tracing as the standard's environment variables say; None where they name no endpoint."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        log.warning("an endpoint for traces is set, but there are none: %s; `pip install 'facemargin[otel]'`", error)
        return None
    name = os.environ.get("OTEL_SERVICE_NAME", _SERVICE)
    provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
