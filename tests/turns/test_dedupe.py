"""Clients that send their whole history again store nothing twice."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from headrace.collected import Choice, Collected
from headrace.turns.dedupe import new_messages
from headrace.types import Event, ReasoningDelta, TextDelta, ToolCallDelta
from headrace.wire.items import Item, of_chat, of_choice, to_messages
from headrace.wire.messages import ChatMessage

ROLES = st.sampled_from(["user", "assistant", "system"])
FEW = st.builds(lambda role, text: {"role": role, "content": text}, ROLES, st.sampled_from("ab"))


def items_of(messages: Sequence[dict[str, object]]) -> list[list[Item]]:
    return of_chat([ChatMessage.model_validate(message) for message in messages])


def flat(messages: Sequence[Sequence[Item]]) -> list[Item]:
    return [item for message in messages for item in message]


@given(st.lists(FEW, max_size=10), st.lists(FEW, min_size=1, max_size=10))
def test_messages_that_the_history_ends_with_are_not_new(
    past: list[dict[str, object]], sent: list[dict[str, object]]
) -> None:
    said = [message for message in past if message["role"] != "system"]
    spoken = [index for index, message in enumerate(sent) if message["role"] != "system"]
    again = max(
        count
        for count in range(min(len(said), len(spoken)) + 1)
        if said[len(said) - count :] == [sent[index] for index in spoken[:count]]
    )
    first_new = spoken[again] if again < len(spoken) else len(sent)
    expected = [
        index
        for index, message in enumerate(sent)
        if (message["role"] == "system" and (index > first_new or message not in past))
        or index in spoken[again:]
    ]
    assert new_messages(flat(items_of(past)), items_of(sent)) == expected


WORDS = st.sampled_from(["yes", "no", "  yes\n"])


@st.composite
def answers(draw: st.DrawFn) -> Choice:
    """Texts, thoughts and calls in any order."""
    ids = draw(st.lists(st.sampled_from("xyz"), max_size=2, unique=True))
    kinds = draw(st.permutations([*ids, *draw(st.lists(st.sampled_from(["text", "thought"]), max_size=4))]))
    events: list[Event] = [] if ids else [TextDelta(0, draw(WORDS))]
    for kind in kinds:
        if kind in ids:
            events.append(
                ToolCallDelta(
                    0, sum(kind in ids for kind in kinds[: kinds.index(kind)]), '{"a": 1}', kind, "f"
                )
            )
        else:
            events.append(TextDelta(0, draw(WORDS)) if kind == "text" else ReasoningDelta(0, draw(WORDS)))
    collected = Collected()
    for event in events:
        collected.push(event)
    return collected.choices[0]


def as_sent_back(choice: Choice) -> dict[str, object]:
    """The answer as chat clients send it back: without reasoning, trimmed, arguments serialized anew."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": '{"a":1}'}}
        for call in choice.calls
    ]
    said: dict[str, object] = {"role": "assistant", "content": choice.text.strip() or None}
    return {**said, "tool_calls": calls} if calls else said


@given(st.lists(st.tuples(answers(), st.integers(0, 12)), min_size=1, max_size=6), st.booleans())
def test_a_history_sent_again_is_stored_once(turns: list[tuple[Choice, int]], has_system: bool) -> None:
    system: list[dict[str, object]] = [{"role": "system", "content": "be brief"}] * has_system
    history: list[dict[str, object]] = []  # as the client has it, in the end as the store should
    stored: list[Item] = []
    messages: list[dict[str, object]] = []
    for turn, (choice, num_again) in enumerate(turns):
        question: dict[str, object] = {"role": "user", "content": f"question {turn}"}
        messages = messages or [question]
        sent = [*system, *history[len(history) - min(num_again, len(history)) :], *messages]
        items = items_of(sent)
        new = new_messages(stored, items)
        stored += [*(item for index in new for item in items[index]), *of_choice(choice)]
        history += [*messages, as_sent_back(choice)]
        messages = [
            {"role": "tool", "tool_call_id": call.id, "content": f"result {turn}"} for call in choice.calls
        ]
    assert said(stored) == said(flat(items_of([*system, *history])))


def said(items: Sequence[Item]) -> list[tuple[object, ...]]:
    return [
        (one.role, one.text.strip(), [call.id for call in one.tool_calls], one.tool_call_id)
        for one in to_messages(items)
    ]


def test_equal_messages_are_compared_in_linear_time() -> None:
    compared = 0

    class Counted(dict[str, object]):
        def items(self) -> object:  # type: ignore[override]  # what `same` reads
            nonlocal compared
            compared += 1
            return super().items()

    alike = [Counted(type="message", role="user", content="hi") for _ in range(1000)]
    assert new_messages(alike, [[item] for item in alike]) == []
    assert compared < 10_000
