"""What happens to the database's files behind a server's back: no write is acknowledged that is not there."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable
from operator import gt
from pathlib import Path

import httpx2
import pytest

from tests.cli.process import Serving, serving
from tests.durability.api import check_refusal
from tests.durability.test_disk import CHAT, CONFIG
from tests.serving import eventually

ITEM = {"items": [{"role": "user", "content": "kept"}]}
FILES = ("headrace.db", "headrace.db-wal", "headrace.db-shm")
SAID = "removed or replaced while the server ran"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "headrace.toml").write_text(CONFIG)
    return tmp_path


def check_all_refused(served: Serving, id: str) -> None:
    """All that needs the store; what does not goes on."""
    requests = [
        ("POST", "/v1/conversations", ITEM),
        ("POST", f"/v1/conversations/{id}/items", ITEM),
        ("GET", f"/v1/conversations/{id}", None),
        ("DELETE", f"/v1/conversations/{id}", None),
        ("POST", "/v1/responses", {"model": CHAT["model"], "input": "hi"}),
        ("POST", "/v1/chat/completions", {**CHAT, "conversation": id}),
    ]
    for method, path, body in requests:
        response = served.http.request(method, path, json=body)
        check_refusal(response)
        assert "headrace.db" not in response.text
    assert served.http.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert served.http.get("/health").status_code == 200
    eventually(lambda: all(text in served.log.read_text() for text in (SAID, "headrace.db")))
    assert "Traceback" not in served.log.read_text()


def remove_all(data: Path) -> None:
    for name in FILES:
        (data / name).unlink()


def remove_folder(data: Path) -> None:
    shutil.rmtree(data)


def remove_log(data: Path) -> None:
    (data / "headrace.db-wal").unlink()


def remove_index(data: Path) -> None:
    (data / "headrace.db-shm").unlink()


def replace_by_copy(data: Path) -> None:
    shutil.copy(data / "headrace.db", data / "copy")
    (data / "copy").replace(data / "headrace.db")


def replace_by_empty(data: Path) -> None:
    (data / "headrace.db").unlink()
    (data / "headrace.db").touch()


def link_elsewhere(data: Path) -> None:
    (data / "headrace.db").rename(data / "moved.db")
    (data / "headrace.db").symlink_to("nowhere.db")


@pytest.mark.parametrize(
    "change",
    [remove_all, remove_folder, remove_log, remove_index, replace_by_copy, replace_by_empty, link_elsewhere],
)
def test_a_file_that_is_removed_or_replaced(folder: Path, change: Callable[[Path], None]) -> None:
    with serving(cwd=folder) as served:
        id = served.http.post("/v1/conversations", json=ITEM).json()["id"]
        change(folder / "data")
        check_all_refused(served, id)
        served.process.terminate()
        assert served.process.wait(60) == 0


def test_housekeeping_notices_before_anybody_asks(folder: Path) -> None:
    with serving(cwd=folder) as served:
        served.http.post("/v1/conversations", json=ITEM)
        remove_all(folder / "data")
        eventually(lambda: SAID in served.log.read_text())


def test_files_that_are_moved_and_come_back(folder: Path) -> None:
    """Nothing that was acknowledged is lost, and nothing is acknowledged meanwhile."""
    data, away = folder / "data", folder / "away"
    away.mkdir()
    with serving(cwd=folder) as served:
        acknowledged: list[str] = []
        num_refused = [0] * 4  # of each writer
        is_over = threading.Event()

        def write(number: int) -> None:
            with httpx2.Client(base_url=served.url, timeout=60, verify=False) as http:
                while not is_over.is_set():
                    response = http.post("/v1/conversations", json=ITEM)
                    if response.status_code == 200:
                        acknowledged.append(response.json()["id"])
                    else:
                        num_refused[number] += 1

        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        eventually(lambda: len(acknowledged) > 50, within_s=60)
        for name in FILES:
            (data / name).rename(away / name)
        check_refusal(served.http.post("/v1/conversations", json=ITEM))
        before = list(num_refused)  # what each writer was answered before is counted once it is refused again
        eventually(lambda: all(map(gt, num_refused, before)))
        count = len(acknowledged)
        check_refusal(served.http.post("/v1/conversations", json=ITEM))
        assert len(acknowledged) == count
        for name in FILES:
            (away / name).rename(data / name)
        eventually(lambda: len(acknowledged) > count + 20, within_s=60)
        is_over.set()
        for writer in writers:
            writer.join()
        for id in acknowledged:
            assert served.http.get(f"/v1/conversations/{id}").status_code == 200


@pytest.mark.parametrize("is_running", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"no database at all, but longer than a header of one is" * 100, id="other content"),
        pytest.param(b"SQLite format 3\0" + b"\xff" * 20_000, id="broken pages"),
        pytest.param(b"SQLite", id="cut"),
    ],
)
def test_a_corrupted_file(folder: Path, content: bytes, is_running: bool) -> None:
    file = folder / "data" / "headrace.db"
    if not is_running:
        with serving(cwd=folder) as served:
            served.http.post("/v1/conversations", json=ITEM)
            served.process.terminate()
            served.process.wait(60)
        file.write_bytes(content)
    with serving(cwd=folder) as served:
        if is_running:
            served.http.post("/v1/conversations", json=ITEM)
            with sqlite3.connect(file) as c:
                c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with file.open("r+b") as written:
                written.truncate(0)
                written.write(content)
        answers = [
            served.http.request(method, path, json=body)
            for _ in range(3)
            for method, path, body in (
                ("POST", "/v1/conversations", ITEM),
                ("GET", "/v1/conversations/conv_1", None),
                ("POST", "/v1/responses", {"model": CHAT["model"], "input": "hi"}),
            )
        ]
        for answer in answers:
            if not is_running or answer.status_code not in (
                200,
                404,
            ):  # pages that it still remembers are right
                check_refusal(answer)
                assert "headrace.db" not in answer.text
        assert served.http.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert "Traceback" not in served.log.read_text()
