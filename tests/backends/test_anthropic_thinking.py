"""How much a model is requested to think, and what it is known to be able to do."""

from __future__ import annotations

import asyncio

import pytest

from headrace.backends.anthropic.thinking import of_listed, of_name
from headrace.errors import BadRequest, UnsupportedParameter
from headrace.types import Sampling
from tests.backends.anthropic_requests import body_of, neutral
from tests.backends.anthropic_wire import MODEL, backend_of, end, start
from tests.upstream import Answer, answer, scripted, sse

ADAPTIVE = {"type": "adaptive", "display": "summarized"}


@pytest.mark.parametrize(
    ("requested", "effort"),
    [("minimal", "low"), *((effort, effort) for effort in ("low", "medium", "high", "xhigh", "max"))],
)
def test_adaptive_models_think_with_an_effort(requested: str, effort: str) -> None:
    body = body_of(neutral(reasoning_effort=requested))
    assert (body["thinking"], body["output_config"]) == (ADAPTIVE, {"effort": effort})


BUDGETED = "claude-haiku-4-5"


@pytest.mark.parametrize(
    ("requested", "max_tokens", "budget"),
    [
        ("minimal", None, 1024),
        ("low", None, 2048),
        ("medium", None, 8192),
        ("high", None, 16000),
        ("high", 64_000, 16384),
        ("xhigh", 64_000, 24576),
        ("max", 100_000, 32768),
        ("high", 4096, 2048),
        ("high", 1025, 1024),
    ],
)
def test_older_models_think_within_a_budget(requested: str, max_tokens: int | None, budget: int) -> None:
    body = body_of(
        neutral(reasoning_effort=requested, model=BUDGETED, sampling=Sampling(max_tokens=max_tokens))
    )
    assert body["thinking"] == {"type": "enabled", "budget_tokens": budget}
    assert budget < body["max_tokens"]
    assert "output_config" not in body


def test_a_budget_that_cannot_be_is_refused() -> None:
    with pytest.raises(BadRequest) as raised:
        body_of(neutral(reasoning_effort="low", model=BUDGETED, sampling=Sampling(max_tokens=1024)))
    assert raised.value.param == "reasoning_effort"


@pytest.mark.parametrize("model", [MODEL, BUDGETED])
def test_not_to_think_is_said_and_saying_nothing_is_left_to_the_model(model: str) -> None:
    assert body_of(neutral(reasoning_effort="none", model=model))["thinking"] == {"type": "disabled"}
    assert not {"thinking", "output_config"} & body_of(neutral(model=model)).keys()


@pytest.mark.parametrize(
    ("model", "is_adaptive"),
    [
        ("claude-3-haiku-20240307", False),
        ("claude-3-7-sonnet-latest", False),
        ("claude-opus-4-20250514", False),
        ("claude-opus-4-0", False),
        ("claude-4-opus-20250514", False),
        ("anthropic.claude-opus-4-1-20250805-v1:0", False),
        ("claude-opus-4-1@20250805", False),
        ("claude-opus-4.5", False),
        ("claude-haiku-4-5-20251001", False),
        ("claude-opus-4-6", True),
        ("claude-opus-4.6", True),
        ("claude-opus-4-8", True),
        ("claude-sonnet-5", True),
        ("claude-fable-5-2", True),
        ("claude-mythos-preview", True),
    ],
)
def test_how_a_model_thinks_is_known_by_its_name(model: str, is_adaptive: bool) -> None:
    assert of_name(model).is_adaptive is is_adaptive


def supports(**levels: bool) -> dict[str, object]:
    return {"supported": True, **{level: {"supported": able} for level, able in levels.items()}}


def test_abilities_in_the_list_win_over_the_name() -> None:
    capabilities = {
        "effort": supports(low=True, medium=True, high=True, xhigh=False, max=False),
        "thinking": {"supported": True, "types": {"adaptive": {"supported": True}}},
    }
    listed = of_listed(BUDGETED, {"max_tokens": 9000, "capabilities": capabilities})
    body = body_of(neutral(reasoning_effort="max", model=BUDGETED), listed)
    assert (body["thinking"], body["output_config"]) == (ADAPTIVE, {"effort": "high"})
    assert body["max_tokens"] == 9000
    assert body_of(neutral(sampling=Sampling(max_tokens=32000)), listed)["max_tokens"] == 9000
    assert body_of(neutral(sampling=Sampling(max_tokens=10)), listed)["max_tokens"] == 10


def test_a_model_that_does_not_think_is_not_made_to() -> None:
    listed = of_listed("m", {"capabilities": {"thinking": {"supported": False}, "effort": None}})
    with pytest.raises(UnsupportedParameter):
        body_of(neutral(reasoning_effort="low"), listed)
    assert body_of(neutral(reasoning_effort="none"), listed)["thinking"] == {"type": "disabled"}


def test_the_backend_uses_the_list() -> None:
    async def run() -> None:
        backend = backend_of(upstream)
        await backend.upstream.start()
        await backend.refresh()
        async with backend.generate(neutral()):
            pass
        await backend.aclose()

    with scripted() as upstream:
        upstream.always("/v1/models", answer({"data": [{"id": MODEL, "max_tokens": 77}], "has_more": False}))
        upstream.play(Answer(pieces=sse(start(), *end())))
        asyncio.run(run())
        assert upstream.posts[0].body["max_tokens"] == 77
