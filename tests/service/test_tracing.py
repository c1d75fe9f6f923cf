"""Traces: off and unloaded unless asked for; then spans of the stages, and nothing personal in them."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.tracing import ENDPOINTS

ALIGNED = {"aligned": "true"}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """A collector of OTLP over HTTP: its address, and the bodies that came to /v1/traces."""
    bodies = list[bytes]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.extend([body] if self.path == "/v1/traces" else [])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", bodies
        finally:
            server.shutdown()
            thread.join()


def spans_of(bodies: list[bytes]) -> list[tuple[str, Any]]:
    """The name of the service of each span, and the span."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    found = []
    for body in bodies:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {item.key: item.value.string_value for item in resource.resource.attributes}
            found += [(names["service.name"], span) for scope in resource.scope_spans for span in scope.spans]
    return found


def test_spans_reach_a_collector(make_api: Any, crop: Any, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with collector() as (address, bodies):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")  # whose spans have paths and queries in them
        api = make_api(detector=shared_data / "models" / "yunet_n_dynamic.onnx")
        person = api.person("Zebulon")
        sent = {"traceparent": PARENT, "X-Request-ID": "mine"}
        image = {"image": crop(1)}
        api.post(f"/v1/collections/staff/people/{person}/faces", files=image, data=ALIGNED, headers=sent)
        api.post("/v1/collections/staff/search?name=Zebulon", files=image, headers=sent)
        api.get("/Zebulon")
        api.service.tracing.close()
    from opentelemetry.trace import get_tracer_provider

    assert type(get_tracer_provider()).__name__ == "ProxyTracerProvider", "somebody else exports too"
    found = spans_of(bodies)
    assert {service for service, _ in found} == {"facemargin"}
    mine = [span for _, span in found if span.trace_id.hex() == PARENT.split("-")[1]]
    (enrolment,) = (span for span in mine if span.name.endswith("/faces"))
    assert enrolment.name == "POST /v1/collections/{name}/people/{person_id}/faces"
    assert enrolment.parent_span_id.hex() == PARENT.split("-")[2]
    attributes = {a.key: a.value.string_value or a.value.int_value for a in enrolment.attributes}
    assert attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/collections/{name}/people/{person_id}/faces",
        "http.response.status_code": 201,
        "facemargin.request_id": "mine",
    }
    children = [span for span in mine if span.parent_span_id == enrolment.span_id]
    assert {span.name for span in children} == {"wait", "decode", "embed", "search", "commit"}
    for span in children:
        assert not span.attributes
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    assert {"detect"} <= {span.name for span in mine}
    assert {span.name for _, span in found} >= {"GET unknown", "PUT /v1/collections/{name}"}
    everything = b"".join(bodies)
    for secret in (b"Zebulon", b"staff", person.encode(), b"testclient", b"127.0.0.1"):
        assert secret not in everything, secret


def test_nothing_of_it_is_loaded_or_done_without_an_endpoint(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert api.service.tracing is None
    code = (
        "import sys, service.app, service.server\n"
        "from service.tracing import tracing_of_environment\n"
        "assert tracing_of_environment() is None\n"
        "makers = ('opentelemetry.sdk', 'opentelemetry.exporter')\n"  # newer FastAPI loads the interface by itself
        "sys.exit(', '.join(name for name in sys.modules if name.startswith(makers)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_endpoint_without_the_packages_is_said_and_no_error(
    make_api: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ENDPOINTS[0], "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    api = make_api()
    assert "pip install 'facemargin[otel]'" in caplog.text
    assert api.get("/health/live").status_code == 200
