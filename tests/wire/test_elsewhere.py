"""Members of other servers' dialects: read as ours where they plainly mean that, else refused unless they are
switched off.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.wire.chat import ChatBody, to_request
from headrace.wire.parameters import parse
from tests.conftest import FakeServer
from tests.serving import Served

USER = {"role": "user", "content": "hi"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "fake", "messages": [USER]},
    "/v1/completions": {"model": "fake", "prompt": "hi"},
    "/v1/responses": {"model": "fake", "input": "hi", "store": False},
    "/v1/messages": {"model": "fake", "messages": [USER], "max_tokens": 9},
}
REFUSED: dict[str, Any] = {
    "typical_p": 0.9, "mirostat": 2, "dry_multiplier": 0.8, "xtc_probability": 0.5, "no_repeat_ngram_size": 3,
    "banned_strings": ["x"], "documents": [{"text": "x"}], "top_n_sigma": 1, "tfs_z": 0.5, "do_sample": False,
    "num_beams": 4, "samplers": ["top_k"], "guidance_scale": 1.5, "suppress_tokens": [5], "options": {"a": 1},
    "stop_regex": "a+", "return_token_ids": True, "prompt_logprobs": 1, "lora_path": "x", "max_length": 9,
}  # fmt: skip
IDLE: dict[str, Any] = {
    "typical_p": 1.0, "mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1, "dry_multiplier": 0,
    "dry_base": 1.75, "dry_sequence_breakers": ["\n"], "xtc_probability": 0, "xtc_threshold": 0.1,
    "no_repeat_ngram_size": 0, "banned_strings": [], "documents": [], "top_n_sigma": -1, "repeat_last_n": -1,
    "tfs_z": 1, "do_sample": True, "num_beams": 1, "guidance_scale": 1, "smoothing_factor": 0.0,
    "suppress_tokens": None, "custom_token_bans": "", "adaptive_target": -1.0, "dynatemp_range": 0,
    "min_keep": 0, "return_full_text": False, "penalize_nl": True, "penalize_newline": False,
}  # fmt: skip


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", REFUSED)
def test_l7_what_would_change_the_answer_is_refused_by_name(
    fake_server: FakeServer, path: str, name: str
) -> None:
    answer = fake_server().post(path, {**BODIES[path], name: REFUSED[name]})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert name in error["message"]
    if path != "/v1/messages":
        assert (error["param"], error["code"]) == (name, "unsupported_parameter")


@pytest.mark.parametrize("path", BODIES)
def test_l7_what_is_switched_off_passes(fake_server: FakeServer, path: str) -> None:
    answer = fake_server().post(path, {**BODIES[path], **IDLE}, headers={"X-Headrace-Strict": "true"})
    assert answer.status_code == 200, answer.text
    assert "x-headrace-ignored" not in answer.headers


SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"repeat_penalty": 1.3}, {"repetition_penalty": 1.3}),
    ({"n_predict": 7}, {"max_tokens": 7}),
    ({"n_predict": -1}, {}),
    ({"max_new_tokens": 7}, {"max_tokens": 7}),
    ({"num_predict": 7, "max_tokens": 7}, {"max_tokens": 7}),
    ({"min_new_tokens": 7}, {"min_tokens": 7}),
    ({"stop_sequences": ["a"]}, {"stop": ["a"]}),
    ({"ban_eos_token": True, "random_seed": 4}, {"seed": 4, "ignore_eos": True}),
    ({"truncate": 5}, {"truncate_prompt_tokens": 5}),
    ({"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
]


@pytest.mark.parametrize(("theirs", "ours"), SAME, ids=str)
def test_l7_another_name_means_the_same(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    def read(members: dict[str, Any]) -> object:
        return to_request(parse(ChatBody, json.dumps({**BODIES["/v1/chat/completions"], **members}).encode()))

    assert read(theirs) == read(ours)


@pytest.mark.parametrize(
    "members",
    [
        {"repeat_penalty": 1.3, "repetition_penalty": 1.2},
        {"n_predict": 7, "max_tokens": 8},
        {"max_completion_tokens": 7, "max_new_tokens": 8},
        {"ban_eos_token": True, "ignore_eos": False},
        {"grammar": 'root ::= "a"', "regex": "a"},
        {"json_schema": "{"},
        {"grammar": {"type": "regex"}},
        {"repeat_penalty": 0},
        {"n_predict": -3},
    ],
    ids=str,
)
def test_l7_names_that_contradict_each_other_are_refused(
    fake_server: FakeServer, members: dict[str, Any]
) -> None:
    path = "/v1/chat/completions"
    answer = fake_server().post(path, {**BODIES[path], **members})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].split(".")[0] in members


@pytest.mark.parametrize(
    ("members", "wanted"),
    [
        ({"grammar": 'root ::= "yes" | "no"'}, ("yes", "no")),
        ({"grammar": 'root ::= "yes" | other-word\nother-word ::= "n" "o"'}, ("yes", "no")),
        ({"grammar": 'start: "yes" | "no"'}, ("yes", "no")),
        ({"grammar": {"type": "regex", "value": "(yes|no)"}}, ("yes", "no")),
        ({"grammar": {"type": "json", "value": {"enum": ["yes", "no"]}}}, ('"yes"', '"no"')),
        ({"regex": "(yes|no)"}, ("yes", "no")),
        ({"ebnf": 'root ::= ("yes" | "no")'}, ("yes", "no")),
        ({"json_schema": {"enum": ["yes", "no"]}}, ('"yes"', '"no"')),
        ({"json_schema": '{"enum": ["yes", "no"]}'}, ('"yes"', '"no"')),
    ],
    ids=str,
)
def test_l7_a_form_under_another_name_is_kept_to(
    server: Served, members: dict[str, Any], wanted: set[str]
) -> None:
    model = server.backend.models()[0].id
    answer = server.post(
        "/v1/chat/completions", {"model": model, "messages": [USER], "max_tokens": 9, **members}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] in wanted


@pytest.mark.parametrize("source", ["root ::= (", "root ::= missing", "root ::= " + "(" * 5000, "a ::= b"])
def test_l7_a_grammar_that_cannot_be_read_is_a_400(server: Served, source: str) -> None:
    model = server.backend.models()[0].id
    answer = server.post("/v1/completions", {"model": model, "prompt": "a", "grammar": source})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "grammar"), answer.text
