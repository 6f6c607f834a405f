"""Members of a request that are wishes: a target that refuses one by name is asked again without it, and the
caller is told that it was ignored.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from headrace.errors import BadRequest, ProviderRefused, ServerError
from headrace.gateway.routing import Target
from headrace.types import Conversation, GenerateRequest

MEMORY_S = 300.0  # how long a target is not asked again what it has refused
MAX_REMEMBERED = 1000  # refusals
REASONING = "messages.reasoning_content"
# what targets call them → what they are called in chat completions
PARAMS = {
    "reasoning_effort": "reasoning_effort",
    "reasoning.effort": "reasoning_effort",
    "reasoning": "reasoning_effort",
    "thinking": "reasoning_effort",
    "think": "reasoning_effort",
    "verbosity": "verbosity",
    "text.verbosity": "verbosity",
}

T = TypeVar("T")


class Wishes:
    """`now`: seconds, monotonic."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._refused: dict[tuple[str, str, str], float] = {}  # (backend, model, member) → when

    async def ask(
        self, target: Target, request: GenerateRequest, ask: Callable[[GenerateRequest], Awaitable[T]]
    ) -> tuple[T, tuple[str, ...]]:
        """What `ask` gives, and the wishes that were left out for it. Raises ServerError."""
        left_out: list[str] = []
        for name in wishes_of(request):
            if self._was_refused(target, name):
                request = _without(request, name)
                left_out.append(name)
        while True:
            try:
                return await ask(request), tuple(left_out)
            except (BadRequest, ProviderRefused) as exc:
                refused = _wish(request, exc)
                if refused is None:
                    raise
                self._remember(target, refused)
                request = _without(request, refused)
                left_out.append(refused)

    def _was_refused(self, target: Target, name: str) -> bool:
        at = self._refused.get((target.backend.name, target.info.id, name))
        return at is not None and self._now() - at < MEMORY_S

    def _remember(self, target: Target, name: str) -> None:
        if len(self._refused) >= MAX_REMEMBERED:
            self._refused.clear()
        self._refused[target.backend.name, target.info.id, name] = self._now()


def wishes_of(request: GenerateRequest) -> tuple[str, ...]:
    """The members that the request has and that may be left out."""
    prompt = request.prompt
    if not isinstance(prompt, Conversation):
        return ()
    given = {
        "reasoning_effort": prompt.reasoning_effort is not None,
        "verbosity": prompt.verbosity is not None,
        REASONING: any(message.reasoning is not None for message in prompt.messages),
    }
    return tuple(name for name in prompt.wishes if given.get(name))


def _wish(request: GenerateRequest, error: ServerError) -> str | None:
    """The wish that an error finds fault with."""
    param = (error.param or "").removeprefix("body.")
    name = REASONING if param.startswith("messages") and "reasoning" in param else PARAMS.get(param)
    return name if name in wishes_of(request) else None


def _without(request: GenerateRequest, name: str) -> GenerateRequest:
    prompt = request.prompt
    assert isinstance(prompt, Conversation)
    if name == "verbosity":
        return replace(request, prompt=replace(prompt, verbosity=None))
    if name == REASONING:
        messages = tuple(replace(message, reasoning=None) for message in prompt.messages)
        return replace(request, prompt=replace(prompt, messages=messages))
    return replace(request, prompt=replace(prompt, reasoning_effort=None, thinking_budget=None))
