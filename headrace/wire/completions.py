"""The JSON of /v1/completions: read requests, write answers and chunks, both `text_completion` objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NotRequired

from pydantic import Discriminator, Field, Tag
from typing_extensions import TypedDict

from headrace.collected import Choice, Collected
from headrace.dialects.openai import UsageBody, usage_body
from headrace.errors import BadRequest
from headrace.types import (
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Json,
    ModelInfo,
    TextDelta,
    Texts,
    TokenLogprob,
)
from headrace.wire.activations import NOTHING, SteeringAnswer, inside
from headrace.wire.forms import output_format, request_of
from headrace.wire.generation import (
    GenerationBody,
    StreamUsage,
    TokenId,
    UsageMember,
    dump,
    head,
    max_tokens,
    sampling,
)
from headrace.wire.limits import MAX_PROMPTS, MAX_TOKENS, at_most
from headrace.wire.token_logprobs import CompletionLogprobs, LogprobsWriter

DEFAULT_MAX_TOKENS = 16  # OpenAI's

Tokens = Annotated[list[TokenId], at_most(MAX_TOKENS, least=1)]


def kind_of_list(value: object) -> str:
    """The kind of a list, by its first element, so that an error is about the element that differs."""
    if not isinstance(value, list):
        return "string"
    if value and isinstance(value[0], str):
        return "strings"
    return "lists" if value and isinstance(value[0], list) else "tokens"


Prompts = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[list[str], at_most(MAX_PROMPTS), Tag("strings")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[Tokens], at_most(MAX_PROMPTS), Tag("lists")],
    Discriminator(kind_of_list),
]


def texts(value: str | list[str] | list[int] | list[list[int]]) -> tuple[str | tuple[int, ...], ...]:
    """The texts in order, each a string or a tuple of token ids."""
    if isinstance(value, str):
        return (value,)
    tokens = tuple(item for item in value if isinstance(item, int))
    if tokens:
        return (tokens,)
    return tuple(
        item if isinstance(item, str) else tuple(item) for item in value if not isinstance(item, int)
    )


class CompletionBody(GenerationBody):
    """The body of POST /v1/completions."""

    prompt: Prompts = Field(
        description="Plain text (special tokens in it are text) or token ids; each prompt gets n choices: "
        "choice j of prompt i has index i * n + j."
    )
    best_of: int | None = Field(
        None, ge=1, le=128, description="Generate this many and keep the n most probable. Default: n."
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=20,
        description="Logprobs of each token, and of this many most probable tokens at its position.",
    )
    echo: bool | None = Field(False, description="Return the prompt in front of the completion.")
    parse_special: bool | None = False
    suffix: str | None = Field(None, description="Generate the text between the prompt and this.")


class CompletionChoice(SteeringAnswer):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(TypedDict):
    """The answer when `stream` is false, each chunk when it is true; chunks only have `usage` on request."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: NotRequired[UsageBody | None]
    system_fingerprint: str | None


def to_request(body: CompletionBody) -> GenerateRequest:
    """The neutral request. Raises BadRequest."""
    requested = max_tokens(body)
    limit = requested if requested is not None or body.is_unlimited else DEFAULT_MAX_TOKENS
    if limit == 0 and not body.echo:
        raise BadRequest.at("max_tokens", "0 is only allowed with echo: true")
    if body.suffix and body.parse_special:
        raise BadRequest("parse_special and suffix exclude each other", param="parse_special")
    n, num_wanted = body.n or 1, _best_of(body)
    # choices are ranked by their logprobs
    logprobs = 0 if body.logprobs is None and num_wanted > n else body.logprobs
    prompt = Texts(texts(body.prompt), body.suffix or None, bool(body.echo), bool(body.parse_special))
    return request_of(body, prompt, sampling(body, limit, logprobs), num_wanted, output_format(body))


def _best_of(body: CompletionBody) -> int:
    """The number of choices that are generated for each prompt; the n best of them are returned."""
    n = body.n or 1
    if body.best_of is None:
        return n
    if body.best_of < n:
        raise BadRequest(f"best_of must be at least n, which is {n}", param="best_of")
    if body.best_of > n and body.stream:
        raise BadRequest("best_of greater than n is not allowed with stream: true", param="best_of")
    return body.best_of


def completion(body: CompletionBody, info: ModelInfo, collected: Collected) -> Json:
    best = _best(body.n or 1, collected)
    choices: list[CompletionChoice] = [
        {
            **_choice(
                index, choice.text, _logprobs(choice) if body.logprobs is not None else None, choice.reason
            ),
            **inside(body, choice.activations, choice.receipt),
        }
        for index, choice in enumerate(best)
    ]
    answer: Completion = {
        **head("cmpl", "text_completion", info),
        "object": "text_completion",
        "choices": choices,
        "usage": usage_body(collected.usage),
    }
    return {**answer, **collected.own}


def _best(n: int, collected: Collected) -> list[Choice]:
    """The n most probable choices of each prompt, in the order of the prompts."""
    choices = [choice for _, choice in sorted(collected.choices.items())]
    if collected.n == n:
        return choices
    best: list[Choice] = []
    for start in range(0, len(choices), collected.n):
        best += sorted(choices[start : start + collected.n], key=_mean_logprob, reverse=True)[:n]
    return best


def _mean_logprob(choice: Choice) -> float:
    """The mean logprob of a choice's generated tokens; an echoed prompt is left out."""
    count = choice.usage.completion_tokens if choice.usage else 0
    tokens = [*choice.logprobs, *choice.end_logprobs][-count:] if count else []
    values = [token.logprob for token in tokens if token.logprob is not None]
    return sum(values) / len(values) if values else float("-inf")


def _logprobs(choice: Choice) -> CompletionLogprobs:
    # the end-of-turn token has no text, but a score needs an entry for each generated token
    return LogprobsWriter().write(choice.text, [*choice.logprobs, *choice.end_logprobs])


class Chunks:
    """Writes the chunks of one stream, which share id, created and model."""

    def __init__(self, body: CompletionBody, info: ModelInfo) -> None:
        self._head = head("cmpl", "text_completion", info)
        self._body, options = body, body.stream_options
        self._usage = StreamUsage(options, body.n or 1) if options is not None else None
        self._has_logprobs = body.logprobs is not None
        self._writers: dict[int, LogprobsWriter] = {}

    def first(self) -> list[str]:
        return []

    def event(self, event: Event) -> list[str]:
        if self._usage is not None:
            self._usage.push(event)
        if isinstance(event, TextDelta):
            more = inside(self._body, event.activations) if event.activations else NOTHING
            return [self._chunk(event.index, event.text, event.logprobs, None, more=more)]
        if isinstance(event, Finished):
            more = inside(self._body, event.activations, event.receipt)
            return [self._chunk(event.index, "", event.logprobs, event.reason, event.own, more)]
        return []

    def last(self) -> list[str]:
        return self._usage.last(self._head) if self._usage is not None else []

    def _chunk(
        self,
        index: int,
        text: str,
        tokens: Sequence[TokenLogprob],
        reason: FinishReason | None,
        own: Json | None = None,
        more: SteeringAnswer | None = None,
    ) -> str:
        logprobs = None
        if self._has_logprobs:
            written = self._writers.setdefault(index, LogprobsWriter()).write(text, tokens)
            logprobs = written if tokens else None
        usage: UsageMember = self._usage.member() if self._usage is not None else {}
        chunk: Completion = {
            **self._head,
            "object": "text_completion",
            "choices": [{**_choice(index, text, logprobs, reason), **(more or NOTHING)}],
            **usage,
        }
        return dump({**chunk, **own} if own else chunk)


def _choice(
    index: int, text: str, logprobs: CompletionLogprobs | None, reason: FinishReason | None
) -> CompletionChoice:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
