"""Several gateway processes behind one port: none of them is missed when it is replaced, or dies."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.cli.process import Serving, headrace, serving
from tests.serving import eventually

CONFIG = "[models]\ndefault = ''\n[providers.fa]\nkind = 'fake'\nmodels = ['m']\n"
CHAT = {"model": "fa:m", "messages": [{"role": "user", "content": "hi"}]}
START_S = 120.0


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("workers")
    (folder / "headrace.toml").write_text(CONFIG)
    with serving("--workers", "3", cwd=folder) as server:
        yield server


def pids(server: Serving) -> set[int]:
    return {child.pid for child in psutil.Process(server.process.pid).children()}


class Load:
    """Five clients that ask about ten times a second each, over connections that they keep."""

    def __init__(self, url: str) -> None:
        self.failures: list[str] = []
        self.num_answers = 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url,)) for _ in range(5)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str) -> None:
        with httpx2.Client(base_url=url, timeout=60, verify=False) as http:
            while not self._over.wait(0.1):
                try:
                    answer = http.post(
                        "/v1/chat/completions", json={**CHAT, "stream": self.num_answers % 2 == 0}
                    )
                    if answer.status_code != 200 or "world" not in answer.text:
                        self.failures.append(f"{answer.status_code} {answer.text[:200]}")
                except httpx2.HTTPError as exc:
                    self.failures.append(repr(exc))
                self.num_answers += 1


def test_a_rolling_restart_fails_no_request(workers: Serving) -> None:
    before = pids(workers)
    assert len(before) == 3
    with Load(workers.url) as load:
        eventually(lambda: load.num_answers > 10, within_s=START_S)
        workers.process.send_signal(signal.SIGHUP)
        eventually(lambda: "all workers are replaced" in workers.log.read_text(), within_s=START_S)
        number = load.num_answers
        eventually(lambda: load.num_answers > number + 10, within_s=START_S)
    assert load.failures == []
    assert len(pids(workers)) == 3
    assert not before & pids(workers)


def test_a_configuration_with_a_mistake_changes_nothing(workers: Serving) -> None:
    file = workers.log.parent / "headrace.toml"
    before = pids(workers)
    file.write_text("[models]\ndefault = 'a'\nmodel = 'x'\n")
    workers.process.send_signal(signal.SIGHUP)
    eventually(lambda: "the workers go on as they are" in workers.log.read_text(), within_s=START_S)
    file.write_text(CONFIG)
    assert pids(workers) == before


def test_a_reload_while_the_workers_start_waits_for_them(tmp_path: Path) -> None:
    file, pid = tmp_path / "headrace.toml", tmp_path / "pid"
    file.write_text(CONFIG)

    def reload() -> None:
        """As soon as the configuration has been read, which is when SIGHUP is blocked."""
        eventually(lambda: pid.exists() and pid.read_text().strip(), within_s=START_S)
        status = Path(f"/proc/{int(pid.read_text())}/status")
        eventually(lambda: re.search(r"(?m)^SigBlk:.*[13579bdf]$", status.read_text()), within_s=START_S)
        file.write_text(CONFIG.replace("'m'", "'new'"))
        os.kill(int(pid.read_text()), signal.SIGHUP)

    recorded = ("sh", "-c", 'echo $$ > pid; exec "$@"', "sh")
    with ThreadPoolExecutor(1) as pool:
        reloading = pool.submit(reload)
        with serving("--workers", "2", cwd=tmp_path, prefix=recorded) as server:
            reloading.result()
            eventually(lambda: "all workers are replaced" in server.log.read_text(), within_s=START_S)
            chat = {**CHAT, "model": "fa:new"}
            assert server.http.post("/v1/chat/completions", json=chat).status_code == 200


def test_a_worker_that_dies_is_started_again(workers: Serving) -> None:
    before = pids(workers)
    dead = min(before)
    os.kill(dead, signal.SIGKILL)
    eventually(lambda: dead not in pids(workers) and len(pids(workers)) == 3, within_s=START_S)
    assert "(exit code -9); it is started again" in workers.log.read_text()
    with ExitStack() as exits:  # each on a connection of its own
        for _ in range(6):
            http = exits.enter_context(httpx2.Client(base_url=workers.url, timeout=60, verify=False))
            assert http.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_workers_end_with_their_parent(workers: Serving) -> None:
    """The last test of the module: the server is gone after it."""
    left = pids(workers)
    workers.process.kill()
    eventually(lambda: not any(map(_lives, left)), within_s=START_S)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "each worker would load smollm2-135m-instruct for itself"),
        (CONFIG + "[server]\nrequire_auth = true\n", "set limits.redis_url"),
        (CONFIG + "[providers.g]\nkind = 'llamacpp'\npath = 'x.gguf'\n", "the process of providers.g"),
    ],
)
def test_what_workers_cannot_share_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "headrace.toml").write_text(text)
    done = headrace("serve", "--port", "0", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 2
    assert reason in done.stderr
