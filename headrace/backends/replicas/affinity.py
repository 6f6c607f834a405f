"""Which replica a request goes to. Its affinity is a digest that is the same for requests which begin alike,
so that they go to the replica that has their beginning in its prefix cache. The digest is of
`prompt_cache_key` where the caller sends one, else of the first system message and the first message of the
user; of a completion, of how its prompt begins. The model and how it is steered are always part of it.

Replicas are chosen by rendezvous hashing with bounded load: requests of one affinity prefer the same replica,
as long as it has no more than 1.25 times its share of the requests. If it has, they move to another one,
which they prefer from then on: it has read all of the conversation, and the first one only its beginning.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headrace.backends.replicas.replica import Replica
from headrace.dialects.values import an_object, objects, word
from headrace.relay_types import RelayRequest
from headrace.types import Conversation, EmbedRequest, GenerateRequest

LONGEST = 4096  # characters of each text that count
KEY = "prompt_cache_key"
SYSTEM = ("system", "developer")
STEERED = ("steering", "profile")  # members of a body
BOUND = 1.25
MAX_MOVED = 16_384


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


class Moves:
    """Remembers where the last request of an affinity went, if the replica that it prefers by its hash was
    too busy. The affinities that were used longest ago are forgotten.
    """

    def __init__(self) -> None:
        self._moved: OrderedDict[bytes, str] = OrderedDict()

    def ordered(self, replicas: Sequence[Replica], affinity: bytes) -> list[Replica]:
        """See `ordered`."""
        return ordered(replicas, affinity, self._moved.get(affinity))

    def record(self, replicas: Sequence[Replica], affinity: bytes, replica: Replica) -> None:
        """Record which replica answers. One that was away gets its conversations back."""
        preferred = _by_weight(replicas, affinity)[0]
        self._moved.pop(affinity, None)
        if replica is not preferred and preferred.is_available:
            self._moved[affinity] = replica.name
            if len(self._moved) > MAX_MOVED:
                self._moved.popitem(last=False)


def ordered(replicas: Sequence[Replica], affinity: bytes, last: str | None = None) -> list[Replica]:
    """The replicas that get requests now, the preferred one first; each of the others follows if those before
    it fail. When one joins or leaves, only the requests that prefer it move. `last`: the name of the replica
    that comes before the one with the largest weight.
    """
    available = [replica for replica in replicas if replica.is_available]
    if len(available) < 2:
        return available
    available = _by_weight(available, affinity)
    available.sort(key=lambda replica: replica.name != last)  # stable
    num_pending = 1 + sum(replica.num_pending for replica in available)
    bound = math.ceil(BOUND * num_pending / len(available))
    fits = [replica for replica in available if replica.num_pending < bound and not replica.is_full]
    others = [replica for replica in available if replica not in fits]
    return [*fits, *sorted(others, key=lambda replica: (replica.is_full, replica.num_pending))]


def _by_weight(replicas: Sequence[Replica], affinity: bytes) -> list[Replica]:
    return sorted(replicas, key=lambda replica: _weight(affinity, replica.name), reverse=True)


def _weight(affinity: bytes, name: str) -> bytes:
    return hashlib.blake2b(name.encode() + b"\0" + affinity, digest_size=8).digest()
