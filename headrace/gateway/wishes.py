"""Optional members of a request ("wishes"): when a target refuses one by name, the request is sent again
without it, and the caller gets its name in X-Headrace-Ignored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

from headrace.errors import BadRequest, ProviderRefused, ServerError
from headrace.gateway.routing import Target
from headrace.types import Conversation, Event, GenerateRequest

MEMORY_S = 300.0  # for how long a member that a target refused is not sent to it
MAX_REMEMBERED = 1000  # refusals
REASONING = "messages.reasoning_content"
# a target's name of a member → its name in chat completions
PARAMS = {
    "reasoning_effort": "reasoning_effort",
    "reasoning.effort": "reasoning_effort",
    "reasoning": "reasoning_effort",
    "thinking": "reasoning_effort",
    "think": "reasoning_effort",
    "verbosity": "verbosity",
    "text.verbosity": "verbosity",
}


class Wishes:
    """Remembers which target refused which optional member. `now`: seconds, monotonic."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._refused: dict[tuple[str, str, str], float] = {}  # (backend, model, member) → when

    async def open(
        self, target: Target, request: GenerateRequest, exits: AsyncExitStack
    ) -> tuple[AsyncIterator[Event], tuple[str, ...]]:
        """Start a generation at the target; `exits` takes its context. Returns the events, and the names of
        the optional members that were left out. Raises ServerError.
        """
        left_out: list[str] = []
        for name in wishes_of(request):
            if self._was_refused(target, name):
                request = _without(request, name)
                left_out.append(name)
        while True:
            try:
                events = await exits.enter_async_context(target.backend.generate(request))
            except (BadRequest, ProviderRefused) as exc:
                refused = _refused_wish(request, exc)
                if refused is None:
                    raise
                self._remember(target, refused)
                request = _without(request, refused)
                left_out.append(refused)
            else:
                return events, tuple(left_out)

    def _was_refused(self, target: Target, name: str) -> bool:
        at = self._refused.get((target.backend.name, target.info.id, name))
        return at is not None and self._now() - at < MEMORY_S

    def _remember(self, target: Target, name: str) -> None:
        if len(self._refused) >= MAX_REMEMBERED:
            self._refused.clear()
        self._refused[target.backend.name, target.info.id, name] = self._now()


def wishes_of(request: GenerateRequest) -> tuple[str, ...]:
    """The optional members that the request has a value for."""
    prompt = request.prompt
    if not isinstance(prompt, Conversation) or not prompt.wishes:
        return ()
    is_set = {
        **dict.fromkeys(request.advice, True),
        "reasoning_effort": prompt.reasoning_effort is not None,
        "verbosity": prompt.verbosity is not None,
        REASONING: any(message.reasoning is not None for message in prompt.messages),
    }
    return tuple(name for name in prompt.wishes if is_set.get(name))


def _refused_wish(request: GenerateRequest, error: ServerError) -> str | None:
    """The optional member that the error's `param` names; None if it names another member, or none."""
    param = (error.param or "").removeprefix("body.")
    name = REASONING if param.startswith("messages") and "reasoning" in param else PARAMS.get(param, param)
    return name if name in wishes_of(request) else None


def _without(request: GenerateRequest, name: str) -> GenerateRequest:
    """A copy of the request without the optional member."""
    prompt = request.prompt
    assert isinstance(prompt, Conversation)
    if name in request.advice:
        rest = {member: value for member, value in request.advice.items() if member != name}
        return replace(request, advice=rest)
    if name == "verbosity":
        return replace(request, prompt=replace(prompt, verbosity=None))
    if name == REASONING:
        messages = tuple(replace(message, reasoning=None) for message in prompt.messages)
        return replace(request, prompt=replace(prompt, messages=messages))
    return replace(request, prompt=replace(prompt, reasoning_effort=None, thinking_budget=None))
