"""The member `options` of a body: Ollama's names of sampling parameters."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from headrace.types import Sampling
from headrace.wire.generation import INT64, LEAST_PENALTY, MOST_PENALTY, Stop
from headrace.wire.limits import MAX_STOP_SEQUENCES, at_most
from headrace.wire.parameters import RequestBody


def _whole(value: Any) -> Any:
    """A whole number that is written as 8192.0, as the number fields of some programs write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = BeforeValidator(_whole)


class Options(RequestBody):
    """Null means that a member is not set; then the model's recommendation counts, not Ollama's default."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    top_k: Annotated[int | None, Whole] = Field(None, ge=-1, lt=INT64)
    seed: Annotated[int | None, Whole] = Field(None, ge=-INT64, lt=INT64, description="-1: a random one.")
    num_predict: Annotated[int | None, Whole] = Field(None, ge=-2, lt=INT64)
    repeat_penalty: float | None = Field(None, ge=LEAST_PENALTY, le=MOST_PENALTY)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    stop: Stop | Annotated[list[Stop], at_most(MAX_STOP_SEQUENCES)] | None = None


NO_OPTIONS = Options.model_validate({})


def sampling(options: Options | None, *, logprobs: int | None = None, truncates: bool = False) -> Sampling:
    """The sampling parameters. `truncates`: the beginning of a prompt that is too long may be cut off."""
    options = options or NO_OPTIONS
    stop = (options.stop,) if isinstance(options.stop, str) else tuple(options.stop or ())
    return Sampling(
        max_tokens=options.num_predict if (options.num_predict or 0) > 0 else None,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=None if options.top_k is None else max(0, options.top_k),
        min_p=options.min_p,
        repetition_penalty=options.repeat_penalty,
        frequency_penalty=options.frequency_penalty or 0.0,
        presence_penalty=options.presence_penalty or 0.0,
        seed=None if options.seed == -1 else options.seed,
        stop=stop,
        logprobs=logprobs,
        truncate_prompt_tokens=-1 if truncates else None,
    )
