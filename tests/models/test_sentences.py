"""What a folder of safetensors says of how its model embeds or scores texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.encoder_types import Embedding, Layer
from headrace.errors import ModelError
from headrace.models import sentences

BERT = {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 8, "max_position_embeddings": 40}
TRANSFORMER, POOLING, NORMALIZE = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
IDENTITY = "torch.nn.modules.linear.Identity"


def write(folder: Path, files: dict[str, Any], *modules: tuple[str, str]) -> Path:
    entries = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in modules]
    for name, content in {
        "config.json": BERT,
        **({"modules.json": entries} if entries else {}),
        **files,
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("BertModel", True),
        ("XLMRobertaForMaskedLM", True),
        ("BertForSequenceClassification", True),
        ("LlamaForCausalLM", False),
        ("GPT2LMHeadModel", False),
    ],
)
def test_what_embeds_is_known_by_its_architecture(architecture: str, expected: bool, tmp_path: Path) -> None:
    write(tmp_path, {"config.json": {**BERT, "architectures": [architecture]}})
    assert sentences.embeds(tmp_path) is expected


def test_a_decoder_with_modules_embeds_and_one_that_answers_yes_generates(tmp_path: Path) -> None:
    decoder = {"config.json": {**BERT, "architectures": ["Qwen3ForCausalLM"]}}
    assert sentences.embeds(write(tmp_path, decoder, TRANSFORMER, POOLING))
    assert not sentences.embeds(write(tmp_path, decoder, TRANSFORMER, ("LogitScore", "1_LogitScore")))


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({}, "mean"),
    ],
)
def test_pooling_of_both_versions(pooling: dict[str, Any], expected: str, tmp_path: Path) -> None:
    folder = write(tmp_path, {"1_Pooling/config.json": pooling}, TRANSFORMER, POOLING, NORMALIZE)
    assert sentences.read(folder) == Embedding(8, 40, expected)  # type: ignore[arg-type]
    unscaled = write(tmp_path, {"1_Pooling/config.json": pooling}, TRANSFORMER, POOLING)
    assert not sentences.read(unscaled).is_scaled


def test_prompts_layers_and_lengths(tmp_path: Path) -> None:
    files = {
        "1_Pooling/config.json": {"pooling_mode": "mean"},
        "2_Dense/config.json": {"in_features": 8, "out_features": 4, "activation_function": IDENTITY},
        "2_Dense/model.safetensors": None,
        "sentence_bert_config.json": {"max_seq_length": 20, "do_lower_case": True},
        "config_sentence_transformers.json": {
            "prompts": {"query": "q: ", "document": None},
            "default_prompt_name": "query",
        },
    }
    found = sentences.read(write(tmp_path, files, TRANSFORMER, POOLING, ("Dense", "2_Dense")))
    assert found == Embedding(
        4, 20, "mean", False, {"query": "q: "}, "query", True, (Layer("2_Dense", 8, 4, "identity"),)
    )


def test_lengths_that_are_no_numbers_are_as_none(tmp_path: Path) -> None:
    files = {
        "config.json": {**BERT, "max_position_embeddings": True},
        "sentence_bert_config.json": {"max_seq_length": True},
        "tokenizer_config.json": {"model_max_length": True},
    }
    assert sentences.read(write(tmp_path, files)).max_tokens == sentences.USUAL_TOKENS


def test_a_class_may_be_in_any_module_of_sentence_transformers(tmp_path: Path) -> None:
    modules = [{"type": "sentence_transformers.base.modules.transformer.Transformer", "path": ""}]
    assert sentences.read(write(tmp_path, {"modules.json": modules})).pooling == "mean"


def test_positions_that_begin_after_the_padding(tmp_path: Path) -> None:
    roberta = {**BERT, "model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    special = {"model_max_length": 10**30}
    folder = write(tmp_path, {"config.json": roberta, "tokenizer_config.json": special})
    assert sentences.read(folder).max_tokens == 512


def classifier(**members: Any) -> dict[str, Any]:
    return {"config.json": {**BERT, "architectures": ["BertForSequenceClassification"], **members}}


def test_cross_encoders(tmp_path: Path) -> None:
    one = {"id2label": {"0": "LABEL_0"}}
    assert sentences.read(write(tmp_path, classifier(**one))).score == "sigmoid"
    for named in (
        {"sbert_ce_default_activation_function": IDENTITY},
        {"sentence_transformers": {"activation_fn": IDENTITY}},
    ):
        assert sentences.read(write(tmp_path, classifier(**one, **named))).score == "identity"
    settings = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.activation.Tanh"}
    files = {**classifier(**one, **named), "config_sentence_transformers.json": settings}
    assert sentences.read(write(tmp_path, files, TRANSFORMER)).score == "tanh"


def test_an_encoder_whose_decoder_is_elsewhere(tmp_path: Path) -> None:
    config = {**BERT, "is_encoder_decoder": True, "architectures": ["T5EncoderModel"]}
    assert sentences.read(write(tmp_path, {"config.json": config})).pooling == "mean"


def test_vectors_that_are_cut(tmp_path: Path) -> None:
    for stated, width in ((4, 4), (8, 8), (9, 8), (0, 8), (None, 8)):
        files = {"config_sentence_transformers.json": {"truncate_dim": stated}}
        assert sentences.read(write(tmp_path, files)).width == width


def test_prompts_that_are_left_out_do_not_change_the_last_token(tmp_path: Path) -> None:
    settings = {"config_sentence_transformers.json": {"prompts": {"query": "q: "}}}
    for mode in ("lasttoken", "mean"):
        pooling = {"1_Pooling/config.json": {"pooling_mode": mode, "include_prompt": False}}
        folder = write(tmp_path, settings | pooling, TRANSFORMER, POOLING)
        if mode == "lasttoken":
            assert sentences.read(folder).pooling == "last"
    with pytest.raises(ModelError, match="leaves its prompts out"):
        sentences.read(folder)


@pytest.mark.parametrize(
    ("files", "modules", "reason"),
    [
        (classifier(id2label={"0": "no", "1": "yes"}), [], "2 labels"),
        (classifier(), [], "2 labels"),
        (classifier(num_labels=1, sbert_ce_default_activation_function="os.system"), [], "os.system"),
        ({"config.json": {**BERT, "is_encoder_decoder": True}}, [], "an encoder and a decoder"),
        ({}, [TRANSFORMER, ("WordWeights", "1_W")], "WordWeights"),
        ({}, [TRANSFORMER, POOLING], "1_Pooling/config.json, which modules.json names, is missing"),
        ({}, [TRANSFORMER, ("Pooling", "../x")], "is missing"),
        ({"1_Pooling/config.json": {"pooling_mode": ["cls", "mean"]}}, [TRANSFORMER, POOLING], "2 ways"),
        ({"1_Pooling/config.json": {"pooling_mode": "best"}}, [TRANSFORMER, POOLING], "'best'"),
        (
            {"1_Dense/config.json": {"activation_function": IDENTITY}},
            [TRANSFORMER, ("Dense", "1_Dense")],
            "pickled weights are not read",
        ),
        ({"config_sentence_transformers.json": {"default_prompt_name": "x"}}, [], "no prompt 'x'"),
        (
            {"config_sentence_transformers.json": {"truncate_dim": True}},
            [],
            "truncate_dim = True, which is no",
        ),
        (
            {"config_sentence_transformers.json": {"truncate_dim": -1}},
            [],
            "truncate_dim = -1, which is no width",
        ),
        ({"config.json": {**BERT, "hidden_size": True}}, [], "does not say hidden_size"),
        ({"modules.json": [{"type": "custom_st.Transformer", "path": ""}]}, [], "'custom_st.Transformer'"),
    ],
)
def test_what_is_refused(
    files: dict[str, Any], modules: list[tuple[str, str]], reason: str, tmp_path: Path
) -> None:
    write(tmp_path, files, *modules)
    with pytest.raises(ModelError, match=reason):
        sentences.read(tmp_path)
