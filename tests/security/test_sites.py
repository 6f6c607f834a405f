"""Pages of other sites: neither by DNS rebinding nor by a request that a browser sends without asking."""

from __future__ import annotations

from pathlib import Path

import pytest
import websockets
from websockets.sync.client import connect as websocket

from headrace.config import Config
from headrace.errors import ConfigError
from tests.cli.process import Serving
from tests.conftest import FakeServer
from tests.security.raw import CHAT, JSON, QUESTION, WEBSOCKET, Answer, ask, exchange, gateway, head, port_of

EVIL = "https://evil.example"
CROSS = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "empty"}
FOREIGN = [
    *[
        "https://evil.example",
        "null",
        "http://localhost.evil.example",
        "http://127.0.0.1:1",
        "file://",
        "chrome-extension://abc",
        "http://127.0.0.1:{}/",
        "http://x@127.0.0.1:{}",
        "http://localhost:{}",
        "127.0.0.1:{}",
        "http://[::1",
        "javascript:1",
    ],
    "",
]
CHANGES = [
    ("POST", CHAT),
    ("POST", "/v1/responses"),
    ("POST", "/v1/conversations"),
    ("POST", "/v1/messages"),
    ("POST", "/fake/v1/chat/completions"),
    ("POST", "/v1/tokenize"),
    ("DELETE", "/v1/conversations/conv_1"),
    ("POST", "/v1/responses/resp_1/cancel"),
]


def own(server: Serving) -> str:
    return f"http://127.0.0.1:{port_of(server)}"


def is_refused(answer: Answer, code: str) -> bool:
    return (answer.status, answer.error["code"]) == (403, code)


# -- Host ------------------------------------------------------------------------------------------------

OURS = [
    "127.0.0.1",
    "127.0.0.1:{}",
    "localhost:{}",
    "LOCALHOST:{}",
    "localhost.:{}",
    "[::1]:{}",
    "[::1]",
    "127.8.9.1:{}",
    "[::ffff:127.0.0.1]:{}",
    "my.app.localhost:{}",
    "localhost:9",
    "localhost:",
    "host.docker.internal:{}",
]
OTHERS = [
    "evil.example",
    "evil.example:{}",
    "localhost.evil.example:{}",
    "127.0.0.1.evil.example",
    "127.0.0.1.nip.io:{}",
    "notlocalhost",
    "192.168.1.7:{}",
    "10.0.0.1",
    "[2001:db8::1]:{}",
    "EVIL.EXAMPLE.",
    "evil-localhost",
    "127.0.0.1-x.example",
    "mybox",
    "printer.local",
    "128.0.0.1",
]
NONE = [
    "evil.example@127.0.0.1",
    "127.0.0.1@evil.example",
    "localhost:http",
    "localhost:99999",
    "[::1",
    "::1",
    "[1.2]",
    "localhost/evil",
    "localhost,evil.example",
    "localhost:80:80",
    "[localhost]",
    ".",
    "a?b",
    "é",
]


@pytest.mark.parametrize("host", OURS)
def test_names_of_this_server_are_served(gate: Serving, host: str) -> None:
    named = host.format(port_of(gate))
    assert ask(gate, "GET", "/v1/models", host=named).status == 200
    assert ask(gate, "POST", CHAT, JSON, QUESTION, host=named).status == 200


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("host", OTHERS)
def test_other_names_are_refused_whatever_is_asked(gate: Serving, host: str, method: str) -> None:
    path = CHAT if method == "POST" else "/health"
    body = QUESTION if method == "POST" else b""
    answer = ask(gate, method, path, JSON, body, host=host.format(port_of(gate)))
    assert answer.status == 403
    if method != "HEAD":
        assert (answer.error["code"], answer.error["param"]) == ("host_not_allowed", "Host")
        assert "allowed_hosts" in answer.error["message"]
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("host", NONE)
def test_what_is_no_host_is_400(gate: Serving, host: str) -> None:
    answer = ask(gate, "GET", "/health", host=host)
    assert (answer.status, answer.error["param"]) == (400, "Host")


def test_a_request_has_one_host(gate: Serving) -> None:
    assert ask(gate, "GET", "/health", host="").status == 400
    pairs = [("Host", "localhost"), ("Host", "evil.example")]
    for headers in (pairs, pairs[::-1], pairs[:1] * 2):
        assert exchange(gate, head("GET", "/health", headers)).status == 400
    assert exchange(gate, b"GET /health HTTP/1.0\r\n\r\n").status == 200
    assert exchange(gate, b"GET /health HTTP/1.1\r\n\r\n").status == 400, "1.1 may not, also after that"
    assert exchange(gate, b"GET /health HTTP/1.0\r\nHost: evil.example\r\n\r\n").status == 403


def test_a_long_host_is_not_repeated(gate: Serving) -> None:
    answer = ask(gate, "GET", "/health", host="a" * 5000)
    assert len(answer.body) < 500


@pytest.mark.parametrize(
    "name", ["X-Forwarded-Host", "Forwarded", "X-Host", "X-Original-Host", "X-Forwarded-Server"]
)
def test_no_other_header_stands_for_host(gate: Serving, name: str) -> None:
    value = "host=localhost" if name == "Forwarded" else "localhost"
    assert ask(gate, "GET", "/health", {name: value}, host="evil.example").status == 403
    assert ask(gate, "GET", "/health", {name: "evil.example"}).status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", ""])
def test_a_websocket_to_another_name_is_refused_before_it_opens(gate: Serving, host: str) -> None:
    answer = ask(gate, "GET", "/v1/responses", WEBSOCKET, host=host)
    assert answer.status == (403 if host else 400)
    assert answer.error["param"] == "Host"


def test_anthropics_paths_refuse_in_its_shape(gate: Serving) -> None:
    answer = ask(gate, "POST", "/v1/messages", JSON, b"{}", host="evil.example")
    assert b'"permission_error"' in answer.body


def test_further_names_are_configured(tmp_path: Path) -> None:
    allowed = "[server]\nallowed_hosts = ['llm.Example.com', '*.lab.example', '10.1.2.3', 'fd00::5']\n"
    with gateway(tmp_path, config=allowed) as server:
        served = [
            "llm.example.com",
            "LLM.example.com.:443",
            "a.lab.example",
            "a.b.lab.example",
            "10.1.2.3:1",
            "[fd00::5]:8000",
            "[fd00:0:0::5]",
            "127.0.0.1",
        ]
        refused = ["example.com", "x.llm.example.com", "lab.example", "xlab.example", "10.1.2.4", "[fd00::6]"]
        assert [ask(server, "GET", "/health", host=host).status for host in served] == [200] * len(served)
        assert [ask(server, "GET", "/health", host=host).status for host in refused] == [403] * len(refused)


@pytest.mark.parametrize(
    ("server", "served", "refused"),
    [
        pytest.param(
            {"host": "0.0.0.0", "no_auth": True},
            ["192.168.1.7:80", "[2001:db8::1]", "headrace", "box.local", "a.b.svc.cluster.local"],
            ["evil.example", "192.168.1.7.nip.io", "a.local.example"],
            id="others, no keys",
        ),
        pytest.param(
            {"host": "0.0.0.0", "api_keys": ["k"]},
            ["llm.example.com", "evil.example"],
            [],
            id="others, with keys",
        ),
        pytest.param(
            {"host": "::", "api_keys": ["k"], "allowed_hosts": ["llm.example.com"]},
            ["llm.example.com", "10.0.0.1", "headrace"],
            ["evil.example"],
            id="others, keys, names",
        ),
        pytest.param({"api_keys": ["k"]}, ["127.0.0.1"], ["evil.example", "10.0.0.1"], id="loopback, keys"),
        pytest.param({"host": "10.9.8.7", "no_auth": True}, ["10.9.8.7"], ["evil.example"], id="one address"),
        pytest.param(
            {"host": "Box.example", "no_auth": True}, ["box.example:1"], ["evil.example"], id="a name"
        ),
        pytest.param({"allowed_hosts": ["*"]}, ["evil.example"], [], id="any"),
    ],
)
def test_names_depend_on_where_it_listens(
    fake_server: FakeServer, server: dict[str, object], served: list[str], refused: list[str]
) -> None:
    answers = fake_server(config=Config.model_validate({"server": server}))
    assert [answers.get("/health", {"Host": host}).status_code for host in served] == [200] * len(served)
    assert [answers.get("/health", {"Host": host}).status_code for host in refused] == [403] * len(refused)


@pytest.mark.parametrize(
    "host", ["http://llm.example.com", "llm.example.com:80", "a b", "*.", "a/b", "x*.example"]
)
def test_a_name_that_cannot_be_one_stops_the_start(host: str) -> None:
    from headrace.config import load

    with pytest.raises(ConfigError, match="allowed_hosts"):
        load(flags={"server.allowed_hosts": [host]}, environment={}, file=None)


# -- Origin ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_a_page_of_another_site_changes_nothing(gate: Serving, method: str, path: str, origin: str) -> None:
    headers = {**JSON, "Origin": origin.format(port_of(gate))}
    answer = ask(gate, method, path, headers, b"{}" if method == "POST" else b"")
    assert answer.status == 403
    assert b"server.cors_origins" in answer.body
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("site", ["cross-site", "same-site", "CROSS-SITE", "x"])
@pytest.mark.parametrize(("method", "path"), CHANGES[:3])
def test_a_browser_that_sends_no_origin_says_it_otherwise(
    gate: Serving, method: str, path: str, site: str
) -> None:
    headers = {**JSON, "Sec-Fetch-Site": site}
    assert is_refused(ask(gate, method, path, headers, QUESTION), "origin_not_allowed")


def test_what_only_reads_is_served_but_not_shared(gate: Serving) -> None:
    answer = ask(gate, "GET", "/v1/models", {"Origin": EVIL, **CROSS})
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    headers = {
        "Origin": EVIL,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    preflight = ask(gate, "OPTIONS", CHAT, headers)
    assert preflight.status == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_our_own_page_and_programs_are_served(gate: Serving) -> None:
    for headers in (
        {},
        {"Origin": own(gate)},
        {"Origin": own(gate), "Sec-Fetch-Site": "same-origin"},
        {"Origin": own(gate).upper().replace("HTTP", "http")},
        {"Sec-Fetch-Site": "none"},
    ):
        assert ask(gate, "POST", CHAT, {**JSON, **headers}, QUESTION).status == 200
    # a proxy that speaks TLS for us
    with_tls = {**JSON, "Origin": "https://localhost"}
    assert ask(gate, "POST", CHAT, with_tls, QUESTION, host="localhost").status == 200
    assert ask(gate, "POST", CHAT, with_tls, QUESTION, host="localhost:443").status == 200
    assert ask(gate, "POST", CHAT, with_tls, QUESTION, host="localhost:80").status == 403


def test_two_origins_are_as_foreign_as_the_other(gate: Serving) -> None:
    host = f"127.0.0.1:{port_of(gate)}"
    pairs = [("Host", host), ("Origin", own(gate)), ("Origin", EVIL), *JSON.items()]
    sent = head("POST", CHAT, [*pairs, ("Content-Length", str(len(QUESTION)))]) + QUESTION
    assert is_refused(exchange(gate, sent), "origin_not_allowed")


@pytest.mark.parametrize("origin", [EVIL, "null", "http://127.0.0.1:1"])
def test_a_page_of_another_site_opens_no_websocket(gate: Serving, origin: str) -> None:
    url = gate.url.replace("http", "ws") + "/v1/responses"
    with pytest.raises(websockets.InvalidStatus) as refused, websocket(url, origin=websockets.Origin(origin)):
        pass
    assert refused.value.response.status_code == 403
    assert b'"origin_not_allowed"' in refused.value.response.body
    assert is_refused(ask(gate, "GET", "/v1/responses", {**WEBSOCKET, **CROSS}), "origin_not_allowed")


def test_a_websocket_of_ours_opens(gate: Serving) -> None:
    url = gate.url.replace("http", "ws") + "/v1/responses"
    for origin in (None, websockets.Origin(own(gate))):
        with websocket(url, origin=origin) as socket:
            socket.send('{"type": "response.create", "model": "fake", "input": "hi"}')
            assert '"response.created"' in str(socket.recv(timeout=60))


def test_pages_that_are_named_may(tmp_path: Path) -> None:
    named = "[server]\ncors_origins = ['https://chat.example', 'chrome-extension://abc']\n"
    with gateway(tmp_path, config=named) as server:
        refused = dict.fromkeys((EVIL, "null", "http://chat.example", "https://chat.example:8443"), 403)
        served = dict.fromkeys(("https://chat.example", "chrome-extension://abc"), 200)
        for origin, status in {**served, **refused}.items():
            headers = {**JSON, "Origin": origin, "Sec-Fetch-Site": "cross-site"}
            assert ask(server, "POST", CHAT, headers, QUESTION).status == status
            opened = ask(server, "GET", "/v1/responses", {**WEBSOCKET, "Origin": origin})
            assert opened.status == (101 if status == 200 else 403)


# -- keys, and other addresses


def test_a_key_in_the_query_is_none_and_is_not_logged(tmp_path: Path) -> None:
    with gateway(tmp_path, "--api-key", "open-sesame") as gate:
        for name in ("key", "api_key", "api-key", "x-api-key", "access_token", "Authorization"):
            assert ask(gate, "GET", f"/v1/models?{name}=open-sesame").status == 401
            assert ask(gate, "GET", f"/v1/responses?{name}=open-sesame", WEBSOCKET).status == 401
        key = {"Authorization": "Bearer open-sesame"}
        assert ask(gate, "GET", "/v1/models", key).status == 200
        assert ask(gate, "GET", "/v1/responses?key=open-sesame", {**WEBSOCKET, **key}).status == 101
        log = gate.log.read_text()
        assert "WebSocket /v1/responses 101" in log
        assert "open-sesame" not in log


def test_it_answers_to_the_address_that_it_listens_on(tmp_path: Path) -> None:
    with gateway(tmp_path, "--host", "127.0.0.2") as gate:
        for host, status in {"127.0.0.2:1": 200, "localhost": 200, "127.0.0.1": 200, "10.0.0.1": 403}.items():
            assert gate.http.get("/health", headers={"Host": host}).status_code == status


# -- bodies without a type -------------------------------------------------------------------------------


def test_a_body_without_a_type_is_not_taken_from_a_page(gate: Serving) -> None:
    for path in (CHAT, "/v1/conversations", "/v1/responses", "/v1/messages"):
        for type_ in ({}, {"Content-Type": ""}):
            answer = ask(gate, "POST", path, {"Origin": own(gate), **type_}, b"{}")
            assert (answer.status, b"Content-Type" in answer.body) == (415, True)
    assert ask(gate, "POST", CHAT, {}, QUESTION).status == 200, "curl and others without a page behind them"


@pytest.mark.parametrize(
    "type_",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/json",
        "text/plain,application/x+json",
        "json",
    ],
)
def test_what_browsers_send_without_asking_is_no_json(gate: Serving, type_: str) -> None:
    assert ask(gate, "POST", "/v1/conversations", {"Content-Type": type_}, b"{}").status == 415


@pytest.mark.parametrize(
    "type_", ["application/json", "APPLICATION/JSON; charset=utf-8", "application/vnd.api+json"]
)
def test_json_by_its_other_names_is_taken(gate: Serving, type_: str) -> None:
    assert ask(gate, "POST", CHAT, {"Content-Type": type_, "Origin": own(gate)}, QUESTION).status == 200
