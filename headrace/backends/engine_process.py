"""The backend of an engine process. Each request names the caller for whom it is sent, so that the process
shares its time between callers, and shares cached prompts only where that is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from headrace.backends.openai.body import Body, chat_body
from headrace.backends.vllm import FEATURES as VLLM
from headrace.backends.vllm import VLLMBackend
from headrace.backends.writing import Writing, opaque
from headrace.callers import CALLER
from headrace.config import ProviderConfig
from headrace.dialects.values import an_object, word
from headrace.errors import ProviderError
from headrace.features import Feature
from headrace.relay_types import Relayed, RelayRequest
from headrace.types import Conversation, GenerateRequest, TokenizeRequest, TokenizerInfo

FEATURES = VLLM | {Feature.LOOP_DETECTION, Feature.SCHEMA_NARROWING, Feature.SERVICE_TIER}


class OwnBackend(VLLMBackend):
    """`secret`: what the process knows us by."""

    features = FEATURES
    by_us = FEATURES

    def __init__(self, name: str, secret: str, *, timeout_s: float) -> None:
        # the address is known when the process is ready
        config = ProviderConfig(kind="openai", base_url="http://127.0.0.1:1/v1", timeout_s=timeout_s)
        super().__init__(name, config, secret)
        self._secret = secret

    def headers_of(self, request: GenerateRequest) -> Mapping[str, str]:
        return self._headers(request.owner)

    def relay(
        self, request: RelayRequest, model: str, *, until_content: bool = False
    ) -> AbstractAsyncContextManager[Relayed]:
        headers = {**request.headers, **self._headers(request.owner)}
        return super().relay(replace(request, headers=headers), model, until_content=until_content)

    def _headers(self, owner: str | None) -> dict[str, str]:
        caller = CALLER.get()
        parts = (
            self._secret,
            opaque(owner or caller.id),
            opaque(caller.flow),
            "1" if caller.may_hurry else "0",
        )
        return {"Authorization": f"Bearer {'.'.join(parts)}"}

    def write(self, request: GenerateRequest, writing: Writing | None = None) -> tuple[str, Body]:
        path, body = super().write(request, writing)
        optional = {
            "detect_loops": request.sampling.detect_loops,
            "schema_narrowing": None if request.narrowings is None else sorted(request.narrowings),
        }
        return path, {**body, **{name: value for name, value in optional.items() if value is not None}}

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        body: Body = {"model": request.model, "add_special_tokens": request.add_special_tokens}
        prompt = request.prompt
        if isinstance(prompt, Conversation):
            written = chat_body(GenerateRequest(request.model, prompt), prompt, limit="max_tokens")
            names = (
                "messages", "tools", "chat_template_kwargs", "add_generation_prompt",
                "continue_final_message",
            )  # fmt: skip
            body |= {name: written[name] for name in names if name in written}
        else:
            body["prompt"] = prompt
        tokens: list[int] = self._member(await self.upstream.json("POST", "/tokenize", body), "tokens")
        return tokens

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        body = {"model": model, "tokens": tokens}
        return str(self._member(await self.upstream.json("POST", "/detokenize", body), "prompt"))

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        members = an_object(await self.upstream.json("GET", "/tokenizer_info"))
        bos, eos, pad, template = (
            word(members.get(name)) for name in ("bos_token", "eos_token", "pad_token", "chat_template")
        )
        return TokenizerInfo(bos, eos, pad, template, int(self._member(members, "vocab_size")))

    def _member(self, members: object, name: str) -> Any:
        value = an_object(members).get(name)
        if value is None:
            raise ProviderError(f"{self.name} answered without {name!r}")
        return value
