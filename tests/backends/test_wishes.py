"""G10, G26, L18: how much to think and how long to be, where the provider or its model takes no such wish."""

from __future__ import annotations

from typing import Any

import pytest

from tests.backends.writing import CHAT, DOWN, HI, MESSAGES, RESPONSES, STRICT, Written, names
from tests.upstream import answer


def thinking(model: str, budget: int = 2000, **more: Any) -> dict[str, Any]:
    member = {"type": "enabled", "budget_tokens": budget}
    return {"model": model, "messages": HI, "max_tokens": 64_000, "thinking": member, **more}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("expected", ["enabled", "adaptive"])
def test_g10_a_model_of_ollamas_that_does_not_think_is_not_asked_to(
    written: Written, expected: str, stream: bool
) -> None:
    body = thinking("ol:m", stream=stream)
    if expected == "adaptive":
        body["thinking"] = {"type": "adaptive"}
    status, headers, _ = written.ask(MESSAGES, body)
    assert status == 200
    assert "think" not in written.last
    assert "thinking" in names(headers)


def test_g10_a_model_of_ollamas_that_thinks_is_asked_to(written: Written) -> None:
    status, headers, _ = written.ask(MESSAGES, thinking("ol:thinker", 20_000))
    assert (status, written.last["think"]) == (200, "high")
    assert "thinking" not in names(headers)


def test_g10_not_to_think_is_what_it_does_anyway(written: Written) -> None:
    body = {**thinking("ol:m"), "thinking": {"type": "disabled"}}
    status, headers, _ = written.ask(MESSAGES, body)
    assert (status, "think" in written.last, names(headers)) == (200, False, [])


def test_g10_a_caller_who_asks_for_an_effort_outright_gets_an_error(written: Written) -> None:
    num = len(written.requests)
    status, _, answer = written.ask(CHAT, {"model": "ol:m", "messages": HI, "reasoning_effort": "high"})
    assert (status, answer["error"]["param"]) == (400, "reasoning_effort")
    assert len(written.requests) == num


REFUSALS = {
    "OpenAI": (
        400,
        {"message": "Unsupported parameter: 'reasoning_effort' is not supported with this model.",
         "param": "reasoning_effort", "code": "unsupported_parameter"},
    ),
    "older OpenAI": (400, {"message": "Unrecognized request argument supplied: reasoning_effort"}),
    "Groq": (400, {"message": "property 'reasoning_effort' is unsupported"}),
    "words": (422, {"message": "This model does not support reasoning"}),
    "more words": (400, {"message": '"llama3" does not support thinking'}),
    "Gemini": (400, {"code": 400, "message": "Thinking level is not supported for this model."}),
    "Gemini, which always thinks": (
        400, {"message": "Budget 0 is invalid. This model only works in thinking mode."},
    ),
    "OpenRouter, which always thinks": (
        400, {"code": 400, "message": "Reasoning is mandatory for this endpoint and cannot be disabled."},
    ),
    "a proxy of Anthropic's": (400, {"message": "This model does not support the effort parameter."}),
    "its newer models": (400, {"message": '"thinking.type.enabled" is not supported for this model.'}),
    "xAI": (400, {"message": "Model grok-4 does not support parameter reasoningEffort."}),
    "Bedrock": (400, {"message": "extraneous key [reasoning_effort] is not permitted"}),
    "Vertex": (400, {"message": "The thinking budget 0 is invalid. Choose a value between 128 and 32768."}),
    "Bedrock's Claude": (400, {"message": "The model returned the following errors: thinking: Extra inputs"}),
    "Ollama's door, a level": (400, {"message": "invalid reasoning value: 'low' (must be 'high')"}),
    "no reasoning model": (400, {"message": "Model is not a reasoning model"}),
    "always on": (400, {"message": "thinking is always on for this model and can't be turned off"}),
    "DashScope": (400, {"message": "parameter.enable_thinking must be set to false for non-streaming calls"}),
    "incapable": (400, {"message": "the model cannot think"}),
    "Doubao": (400, {"message": "The parameter is not valid", "param": "thinking.type"}),
    "a pointer": (400, {"message": "Bad Request", "param": "/reasoning_effort"}),
    "a path": (400, {"message": "Bad Request", "param": "$.reasoning_effort"}),
    "another spelling": (400, {"message": "Bad Request", "param": "reasoningEffort"}),
    "Gemini's own name": (400, {"message": "x", "param": "generationConfig.thinkingConfig.thinkingBudget"}),
    "Ollama's door": (400, {"message": 'think value "low" is not supported for this model'}),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "error"), REFUSALS.values(), ids=REFUSALS)
def test_g10_a_provider_that_refuses_an_effort_is_asked_without(
    written: Written, status: int, error: dict[str, Any], stream: bool
) -> None:
    written.play(answer({"error": error}, status=status))
    num = len(written.requests)
    answer_status, headers, _ = written.ask(MESSAGES, thinking("up:m", stream=stream))
    assert (answer_status, len(written.requests)) == (200, num + 2)
    assert written.requests[-2].body["reasoning_effort"] == "low"
    assert "reasoning_effort" not in written.last
    assert "thinking" in names(headers)
    _, headers, _ = written.ask(MESSAGES, thinking("up:m"))
    assert len(written.requests) == num + 3, "it is not asked again what it has refused"
    assert "thinking" in names(headers)


def test_g10_a_refused_value_does_not_take_the_others(written: Written) -> None:
    """A model may know "high" and not "low"."""
    written.play(answer({"error": REFUSALS["OpenAI"][1]}, status=400))
    assert written.ask(MESSAGES, thinking("up:m"))[0] == 200
    status, headers, _ = written.ask(MESSAGES, thinking("up:m", 20_000))
    assert (status, written.last["reasoning_effort"]) == (200, "high")
    assert "thinking" not in names(headers)
    written.ask(MESSAGES, thinking("up:m"))
    assert "reasoning_effort" not in written.last


def test_g10_what_fails_without_it_too_is_not_remembered(written: Written) -> None:
    refused = [answer({"error": {"message": text}}, status=400) for text in ("no thinking", "no such tool")]
    written.play(*refused)
    status, _, whole = written.ask(MESSAGES, thinking("up:m"))
    assert (status, whole["error"]["message"]) == (400, "up: no such tool")
    written.ask(MESSAGES, thinking("up:m"))
    assert written.last["reasoning_effort"] == "low"


@pytest.mark.parametrize("shown", [404, 200])
def test_g10_an_ollama_that_tells_no_capabilities_is_asked_without_once_it_refuses(
    written: Written, shown: int
) -> None:
    written.play(*[answer({"error": "?"} if shown == 404 else {}, status=shown)] * 9, path="/api/show")
    written.play(answer({"error": '"new" does not support thinking'}, status=400), path="/api/chat")
    status, headers, _ = written.ask(MESSAGES, thinking("ol:thinker"))
    assert (status, "thinking" in names(headers)) == (200, True)
    assert "think" in written.requests[-2].body
    assert "think" not in written.last


def test_g10_fastapis_refusal_names_the_member_too(written: Written) -> None:
    detail = [{"type": "extra_forbidden", "loc": ["body", "reasoning_effort"], "msg": "Extra inputs"}]
    written.play(answer({"detail": detail}, status=422))
    assert written.ask(MESSAGES, thinking("up:m"))[0] == 200
    assert "reasoning_effort" not in written.last


def test_g10_along_a_route_only_who_refuses_goes_without(written: Written) -> None:
    written.play(DOWN)
    status, headers, _ = written.ask(MESSAGES, thinking("up-ol"))
    assert (status, headers["x-headrace-backend"], headers["x-headrace-attempts"]) == (200, "ol", "2")
    assert "thinking" in names(headers)
    written.play(DOWN, path="/api/chat")
    status, headers, _ = written.ask(MESSAGES, thinking("ol-up"))
    assert (status, headers["x-headrace-backend"]) == (200, "up")
    assert written.last["reasoning_effort"] == "low"
    assert "thinking" not in names(headers)


def test_g10_an_effort_that_is_refused_to_a_chat_is_reported(written: Written) -> None:
    written.play(answer({"error": REFUSALS["OpenAI"][1]}, status=400))
    body = {"model": "up:m", "messages": HI, "reasoning_effort": "high"}
    status, _, whole = written.ask(CHAT, body, **STRICT)
    assert (status, whole["error"]["code"]) == (400, "unsupported_parameter")
    assert whole["error"]["param"] == "reasoning_effort"


def test_g10_strict_requests_lose_nothing(written: Written) -> None:
    body = {**thinking("ol:m"), "thinking": {"type": "adaptive"}}
    assert written.ask(MESSAGES, body, **STRICT)[0] == 400


@pytest.mark.parametrize("budget", [1024, 5000, 30_000])
@pytest.mark.parametrize("model", ["an:claude-opus-4-1", "an-up"])
def test_g26_a_budget_is_kept_where_the_model_takes_one(written: Written, model: str, budget: int) -> None:
    # a route is translated, and so is what is strict
    headers = STRICT if model.startswith("an:") else {}
    status, answer_headers, _ = written.ask(MESSAGES, thinking(model, budget), **headers)
    assert (status, names(answer_headers)) == (200, [])
    assert written.last["thinking"] == {"type": "enabled", "budget_tokens": budget}


def test_g26_after_a_fallback_too(written: Written) -> None:
    written.play(DOWN)
    status, headers, _ = written.ask(MESSAGES, thinking("up-an", 30_000))
    assert (status, headers["x-headrace-backend"], names(headers)) == (200, "an", [])
    assert written.last["thinking"]["budget_tokens"] == 30_000


@pytest.mark.parametrize("model", ["up:m", "ol:thinker", "fa:m", "an:claude-opus-5"])
def test_g26_elsewhere_it_is_named(written: Written, model: str) -> None:
    body = thinking(model, 30_000)
    if model.startswith("an:"):  # not passed on as it is
        body["tools"] = [{"name": "a.b", "input_schema": {"type": "object"}}]
    status, headers, _ = written.ask(MESSAGES, body)
    assert (status, "thinking.budget_tokens" in names(headers)) == (200, True)


def test_g26_a_budget_that_leaves_no_room_is_cut_and_named(written: Written) -> None:
    status, headers, _ = written.ask(MESSAGES, {**thinking("an-up", 30_000), "max_tokens": 2000})
    assert (status, names(headers)) == (200, ["thinking.budget_tokens"])
    assert written.last["thinking"]["budget_tokens"] == 1999


LOW: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": HI, "verbosity": "low"}),
    "responses": (RESPONSES, {"input": "hi", "text": {"verbosity": "low"}}),
}


@pytest.mark.parametrize("headers", [{}, STRICT], ids=["usual", "strict"])
@pytest.mark.parametrize(("path", "body"), LOW.values(), ids=LOW)
def test_l18_verbosity_is_passed_to_who_knows_it(
    written: Written, path: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    status, answer_headers, _ = written.ask(path, {"model": "up:m", **body}, **headers)
    assert (status, written.last["verbosity"], names(answer_headers)) == (200, "low", [])


@pytest.mark.parametrize("model", ["fa:m", "an:claude-opus-5", "ol:m", "ce:m"])
@pytest.mark.parametrize(("path", "body"), LOW.values(), ids=LOW)
def test_l18_elsewhere_it_is_ignored_and_named(
    written: Written, path: str, body: dict[str, Any], model: str
) -> None:
    status, headers, _ = written.ask(path, {"model": model, **body}, **STRICT if model == "ce:m" else {})
    name = "text.verbosity" if path == RESPONSES else "verbosity"
    assert (status, names(headers)) == (200, [name])
    assert model == "fa:m" or "verbosity" not in written.last


@pytest.mark.parametrize("path", [RESPONSES])
def test_l18_who_refuses_it_is_asked_without(written: Written, path: str) -> None:
    written.play(answer({"error": {"message": "Unknown parameter: 'verbosity'."}}, status=400))
    status, headers, whole = written.ask(path, {"model": "up:m", **LOW["responses"][1]})
    assert (status, names(headers)) == (200, ["text.verbosity"])
    assert "verbosity" not in written.last
    assert whole["text"]["verbosity"] == "low"


@pytest.mark.parametrize(("path", "body"), LOW.values(), ids=LOW)
def test_l18_another_value_is_a_400(written: Written, path: str, body: dict[str, Any]) -> None:
    wrong = {**body, "verbosity": "loud"} if path == CHAT else {**body, "text": {"verbosity": 7}}
    assert written.ask(path, {"model": "fa:m", **wrong})[0] == 400


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": ""}
HISTORIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "chat": (
        CHAT,
        {"messages": [*HI, {"role": "assistant", "content": "yes", "reasoning_content": "hm"}, *HI]},
        "messages.reasoning_content",
    ),
    "messages": (
        MESSAGES,
        {
            "messages": [
                *HI, {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "yes"}]}, *HI,
            ],
            "max_tokens": 9,
        },
        "messages.content.thinking",
    ),
}  # fmt: skip
UNKNOWN = {
    "Groq": {"message": "'messages.1' : property 'reasoning_content' is unsupported"},
    "a path": {"message": "Extra inputs are not permitted", "param": "messages[1].reasoning_content"},
}


@pytest.mark.parametrize(("path", "body", "name"), HISTORIES.values(), ids=HISTORIES)
@pytest.mark.parametrize("error", UNKNOWN.values(), ids=UNKNOWN)
def test_g7_thoughts_of_the_history_that_are_refused_are_left_out(
    written: Written, error: dict[str, Any], path: str, body: dict[str, Any], name: str
) -> None:
    written.play(answer({"error": error}, status=400))
    # along a route, it is translated
    status, headers, _ = written.ask(path, {"model": "up-ol", **body})
    assert (status, headers["x-headrace-backend"], name in names(headers)) == (200, "up", True)
    assert "reasoning_content" in written.requests[-2].body["messages"][1]
    assert "reasoning_content" not in written.last["messages"][1]
    assert written.last["messages"][1]["content"] == "yes"


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_l18_a_strict_request_that_is_refused_stays_refused(written: Written, path: str) -> None:
    written.play(answer({"error": {"message": "Unknown parameter: 'verbosity'."}}, status=400))
    body = dict(LOW["chat" if path == CHAT else "responses"][1])
    assert written.ask(path, {"model": "up:m", **body}, **STRICT)[0] == 400
    assert written.last["verbosity"] == "low"


def test_strict_requests_keep_their_thoughts(written: Written) -> None:
    written.play(answer({"error": UNKNOWN["Groq"]}, status=400))
    assert written.ask(CHAT, {"model": "up:m", **HISTORIES["chat"][1]}, **STRICT)[0] == 400
