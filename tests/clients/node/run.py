"""Start a server on a free port, run the Node tests against it, stop it; the exit code is theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    command = [sys.executable, "-m", "headrace", "serve", "--port", "0", "--log-level", "WARNING"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = announced_url(server)
            return subprocess.call(
                ["node", "--test", str(HERE / "smoke.mjs")], env={**os.environ, "HEADRACE_URL": url}
            )
        finally:
            server.terminate()


def announced_url(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if line.strip().startswith("url "):
            return line.split()[1].removesuffix("/v1")
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    sys.exit(main())
