"""How the server is operated: [limits], [telemetry]."""

from __future__ import annotations

import urllib.parse
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from headrace.config.section import Names, Section


def _check_endpoint(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("write a whole address, as http://127.0.0.1:4318")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "a name and a password in an address would be logged; use OTEL_EXPORTER_OTLP_HEADERS"
        )
    return url


class LimitsConfig(Section):
    redis_url: Annotated[
        str,
        Names(flag="--redis-url", variable="REDIS_URL", is_secret=True),
        Field(
            repr=False,
            description="Redis or Valkey for the limits of API keys, as `redis://:PASSWORD@HOST:6379/0`, "
            "where several servers share them. Default: each server counts by itself.",
        ),
    ] = ""
    when_down: Annotated[
        Literal["closed", "open"],
        Names(flag="--limits-when-down", variable="LIMITS_WHEN_DOWN"),
        Field(
            description="While Redis cannot be reached, `closed` refuses the requests of keys that have "
            "limits with 503, and with `open` each server applies the limits by itself."
        ),
    ] = "closed"


class TelemetryConfig(Section):
    otlp_endpoint: Annotated[
        str,
        Names(flag="--otlp-endpoint", variable="OTLP_ENDPOINT"),
        AfterValidator(_check_endpoint),
        Field(
            description="Where traces are sent, with OTLP over HTTP, as `http://127.0.0.1:4318`. Default: "
            "nowhere. More: [operations.md](operations.md#traces)."
        ),
    ] = ""
