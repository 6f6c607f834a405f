"""What steering does to the default model, over the API, with a vector and an SAE that we trained."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from headrace.steering.library import ModelLibrary
from headrace.steering.vector_training import random_like
from tests.serving import Served, events
from tests.steering.serving import DATA, LAYER, SAE, VECTOR

MODEL = "smollm2-135m-instruct"
QUESTION = "Tell me about a walk in the park."
DOSES = (0.0, 0.1, 0.2, 0.3)  # times the median norm
PROMPTS = ("I looked at the page and", "When they came home, it was", "It is well known that")
FEATURES: list[dict[str, Any]] = json.loads((DATA / "features_tested.json").read_text())


@pytest.fixture(scope="module")
def client(steered: Served) -> Iterator[openai.OpenAI]:
    with steered.client() as client:
        yield client


def log_probability(
    client: openai.OpenAI, target: str, steering: object, prompts: tuple[str, ...] = PROMPTS
) -> float:
    """The mean log-probability of the target token after the prompts."""
    scored = client.completions.create(
        model=MODEL, prompt=[prompt + target for prompt in prompts], max_tokens=0, echo=True, logprobs=0,
        extra_body={"steering": steering},
    )  # fmt: skip
    found = []
    for choice in scored.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        assert (choice.logprobs.tokens or [""])[-1] == target
        found.append(choice.logprobs.token_logprobs[-1])
    return sum(found) / len(found)


def feature(index: int, **members: Any) -> dict[str, Any]:
    return {"ops": [{"sae": SAE, "feature": index, **members}]}


def added(index: int, dose: float) -> dict[str, Any]:
    return feature(index, mode="add", value=dose, unit="relative")


def library_of(served: Served) -> ModelLibrary:
    library = served.backend.library(MODEL)
    assert library is not None
    return library


def test_the_probability_of_what_features_write_rises_with_the_dose(client: openai.OpenAI) -> None:
    rising = 0
    for tested in FEATURES:
        values = [log_probability(client, tested["token"], added(tested["feature"], dose)) for dose in DOSES]
        rising += all(after > before for before, after in itertools.pairwise(values))
    assert rising >= 4, "of 5 features"


def test_a_feature_does_more_than_a_random_direction_of_equal_length(
    steered: Served, client: openai.OpenAI
) -> None:
    norm = library_of(steered).saes()[0].median_norm
    assert norm is not None
    beaten = 0
    for tested in FEATURES:
        index, target = tested["feature"], tested["token"]
        unit = library_of(steered).sae(SAE).decoder[index]
        direction = random_like((unit / np.linalg.norm(unit)).astype(np.float32), index)
        inline = {"dtype": "float32", "shape": [1, len(direction)],
                  "data": base64.b64encode(direction.astype("<f4").tobytes()).decode()}  # fmt: skip
        random = {
            "ops": [{"direction": inline, "layers": [LAYER], "mode": "add", "value": 0.3, "unit": "relative"}]
        }
        gained = log_probability(client, target, added(index, 0.3))
        beaten += gained >= log_probability(client, target, random) + 1
    assert beaten >= 4, "of 5 features"


def test_ablation_lowers_the_probability_where_the_feature_is_active(client: openai.OpenAI) -> None:
    lowered = 0
    for tested in FEATURES:
        before, target = tested["context"], tested["next"]
        plain = log_probability(client, target, False, (before,))
        lowered += (
            log_probability(client, target, feature(tested["feature"], mode="ablate"), (before,)) < plain
        )
    assert lowered >= 4, "of 5 features"


def test_the_margin_of_happy_over_sad_words_rises_with_the_vector(client: openai.OpenAI) -> None:
    start = ("When I think of today, I feel",)
    margins = []
    for dose in (-1.0, -0.5, 0.0, 0.5, 1.0):
        steering = {"ops": [{"vector": VECTOR, "mode": "add", "value": dose}]}
        happy, sad = (log_probability(client, word, steering, start) for word in (" great", " terrible"))
        margins.append(happy - sad)
    assert margins == sorted(margins)
    assert margins[-1] > margins[2] > margins[0]


def chat(client: openai.OpenAI, steering: object, question: str = QUESTION) -> Any:
    return client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        max_tokens=8, temperature=0, seed=7, logprobs=True, top_logprobs=20,
        extra_body={"steering": steering},
    )  # fmt: skip


def logprobs_of(answer: Any) -> list[Any]:
    return [entry.model_dump() for entry in answer.choices[0].logprobs.content]


@pytest.mark.parametrize(
    "steering",
    [
        False,
        {"ops": []},
        {"ops": [{"vector": VECTOR, "value": 0}]},
        {"ops": [{"vector": VECTOR, "value": 1, "strength": 0}]},
        {"ops": [{"sae": SAE, "feature": 3, "mode": "clamp", "value": 2}], "scale": 0},
        {"ops": [{"sae": SAE, "feature": 3, "mode": "scale", "value": 1}]},
    ],
)
def test_steering_of_strength_0_changes_no_bit(client: openai.OpenAI, steering: object) -> None:
    plain = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=8, temperature=0, seed=7, logprobs=True, top_logprobs=20,
    )  # fmt: skip
    assert logprobs_of(chat(client, steering)) == logprobs_of(plain)


def chosen(client: openai.OpenAI, target: str, steering: object, beginning: str, token: int) -> float:
    """The log-probability of a token as the first one of a chat's answer, which goes on after `beginning`:
    the bias makes it certain, and logprobs are those of the model.
    """
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}, {"role": "assistant", "content": beginning}],
        max_tokens=1, temperature=0, logprobs=True, logit_bias={str(token): 100},
        extra_body={"steering": steering, "add_generation_prompt": False, "continue_final_message": True},
    )  # fmt: skip
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert logprobs.content[0].token == target
    return logprobs.content[0].logprob


def token_of(steered: Served, text: str) -> int:
    (token,) = steered.post("/tokenize", {"model": MODEL, "prompt": text}).json()["tokens"]
    return int(token)


def test_chat_logprobs_rise_with_the_dose_of_features_and_of_a_vector(
    steered: Served, client: openai.OpenAI
) -> None:
    rising = 0
    for tested in FEATURES:
        token = token_of(steered, tested["token"])
        values = [
            chosen(client, tested["token"], added(tested["feature"], dose), PROMPTS[0], token)
            for dose in DOSES
        ]
        rising += all(after > before for before, after in itertools.pairwise(values))
    assert rising >= 4, "of 5 features"
    start, great = "When I think of today, I feel", token_of(steered, " great")
    values = [
        chosen(client, " great", {"ops": [{"vector": VECTOR, "value": dose}]}, start, great)
        for dose in (-0.5, 0.0, 0.5)
    ]
    assert values == sorted(values)
    assert len(set(values)) == 3


def test_chat_logprobs_fall_where_an_active_feature_is_ablated(
    steered: Served, client: openai.OpenAI
) -> None:
    """The contexts were chosen as texts: in a chat, not every feature is active there."""
    changes = []
    for tested in FEATURES:
        token, target = token_of(steered, tested["next"]), tested["next"]
        plain, ablated = (
            chosen(client, target, steering, tested["context"], token)
            for steering in (False, feature(tested["feature"], mode="ablate"))
        )
        changes.append(ablated - plain)
    active = [change for change in changes if change]
    assert len(active) >= 3, "of 5 features"
    assert sum(active) < 0
    assert sum(change < 0 for change in active) > len(active) / 2


def test_a_condition_decides_by_the_prompt(steered: Served, client: openai.OpenAI) -> None:
    """One feature of a text: above its activation nothing is steered, below it everything is."""
    text = "One is larger than two, and more than three."
    top = steered.post("/v1/activations/top", {"sae": SAE, "input": text, "limit": 1}).json()["data"][0]

    def answer(**condition: float) -> Any:
        when = {"sae": SAE, "feature": top["feature"], **condition}
        steering = {"ops": [{"vector": VECTOR, "value": 1}], "when": when, "receipt": True}
        return client.completions.create(
            model=MODEL, prompt=[text, "Hi"], max_tokens=4, temperature=0, seed=1,
            extra_body={"steering": steering},
        ).choices  # fmt: skip

    plain = client.completions.create(model=MODEL, prompt=text, max_tokens=4, temperature=0, seed=1).choices
    met, other = answer(gt=top["max"] * 0.9)
    assert met.steering["when"] == {"activation": pytest.approx(top["max"], rel=1e-3), "is_met": True}
    assert met.steering["ops"]
    assert (other.steering["when"]["is_met"], other.steering["fingerprint"]) == (False, "none")
    unmet, _ = answer(gt=top["max"] * 1.1)
    assert (unmet.steering["when"]["is_met"], unmet.steering["ops"]) == (False, [])
    assert unmet.text == plain[0].text
    assert answer(lt=top["max"] * 1.1)[0].steering["fingerprint"] == met.steering["fingerprint"]


@pytest.mark.parametrize(
    ("when", "code", "param"),
    [
        ({"sae": SAE, "feature": 3}, "missing_required_parameter", "steering.when.gt"),
        ({"sae": "x", "feature": 3, "gt": 1}, "steering_unknown_sae", "steering.when.sae"),
        ({"sae": SAE, "feature": 99999, "gt": 1}, "steering_feature_out_of_range", "steering.when.feature"),
        ({"sae": SAE, "feature": 3, "gt": 1, "scope": "answer"}, None, None),
        ({"sae": SAE, "feature": 3, "gt": 1, "abort": True}, None, None),
    ],
)
def test_a_condition_that_cannot_be_checked_is_refused(
    steered: Served, when: dict[str, Any], code: str | None, param: str | None
) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1,
            "steering": {"ops": [{"vector": VECTOR, "value": 1}], "when": when}}  # fmt: skip
    refused = steered.post("/v1/chat/completions", body)
    assert refused.status_code == 400, refused.text
    if code is not None:
        assert (refused.json()["error"]["code"], refused.json()["error"]["param"]) == (code, param)


def test_a_receipt_names_what_changed_besides(steered: Served, client: openai.OpenAI) -> None:
    tested = FEATURES[0]["feature"]
    steering = {**feature(tested, mode="clamp", value=0.4, unit="relative"), "receipt": True}
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], max_tokens=2,
        extra_body={"steering": steering},
    )  # fmt: skip
    effects = answer.choices[0].steering["top_side_effects"]  # type: ignore[attr-defined]
    sizes = [abs(effect["change"]) for effect in effects]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 8
    assert tested not in [effect["feature"] for effect in effects]
    assert {(effect["sae"], effect["layer"]) for effect in effects} == {(SAE, LAYER)}


def test_activations_of_a_text_are_streamed(steered: Served) -> None:
    body = {"sae": SAE, "input": "One is more than two.", "top_k": 2}
    whole = steered.post("/v1/activations", body).json()["feature_activations"]["content"]
    assert events(steered.post("/v1/activations/stream", body)) == [*whole, "[DONE]"]
    assert steered.post("/v1/activations/stream", {**body, "sae": "x"}).status_code == 404


def test_features_are_found_by_the_token_that_they_write(steered: Served) -> None:
    tested = FEATURES[0]
    found = steered.http.get(
        f"/v1/saes/{SAE}/features", params={"token": tested["token"], "limit": 5}, timeout=600
    ).json()["data"]
    writers = [entry["feature"] for entry in found if "writes" in entry]
    assert tested["feature"] in writers
    assert len(writers) == 5
    assert any("reads" in entry for entry in found)
    assert steered.get(f"/v1/saes/{SAE}/features?token=").status_code == 400
    shown = steered.http.get(f"/v1/saes/{SAE}/features/{tested['feature']}?lens=true", timeout=600).json()
    assert shown["lens"]["top"][0]["token"] == tested["token"]
    assert shown["lens"]["top"][0]["score"] > 0 > shown["lens"]["bottom"][0]["score"]
    assert sum(minute["count"] for minute in shown["history"]) > 0


def test_the_logprobs_of_a_chat_show_the_same_shift(client: openai.OpenAI) -> None:
    """Of tokens that are among the most probable 20 for the first place of the answer: what the vector makes
    more probable after a text, it makes more probable in a chat.
    """

    def first(value: float) -> dict[str, float]:
        answer = chat(client, {"ops": [{"vector": VECTOR, "value": value}]}, "How do you feel today?")
        top = answer.choices[0].logprobs.content[0].top_logprobs
        return {entry.token: entry.logprob for entry in top}

    below, plain, above = first(-1.0), first(0.0), first(1.0)
    shared = below.keys() & plain.keys() & above.keys()
    assert len(shared) >= 3
    for token in shared:  # the distribution moves, and in opposite directions for most tokens
        assert below[token] != plain[token] != above[token]
    moves = [(above[token] - plain[token]) * (below[token] - plain[token]) < 0 for token in shared]
    assert sum(moves) >= len(moves) / 2
