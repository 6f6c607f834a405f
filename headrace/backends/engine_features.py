"""The features of our own engine, in a file of their own because the engine imports heavy libraries."""

from __future__ import annotations

from headrace.features import COMMON, Feature

FEATURES = COMMON | {
    Feature.CHOICE,
    Feature.CHOICES,
    Feature.CONTINUED_MESSAGE,
    Feature.DIMENSIONS,
    Feature.ECHO,
    Feature.EMBEDDINGS,
    Feature.FREQUENCY_PENALTY,
    Feature.GRAMMAR,
    Feature.IGNORE_EOS,
    Feature.INPUT_TRUNCATION,
    Feature.JSON_OBJECT,
    Feature.LOGIT_BIAS,
    Feature.LOGPROBS,
    Feature.LOOP_DETECTION,
    Feature.MIN_P,
    Feature.MIN_TOKENS,
    Feature.NO_GENERATION_PROMPT,
    Feature.POOLING,
    Feature.PRESENCE_PENALTY,
    Feature.PRIORITY,
    Feature.PROMPT_CACHE,
    Feature.PROMPT_TRUNCATION,
    Feature.REGEX,
    Feature.REPETITION_PENALTY,
    Feature.SCHEMA_NARROWING,
    Feature.SEED,
    Feature.SPEAKER_NAMES,
    Feature.SPECIAL_TOKENS_IN_PROMPT,
    Feature.SPECIAL_TOKENS_SHOWN,
    Feature.STOP_TOKEN_IDS,
    Feature.STRICT_TOOLS,
    Feature.SUFFIX,
    Feature.TEMPLATE_VARIABLES,
    Feature.TEXT_COMPLETION,
    Feature.UNSCALED_VECTORS,
    Feature.UNSIGNED_REASONING,
}
