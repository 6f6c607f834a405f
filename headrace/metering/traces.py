"""Traces for OpenTelemetry: a span for each request that has ended, with the attributes of the semantic
conventions for generative AI. They have no content. Spans are sent in batches, by a thread of the SDK.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from headrace import __version__, logs
from headrace.gateway.lifetime import Tally

log = logging.getLogger(__name__)

BILLION = 10**9
OPERATIONS = {
    "embed": "embeddings", "/embeddings": "embeddings", "/completions": "text_completion",
}  # fmt: skip
Attribute = str | int | float | list[str]


class Exporter(OTLPSpanExporter):
    """Sends spans. The log says once that they cannot be sent, and when they can again: OpenTelemetry's own
    lines would come several times for each batch.
    """

    _is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        has_failed = result is not SpanExportResult.SUCCESS
        if has_failed and not self._is_failing:
            log.warning("traces cannot be sent to %s, and are dropped until they can", self._endpoint)
        elif self._is_failing and not has_failed:
            log.warning("traces are sent again")
        self._is_failing = has_failed
        return result


class Traces:
    """A meter. `endpoint`: of an OTLP receiver, without /v1/traces."""

    def __init__(self, endpoint: str) -> None:
        resource = Resource.create({"service.name": "headrace", "service.version": __version__})
        self._provider = TracerProvider(resource=resource)
        logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.CRITICAL)
        exporter = Exporter(endpoint=endpoint.rstrip("/") + "/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("headrace", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def record(self, tally: Tally) -> None:
        """Make the span of a request, below the caller's own, if it has sent a `traceparent`."""
        parent = logs.TRACEPARENT.get()
        context = self._propagator.extract({"traceparent": parent}) if parent else None
        operation = OPERATIONS.get(tally.work, "chat")
        end = time.time_ns()
        span = self._tracer.start_span(
            f"{operation} {tally.model}",
            context,
            SpanKind.SERVER,
            _attributes(tally, operation),
            start_time=end - int(tally.took_s * BILLION),
        )
        if tally.status >= 500:
            span.set_status(Status(StatusCode.ERROR, tally.code))
        span.end(end)

    def close(self) -> None:
        """Send what is left. Takes as long as the receiver does."""
        self._provider.shutdown()


def _attributes(tally: Tally, operation: str) -> dict[str, Attribute]:
    attributes: dict[str, Attribute | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": tally.provider,
        "gen_ai.request.model": tally.model,
        "gen_ai.response.model": tally.served,
        "gen_ai.response.finish_reasons": list[str](tally.reasons) or None,
        "headrace.first_byte_s": tally.first_byte_s,
        "http.response.status_code": tally.status,
        "error.type": tally.code or str(tally.status) if tally.status != 200 else None,
        "headrace.request_id": logs.REQUEST_ID.get(),
        "headrace.key": tally.owner,
        "headrace.attempts": tally.attempts,
    }
    if tally.usage is not None:
        attributes["gen_ai.usage.input_tokens"] = tally.usage.prompt_tokens
        attributes["gen_ai.usage.output_tokens"] = tally.usage.completion_tokens
        attributes["gen_ai.usage.cache_read.input_tokens"] = tally.usage.cached_tokens
    if tally.started is not None:
        attributes["headrace.queue_s"] = tally.started.queue_s
        attributes["headrace.prefill_s"] = tally.started.prefill_s
    return {name: value for name, value in attributes.items() if value is not None}
