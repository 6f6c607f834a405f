"""Sampling members on the real model in float32: what each does to the answer; neighbours do nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Completion

from headrace.models.catalog import DEFAULT_MODEL, Model
from headrace.text.tokenizer import Tokenizer
from tests.conftest import serving_model
from tests.serving import Served

PROMPT = "The most important thing about rivers is"
GREEDY: dict[str, Any] = {"model": DEFAULT_MODEL, "prompt": PROMPT, "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def exact(exact_server: Served) -> Iterator[openai.OpenAI]:
    with exact_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(default_model: Model) -> Tokenizer:
    return Tokenizer(default_model.folder)


def complete(client: openai.OpenAI, **members: Any) -> Completion:
    """`extra`: members that the client does not know."""
    extra = members.pop("extra", None)
    answer = client.completions.create(**{**GREEDY, **members}, extra_body=extra)
    assert isinstance(answer, Completion)
    return answer


def text(client: openai.OpenAI, **members: Any) -> str:
    return complete(client, **members).choices[0].text


def test_a_seeded_request_answers_the_same_alone_and_among_31_others(exact: openai.OpenAI) -> None:
    members = {"prompt": "Once upon a time", "temperature": 1.0, "top_p": 0.95, "seed": 7, "max_tokens": 24}
    others = [
        {"temperature": 0.3 * (i % 5), "seed": i, "top_p": 0.8, "max_tokens": 10 + i} for i in range(31)
    ]
    alone = text(exact, **members)
    with ThreadPoolExecutor(32) as pool:
        company = [pool.submit(text, exact, **other) for other in others[:15]]
        among = pool.submit(text, exact, **members)
        company += [pool.submit(text, exact, **other) for other in others[15:]]
        assert among.result() == alone
        assert all(future.result() for future in company)


def test_bias_forbids_and_forces(exact: openai.OpenAI, tokenizer: Tokenizer) -> None:
    first = tokenizer.encode(text(exact))[0]
    assert tokenizer.encode(text(exact, logit_bias={str(first): -100}))[0] != first
    [water] = tokenizer.encode(" water")
    assert text(exact, logit_bias={str(water): 100}, max_tokens=3) == " water water water"


def test_penalties_end_repetition(exact: openai.OpenAI, tokenizer: Tokenizer) -> None:
    looping = {"prompt": "la la la la la la la la", "max_tokens": 40}
    plain = tokenizer.encode(text(exact, **looping))
    for members in (
        {"frequency_penalty": 2.0},
        {"presence_penalty": 2.0},
        {"extra": {"repetition_penalty": 1.5}},
    ):
        penalized = tokenizer.encode(text(exact, **looping, **members))
        assert len(set(penalized)) > len(set(plain)), members


def test_repetition_penalty_counts_the_prompt(exact: openai.OpenAI, tokenizer: Tokenizer) -> None:
    repeated = "The river flows to the sea. The river flows to the"
    seen = set(tokenizer.encode(repeated))
    assert seen & set(tokenizer.encode(text(exact, prompt=repeated)))
    penalized = complete(exact, prompt=repeated, logprobs=0, extra={"repetition_penalty": 100}).choices[0]
    assert penalized.logprobs is not None
    assert not {tokenizer.token_text(token) for token in seen} & set(penalized.logprobs.tokens or ())


def test_repetition_penalty_may_look_at_the_last_tokens_only(exact: openai.OpenAI) -> None:
    def penalized(**window: object) -> str:
        return text(exact, prompt="la la la la la la", extra={"repetition_penalty": 100, **window})

    assert penalized(repeat_last_n=-1) == penalized(repeat_last_n=2**31 - 1) == penalized()
    assert penalized(repeat_last_n=0) == text(exact, prompt="la la la la la la")
    assert len({penalized(), penalized(repeat_last_n=0), penalized(repeat_last_n=1)}) == 3
    for wrong in (-2, 1.5, "64", True, 2**31):
        with pytest.raises(openai.BadRequestError) as caught:
            penalized(repeat_last_n=wrong)
        assert caught.value.param == "repeat_last_n"


def test_stop_token_ids_end_the_answer_without_showing(exact: openai.OpenAI, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(text(exact))
    cut = complete(exact, extra={"stop_token_ids": [tokens[3]]})
    assert cut.choices[0].text == tokenizer.decode(tokens[:3])
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 4


def test_special_tokens_can_be_shown(exact: openai.OpenAI, tokenizer: Tokenizer) -> None:
    end = str(tokenizer.special["<file_sep>"])
    members = {"logit_bias": {end: 100}, "max_tokens": 2}
    assert text(exact, **members) == ""
    assert text(exact, **members, extra={"skip_special_tokens": False}) == "<file_sep><file_sep>"


def test_truncated_prompts_keep_their_end(exact: openai.OpenAI, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(PROMPT)
    truncated = complete(exact, extra={"truncate_prompt_tokens": 3})
    assert truncated.usage is not None
    assert truncated.usage.prompt_tokens == 3
    assert truncated.choices[0].text == text(exact, prompt=tokens[-3:])


def test_a_prompt_is_cut_to_what_fits_beside_the_answer(small_server: Served, tokenizer: Tokenizer) -> None:
    members = {"prompt": tokenizer.encode(PROMPT) * 200, "max_tokens": 5}
    with small_server.client() as client:
        fitting = complete(client, **members, extra={"truncate_prompt_tokens": -1, "ignore_eos": True})
        with pytest.raises(openai.BadRequestError, match="context length is 256"):
            complete(client, **members)
    assert fitting.usage is not None
    assert (fitting.usage.prompt_tokens, fitting.usage.completion_tokens) == (251, 5)


def test_choices_of_one_prompt_share_its_blocks_and_differ(exact: openai.OpenAI) -> None:
    long = " ".join(f"{number} rivers, {number * 7} mills;" for number in range(30)) + PROMPT
    answer = complete(exact, prompt=long, n=4, temperature=1, seed=3, max_tokens=8)
    assert len({choice.text for choice in answer.choices}) == 4
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 32
    again = complete(exact, prompt=long, n=4, temperature=1, seed=3, max_tokens=8)
    assert [choice.text for choice in again.choices] == [choice.text for choice in answer.choices]


def test_many_prompts_answer_as_each_would_alone(exact: openai.OpenAI, tokenizer: Tokenizer) -> None:
    prompts = [PROMPT, "Blue is", "1, 2, 3,"]
    answer = complete(exact, prompt=prompts, n=2, temperature=1, seed=5)
    assert [choice.index for choice in answer.choices] == list(range(6))
    for number, prompt in enumerate(prompts):
        alone = complete(exact, prompt=prompt, n=2, temperature=1, seed=5)
        mine = answer.choices[2 * number : 2 * number + 2]
        assert [choice.text for choice in mine] == [choice.text for choice in alone.choices]
    ids = complete(exact, prompt=[tokenizer.encode(prompt) for prompt in prompts], n=2, temperature=1, seed=5)
    assert [choice.text for choice in ids.choices] == [choice.text for choice in answer.choices]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(len(tokenizer.encode(prompt)) for prompt in prompts)


def test_best_of_keeps_the_most_probable(exact: openai.OpenAI) -> None:
    members: dict[str, Any] = {"temperature": 1.3, "seed": 11, "max_tokens": 6, "logprobs": 0}
    every = complete(exact, n=5, **members).choices
    mean = {choice.text: _mean(choice) for choice in every}
    best = complete(exact, n=2, best_of=5, **members)
    expected = sorted(mean, key=lambda one: -mean[one])[:2]
    assert [choice.text for choice in best.choices] == expected
    assert best.usage is not None
    assert best.usage.completion_tokens > 2 * 6, "all five are counted"


def _mean(choice: Any) -> float:
    found = choice.logprobs.token_logprobs
    return float(sum(found) / len(found))


def test_logprobs_of_chat_are_the_answers_tokens(exact: openai.OpenAI) -> None:
    members: dict[str, Any] = {
        "model": DEFAULT_MODEL,
        "messages": [{"role": "user", "content": "Name a colour and an emoji."}],
        "max_tokens": 20,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 4,
    }
    answer = exact.chat.completions.create(**members).choices[0]
    assert answer.logprobs is not None
    assert answer.logprobs.content is not None
    entries = answer.logprobs.content
    assert b"".join(bytes(entry.bytes or ()) for entry in entries).decode() == answer.message.content
    for entry in entries:
        tops = [top.logprob for top in entry.top_logprobs]
        assert len(tops) == 4
        assert tops == sorted(tops, reverse=True)
        assert entry.logprob == tops[0], "greedy takes the most probable"
        assert sum(map(math.exp, tops)) <= 1 + 1e-6
    streamed = exact.chat.completions.create(**members, stream=True)
    found = [
        entry.token
        for chunk in streamed
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content or ()
    ]
    assert found == [entry.token for entry in entries]


def test_echo_scores_the_prompt_whatever_is_cached(exact: openai.OpenAI, tokenizer: Tokenizer) -> None:
    prompt = PROMPT * 12
    text(exact, prompt=prompt)  # its blocks are in the prefix cache now
    scored = [
        complete(exact, prompt=prompt, echo=True, logprobs=2, max_tokens=count, n=n, temperature=0)
        for count, n in ((0, 1), (1, 1), (4, 2))
    ]
    size = len(tokenizer.encode(prompt))
    for answer, count in zip(scored, (0, 1, 4), strict=True):
        for choice in answer.choices:
            assert choice.text.startswith(prompt)
            assert choice.logprobs is not None
            found = choice.logprobs
            assert found.tokens is not None
            assert found.token_logprobs is not None
            assert found.text_offset is not None
            assert len(found.tokens) == len(found.token_logprobs) == size + count
            assert found.token_logprobs[0] is None
            assert "".join(found.tokens) == choice.text
            assert [
                choice.text[at:][: len(t)] for at, t in zip(found.text_offset, found.tokens, strict=True)
            ] == (found.tokens)
    first = scored[0].choices[0].logprobs
    last = scored[2].choices[1].logprobs
    assert first is not None
    assert last is not None
    assert first.token_logprobs is not None
    assert last.token_logprobs is not None
    assert first.token_logprobs[1:] == pytest.approx(last.token_logprobs[1:size], abs=1e-4)


def test_a_model_that_knows_how_fills_in_before_a_suffix(default_model: Model, tmp_path: Path) -> None:
    """The default model with three of its unused special tokens renamed: what counts is the prompt."""
    for file in default_model.folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    described = (default_model.folder / "tokenizer.json").read_text()
    names = {"<repo_name>": "<fim_prefix>", "<file_sep>": "<fim_suffix>", "<gh_stars>": "<fim_middle>"}
    for old, new in names.items():
        described = described.replace(old, new)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").write_text(described)
    tokenizer = Tokenizer(tmp_path)
    before, after, between = (tokenizer.special[name] for name in names.values())
    expected = [before, *tokenizer.encode("def add("), after, *tokenizer.encode("return a + b"), between]
    model = replace(default_model, folder=tmp_path)
    with serving_model(model, precision="f32") as served, served.client() as client:
        infilled = complete(client, prompt="def add(", suffix="return a + b")
        assert infilled.choices[0].text == text(client, prompt=expected)
        assert infilled.usage is not None
        assert infilled.usage.prompt_tokens == len(expected)
        with pytest.raises(openai.BadRequestError) as refused:
            complete(client, prompt="def add(", suffix="return a + b", echo=True)
    assert refused.value.param == "suffix"


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"prompt": [1, 10**6]}, "prompt"),
        ({"prompt": [[1], [10**6]]}, "prompt.1"),
        ({"suffix": "."}, "suffix"),
        ({"logit_bias": {"999999": 1}}, "logit_bias.999999"),
        ({"extra_body": {"stop_token_ids": [5, 999999]}}, "stop_token_ids.1"),
        ({"extra_body": {"truncate_prompt_tokens": 0}}, "truncate_prompt_tokens"),
        ({"extra_body": {"min_tokens": 50}}, "min_tokens"),
        ({"n": 100, "prompt": ["a"] * 11}, "n"),
        ({"prompt": [1] * 20_000}, "prompt"),
        ({"prompt": ["a", [1] * 5]}, "prompt.1"),
    ],
    ids=str,
)
def test_what_this_model_cannot_do_is_refused_by_name(
    exact: openai.OpenAI, members: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        exact.completions.create(**{**GREEDY, **members})
    assert refused.value.param == param
