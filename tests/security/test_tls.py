"""HTTPS: the certificate, its change while the server runs, and files that cannot be used."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import psutil
import pytest
from websockets.asyncio.client import connect

from headrace.config import ServerConfig
from headrace.errors import ConfigError
from headrace.server.tls import MAX_HANDSHAKES, Certificate
from tests.cli.process import Serving, headrace
from tests.security.raw import CHAT, HEALTH, QUESTION, gateway, port_of, read_answer
from tests.serving import eventually

CERTIFICATES = Path(__file__).parent / "certificates"


def install(name: str, folder: Path) -> None:
    """Put a certificate and its key where the server reads them, as their renewal does: by renaming."""
    for ending in ("pem", "key"):
        shutil.copy(CERTIFICATES / f"{name}.{ending}", folder / "new")
        (folder / "new").rename(folder / f"server.{ending}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def secure(folder: Path) -> Iterator[Serving]:
    install("first", folder)
    with gateway(folder, "--tls-certificate", "server.pem", "--tls-key", "server.key") as served:
        yield served


def presented(server: Serving) -> bytes:
    """The certificate of a new connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port_of(server)), timeout=20) as plain,
        context.wrap_socket(plain) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def der(name: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert((CERTIFICATES / f"{name}.pem").read_text())


def trusting(name: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATES / f"{name}.pem"))


def test_it_answers_over_https(secure: Serving) -> None:
    install("first", Path(secure.log.parent))
    assert secure.url.startswith("https://127.0.0.1:")
    body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
    with httpx2.Client(base_url=secure.url, verify=trusting("first")) as http:
        assert http.post(CHAT, json=body).json()["choices"][0]["message"]["content"] == "Hello world"
        streamed = http.post(CHAT, json={**body, "stream": True})
        assert streamed.text.endswith("data: [DONE]\n\n")
        refused = http.post(CHAT, content=QUESTION, headers={"Host": "evil.example"})
        assert refused.json()["error"]["code"] == "host_not_allowed"
        page = http.post(CHAT, json=body, headers={"Origin": secure.url})
        assert page.status_code == 200


def test_a_websocket_is_secure_too(secure: Serving) -> None:
    """Not with the synchronous client: it reads in one thread and writes in another, and of some hundred
    connections over TLS one then waits for ever.
    """

    async def begins() -> str:
        address = secure.url.replace("https", "wss") + "/v1/responses"
        async with connect(address, ssl=trusting("first"), proxy=None, open_timeout=60) as socket:
            await socket.send('{"type": "response.create", "model": "fake", "input": "hi"}')
            return str(await asyncio.wait_for(socket.recv(), 20))

    assert '"type":"response.created"' in asyncio.run(begins()).replace(" ", "")


def test_refusals_are_sent_whole(secure: Serving) -> None:
    """Over TLS no half of a connection can be closed."""
    with (
        socket.create_connection(("127.0.0.1", port_of(secure)), timeout=20) as plain,
        trusting("first").wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        secured.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
        )
        answer = read_answer(secured)
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")


def test_what_is_no_tls_is_not_answered(secure: Serving) -> None:
    with socket.create_connection(("127.0.0.1", port_of(secure)), timeout=20) as plain:
        plain.sendall(HEALTH)
        assert not plain.recv(100).startswith(b"HTTP")
    assert presented(secure) == der("first")
    assert "Traceback" not in secure.log.read_text()


def test_slow_handshakes_keep_nobody_out(secure: Serving) -> None:
    """More of them than may be under way at once; the oldest are given up, then all for their slowness."""
    install("first", Path(secure.log.parent))
    eventually(lambda: presented(secure) == der("first"), within_s=60)
    process = psutil.Process(secure.process.pid)
    before = process.num_fds()
    with ExitStack() as exits:
        slow = [
            exits.enter_context(socket.create_connection(("127.0.0.1", port_of(secure)), timeout=60))
            for _ in range(MAX_HANDSHAKES + 100)
        ]
        for one in slow[::2]:
            one.sendall(b"\x16\x03\x01\x02\x00")  # a handshake begins, and stops
        with httpx2.Client(base_url=secure.url, verify=trusting("first"), timeout=60) as http:
            assert http.get("/health").status_code == 200
        assert process.num_fds() <= before + MAX_HANDSHAKES + 10
        eventually(lambda: process.num_fds() <= before + 10, within_s=60)
    assert "Traceback" not in secure.log.read_text()


def test_workers_share_a_certificate(tmp_path: Path) -> None:
    install("first", tmp_path)
    flags = ("--tls-certificate", "server.pem", "--tls-key", "server.key", "--workers", "2")
    body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
    with gateway(tmp_path, *flags) as workers:
        assert workers.url.startswith("https://")
        for _ in range(4):  # each time over a new connection
            with httpx2.Client(base_url=workers.url, verify=trusting("first"), timeout=60) as http:
                assert http.post(CHAT, json=body).status_code == 200
        before = {child.pid for child in psutil.Process(workers.process.pid).children()}
        assert len(before) == 2
        with httpx2.Client(base_url=workers.url, verify=trusting("first"), timeout=60) as http:
            install("second", tmp_path)
            workers.process.send_signal(signal.SIGHUP)
            eventually(lambda: "all workers are replaced" in workers.log.read_text(), within_s=120)
        assert presented(workers) == der("second")
        assert not before & {child.pid for child in psutil.Process(workers.process.pid).children()}
        assert "Traceback" not in workers.log.read_text()


def test_a_certificate_that_changes_is_used_and_a_bad_one_is_not(secure: Serving) -> None:
    folder = secure.log.parent
    (folder / "server.pem").write_text("half a certif")
    eventually(lambda: "cannot be used; the last one stays" in secure.log.read_text(), within_s=60)
    assert presented(secure) == der("first")
    install("second", folder)
    eventually(lambda: presented(secure) == der("second"), within_s=60)
    with httpx2.Client(base_url=secure.url, verify=trusting("second")) as http:
        assert http.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("certificate", "key", "reason"),
    [
        ("none.pem", "first.key", "tls_certificate = .*none.pem' cannot be read: No such file"),
        ("first.pem", "none.key", "tls_key = .*none.key' cannot be read: No such file"),
        ("/dev/zero", "first.key", "tls_certificate = '/dev/zero' cannot be read: File too large"),
        ("/", "first.key", "tls_certificate = '/' cannot be read: Is a directory"),
        ("first.pem", "second.key", "the key is not that of the certificate"),
        ("first.pem", "locked.key", "it has a password"),
        ("first.pem", "", "these are not a certificate and its key in PEM"),
        ("README.md", "first.key", "these are not a certificate and its key in PEM"),
    ],
)
def test_files_that_cannot_be_used_are_named(certificate: str, key: str, reason: str) -> None:
    files = [str(CERTIFICATES / name) if name else "" for name in (certificate, key)]
    with pytest.raises(ConfigError, match=reason):
        Certificate(ServerConfig(tls_certificate=files[0], tls_key=files[1]))


def test_bad_files_are_found_before_the_start() -> None:
    arguments = ["--tls-certificate", "first.pem", "--tls-key", "second.key"]
    done = headrace("check-config", *arguments, cwd=CERTIFICATES)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the key is not that of the certificate" in done.stderr
