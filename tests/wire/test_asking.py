"""That the tables of the endpoints tell the truth: what each member asks for, and that the request has it."""

from __future__ import annotations

from typing import Any

import pytest

from docgen.compatibility import EVERY, kinds
from headrace.errors import BadRequest, UnsupportedParameter
from headrace.features import Feature, Use, Uses
from tests.wire.asking import BASES, SAMPLES, bare, request, uses
from tests.wire.samples import SAID, USER

AT_ALL = frozenset[Feature]().union(*(kind.features for kind in kinds().values()))


def found(endpoint: str, members: dict[str, Any]) -> dict[str, Use]:
    return {bare(use.path): use for use in uses(endpoint, members).members}


@pytest.mark.parametrize("endpoint", EVERY)
def test_every_parameter_has_a_sample(endpoint: str) -> None:
    assert set(SAMPLES[endpoint]) == set(EVERY[endpoint])


@pytest.mark.parametrize("endpoint", EVERY)
def test_every_member_asks_for_its_feature(endpoint: str) -> None:
    """And for nothing without it."""
    wrong = []
    for name, row in EVERY[endpoint].items():
        before, more = SAMPLES[endpoint][name]
        use, loss = found(endpoint, {**before, **more}).get(name), row.loss_where_uncarried
        is_right = use is None if loss is None else use is not None and use.loss == loss
        is_alone = name in BASES[endpoint] or name not in found(endpoint, before)
        if not is_right or not is_alone or (use is not None and use.feature is not row.feature):
            wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize("endpoint", EVERY)
def test_what_can_be_carried_is_in_the_request_and_nothing_else(endpoint: str) -> None:
    wrong = []
    for name, row in EVERY[endpoint].items():
        if row.asks in ("ours", "refused", "dropped"):
            continue
        before, more = SAMPLES[endpoint][name]
        is_there = request(endpoint, {**before, **more}) != request(endpoint, before)
        if is_there is not (row.asks == "sent" or row.asks in AT_ALL):
            wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize("endpoint", EVERY)
def test_what_nobody_carries_is_refused_by_its_name(endpoint: str) -> None:
    for name, row in EVERY[endpoint].items():
        if row.asks == "refused":
            before, more = SAMPLES[endpoint][name]
            with pytest.raises(UnsupportedParameter) as caught:
                uses(endpoint, {**before, **more}).left_out(frozenset(Feature))
            assert bare(caught.value.param or "") == name


NEUTRAL: list[tuple[str, str, Any]] = [
    ("chat/completions", "n", 1),
    ("chat/completions", "frequency_penalty", 0.0),
    ("chat/completions", "logit_bias", {}),
    ("chat/completions", "min_p", 0),
    ("chat/completions", "repetition_penalty", 1),
    ("chat/completions", "skip_special_tokens", True),
    ("chat/completions", "response_format", {"type": "text"}),
    ("chat/completions", "tools", []),
    ("chat/completions", "parallel_tool_calls", False),  # without tools
    ("chat/completions", "add_generation_prompt", True),
    ("chat/completions", "mirostat_tau", 5),  # without mirostat
    ("chat/completions", "typical_p", 1),
    ("completions", "best_of", 1),
    ("completions", "echo", False),
    ("completions", "suffix", ""),
    ("embeddings", "pooling", "mean"),
    ("embeddings", "normalize", True),
    ("responses", "text", {"format": {"type": "text"}}),
    ("responses", "tool_choice", "auto"),
    ("messages", "tool_choice", {"type": "auto"}),
    ("messages", "top_logprobs", 0),
]


@pytest.mark.parametrize(("endpoint", "name", "value"), NEUTRAL)
def test_a_value_that_changes_nothing_asks_for_nothing(endpoint: str, name: str, value: Any) -> None:
    assert set(found(endpoint, {name: value})) - set(found(endpoint, {})) == set()


def test_what_is_said_elsewhere_is_not_lost() -> None:
    call = {"name": "f", "arguments": "{}"}
    calling = {"role": "assistant", "content": None, "function_call": call}
    result = {"role": "function", "name": "f", "content": "1"}
    assert found("chat/completions", {"messages": [USER, calling, result]}) == {}
    block = {"type": "thinking", "thinking": "hm", "signature": "s"}
    thought = {**SAID, "reasoning": "hm", "reasoning_content": "hm", "thinking_blocks": [block]}
    assert set(found("chat/completions", {"messages": [USER, thought, USER]})) == {
        "messages.thinking_blocks.signature"
    }
    both = {"messages": [USER, SAID], "continue_final_message": True, "add_generation_prompt": False}
    assert set(found("chat/completions", both)) == {"continue_final_message"}


def test_what_no_single_member_asks_for() -> None:
    of_messages = found("messages", {"messages": [USER, SAID]})
    assert of_messages["messages"].feature is Feature.CONTINUED_MESSAGE
    of_responses = found("responses", {"include": ["message.output_text.logprobs"]})
    assert of_responses["include"].feature is Feature.LOGPROBS


LOST = Uses(
    (
        Use("a", Feature.USER, "ignored"),
        Use("b.0.c", Feature.STRICT_TOOLS, "dropped"),
        Use("d", None, "ignored"),
        Use("e" * 500, None, "unknown"),
    )
)


def test_what_is_lost_is_named_in_the_order_of_the_request() -> None:
    assert LOST.left_out(frozenset()) == ["a", "b.0.c", "d", "e" * 500]
    assert LOST.left_out({Feature.USER, Feature.STRICT_TOOLS}) == ["d", "e" * 500]


def test_a_strict_request_loses_nothing() -> None:
    strict = Uses(LOST.members, is_strict=True)
    with pytest.raises(UnsupportedParameter) as dropped:
        strict.left_out(frozenset())
    assert dropped.value.param == "b.0.c"
    with pytest.raises(UnsupportedParameter) as unsent:
        strict.left_out({Feature.STRICT_TOOLS}, unsent={Feature.USER})
    assert unsent.value.param == "a"
    with pytest.raises(BadRequest) as unknown:
        strict.left_out({Feature.STRICT_TOOLS})
    assert unknown.value.param == "e" * 200
    assert Uses(LOST.members[:1], is_strict=True).left_out(frozenset()) == ["a"]
