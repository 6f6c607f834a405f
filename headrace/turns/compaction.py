"""/v1/responses/compact: the model writes a summary that replaces a conversation."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.collected import Collected, collect
from headrace.errors import ServerError
from headrace.gateway.generation import Generation
from headrace.gateway.lifetime import Until
from headrace.types import Conversation, GenerateRequest, Message, Sampling
from headrace.wire.items import Item, to_messages

PROMPT = (
    "Summarise our conversation so far, so that somebody who has only your summary can go on with it. Keep "
    "names, numbers, decisions, open questions, what was asked of you and what tools found. Write nothing "
    "but the summary."
)
LEAST, MOST = 128, 2048  # tokens of a summary; small models do not always stop by themselves


def to_request(model: str, instructions: str | None, items: Sequence[Item]) -> GenerateRequest:
    """A request for a summary of `items`. Raises BadRequest."""
    system = (Message("system", instructions),) if instructions else ()
    messages = (*system, *to_messages(items), Message("user", PROMPT))
    return GenerateRequest(model, Conversation(messages), Sampling(max_tokens=_limit(messages)))


def _limit(messages: Sequence[Message]) -> int:
    """The most tokens of a summary: about as many as the messages have (four characters a token)."""
    return min(MOST, max(LEAST, sum(len(message.text) for message in messages) // 4))


async def summary(generation: Generation) -> Collected:
    """Collect the summary and its usage. Raises ServerError if the model wrote none."""
    async with Until(generation.interrupted):
        collected = await collect(generation, 1)
    if not collected.choices or not collected.choices[0].text.strip():
        raise ServerError("the model wrote no summary")
    return collected
