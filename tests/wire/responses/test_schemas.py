"""What the OpenAPI document says of responses is what is answered."""

from __future__ import annotations

from hypothesis import given, settings

from headrace.collected import Collected
from headrace.types import Finished, TextDelta
from headrace.wire.items import to_messages
from headrace.wire.responses.object import CompactedResponse, ResponseEvent, ResponseObject, compacted
from tests.wire.documented import check_documented
from tests.wire.responses.streams import USAGE, Answer, answers, write


@settings(max_examples=40, deadline=None)
@given(answers())
def test_any_stream_is_as_documented(answer: Answer) -> None:
    written = write(answer)
    check_documented(written.response, ResponseObject)
    for event in written.events:
        check_documented(event, ResponseEvent)


def test_a_compaction_holds_the_summary() -> None:
    collected = Collected()
    collected.push(TextDelta(0, "They spoke of rain."))
    collected.push(Finished(0, "stop", USAGE))
    answer = compacted(collected)
    check_documented(answer, CompactedResponse)
    assert answer["id"].startswith("resp_")
    (message,) = to_messages(answer["output"])
    assert message.text.endswith("They spoke of rain.")
