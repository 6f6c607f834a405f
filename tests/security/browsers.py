"""What a web page can do: in a real Chromium where one is installed, and by the headers that browsers
send.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

from websockets.sync.client import ClientConnection, connect

from tests.cli.process import Serving
from tests.security.raw import JSON, WEBSOCKET, ask, port_of

EVIL = "evil.example"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Page(Protocol):
    """A page of `evil.example`."""

    def post(self, path: str, body: str, content_type: str | None) -> None:
        """Sends this to the server without being allowed to read the answer."""
        ...

    def opens(self, path: str) -> bool:
        """Whether a WebSocket to the server opens."""
        ...

    def is_ours(self, path: str, body: str) -> tuple[int, bool]:
        """What the server's own page can do: the status of a POST of JSON, and whether a WebSocket opens."""
        ...

    def rebound(self, path: str, body: str | None) -> int:
        """The status that it reads once its own name leads to the server: GET, or POST of JSON."""
        ...


class Headers:
    """A page whose requests are written by hand."""

    def __init__(self, server: Serving) -> None:
        self._server = server
        self._origin = f"http://{EVIL}"

    def post(self, path: str, body: str, content_type: str | None) -> None:
        sent = {"Origin": self._origin, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
        typed = {} if content_type is None else {"Content-Type": content_type}
        ask(self._server, "POST", path, {**sent, **typed}, body.encode())

    def opens(self, path: str) -> bool:
        return ask(self._server, "GET", path, {**WEBSOCKET, "Origin": self._origin}).status == 101

    def is_ours(self, path: str, body: str) -> tuple[int, bool]:
        own = {"Origin": self._server.url, "Sec-Fetch-Site": "same-origin"}
        sent = {**own, "Sec-Fetch-Mode": "cors", "Content-Type": "application/json"}
        opened = ask(self._server, "GET", "/v1/responses", {**WEBSOCKET, **own})
        return ask(self._server, "POST", path, sent, body.encode()).status, opened.status == 101

    def rebound(self, path: str, body: str | None) -> int:
        host = f"{EVIL}:{port_of(self._server)}"
        own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
        if body is None:
            return ask(self._server, "GET", path, own, host=host).status
        sent = {**own, "Origin": f"http://{host}", "Content-Type": "application/json"}
        return ask(self._server, "POST", path, sent, body.encode(), host=host).status


class Tab:
    """A tab of Chromium, over its DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self._requested: dict[str, str] = {}  # by the id of the request
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> Any:
        id = next(self._ids)
        session = {} if self._session is None else {"sessionId": self._session}
        self._socket.send(json.dumps({"id": id, "method": method, "params": params, **session}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == id:
                assert "result" in message, message
                return message["result"]
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, method: str | None, event: Any) -> None:
        if method == "Network.requestWillBeSent":
            self._requested[event["requestId"]] = event["request"]["url"]
        elif method == "Network.loadingFailed" and event.get("blockedReason") == "csp":
            self._requested.pop(event["requestId"], None)  # it was never sent

    @property
    def requested(self) -> set[str]:
        """The URLs that it has asked the network for."""
        return {url for url in self._requested.values() if urlsplit(url).scheme not in ("data", "blob")}

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState == 'complete'")
        assert self.run("location.href") == url

    def run(self, script: str) -> Any:
        """The value of an expression, or of its promise."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, condition: str, *, within_s: float = 30) -> None:
        deadline = time.monotonic() + within_s
        while not self.run(condition):
            assert time.monotonic() < deadline, f"not in time: {condition}"
            time.sleep(0.05)


class Chromium:
    """A page in Chromium, served by a server of its own."""

    def __init__(self, server: Serving, tab: Tab, site: str) -> None:
        self._tab, self._port, self._site = tab, port_of(server), site

    def post(self, path: str, body: str, content_type: str | None) -> None:
        self._tab.open(self._site)
        typed = {} if content_type is None else {"type": content_type}
        self._tab.run(
            f"fetch('http://127.0.0.1:{self._port}{path}', {{method: 'POST', mode: 'no-cors', "
            f"body: new Blob([{json.dumps(body)}], {json.dumps(typed)})}}).then(() => 1)"
        )

    def opens(self, path: str) -> bool:
        self._tab.open(self._site)
        return self._opens(path)

    def is_ours(self, path: str, body: str) -> tuple[int, bool]:
        self._tab.open(f"http://127.0.0.1:{self._port}/docs")
        return self._fetch(path, body), self._opens("/v1/responses")

    def rebound(self, path: str, body: str | None) -> int:
        self._tab.open(f"http://{EVIL}:{self._port}/health")  # refused, and yet a page of that origin
        return self._fetch(path, body)

    def _opens(self, path: str) -> bool:
        script = (
            f"new Promise(done => {{ const s = new WebSocket('ws://127.0.0.1:{self._port}{path}'); "
            "s.onopen = () => done(true); s.onerror = () => done(false); })"
        )
        return bool(self._tab.run(script))

    def _fetch(self, path: str, body: str | None) -> int:
        """From a page of the same origin."""
        sent = {} if body is None else {"method": "POST", "body": body, "headers": JSON}
        return int(self._tab.run(f"fetch('{path}', {json.dumps(sent)}).then(answer => answer.status)"))


@contextmanager
def by_headers(server: Serving, path: Path) -> Iterator[Page]:
    yield Headers(server)


@contextmanager
def in_chromium(server: Serving, path: Path) -> Iterator[Page]:
    with _site() as site, tab(path) as opened:
        yield Chromium(server, opened, site)


@contextmanager
def tab(path: Path) -> Iterator[Tab]:
    """Of a Chromium that finds `evil.example` here, and no other name."""
    command = [
        _binary(), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-extensions", "--disable-background-networking", f"--user-data-dir={path}",
        "--remote-debugging-port=0",
        f"--host-resolver-rules=MAP {EVIL} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with connect(_devtools(path / "DevToolsActivePort", process), max_size=None) as socket:
                yield Tab(socket)
        finally:
            process.terminate()


def _devtools(file: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 60
    while not (file.exists() and len(lines := file.read_text().split()) == 2):
        assert process.poll() is None, "Chromium did not start"
        assert time.monotonic() < deadline, "Chromium did not start in time"
        time.sleep(0.05)
    port, target = lines
    return f"ws://127.0.0.1:{port}{target}"


@contextmanager
def _site() -> Iterator[str]:
    """The other site."""

    class Blank(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>evil</title>")

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Blank) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{EVIL}:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def _binary() -> str:
    return next(found for name in NAMES if (found := shutil.which(name)))


HAS_CHROMIUM = any(shutil.which(name) for name in NAMES)
Browser = Callable[[Serving, Path], AbstractContextManager[Page]]
BROWSERS: Sequence[Browser] = [by_headers, in_chromium] if HAS_CHROMIUM else [by_headers]


# -- what a page of ours loads ---------------------------------------------------------------------------


class _Links(HTMLParser):
    """Collects the addresses that a browser loads by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        wanted = named.get("href") if tag == "link" else named.get("src") or named.get("spec-url")
        if wanted is not None and not wanted.startswith("data:"):
            self.found.append(wanted)


def loaded_by_reading(url: str, http: Any, path: Path) -> set[str]:
    """What the HTML names, once all of it has been fetched."""
    links = _Links()
    links.feed(http.get(url).text)
    wanted = {urljoin(url, link) for link in links.found}
    for link in wanted:
        assert urlsplit(link).netloc == urlsplit(url).netloc, f"{link} is of another host"
        assert http.get(link).status_code == 200
    return wanted


def loaded_by_rendering(url: str, http: Any, path: Path) -> set[str]:
    """What a Chromium asks the network for, until the page shows an endpoint."""
    with tab(path) as opened:
        opened.open(url)
        opened.until("document.body.innerText.includes('/v1/chat/completions')")
        return opened.requested - {url}


LOOKS = [loaded_by_reading, loaded_by_rendering] if HAS_CHROMIUM else [loaded_by_reading]
