"""The members that chat and text completions share: sampling parameters, usage, ids."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from typing_extensions import TypedDict

from headrace.dialects.openai import UsageBody, usage_body
from headrace.errors import BadRequest
from headrace.finite import dumps
from headrace.types import Event, Finished, ModelInfo, ReasoningDelta, Sampling, Started, Usage, total
from headrace.wire import limits
from headrace.wire.elsewhere import ALIASES
from headrace.wire.limits import SHOWN, Pairs, at_most
from headrace.wire.parameters import RequestBody
from headrace.wire.steering import SteeringMembers

INT64 = 2**63
MAX_TOKEN_DIGITS = 20  # leading zeros included
LEAST_PENALTY, MOST_PENALTY = 0.01, 100  # outside of these, logits become infinite
Stop = Annotated[str, StringConstraints(min_length=1, max_length=limits.MAX_STOP)]
Stops = Annotated[list[Stop], at_most(limits.MAX_STOPS)]
Limit = Annotated[int, Field(ge=-2, lt=INT64)]  # negative: no limit
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


def _writable(value: object) -> object:
    left = [value]
    while left:  # a walk, because the encoder would hold the interpreter lock for all of a large value
        member = left.pop()
        if isinstance(member, dict):
            left.extend(member.values())
        elif isinstance(member, list):
            left.extend(member)
        elif isinstance(member, float) and not math.isfinite(member):
            raise ValueError("Out of range float values are not JSON compliant")
    return value


Writable = AfterValidator(_writable)  # rejects NaN and infinities, which the parser accepts
JsonObject = Annotated[dict[str, Any], Writable]


def _few(variables: dict[str, Any]) -> dict[str, Any]:
    count = 0
    left: list[Any] = [variables]
    while left:
        value = left.pop()
        inner = value.values() if isinstance(value, dict) else value
        count += len(inner)
        if count > limits.MAX_VARIABLE_VALUES:
            raise ValueError(f"these hold more than {limits.MAX_VARIABLE_VALUES:,} values")
        left += [entry for entry in inner if isinstance(entry, dict | list)]
    return variables


Variables = Annotated[dict[str, Any], Field(max_length=limits.MAX_VARIABLES), AfterValidator(_few), Writable]


def _check_biases(biases: dict[str, Any]) -> None:
    for key, value in biases.items():
        param = f"logit_bias.{key[:SHOWN]}"
        token = limits.whole(key, MAX_TOKEN_DIGITS)
        if token is None or token >= 2**31 or str(token) != key:
            raise BadRequest("logit_bias: its members are token ids", param=param)
        if isinstance(value, bool) or not isinstance(value, int | float) or not -100 <= value <= 100:
            raise BadRequest.at(param, "a bias is a number from -100 to 100")


Biases = Annotated[dict[str, float], Pairs(limits.MAX_BIASES, _check_biases)]


class StreamOptions(RequestBody):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None  # extension: every chunk has the usage so far


# members by which a bare schema is recognized
SCHEMA_WORDS = frozenset({"type", "properties", "$ref", "anyOf", "oneOf", "allOf", "enum", "const", "items"})


class JsonSchema(RequestBody):
    """A schema with its name. A bare schema is read as if it stood under `schema`."""

    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | bool | None, Writable] = Field(None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _wrap(cls, value: object) -> object:
        if isinstance(value, dict) and "schema" not in value and SCHEMA_WORDS & value.keys():
            wrapper = {name: value[name] for name in ("name", "strict") if name in value}
            return {
                **wrapper,
                "schema": {name: member for name, member in value.items() if name not in wrapper},
            }
        return value


class ResponseFormat(RequestBody):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    # the form of other servers and older clients, without json_schema around it
    schema_: Annotated[dict[str, Any] | bool | None, Writable] = Field(None, alias="schema")
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class StructuredOutputs(RequestBody):
    """vLLM's object, of which one member is set."""

    json_: Annotated[dict[str, Any] | bool | str | None, Writable] = Field(None, alias="json")
    regex: str | None = None
    choice: Annotated[list[str], at_most(limits.MAX_CHOICES, least=1)] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_additional_properties: bool | None = None


class TypedGrammar(RequestBody):
    """TGI's grammar object."""

    type: Literal["json", "json_object", "json_schema", "regex"]
    value: Annotated[dict[str, Any] | bool | str | None, Writable] = None


class GenerationBody(SteeringMembers):
    """The members of both endpoints. Null means that a member is not set."""

    model: str
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(1, ge=1, le=128)
    stop: Stop | Stops | None = None
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    frequency_penalty: float | None = Field(0, ge=-2, le=2)
    presence_penalty: float | None = Field(0, ge=-2, le=2)
    logit_bias: Biases | None = None
    top_k: int | None = Field(None, ge=-1, lt=INT64)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=LEAST_PENALTY, le=MOST_PENALTY)
    ignore_eos: bool | None = False
    min_tokens: int | None = Field(0, ge=0, lt=INT64)
    stop_token_ids: Annotated[list[TokenId], at_most(limits.MAX_STOP_TOKENS)] | None = None
    skip_special_tokens: bool | None = True
    truncate_prompt_tokens: int | None = Field(None, ge=-1, lt=INT64)
    detect_loops: bool | None = None
    priority: int | None = Field(0, ge=-INT64, lt=INT64)
    timeout: float | None = Field(None, gt=0)
    user: str | None = None
    response_format: ResponseFormat | None = None
    guided_json: Annotated[dict[str, Any] | bool | str | None, Writable] = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], at_most(limits.MAX_CHOICES, least=1)] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None
    schema_narrowing: list[str] | None = Field(None, max_length=32, fail_fast=True)
    # other servers' names for the members above: see elsewhere.ALIASES
    repeat_penalty: float | None = Field(None, ge=LEAST_PENALTY, le=MOST_PENALTY)
    max_new_tokens: int | None = Field(None, ge=0)
    n_predict: Limit | None = Field(None, description="Extension. See max_tokens; -1: no limit.")
    num_predict: Limit | None = Field(None, description="Extension. See max_tokens; -1 or -2: no limit.")
    min_new_tokens: int | None = Field(None, ge=0, lt=INT64)
    stop_sequences: Stop | Stops | None = None
    stop_strings: Stop | Stops | None = None
    ban_eos_token: bool | None = None
    random_seed: int | None = Field(None, ge=-INT64, lt=INT64)
    sampling_seed: int | None = Field(None, ge=-INT64, lt=INT64)
    truncate: int | None = Field(None, ge=-1, lt=INT64)
    json_schema: Annotated[dict[str, Any] | bool | str | None, Writable] = None
    regex: str | None = None
    ebnf: str | None = None
    grammar_string: str | None = None
    grammar: str | TypedGrammar | None = Field(
        None, description="Extension. See guided_grammar; or TGI's `{type, value}`, of type json or regex."
    )

    @property
    def is_unlimited(self) -> bool:
        """Whether the request wants an answer without a limit, in the dialect of llama.cpp or Ollama."""
        return any(limit is not None and limit < 0 for limit in (self.n_predict, self.num_predict))


def sampling(body: GenerationBody, max_tokens: int | None, logprobs: int | None) -> Sampling:
    """The sampling parameters. Raises BadRequest."""
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options is only allowed with stream: true", param="stream_options")
    stop = value_of(body, "stop")
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    return Sampling(
        max_tokens=max_tokens, temperature=body.temperature, top_p=body.top_p, min_p=body.min_p,
        repetition_penalty=value_of(body, "repetition_penalty"),
        frequency_penalty=body.frequency_penalty or 0.0, presence_penalty=body.presence_penalty or 0.0,
        logit_bias=tuple((int(key), float(value)) for key, value in (body.logit_bias or {}).items()),
        seed=value_of(body, "seed"), stop=stops, top_k=None if body.top_k is None else max(0, body.top_k),
        stop_token_ids=tuple(body.stop_token_ids or ()), ignore_eos=bool(value_of(body, "ignore_eos")),
        min_tokens=value_of(body, "min_tokens") or 0, logprobs=logprobs,
        skip_special_tokens=body.skip_special_tokens is not False,
        detect_loops=body.detect_loops,
        truncate_prompt_tokens=value_of(body, "truncate_prompt_tokens"),
    )  # fmt: skip


def max_tokens(body: GenerationBody) -> int | None:
    """The limit of an answer's tokens, under each of its names; None: no limit. Raises BadRequest."""
    limit: int | None = value_of(body, "max_tokens")
    return None if limit is None or limit < 0 else limit


def value_of(body: GenerationBody, name: str) -> Any:
    """The value of a member, under its own name or another server's (elsewhere.ALIASES); None: it is not set.
    Raises BadRequest when two names have different values.
    """
    # only what the caller set: a default of the body (false, 0) is no second value
    values = {
        alias: value
        for alias in (name, *ALIASES[name])
        if alias in body.model_fields_set and (value := getattr(body, alias)) is not None
    }
    first = next(iter(values), name)
    for alias, value in values.items():
        if value != values[first]:
            raise BadRequest(f"{first} and {alias} differ", param=alias)
    return values.get(first)


class Head(TypedDict):
    """The first members of an answer, or of all chunks of one stream."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str | None


def head(prefix: Literal["chatcmpl", "cmpl"], object: str, info: ModelInfo) -> Head:
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": object,
        "created": int(time.time()),
        "model": info.id,
        "system_fingerprint": info.fingerprint,
    }


class UsageMember(TypedDict, total=False):
    usage: UsageBody | None


class StreamUsage:
    """The member `usage` of a stream's chunks: absent, null, or the counts so far. `n`: the number of choices
    of each prompt.
    """

    def __init__(self, options: StreamOptions, n: int) -> None:
        self._in_the_end = bool(options.include_usage)
        self._in_all = bool(options.continuous_usage_stats)
        self._n = n
        self._choices: dict[int, Usage] = {}

    def push(self, event: Event) -> None:
        if not self._in_all and not isinstance(event, Finished):
            return
        so_far = self._choices.get(event.index, Usage(0, 0))
        if isinstance(event, Finished):
            so_far = event.usage
        elif isinstance(event, Started):
            so_far = replace(so_far, prompt_tokens=event.prompt_tokens, cached_tokens=event.cached_tokens)
        else:
            thought = event.tokens if isinstance(event, ReasoningDelta) else 0
            so_far = replace(
                so_far,
                completion_tokens=so_far.completion_tokens + event.tokens,
                reasoning_tokens=so_far.reasoning_tokens + thought,
            )
        self._choices[event.index] = so_far

    def member(self) -> UsageMember:
        """The member for a chunk with choices. It is null until the prompt's tokens are known."""
        if not self._in_all:
            return {"usage": None} if self._in_the_end else {}
        usage = total(self._choices, self._n)
        return {"usage": usage_body(usage) if usage.prompt_tokens else None}

    def last(self, head: Head) -> list[str]:
        """The final chunk with the usage, if the request wants one."""
        if not self._in_the_end:
            return []
        return [dump({**head, "choices": [], "usage": usage_body(total(self._choices, self._n))})]


# `json.dumps` would make an encoder for each chunk
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def dump(value: Mapping[str, Any]) -> str:
    try:
        return _encode(value)
    except ValueError:
        return dumps(value, ensure_ascii=False, separators=(",", ":"))
