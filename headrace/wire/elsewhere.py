"""Members that other servers know and that would change an answer: llama.cpp's, vLLM's, SGLang's, TGI's,
Ollama's, text-generation-webui's, KoboldCpp's and those of transformers' `GenerationConfig`.

Clients of these servers send them to Headrace, too. A member with the meaning of one of ours is read as that
one (`ALIASES`). All others (`ELSEWHERE`) are refused by every backend that does not know them, unless their
value switches them off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from headrace.features import Feature

Neutral = Callable[[Any], bool]
OTHER, ADVANCED = Feature.OTHER_SAMPLING, Feature.ADVANCED_SAMPLING


def equals(*values: object) -> Neutral:
    return lambda value: any(
        value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in values
    )


NOTHING = equals()
EMPTY = equals({}, [], "")
OFF = equals(False)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def at_most(limit: float) -> Neutral:
    return lambda value: _is_number(value) and value <= limit


def _has_no_format(value: object) -> bool:
    """Whether an object that may prescribe a form in its member `format` does not."""
    return isinstance(value, dict) and value.get("format") in (None, {"type": "text"})


@dataclass(frozen=True, slots=True)
class Foreign:
    """A member that another server's API has. `is_off` returns whether a value changes nothing. `master`: the
    member without which it changes nothing. It is sent to the backends that carry `feature`.
    """

    is_off: Neutral
    note: str = ""
    master: str | None = None
    feature: Feature = OTHER


# our name of a member → the names of other servers, all of one type
ALIASES: Mapping[str, tuple[str, ...]] = {
    "repetition_penalty": ("repeat_penalty",),
    "max_tokens": ("max_new_tokens", "n_predict", "num_predict"),
    "min_tokens": ("min_new_tokens",),
    "stop": ("stop_sequences", "stop_strings"),
    "ignore_eos": ("ban_eos_token",),
    "seed": ("random_seed", "sampling_seed"),
    "truncate_prompt_tokens": ("truncate",),
    "guided_json": ("json_schema",),
    "guided_regex": ("regex",),
    "guided_grammar": ("ebnf", "grammar", "grammar_string"),
}

_FORM = "Use the member of this dialect that prescribes a form."
_LESS_OF_IT = "Use `temperature`, `top_p`, `top_k` or `min_p`."


def _masters(names: str, off: Neutral, note: str = "", *, feature: Feature = OTHER) -> dict[str, Foreign]:
    return {name: Foreign(off, note, feature=feature) for name in names.split()}


def _of(master: str, names: str, *, feature: Feature = OTHER) -> dict[str, Foreign]:
    """Members that modify a master, and have no effect without it."""
    note = f"Says how `{master}` works."
    return {name: Foreign(NOTHING, note, master, feature) for name in names.split()}


ELSEWHERE: Mapping[str, Foreign] = {
    # the choice of tokens
    **_masters("typical_p typical", equals(1), _LESS_OF_IT, feature=Feature.TYPICAL_P),
    **_masters("tfs_z tfs", equals(1), _LESS_OF_IT),
    **_masters("top_n_sigma nsigma", at_most(0), _LESS_OF_IT, feature=ADVANCED),
    **_masters("top_a epsilon_cutoff eta_cutoff skew", equals(0), _LESS_OF_IT),
    "top_h": Foreign(NOTHING, _LESS_OF_IT),
    "xtc_probability": Foreign(equals(0), _LESS_OF_IT, feature=ADVANCED),
    **_of("xtc_probability", "xtc_threshold", feature=ADVANCED),
    "min_keep": Foreign(equals(0, 1), feature=ADVANCED),
    "mirostat": Foreign(equals(0), feature=ADVANCED),
    **_of("mirostat", "mirostat_tau mirostat_eta", feature=ADVANCED),
    "mirostat_mode": Foreign(equals(0)),
    "adaptive_target": Foreign(lambda value: _is_number(value) and value < 0, feature=ADVANCED),
    **_of("adaptive_target", "adaptive_decay", feature=ADVANCED),
    **_masters("samplers sampler_order sampler_priority sampler_seq", EMPTY, feature=ADVANCED),
    "temperature_last": Foreign(OFF),
    "do_sample": Foreign(equals(True), "Use `temperature: 0`."),
    # the temperature
    "dynatemp_range": Foreign(equals(0), feature=ADVANCED),
    **_of("dynatemp_range", "dynatemp_exponent", feature=ADVANCED),
    "dynamic_temperature": Foreign(OFF),
    **_of("dynamic_temperature", "dynatemp_low dynatemp_high min_temp max_temp"),
    "smoothing_factor": Foreign(equals(0)),
    **_of("smoothing_factor", "smoothing_curve"),
    "exponential_decay_length_penalty": Foreign(NOTHING),
    # repetition
    "dry_multiplier": Foreign(equals(0), "Use `repetition_penalty`.", feature=ADVANCED),
    **_of(
        "dry_multiplier",
        "dry_base dry_allowed_length dry_penalty_last_n dry_range dry_sequence_breakers",
        feature=ADVANCED,
    ),
    "repeat_last_n": Foreign(
        equals(-1),
        "How many of the last tokens `repetition_penalty` looks at. -1: all; 0: none.",
        "repetition_penalty",
        Feature.REPETITION_WINDOW,
    ),
    **{
        name: Foreign(equals(0, -1), "Ours looks at all tokens.", "repetition_penalty")
        for name in ("repetition_penalty_range", "repetition_context_size", "penalty_range")
    },
    **_masters("no_repeat_ngram_size encoder_no_repeat_ngram_size", equals(0), "Use `repetition_penalty`."),
    "encoder_repetition_penalty": Foreign(equals(1)),
    "penalty_alpha": Foreign(equals(0)),
    **{
        name: Foreign(equals(True), "Ours penalizes line ends, too.", "repetition_penalty")
        for name in ("penalize_nl", "penalize_newline")
    },
    "repetition_detection": Foreign(NOTHING, "Use `detect_loops`."),
    # prescribed and forbidden text
    **_masters(
        "banned_strings banned_tokens custom_token_bans suppress_tokens begin_suppress_tokens bad_words_ids "
        "sequence_bias force_words_ids constraints",
        EMPTY,
        "Use `logit_bias`.",
    ),
    **_masters("forced_bos_token_id forced_eos_token_id", NOTHING),
    **_masters("logits_processors custom_logit_processor", EMPTY),
    "custom_params": Foreign(EMPTY, "", "custom_logit_processor"),
    "structural_tag": Foreign(NOTHING, "Use tools."),
    **_masters("format output_format", EMPTY, _FORM),
    **_masters("text output_config", _has_no_format, _FORM),
    "grammar_triggers": Foreign(EMPTY),
    "guided_whitespace_pattern": Foreign(NOTHING),
    "stop_regex": Foreign(EMPTY, "Use `stop`."),
    **_masters("grammar_lazy no_stop_trim", OFF),
    "n_indent": Foreign(equals(0)),
    # searches, and other models
    **_masters("num_beams num_beam_groups guidance_scale cfg_scale", equals(1)),
    "diversity_penalty": Foreign(equals(0), "", "num_beam_groups"),
    "early_stopping": Foreign(OFF, "", "num_beams"),
    **_masters("num_return_sequences n_cmpl", equals(1), "Use `n`."),
    "negative_prompt": Foreign(EMPTY, "", "guidance_scale"),
    **_masters("watermark token_healing renormalize_logits", OFF),
    "watermarking_config": Foreign(NOTHING),
    **_masters("lora lora_path adapter_id", EMPTY, "Name the model in `model`."),
    "preset": Foreign(equals("", "None"), "Name each member."),
    "generation_config": Foreign(EMPTY, "Name each member."),
    "options": Foreign(EMPTY, "Write its members beside `model`."),
    "vllm_xargs": Foreign(EMPTY),
    # length and time
    "max_length": Foreign(NOTHING, "Use `max_tokens`."),
    "min_length": Foreign(equals(0), "Use `min_tokens`."),
    **_masters("max_time t_max_predict_ms", at_most(0), "Use `timeout`."),
    **_masters("thinking_token_budget thinking_budget", NOTHING, "Use `reasoning_effort`."),
    **_masters("think thinking reasoning include_reasoning", EMPTY, "Use `reasoning_effort`."),
    # the prompt
    **_masters("documents context", EMPTY, "Put it into the messages."),
    **_masters(
        "template instruction_template instruction_template_str chat_template_str",
        EMPTY,
        "The model's own is used.",
    ),
    "add_bos_token": Foreign(equals(True), "The model's own way is kept."),
    "session_params": Foreign(EMPTY),
    # the contents of the answer
    **_masters("n_probs top_n_tokens", equals(0), "Use `logprobs`."),
    "prompt_logprobs": Foreign(NOTHING, "Use `echo` and `logprobs` of completions."),
    "return_full_text": Foreign(OFF, "Use `echo` of completions."),
    **_masters(
        "post_sampling_probs decoder_input_details return_tokens return_token_ids return_tokens_as_token_ids "
        "return_hidden_states",
        OFF,
    ),
    "response_fields": Foreign(EMPTY),
    "spaces_between_special_tokens": Foreign(equals(True), "", "skip_special_tokens"),
}


# members of OpenAI's dialect about caching, price and speed
ADVICE = (
    "moderation", "prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "safety_identifier", "service_tier",
)  # fmt: skip


def without_master(name: str) -> Callable[[BaseModel], bool]:
    """A function that returns whether a body lacks the master of this member, or has it switched off."""
    master = ELSEWHERE[name].master

    def is_idle(body: BaseModel) -> bool:
        if master is None:
            return False
        if master == "skip_special_tokens":
            return getattr(body, master, None) is not False
        if master == "repetition_penalty":
            return all(_value_of(body, alias) in (None, 1) for alias in (master, *ALIASES[master]))
        value = _value_of(body, master)
        return value is None or ELSEWHERE[master].is_off(value)

    return is_idle


def _value_of(body: BaseModel, name: str) -> Any:
    return (
        getattr(body, name, None) if name in type(body).model_fields else (body.model_extra or {}).get(name)
    )
