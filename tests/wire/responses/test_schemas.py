"""What the OpenAPI document says of responses is what is answered."""

from __future__ import annotations

from hypothesis import given, settings

from headrace.types import Finished, TextDelta
from headrace.wire.collected import Collected
from headrace.wire.items import to_messages
from headrace.wire.responses.object import compacted
from headrace.wire.responses.schemas import CompactedResponse, ResponseEvent, ResponseObject
from tests.wire.responses.streams import USAGE, Answer, answers, write


@settings(max_examples=40, deadline=None)
@given(answers())
def test_any_stream_is_as_documented(answer: Answer) -> None:
    written = write(answer)
    ResponseObject.model_validate(written.response, strict=True)
    for event in written.events:
        told = ResponseEvent.model_validate(event, strict=True)
        assert told.model_dump(exclude_unset=True) == event


def test_a_compaction_holds_the_summary() -> None:
    collected = Collected()
    collected.push(TextDelta(0, "They spoke of rain."))
    collected.push(Finished(0, "stop", USAGE))
    answer = compacted(collected)
    CompactedResponse.model_validate(answer, strict=True)
    assert answer["id"].startswith("resp_")
    (message,) = to_messages(answer["output"])
    assert message.text.endswith("They spoke of rain.")
