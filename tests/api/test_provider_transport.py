"""Odd habits of providers' HTTP: encodings, charsets, statuses, headers, and bodies of errors."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from typing import Any

import pytest

from tests.api.habits import HELLO, check, hear
from tests.api.relays import Relays
from tests.api.test_provider_habits import WHOLE
from tests.backends.two_ways import chunk, head
from tests.heard import RELAYED, TRANSLATED
from tests.upstream import Answer, sse

WAYS = {
    **{name: TRANSLATED[name] for name in ("chat", "chat streamed", "messages", "responses streamed")},
    **RELAYED,
}
JSON = json.dumps(WHOLE).encode()
STREAM = b"".join(sse(chunk({"content": "Hello"}), chunk(reason="stop"), head(choices=[]), "[DONE]"))
PACKED = gzip.compress(JSON)


def plain(head: str, *pieces: bytes) -> Answer:
    """An answer with this status line and these headers, up to the end of its connection."""
    return Answer(head=(head.strip().replace("\n", "\r\n") + "\r\n\r\n").encode("latin-1"), pieces=pieces)


def encoded(encoding: str, *pieces: bytes) -> Answer:
    return plain(f"HTTP/1.1 200 OK\nContent-Encoding: {encoding}", *pieces)


HEARD = {
    "HTTP/1.0": plain("HTTP/1.0 200 OK", JSON),
    "HTTP/1.0 and a stream": plain("HTTP/1.0 200 OK", STREAM),
    "no reason phrase": plain("HTTP/1.1 200", JSON),
    "201": plain("HTTP/1.1 201 Created", JSON),
    "early hints": plain("HTTP/1.1 103 Early Hints\nLink: </x>\n\nHTTP/1.1 200 OK", JSON),
    "continue": plain("HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK", JSON),
    "a cookie of 12 kB": plain(f"HTTP/1.1 200 OK\nSet-Cookie: {'b' * 12000}", JSON),
    "300 headers": plain("HTTP/1.1 200 OK\n" + "\n".join(f"X-H{n}: {n}" for n in range(300)), JSON),
    "control characters in a limit": plain("HTTP/1.1 200 OK\nx-ratelimit-a: a\x01b\nretry-after: \x7f", JSON),
    "gzip": encoded("gzip", PACKED),
    "gzip in two members": encoded("gzip", gzip.compress(JSON[:50]), gzip.compress(JSON[50:])),
    "gzip in two members, byte by byte": encoded(
        "gzip", *(bytes([b]) for b in gzip.compress(JSON[:50]) + gzip.compress(JSON[50:]))
    ),
    "gzip that no header says": plain("HTTP/1.1 200 OK", PACKED),
    "gzip that is none": encoded("gzip", JSON),
    "gzip that is no compressed stream": encoded("gzip", STREAM),
    "br that is none": encoded("br", JSON),
    "two headers": plain("HTTP/1.1 200 OK\nContent-Encoding: identity\nContent-Encoding: gzip", PACKED),
    "zlib": encoded("deflate", zlib.compress(JSON)),
    "a charset as an encoding": encoded("UTF-8", JSON),
    "no encoding by name": encoded("none", JSON),
    "UTF-16 with a mark": plain("HTTP/1.1 200 OK", JSON.decode().encode("utf-16")),
    "UTF-16 by its label": plain(
        "HTTP/1.1 200 OK\nContent-Type: application/json; charset=utf-16le", JSON.decode().encode("utf-16-le")
    ),
    "a stream in UTF-16": plain("HTTP/1.1 200 OK", STREAM.decode().encode("utf-16")),
    "UTF-32 with a mark, compressed": encoded("gzip", gzip.compress(JSON.decode().encode("utf-32"))),
    "an unknown charset": plain("HTTP/1.1 200 OK\nContent-Type: application/json; charset=nonsense", JSON),
    "a charset that is no text": plain("HTTP/1.1 200 OK\nContent-Type: text/plain; charset=base64", JSON),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", HEARD)
def test_a_habit_of_http_does_no_harm(relay: Relays, name: str, way: str) -> None:
    check(hear(relay, WAYS[way], HEARD[name]), HELLO)


@pytest.mark.parametrize("charset", ["iso-8859-1", "windows-1252", '"ISO-8859-15"'])
@pytest.mark.parametrize("is_labelled_wrongly", [False, True])
def test_the_label_of_a_charset_counts_where_the_bytes_are_no_utf8(
    relay: Relays, charset: str, is_labelled_wrongly: bool
) -> None:
    body = json.dumps({**WHOLE, "note": "x"}, ensure_ascii=False).replace("Hello", "Grüße")
    stream = STREAM.decode().replace("Hello", "Grüße")
    for way in WAYS.values():
        for text in (body, stream):
            raw = text.encode("utf-8" if is_labelled_wrongly else charset.strip('"'))
            label = f"HTTP/1.1 200 OK\nContent-Type: x; charset={charset}"
            pieces = [raw[at : at + 7] for at in range(0, len(raw), 7)]
            assert hear(relay, way, plain(label, *pieces)).text == "Grüße"


FAILED = {
    "gzip that breaks off": encoded("gzip", PACKED[:-12]),
    "a second member that breaks off": encoded("gzip", PACKED, PACKED[:-12]),
    "gzip with a wrong sum": encoded("gzip", PACKED[:-8] + bytes(8)),
    "br": encoded("br", b"\x0b\x02\x80" + bytes(40)),
    "204": plain("HTTP/1.1 204 No Content"),
    "205": plain("HTTP/1.1 205 Reset Content"),
    "101": plain("HTTP/1.1 101 Switching Protocols\nUpgrade: x\nConnection: upgrade", JSON),
    "099": plain("HTTP/1.1 099 None", JSON),
    "999": plain("HTTP/1.1 999 Many", JSON),
    "304": plain("HTTP/1.1 304 Not Modified"),
    "HTTP/1.0 that breaks off": plain("HTTP/1.0 200 OK", STREAM[:60]),
    "a length that is too long": plain(f"HTTP/1.1 200 OK\nContent-Length: {len(JSON) + 9}", JSON),
    "a length that is too short": plain(f"HTTP/1.1 200 OK\nContent-Length: {len(JSON) - 9}", JSON),
    "a length that is none": plain("HTTP/1.1 200 OK\nContent-Length: x", JSON),
    "a chunk that is none": plain("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"zz\r\n" + JSON),
    "a chunk that is none, later": replace(
        plain("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"5\r\n" + JSON[:5], b"\r\nzz\r\n"), delay_s=0.01
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FAILED)
def test_half_a_body_is_no_success(relay: Relays, name: str, way: str) -> None:
    assert hear(relay, WAYS[way], FAILED[name]).error


CHOICE = b'{"index":0,"MEMBER":{"content":"a\tb\x00\x1f"},"logprobs":NaN,"finish_reason":"stop"}'
LAX = b'{"choices":[' + CHOICE + b'],"x":-Infinity}'


@pytest.mark.parametrize("cut", [7, 10**6])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_passed_on_is_json(relay: Relays, way: str, cut: int) -> None:
    """Although the provider's answer has control characters, NaN and infinities."""
    is_streamed, where = WAYS[way].is_streamed, b"delta" if WAYS[way].is_streamed else b"message"
    raw = LAX.replace(b"MEMBER", where)
    raw = b"data: " + raw + b"\n\ndata: [DONE]\n\n" if is_streamed else raw.replace(b"\x1f", b"\x1f\n")
    pieces = [raw[at : at + cut] for at in range(0, len(raw), cut)]
    relay.provider.play(plain("HTTP/1.1 200 OK", *pieces))
    status, _, body = relay.ask(WAYS[way].path, WAYS[way].body("up:m"), **WAYS[way].headers)
    assert WAYS[way].heard(status, body).text == ("a\tb\0\x1f" if is_streamed else "a\tb\0\x1f\n")


@pytest.mark.parametrize("way", WAYS)
def test_what_is_nested_too_deep_costs_nothing_else(relay: Relays, way: str) -> None:
    deep = '"note": ' + "[" * 150 + "]" * 150 + ", "
    check(
        hear(relay, WAYS[way], plain("HTTP/1.1 200 OK", JSON.replace(b"{", b"{" + deep.encode(), 1))), HELLO
    )
    stream = STREAM.replace(b"{", b"{" + deep.encode(), 1)
    check(hear(relay, WAYS[way], Answer(pieces=[stream])), HELLO)


@pytest.mark.parametrize("form", [{"stall": True}, {"cut": True}], ids=["stays open", "breaks"])
@pytest.mark.parametrize("way", WAYS)
def test_a_stream_ends_with_its_last_event(relay: Relays, way: str, form: dict[str, Any]) -> None:
    """Whatever becomes of the connection."""
    check(hear(relay, WAYS[way], Answer(pieces=[STREAM], **form)), HELLO)


DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
RETRIES = {
    "1.5": "2", "0": "0", " 7 ": "7", "99999999999999999999": "2147483647", "-5": "1", "": "1", "soon": "1",
    "nan": "1", "inf": "2147483647", "5, 6": "1", DATE: DATE,
}  # fmt: skip


@pytest.mark.parametrize("value", RETRIES)
def test_a_retry_after_is_passed_on_as_the_standard_defines_it(relay: Relays, value: str) -> None:
    for way in (TRANSLATED["chat"], TRANSLATED["messages"], RELAYED["relayed chat"]):
        relay.provider.play(Answer(429, {"Retry-After": value}, [b'{"error": "slow"}']))
        _, headers, _ = relay.ask(way.path, way.body("up:m"), **way.headers)
        assert headers["retry-after"] == RETRIES[value]


ERRORS = {
    "text": (b"its words\r\nhere", "its words here"),
    "an event": (b'event: error\ndata: {"error": {"message": "its words"}}\n\n', "its words"),
    "by parameter": (b'{"errors": {"model": ["its words"], "n": "no"}}', "model: its words; n: no"),
    "a list of texts": (b'["its", "words"]', "its; words"),
    "a message with a text": (b'{"message": {"text": "its words"}}', "its words"),
    "UTF-16": ('{"error": "its words"}'.encode("utf-16"), "its words"),
    "markup": (b"<?xml version='1.0'?><e>x</e>", "status 400"),
    "no text": (b"\x00\x01\x02", "status 400"),
    "nothing": (b"", "status 400"),
    "a number": (b"5", "status 400"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_the_words_of_an_error_are_kept_in_whatever_form(relay: Relays, name: str) -> None:
    body, words = ERRORS[name]
    for way in (TRANSLATED["chat"], TRANSLATED["messages streamed"], RELAYED["relayed chat"]):
        heard = hear(relay, way, Answer(400, {"Content-Type": "text/plain"}, [body]))
        assert (heard.status, heard.error) == (400, f"up: {words}")
