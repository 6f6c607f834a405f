"""Reverse proxies: whose word about the caller's address is taken, and whose is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.api.sites import both_families
from tests.cli.process import Serving
from tests.security.raw import CHAT, HOST, JSON, QUESTION, ask, gateway
from tests.serving import eventually

TRUSTED = '[server]\ntrusted_proxies = ["127.0.0.1", "10.0.0.0/8"]\nlog_format = "json"\n'


def address(server: Serving, id: str, forwarded: str) -> str:
    """The address of a caller, in the log, of a request that came with this `X-Forwarded-For`."""
    headers = {**HOST, **JSON, "X-Request-ID": id, "X-Forwarded-For": forwarded}
    assert ask(server, "POST", CHAT, headers, QUESTION).status == 200

    def found() -> list[str]:
        records = [json.loads(line) for line in server.log.read_text().splitlines()[:-1]]
        return [record["address"] for record in records if record["request_id"] == id and "address" in record]

    server.http.get("/health")  # so that its line in the log is not the last, which may not be whole
    eventually(found, within_s=20)
    return found()[0]


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with gateway(tmp_path_factory.mktemp("behind"), config=TRUSTED) as served:
        yield served


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("198.51.100.1, 203.0.113.7", "203.0.113.7"),  # whatever a caller claims stands before it
        ("127.0.0.1, 203.0.113.7, 10.1.2.3", "203.0.113.7"),  # a proxy before the proxy
        ("", "127.0.0.1"),
    ],
)
def test_a_configured_proxy_is_believed(behind: Serving, forwarded: str, expected: str) -> None:
    id = "req-" + "".join(c if c.isalnum() else "-" for c in forwarded) + "-end"
    assert address(behind, id, forwarded) == expected


def test_nobody_else_is_believed(tmp_path: Path) -> None:
    config = TRUSTED.replace('"127.0.0.1", ', "")
    with gateway(tmp_path, config=config) as served:
        assert address(served, "req-a", "203.0.113.7") == "127.0.0.1"


def test_who_came_through_a_proxy_is_no_administrator(behind: Serving) -> None:
    """Without keys, callers on this machine are; one who claims to be is not."""
    direct = ask(behind, "GET", "/v1/admin/requests", HOST)
    assert direct.status == 200
    for claimed in ("127.0.0.1", "203.0.113.7"):
        answer = ask(behind, "GET", "/v1/admin/requests", {**HOST, "X-Forwarded-For": claimed})
        assert (answer.status, answer.error["code"]) == (403, "admin_key_required")


def test_a_socket_of_both_families_knows_its_proxies() -> None:
    assert both_families(["10.0.0.0/8", "::1/128"]) == ["10.0.0.0/8", "::ffff:10.0.0.0/104", "::1/128"]
