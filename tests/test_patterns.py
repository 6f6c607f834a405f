"""Searches with regular expressions take linear time, whatever they search. One that did not would take hours
here: the alarm ends it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from headrace.backends.anthropic.messages import DATA_URL
from headrace.backends.relay_reader import outline
from headrace.dialects.values import may_be_lax, parsed, strict
from headrace.errors import BadRequest
from headrace.relay_types import Verbatim
from headrace.text.sandbox import WIDE_FIELD
from headrace.wire import media
from headrace.wire.limits import MAX_CONTAINERS, checked_volume
from headrace.wire.ollama.request import seconds
from headrace.wire.pagination import unknown

N = 400_000
QUOTES = '"' + '\\"' * N  # the beginning of a string
ALARM_S = 60


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    def ring(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError("a search that does not end")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(ALARM_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


REFUSED: dict[str, Callable[[], object]] = {
    "a duration": lambda: seconds("1" * 59 + "x", "keep_alive"),
    "a duration with fractions": lambda: seconds("1." * 29 + "x", "keep_alive"),
    "a body": lambda: checked_volume(('{"a": [' + "[]," * (MAX_CONTAINERS + 1) + QUOTES[: 2**16]).encode()),
    "an image": lambda: media.at_url("data:" + ";x" * N, "url"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_is_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        REFUSED[name]()


NO_JSON: dict[str, Callable[[], object]] = {
    "a provider's event": lambda: parsed("[" * 101 + QUOTES),
    "a provider's body": lambda: outline(b'{"a": [' + QUOTES.encode()),
    "a body that is passed on": lambda: Verbatim(b'{"a": 1, ' + QUOTES.encode()),
}


@pytest.mark.parametrize("name", NO_JSON)
def test_what_breaks_off_is_no_json(name: str) -> None:
    with pytest.raises(ValueError):
        NO_JSON[name]()


def test_all_else_ends() -> None:
    assert DATA_URL.fullmatch("data:" + "x" * N) is None
    assert unknown([("[" * N, "1")], ["limit"])
    assert WIDE_FIELD.search(":" * N) is None
    assert WIDE_FIELD.search("{:a:" + ":" * N + "10000}")
    assert strict(QUOTES.encode()) == QUOTES.encode()
    assert len(Verbatim(('{"' + "x" * 10 * N + '": 1}').encode()).members) == 1


@pytest.mark.parametrize("depth", [99, 100, 101, 5000, N])
def test_what_is_nested_too_deep_is_null(depth: int) -> None:
    found = parsed('{"a": "Hello", "b": ' + "[" * depth + '"]"' + "]" * depth + ', "c": [{"d": "[["}]}')
    assert (found["a"], found["c"]) == ("Hello", [{"d": "[["}])
    num_lists = 0
    while (found := found["b"] if isinstance(found, dict) else found[0]) and isinstance(found, list):
        num_lists += 1
    assert (num_lists, found) == ((99, None) if depth > 99 else (99, "]"))


@pytest.mark.parametrize(
    ("lax", "expected"),
    [
        (b'{"a": "x\ty\x00"}', b'{"a": "x\\u0009y\\u0000"}'),
        (b'{"a": NaN, "b": [-Infinity, Infinity, 1]}', b'{"a": null, "b": [null, null, 1]}'),
        (b'{"NaN": "Infinity \\" NaN \x1f", "a": NaN}', b'{"NaN": "Infinity \\" NaN \\u001f", "a": null}'),
        (b'{\t"a":\t1.50}', b'{\t"a":\t1.50}'),
        (b'{"a": "NaN"', b'{"a": "NaN"'),
        (b'{"a": "\\\\", "b": "\x01\\', b'{"a": "\\\\", "b": "\\u0001\\'),
    ],
)
def test_lax_json_becomes_json(lax: bytes, expected: bytes) -> None:
    assert may_be_lax(lax)
    assert strict(lax) == expected
