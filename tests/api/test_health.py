from __future__ import annotations

import pytest

from headrace.backends.fake import FakeBackend
from tests.conftest import FakeServer


@pytest.mark.parametrize("path", ["/health", "/healthz", "/ping", "/ready"])
def test_head_is_answered_like_get(fake_server: FakeServer, path: str) -> None:
    backend = FakeBackend([])
    server = fake_server(backend)
    assert (server.http.head(path).status_code, server.get(path).status_code) == (200, 200)
    assert server.http.head(path).content == b""
    backend.is_alive = False
    assert (server.http.head(path).status_code, server.get(path).status_code) == (503, 503)
