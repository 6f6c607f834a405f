"""What is said to models and by them is in no line of the log, whatever goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.process import serving
from tests.upstream import Answer, scripted

MARK = "zebramarker"
CONFIG = """
[models]
default = ""
embedding = "none"
[providers.up]
kind = "openai"
base_url = "URL/v1"
"""
SAID = {"role": "user", "content": MARK}
TOOL = {"type": "function", "function": {"name": MARK, "parameters": {}}}
BODIES: dict[str, dict[str, object]] = {
    "/v1/chat/completions": {"messages": [SAID], "tools": [TOOL], "user": MARK},
    "/v1/completions": {"prompt": MARK},
    "/v1/embeddings": {"input": MARK},
    "/v1/messages": {"messages": [SAID], "max_tokens": 5},
    "/v1/responses": {"input": MARK, "instructions": MARK},
    "/api/chat": {"messages": [SAID]},
}
BROKEN = (
    f'{{"{MARK}": 1',
    f'"{MARK}"',
    f'{{"model": "up:m", "messages": "{MARK}", "input": {{"{MARK}": 1}}}}',
)
ANSWERS = {
    "whole": (200, {"choices": [{"message": {"content": MARK}, "finish_reason": "stop"}]}),
    "odd": (200, {"choices": [{"message": {"content": {MARK: MARK}, "tool_calls": MARK}}], "usage": MARK}),
    "refused": (400, {"error": {"message": f"bad prompt: {MARK}", "param": MARK}}),
    "failed": (500, {"detail": MARK}),
    "no JSON": (200, MARK * 3),
    "broken off": (200, f'{{"choices": [{{"message": {{"content": "{MARK}'),
    "a page": (502, f"<html>{MARK}</html>"),
}


@pytest.mark.parametrize("kind", ["json", "text"])
def test_no_content_is_logged(tmp_path: Path, kind: str) -> None:
    options = ("--log-level", "DEBUG", "--log-format", kind)
    with scripted() as provider:
        (tmp_path / "headrace.toml").write_text(CONFIG.replace("URL", provider.url))
        with serving(*options, cwd=tmp_path) as server:
            for status, body in ANSWERS.values():
                raw = body if isinstance(body, str) else json.dumps(body)
                for path, members in BODIES.items():
                    for stream in (False, True):
                        provider.play(Answer(status=status, pieces=[raw.encode()]))
                        server.http.post(path, json={**members, "model": "up:m", "stream": stream})
            for raw in BROKEN:
                for path in BODIES:
                    server.http.post(path, content=raw, headers={"Content-Type": "application/json"})
            lines = server.log.read_text().splitlines()
    assert len(lines) > len(ANSWERS) * len(BODIES)
    assert [line for line in lines if MARK in line] == []
    if kind == "json":
        assert all(isinstance(json.loads(line), dict) for line in lines)
