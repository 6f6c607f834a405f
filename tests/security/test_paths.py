"""No error that a caller reads shows where anything is on the server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from headrace.config import Config
from headrace.store.database import _public_message
from tests.conftest import FakeServer
from tests.serving import Served

KEPT = {"model": "fake", "messages": [{"role": "user", "content": "x"}], "store": True}
TARGETS = [
    ("POST", "/v1/conversations", {}),
    ("GET", "/v1/conversations/conv_1", None),
    ("POST", "/v1/responses", {"model": "fake", "input": "hi"}),
    ("GET", "/v1/responses/resp_1", None),
    ("POST", "/v1/chat/completions", KEPT),
    ("GET", "/v1/chat/completions", None),
]  # fmt: skip


def errors(server: Served) -> list[str]:
    """What callers read where the store cannot be used."""
    answers = [server.http.request(method, path, json=body) for method, path, body in TARGETS]
    assert {answer.status_code for answer in answers} <= {503, 200}
    assert any(answer.status_code == 503 for answer in answers)
    return [answer.text + str(answer.headers) for answer in answers]


def a_file_for_a_folder(folder: Path) -> None:
    folder.write_text("no folder")


def a_folder_for_the_file(folder: Path) -> None:
    (folder / "headrace.db" / "x").mkdir(parents=True)


def no_database(folder: Path) -> None:
    folder.mkdir()
    (folder / "headrace.db").write_text("not a database, but longer than its header is: " + "x" * 4096)


@pytest.mark.parametrize("broken", [a_file_for_a_folder, a_folder_for_the_file, no_database])
def test_an_unusable_store(fake_server: FakeServer, tmp_path: Path, broken: object) -> None:
    assert callable(broken)
    broken(tmp_path / "data")
    server = fake_server(config=Config.model_validate({"paths": {"data": str(tmp_path / "data")}}))
    for text in errors(server):
        assert str(tmp_path) not in text
        assert "headrace.db" not in text


def test_a_store_that_goes_away(fake_server: FakeServer, tmp_path: Path) -> None:
    server = fake_server(config=Config.model_validate({"paths": {"data": str(tmp_path / "data")}}))
    assert server.post("/v1/conversations", {}).status_code == 200
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").write_text("no folder")
    for text in errors(server):
        assert str(tmp_path) not in text


def test_an_unreachable_socket(fake_server: FakeServer, tmp_path: Path) -> None:
    url = f"postgresql://me:hush@/db?host={tmp_path}"
    for text in errors(fake_server(config=Config.model_validate({"store": {"url": url}}))):
        assert str(tmp_path) not in text
        assert "hush" not in text


@pytest.mark.parametrize(
    ("exc", "public"),
    [
        (PermissionError(13, "Permission denied", "/srv/data/headrace.db"), "Permission denied"),
        (RuntimeError("cannot open '/srv/data/x.db', sorry"), "cannot open '(path)', sorry"),
        (RuntimeError("cannot open C:\\data\\x.db"), "cannot open (path)"),
        (RuntimeError("no route to 10.0.0.1:5432 over http://host/x"), "no route to 10.0.0.1:5432 over http://host/x"),
        (RuntimeError("1/2 of it"), "1/2 of it"),
    ],
)  # fmt: skip
def test_words_of_a_database(exc: Exception, public: str) -> None:
    assert _public_message(exc) == public
