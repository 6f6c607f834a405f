"""outlines, as a client of vLLM: each of its output types, whole and streamed."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Annotated, Any, Literal

import openai
import outlines
from outlines.types import CFG, Regex
from pydantic import BaseModel, Field
from turns import BASE_URL, KEY, MODEL, QUESTION, run, turn

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 100}
DATE = r"20[0-9]{2}-(0[1-9]|1[0-2])"
GRAMMAR = 'root ::= size " " color\nsize ::= "small" | "large"\ncolor ::= "red" | "green"'


class Color(BaseModel):
    name: Literal["red", "green", "blue"]
    brightness: Annotated[int, Field(ge=0, le=100)]


class Answer(Enum):
    YES = "yes"
    NO = "no"


model = outlines.from_vllm(openai.OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=120), MODEL)
waiting = outlines.from_vllm(openai.AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0), MODEL)


@turn("no output type: a plain answer, streamed likewise")
def plain() -> None:
    answer = model(QUESTION, **GREEDY)
    assert answer
    assert "".join(model.stream(QUESTION, **GREEDY)) == answer


@turn("a pydantic model, whole and streamed")
def schema() -> None:
    assert Color.model_validate_json(model(QUESTION, Color, **GREEDY))
    assert Color.model_validate_json("".join(model.stream(QUESTION, Color, **GREEDY)))


@turn("a choice: Literal, Enum, bool")
def choice() -> None:
    assert model(QUESTION, Literal["red", "blue"], **GREEDY) in ("red", "blue")
    assert model(QUESTION, Answer, **GREEDY) in ("yes", "no")
    assert model(QUESTION, bool, **GREEDY) in ("True", "False")


@turn("an expression and a number")
def expression() -> None:
    assert re.fullmatch(DATE, model(QUESTION, Regex(DATE), **GREEDY))
    assert isinstance(json.loads(model(QUESTION, int, **{**GREEDY, "max_tokens": 5})), int)


@turn("a grammar")
def grammar() -> None:
    assert re.fullmatch("(small|large) (red|green)", model(QUESTION, CFG(GRAMMAR), **GREEDY))


@turn("several answers")
def several() -> None:
    answers = model(QUESTION, Color, n=3, max_tokens=100)
    assert len([Color.model_validate_json(answer) for answer in answers]) == 3


@turn("the asynchronous client")
async def asynchronous() -> None:
    assert Color.model_validate_json(await waiting(QUESTION, Color, **GREEDY))
    pieces = [piece async for piece in waiting.stream(QUESTION, Color, **GREEDY)]
    assert Color.model_validate_json("".join(pieces))


if __name__ == "__main__":
    run()
