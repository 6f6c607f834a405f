"""A server whose models are scripts, in a process of its own: `python -m bench.children.scripted DATA URL`
prints its port.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.config import Config

MODELS = {"word": 1, "paragraph": 80, "stream": 1000}  # and how many tokens each answers
TOKEN = "water"
END_S = 30.0


@contextmanager
def running(data: Path, url: str) -> Iterator[int]:
    """Its port."""
    command = [sys.executable, "-m", "bench.children.scripted", str(data), url]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(END_S)


def main(data: str, url: str) -> None:
    config = Config.model_validate({"paths": {"data": data}, "store": {"url": url}})
    backends = [FakeBackend([TOKEN] * count, id=name, name=name) for name, count in MODELS.items()]
    app = create_app(config, backends)
    settings = uvicorn.Config(app, lifespan="on", log_config=None, access_log=False)
    server = uvicorn.Server(settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        with asyncio.Runner(loop_factory=settings.get_loop_factory()) as runner:
            runner.run(server.serve(sockets=[listener]))


if __name__ == "__main__":
    main(*sys.argv[1:])
