"""How much steering there is to read decides whether that is done on the event loop."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from headrace.backends.engine.preparation import cost_of_request
from headrace.offload import SMALL
from headrace.steering.types import Op, SteeringRequest
from headrace.turns.steering import work_of
from headrace.types import Conversation, GenerateRequest, Message, Sampling, Texts, ToolCall
from headrace.wire.steering import ProfileBody

CALLS = Message("assistant", "", tool_calls=(ToolCall("c", "f", "{}"),) * 400)
NAMED = Message("assistant", "", tool_calls=(ToolCall("c", "f" * 9000, ""),))
EDITS = SteeringRequest((Op("add", 1.0, vector="v", layers=(1,) * 250),))
NUMBERS = base64.b64encode(b"\0\0\x80?" * 4096).decode()


def profile(**op: Any) -> ProfileBody:
    return ProfileBody.model_validate({"ops": [{"layers": [1], "value": 1.0, **op}]})


def test_directions_count_by_their_size_wherever_they_are() -> None:
    small, large = profile(vector="v"), profile(direction={"shape": [4096], "data": NUMBERS})
    assert work_of(None, None) == work_of(small, None) == 0
    assert work_of(large, None) == work_of(small, large) > SMALL


def request_of(prompt: Conversation | Texts, steering: SteeringRequest | None = None) -> GenerateRequest:
    return GenerateRequest("m", prompt, Sampling(), steering=steering)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(request_of(Conversation((CALLS,))), id="calls"),
        pytest.param(request_of(Conversation((NAMED,))), id="a long name of a call"),
        pytest.param(request_of(Conversation((Message("user", "", name="n" * 9000),))), id="a long name"),
        pytest.param(
            request_of(Conversation((Message("tool", "", tool_call_id="c" * 9000),))), id="a long id"
        ),
        pytest.param(request_of(Texts(("x",)), EDITS), id="edits of many layers"),
        pytest.param(request_of(Texts(("x",) * 100)), id="many short prompts"),
        pytest.param(request_of(Texts(((5,),) * 100)), id="many prompts of one token"),
    ],
)
def test_what_takes_the_engine_long_to_prepare_is_no_small_work(request_: GenerateRequest) -> None:
    assert cost_of_request(request_) > SMALL
