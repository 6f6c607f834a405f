"""The provider that a path names (`/{provider}/v1/…`), and the headers that tell who answered."""

from __future__ import annotations

from fastapi import Request

from headrace.gateway.gateway import ATTEMPTS, Gateway


def gateway_of(http: Request) -> Gateway:
    gateway: Gateway = http.app.state.gateway
    return gateway


def provider_of(http: Request) -> str | None:
    """None: the path names none."""
    provider: str | None = http.path_params.get("provider")
    return provider


def went_to(provider: str, attempts: int) -> dict[str, str]:
    """Response headers. `attempts`: how many were begun, the one that answered included."""
    return {"X-Headrace-Backend": provider, ATTEMPTS: str(attempts)}
