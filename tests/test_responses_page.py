"""The examples of docs/responses.md run as they are printed, against the default model."""

from __future__ import annotations

import pytest

from tests.pages import run_python
from tests.serving import Served


@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
def test_examples_run(server: Served) -> None:
    names = run_python("responses.md", server.url)
    assert names["second"].previous_response_id == names["first"].id
    assert names["answer_to_call"].status in ("completed", "incomplete")
    assert names["queued"].status in ("completed", "incomplete")
    assert names["summary"]["type"] == "compaction"
    assert names["event"].response.status in ("completed", "incomplete")
