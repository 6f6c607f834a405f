"""The affinity of a request: a digest that is the same for requests which begin alike, so that they go to the
replica that has their beginning in its prefix cache.

It is `prompt_cache_key` where the caller sends one, else the first system message and the first message of
the user; of a completion, how its prompt begins. The model and how it is steered are always part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from headrace.dialects.values import an_object, objects, word
from headrace.relay_types import RelayRequest
from headrace.types import Conversation, EmbedRequest, GenerateRequest

LONGEST = 4096  # characters of each text that count
KEY = "prompt_cache_key"
SYSTEM = ("system", "developer")
STEERED = ("steering", "profile")  # members of a body


def of_generation(request: GenerateRequest) -> bytes:
    steering = "" if request.steering is None else repr(request.steering)
    if key := request.advice.get(KEY):
        return digest(request.model, steering, str(key))
    prompt = request.prompt
    if isinstance(prompt, Conversation):
        first = _firsts((message.role, message.text) for message in prompt.messages)
    else:
        first = ("", str(prompt.prompts[0][:LONGEST]) if prompt.prompts else "")
    return digest(request.model, steering, *first)


def of_relayed(request: RelayRequest, model: str) -> bytes:
    members = request.body.members
    steered = [members[name] for name in STEERED if name in members]
    steering = repr(steered) if steered else ""
    if key := word(members.get(KEY)):
        return digest(model, steering, key)
    if request.endpoint == "/chat/completions":
        messages = objects(members.get("messages"))
        first = _firsts((word(message.get("role")) or "", _text(message)) for message in messages)
    else:
        first = ("", _beginning(members.get("prompt", members.get("input"))))
    return digest(model, steering, *first)


def of_texts(request: EmbedRequest) -> bytes:
    """Spread requests for embeddings over the replicas: they gain nothing from a cache."""
    return digest(request.model, "", str(request.inputs[0][:LONGEST]) if request.inputs else "")


def _firsts(messages: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """The first system message, and the first one of the user."""
    system = user = None
    for role, text in messages:
        if role in SYSTEM and system is None and user is None:
            system = text
        elif role == "user" and user is None:
            user = text
            break
    return system or "", user or ""


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(word(part.get("text")) or repr(an_object(part))[:LONGEST] for part in objects(content))


def _beginning(prompt: object) -> str:
    """How a prompt begins, which is a text, token ids, or a list of either."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    return str(prompt[:LONGEST]) if isinstance(prompt, str | list) else ""


def digest(*parts: str) -> bytes:
    text = "\0".join(part[:LONGEST] for part in parts)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
