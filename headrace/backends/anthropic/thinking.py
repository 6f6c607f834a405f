"""Translates OpenAI's reasoning_effort into Anthropic's `thinking`, depending on the model's abilities.

reasoning_effort | adaptive models | older ones, which think within a budget none | thinking disabled |
thinking disabled minimal | effort low | 1024 tokens low | effort low | 2048 medium | effort medium | 8192
high | effort high | 16384 xhigh | effort xhigh | 24576 max | effort max | 32768

An effort that the model does not support becomes the next lower one. A budget is part of max_tokens; it is at
most half of them, but never under 1024, Anthropic's minimum. Without reasoning_effort nothing is sent, and
the model's own default applies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.dialects.anthropic import BUDGETS, EFFORTS, MIN_BUDGET
from headrace.errors import BadRequest, UnsupportedParameter

PARAM = "reasoning_effort"

# models that accept temperature together with top_p: those before Claude Opus 4.1 and Sonnet 4.5
BOTH = re.compile(r"claude-(?:[23]|instant)|(?:opus|sonnet)-4(?:-0\b|-2025|[@:]|$)")

# models before Claude 4.6, by the names that Anthropic and its resellers use; exactly the later ones are
# adaptive
BUDGETED = re.compile(
    r"claude-(?:[23]|instant|4-)|(?:opus|sonnet|haiku)-4(?:[-.][0-5])?(?![0-9]|[-.][0-9](?![0-9]))"
)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What one model supports, from GET /v1/models or guessed from its name."""

    is_adaptive: bool
    thinks: bool = True
    efforts: tuple[str, ...] = EFFORTS
    max_tokens: int | None = None  # the upper limit of max_tokens; None: unknown
    takes_one: bool = True  # only one of temperature and top_p is accepted


def of_name(id: str) -> Abilities:
    """Guess the abilities of a model from its name."""
    return Abilities(is_adaptive=not BUDGETED.search(id), takes_one=not BOTH.search(id))


def of_listed(id: str, listed: Mapping[str, Any]) -> Abilities:
    """Read abilities from an entry of GET /v1/models; those that are missing are guessed from the name."""
    guessed, limit = of_name(id), listed.get("max_tokens")
    adaptive = _is_supported(listed, "thinking", "types", "adaptive")
    efforts = tuple(effort for effort in EFFORTS if _is_supported(listed, "effort", effort))
    return Abilities(
        is_adaptive=guessed.is_adaptive if adaptive is None else adaptive,
        thinks=_is_supported(listed, "thinking") is not False,
        efforts=efforts or guessed.efforts,
        max_tokens=limit if isinstance(limit, int) and limit > 0 else None,
        takes_one=guessed.takes_one,
    )


def _is_supported(listed: Mapping[str, Any], *path: str) -> bool | None:
    """Whether a capability is supported; None: unknown."""
    members: Any = listed.get("capabilities")
    for name in path:
        members = members.get(name) if isinstance(members, dict) else None
    supported = members.get("supported") if isinstance(members, dict) else None
    return supported if isinstance(supported, bool) else None


def thinking(
    effort: str | None, max_tokens: int, abilities: Abilities, budget: int | None = None
) -> dict[str, Any]:
    """Write the members `thinking` and `output_config` of a request. `budget`: the caller's budget in tokens,
    used by models with budgets. Raises BadRequest.
    """
    if effort is None:
        return {}
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    if not abilities.thinks:
        raise UnsupportedParameter("this model does not think", param=PARAM)
    if not abilities.is_adaptive:
        budget = _budget(effort, max_tokens) if budget is None else fitted_budget(budget, max_tokens)
        return {"thinking": {"type": "enabled", "budget_tokens": budget}}
    # without `display`, newer models do not return their thoughts
    adaptive = {"type": "adaptive", "display": "summarized"}
    return {"thinking": adaptive, "output_config": {"effort": _effort(effort, abilities.efforts)}}


def _effort(effort: str, known: tuple[str, ...]) -> str:
    wanted = EFFORTS.index("low" if effort == "minimal" else effort)
    lower = [name for name in known if EFFORTS.index(name) <= wanted]
    return lower[-1] if lower else known[0]


def fitted_budget(budget: int, max_tokens: int) -> int:
    """Clamp a budget to Anthropic's limits: at least MIN_BUDGET, less than max_tokens. Raises BadRequest."""
    if max_tokens <= MIN_BUDGET:
        raise BadRequest(
            f"{PARAM} needs more than {MIN_BUDGET} tokens, and max_tokens is {max_tokens}", param=PARAM
        )
    return min(max(budget, MIN_BUDGET), max_tokens - 1)


def _budget(effort: str, max_tokens: int) -> int:
    budget = max(MIN_BUDGET, min(BUDGETS[effort], max_tokens // 2))
    if budget >= max_tokens:
        raise BadRequest(
            f"{PARAM} {effort} needs more than {MIN_BUDGET} tokens, and max_tokens is {max_tokens}",
            param=PARAM,
        )
    return budget
