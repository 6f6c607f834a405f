"""The JSON of /v1/activations: what the features of an SAE do on a text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from headrace.errors import BadRequest
from headrace.steering.types import Activations, Probe, Seen
from headrace.types import Conversation, Event, GenerateRequest, Message, ModelInfo, Sampling, Started, Texts
from headrace.wire.activations import FeatureActivations, TokenActivations, feature_activations
from headrace.wire.generation import dump
from headrace.wire.limits import MAX_MESSAGES, MAX_PROBED, MAX_TOP_FEATURES, at_most
from headrace.wire.steering import FeatureIndex, Labels, Name, Nested

USUAL = 20  # features in an answer


class PlainMessage(Nested):
    role: Literal["system", "user", "assistant"]
    content: str


class TextBody(Nested):
    """A text, or a conversation that the model's template renders."""

    input: str | None = None
    messages: Annotated[list[PlainMessage], at_most(MAX_MESSAGES, least=1)] | None = None


class ActivationsBody(TextBody):
    """The body of POST /v1/activations."""

    model: str | None = None
    sae: Name
    features: Annotated[list[FeatureIndex], at_most(MAX_PROBED)] | None = None
    top_k: int = Field(8, ge=0, le=MAX_TOP_FEATURES)


class TopBody(TextBody):
    """The body of POST /v1/activations/top."""

    model: str | None = None
    sae: Name
    limit: int = Field(USUAL, ge=1, le=100)


class CompareBody(Nested):
    """The body of POST /v1/activations/compare."""

    model: str | None = None
    sae: Name
    a: TextBody
    b: TextBody
    limit: int = Field(USUAL, ge=1, le=100)


class ActivationsObject(TypedDict):
    object: Literal["activations"]
    model: str
    sae: str
    feature_activations: FeatureActivations


class TopFeatureObject(TypedDict):
    feature: int
    label: str | None
    max: float
    mean: Annotated[float, Field(description="Over all tokens but the first.")]
    count: Annotated[int, Field(description="Tokens on which it is active.")]
    token: Annotated[str, Field(description="The one with the largest activation.")]
    position: int


class ComparedFeature(TypedDict):
    feature: int
    label: str | None
    difference: Annotated[float, Field(description="Mean on a, minus mean on b.")]
    mean_a: float
    mean_b: float


class WatchedActivations(TokenActivations):
    """What probes read on one token of a running request."""

    request_id: Annotated[str, Field(description="That of the header X-Request-ID.")]
    model: str
    index: Annotated[int, Field(description="The choice.")]
    dropped: Annotated[
        int,
        Field(description="Entries before this one that were dropped, because they were read too slowly."),
    ]


WATCHED_PARAMETERS = [
    {"name": name, "in": "query", "schema": {"type": "string", "description": text}}
    for name, text in (("request_id", "Only of this request."), ("sae", "Only of this SAE."))
]


def watched(seen: Seen, labels: Labels) -> str:
    (entry,) = feature_activations((seen.entry,), labels)["content"]
    body: WatchedActivations = {
        "request_id": seen.request_id, "model": seen.model, "index": seen.index, "dropped": seen.dropped,
        **entry,
    }  # fmt: skip
    return dump(body)


class Entries:
    """Writes the tokens of a text as chunks of a stream, as soon as they are computed."""

    def __init__(self, labels: Labels, info: ModelInfo) -> None:
        self._labels, self._num_prompt = labels, 0

    def first(self) -> list[str]:
        return []

    def event(self, event: Event) -> list[str]:
        if isinstance(event, Started):
            self._num_prompt = event.prompt_tokens
            return []
        entries = [entry for entry in event.activations if entry.position < self._num_prompt]
        return [dump(entry) for entry in feature_activations(entries, self._labels)["content"]]

    def last(self) -> list[str]:
        return []


def to_request(body: TextBody, model: str, probe: Probe, owner: str) -> GenerateRequest:
    """A request that computes the prompt, and generates one token. Raises BadRequest."""
    if (body.input is None) == (body.messages is None):
        raise BadRequest("give input, or messages", param="input")
    prompt: Conversation | Texts
    if body.messages is None:
        prompt = Texts((body.input or "",))
    else:
        prompt = Conversation(tuple(Message(message.role, message.content) for message in body.messages))
    return GenerateRequest(model, prompt, Sampling(max_tokens=1), owner=owner, probes=(probe,))


@dataclass(slots=True)
class Tally:
    """The activations of one feature on a text, summed up."""

    total: float = 0.0
    count: int = 0
    max: float = 0.0
    token: str = ""
    position: int = 0


def tallies(content: Iterable[Activations]) -> tuple[dict[int, Tally], int]:
    """What each feature did, and on how many tokens. The first one is left out: its hidden state is unlike
    all others.
    """
    by_feature: dict[int, Tally] = defaultdict(Tally)
    number = 0
    for entry in content:
        if entry.position == 0:
            continue
        number += 1
        for feature, activation in (pair for reading in entry.readings for pair in reading.top):
            tally = by_feature[feature]
            tally.total += activation
            tally.count += 1
            if activation > tally.max:
                tally.max, tally.token, tally.position = activation, entry.token, entry.position
    return by_feature, max(number, 1)


def top(content: Sequence[Activations], labels: Mapping[int, str], limit: int) -> list[TopFeatureObject]:
    """The features with the largest activations on a text."""
    by_feature, number = tallies(content)
    order = sorted(by_feature.items(), key=lambda pair: -pair[1].max)[:limit]
    return [
        {
            "feature": feature,
            "label": labels.get(feature),
            "max": tally.max,
            "mean": tally.total / number,
            "count": tally.count,
            "token": tally.token,
            "position": tally.position,
        }
        for feature, tally in order
    ]


def compared(
    a: Sequence[Activations], b: Sequence[Activations], labels: Mapping[int, str], limit: int
) -> list[ComparedFeature]:
    """The features whose mean differs most between two texts."""
    (of_a, number_a), (of_b, number_b) = tallies(a), tallies(b)
    means = {
        feature: (
            of_a[feature].total / number_a if feature in of_a else 0.0,
            of_b[feature].total / number_b if feature in of_b else 0.0,
        )
        for feature in {*of_a, *of_b}
    }
    order = sorted(means.items(), key=lambda pair: (-abs(pair[1][0] - pair[1][1]), pair[0]))[:limit]
    return [
        {
            "feature": feature,
            "label": labels.get(feature),
            "difference": mean_a - mean_b,
            "mean_a": mean_a,
            "mean_b": mean_b,
        }
        for feature, (mean_a, mean_b) in order
    ]
