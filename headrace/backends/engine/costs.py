"""Estimates of the work that a request causes, in headrace.offload's unit (bytes of text): work of more than
a few milliseconds is moved to a thread.
"""

from __future__ import annotations

from headrace.encoder_types import RerankRequest
from headrace.offload import SMALL
from headrace.types import Conversation, GenerateRequest, Texts

CHARACTER, TOKEN, MESSAGE = 16, 16, 2048  # of each character, token id, message, and edit of a layer
COMPILED = SMALL + 1  # of grammars, and of templates with variables of the caller: always in a thread


def of_request(request: GenerateRequest) -> int:
    prompt, sampling = request.prompt, request.sampling
    num_entries = len(sampling.logit_bias) + len(sampling.stop_token_ids) + sum(map(len, sampling.stop))
    if request.format is not None:
        return COMPILED
    ops = () if request.steering is None else request.steering.ops
    rest = num_entries * TOKEN + sum(len(op.layers or (0,)) for op in ops) * MESSAGE
    if isinstance(prompt, Texts):
        return of_texts(*prompt.prompts, prompt.suffix or "") + rest
    return of_conversation(prompt) + len(request.prediction) * CHARACTER + rest


def of_conversation(conversation: Conversation) -> int:
    if conversation.tools or conversation.template_kwargs:
        return COMPILED
    messages = conversation.messages
    texts = ((one.text, one.reasoning, one.name, one.tool_call_id) for one in messages)
    calls = [(call.id, call.name, call.arguments) for one in messages for call in one.tool_calls]
    size = sum(len(text or "") for group in (*texts, *calls) for text in group)
    return size * CHARACTER + (len(messages) + len(calls)) * MESSAGE


def of_ranking(request: RerankRequest) -> int:
    """An estimate of the bytes that the prompts of a reranking take: each repeats query and instruction."""
    repeated = len(request.query) + len(request.instruction or "")
    documents = request.documents
    return (sum(map(len, documents)) + len(documents) * repeated) * CHARACTER + len(documents) * MESSAGE


def of_texts(*texts: str | tuple[int, ...]) -> int:
    return sum(map(len, texts)) * CHARACTER + len(texts) * TOKEN
