"""Traces arrive at a real OTLP receiver, below the caller's span, without content."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SpanExportResult

from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.metering.traces import Exporter
from headrace.types import Finished, Usage
from tests.serving import serving

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@contextmanager
def receiver(port: int = 0) -> Iterator[tuple[str, list[bytes]]]:
    """The address of an OTLP receiver, and the bodies that it gets."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", bodies
        finally:
            server.shutdown()
            thread.join()


def test_the_log_says_once_that_no_receiver_answers(caplog: pytest.LogCaptureFixture) -> None:
    with receiver() as (endpoint, _):
        pass
    exporter = Exporter(endpoint=endpoint + "/v1/traces", timeout=0.2)
    for _ in range(3):
        assert exporter.export([]) is SpanExportResult.FAILURE
    port = int(endpoint.rpartition(":")[2])
    with receiver(port) as (_, bodies):
        assert exporter.export([]) is exporter.export([]) is SpanExportResult.SUCCESS
        assert len(bodies) == 2
    said = [record.message for record in caplog.records if record.name == "headrace.metering.traces"]
    assert said == [
        f"traces cannot be sent to {endpoint}/v1/traces, and are dropped until they can",
        "traces are sent again",
    ]


def test_each_request_becomes_a_span() -> None:
    end = Finished(0, "stop", Usage(7, 3, cached_tokens=2))
    with receiver() as (endpoint, bodies):
        config = Config.model_validate({"telemetry": {"otlp_endpoint": endpoint}})
        with serving(create_app(config, [FakeBackend(["secret answer", end])])) as server:
            body = {"model": "fake:fake", "messages": [{"role": "user", "content": "secret question"}]}
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "mine"}
            assert server.post("/v1/chat/completions", body, headers=headers).status_code == 200
            assert server.post("/v1/chat/completions", {**body, "model": "none"}).status_code == 404
        exports = [ExportTraceServiceRequest.FromString(raw) for raw in bodies]
    assert b"secret" not in b"".join(bodies)
    spans = [
        span
        for export in exports
        for resource in export.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    answered = next(span for span in spans if span.name == "chat fake:fake")
    assert (answered.trace_id.hex(), answered.parent_span_id.hex()) == (TRACE, PARENT)
    assert answered.end_time_unix_nano > answered.start_time_unix_nano
    found = {attribute.key: attribute.value for attribute in answered.attributes}
    assert found["gen_ai.provider.name"].string_value == "fake"
    assert found["gen_ai.request.model"].string_value == "fake:fake"
    assert found["gen_ai.response.model"].string_value == "fake"
    assert found["gen_ai.usage.input_tokens"].int_value == 7
    assert found["gen_ai.usage.output_tokens"].int_value == 3
    assert found["gen_ai.response.finish_reasons"].array_value.values[0].string_value == "stop"
    assert found["headrace.request_id"].string_value == "mine"
    refused = next(span for span in spans if span.name == "chat none")
    assert refused.trace_id.hex() != TRACE
    kinds = {attribute.key: attribute.value.string_value for attribute in refused.attributes}
    assert kinds["error.type"] == "model_not_found"


def test_a_receiver_that_is_away_disturbs_nobody() -> None:
    config = Config.model_validate({"telemetry": {"otlp_endpoint": "http://127.0.0.1:9"}})
    with serving(create_app(config, [FakeBackend(["x"])])) as server:
        body = {"model": "fake", "prompt": "x"}
        assert server.post("/v1/completions", body).status_code == 200
