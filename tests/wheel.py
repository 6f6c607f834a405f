"""Headrace as users install it: a wheel and a source archive are built, the wheel is installed with its
pinned dependencies in an environment of its own, away from the repository, and answers: `make test-wheel`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("headrace", "pyproject.toml", "README.md", "LICENSE")
BUILD = "from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"
QUESTION = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Say hello."}]}
PATHS = ("/", "/page/app.js", "/docs", "/openapi.json", "/metrics", "/v1/models")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="headrace-wheel-") as name:
        folder = Path(name)
        wheel = built(folder / "source")
        python = installed(wheel, folder / "environment")
        with serving(python, folder) as url:
            for path in PATHS:
                check(f"GET {path}", urllib.request.urlopen(url + path, timeout=60).status == 200)
            check("an answer", bool(answer(url)))
        command = "from headrace.config import install_command; print(install_command('redis'))"
        advice = run(python, "-c", command, cwd=folder)
        check(f"how an extra is installed: {advice}", "'headrace[redis] @ file:" in advice)
    return 0


def built(source: Path) -> Path:
    """The wheel, made in a copy of the repository: a build leaves files beside its sources."""
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    (source / "dist").mkdir()
    run(Path(sys.executable), "-c", BUILD, cwd=source)
    (wheel,), (archive,) = (source / "dist").glob("*.whl"), (source / "dist").glob("*.tar.gz")
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "headrace").rglob("*") if is_ours(path)}
    check(f"{wheel.name} has all {len(files)} files", files <= set(zipfile.ZipFile(wheel).namelist()))
    with tarfile.open(archive) as opened:
        found = {name.partition("/")[2] for name in opened.getnames()}
    check(f"{archive.name} has them, too", files | set(SOURCES) <= found)
    return wheel


def is_ours(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def installed(wheel: Path, environment: Path) -> Path:
    """The interpreter of a new environment with the wheel in it, and nothing that is not pinned."""
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    pinned = environment / "pinned.txt"
    pinned.write_text((ROOT / "constraints.txt").read_text().partition("\n# extras\n")[0])
    pip = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps")
    run(python, *pip, "--require-hashes", "--requirement", str(pinned), cwd=environment)
    run(python, *pip, str(wheel), cwd=environment)
    check(
        "its dependencies fit each other", "No broken" in run(python, "-m", "pip", "check", cwd=environment)
    )
    return python


@contextmanager
def serving(python: Path, folder: Path) -> Iterator[str]:
    """The address of `headrace serve` as the wheel's script starts it."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python.with_name("headrace")), "serve", "--port", "0", "--data", str(folder / "data")]
    command += ["--kv-cache-bytes", "64MiB", "--disk-cache-bytes", "0"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder, env=outside
        ) as server,
    ):
        assert server.stdout is not None
        try:
            found = (re.match(r"\s*url\s+(\S+)/v1", line) for line in server.stdout)
            url = next((match[1] for match in found if match), None)
            check("it starts", url is not None, (folder / "log").read_text())
            yield url or ""
        finally:
            server.terminate()


def answer(url: str) -> str:
    body = json.dumps({**QUESTION, "max_tokens": 8}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        text: str = json.load(response)["choices"][0]["message"]["content"]
    return text


def run(python: Path, *arguments: str, cwd: Path) -> str:
    done = subprocess.run([str(python), *arguments], cwd=cwd, capture_output=True, text=True)
    check(" ".join(arguments[:4]), done.returncode == 0, done.stdout + done.stderr, is_silent=True)
    return done.stdout.strip()


def check(what: str, is_so: bool, more: str = "", *, is_silent: bool = False) -> None:
    if not is_so:
        raise SystemExit(f"FAILED {what}\n{more}")
    if not is_silent:
        print(f"ok {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
