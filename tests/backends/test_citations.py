"""Citations of Anthropic's become annotations of a chat, if they have an address."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.backends.writing import CHAT, HI, Written, anthropic_events
from tests.upstream import Answer, answer

PAGE = {"type": "web_search_result_location", "url": "https://x.org/a", "title": "A", "cited_text": "c"}
FOUND = {"type": "search_result_location", "source": "http://y.org", "title": None, "cited_text": "d"}
WITHOUT: list[Any] = [
    {"type": "char_location", "document_title": "D", "start_char_index": 0},
    {"type": "search_result_location", "source": "shelf 5"},
    {"url": "javascript:alert(1)"}, {"url": 5}, None, "x",
]  # fmt: skip
TEXTS = [("One. ", []), ("Two 🌊.", [PAGE, *WITHOUT]), (" Three", [PAGE, FOUND])]


def annotation(start: int, end: int, url: str, title: str) -> dict[str, Any]:
    cited = {"start_index": start, "end_index": end, "url": url, "title": title}
    return {"type": "url_citation", "url_citation": cited}


EXPECTED = [
    annotation(5, 11, "https://x.org/a", "A"),
    annotation(11, 17, "https://x.org/a", "A"),
    annotation(11, 17, "http://y.org", ""),
]


def streamed(*, first: bool) -> Answer:
    """`first`: the citations precede their text."""
    blocks = []
    for text, citations in TEXTS:
        said: list[dict[str, Any]] = [{"type": "text_delta", "text": text}]
        cited: list[Any] = [{"type": "citations_delta", "citation": citation} for citation in citations]
        blocks.append(
            ({"type": "text", "text": "", "citations": []}, cited + said if first else said + cited)
        )
    return Answer(pieces=anthropic_events(*blocks))


WHOLE = answer(
    {
        "type": "message",
        "content": [{"type": "text", "text": text, "citations": citations} for text, citations in TEXTS],
        "stop_reason": "end_turn",
        "usage": {},
    }
)
PLAYED = {"a stream": streamed(first=False), "citations first": streamed(first=True), "JSON": WHOLE}


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("name", PLAYED)
def test_citations_are_annotations(written: Written, name: str, is_streamed: bool) -> None:
    written.play(PLAYED[name], path="/v1/messages")
    body = {"model": "an:claude-opus-5", "messages": HI, "stream": is_streamed}
    status, _, found = written.ask(CHAT, body)
    assert status == 200
    if not is_streamed:
        message = found["choices"][0]["message"]
        assert (message["content"], message["annotations"]) == ("One. Two 🌊. Three", EXPECTED)
        return
    lines = [line.removeprefix("data: ") for line in found["text"].splitlines() if line]
    deltas = [choice["delta"] for line in lines[:-1] for choice in json.loads(line)["choices"]]
    assert [one for delta in deltas for one in delta.get("annotations", ())] == EXPECTED
