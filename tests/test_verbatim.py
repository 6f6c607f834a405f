import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.relay_types import Verbatim

blank = st.text(" \t\r\n", max_size=2)
SCALARS = [
    "null", "true", "0", "-0", "-0.0", "1e5", "1E+05", "1.10", "123456789012345678901234567890", "1e400",
    '""', '"model"', '"\\u006dodel"', '"\\/"', '"\\ud83d\\ude00"', '"\\ud800"', '"a\\"model\\": 1"', '"ü🌊"',
    '"\x7f"', '"\\\\"',
]  # fmt: skip
values = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda found: "[" + " ,".join(found) + "]")
        | st.lists(st.tuples(st.sampled_from(['"model"', '"a"', '""']), inner), max_size=3).map(
            lambda found: "{ " + ",".join(f"{name} :{value}" for name, value in found) + "}"
        )
    ),
    max_leaves=5,
)
names = st.sampled_from(['"model"', '"\\u006dodel"', '"mo\\u0064el"', '"Model"', '"a"', '"limit"', '"x\\"y"'])
members = st.lists(st.tuples(blank, names, blank, blank, values, blank), max_size=6)
NEW: dict[str, Any] = {"model": 'ü"\\', "limit": 5}


def _text(parts: list[tuple[str, ...]], head: str, tail: str) -> str:
    inner = ",".join(f"{a}{name}{b}:{c}{value}{d}" for a, name, b, c, value, d in parts)
    return f"{head}{{{inner}}}{tail}"


@given(members, blank, blank)
def test_nothing_else_changes(parts: list[tuple[str, ...]], head: str, tail: str) -> None:
    raw = _text(parts, head, tail)
    found = Verbatim(raw.encode())
    assert found.members == json.loads(raw)
    assert found.changed({}) == raw.encode()
    there = {name: value for name, value in NEW.items() if name in found.members}
    put = [
        (*part[:4], json.dumps(there[name]) if (name := json.loads(part[1])) in there else part[4], part[5])
        for part in parts
    ]
    assert found.changed(there) == _text(put, head, tail).encode()


@given(members, blank, blank)
def test_what_it_does_not_have_is_added(parts: list[tuple[str, ...]], head: str, tail: str) -> None:
    raw = _text(parts, head, tail).encode()
    changed = Verbatim(raw).changed(NEW)
    assert json.loads(changed) == {**json.loads(raw), **NEW}


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"[]", b"5", b'"x"', b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,', b'{"a":1,}', b"{,}",
        b"{a:1}", b'{"a" 1}', b'{"a":1 "b":2}', b'{"a":NaN}', b'{"a":[Infinity]}', b'{"a":1}{', b'{"a":1}}',
        b'{"a\n":1}', b'{"a":"\n"}', b'{"a":01}', b"{'a':1}", b'\xef\xbb\xbf{"a":1}', b'{"a":"\xff"}',
        b'{"a":"\\x"}', b'{"\\x":1}', '{"a":1}'.encode("utf-16"), b'{"a":' + b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        Verbatim(raw)
