"""Drive real clients against a real server: run.py [--twice] [CLIENT ...]. Exit code 1 when a turn of any
failed; with --twice, a client with a failed turn is run once more, alone, and that result counts.

Each client has a script with_NAME.py that prints a line for each turn, `ok NAME: turn` or
`FAILED NAME: turn`. It runs in an environment that holds the versions of requirements/NAME.txt.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from environments import FOLDER, HERE, ROOT, node_of, python_of, unpacked, version_of
from server import serving

MODEL = "smollm2-135m-instruct"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TWICE = "--twice"
PASSED, FAILED = re.compile(r"\s*ok "), re.compile(r"\s*(FAILED|not ok) ")
SILENT = {  # nobody phones home, and nothing is looked for on a hub
    "ANONYMIZED_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "NO_PROXY": "127.0.0.1",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}
DROPPED = ("PYTHONPATH", "OPENAI_", "LANGCHAIN_", "LANGSMITH_", "LLM_")  # of the caller's own environment

LANES = 2  # each has a server of its own, for one client at a time
KEYS = ("--api-key", "the-key-of-the-page", "--admin-key", "the-admin")


@dataclass(frozen=True, slots=True)
class Client:
    """`package` is the one whose version is shown; `environment` the name of its requirements."""

    name: str
    package: str
    environment: str
    script: str = ""  # default: with_NAME.py
    runs_in: str = "its own"  # or "ours": the script needs Headrace or its test tools; or "node"
    options: tuple[str, ...] = ()  # of the server
    timeout_s: float = 180


CLIENTS = (
    Client("openai3", "openai", "openai3", script="with_openai.py"),
    Client("openai2", "openai", "openai2", script="with_openai.py"),
    Client("responses", "openai", "openai3"),
    Client("node", "openai", "node", runs_in="node", script="node/smoke.mjs"),
    Client("node_responses", "openai", "node", runs_in="node", script="node/responses.mjs"),
    Client("ai_sdk", "@ai-sdk/openai", "node22", runs_in="node", script="node22/ai_sdk.mjs"),
    Client("openai_agents", "openai-agents", "openai3"),
    Client("langchain", "langchain-openai", "openai3"),
    Client("llama_index", "llama-index-llms-openai-like", "openai2"),
    Client("pydantic_ai", "pydantic-ai-slim", "openai3"),
    Client("instructor", "instructor", "instructor"),
    Client("outlines", "outlines", "outlines"),
    Client("smolagents", "smolagents", "openai3"),
    Client("llm", "llm", "openai3"),
    Client("llm_comply", "llm-comply", "llm_comply"),
    Client("lm_eval", "lm-eval", "lm_eval", runs_in="ours", options=("--precision", "f32"), timeout_s=300),
    Client("notebook", "nbclient", "notebook", timeout_s=300),
    Client("bfcl", "bfcl-eval", "bfcl", runs_in="ours", timeout_s=600),
    Client("page", "playwright", "page", timeout_s=480),
    Client("page_keys", "playwright", "page", options=KEYS, timeout_s=240),
    Client(
        "page_thoughts",
        "playwright",
        "page",
        options=("--config", str(HERE / "thoughts.toml")),
        timeout_s=240,
    ),
    Client(
        "page_steering",
        "playwright",
        "page",
        options=("--config", str(HERE / "steering.toml"), "--embedding-model", "none"),
        timeout_s=480,
    ),
)


@dataclass(slots=True)
class Result:
    client: Client
    passed: int = 0
    failed: int = 0
    seconds: float = 0.0


def main(arguments: Sequence[str]) -> int:
    names = [name for name in arguments if name != TWICE]
    unknown = set(names) - {client.name for client in CLIENTS}
    if unknown:
        known = ", ".join(client.name for client in CLIENTS)
        raise SystemExit(f"no such client: {', '.join(sorted(unknown))}; there are {known}")
    wanted = [client for client in CLIENTS if (client.name in names if names else _has_browser(client))]
    FOLDER.mkdir(exist_ok=True)
    _install(wanted)
    results = _run(wanted)
    failed = [result.client for result in results if result.failed]
    if failed and TWICE in arguments:
        _report(results)
        again = {result.client: result for result in _run(failed, num_lanes=1)}
        for client, result in again.items():
            print(f"failed once, {'and again' if result.failed else 'not again'}: {client.name}")
        results = [again.get(result.client, result) for result in results]
    _report(results)
    return 1 if any(result.failed for result in results) else 0


def _run(clients: Sequence[Client], num_lanes: int = LANES) -> list[Result]:
    """Drive the clients, those that may take longest first, one in each lane at a time."""
    commands = {client: _command(client) for client in clients}
    waiting = iter(sorted(clients, key=lambda client: -client.timeout_s))
    with ThreadPoolExecutor(num_lanes) as pool:
        lanes = [pool.submit(_drive_all, waiting, commands) for _ in range(num_lanes)]
    found = {result.client: result for lane in lanes for result in lane.result()}
    return [found[client] for client in clients]


def _drive_all(waiting: Iterator[Client], commands: Mapping[Client, list[str]]) -> list[Result]:
    """Drive those that no other lane has taken, with a new server where the options change."""
    results: list[Result] = []
    options: tuple[str, ...] | None = None
    url = ""
    with ExitStack() as server:
        for client in waiting:
            if client.options != options:
                server.close()
                options, url = client.options, server.enter_context(serving(*client.options))
            results.append(_drive(client, commands[client], url))
    return results


def _has_browser(client: Client) -> bool:
    """Whether the client finds the browser that it drives, if it drives one."""
    if client.environment != "page" or any(map(shutil.which, BROWSERS)):
        return True
    print(f"== {client.name}: NOT RUN, because there is no chromium: apt-get install chromium", flush=True)
    return False


def _install(clients: Sequence[Client]) -> None:
    """Each of their environments, two at a time: much of it is waiting."""
    one_of = {client.environment: client for client in clients}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_command, one_of.values()))


def _command(client: Client) -> list[str]:
    """How its script is started, with what it needs installed."""
    script = str(HERE / (client.script or f"with_{client.name}.py"))
    if client.runs_in == "node":
        return [node_of(client.environment), "--test-reporter=tap", script]
    if client.name == "bfcl":
        return [sys.executable, script, str(unpacked(client.environment))]
    python = str(python_of(client.environment))
    return [sys.executable, script, python] if client.runs_in == "ours" else [python, script]


def _drive(client: Client, command: list[str], url: str) -> Result:
    """Run its script. What it printed is printed in one piece when it has ended."""
    result, started = Result(client), time.perf_counter()
    lines = [f"\n== {client.name} {version_of(client.environment, client.package)}\n"]
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                cwd=FOLDER, env=_environment(url, client.name), start_new_session=True,
            )
        )  # fmt: skip
        timer = threading.Timer(client.timeout_s, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        stack.callback(timer.cancel)
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            result.passed += bool(PASSED.match(line))
            result.failed += bool(FAILED.match(line))
    if (process.returncode and not result.failed) or not result.passed:
        lines.append(f"FAILED {client.name}: it ended with {process.returncode}\n")
        result.failed += 1
    print("".join(lines), end="", flush=True)
    result.seconds = time.perf_counter() - started
    return result


def _environment(url: str, name: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED)}
    homes = {"HF_HOME": str(FOLDER / "hf"), "LLM_USER_PATH": str(FOLDER / f"{name}_home")}
    return (
        inherited | SILENT | homes | {"HEADRACE_URL": url, "HEADRACE_MODEL": MODEL, "HEADRACE_CLIENT": name}
    )


def _report(results: Sequence[Result]) -> None:
    print(f"\n{'client':14} {'version':10} {'turns':>5} {'passed':>6} {'failed':>6} {'seconds':>8}")
    for result in results:
        name, version = result.client.name, version_of(result.client.environment, result.client.package)
        passed, failed = result.passed, result.failed
        print(f"{name:14} {version:10} {passed + failed:5} {passed:6} {failed:6} {result.seconds:8.1f}")
    passed, failed = (sum(getattr(result, name) for result in results) for name in ("passed", "failed"))
    print(f"\n{passed} passed, {failed} failed")


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
