"""The words of a provider's error are found in whatever form it sends them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.backends.error_body import MAX_MESSAGE, error_body

BEHIND = json.dumps({"error": {"message": "the model is overloaded", "code": 503}})
BEHIND_CODE = json.dumps({"error": {"message": "no", "code": "c", "param": "a"}})
FORMS: dict[str, tuple[Any, str]] = {
    "OpenAI": ({"error": {"message": "too long", "type": "invalid_request_error"}}, "too long"),
    "Ollama": ({"error": "model not found"}, "model not found"),
    "a list of errors": ({"errors": [{"message": "first"}, {"message": "second"}]}, "first; second"),
    "errors as texts": ({"errors": ["first", "second"]}, "first; second"),
    "FastAPI": (
        {"detail": [{"loc": ["body", "messages", 0], "msg": "field required", "type": "missing"}]},
        "body.messages.0: field required",
    ),
    "FastAPI, one text": ({"detail": "Not Found"}, "Not Found"),
    "Google": ([{"error": {"code": 400, "message": "bad key", "status": "INVALID_ARGUMENT"}}], "bad key"),
    "OpenRouter": (
        {"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "slow down"}}},
        "Provider returned error: slow down",
    ),
    "OpenRouter, JSON in a text": (
        {"error": {"message": "Provider returned error", "metadata": {"raw": BEHIND}}},
        "Provider returned error: the model is overloaded",
    ),
    "OpenRouter, an object": (
        {"error": {"message": "Provider returned error", "metadata": {"raw": {"detail": "no GPU"}}}},
        "Provider returned error: no GPU",
    ),
    "OAuth": ({"error": "", "error_description": "the token has expired"}, "the token has expired"),
    "a problem document": ({"type": "about:blank", "title": "Too many", "status": 429}, "Too many"),
    "Amazon's gateway": ({"Message": "not authorized"}, "not authorized"),
    "capitals": ({"Error": {"Code": "X1", "Message": "its words"}}, "its words"),
    "Spring": (
        {"status": 400, "error": "Bad Request", "message": "top_k is odd", "path": "/v1"},
        "Bad Request: top_k is odd",
    ),
    "Nest": (
        {"statusCode": 400, "error": "Bad Request", "message": ["a is odd", "b"]},
        "Bad Request: a is odd; b",
    ),
    "OAuth, both": ({"error": "invalid_grant", "error_description": "gone"}, "invalid_grant: gone"),
    "the same words twice": ({"error": "gone", "message": "gone"}, "gone"),
    "Apigee": (
        {"fault": {"faultstring": "Invalid ApiKey", "detail": {"errorcode": "oauth.v2.InvalidApiKey"}}},
        "Invalid ApiKey",
    ),
    "descriptions": ({"errors": [{"description": "model is odd", "key": "model"}]}, "model is odd"),
    "JSON in a text": ({"error": BEHIND}, "the model is overloaded"),
    "JSON in a message": ({"message": BEHIND}, "the model is overloaded"),
    "a text that only begins like JSON": ({"error": "[1] is odd"}, "[1] is odd"),
    "JSON without words": ({"error": {"message": '{"a": 1}'}}, '{"a": 1}'),
    "no words": ({"status": 500}, ""),
    "odd members": ({"error": {"message": 5, "metadata": [], "detail": {"loc": 7}}}, ""),
}


@pytest.mark.parametrize(("body", "words"), FORMS.values(), ids=[f"G28 {name}" for name in FORMS])
def test_words_are_found_in_each_form(body: Any, words: str) -> None:
    assert error_body(json.dumps(body)).message == words


BY_NAME = {
    "capitals": ({"Error": {"Code": "X1", "Message": "m", "Param": "a"}}, "X1", "a"),
    "Databricks": ({"error_code": "BAD_REQUEST", "message": "m"}, "BAD_REQUEST", None),
    "Amazon": ({"__type": "com.amazon.x#ThrottlingException", "message": "m"}, "ThrottlingException", None),
    "Apigee": ({"fault": {"faultstring": "m", "detail": {"errorcode": "a.b"}}}, "a.b", None),
    "JSON in a text": (
        {"message": json.dumps({"error": {"code": "c", "param": "a", "message": "m"}})},
        "c",
        "a",
    ),
    "behind a router": (
        {
            "error": {
                "code": 400,
                "message": "m",
                "metadata": {"raw": BEHIND_CODE},
            }
        },
        "c",
        "a",
    ),
    "Mistral": (
        {"message": {"detail": [{"loc": ["body", "top_k"], "msg": "no"}]}, "type": "invalid", "code": None},
        None,
        "top_k",
    ),
    "a status in words": ({"status": "error", "message": "m"}, None, None),
}


@pytest.mark.parametrize(("body", "code", "param"), BY_NAME.values(), ids=[f"G28 {name}" for name in BY_NAME])
def test_codes_and_parameters_are_found_in_each_form(body: Any, code: str | None, param: str | None) -> None:
    found = error_body(json.dumps(body))
    assert (found.code, found.param) == (code, param)


@pytest.mark.parametrize("raw", ["", "<html>", "{", "[" * 2000, '"\\ud83d"'])
def test_no_body_is_an_error_of_ours(raw: str) -> None:
    error_body(raw).message.encode()


def test_words_are_bounded() -> None:
    assert len(error_body(json.dumps({"error": "x" * 10**5})).message) == MAX_MESSAGE
    nested: Any = "deep"
    for _ in range(50):
        nested = {"error": nested}
    assert error_body(json.dumps(nested)).message == ""
