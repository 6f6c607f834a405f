"""/v1/admin/requests: what runs, and how an administrator stops it."""

from __future__ import annotations

import json
import threading
from typing import Any

from headrace.backends.fake import FakeBackend
from headrace.config import Config
from tests.conftest import FakeServer

PATH = "/v1/admin/requests"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "Hi."}], "stream": True}


def test_a_request_is_listed_while_it_runs_and_ends_when_it_is_stopped(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend(["word"] * 1000, delay_s=0.05))
    assert server.get(PATH).json()["data"] == []
    with server.http.stream("POST", "/v1/chat/completions", json=CHAT) as stream:
        lines = stream.iter_lines()
        next(lines)
        (running,) = server.get(PATH).json()["data"]
        assert running["id"] == stream.headers["x-request-id"]
        assert (running["work"], running["model"], running["provider"]) == ("generate", "fake", "fake")
        assert running["status"] == "answering"
        assert "Hi." not in json.dumps(running), "nothing of its content"
        stopped = server.http.delete(f"{PATH}/{running['id']}").json()
        assert stopped == {"id": running["id"], "object": "request.stopped", "stopped": True}
        rest = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert rest[-1]["error"]["code"] == "request_stopped"
    assert len(rest) < 1000
    assert server.get(PATH).json()["data"] == []


def test_one_that_has_not_begun_to_answer_waits(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend(["word"], opening_s=60))
    answers: list[Any] = []
    body = {**CHAT, "stream": False}
    caller = threading.Thread(target=lambda: answers.append(server.post("/v1/chat/completions", body)))
    caller.start()
    while not (running := server.get(PATH).json()["data"]):
        pass
    assert running[0]["status"] == "waiting"
    server.http.delete(f"{PATH}/{running[0]['id']}")
    caller.join()
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "request_stopped")
    assert answers[0].headers["x-should-retry"] == "false"


def test_an_unknown_request_is_not_found(fake_server: FakeServer) -> None:
    answer = fake_server().http.delete(f"{PATH}/req_nothing")
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "request_id")


def test_it_is_for_administrators(fake_server: FakeServer) -> None:
    config = Config.model_validate({"server": {"api_keys": ["caller"], "admin_keys": ["boss"]}})
    server = fake_server(config=config)
    assert server.get(PATH, {"Authorization": "Bearer caller"}).status_code == 403
    assert server.get(PATH, {"Authorization": "Bearer boss"}).status_code == 200
