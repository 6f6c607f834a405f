"""What work on a request costs, in the bytes that headrace.offload counts: what takes more than a few
milliseconds goes to a thread.
"""

from __future__ import annotations

from headrace.offload import SMALL
from headrace.types import Conversation, GenerateRequest, Texts

CHARACTER, TOKEN, MESSAGE = 16, 16, 2048
COMPILED = SMALL + 1  # a grammar, and a template's unknown variables: always in a thread


def of_request(request: GenerateRequest) -> int:
    prompt, sampling = request.prompt, request.sampling
    listed = len(sampling.logit_bias) + len(sampling.stop_token_ids) + sum(map(len, sampling.stop))
    if request.format is not None:
        return COMPILED
    if isinstance(prompt, Texts):
        return of_texts(*prompt.prompts, prompt.suffix or "") + listed * TOKEN
    return of_conversation(prompt) + listed * TOKEN


def of_conversation(asked: Conversation) -> int:
    if asked.tools or asked.template_kwargs:
        return COMPILED
    texts = sum(len(message.text) + len(message.reasoning or "") for message in asked.messages)
    calls = sum(len(call.arguments) for message in asked.messages for call in message.tool_calls)
    return (texts + calls) * CHARACTER + len(asked.messages) * MESSAGE


def of_texts(*texts: str | tuple[int, ...]) -> int:
    return sum(map(len, texts)) * CHARACTER + len(texts) * TOKEN
