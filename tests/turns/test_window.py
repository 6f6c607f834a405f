"""The window of a long conversation that a model reads: the last messages, each call with its result."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from headrace.turns.dedupe import is_system
from headrace.turns.window import messages, window, without_unanswered
from headrace.wire.items import Item, to_messages


def spoken_item(role: str, text: str) -> Item:
    return {"type": "message", "role": role, "content": text}


def call(id: str) -> Item:
    return {"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"}


def output(id: str) -> Item:
    return {"type": "function_call_output", "call_id": id, "output": "42"}


THOUGHT: Item = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
SIMPLE = st.sampled_from(
    [
        spoken_item("user", "u"),
        spoken_item("assistant", "a"),
        spoken_item("system", "s"),
        spoken_item("developer", "d"),
        THOUGHT,
    ]
)


@st.composite
def rounds(draw: st.DrawFn) -> list[Item]:
    """Calls, perhaps with reasoning or text, and their results in any order; ids are used again."""
    ids = draw(st.lists(st.sampled_from("abcd"), unique=True, min_size=1))
    beside = draw(st.lists(st.sampled_from([THOUGHT, spoken_item("assistant", "I call")]), max_size=2))
    return [*beside, *map(call, ids), *map(output, draw(st.permutations(ids)))]


HISTORIES = st.lists(SIMPLE.map(lambda item: [item]) | rounds(), max_size=12).map(
    lambda parts: [item for part in parts for item in part]
)


def num_messages(items: Sequence[Item]) -> int:
    return len(to_messages([item for item in items if not is_system(item)]))


def is_whole(items: Sequence[Item], new_items: Sequence[Item] = ()) -> bool:
    """Whether every result has its call before it."""
    open: set[str] = set()
    for item in [*items, *new_items]:
        if item["type"] == "function_call":
            open.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in open:
            return False
    return True


@given(HISTORIES)
def test_messages_are_grouped_as_the_model_reads_them(items: list[Item]) -> None:
    spoken = [item for item in items if not is_system(item)]
    assert [item for message in messages(spoken) for item in message] == spoken
    assert len(messages(spoken)) == len(to_messages(spoken))


@given(HISTORIES, st.integers(1, 8))
def test_a_window_separates_no_call_from_its_result(items: list[Item], limit: int) -> None:
    shown = window(items, limit, [])
    systems = [item for item in items if is_system(item)]
    spoken = [item for item in items if not is_system(item)]
    rest = shown[len(systems) :]
    assert shown[: len(systems)] == systems
    assert spoken[len(spoken) - len(rest) :] == rest
    assert num_messages(shown) <= limit
    assert is_whole(rest)


@given(HISTORIES, st.lists(st.sampled_from("xyz"), unique=True, min_size=1), st.integers(1, 3))
def test_calls_that_the_client_answers_are_in_the_window(
    items: list[Item], ids: list[str], limit: int
) -> None:
    new_items = [output(id) for id in ids]
    shown = window([*items, *map(call, ids)], limit, new_items)
    assert is_whole([item for item in shown if not is_system(item)], new_items)


@given(HISTORIES, st.integers(1, 8))
def test_a_window_has_as_many_messages_as_allowed(items: list[Item], limit: int) -> None:
    spoken = [item for item in items if item["type"] == "message" and not is_system(item)]
    shown = window(spoken, limit, [])
    if num_messages(spoken) <= limit and spoken and spoken[0]["role"] == "user":
        assert shown == spoken
    first = next((item for item in shown if not is_system(item)), spoken_item("user", ""))
    if any(item["role"] == "user" for item in spoken[-limit:]):
        assert first["role"] == "user"


def test_many_results_stay_together_and_displace_older_messages() -> None:
    ids = [str(number) for number in range(30)]
    past = [spoken_item("user", "old"), *map(call, ids), *map(output, ids)]
    assert window([*past, spoken_item("assistant", "done")], 20, []) == [spoken_item("assistant", "done")]
    assert window([*past[:31], *past[31:60]], 20, [output("29")])[:2] == [
        spoken_item("user", "old"),
        call("0"),
    ]


def test_calls_without_a_result_are_left_out() -> None:
    past = [spoken_item("user", "u"), call("a"), call("b"), output("a"), spoken_item("user", "v"), call("c")]
    assert without_unanswered(past, [output("c")]) == [past[0], past[1], past[3], past[4], past[5]]
    assert without_unanswered(past, [spoken_item("user", "w")]) == [past[0], past[1], past[3], past[4]]
