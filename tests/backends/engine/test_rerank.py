"""Documents scored by a model that generates: the probability of "yes", from the logits of one position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.backends.engine.judge import probability
from headrace.encoder_types import JUDGE_INSTRUCTION, JUDGE_SYSTEM
from headrace.models.catalog import DEFAULT_MODEL, Model
from headrace.text.tokenizer import Tokenizer
from tests.engine.plain import PlainModel
from tests.serving import Served

PATH = "/v1/rerank"
QUERY = "How is flour made?"
DOCUMENTS = [
    "A miller grinds grain between two stones.",
    "Plants turn light into sugar.",
    "The <|im_end|> of the day.",
    "yes",
]


def rerank(served: Served, **members: Any) -> dict[str, Any]:
    body = {"model": DEFAULT_MODEL, "query": QUERY, "documents": DOCUMENTS, **members}
    answer = served.post(PATH, body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def scores(found: dict[str, Any]) -> list[float]:
    by_index = {result["index"]: result["relevance_score"] for result in found["results"]}
    return [by_index[index] for index in sorted(by_index)]


def question(tokenizer: Tokenizer, document: str, instruction: str = JUDGE_INSTRUCTION) -> list[int]:
    text = f"<Instruct>: {instruction}\n<Query>: {QUERY}\n<Document>: {document}"
    turns = [("system", JUDGE_SYSTEM), ("user", tokenizer.escape(text))]
    written = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return tokenizer.encode_rendered(written + "<|im_start|>assistant\n")


@pytest.mark.parametrize("instruction", [None, "Find recipes."])
def test_scores_are_those_of_a_plain_forward_pass(
    exact_server: Served, default_model: Model, instruction: str | None
) -> None:
    tokenizer, plain = Tokenizer(default_model.folder), PlainModel(default_model.folder)
    (yes,), (no,) = tokenizer.encode("yes"), tokenizer.encode("no")
    expected, count = [], 0
    for document in DOCUMENTS:
        tokens = question(tokenizer, document, instruction or JUDGE_INSTRUCTION)
        logits = plain.logits(tokens)[-1].astype(np.float64)
        expected.append(1 / (1 + np.exp(logits[no] - logits[yes])))
        count += len(tokens)
    found = rerank(exact_server, **({} if instruction is None else {"instruction": instruction}))
    assert (found["method"], found["model"]) == ("judge", DEFAULT_MODEL)
    assert scores(found) == pytest.approx(expected, rel=1e-3)
    assert found["usage"] == {"prompt_tokens": count, "total_tokens": count}


def test_a_document_is_scored_alike_alone_and_beside_others(exact_server: Served) -> None:
    together = scores(rerank(exact_server))
    alone = [scores(rerank(exact_server, documents=[document]))[0] for document in DOCUMENTS]
    assert together == pytest.approx(alone, rel=1e-3)


def test_more_documents_than_the_engine_runs_at_once(server: Served) -> None:
    found = rerank(server, documents=[f"Sentence {index} is about mills." for index in range(100)])
    assert len(found["results"]) == 100
    assert all(0 <= score <= 1 for score in scores(found))


def test_a_long_document_is_refused_or_cut(small_server: Served) -> None:
    long = "The wheel turns the millstone, which grinds the grain into flour. " * 30
    body = {"model": DEFAULT_MODEL, "query": QUERY, "documents": ["x", long]}
    refused = small_server.post(PATH, body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (
        400,
        "context_length_exceeded",
        "documents.1",
    )
    assert len(rerank(small_server, documents=["x", long], truncate_prompt_tokens=-1)["results"]) == 2
    assert len(rerank(small_server, documents=["x", long], truncate_prompt_tokens=20)["results"]) == 2
    nothing = small_server.post(PATH, {**body, "truncate_prompt_tokens": 0}).json()["error"]
    assert nothing["param"] == "truncate_prompt_tokens"
    query = small_server.post(PATH, {**body, "query": long, "truncate_prompt_tokens": -1}).json()["error"]
    assert (query["code"], query["param"]) == ("context_length_exceeded", "query")


def test_a_query_is_not_repeated_without_end(server: Served) -> None:
    body = {"model": DEFAULT_MODEL, "query": "q " * 10_000, "documents": ["x"] * 1024}
    answer = server.post(PATH, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "query")


def test_probability_has_no_overflow() -> None:
    assert probability((0.0, 0.0)) == 0.5
    assert probability((1e6, 0.0)) == pytest.approx(0, abs=1e-300)
    assert probability((0.0, 1e6)) == 1
