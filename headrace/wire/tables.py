"""The parameters of chat, text completions and embeddings. parameters.py explains the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import BaseModel

from headrace.features import Feature as F
from headrace.wire.elsewhere import (
    ADVICE,
    ALIASES,
    ELSEWHERE,
    EMPTY,
    NOTHING,
    Neutral,
    equals,
    without_master,
)
from headrace.wire.parameters import Table, advice, ignored, needs, ours, refused, sent


def is_text(format: object) -> bool:
    """Whether a response format prescribes nothing."""
    return getattr(format, "type", None) == "text"


def _continues(body: BaseModel) -> bool:
    return bool(getattr(body, "continue_final_message", None))


def _has_no_tools(body: BaseModel) -> bool:
    return not getattr(body, "tools", None) and not getattr(body, "functions", None)


EXTENSION = "Extension."
BOOKKEEPING = "For a provider's bookkeeping."
QUOTA = "Cerebras: at most 32,768, and 8,192 by default, for it counts as used what may be."
CACHING = "The prefix cache needs no hints."
STRICT = needs(F.STRICT_TOOLS, "", equals(False))

# members of other servers, by either endpoint
FOREIGN: Table = {
    name: needs(known.feature, known.note, known.is_off, is_redundant=without_master(name))
    for name, known in ELSEWHERE.items()
}
_OWN: Table = {
    "model": ours("An id from `/v1/models`; an unknown one is 404."),
    "stream": ours(),
    "stream_options": ours("Only with `stream: true`."),
    "stream_options.include_usage": ours(),
    "stream_options.continuous_usage_stats": ours(f"{EXTENSION} Every chunk has the usage so far."),
    "stream_options.include_obfuscation": ignored("Nothing is padded.", equals(False)),
    "temperature": needs(F.TEMPERATURE, "0 is greedy. Default: the model's, else 1. Anthropic: at most 1."),
    "top_p": needs(F.TOP_P, "Default: the model's, else 1."),
    "n": needs(F.CHOICES, "1 to 128; the prompt is computed once.", equals(1)),
    "stop": needs(F.STOP, "Up to 4 strings, which are not part of the answer.", EMPTY),
    "seed": needs(F.SEED, "Our engine: the same seed and `system_fingerprint`, the same answer."),
    "frequency_penalty": needs(F.FREQUENCY_PENALTY, "Additive, over the tokens of the answer.", equals(0)),
    "presence_penalty": needs(F.PRESENCE_PENALTY, "Additive, over the tokens of the answer.", equals(0)),
    "logit_bias": needs(F.LOGIT_BIAS, "Token id → what is added to its logit.", EMPTY),
    "response_format": needs(F.JSON_SCHEMA,
        "`text`, `json_object`, `json_schema`: the answer is forced into it. Anthropic: no `json_object`.",
        is_text),
    "response_format.json_schema.description": needs(F.SCHEMA_DESCRIPTION, "The purpose of the schema."),
    "user": needs(F.USER, "The caller's own name for its user, for a provider's bookkeeping."),
    "top_k": needs(F.TOP_K, f"{EXTENSION} 0 or -1 keeps all."),
    "min_p": needs(F.MIN_P, EXTENSION, equals(0)),
    "repetition_penalty": needs(F.REPETITION_PENALTY, f"{EXTENSION} Divides the logits of tokens seen.",
        equals(1)),
    "ignore_eos": needs(F.IGNORE_EOS, f"{EXTENSION} Continues past the end-of-text token.", equals(False)),
    "min_tokens": needs(F.MIN_TOKENS, f"{EXTENSION} No end before this many.", equals(0)),
    "stop_token_ids": needs(F.STOP_TOKEN_IDS, f"{EXTENSION} Tokens that end the answer.", EMPTY),
    "skip_special_tokens": needs(F.SPECIAL_TOKENS_SHOWN, f"{EXTENSION} false shows special tokens as text.",
        equals(True)),
    "truncate_prompt_tokens": needs(F.PROMPT_TRUNCATION,
        f"{EXTENSION} Keeps this many tokens of the prompt, the last ones; -1: what fits."),
    "detect_loops": needs(F.LOOP_DETECTION,
        f"{EXTENSION} Ends an answer that repeats itself with `length`. Default: answers without a limit.",
        equals(False)),
    "priority": needs(F.PRIORITY,
        f"{EXTENSION} Lower values run first; below 0 only with a key that may hurry.", equals(0)),
    "timeout": ours(f"{EXTENSION} Seconds the answer may take; the server's own limit holds too."),
    "guided_json": needs(F.JSON_SCHEMA, f"{EXTENSION} A JSON schema."),
    "guided_regex": needs(F.REGEX, f"{EXTENSION} A regular expression."),
    "guided_choice": needs(F.CHOICE, f"{EXTENSION} Texts, of which the answer is one."),
    "guided_grammar": needs(F.GRAMMAR, f"{EXTENSION} A grammar in Lark's syntax, or in llama.cpp's (GBNF)."),
    "structured_outputs": sent(f"{EXTENSION} vLLM's: one of its members."),
    "structured_outputs.json": needs(F.JSON_SCHEMA, "As `guided_json`."),
    "structured_outputs.json_object": needs(F.JSON_OBJECT, "As `response_format` of type `json_object`.",
        equals(False)),
    "structured_outputs.regex": needs(F.REGEX, "As `guided_regex`."),
    "structured_outputs.choice": needs(F.CHOICE, "As `guided_choice`."),
    "structured_outputs.grammar": needs(F.GRAMMAR, "As `guided_grammar`."),
    "structured_outputs.disable_additional_properties": needs(F.SCHEMA_NARROWING,
        "false: as `schema_narrowing` without `closed_objects`."),
    "structured_outputs.structural_tag": refused("Use `tools`.", NOTHING),
    "structured_outputs.whitespace_pattern": refused("JSON is written in one way.", NOTHING),
    "schema_narrowing": needs(F.SCHEMA_NARROWING,
        f"{EXTENSION} Where less is generated than a schema allows: docs/structured-output.md."),
    "allowed_token_ids": refused("Use `logit_bias`.", NOTHING),
    "bad_words": refused("Use `logit_bias`.", EMPTY),
    "include_stop_str_in_output": refused("", equals(False)),
    "length_penalty": refused("It belongs to beam search.", equals(1)),
    "use_beam_search": refused("", equals(False)),
}  # fmt: skip
STEERING: Table = {
    "steering": needs(F.STEERING,
        f"{EXTENSION} Edits of the model's hidden states: docs/steering.md. Elsewhere 400 "
        "`steering_unsupported`.", equals(False)),
    "profile": needs(F.STEERING, f"{EXTENSION} The name of a steering profile."),
    "probe": needs(F.PROBES, f"{EXTENSION} Features of the hidden states, to be returned with the tokens."),
}  # fmt: skip
IDLE: Mapping[str, Neutral] = {
    "repeat_penalty": equals(1), "min_new_tokens": equals(0), "ban_eos_token": equals(False),
    "stop_sequences": EMPTY, "stop_strings": EMPTY, "regex": EMPTY, "ebnf": EMPTY, "grammar": EMPTY,
    "grammar_string": EMPTY, "n_predict": equals(-1), "num_predict": equals(-1, -2),
}  # fmt: skip
ANOTHER_NAME = {
    alias: replace(
        _OWN.get(name, needs(F.MAX_TOKENS)),
        note=f"{EXTENSION} Another name of `{name}`.",
        is_neutral=IDLE.get(alias, NOTHING),
    )
    for name, aliases in ALIASES.items()
    for alias in aliases
}
GENERATION: Table = {**FOREIGN, **ANOTHER_NAME, **_OWN, **STEERING}


def _has_blocks(message: BaseModel) -> bool:
    return bool(getattr(message, "thinking_blocks", None))


def _is_result(message: BaseModel) -> bool:
    """Whether a message is a call's result: its call already has the tool's name."""
    return getattr(message, "role", None) in ("tool", "function")


CHAT: Table = {
    **GENERATION,
    "messages": sent(
        "Content: text, or parts of type `text`, `image_url`, `file`; the engine reads text only. To "
        "Anthropic what `system` and `developer` say goes first, to Ollama a message's images."),
    "messages.name": needs(F.SPEAKER_NAMES, "Of a speaker. Engine: where the model's chat template knows it.",
        is_redundant=_is_result),
    "messages.reasoning_content": needs(F.UNSIGNED_REASONING, "Anthropic takes only what it has signed.",
        is_redundant=_has_blocks),
    "messages.reasoning": needs(F.UNSIGNED_REASONING, "The same.", is_redundant=_has_blocks),
    "messages.thinking_blocks.signature": needs(F.SIGNED_REASONING,
        f"{EXTENSION} Only its signer can read it."),
    "messages.thinking_blocks.data": needs(F.SIGNED_REASONING, f"{EXTENSION} Only its writer can read it."),
    "messages.content.image_url.detail": needs(F.IMAGE_DETAIL, "", equals("auto")),
    "messages.audio": refused("", NOTHING),
    "messages.annotations": ignored("They are the server's own and change nothing.", EMPTY),
    "messages.refusal": ignored("A refusal that the model should read goes into `content`."),
    "max_tokens": needs(F.MAX_TOKENS, f"Clamped to what fits the context. Default: the rest of it. {QUOTA}"),
    "max_completion_tokens": needs(F.MAX_TOKENS, "The newer name of `max_tokens`."),
    "logprobs": needs(F.LOGPROBS, "", equals(False)),
    "top_logprobs": needs(F.LOGPROBS, "Up to 20.", equals(0)),
    "tools": needs(F.TOOLS, "Of type `function`.", EMPTY),
    "tools.function.strict": STRICT,
    "tool_choice": needs(F.TOOL_CHOICE,
        "`none`, `auto`, `required`, a function, `allowed_tools`. Ollama: no `required`, no function.",
        equals("auto"), is_redundant=_has_no_tools),
    "parallel_tool_calls": needs(F.PARALLEL_TOOL_CALLS, "Cerebras: 400 where the model does not take it.",
        equals(True), is_redundant=_has_no_tools),
    "functions": needs(F.TOOLS, "The older name of `tools`.", EMPTY),
    "functions.strict": STRICT,
    "function_call": needs(F.TOOL_CHOICE, "The older name of `tool_choice`.", equals("auto"),
        is_redundant=_has_no_tools),
    "reasoning_effort": needs(F.REASONING_EFFORT,
        "Where the model's chat template knows it. A provider with fewer steps gets the nearest."),
    "add_generation_prompt": needs(F.NO_GENERATION_PROMPT,
        f"{EXTENSION} Ends the prompt with the beginning of an assistant's message. Default true.",
        equals(True), is_redundant=_continues),
    "continue_final_message": needs(F.CONTINUED_MESSAGE,
        f"{EXTENSION} Continues the last message instead of answering it.", equals(False)),
    "chat_template_kwargs": needs(F.TEMPLATE_VARIABLES,
        f"{EXTENSION} Variables of the model's chat template. Ollama: `enable_thinking` only.", EMPTY),
    "chat_template": refused("The model's own is used.", NOTHING),
    "enable_thinking": needs(F.TEMPLATE_VARIABLES, f"{EXTENSION} The same as in `chat_template_kwargs`."),
    "echo": refused("Only in completions.", equals(False)),
    "best_of": refused("Only in completions.", equals(1)),
    "system": refused("Put it into `messages`.", EMPTY),
    "add_special_tokens": refused("The chat template writes them.", equals(False)),
    "audio": refused("", NOTHING),
    "modalities": refused("Only text is generated.", equals(["text"])),
    "verbosity": needs(F.VERBOSITY,
        "The length of answers: `low`, `medium`, `high`, to providers that know it; named where one "
        "refuses it.", equals("medium")),
    "web_search_options": refused("", NOTHING),
    "store": ours("Stores the answer, for `GET /v1/chat/completions`. Default false."),
    "metadata": ours("Of the stored answer; without `store: true` it is ignored."),
    "conversation": ours(f"{EXTENSION} The conversation to continue, or `new`."),
    "conversation_id": ours(f"{EXTENSION} The same as `conversation`."),
    "moderation": advice("Nothing is moderated."),
    "prediction": needs(F.PREDICTION, "A text that the answer may repeat. It changes speed, not the answer."),
    "prompt_cache_key": advice(CACHING),
    "prompt_cache_options": advice(CACHING),
    "prompt_cache_retention": advice(CACHING),
    "safety_identifier": advice(BOOKKEEPING),
    "service_tier": needs(F.SERVICE_TIER,
        "`flex`: the engine runs it after requests without; the other values mean the same as none.",
        equals("auto", "default")),
}  # fmt: skip
COMPLETIONS: Table = {
    **GENERATION,
    "prompt": needs(F.TEXT_COMPLETION,
        "A string, strings, token ids, lists of token ids; at most 1,024. Ollama: text, not empty."),
    "max_tokens": needs(F.MAX_TOKENS, "Clamped to what fits the context. Default: 16; 0 only with `echo`."),
    "best_of": needs(F.CHOICES, "At least `n`; not with `stream`.", equals(1)),
    "echo": needs(F.ECHO, "With the prompt's logprobs if `logprobs` is given. Ollama: not with `logprobs`.",
        equals(False)),
    "parse_special": needs(F.SPECIAL_TOKENS_IN_PROMPT,
        f"{EXTENSION} Special tokens in the text of a prompt, as `<s>`, are special: for prompts that a "
        "chat template has written. Default: they are text. llama.cpp and Ollama take them as special "
        "anyway.", equals(False)),
    "logprobs": needs(F.LOGPROBS, "Up to 20."),
    "suffix": needs(F.SUFFIX, "For models that can fill in the middle; 400 for others.", EMPTY),
    "max_completion_tokens": refused("Use `max_tokens`.", NOTHING),
    "messages": refused("Only in chat.", EMPTY),
    "system": refused("Put it into `prompt`.", EMPTY),
    "add_special_tokens": refused("The model's own way is kept.", equals(True)),
    "tools": refused("Only in chat.", EMPTY),
    "tool_choice": refused("Only in chat.", equals("none", "auto")),
    "parallel_tool_calls": ignored("There are no tools."),
    "functions": refused("Only in chat.", EMPTY),
    "function_call": refused("Only in chat.", equals("none", "auto")),
    "metadata": ignored(BOOKKEEPING),
    "store": ignored("Only chat completions are stored.", equals(False)),
    # they come along where one body is sent to both endpoints
    **{name: CHAT[name] for name in ADVICE},
    "prediction": advice("In chat only. It changes speed, not the answer."),
}  # fmt: skip
EMBEDDINGS: Table = {
    "model": GENERATION["model"],
    "input": sent(
        "A string, strings, token ids, lists of token ids; at most 2,048, none empty. Ollama: text."),
    "encoding_format": ours("`float`, or `base64` of little-endian float32."),
    "dimensions": needs(F.DIMENSIONS,
        "The first ones, scaled to length 1 again; more than the model has is 400. Of a provider: its own."),
    "user": needs(F.USER, "The caller's own name for its user, for a provider's bookkeeping."),
    "pooling": needs(F.POOLING,
        f"{EXTENSION} `mean`, `last`, `cls`. Default: an embedding model's own; others: `mean`.",
        equals("mean")),
    "normalize": needs(F.UNSCALED_VECTORS,
        f"{EXTENSION} Default: true, unless a folder's `modules.json` does not scale.", equals(True)),
    "prompt_name": needs(F.EMBEDDING_PROMPT,
        f"{EXTENSION} A prompt in `config_sentence_transformers.json`, put before each text."),
    "truncate_prompt_tokens": needs(F.INPUT_TRUNCATION,
        f"{EXTENSION} Keeps this many tokens of each input, the last ones; -1: what fits. Ollama: -1 only."),
    "timeout": GENERATION["timeout"],
    "add_special_tokens": refused("", equals(True)),
    "input_type": refused("Put the model's prefix into the text.", NOTHING),
}  # fmt: skip
RERANK: Table = {
    "model": ours("An id from `/v1/models`; an unknown one is 404. How it scores: docs/embeddings.md."),
    "query": sent("A text, not empty."),
    "documents": sent("Texts, or objects with `text`; at most 1,024, none empty."),
    "documents.text": sent("The document's text."),
    "top_n": ours("How many results there are at most, the best first. Default: all."),
    "return_documents": ours("Whether the results have the documents' texts. Default true."),
    "instruction": needs(F.INSTRUCTION,
        f"{EXTENSION} What makes a document relevant, in a sentence. An embedding model reads none."),
    "user": EMBEDDINGS["user"],
    "truncate_prompt_tokens": needs(F.INPUT_TRUNCATION,
        f"{EXTENSION} Keeps this many tokens of each document, the last ones; -1: what fits."),
    "timeout": GENERATION["timeout"],
    "max_tokens_per_doc": refused("Use `truncate_prompt_tokens`.", NOTHING),
    "max_chunks_per_doc": refused("Divide the documents.", NOTHING),
    "rank_fields": refused("Put the fields into `text`.", NOTHING),
}  # fmt: skip
TOKENS: Table = {}  # of /tokenize and /detokenize, which are ours alone
TABLES = {"chat/completions": CHAT, "completions": COMPLETIONS, "embeddings": EMBEDDINGS, "rerank": RERANK}
