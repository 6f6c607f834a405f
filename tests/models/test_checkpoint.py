"""Folders of safetensors are described where they are; what they lack is named; pickles are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from headrace.errors import ModelError
from headrace.models.catalog import Cache, locate, prepare
from headrace.models.checkpoint import INDEX, USUAL_LENGTH, weight_files
from tests.models.checkpoints import write_safetensors
from tests.models.tiny import CHATML, write_tiny

WEIGHTS = {"a.weight": np.ones((2, 3), np.float32)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As others publish it."""
    made = prepare(str(write_tiny(tmp_path / "tiny.gguf")), Cache(tmp_path / "made")).folder
    folder = tmp_path / "Tiny-Gemma"
    folder.mkdir()
    shutil.copy(made / "tokenizer.json", folder)
    write(folder / "config.json", {"model_type": "gemma", "vocab_size": 263, "max_position_embeddings": 512})
    write(folder / "config.json", {"bos_token_id": 1, "eos_token_id": 0, "dtype": "bfloat16"})
    write_safetensors(folder / "model.safetensors", WEIGHTS)
    return folder


def write(path: Path, members: dict[str, object]) -> None:
    old = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(old | members))


def test_it_is_described_in_place(folder: Path, tmp_path: Path) -> None:
    write(folder / "generation_config.json", {"temperature": 0.6, "top_k": 20, "do_sample": True})
    write(folder / "tokenizer_config.json", {"chat_template": CHATML, "add_bos_token": True})
    cache = Cache(tmp_path / "cache")
    model = prepare(str(folder), cache)
    assert model.is_checkpoint
    assert (model.name, model.folder, model.gguf) == ("tiny-gemma", folder, None)
    assert (model.architecture, model.quantization, model.context_length) == ("gemma", "F32", 512)
    assert (model.bos_token_id, model.eos_token_ids, model.add_bos) == (1, (0,), True)
    assert model.chat_template == CHATML
    assert model.sampling == {"temperature": 0.6, "top_k": 20}
    assert not cache.root.exists()


def test_a_template_of_its_own_file(folder: Path, tmp_path: Path) -> None:
    write(folder / "tokenizer_config.json", {"chat_template": "old"})
    (folder / "chat_template.jinja").write_text(CHATML)
    assert prepare(str(folder), Cache(tmp_path)).chat_template == CHATML


def test_a_template_that_only_the_processor_has(folder: Path, tmp_path: Path) -> None:
    write(folder / "chat_template.json", {"chat_template": CHATML})
    assert prepare(str(folder), Cache(tmp_path)).chat_template == CHATML
    write(folder / "tokenizer_config.json", {"chat_template": {"default": "named", "rag": "another"}})
    assert prepare(str(folder), Cache(tmp_path)).chat_template == "named"
    write(folder / "tokenizer_config.json", {"chat_template": "newer"})
    assert prepare(str(folder), Cache(tmp_path)).chat_template == "newer"


def test_a_template_that_is_all_of_the_processors_file(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.json").write_text(json.dumps(CHATML))
    assert prepare(str(folder), Cache(tmp_path)).chat_template == CHATML


WITHOUT = "{%- for message in messages %}\n  {{ message.content }}\n{%- endfor %} \n"
WITH = "\n  {% set count = tools | length %}{{ count }} tools\n\n"


@pytest.mark.parametrize("are_files", [False, True])
def test_a_template_of_its_own_for_tools(are_files: bool, folder: Path, tmp_path: Path) -> None:
    if are_files:
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(WITH)
        (folder / "chat_template.jinja").write_text(WITHOUT)
    else:
        named = {"default": WITHOUT, "rag": "another", "tool_use": WITH}
        listed = [{"name": name, "template": text} for name, text in named.items()]
        write(folder / "tokenizer_config.json", {"chat_template": listed})
    both = prepare(str(folder), Cache(tmp_path)).chat_template
    assert both is not None
    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    for tools, alone in ((None, WITHOUT), ([], WITHOUT), ([{}, {}], WITH)):
        values: dict[str, object] = {"messages": [{"content": "a"}, {"content": "b"}], "tools": tools}
        assert jinja.from_string(both).render(values) == jinja.from_string(alone).render(values)


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "TokenizersBackend", "LlamaTokenizerFast"])
def test_classes_for_any_tokenizer_do_not_read_whether_bos_is_added(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    write(folder / "tokenizer_config.json", {"add_bos_token": True, "tokenizer_class": kind})
    assert prepare(str(folder), Cache(tmp_path)).add_bos == (kind == "LlamaTokenizerFast")


@pytest.mark.parametrize("named", ["<|im_end|>", {"content": "<|im_end|>"}])
def test_the_tokenizers_end_is_an_end_too(named: object, folder: Path, tmp_path: Path) -> None:
    write(folder / "tokenizer_config.json", {"eos_token": named})
    write(folder / "generation_config.json", {"eos_token_id": [0, 7]})
    assert prepare(str(folder), Cache(tmp_path)).eos_token_ids == (0, 7, 2)


@pytest.mark.parametrize("named", ["<|im_end|>", {"content": "<|im_end|>"}])
def test_the_end_that_a_file_of_its_own_names(named: object, folder: Path, tmp_path: Path) -> None:
    write(folder / "tokenizer_config.json", {"eos_token": "<|im_start|>"})
    write(folder / "special_tokens_map.json", {"eos_token": named})
    assert prepare(str(folder), Cache(tmp_path)).eos_token_ids == (0, 1, 2)


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json", INDEX])
@pytest.mark.parametrize("text", ["", " \n", "{}", "\ufeff{}"])
def test_an_empty_file_is_as_none(name: str, text: str, folder: Path, tmp_path: Path) -> None:
    plain = prepare(str(folder), Cache(tmp_path))
    (folder / name).write_text(text)
    assert prepare(str(folder), Cache(tmp_path)) == replace(
        plain, size_bytes=plain.size_bytes + len(text.encode())
    )


def test_sampling_that_an_older_folder_has_in_its_configuration(folder: Path, tmp_path: Path) -> None:
    write(folder / "config.json", {"temperature": 0.6, "top_k": 20})
    assert prepare(str(folder), Cache(tmp_path)).sampling == {"temperature": 0.6, "top_k": 20}
    write(folder / "generation_config.json", {"top_p": 0.9})
    assert prepare(str(folder), Cache(tmp_path)).sampling == {"top_p": 0.9}


@pytest.mark.parametrize("dtype", ["torch.float32", "bf16", "auto", None, {"": "float32"}])
def test_the_files_say_how_weights_are_stored(dtype: object, folder: Path, tmp_path: Path) -> None:
    write(folder / "config.json", {"dtype": dtype, "torch_dtype": dtype})
    assert prepare(str(folder), Cache(tmp_path)).quantization == "F32"


@pytest.mark.parametrize("name", ["n_positions", "max_seq_len", "seq_length"])
def test_other_names_of_the_context(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "vocab_size": 263, name: 77}))
    assert prepare(str(folder), Cache(tmp_path)).context_length == 77


def test_an_adapter_is_no_model(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    write(folder / "adapter_config.json", {"base_model_name_or_path": "org/base", "peft_type": "LORA"})
    with pytest.raises(ModelError, match="holds an adapter of org/base, and not that model"):
        prepare(str(folder), Cache(tmp_path))


def test_an_adapter_with_the_configuration_of_its_model(folder: Path, tmp_path: Path) -> None:
    write(folder / "adapter_config.json", {"base_model_name_or_path": "org/base", "peft_type": "LORA"})
    assert prepare(str(folder), Cache(tmp_path)).name == "tiny-gemma"
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="holds an adapter of org/base, and not that model"):
        prepare(str(folder), Cache(tmp_path))


@pytest.mark.parametrize(
    ("file", "members", "maker"),
    [
        ("config.json", {"quantization": {"group_size": 64, "bits": 4}}, "by MLX"),
        ("config.json", {"quantization": {"bits": 4}, "quantization_config": {"bits": 4}}, "by MLX"),
        ("config.json", {"quantization_config": {"quant_algo": "NVFP4"}}, "by ModelOpt"),
        ("config.json", {"quantization_config": {"bits": 4}}, "in a way that config.json does not name"),
        ("hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}}, "by ModelOpt"),
    ],
)
def test_quantizations_that_are_not_read_are_named(
    file: str, members: dict[str, object], maker: str, folder: Path, tmp_path: Path
) -> None:
    write(folder / file, members)
    with pytest.raises(ModelError, match=f"is quantized {maker}, which is not read: get the original"):
        prepare(str(folder), Cache(tmp_path))


def test_older_names_of_a_quantization(folder: Path, tmp_path: Path) -> None:
    write(folder / "config.json", {"quantization_config": {"load_in_4bit": True}})
    assert prepare(str(folder), Cache(tmp_path)).quantization == "bitsandbytes"


def test_sizes_that_a_folder_of_gemma_3_leaves_out(folder: Path, tmp_path: Path) -> None:
    """Those that see images state them nowhere."""
    (folder / "config.json").write_text(
        json.dumps({"model_type": "gemma3", "text_config": {"hidden_size": 3}})
    )
    with pytest.raises(ModelError, match="does not say vocab_size"):
        prepare(str(folder), Cache(tmp_path))
    table = {"language_model.model.embed_tokens.weight": np.ones((263, 3), np.float32)}
    write_safetensors(folder / "model.safetensors", table)
    model = prepare(str(folder), Cache(tmp_path))
    assert (model.vocabulary, model.context_length) == (263, 131072)


@pytest.mark.parametrize(
    "members",
    [
        {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 100},
        {"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 100}},
    ],
)
def test_a_context_beyond_which_all_keys_would_be_rotated_anew(
    members: dict[str, object], folder: Path, tmp_path: Path
) -> None:
    write(folder / "config.json", members)
    assert prepare(str(folder), Cache(tmp_path)).context_length == 100


def test_a_nested_configuration(folder: Path, tmp_path: Path) -> None:
    text = {"vocab_size": 263, "max_position_embeddings": 64, "eos_token_id": 5}
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "text_config": text}))
    model = prepare(str(folder), Cache(tmp_path))
    assert (model.vocabulary, model.context_length, model.eos_token_ids) == (263, 64, (5,))


def test_weights_in_several_files(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "model.safetensors", folder / "model-1.safetensors")
    write_safetensors(folder / "model-2.safetensors", WEIGHTS)
    write(folder / INDEX, {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    assert [file.name for file in weight_files(folder)] == ["model-1.safetensors", "model-2.safetensors"]
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"not complete: model-2\.safetensors, which .* is missing"):
        prepare(str(folder), Cache(tmp_path))


def test_an_index_names_no_file_elsewhere(folder: Path, tmp_path: Path) -> None:
    write_safetensors(folder.parent / "other.safetensors", WEIGHTS)
    write(folder / INDEX, {"weight_map": {"a": "../other.safetensors"}})
    with pytest.raises(ModelError, match="not complete"):
        prepare(str(folder), Cache(tmp_path))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_with_the_reason(name: str, folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "model.safetensors", folder / name)
    with pytest.raises(
        ModelError, match=rf"{name}\), and reading a pickle can run any code .*save_pretrained"
    ):
        prepare(str(folder), Cache(tmp_path))
    with pytest.raises(ModelError, match="reading a pickle can run any code"):
        prepare(str(folder / name), Cache(tmp_path))


def test_an_index_that_names_nothing_is_as_none(folder: Path, tmp_path: Path) -> None:
    write(folder / INDEX, {"weight_map": {}})
    assert [file.name for file in weight_files(folder)] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["num_hidden_layers", "n_layer"])
def test_more_layers_than_tensors(name: str, folder: Path, tmp_path: Path) -> None:
    """transformers would make as many, until the memory is full."""
    write(folder / "config.json", {name: 10**9})
    with pytest.raises(
        ModelError, match=r"config\.json says more layers, 1000000000, than there are tensors: 1"
    ):
        prepare(str(folder), Cache(tmp_path))


def test_tokens_that_there_are_not(folder: Path, tmp_path: Path) -> None:
    """The end of an answer is looked up in the vocabulary."""
    write(folder / "config.json", {"bos_token_id": -1})
    write(folder / "generation_config.json", {"eos_token_id": [10**9, -1, 2, True, 263]})
    model = prepare(str(folder), Cache(tmp_path))
    assert (model.bos_token_id, model.eos_token_ids) == (None, (2,))


def test_a_context_of_nothing_is_as_none(folder: Path, tmp_path: Path) -> None:
    write(folder / "config.json", {"max_position_embeddings": -1})
    assert prepare(str(folder), Cache(tmp_path)).context_length == USUAL_LENGTH


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", INDEX])
def test_json_that_is_nested_too_deep(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / name).write_text("[" * 100_000)
    with pytest.raises(ModelError, match=f"{name} cannot be read"):
        prepare(str(folder), Cache(tmp_path))


@pytest.mark.parametrize("described", ["gptq", [4], 4])
def test_a_quantization_that_is_not_described(described: object, folder: Path, tmp_path: Path) -> None:
    write(folder / "config.json", {"quantization_config": described})
    with pytest.raises(ModelError, match="has a quantization_config that is no object"):
        prepare(str(folder), Cache(tmp_path))


def test_weights_behind_a_link_to_itself(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(ModelError, match=r"nor has it any \*\.safetensors"):
        prepare(str(folder), Cache(tmp_path))


def test_pickles_beside_safetensors_do_not_matter(folder: Path, tmp_path: Path) -> None:
    (folder / "training_args.bin").write_bytes(b"x")
    assert prepare(str(folder), Cache(tmp_path)).is_checkpoint


def test_one_file_of_a_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="give the folder"):
        prepare(str(folder / "model.safetensors"), Cache(tmp_path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<html>" * 99, "its header has"),
        ((10**5).to_bytes(8, "little") + b"[" * 10**5, "recursion"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
    ],
)
def test_a_damaged_file_of_weights_is_named(
    content: bytes, reason: str, folder: Path, tmp_path: Path
) -> None:
    next(folder.glob("*.safetensors")).write_bytes(content)
    with pytest.raises(ModelError, match=reason):
        prepare(str(folder), Cache(tmp_path))


def test_a_missing_configuration_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        prepare(str(folder), Cache(tmp_path))


def test_a_missing_tokenizer_is_named_with_its_remedy(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json: copy it .*AutoTokenizer"):
        prepare(str(folder), Cache(tmp_path))


def test_it_is_for_pytorch_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is of architecture 'gemma'"):
        prepare(str(folder), Cache(tmp_path), runtime="openvino")
    with pytest.raises(ModelError, match=r"llama\.cpp reads GGUF files"):
        locate(str(folder), Cache(tmp_path))


def test_a_gguf_file_is_not_for_pytorch(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf")
    with pytest.raises(ModelError, match="not for PyTorch, which reads folders of safetensors"):
        prepare(str(path), Cache(tmp_path / "cache"), runtime="torch")


def test_a_gguf_file_called_bin(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf")
    path.rename(tmp_path / "tiny.bin")
    assert prepare(str(tmp_path / "tiny.bin"), Cache(tmp_path / "cache")).architecture == "llama"
