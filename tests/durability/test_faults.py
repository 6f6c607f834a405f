"""Faults of the world around a real process: what clients see, that nothing acknowledged is lost, and that it
recovers without a restart. The other faults, and their tests, are in docs/reliability.md.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx2
import pytest

from tests.cli.process import Serving, serving
from tests.durability.servers import server
from tests.upstream import Answer, answer, scripted, sse

FAKE = '[models]\ndefault = ""\n[providers.x]\nkind = "fake"\n[paths]\ndata = "data"\n'
CHAT: dict[str, Any] = {"model": "x:fake", "messages": [{"role": "user", "content": "hi"}]}
WRITERS = 8
DAY_S = 86_400


def items_of(http: httpx2.Client, conversation: str) -> list[str]:
    """The texts of a conversation, oldest first."""
    answer = http.get(f"/v1/conversations/{conversation}/items", params={"order": "asc", "limit": 100})
    return [item["content"][0]["text"] for item in answer.json()["data"]]


def write_until_refused(server: Serving, conversation: str, started: Event) -> list[str]:
    """Append turns to a conversation until the server refuses one. Returns those that were acknowledged."""
    acknowledged: list[str] = []
    with httpx2.Client(base_url=server.url, timeout=60, verify=False) as http:
        while True:
            text = f"{conversation} {len(acknowledged)}"
            turn = {**CHAT, "messages": [{"role": "user", "content": text}], "conversation": conversation}
            try:
                found = http.post("/v1/chat/completions", json=turn)
            except httpx2.TransportError:
                return acknowledged
            if found.status_code == 503:
                assert found.json()["error"]["code"] == "server_is_overloaded"
                assert int(found.headers["retry-after"]) > 0
                return acknowledged
            assert found.status_code == 200, found.text
            acknowledged.append(text)
            started.set()


def test_sigterm_under_load_loses_nothing_acknowledged(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text(FAKE)
    with ThreadPoolExecutor(WRITERS) as pool, serving(cwd=tmp_path) as first:
        ids = [first.http.post("/v1/conversations", json={}).json()["id"] for _ in range(WRITERS)]
        started = [Event() for _ in ids]
        writing = [
            pool.submit(write_until_refused, first, id, one) for id, one in zip(ids, started, strict=True)
        ]
        for one in started:
            assert one.wait(60)
        first.process.terminate()
        acknowledged = [each.result() for each in writing]
        assert first.process.wait(60) == 0
        assert "Traceback" not in first.log.read_text()
    with serving(cwd=tmp_path) as second:
        for id, texts in zip(ids, acknowledged, strict=True):
            found = items_of(second.http, id)
            assert found[::2][: len(texts)] == texts
            assert set(found[1::2]) == {"Hello world"}
            assert len(found) in (2 * len(texts), 2 * len(texts) + 2)  # the last may not have been told


def test_a_provider_that_hangs_holds_up_only_its_own_requests(tmp_path: Path) -> None:
    hangs = answer({"choices": [{"index": 0, "message": {"role": "assistant", "content": "back"}}]})
    config = FAKE + '[providers.h]\nkind = "openai"\nbase_url = "{}/v1"\nmodels = ["m"]\ntimeout_s = 1\n'
    with scripted() as upstream:
        (tmp_path / "headrace.toml").write_text(config.format(upstream.url))
        first = sse({"choices": [{"index": 0, "delta": {"content": "Hel"}}]})
        upstream.play(Answer(0, stall=True), Answer(pieces=first, stall=True), hangs)
        body = {**CHAT, "model": "h:m"}
        with server(tmp_path) as url, httpx2.Client(base_url=url, timeout=60, verify=False) as http:
            silent = http.post("/v1/chat/completions", json=body)
            assert (silent.status_code, silent.json()["error"]["code"]) == (504, "provider_timeout")
            with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as stream:
                lines = stream.iter_lines()
                assert "Hel" in next(line for line in lines if line)
                with httpx2.Client(base_url=url, timeout=60, verify=False) as other:
                    assert other.post("/v1/chat/completions", json=CHAT).status_code == 200
                    assert other.get("/ready").status_code == 200
                rest = "\n".join(lines)
                assert "provider_timeout" in rest
            assert "back" in http.post("/v1/chat/completions", json=body).text


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
def test_a_clock_that_jumps_changes_no_order(tmp_path: Path, jump_s: int) -> None:
    """The wall clock; what is measured in seconds is measured with another one."""
    (tmp_path / "headrace.toml").write_text(FAKE)
    clock = tmp_path / "clock"
    clock.write_text("0")
    with (
        server(tmp_path, clock=clock) as url,
        httpx2.Client(base_url=url, timeout=60, verify=False) as http,
    ):
        conversation = http.post("/v1/conversations", json={}).json()["id"]
        texts = ["before", "meanwhile", "after"]
        for text, offset_s in zip(texts, (0, jump_s, 0), strict=True):
            clock.write_text(str(offset_s))
            turn = {**CHAT, "messages": [{"role": "user", "content": text}], "conversation": conversation}
            assert http.post("/v1/chat/completions", json=turn).status_code == 200
        clock.write_text(str(jump_s))
        assert items_of(http, conversation)[::2] == texts
        assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert http.get("/ready").status_code == 200
    assert "Traceback" not in (tmp_path / "log").read_text()
