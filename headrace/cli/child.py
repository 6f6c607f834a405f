"""A Headrace that another one has started: an engine process, or a worker of `headrace serve --workers`. The
first line of its input is a message with its configuration; it writes one line when it is ready, and ends
when its input does, which is when its parent ends.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import threading
from typing import Any

from headrace.config import Config
from headrace.errors import HeadraceError

FAILED = 2


def main() -> int:
    gc.set_threshold(100_000)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    report = os.dup(1)
    os.dup2(2, 1)  # what is printed goes to the log
    message: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    if message.get("cpus"):
        os.sched_setaffinity(0, message["cpus"])
    config = Config.model_validate(message["config"])
    from headrace.cli import serve

    try:
        serve.serve_as_child(
            config,
            message["name"],
            listener=socket.socket(fileno=message["listener"]) if "listener" in message else None,
            is_engine=message["role"] == "engine",
            ready=lambda url: os.write(report, json.dumps({"url": url}).encode() + b"\n"),
        )
    except HeadraceError as exc:
        print(f"headrace: {message['name']}: {exc.message}", file=sys.stderr)
        return FAILED
    return 0


def _end_with_parent() -> None:
    """Drain, and end, when the input ends."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
