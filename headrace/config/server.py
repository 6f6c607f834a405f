"""The section [server]: where it listens, who may call it, and how long and how large requests may be."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, ByteSize, Field

from headrace.config.section import Names, Section

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


def _check_origin(value: str) -> str:
    if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/\s*]+", value):
        raise ValueError("must be `*`, or a scheme and a host without a path, as https://chat.example")
    return value


def _check_network(value: str) -> str:
    return str(ipaddress.ip_network(value, strict=False))


def _check_host(value: str) -> str:
    """Return the host in lower case, without the brackets of an IPv6 address or a final dot. Raises
    ValueError.
    """
    host = value.lower()
    if not re.fullmatch(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|\[?[0-9a-f:]*:[0-9a-f:.]*\]?", host):
        raise ValueError("must be a host name without a port, as llm.example.com, or `*.example.com`, or `*`")
    return host.strip("[]").removesuffix(".")


class ServerConfig(Section):
    host: Annotated[str, Names(aliases=("HOST",))] = Field(
        default="127.0.0.1", min_length=1, description="Address to listen on."
    )
    port: Annotated[int, Names(aliases=("PORT",))] = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Gateway processes behind the port. They share the database and Redis, and serve "
        "providers, no models of their own: [replicas.md](replicas.md#several-gateway-processes).",
    )
    api_keys: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Names(aliases=("ALLOWED_API_KEYS",), flag="--api-key", is_secret=True),
    ] = Field(
        default=(),
        repr=False,
        description="Keys that callers may use, as `Authorization: Bearer KEY` or `x-api-key: KEY` "
        "(in the environment: comma-separated or a JSON list).",
    )
    admin_keys: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], Names(flag="--admin-key", is_secret=True)
    ] = Field(
        default=(),
        repr=False,
        description="Keys of administrators, who may also use the admin API (`/v1/admin/…`). Without "
        "any, callers on this machine may, while no key is configured: [operations.md](operations.md).",
    )
    require_auth: Annotated[bool, Names(aliases=("REQUIRE_AUTH",))] = Field(
        default=False,
        description="Require a key of every caller, and accept those that `headrace keys create` has "
        "made, as `admin_keys` does: [operations.md](operations.md).",
    )
    no_auth: bool = Field(
        default=False, description="Serve without keys on an address that others can reach."
    )
    log_level: Annotated[LogLevel, Names(aliases=("LOG_LEVEL",), ignores_case=True)] = Field(
        default="INFO", description="Least severity to log."
    )
    log_format: Annotated[Literal["text", "json"], Names(aliases=("LOG_FORMAT",))] = Field(
        default="text",
        description="How log records are written: `json`, one object a line, for programs: "
        "[operations.md](operations.md#logs).",
    )
    drain_seconds: float = Field(
        default=30.0, ge=0, description="On SIGTERM, how long running requests may take to finish."
    )
    request_timeout_s: Annotated[float, Names(aliases=("REQUEST_TIMEOUT_S",))] = Field(
        default=600.0,
        ge=0,
        description="How long a request may take, in seconds, before it is ended; 0: no limit.",
    )
    max_tokens_default: int = Field(
        default=0,
        ge=0,
        description="Limit of an answer's tokens where a request sets none, for models that run here; "
        "0: what fits the context.",
    )
    strict: bool = Field(
        default=False,
        description="Refuse unknown request members, and those that a provider does not support, instead "
        "of naming them in a header.",
    )
    cors_origins: Annotated[
        tuple[Annotated[str, AfterValidator(_check_origin)], ...], Names(aliases=("CORS_ORIGINS",))
    ] = Field(
        default=(),
        description="Origins of pages that may call this server from a browser, as "
        "`https://chat.example`; `*`: any page, without cookies.",
    )
    allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_check_host)], ...], Names(flag="--allowed-host")
    ] = Field(
        default=(),
        description="Further names by which callers may reach this server, as `llm.example.com` or "
        "`*.example.com`; `*`: any. Loopback names and the address it listens on are always among them: "
        "[security.md](security.md).",
    )
    tls_certificate: str = Field(
        default="",
        description="Serve HTTPS, with the certificate in this file (PEM, with those of the authorities "
        "between). When it changes, it is read again: [security.md](security.md#tls).",
    )
    tls_key: str = Field(
        default="", description="The certificate's private key (PEM). Default: in `tls_certificate`, too."
    )
    trusted_proxies: Annotated[
        tuple[Annotated[str, AfterValidator(_check_network)], ...], Names(flag="--trusted-proxy")
    ] = Field(
        default=(),
        description="Addresses of reverse proxies, as `10.0.0.7` or `10.0.0.0/8`, whose "
        "`X-Forwarded-For` and `X-Forwarded-Proto` are believed: "
        "[security.md](security.md#behind-a-reverse-proxy).",
    )
    security_headers: Annotated[bool, Names(aliases=("ENABLE_SECURITY_HEADERS",))] = Field(
        default=True,
        description="Send headers that keep browsers from guessing a response's type and from framing it.",
    )
    page: bool = Field(
        default=True,
        description="Serve the chat page to browsers at `/`. Without it, `/` lists the paths as JSON.",
    )
    max_connections: int = Field(
        default=0,
        ge=0,
        description="Connections of callers at once; idle ones are closed for new ones. 0: as many as "
        "the limit of open files leaves room for.",
    )
    receive_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="How long a request's headers may take to arrive, in seconds, and its body without "
        "making progress; then 408.",
    )
    send_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="How long a client may leave its answer unread, in seconds, while buffers are full; "
        "then the connection is closed.",
    )
    max_body_bytes: ByteSize = Field(
        default=ByteSize(16 * 2**20),
        gt=0,
        description="The largest request body, before and after decompression.",
    )
    max_inflight_bytes: ByteSize = Field(
        default=ByteSize(512 * 2**20),
        ge=0,
        description="Memory for the bodies of all requests in flight, counted as 4 bytes for each byte "
        "and 1 KiB for each JSON object or list of a large one; beyond it 503. 0: no limit.",
    )

    @property
    def needs_key(self) -> bool:
        """Whether callers need a key."""
        return bool(self.api_keys or self.takes_stored_keys)

    @property
    def takes_stored_keys(self) -> bool:
        """Whether the keys in the store (`headrace keys`) are accepted."""
        return bool(self.admin_keys or self.require_auth)

    def url_at(self, host: str, port: int) -> str:
        """The server's address, without a path."""
        return f"http{'s' if self.tls_certificate else ''}://{f'[{host}]' if ':' in host else host}:{port}"
