"""The features of our own engine, in a file of their own because the engine imports heavy libraries."""

from __future__ import annotations

from headrace.features import OPENAI_AND_VLLM, Feature

FEATURES = OPENAI_AND_VLLM | {
    Feature.CHOICE, Feature.EMBEDDING_PROMPT, Feature.GRAMMAR, Feature.INSTRUCTION,
    Feature.LOOP_DETECTION, Feature.POOLING, Feature.PREDICTION, Feature.PRIORITY, Feature.PROBES,
    Feature.PROMPT_CACHE, Feature.REGEX, Feature.RERANK, Feature.SCHEMA_NARROWING, Feature.SERVICE_TIER,
    Feature.SPECIAL_TOKENS_IN_PROMPT, Feature.STEERING, Feature.UNSCALED_VECTORS,
}  # fmt: skip
