"""The configuration tree: the smaller sections, and all sections together."""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import AfterValidator, Field

from headrace.config.models import EngineConfig, ModelsConfig
from headrace.config.providers import PriceConfig, ProviderConfig, RouteConfig
from headrace.config.section import Names, Section
from headrace.config.server import ServerConfig


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
    redis_url: Annotated[str, Names(flag="--redis-url", variable="REDIS_URL", is_secret=True)] = Field(
        default="",
        repr=False,
        description="Redis or Valkey for the limits of API keys, as `redis://:PASSWORD@HOST:6379/0`, "
        "where several servers share them. Default: each server counts by itself.",
    )
    when_down: Annotated[
        Literal["closed", "open"], Names(flag="--limits-when-down", variable="LIMITS_WHEN_DOWN")
    ] = Field(
        default="closed",
        description="While Redis cannot be reached, `closed` refuses the requests of keys that have "
        "limits with 503, and with `open` each server applies the limits by itself.",
    )


class TelemetryConfig(Section):
    otlp_endpoint: Annotated[
        str, Names(flag="--otlp-endpoint", variable="OTLP_ENDPOINT"), AfterValidator(_check_endpoint)
    ] = Field(
        default="",
        description="Where traces are sent, with OTLP over HTTP, as `http://127.0.0.1:4318`. Default: "
        "nowhere. More: [operations.md](operations.md#traces).",
    )


class PathsConfig(Section):
    cache: Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("headrace", appauthor=False),
        description="Where models and cached prompts are kept.",
    )
    data: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("headrace", appauthor=False),
        description="Where the database is kept.",
    )


class SteeringConfig(Section):
    root: Annotated[str, Names(variable="STEERING_ROOT")] = Field(
        default="",
        description="Folder of sparse autoencoders (`saes/NAME`) and control vectors "
        "(`vectors/NAME.gguf`); files elsewhere are not read. Default: `steering` in the data folder.",
    )
    attach: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Names(variable="STEERING_ATTACH")] = (
        Field(default=(), description="Names of those that requests can use from the start.")
    )
    max_dose: float = Field(
        default=0.0,
        ge=0,
        description="How long the edits of a request may be at one layer, in median lengths of the "
        "hidden states there; 0: no limit.",
    )

    def folder(self, data: Path) -> Path:
        """The root folder of steering, if the data folder is `data`."""
        return Path(self.root) if self.root else data / "steering"


class StoreConfig(Section):
    url: Annotated[
        str, Names(aliases=("DATABASE_URL",), flag="--database-url", variable="DATABASE_URL", is_secret=True)
    ] = Field(
        default="",
        repr=False,
        description="The database: `postgresql://USER:PASSWORD@HOST/NAME` or `sqlite:///PATH`. "
        "Default: a SQLite file in the data folder.",
    )
    responses_days: int = Field(
        default=30, ge=0, description="How long responses are kept; 0: until they are deleted."
    )
    chat_completions_days: int = Field(
        default=30, ge=0, description="How long stored chat completions are kept; 0: until they are deleted."
    )
    conversations_days: int = Field(
        default=0, ge=0, description="How long unused conversations are kept; 0: until they are deleted."
    )


class ConversationsConfig(Section):
    context_messages: int = Field(
        default=20,
        ge=1,
        description="Stored messages, at most, that the model reads before those of the request.",
    )


class Config(Section):
    server: ServerConfig = ServerConfig()
    engine: EngineConfig = EngineConfig()
    models: ModelsConfig = ModelsConfig()
    paths: PathsConfig = Field(default_factory=PathsConfig)
    store: StoreConfig = StoreConfig()
    steering: SteeringConfig = SteeringConfig()
    conversations: ConversationsConfig = ConversationsConfig()
    limits: LimitsConfig = LimitsConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    providers: dict[str, ProviderConfig] = {}  # noqa: RUF012  # pydantic copies it
    routes: dict[str, RouteConfig] = {}  # noqa: RUF012
    prices: dict[str, PriceConfig] = {}  # noqa: RUF012
