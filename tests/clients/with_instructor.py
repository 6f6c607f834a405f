"""instructor, in each of its modes for servers like this one."""

from __future__ import annotations

from typing import Annotated, Literal

import instructor
import openai
from instructor.core.exceptions import IncompleteOutputException, InstructorRetryException
from pydantic import BaseModel, Field
from turns import BASE_URL, KEY, MODEL, QUESTION, run, turn

MESSAGES = [{"role": "user", "content": QUESTION}]
MODES = (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA)
GREEDY = {"model": MODEL, "temperature": 0, "max_tokens": 100}


class Color(BaseModel):
    """A color."""

    name: Literal["red", "green", "blue"]
    brightness: Annotated[int, Field(ge=0, le=100)]


def client(mode: instructor.Mode) -> instructor.Instructor:
    server = openai.OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=120)
    return instructor.from_openai(server, mode=mode)


@turn("no model: a plain answer")
def plain() -> None:
    answer = client(instructor.Mode.TOOLS).create(response_model=None, messages=MESSAGES, **GREEDY)
    assert answer.choices[0].message.content


@turn("structured by tools, strict tools and JSON schema")
def structured() -> None:
    for mode in MODES:
        found = client(mode).create(response_model=Color, messages=MESSAGES, max_retries=0, **GREEDY)
        assert isinstance(found, Color), mode


@turn("structured by JSON mode")
def json_mode() -> None:
    """The model is only told the schema: what comes is a JSON object, with luck one of that schema."""
    failure: InstructorRetryException | IncompleteOutputException | None = None
    try:
        client(instructor.Mode.JSON).create(response_model=Color, messages=MESSAGES, max_retries=0, **GREEDY)
    except (InstructorRetryException, IncompleteOutputException) as exc:
        failure = exc
    assert failure is None or failure.last_completion.choices[0].message.content.startswith("{")


@turn("structured, streamed")
def partial() -> None:
    for mode in MODES:
        seen = list(client(mode).create_partial(response_model=Color, messages=MESSAGES, **GREEDY))
        assert Color.model_validate(seen[-1].model_dump()), mode


if __name__ == "__main__":
    run()
