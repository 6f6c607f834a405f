"""A package index on a loopback port that serves wheels with a model in them, as slowly as a test asks."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class PackageIndex:
    """`downloads` counts the wheels sent, `ranges` has those of which a part was asked for. While `gate` is
    closed a wheel stops at half of its bytes. `has_metadata`: whether it offers metadata beside the wheels.
    """

    def __init__(self) -> None:
        self.wheels: dict[str, bytes] = {}
        self.metadata: dict[str, bytes] = {}
        self.has_metadata = True
        self.downloads = 0
        self.ranges: list[str] = []
        self.gate, self.halfway = threading.Event(), threading.Event()
        self.gate.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/simple"

    def add(self, package: str, files: dict[str, Path]) -> None:
        """Offer version 1.0 of a package with these files."""
        name = f"{package.replace('-', '_')}-1.0"
        path = next(iter(files.values())).parent / f"{name}-py3-none-any.whl"
        info = f"{name}.dist-info"
        with zipfile.ZipFile(path, "w") as wheel:
            for member, file in files.items():
                wheel.write(file, member)
            # A dependency that does not exist: it must not be asked for.
            metadata = (
                f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
                "Requires-Dist: no-such-package-anywhere\n"
            )
            wheel.writestr(f"{info}/METADATA", metadata)
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        self.wheels[path.name] = path.read_bytes()
        self.metadata[f"{path.name}.metadata"] = metadata.encode()

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make it the user's pip configuration."""
        settings = {"PIP_INDEX_URL": self.url, "PIP_CONFIG_FILE": "/dev/null", "PIP_NO_CACHE_DIR": "1"}
        for key, value in (settings | {"PIP_RETRIES": "0", "NO_PROXY": "127.0.0.1"}).items():
            monkeypatch.setenv(key, value)
        for key in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
            monkeypatch.delenv(key, raising=False)

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rstrip("/").rpartition("/")[2]
                if name in index.metadata:
                    index._send(self, "text/plain", index.metadata[name])
                elif self.path.startswith("/wheels/"):
                    index._send_wheel(self, index.wheels[name])
                else:
                    index._send(self, "text/html", index._page(name).encode())

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        return Handler

    def _page(self, package: str) -> str:
        mine = [name for name in self.wheels if name.startswith(package.replace("-", "_") + "-")]
        digest = {name: hashlib.sha256(self.wheels[name]).hexdigest() for name in mine}
        beside = {name: hashlib.sha256(self.metadata[f"{name}.metadata"]).hexdigest() for name in mine}
        says = {
            name: f' data-core-metadata="sha256={beside[name]}"' if self.has_metadata else "" for name in mine
        }
        return "".join(
            f'<a href="/wheels/{name}#sha256={digest[name]}"{says[name]}>{name}</a>' for name in mine
        )

    def _send(self, request: BaseHTTPRequestHandler, kind: str, body: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _send_wheel(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        self.downloads += 1
        wanted = request.headers.get("Range")
        if wanted is not None:
            self.ranges.append(wanted)
            body = body[int(wanted.removeprefix("bytes=").rstrip("-")) :]
        half = len(body) // 2
        request.send_response(200 if wanted is None else 206)
        request.send_header("Content-Type", "application/octet-stream")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[:half])
        request.wfile.flush()
        self.halfway.set()
        self.gate.wait(60)
        with contextlib.suppress(OSError):  # the client was killed: that is what such a test is about
            request.wfile.write(body[half:])
