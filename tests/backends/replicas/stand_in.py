"""A stand-in for vLLM's server, run as `python -m tests.backends.replicas.stand_in`: it speaks the protocol
by which a server is started, awaited, used and stopped. `--slow FILE`: it is ready only when the file is
there; `--crash`: it ends at once. A chat that says "end" ends it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

arguments = argparse.ArgumentParser()
arguments.add_argument("--host")
arguments.add_argument("--port", type=int)
arguments.add_argument("--model")
arguments.add_argument("--slow", type=Path)
arguments.add_argument("--crash", action="store_true")
OPTIONS = arguments.parse_args()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/health":
            is_ready = OPTIONS.slow is None or OPTIONS.slow.exists()
            self.answer({}, status=200 if is_ready else 503)
        elif self.path == "/v1/models":
            self.answer({"object": "list", "data": [{"id": OPTIONS.model, "max_model_len": 512}]})
        else:
            self.answer({"detail": "Not Found"}, status=404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.answer({"error": "Unauthorized"}, status=401)
        elif body["messages"][-1]["content"] == "end":
            os._exit(3)
        else:
            text = json.dumps(
                {name: body[name] for name in sorted(body) if name not in ("messages", "stream")}
            )
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            self.answer(
                {"id": f"pid-{os.getpid()}", "model": OPTIONS.model, "choices": [choice], "usage": usage}
            )

    def answer(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *values: Any) -> None:
        pass


if __name__ == "__main__":
    sys.stderr.write(f"the stand-in loads {OPTIONS.model}\n")
    if OPTIONS.crash:
        sys.exit(4)
    ThreadingHTTPServer((OPTIONS.host, OPTIONS.port), Handler).serve_forever()
