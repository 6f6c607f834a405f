"""llama.cpp, with a chat template that is broken or missing: chat is a 400, the rest is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.app import create_app
from headrace.assembly import build_backends
from headrace.config import Config
from headrace.models.catalog import Cache, locate
from tests.models.tiny import write_tiny
from tests.serving import SLOW_S, serving

USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize("source", ["{% for %}", "{% for a in range(10**9) %}{% endfor %}", None])
def test_a_broken_or_missing_template_leaves_completions(source: str | None, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "broken.gguf", chat_template=source)
    model = locate(str(path), Cache(tmp_path / "cache"))
    config = Config.model_validate({"engine": {"kv_cache_bytes": "32MiB"}})
    with serving(create_app(config, build_backends(config, [model])), silence_s=SLOW_S) as served:
        chat = served.post("/v1/chat/completions", {"model": "broken", "messages": [USER]})
        assert (chat.status_code, chat.json()["error"]["code"]) == (400, "chat_template_error")
        response = served.post("/v1/completions", {"model": "broken", "prompt": "ab", "max_tokens": 2})
        assert response.status_code == 200, response.text
