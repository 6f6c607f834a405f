"""A real server for a test: an app under uvicorn on a free port, in a thread with its own event loop."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import uvicorn
from fastapi import FastAPI

from headrace.api.answers import Encoder, LiveStream, encoded
from headrace.backend_types import Backend
from headrace.gateway.gateway import Gateway
from headrace.gateway.generation import Generation

START_S = 60.0
SLOW_S = 60.0  # how long an answer may take that a real model computes on a busy machine


@dataclass(frozen=True, slots=True)
class Served:
    """A running server."""

    url: str
    app: FastAPI
    http: httpx2.Client
    loop: asyncio.AbstractEventLoop
    silence_s: float

    @property
    def gateway(self) -> Gateway:
        gateway: Gateway = self.app.state.gateway
        return gateway

    @property
    def backend(self) -> Backend:
        return self.gateway.backends[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, api_key: str = "x", *, is_strict: bool = False) -> openai.OpenAI:
        """`is_strict`: it raises when an answer is not what its types say."""
        return openai.OpenAI(
            base_url=self.url + "/v1",
            api_key=api_key,
            max_retries=0,
            timeout=self.silence_s,
            _strict_response_validation=is_strict,
        )

    def post(
        self,
        path: str,
        body: object = None,
        *,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx2.Response:
        """Raw `content`, or `body` as JSON."""
        sent = json.dumps(body).encode() if content is None else content
        all_headers = {"Content-Type": "application/json", **(headers or {})}
        return self.http.post(path, content=sent, headers=all_headers)

    def begin(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> socket.socket:
        """Send a request and read nothing. To close the socket is to leave."""
        content = json.dumps(body).encode()
        fields = {
            "Host": "localhost",
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **(headers or {}),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=self.silence_s)
        connection.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content)
        return connection

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx2.Response:
        return self.http.get(path, headers=headers)


def live_stream(generation: Generation, encoder: Encoder, **options: Any) -> LiveStream:
    """The answer that streams a generation, as the endpoints make it."""
    texts = encoded(generation, encoder)
    return LiveStream(texts, {}, generation.aclose, generation.interrupted, **options)


class _Server(uvicorn.Server):
    """A server that ends at once: uvicorn's looks ten times a second whether to end, and then waits."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ending = asyncio.Event()

    async def main_loop(self) -> None:
        ticks = asyncio.create_task(super().main_loop())  # for the date in headers
        await self.ending.wait()
        ticks.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.sleep(0)  # connections that the test has closed are removed
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for open in (*self.servers, *(sockets or ())):
            open.close()
        await self.lifespan.shutdown()


@contextmanager
def serving(app: FastAPI, *, silence_s: float = 20.0) -> Iterator[Served]:
    """`app` with its lifespan, until the block ends. A request fails if nothing comes for `silence_s`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app, lifespan="on", log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        server = _Server(config)
        runner = asyncio.Runner(loop_factory=config.get_loop_factory())
        thread = threading.Thread(target=_run, args=(runner, server, listener), name="server")
        thread.start()
        try:
            eventually(lambda: server.started or not thread.is_alive(), within_s=START_S)
            assert server.started, "the server did not start: see the log"
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx2.Client(base_url=url, timeout=silence_s, verify=False) as http:
                yield Served(url, app, http, runner.get_loop(), silence_s)
        finally:
            server.should_exit = True
            with suppress(RuntimeError):  # it has not started
                runner.get_loop().call_soon_threadsafe(server.ending.set)
            thread.join(30)
            assert not thread.is_alive(), "the server did not end"


def _run(runner: asyncio.Runner, server: uvicorn.Server, listener: socket.socket) -> None:
    with runner:
        runner.run(server.serve(sockets=[listener]))


def eventually(condition: Callable[[], object], *, within_s: float = 30.0) -> None:
    """Wait until `condition` holds; fail when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def events(response: httpx2.Response) -> list[Any]:
    """The data of an SSE answer: parsed JSON, and "[DONE]" as it is. A slow answer has comments, too."""
    frames = [frame for frame in response.text.split("\n\n") if frame and not frame.startswith(":")]
    frames = [frame.removeprefix("data: ") for frame in frames]
    return [frame if frame == "[DONE]" else json.loads(frame) for frame in frames]
