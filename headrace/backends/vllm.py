"""OpenAI's dialect with vLLM's and SGLang's members for what OpenAI does not have: regular expressions,
choices, grammars, priorities.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace.backends.openai import OpenAIBackend
from headrace.backends.openai.backend import FEATURES as OPENAI
from headrace.backends.openai.body import Body
from headrace.backends.writing import Writing
from headrace.config import ProviderConfig
from headrace.features import Feature
from headrace.types import GenerateRequest

OWN = ("regex", "choice", "grammar")  # forms that OpenAI's dialect does not have
# what vLLM would ignore without a word
UNKNOWN = {
    Feature.ADVANCED_SAMPLING, Feature.IMAGE_DETAIL, Feature.OTHER_SAMPLING, Feature.PREDICTION,
    Feature.REPETITION_WINDOW, Feature.SCHEMA_DESCRIPTION, Feature.SERVICE_TIER, Feature.TYPICAL_P,
    Feature.VERBOSITY,
}  # fmt: skip
FEATURES = (OPENAI - UNKNOWN) | {
    Feature.CHOICE, Feature.GRAMMAR, Feature.PRIORITY, Feature.PROMPT_CACHE, Feature.REGEX,
}  # fmt: skip


class VLLMBackend(OpenAIBackend):
    """A server of vLLM's. `module`: what `python -m` runs, where we start it."""

    features = FEATURES
    by_us = frozenset({Feature.PROMPT_CACHE})
    knows_verbosity = False
    url = "http://127.0.0.1:8000/v1"
    module = "vllm.entrypoints.openai.api_server"

    def __init__(self, name: str, config: ProviderConfig, key: str | None) -> None:
        super().__init__(name, config, key)
        self._has_all_roles = True  # the model's chat template decides

    def write(self, request: GenerateRequest, writing: Writing | None = None) -> tuple[str, Body]:
        form = request.format if request.format is not None and request.format.kind in OWN else None
        path, body = super().write(request if form is None else replace(request, format=None), writing)
        if form is not None:
            body |= self.form(form.kind, form.value)
        if request.priority:
            body["priority"] = request.priority
        return path, body

    def form(self, kind: str, value: Any) -> Body:
        """The members that require a form that OpenAI's dialect does not have."""
        return {"structured_outputs": {kind: value}}


class SGLangBackend(VLLMBackend):
    """A server of SGLang's, whose grammars are of another kind than ours."""

    features = FEATURES - {Feature.CHOICE, Feature.GRAMMAR}
    url = "http://127.0.0.1:30000/v1"
    module = "sglang.launch_server"

    def form(self, kind: str, value: Any) -> Body:
        return {kind: value}
